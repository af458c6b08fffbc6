//! What must not be guessed: conversations, tokens, nonces. From the operating system, unless a simulation asks for what it
//! has seen before.

use std::io;
use std::sync::Mutex;

use kcp_core::Seed;

use crate::sync::lock;

#[derive(Debug)]
pub(crate) struct Entropy(Option<Mutex<u64>>);

impl Entropy {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(seed.map(Mutex::new))
    }

    pub(crate) fn u64(&self) -> io::Result<u64> {
        match &self.0 {
            None => getrandom::u64().map_err(io::Error::other),
            Some(state) => Ok(kcp_core::next_nonce(&mut lock(state))),
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
