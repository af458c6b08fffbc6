//! What a session must not be guessable by.

use crate::num::low;

/// Randomness of one session: timestamp offset, jitter, token and nonces.
#[derive(Copy, Clone, Debug)]
pub struct Seed {
    pub(crate) ts_offset: u32,
    pub(crate) jitter: u32,
    pub(crate) token: u64,
    pub(crate) ping: u64,
    pub(crate) path: u64,
}

impl Seed {
    /// From a secure source, as strangers can reach the socket.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        let [
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7,
            n0,
            n1,
            n2,
            n3,
            n4,
            n5,
            n6,
            n7,
            rest @ ..,
        ] = bytes;
        Self {
            ts_offset: u32::from_le_bytes([a, b, c, d]),
            jitter: u32::from_le_bytes([e, f, g, h]),
            token: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            ping: u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
            path: u64::from_le_bytes(rest),
        }
    }

    /// Reproducible and predictable: for tests and simulations.
    #[must_use]
    // Splits the seed into its halves.
    pub const fn from_u64(seed: u64) -> Self {
        Self {
            ts_offset: low(seed),
            jitter: low(seed >> 32),
            token: mix(seed ^ 1),
            ping: mix(seed ^ 2),
            path: mix(seed ^ 3),
        }
    }
}

/// The next number of a sequence (splitmix64), whose place in it is `state`. A number gives away those after it, so what must not
/// be guessed has a secret sequence of its own.
#[doc(hidden)]
pub const fn next_nonce(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mix(*state)
}

/// The finaliser of splitmix64.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
