//! Conversions between integers, in one place.

use core::num::NonZeroU64;

const _: () = assert!(usize::BITS <= u64::BITS);

/// A length or a number of bytes, for counting.
pub(crate) const fn wide(n: usize) -> u64 {
    n as u64
}

/// What may be divided by.
pub(crate) const fn at_least_one(n: u64) -> NonZeroU64 {
    match NonZeroU64::new(n) {
        Some(n) => n,
        None => NonZeroU64::MIN,
    }
}
