//! Counters of one session's layers.

use crate::fec::Shape;

/// A snapshot: what has been counted since the session began, and a few gauges.
#[derive(Copy, Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct LayerStats {
    /// Data shards sent.
    pub fec_data_sent: u64,
    /// Parity shards sent.
    pub fec_parity_sent: u64,
    /// Lone packets sent a second time when their group's time was over.
    pub fec_repeated: u64,
    /// Groups sent without parity: too slow for a group without a time limit, [held
    /// back](crate::Layers::hold_parity), or no loss to protect from.
    pub fec_unprotected: u64,
    /// Gauge: parity shards that a full group gets; fewer than configured where the protection adapts.
    pub fec_rows: u8,
    /// Gauge: share of packets lost on the way to the peer, as far as the adaptation knows.
    pub fec_loss: Option<f64>,
    /// Data shards received.
    pub fec_data_received: u64,
    /// Parity shards received.
    pub fec_parity_received: u64,
    /// Lost packets that parity restored.
    pub fec_recovered: u64,
    /// Parity shards that were not needed, since nothing was missing (any more).
    pub fec_useless: u64,
    /// Groups that ended with packets missing.
    pub fec_lost_groups: u64,
    /// Those packets.
    pub fec_lost: u64,
    /// Shards that had been received before.
    pub fec_duplicates: u64,
    /// Shards that came after their group's end, or after parity had restored them.
    pub fec_late: u64,
    /// Shards from far away in the sequence.
    pub fec_stray: u64,
    /// Shards whose type contradicts the shape of the peer's groups, or that contradict each other.
    pub fec_contradictions: u64,
    /// Times that the peer's shape turned out to be another one than was assumed.
    pub fec_retuned: u64,
    /// Restored packets that were none: shards were damaged, or never of one group.
    pub fec_corrupt: u64,
    /// Shards not kept, or groups given up, for lack of memory.
    pub fec_over_limit: u64,
    /// Gauge: bytes held to recover packets.
    pub fec_held: usize,
    /// Gauge: the shape of the peer's groups, once there is no doubt.
    pub fec_peer_shape: Option<Shape>,
    /// Out-of-band packets sent, reports of loss included.
    pub out_of_band_sent: u64,
    /// Out-of-band packets received, reports of loss included.
    pub out_of_band_received: u64,
    /// Packets refused: shorter than the encryption's header.
    pub short: u64,
    /// Packets refused: wrong checksum or tag. Another key or cipher, damage, forgery.
    pub unsealed: u64,
    /// Packets refused: a header of the error correction whose size the packet does not have.
    pub malformed: u64,
}
