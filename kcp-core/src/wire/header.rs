//! The 24-byte segment header as a value.

use crate::seq::Seq;

/// Length of a segment header in bytes (`IKCP_OVERHEAD`).
pub const HEADER_LEN: usize = 24;

/// What a segment is for.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
#[repr(u8)]
pub enum Command {
    /// Data (`IKCP_CMD_PUSH`).
    Push = 81,
    /// Acknowledges one data segment by its `sn` and echoes its `ts` (`IKCP_CMD_ACK`).
    Ack = 82,
    /// Asks for the peer's receive window (`IKCP_CMD_WASK`).
    Wask = 83,
    /// Tells the receive window (`IKCP_CMD_WINS`).
    Wins = 84,
}

impl Command {
    /// Whether its payload may hold control messages between two of ours.
    pub(crate) const fn carries_control(self) -> bool {
        matches!(self, Self::Wask | Self::Wins)
    }
}

impl TryFrom<u8> for Command {
    type Error = HeaderError;

    fn try_from(value: u8) -> Result<Self, HeaderError> {
        match value {
            81 => Ok(Self::Push),
            82 => Ok(Self::Ack),
            83 => Ok(Self::Wask),
            84 => Ok(Self::Wins),
            other => Err(HeaderError::UnknownCommand(other)),
        }
    }
}

/// Why bytes are not a header.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Fewer than [`HEADER_LEN`] bytes.
    #[error("fewer than 24 bytes")]
    Short,
    /// A command other than 81..=84.
    #[error("unknown command {0}")]
    UnknownCommand(u8),
}

/// A segment header; all integers are little-endian on the wire.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Header {
    /// Conversation id, equal on both ends.
    pub conv: u32,
    /// What the segment is for.
    pub cmd: Command,
    /// Fragments of the same message still to come after this one; 0 in stream mode.
    pub frg: u8,
    /// Free receive window of the sender of this segment, in segments.
    pub wnd: u16,
    /// Sender's clock in milliseconds; in an ACK the echo of the acknowledged segment's.
    pub ts: u32,
    /// Sequence number; in an ACK that of the acknowledged segment.
    pub sn: Seq,
    /// Everything before this number has arrived at the sender of this segment.
    pub una: Seq,
    /// Payload bytes that follow the header.
    pub len: u32,
}

impl Header {
    /// Reads a header from the front of `bytes`.
    ///
    /// # Errors
    /// [`HeaderError`] when there are fewer than 24 bytes or the command is unknown.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (header, _) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(HeaderError::Short)?;
        let [
            c0,
            c1,
            c2,
            c3,
            cmd,
            frg,
            w0,
            w1,
            t0,
            t1,
            t2,
            t3,
            s0,
            s1,
            s2,
            s3,
            u0,
            u1,
            u2,
            u3,
            l0,
            l1,
            l2,
            l3,
        ] = *header;
        Ok(Self {
            conv: u32::from_le_bytes([c0, c1, c2, c3]),
            cmd: Command::try_from(cmd)?,
            frg,
            wnd: u16::from_le_bytes([w0, w1]),
            ts: u32::from_le_bytes([t0, t1, t2, t3]),
            sn: Seq::new(u32::from_le_bytes([s0, s1, s2, s3])),
            una: Seq::new(u32::from_le_bytes([u0, u1, u2, u3])),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
        })
    }

    /// The header as it stands on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [c0, c1, c2, c3] = self.conv.to_le_bytes();
        let [w0, w1] = self.wnd.to_le_bytes();
        let [t0, t1, t2, t3] = self.ts.to_le_bytes();
        let [s0, s1, s2, s3] = self.sn.value().to_le_bytes();
        let [u0, u1, u2, u3] = self.una.value().to_le_bytes();
        let [l0, l1, l2, l3] = self.len.to_le_bytes();
        #[allow(clippy::as_conversions, reason = "the numbers of the enum")]
        let (cmd, frg) = (self.cmd as u8, self.frg);
        [c0, c1, c2, c3, cmd, frg, w0, w1, t0, t1, t2, t3, s0, s1, s2, s3, u0, u1, u2, u3, l0, l1, l2, l3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let header = Header {
            conv: 0x1122_3344,
            cmd: Command::Push,
            frg: 2,
            wnd: 0x0180,
            ts: 0xAABB_CCDD,
            sn: Seq::new(7),
            una: Seq::new(0xFFFF_FFFE),
            len: 5,
        };
        let golden = [
            0x44, 0x33, 0x22, 0x11, 81, 2, 0x80, 0x01, 0xDD, 0xCC, 0xBB, 0xAA, 7, 0, 0, 0, 0xFE, 0xFF, 0xFF,
            0xFF, 5, 0, 0, 0,
        ];
        assert_eq!(header.encode(), golden);
        assert_eq!(Header::decode(&golden), Ok(header));
    }

    #[test]
    fn refuses_short_and_unknown() {
        let mut bytes = [0u8; 24];
        assert_eq!(Header::decode(&bytes[..23]), Err(HeaderError::Short));
        for cmd in 0..=255u8 {
            bytes[4] = cmd;
            assert_eq!(Header::decode(&bytes).is_ok(), (81..=84).contains(&cmd), "{cmd}");
        }
    }
}
