//! Time as the caller tells it: microseconds inside, wrapping u32 milliseconds on the wire.

use core::fmt;
use core::num::NonZeroU64;
use core::ops::{Add, AddAssign};
use core::time::Duration;

use crate::num::low;

/// A point in time: microseconds since an epoch of the caller's choice.
///
/// The protocol never reads a clock; every call that depends on time takes a `Timestamp`. It must come from a
/// monotonic source (tokio's `Instant`, never the wall clock). 64 bits of microseconds do not wrap in practice.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Timestamp(
    /// One more than the microseconds: a deadline that may be absent takes no more memory than one that is there.
    NonZeroU64,
);

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timestamp").field(&self.as_micros()).finish()
    }
}

impl Timestamp {
    /// The epoch itself.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// A point `micros` microseconds after the epoch (at most `u64::MAX - 1`).
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(micros))
    }

    /// A point `millis` milliseconds after the epoch (saturating).
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self::from_micros(millis.saturating_mul(1000))
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0.get().wrapping_sub(1)
    }

    /// Whole milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.as_micros() / 1000
    }

    /// Time passed since `earlier`, zero if `earlier` is later than `self`.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// As `+`, which saturates.
    pub(crate) fn after(self, passed: Duration) -> Self {
        self.plus_micros(saturating_micros(passed))
    }

    pub(crate) const fn plus_micros(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        self.after(rhs)
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, rhs: Duration) {
        *self = self.after(rhs);
    }
}

/// A duration in whole microseconds, `u64::MAX` where it does not fit.
pub(crate) fn saturating_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Translates [`Timestamp`]s into the `ts` field of segments.
///
/// A peer echoes `ts` verbatim, so a random offset per session changes nothing for an honest peer, and makes an
/// acknowledgement of something that we never sent hard to forge.
#[derive(Copy, Clone, Debug)]
pub(crate) struct WireClock {
    offset: u32,
}

impl WireClock {
    pub(crate) const fn new(offset: u32) -> Self {
        Self { offset }
    }

    // The wire carries the low 32 bits by definition.
    pub(crate) const fn stamp(self, now: Timestamp) -> u32 {
        low(now.as_millis()).wrapping_add(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_stamp_wraps() {
        let clock = WireClock::new(u32::MAX - 1);
        assert_eq!(clock.stamp(Timestamp::from_millis(1)), u32::MAX);
        assert_eq!(clock.stamp(Timestamp::from_millis(2)), 0);
        assert_eq!(clock.stamp(Timestamp::from_millis((1 << 32) + 2)), 0);
    }

    #[test]
    fn since_saturates() {
        let (a, b) = (Timestamp::from_micros(5), Timestamp::from_micros(9));
        assert_eq!(b.saturating_since(a), Duration::from_micros(4));
        assert_eq!(a.saturating_since(b), Duration::ZERO);
        assert_eq!(Timestamp::from_micros(u64::MAX) + Duration::MAX, Timestamp::from_micros(u64::MAX));
    }
}
