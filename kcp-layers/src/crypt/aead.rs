//! Authenticated encryption: `nonce 12 | ciphertext | tag 16`, nothing beside it authenticated.

use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::{AeadCore, AeadInOut, KeyInit};

use super::Authenticated;

pub(super) const NONCE: usize = 12;
pub(super) const TAG: usize = 16;

pub(super) struct Aead<A>(A);

impl<A: KeyInit> Aead<A> {
    /// # Panics
    /// If the cipher does not take keys of this length.
    pub(super) fn new(key: &[u8]) -> Self {
        Self(A::new_from_slice(key).expect("a key of the cipher's length"))
    }
}

/// The parts of a packet; none if it is shorter than nonce and tag.
fn split(packet: &mut [u8]) -> Option<(&[u8; NONCE], &mut [u8], &mut [u8; TAG])> {
    let (nonce, rest) = packet.split_first_chunk_mut()?;
    let (text, tag) = rest.split_last_chunk_mut()?;
    Some((nonce, text, tag))
}

impl<A: AeadCore<NonceSize = U12, TagSize = U16> + AeadInOut + Send + Sync> Authenticated for Aead<A> {
    fn seal(&self, packet: &mut [u8]) {
        let Some((nonce, text, room)) = split(packet) else { return };
        let tag = self.0.encrypt_inout_detached(nonce.into(), &[], text.into());
        *room = tag.expect("a packet has less than 64 GiB").into();
    }

    fn open(&self, packet: &mut [u8]) -> bool {
        let Some((nonce, text, tag)) = split(packet) else { return false };
        self.0.decrypt_inout_detached(nonce.into(), &[], text.into(), (&*tag).into()).is_ok()
    }
}
