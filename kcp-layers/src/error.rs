//! What can be wrong with a configuration or a packet.

use crate::crypt::Cipher;

/// A configuration that cannot work.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Shards out of range.
    #[error("{data} data and {parity} parity shards: each at least 1, together at most 255")]
    Shape {
        /// Data shards asked for.
        data: u8,
        /// Parity shards asked for.
        parity: u8,
    },
    /// A key of a length that the cipher does not take.
    #[error("{cipher} takes a key of {wanted} bytes, not {found}")]
    KeyLength {
        /// The cipher.
        cipher: Cipher,
        /// Bytes that it takes.
        wanted: usize,
        /// Bytes that were given.
        found: usize,
    },
}

/// Why a received packet was refused. It changed nothing but a counter.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Shorter than the header and trailer of the encryption.
    #[error("packet shorter than the encryption's header")]
    Short,
    /// The checksum or the authentication tag is wrong: another key, another cipher, damage, or forgery.
    #[error("packet not sealed with our key and cipher")]
    Unsealed,
    /// A header of the error correction whose size the packet does not have.
    #[error("malformed error correction header")]
    Malformed,
}

/// A payload that no packet can carry.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[error("an out-of-band payload of {0} bytes does not fit a packet")]
pub struct PayloadTooLong(
    /// Bytes that it has.
    pub usize,
);

/// A name that no cipher has.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[error("unknown cipher")]
pub struct UnknownCipher;
