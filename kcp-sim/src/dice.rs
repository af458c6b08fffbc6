//! Draws from a seed: ChaCha8, the same on every platform and in every version.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng};

#[derive(Debug)]
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in 0..n, for n of at least 1.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.u64() % n.max(1)
    }

    /// Uniform in low..=high.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Uniform in 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Every order of magnitude in low..=high is as likely.
    pub(crate) fn log(&mut self, low: u64, high: u64) -> u64 {
        let (a, b) = ((low.max(1) as f64).ln(), (high.max(1) as f64 + 1.0).ln());
        ((a + (b - a) * self.unit()).exp() as u64).clamp(low, high)
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.u64() & 1 == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Each element with probability one half, else nothing.
    pub(crate) fn maybe<T>(&mut self, p: f64, draw: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(p).then(|| draw(self))
    }
}
