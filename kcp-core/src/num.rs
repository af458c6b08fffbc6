//! Conversions between integers, in one place: those that lose nothing, and those that are meant to cut.

#![allow(clippy::as_conversions, clippy::cast_possible_truncation, reason = "each says why it may")]

use core::num::NonZeroU64;

const _: () = assert!(usize::BITS >= u32::BITS && usize::BITS <= u64::BITS);

/// A length or a number of bytes, for counting.
pub(crate) const fn wide(n: usize) -> u64 {
    n as u64
}

/// A number from the wire or of the configuration, for comparing with lengths.
pub(crate) const fn size(n: u32) -> usize {
    n as usize
}

/// The low 32 bits: what the wire carries of a clock, half of a seed.
pub(crate) const fn low(n: u64) -> u32 {
    n as u32
}

/// Microseconds in half the room; more than an hour is the longest that fits.
pub(crate) fn fits(micros: u64) -> u32 {
    u32::try_from(micros).unwrap_or(u32::MAX)
}

/// A number of segments, which a window bounds, or a place in a chunk, which is shorter.
pub(crate) const fn narrow(n: usize) -> u32 {
    debug_assert!(wide(n) <= wide(size(u32::MAX)), "bounded by the caller");
    n as u32
}

/// What may be divided by.
pub(crate) const fn at_least_one(n: u64) -> NonZeroU64 {
    match NonZeroU64::new(n) {
        Some(n) => n,
        None => NonZeroU64::MIN,
    }
}
