//! The methods that are no block cipher.

use salsa20::Salsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher};
use sha1::Sha1;

use super::Unauthenticated;

/// The first 8 bytes of a packet are the nonce, and stay as they are.
pub(super) struct Salsa([u8; 32]);

impl Salsa {
    pub(super) const fn new(key: &[u8; 32]) -> Self {
        Self(*key)
    }
}

impl Unauthenticated for Salsa {
    fn seal(&self, packets: &mut [u8], stride: usize) {
        packets.chunks_mut(stride).for_each(|packet| self.open(packet));
    }

    fn open(&self, packet: &mut [u8]) {
        if let Some((nonce, rest)) = packet.split_first_chunk_mut::<8>() {
            Salsa20::new(&self.0.into(), &(*nonce).into()).apply_keystream(rest);
        }
    }
}

/// One pad for all packets, as long as kcp-go's longest.
pub(super) struct Xor([u8; 1500]);

impl Xor {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let mut pad = [0; 1500];
        pbkdf2::pbkdf2_hmac::<Sha1>(key, b"sH3CIVoF#rWLtJo6", 32, &mut pad);
        Self(pad)
    }
}

impl Unauthenticated for Xor {
    fn seal(&self, packets: &mut [u8], stride: usize) {
        packets.chunks_mut(stride).for_each(|packet| self.open(packet));
    }

    fn open(&self, packet: &mut [u8]) {
        packet.iter_mut().zip(&self.0).for_each(|(byte, pad)| *byte ^= pad);
    }
}

/// Everything in clear.
pub(super) struct Clear;

impl Unauthenticated for Clear {
    fn seal(&self, _: &mut [u8], _: usize) {}

    fn open(&self, _: &mut [u8]) {}
}
