//! The wire format: `version u8 | command u8 | length u16 | stream u32 | payload`, little-endian.

use crate::config::Version;
use crate::error::ProtocolError;

/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 8;
/// Bytes of the payload of [`Command::Update`]: consumed, window.
pub(crate) const UPDATE_LEN: usize = 8;

/// What a frame is for.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Command {
    /// A stream begins.
    Syn,
    /// A stream ends, behind its data.
    Fin,
    /// Data of a stream.
    Push,
    /// A sign of life.
    Nop,
    /// Version 2: how much was read of a stream in all, and how much more it takes.
    Update,
}

impl Command {
    /// As on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Syn => 0,
            Self::Fin => 1,
            Self::Push => 2,
            Self::Nop => 3,
            Self::Update => 4,
        }
    }
}

/// What stands before a frame's payload.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub struct Header {
    /// The version of the session.
    pub version: Version,
    /// What it is for.
    pub command: Command,
    /// Bytes of payload that follow.
    pub len: u16,
    /// The stream; 0 for [`Command::Nop`].
    pub stream: u32,
}

impl Header {
    /// The bytes.
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER_LEN] {
        let (len, stream) = (self.len.to_le_bytes(), self.stream.to_le_bytes());
        let (version, command) = (self.version.number(), self.command.number());
        [version, command, len[0], len[1], stream[0], stream[1], stream[2], stream[3]]
    }

    /// Checks a header of a session of this version.
    ///
    /// # Errors
    /// Another version, a command that it does not have, a length that the command cannot have.
    pub const fn decode(version: Version, bytes: &[u8; HEADER_LEN]) -> Result<Self, ProtocolError> {
        let [number, command, l0, l1, s0, s1, s2, s3] = *bytes;
        if number != version.number() {
            return Err(ProtocolError::Version(number));
        }
        let len = u16::from_le_bytes([l0, l1]);
        let (command, expected) = match (command, version) {
            (0, _) => (Command::Syn, 0),
            (1, _) => (Command::Fin, 0),
            (2, _) => (Command::Push, len),
            (3, _) => (Command::Nop, 0),
            (4, Version::V2) => (Command::Update, UPDATE_LEN as u16),
            _ => return Err(ProtocolError::Command(command)),
        };
        if len != expected {
            return Err(ProtocolError::Length { command: command.number(), len });
        }
        Ok(Self { version, command, len, stream: u32::from_le_bytes([s0, s1, s2, s3]) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> impl Strategy<Value = Header> {
        let command = prop_oneof![
            Just(Command::Syn),
            Just(Command::Fin),
            Just(Command::Push),
            Just(Command::Nop),
            Just(Command::Update)
        ];
        (any::<bool>(), command, any::<u16>(), any::<u32>()).prop_map(|(v1, command, len, stream)| {
            let version = if v1 && command != Command::Update { Version::V1 } else { Version::V2 };
            let len = match command {
                Command::Push => len,
                Command::Update => 8,
                _ => 0,
            };
            Header { version, command, len, stream }
        })
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes(header in header()) {
            prop_assert_eq!(Header::decode(header.version, &header.encode()), Ok(header));
        }

        /// Whatever decodes is canonical: nothing in it is ignored.
        #[test]
        fn what_decodes_encodes_to_the_same(bytes: [u8; 8], low in 0u8..6, v2: bool) {
            let mut bytes = bytes;
            bytes[1] = low;
            let version = if v2 { Version::V2 } else { Version::V1 };
            bytes[0] = bytes[0] % 2 + 1;
            if let Ok(header) = Header::decode(version, &bytes) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn bytes_are_pinned() {
        let header =
            Header { version: Version::V2, command: Command::Push, len: 0x0102, stream: 0x0a0b_0c0d };
        assert_eq!(header.encode(), [2, 2, 2, 1, 0x0d, 0x0c, 0x0b, 0x0a]);
    }

    #[test]
    fn what_is_refused() {
        use ProtocolError as E;
        let decode = |version, bytes| Header::decode(version, &bytes).unwrap_err();
        assert_eq!(decode(Version::V1, [2, 0, 0, 0, 3, 0, 0, 0]), E::Version(2));
        assert_eq!(decode(Version::V2, [1, 0, 0, 0, 3, 0, 0, 0]), E::Version(1));
        assert_eq!(decode(Version::V1, [0, 0, 0, 0, 3, 0, 0, 0]), E::Version(0));
        assert_eq!(decode(Version::V1, [1, 4, 8, 0, 3, 0, 0, 0]), E::Command(4));
        assert_eq!(decode(Version::V2, [2, 5, 0, 0, 3, 0, 0, 0]), E::Command(5));
        for command in [0, 1, 3] {
            let error = decode(Version::V1, [1, command, 1, 0, 3, 0, 0, 0]);
            assert_eq!(error, E::Length { command, len: 1 });
        }
        for len in [7, 9] {
            let error = decode(Version::V2, [2, 4, len, 0, 3, 0, 0, 0]);
            assert_eq!(error, E::Length { command: 4, len: len.into() });
        }
        assert!(Header::decode(Version::V2, &[2, 2, 255, 255, 3, 0, 0, 0]).is_ok());
    }
}
