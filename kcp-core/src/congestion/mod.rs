//! Congestion control: a trait with the hooks of upstream KCP 2.x (`IKCPOPS`), classic KCP, and none.

mod classic;
mod off;

pub use classic::Classic;
pub use off::Off;

use alloc::boxed::Box;
use core::fmt::Debug;
use core::time::Duration;

use crate::time::Timestamp;

/// What an accepted datagram acknowledged.
#[derive(Copy, Clone, Debug)]
#[non_exhaustive]
pub struct AckInfo {
    /// Segments newly covered by `una`.
    pub segments: u32,
    /// Payload bytes newly acknowledged, by `una` or by their own ACKs.
    pub bytes: usize,
    /// Segments still between `snd_una` and `snd_nxt`.
    pub in_flight: u32,
    /// Peer's receive window in segments.
    pub peer_window: u32,
    /// The latest RTT sample of this datagram.
    pub rtt: Option<Duration>,
}

/// What may be sent now.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct PacingBudget {
    /// Bytes that may leave now, segment headers included. `u64::MAX`: no pacing.
    pub bytes: u64,
    /// When more will be allowed, if `bytes` is finite.
    pub next: Option<Timestamp>,
}

impl PacingBudget {
    /// No pacing.
    pub const UNLIMITED: Self = Self { bytes: u64::MAX, next: None };
}

/// Decides how much may be in flight and how fast it may leave.
///
/// The session calls the hooks at most once per datagram or flush, never per segment in a loop. Hooks must not block.
pub trait Controller: Debug + Send + Sync {
    /// An accepted datagram acknowledged something.
    fn on_ack(&mut self, now: Timestamp, ack: &AckInfo);

    /// Segments were found lost by later ones' acknowledgements (`resend`: how many it took).
    fn on_fast_retransmit(&mut self, now: Timestamp, in_flight: u32, resend: u32);

    /// An RTO ended.
    fn on_timeout(&mut self, now: Timestamp, in_flight: u32);

    /// Time has passed: called before the budget is asked for.
    fn on_tick(&mut self, _now: Timestamp) {}

    /// So many bytes, segment headers included, have left.
    fn on_pkt_sent(&mut self, _now: Timestamp, _bytes: usize) {}

    /// The window had room for more than the application offered.
    fn on_app_limited(&mut self, _now: Timestamp) {}

    /// Segments that may be in flight; the two windows limit it further.
    fn window(&self) -> u32;

    /// Bytes that may leave now. It is asked before any state changes: a segment that does not fit is not booked as
    /// sent. (`ikcp_flush` of 2.x books it first and loses it for an RTO.)
    fn pacing_budget(&mut self, _now: Timestamp) -> PacingBudget {
        PacingBudget::UNLIMITED
    }

    /// The mtu has changed; `mss` is the payload of a full segment.
    fn on_mss(&mut self, _mss: usize) {}
}

/// A controller made for a session.
pub(crate) type BoxedController = Box<dyn Controller>;
