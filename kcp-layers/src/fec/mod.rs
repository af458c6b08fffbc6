//! Forward error correction in the format of kcp-go.

mod adapt;
mod code;
mod decoder;
mod encoder;
mod gf;
mod tuner;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use adapt::{Controller, INTERVAL, Tally};
pub(crate) use decoder::Decoder;
pub use decoder::FecLimits;
pub(crate) use encoder::Encoder;

use crate::error::ConfigError;

/// How many data shards a group has, and how many parity shards follow them.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct Shape {
    data: u8,
    parity: u8,
}

impl Shape {
    /// `data` packets are protected by `parity` more.
    ///
    /// # Errors
    /// [`ConfigError::Shape`] unless both are at least 1 and together at most 255, which is all that kcp-go can tell.
    pub const fn new(data: u8, parity: u8) -> Result<Self, ConfigError> {
        if data == 0 || parity == 0 || data.checked_add(parity).is_none() {
            return Err(ConfigError::Shape { data, parity });
        }
        Ok(Self { data, parity })
    }

    /// Data shards in a group.
    #[must_use]
    pub const fn data(self) -> u8 {
        self.data
    }

    /// Parity shards in a group.
    #[must_use]
    pub const fn parity(self) -> u8 {
        self.parity
    }

    /// Both: how many sequence numbers a group takes.
    #[must_use]
    pub const fn total(self) -> u8 {
        self.data + self.parity
    }

    /// Sequence numbers wrap here, at the end of a group.
    pub(crate) const fn paws(self) -> u32 {
        self.groups() * self.total() as u32
    }

    /// How many groups there are until sequence numbers wrap.
    pub(crate) const fn groups(self) -> u32 {
        u32::MAX / self.total() as u32
    }
}

/// How a sender protects what it sends.
///
/// ```
/// use std::time::Duration;
/// use kcp_layers::FecConfig;
/// let games = FecConfig::new(3, 1)?.flush_after(Some(Duration::from_millis(10)));
/// let like_kcp_go = FecConfig::new(10, 3)?.flush_after(None);
/// let thrifty = FecConfig::new(10, 4)?.adaptive(1);
/// # Ok::<(), kcp_layers::ConfigError>(())
/// ```
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct FecConfig {
    pub(crate) shape: Shape,
    pub(crate) flush_after: Option<Duration>,
    pub(crate) adaptive: Option<u8>,
}

impl FecConfig {
    /// After `data` packets follow `parity` more, any of which replaces any lost one. 10/3 is kcptun's default.
    ///
    /// Towards kcp-go and kcptun take the shape that the peer has. It claims to find out another one by itself; on the way it
    /// takes wrong ones for right and hands what comes of that to KCP, which may end the connection.
    ///
    /// # Errors
    /// [`ConfigError::Shape`] unless both are at least 1 and together at most 255.
    pub const fn new(data: u8, parity: u8) -> Result<Self, ConfigError> {
        match Shape::new(data, parity) {
            Ok(shape) => Ok(Self { shape, flush_after: Some(Duration::from_millis(20)), adaptive: None }),
            Err(error) => Err(error),
        }
    }

    /// How long the first packet of a group waits for the others before the group is protected as it is; default 20 ms,
    /// less than the shortest retransmission timeout.
    ///
    /// A lone packet is then sent a second time, which every peer understands. Two or more are followed by their share of
    /// the parity packets, rounded up; those end with a note of how many packets they cover, which only this
    /// implementation reads: to others they are parity of a group that never gets enough shards. Either way the next
    /// packet begins a new group.
    ///
    /// `None`, as kcp-go: such a group waits for as long as it takes, and if its last packet comes 500 ms or more after the
    /// one before, it gets no parity at all. It also saves the 8 bytes per packet that are set aside for the note.
    #[must_use]
    pub const fn flush_after(mut self, time: Option<Duration>) -> Self {
        self.flush_after = time;
        self
    }

    /// Sends as few parity packets per group as the measured loss allows, at least `at_least` (0 is possible) and at most
    /// those of the shape. Off by default: every group gets all of them.
    ///
    /// So few, that less than one group in a thousand would lose more than they restore if packets were lost
    /// independently, at one and a half times the measured rate. The positions of those that are not sent are skipped, which
    /// every peer takes for loss.
    ///
    /// The loss is what the peer reports, which it does once a second if it is adaptive too, in an out-of-band packet;
    /// otherwise what this side sees of the peer's packets, as if the path were alike both ways. Until something is
    /// known every group gets all parity packets.
    #[must_use]
    pub const fn adaptive(mut self, at_least: u8) -> Self {
        self.adaptive = Some(at_least);
        self
    }

    /// The shape of the groups.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes that a packet grows by.
    pub(crate) const fn overhead(&self) -> usize {
        DATA_HEADER + if self.flush_after.is_some() { NOTE } else { 0 }
    }
}

/// Sequence number and type.
pub(crate) const HEADER: usize = 6;
/// The same and the size, which parity covers.
pub(crate) const DATA_HEADER: usize = HEADER + 2;
/// What ends the parity packets of a group that was cut short.
pub(crate) const NOTE: usize = 8;

const TYPE_DATA: u16 = 0xF1;
const TYPE_PARITY: u16 = 0xF2;
const TYPE_OUT_OF_BAND: u16 = 0xF3;
/// The sequence number of all out-of-band packets; no shape has it.
const OUT_OF_BAND: u32 = u32::MAX;

/// A packet between KCP and encryption, as its header says.
///
/// Types lie where plain KCP has its command and fragment, and none of them is a command: plain packets are told apart
/// without a configuration.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Frame<'a> {
    /// Not of this layer: one KCP datagram, or nonsense, which KCP will refuse.
    Plain(&'a [u8]),
    /// A data shard.
    Data {
        /// Its sequence number.
        seqid: u32,
        /// The KCP datagram in it.
        datagram: &'a [u8],
        /// What parity covers: the datagram after its size.
        shard: &'a [u8],
    },
    /// A parity shard.
    Parity {
        /// Its sequence number.
        seqid: u32,
        /// Everything after the header.
        shard: &'a [u8],
    },
    /// A packet beside KCP: not ordered, not repeated, not protected.
    OutOfBand {
        /// The conversation that it belongs to.
        conv: u32,
        /// What it carries.
        payload: &'a [u8],
    },
    /// Of this layer, but too short, or of a size that it does not have.
    Malformed,
}

impl<'a> Frame<'a> {
    /// Reads the header of a packet; nothing is copied.
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Self {
        let Some((&[s0, s1, s2, s3, t0, t1], body)) = packet.split_first_chunk::<HEADER>() else {
            return Self::Plain(packet);
        };
        let seqid = u32::from_le_bytes([s0, s1, s2, s3]);
        match u16::from_le_bytes([t0, t1]) {
            TYPE_DATA => {
                let Some((shard, datagram)) = sized(body) else { return Self::Malformed };
                Self::Data { seqid, datagram, shard }
            }
            TYPE_PARITY if body.len() >= 2 => Self::Parity { seqid, shard: body },
            TYPE_PARITY => Self::Malformed,
            TYPE_OUT_OF_BAND => {
                let Some((_, message)) = sized(body) else { return Self::Malformed };
                let Some((conv, payload)) = message.split_first_chunk() else { return Self::Malformed };
                Self::OutOfBand { conv: u32::from_le_bytes(*conv), payload }
            }
            _ => Self::Plain(packet),
        }
    }

    /// The conversation that a packet belongs to, where one can tell: at offset 0 of a plain packet and 8 of the others.
    ///
    /// Parity has it because all data shards do: it is a hint of where to deliver, not a proof of where it comes from.
    #[must_use]
    pub fn conv(&self) -> Option<u32> {
        let bytes = match self {
            Self::Plain(datagram) | Self::Data { datagram, .. } => datagram.first_chunk()?,
            Self::Parity { shard, .. } => shard.get(2..)?.first_chunk()?,
            Self::OutOfBand { conv, .. } => return Some(*conv),
            Self::Malformed => return None,
        };
        Some(u32::from_le_bytes(*bytes))
    }
}

/// Splits off what a size says it covers: with itself, and without.
fn sized(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let size = u16::from_le_bytes(*body.first_chunk()?);
    let covered = body.get(..usize::from(size))?;
    Some((covered, covered.get(2..)?))
}

const fn header(seqid: u32, kind: u16) -> [u8; HEADER] {
    let ([s0, s1, s2, s3], [t0, t1]) = (seqid.to_le_bytes(), kind.to_le_bytes());
    [s0, s1, s2, s3, t0, t1]
}

/// The header of an out-of-band packet: none if its payload does not fit one.
pub(crate) fn out_of_band_header(conv: u32, payload: usize) -> Option<[u8; DATA_HEADER + 4]> {
    let size = u16::try_from(payload + 6).ok()?;
    let mut bytes = [0; DATA_HEADER + 4];
    bytes[..HEADER].copy_from_slice(&header(OUT_OF_BAND, TYPE_OUT_OF_BAND));
    bytes[HEADER..DATA_HEADER].copy_from_slice(&size.to_le_bytes());
    bytes[DATA_HEADER..].copy_from_slice(&conv.to_le_bytes());
    Some(bytes)
}

/// What ends a parity packet of a group that was cut short after `covered` data shards. The others count as empty ones that
/// carry nothing but the conversation, so that parity still has it where it always is.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
struct Note {
    covered: u8,
    shape: Shape,
}

/// Tells a note from the last bytes of an ordinary parity shard, along with the checksum.
const NOTE_MAGIC: u8 = 0xE1;

impl Note {
    fn encode(self, seqid: u32, parity: &[u8]) -> [u8; NOTE] {
        let head = [NOTE_MAGIC, self.covered, self.shape.data, self.shape.parity];
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&seqid.to_le_bytes());
        hasher.update(parity);
        hasher.update(&head);
        let mut note = [0; NOTE];
        note[..4].copy_from_slice(&head);
        note[4..].copy_from_slice(&hasher.finalize().to_le_bytes());
        note
    }

    /// Splits the note off a parity shard, if it has one.
    fn split(seqid: u32, shard: &[u8]) -> (&[u8], Option<Self>) {
        let Some((parity, note)) = shard.split_last_chunk::<NOTE>() else { return (shard, None) };
        let &[NOTE_MAGIC, covered, data, parity_count, ..] = note else { return (shard, None) };
        let Ok(shape) = Shape::new(data, parity_count) else { return (shard, None) };
        let found = Self { covered, shape };
        let plausible = (2..data).contains(&covered) && parity.len() >= 6;
        if plausible && found.encode(seqid, parity) == *note { (parity, Some(found)) } else { (shard, None) }
    }
}

#[cfg(test)]
mod frame_tests {
    use super::*;

    #[test]
    fn shapes_have_bounds() {
        assert!(Shape::new(0, 3).is_err());
        assert!(Shape::new(10, 0).is_err());
        assert!(Shape::new(128, 128).is_err());
        assert!(Shape::new(255, 1).is_err());
        assert_eq!(Shape::new(128, 127).map(Shape::total), Ok(255));
        assert_eq!(Shape::new(10, 3).map(Shape::paws), Ok(0xFFFF_FFFF / 13 * 13));
    }

    #[test]
    fn frames_by_their_headers() {
        let plain = [7, 0, 0, 0, 81, 0, 32, 0, 1, 2];
        assert_eq!(Frame::parse(&plain), Frame::Plain(&plain));
        assert_eq!(Frame::parse(&plain).conv(), Some(7));
        assert_eq!(Frame::parse(&[]), Frame::Plain(&[]));
        assert_eq!(Frame::parse(&[0xF1; 5]), Frame::Plain(&[0xF1; 5]));
        let data = [1, 0, 0, 0, 0xF1, 0, 7, 0, 9, 0, 0, 0, 81, 0xAA, 0xBB];
        assert_eq!(
            Frame::parse(&data),
            Frame::Data { seqid: 1, datagram: &[9, 0, 0, 0, 81], shard: &[7, 0, 9, 0, 0, 0, 81] },
            "nothing beyond its size"
        );
        assert_eq!(Frame::parse(&data).conv(), Some(9));
        let parity = [2, 0, 0, 0, 0xF2, 0, 3, 3, 9, 0, 0, 0];
        assert_eq!(Frame::parse(&parity), Frame::Parity { seqid: 2, shard: &[3, 3, 9, 0, 0, 0] });
        assert_eq!(Frame::parse(&parity).conv(), Some(9));
        assert_eq!(Frame::parse(&parity[..11]).conv(), None);
        let message = [255, 255, 255, 255, 0xF3, 0, 8, 0, 9, 0, 0, 0, b'h', b'i'];
        assert_eq!(Frame::parse(&message), Frame::OutOfBand { conv: 9, payload: b"hi" });
        assert_eq!(out_of_band_header(9, 2).unwrap(), message[..12]);
        assert_eq!(out_of_band_header(9, 65_529).map(|header| header[6]), Some(0xFF));
        assert!(out_of_band_header(9, 65_530).is_none());
    }

    #[test]
    fn sizes_that_are_not_there() {
        for bad in [
            &[1, 0, 0, 0, 0xF1, 0][..],
            &[1, 0, 0, 0, 0xF1, 0, 2],
            &[1, 0, 0, 0, 0xF1, 0, 0, 0],
            &[1, 0, 0, 0, 0xF1, 0, 1, 0],
            &[1, 0, 0, 0, 0xF1, 0, 3, 0],
            &[1, 0, 0, 0, 0xF1, 0, 0xFF, 0xFF, 1, 2, 3],
            &[1, 0, 0, 0, 0xF2, 0],
            &[1, 0, 0, 0, 0xF2, 0, 1],
            &[255, 255, 255, 255, 0xF3, 0, 5, 0, 9, 0, 0],
            &[255, 255, 255, 255, 0xF3, 0, 7, 0, 9, 0, 0, 0],
        ] {
            assert_eq!(Frame::parse(bad), Frame::Malformed, "{bad:?}");
            assert_eq!(Frame::parse(bad).conv(), None);
        }
        assert!(matches!(Frame::parse(&[1, 0, 0, 0, 0xF1, 0, 2, 0]), Frame::Data { datagram: &[], .. }));
    }

    #[test]
    fn notes_are_found_and_nothing_else_is_one() {
        let shape = Shape::new(10, 3).unwrap();
        let parity = [3, 4, 9, 0, 0, 0, 1];
        let note = Note { covered: 4, shape };
        let mut shard = parity.to_vec();
        shard.extend_from_slice(&note.encode(77, &parity));
        assert_eq!(Note::split(77, &shard), (&parity[..], Some(note)));
        assert_eq!(Note::split(78, &shard), (&shard[..], None), "another packet's");
        for bit in 0..shard.len() * 8 {
            let mut broken = shard.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Note::split(77, &broken), (&broken[..], None));
        }
        for covered in [0, 1, 10, 11] {
            let mut shard = parity.to_vec();
            shard.extend_from_slice(&Note { covered, shape }.encode(77, &parity));
            assert_eq!(Note::split(77, &shard).1, None, "covers {covered} of 10");
        }
    }
}
