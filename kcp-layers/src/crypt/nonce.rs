//! The random bytes that each packet begins with.

use std::fmt;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A source of nonces, seeded by whoever has an operating system.
///
/// Every session has its own: two with one seed under one key would repeat nonces, which breaks AES-GCM.
pub(crate) struct Nonces(ChaCha12Rng);

impl Nonces {
    /// `seed` must come from a secure source.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }

    pub(super) fn fill(&mut self, nonce: &mut [u8]) {
        self.0.fill_bytes(nonce);
    }
}

impl fmt::Debug for Nonces {
    /// Without its state.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonces").finish_non_exhaustive()
    }
}
