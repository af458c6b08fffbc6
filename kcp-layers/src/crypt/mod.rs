//! Packet encryption in the formats of kcp-go, keyed as kcptun does it.

mod aead;
mod block;
mod cfb;
mod nonce;
mod stream;
mod twofish;

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aes::{Aes128, Aes192, Aes256};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use blowfish::Blowfish;
use cast5::Cast5;
use des::TdesEde3;
use sha1::Sha1;
use sm4::Sm4;

use crate::error::{ConfigError, OpenError, UnknownCipher};
use aead::Aead;
use block::{Core, Tea, Xtea};
use cfb::Cfb;
pub(crate) use nonce::Nonces;
use stream::{Clear, Salsa, Xor};
use twofish::Twofish;

/// A cipher, under the name that kcptun's option `crypt` gives it.
///
/// Two of them authenticate: [`Aes128Gcm`](Self::Aes128Gcm) and [`Aes256Gcm`](Self::Aes256Gcm). With any other a packet
/// carries a CRC-32 that whoever can change packets can correct without knowing the key, so they hide what is sent
/// (as far as the cipher is any good) and do not protect it. They are there for peers that speak nothing else.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
#[non_exhaustive]
pub enum Cipher {
    /// `aes-128-gcm`: authenticates. A random nonce of 96 bits per packet: change the key before 2^32 packets, 4 TB or so.
    Aes128Gcm,
    /// `aes-256-gcm`: the same with a longer key. Not in kcptun; kcp-go's `NewAESGCMCrypt` with 32 bytes.
    Aes256Gcm,
    /// `aes`, kcptun's default: AES-256 in CFB mode. Malleable.
    Aes256,
    /// `aes-192`. Malleable.
    Aes192,
    /// `aes-128`. Malleable.
    Aes128,
    /// `salsa20`, with a nonce of 64 bits. Any bit can be flipped.
    Salsa20,
    /// `twofish`: a cipher without known weakness, slow. Malleable.
    Twofish,
    /// `sm4`. Malleable.
    Sm4,
    /// `blowfish`: blocks of 64 bits, which leak after some GB under one key. Legacy, malleable.
    Blowfish,
    /// `cast5`: blocks of 64 bits. Legacy, malleable.
    Cast5,
    /// `3des`: blocks of 64 bits, very slow. Legacy, malleable.
    TripleDes,
    /// `tea`, with 8 of its 32 cycles: broken. Legacy, malleable.
    Tea,
    /// `xtea`: blocks of 64 bits. Legacy, malleable.
    Xtea,
    /// `xor` with a fixed pad: two packets give it away. No encryption, but packets do not look like KCP.
    Xor,
    /// `none`: a random number and a checksum before each packet, everything in clear.
    None,
    /// `null`: nothing at all.
    Null,
}

impl Cipher {
    /// Every cipher there is.
    pub const ALL: [Self; 16] = [
        Self::Aes128Gcm,
        Self::Aes256Gcm,
        Self::Aes256,
        Self::Aes192,
        Self::Aes128,
        Self::Salsa20,
        Self::Twofish,
        Self::Sm4,
        Self::Blowfish,
        Self::Cast5,
        Self::TripleDes,
        Self::Tea,
        Self::Xtea,
        Self::Xor,
        Self::None,
        Self::Null,
    ];

    /// Its name in kcptun's configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Aes256 => "aes",
            Self::Aes192 => "aes-192",
            Self::Aes128 => "aes-128",
            Self::Salsa20 => "salsa20",
            Self::Twofish => "twofish",
            Self::Sm4 => "sm4",
            Self::Blowfish => "blowfish",
            Self::Cast5 => "cast5",
            Self::TripleDes => "3des",
            Self::Tea => "tea",
            Self::Xtea => "xtea",
            Self::Xor => "xor",
            Self::None => "none",
            Self::Null => "null",
        }
    }

    /// Bytes of its key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes256Gcm | Self::Aes256 | Self::Salsa20 | Self::Twofish | Self::Blowfish | Self::Xor => 32,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes128Gcm | Self::Aes128 | Self::Sm4 | Self::Cast5 | Self::Tea | Self::Xtea => 16,
            Self::None | Self::Null => 0,
        }
    }

    /// Whether a packet that opens was sealed by somebody who has the key.
    #[must_use]
    pub const fn authenticates(self) -> bool {
        matches!(self, Self::Aes128Gcm | Self::Aes256Gcm)
    }

    /// Bytes that it puts before a packet and behind it.
    const fn room(self) -> (usize, usize) {
        match self {
            Self::Null => (0, 0),
            Self::Aes128Gcm | Self::Aes256Gcm => (aead::NONCE, aead::TAG),
            _ => (HEADER, 0),
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cipher {
    type Err = UnknownCipher;

    /// By its [name](Self::name). kcptun takes any other for `aes`; here it is an error.
    fn from_str(name: &str) -> Result<Self, UnknownCipher> {
        Self::ALL.into_iter().find(|cipher| cipher.name() == name).ok_or(UnknownCipher)
    }
}

/// The random bytes that a packet begins with, where no authentication does.
const NONCE: usize = 16;
/// Those and the checksum of what follows.
const HEADER: usize = NONCE + 4;

/// A cipher with its key: seals and opens packets, and keeps no state between them.
///
/// Cheap to clone, and shared by all sessions of a socket.
///
/// There is no protection against replay, nor against packets that are sent back to who sent them: KCP drops both as
/// duplicates or by their conversation, but a recorded beginning opens a session again. Packets of one side open on
/// the other with the same key, for it is the same key.
#[derive(Clone)]
pub struct Crypt {
    cipher: Cipher,
    method: Arc<Method>,
}

enum Method {
    Null,
    Aead(Box<dyn Authenticated>),
    Checked(Box<dyn Unauthenticated>),
}

/// Encrypts whole packets, the nonce at their beginning included.
trait Unauthenticated: Send + Sync {
    /// Packets of `stride` bytes, the last may be shorter.
    fn seal(&self, packets: &mut [u8], stride: usize);
    fn open(&self, packet: &mut [u8]);
}

trait Authenticated: Send + Sync {
    /// A packet that begins with its nonce and ends with room for the tag.
    fn seal(&self, packet: &mut [u8]);
    /// Decrypts what lies between; false if the tag is wrong.
    fn open(&self, packet: &mut [u8]) -> bool;
}

impl Crypt {
    /// With a key as it is.
    ///
    /// # Errors
    /// [`ConfigError::KeyLength`] unless it has [`Cipher::key_len`] bytes.
    pub fn new(cipher: Cipher, key: &[u8]) -> Result<Self, ConfigError> {
        if key.len() != cipher.key_len() {
            return Err(ConfigError::KeyLength { cipher, wanted: cipher.key_len(), found: key.len() });
        }
        let padded: [u8; 32] = std::array::from_fn(|i| key.get(i).copied().unwrap_or(0));
        Ok(Self { cipher, method: Arc::new(method(cipher, &padded)) })
    }

    /// With a key derived from a password as kcptun does it: PBKDF2 with HMAC-SHA1, the salt `kcp-go` and 4096 iterations,
    /// cut to what the cipher takes. Takes milliseconds; the result is to be kept.
    ///
    /// The salt is fixed and the iterations are few: a password that a dictionary has is found. 20 random characters or more
    /// are safe.
    #[must_use]
    pub fn from_password(cipher: Cipher, password: &str) -> Self {
        let mut key = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha1>(password.as_bytes(), b"kcp-go", 4096, &mut key);
        key[cipher.key_len()..].fill(0);
        Self { cipher, method: Arc::new(method(cipher, &key)) }
    }

    /// Whether this is the same key, as a clone of it is. Two that were made of the same password count as different.
    #[must_use]
    pub fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.method, &other.method)
    }

    /// The cipher.
    #[must_use]
    pub const fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Bytes that a packet grows by: 0 for `null`, 28 where packets are authenticated, 20 otherwise.
    #[must_use]
    pub const fn overhead(&self) -> usize {
        let (head, tail) = self.cipher.room();
        head + tail
    }

    pub(crate) const fn room(&self) -> (usize, usize) {
        self.cipher.room()
    }

    /// Encrypts packets back to back, each `stride` bytes long but the last, which may be shorter. Each has room for its
    /// header and trailer already.
    pub(crate) fn seal(&self, packets: &mut [u8], stride: usize, nonces: &mut Nonces) {
        match &*self.method {
            Method::Null => {}
            Method::Aead(aead) => {
                for packet in packets.chunks_mut(stride) {
                    nonces.fill(&mut packet[..aead::NONCE]);
                    aead.seal(packet);
                }
            }
            Method::Checked(method) => {
                for packet in packets.chunks_mut(stride) {
                    let (header, body) = packet.split_at_mut(HEADER);
                    nonces.fill(&mut header[..NONCE]);
                    header[NONCE..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
                }
                method.seal(packets, stride);
            }
        }
    }

    /// Decrypts a packet in place, and returns what is in it.
    ///
    /// # Errors
    /// [`OpenError::Short`] and [`OpenError::Unsealed`]; what the buffer holds then is unspecified.
    pub fn open<'a>(&self, packet: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let (head, tail) = self.room();
        let Some(inner) = packet.len().checked_sub(head + tail) else { return Err(OpenError::Short) };
        let good = match &*self.method {
            Method::Null => true,
            Method::Aead(aead) => aead.open(packet),
            Method::Checked(method) => {
                method.open(packet);
                let (header, body) = packet.split_at(HEADER);
                header[NONCE..] == crc32fast::hash(body).to_le_bytes()
            }
        };
        if good { Ok(&mut packet[head..head + inner]) } else { Err(OpenError::Unsealed) }
    }
}

impl fmt::Debug for Crypt {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crypt").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

/// `key` is padded with zeros: what a cipher does not take it does not see.
fn method(cipher: Cipher, key: &[u8; 32]) -> Method {
    let short: &[u8; 16] = key.first_chunk().expect("16 of 32");
    let medium: &[u8; 24] = key.first_chunk().expect("24 of 32");
    let checked: Box<dyn Unauthenticated> = match cipher {
        Cipher::Null => return Method::Null,
        Cipher::Aes128Gcm => return Method::Aead(Box::new(Aead::<Aes128Gcm>::new(short))),
        Cipher::Aes256Gcm => return Method::Aead(Box::new(Aead::<Aes256Gcm>::new(key))),
        Cipher::Aes256 => Box::new(Cfb(Core::<Aes256>::new(key))),
        Cipher::Aes192 => Box::new(Cfb(Core::<Aes192>::new(medium))),
        Cipher::Aes128 => Box::new(Cfb(Core::<Aes128>::new(short))),
        Cipher::Twofish => Box::new(Cfb(Twofish::new(key))),
        Cipher::Sm4 => Box::new(Cfb(Core::<Sm4>::new(short))),
        Cipher::Blowfish => Box::new(Cfb(Core::<Blowfish>::new(key))),
        Cipher::Cast5 => Box::new(Cfb(Core::<Cast5>::new(short))),
        Cipher::TripleDes => Box::new(Cfb(Core::<TdesEde3>::new(medium))),
        Cipher::Tea => Box::new(Cfb(Tea::new(short))),
        Cipher::Xtea => Box::new(Cfb(Xtea::new(short))),
        Cipher::Salsa20 => Box::new(Salsa::new(key)),
        Cipher::Xor => Box::new(Xor::new(key)),
        Cipher::None => Box::new(Clear),
    };
    Method::Checked(checked)
}
