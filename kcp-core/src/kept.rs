//! How much of a buffer was used lately: it stays from burst to burst, unless it is much too large.

use crate::num::size;

/// A buffer of fewer entries is not worth giving back between two bursts.
const FEW: u32 = 32;
/// It may be so many times as large as what was used.
const SLACK: u32 = 4;

/// The most entries that were used lately.
#[derive(Debug, Default)]
pub(crate) struct Usage(u32);

impl Usage {
    pub(crate) const fn new() -> Self {
        Self(0)
    }

    pub(crate) fn note(&mut self, used: usize) {
        self.0 = self.0.max(u32::try_from(used).unwrap_or(u32::MAX));
    }

    pub(crate) const fn lately(&self) -> usize {
        size(self.0)
    }

    /// To be asked when nothing is left in the buffer: whether so large a one is more than what was used lately asks for.
    /// What was used longer ago counts for less each time.
    pub(crate) fn is_exceeded(&mut self, capacity: usize) -> bool {
        let limit = self.0.max(FEW).saturating_mul(SLACK);
        self.0 = self.0.saturating_sub(self.0.div_ceil(8));
        capacity > size(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_lately_is_kept_and_the_rest_goes() {
        let mut usage = Usage::default();
        assert!(!usage.is_exceeded(128), "a small one is always kept");
        assert!(usage.is_exceeded(129));
        usage.note(1000);
        assert!(!usage.is_exceeded(1024) && !usage.is_exceeded(1024));
        let bursts = (0..100).take_while(|_| {
            usage.note(1);
            !usage.is_exceeded(1024)
        });
        assert_eq!(bursts.count(), 9, "small bursts after a large one");
        usage.note(usize::MAX);
        assert!(!usage.is_exceeded(usize::MAX >> 40));
    }
}
