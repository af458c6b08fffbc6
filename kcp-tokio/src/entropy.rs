//! What must not be guessed: conversations, tokens, nonces. From the operating system, unless a simulation asks for what it
//! has seen before.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use kcp_core::Seed;

#[derive(Debug)]
pub(crate) struct Entropy(Option<AtomicU64>);

impl Entropy {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(seed.map(AtomicU64::new))
    }

    pub(crate) fn u64(&self) -> io::Result<u64> {
        match &self.0 {
            None => getrandom::u64().map_err(io::Error::other),
            // splitmix64
            Some(state) => {
                let step = 0x9E37_79B9_7F4A_7C15;
                let mut z = state.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                Ok(z ^ (z >> 31))
            }
        }
    }

    pub(crate) fn bytes(&self) -> io::Result<[u8; 32]> {
        let mut bytes = [0; 32];
        if self.0.is_none() {
            getrandom::fill(&mut bytes).map_err(io::Error::other)?;
            return Ok(bytes);
        }
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&self.u64()?.to_le_bytes());
        }
        Ok(bytes)
    }

    pub(crate) fn seed(&self) -> io::Result<Seed> {
        self.bytes().map(Seed::from_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_itself_and_the_system_does_not() {
        let draw = |seed| {
            let entropy = Entropy::new(seed);
            (entropy.u64().unwrap(), entropy.bytes().unwrap(), entropy.u64().unwrap())
        };
        assert_eq!(draw(Some(7)), draw(Some(7)));
        assert_ne!(draw(Some(7)), draw(Some(8)));
        assert_ne!(draw(None), draw(None));
    }
}
