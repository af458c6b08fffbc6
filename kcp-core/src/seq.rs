//! Sequence numbers, which can only wrap.

/// A segment's sequence number (RFC 1982 serial arithmetic over 32 bits).
///
/// There is no `Ord`: "before" is only meaningful within half the number space, so every comparison names the two
/// ends by [`Seq::since`] or [`Seq::is_before`].
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, Default)]
pub struct Seq(u32);

impl Seq {
    /// The number as it stands on the wire.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value)
    }

    /// The number as it stands on the wire.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }

    /// The number `n` places later.
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n))
    }

    /// The next number.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// How many places `self` is after `earlier`; negative if it is before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }

    /// Whether `self` is before `other`.
    #[must_use]
    pub const fn is_before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    /// The offset of `self` from `base`, or `None` if it is before `base`.
    pub(crate) fn offset_from(self, base: Self) -> Option<usize> {
        usize::try_from(self.since(base)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let a = Seq::new(u32::MAX);
        let b = a.next();
        assert_eq!(b.value(), 0);
        assert!(a.is_before(b) && !b.is_before(a) && !a.is_before(a));
        assert_eq!(b.since(a), 1);
        assert_eq!(a.since(b), -1);
        assert_eq!(b.offset_from(a), Some(1));
        assert_eq!(a.offset_from(b), None);
    }

    /// Positions are u64, their images wrap; within half the space every comparison agrees.
    #[test]
    fn same_as_integers() {
        let mut rng = crate::tests::Rng::new(1);
        for _ in 0..crate::tests::rounds(20_000) {
            let a = rng.next() >> 20;
            let distance =
                [rng.below(4), rng.below(1 << 31), (1 << 31) - 1 - rng.below(3)][rng.below(3) as usize];
            let (early, late) = (Seq::new(a as u32), Seq::new((a + distance) as u32));
            assert_eq!(early.plus(distance as u32), late);
            assert_eq!(i64::from(late.since(early)), distance as i64);
            assert_eq!(i64::from(early.since(late)), -(distance as i64));
            assert_eq!((early.is_before(late), late.is_before(early)), (distance > 0, false));
            assert_eq!(late.offset_from(early), Some(distance as usize));
            assert_eq!(early.offset_from(late), (distance == 0).then_some(0));
            assert_eq!(early.next().since(early), 1);
        }
    }
}
