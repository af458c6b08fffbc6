//! Arithmetic in GF(2^8) with the polynomial 0x11D, and its one hot loop: adding a multiple of a slice to another.

use fearless_simd::Level;

/// x^8 + x^4 + x^3 + x^2 + 1, without its highest term.
const POLYNOMIAL: u8 = 0x1D;

struct Tables {
    /// Powers of 2, twice over, so that a sum of two logarithms needs no reduction.
    exp: [u8; 510],
    log: [u8; 256],
    /// For each coefficient its products with 0..16, then with the multiples of 16.
    nibbles: [[u8; 32]; 256],
}

static TABLES: Tables = tables();

const fn double(x: u8) -> u8 {
    (x << 1) ^ (if x & 0x80 == 0 { 0 } else { POLYNOMIAL })
}

const fn tables() -> Tables {
    let mut tables = Tables { exp: [0; 510], log: [0; 256], nibbles: [[0; 32]; 256] };
    let (mut i, mut power) = (0, 1);
    while i < 255 {
        tables.exp[i] = power;
        tables.exp[i + 255] = power;
        tables.log[power as usize] = i as u8;
        power = double(power);
        i += 1;
    }
    let mut c = 1;
    while c < 256 {
        let mut n = 1;
        while n < 16 {
            let (log_c, low, high) = (tables.log[c] as usize, tables.log[n], tables.log[n << 4]);
            tables.nibbles[c][n] = tables.exp[log_c + low as usize];
            tables.nibbles[c][16 + n] = tables.exp[log_c + high as usize];
            n += 1;
        }
        c += 1;
    }
    tables
}

/// The logarithm of `x` to the base 2; of 0, which has none, 0.
pub(super) fn log(x: u8) -> usize {
    usize::from(TABLES.log[usize::from(x)])
}

/// 2 to the power of `exponent`.
pub(super) fn exp(exponent: usize) -> u8 {
    TABLES.exp[exponent % 255]
}

/// The instructions that this processor has.
pub(super) fn level() -> Level {
    Level::new()
}

/// `out += c * input`, over as many bytes as the shorter one has.
pub(super) fn mul_add(level: Level, c: u8, input: &[u8], out: &mut [u8]) {
    let len = input.len().min(out.len());
    let (input, out) = (&input[..len], &mut out[..len]);
    match c {
        0 => {}
        1 => out.iter_mut().zip(input).for_each(|(out, input)| *out ^= input),
        _ => {
            let table = &TABLES.nibbles[usize::from(c)];
            let done = vectors(level, table, c, input, out);
            bytes(table, &input[done..], &mut out[done..]);
        }
    }
}

fn bytes(table: &[u8; 32], input: &[u8], out: &mut [u8]) {
    for (out, input) in out.iter_mut().zip(input) {
        *out ^= table[usize::from(input & 15)] ^ table[usize::from(16 | (input >> 4))];
    }
}

/// Does the start of the slices, whole vectors; returns how much.
#[cfg(target_arch = "x86_64")]
fn vectors(level: Level, table: &[u8; 32], c: u8, input: &[u8], out: &mut [u8]) -> usize {
    if let Some(avx2) = level.as_avx2() {
        x86::shuffle32(avx2, table, input, out)
    } else if let Some(sse) = level.as_sse4_2() {
        x86::shuffle16(sse, table, input, out)
    } else {
        masks(c, input, out)
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors(_: Level, _: &[u8; 32], c: u8, input: &[u8], out: &mut [u8]) -> usize {
    masks(c, input, out)
}

/// Each bit of a byte selects one constant: no table, so that the compiler makes vectors of it on any processor.
fn masks(c: u8, input: &[u8], out: &mut [u8]) -> usize {
    let mut constants = [c; 8];
    for i in 1..8 {
        constants[i] = double(constants[i - 1]);
    }
    let (input, _) = input.as_chunks::<32>();
    let (out, _) = out.as_chunks_mut::<32>();
    for (out, input) in out.iter_mut().zip(input) {
        for (out, input) in out.iter_mut().zip(input) {
            for (bit, constant) in constants.iter().enumerate() {
                *out ^= 0u8.wrapping_sub((input >> bit) & 1) & constant;
            }
        }
    }
    input.len() * 32
}

/// Sixteen table look-ups per instruction and lane: the products with the low and the high half of each byte.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_and_si128, _mm_set1_epi8, _mm_shuffle_epi8, _mm_srli_epi64, _mm_xor_si128,
        _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_set1_epi8, _mm256_shuffle_epi8,
        _mm256_srli_epi64, _mm256_xor_si256,
    };

    use fearless_simd::{kernel, prelude::*, u8x16, u8x32};

    kernel!(
        pub(super) fn shuffle32(token: Avx2, table: &[u8; 32], input: &[u8], out: &mut [u8]) -> usize {
            let (halves, _) = table.as_chunks::<16>();
            let low: __m128i = u8x16::simd_from(token, halves[0]).into();
            let high: __m128i = u8x16::simd_from(token, halves[1]).into();
            let (low, high) = (_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high));
            let mask = _mm256_set1_epi8(15);
            let (input, _) = input.as_chunks::<32>();
            let (out, _) = out.as_chunks_mut::<32>();
            for (out, input) in out.iter_mut().zip(input) {
                let x: __m256i = u8x32::simd_from(token, *input).into();
                let y: __m256i = u8x32::simd_from(token, *out).into();
                let a = _mm256_shuffle_epi8(low, _mm256_and_si256(x, mask));
                let b = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi64::<4>(x), mask));
                *out = u8x32::simd_from(token, _mm256_xor_si256(y, _mm256_xor_si256(a, b))).into();
            }
            input.len() * 32
        }
    );

    kernel!(
        pub(super) fn shuffle16(token: Sse4_2, table: &[u8; 32], input: &[u8], out: &mut [u8]) -> usize {
            let (halves, _) = table.as_chunks::<16>();
            let low: __m128i = u8x16::simd_from(token, halves[0]).into();
            let high: __m128i = u8x16::simd_from(token, halves[1]).into();
            let mask = _mm_set1_epi8(15);
            let (input, _) = input.as_chunks::<16>();
            let (out, _) = out.as_chunks_mut::<16>();
            for (out, input) in out.iter_mut().zip(input) {
                let x: __m128i = u8x16::simd_from(token, *input).into();
                let y: __m128i = u8x16::simd_from(token, *out).into();
                let a = _mm_shuffle_epi8(low, _mm_and_si128(x, mask));
                let b = _mm_shuffle_epi8(high, _mm_and_si128(_mm_srli_epi64::<4>(x), mask));
                *out = u8x16::simd_from(token, _mm_xor_si128(y, _mm_xor_si128(a, b))).into();
            }
            input.len() * 16
        }
    );
}

#[cfg(test)]
mod tests {
    use reed_solomon_erasure::galois_8;

    use super::*;

    fn mul(a: u8, b: u8) -> u8 {
        if a == 0 || b == 0 { 0 } else { exp(log(a) + log(b)) }
    }

    #[test]
    fn products_are_those_of_the_reference() {
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), galois_8::mul(a, b));
                let mut out = [0x5A];
                bytes(&TABLES.nibbles[usize::from(a)], &[b], &mut out);
                assert_eq!(out[0] ^ 0x5A, galois_8::mul(a, b));
            }
        }
    }

    #[test]
    fn every_kernel_agrees_with_the_reference() {
        let mut rng = fastrand::Rng::with_seed(1);
        for len in (0..=100).chain([255, 256, 257, 1349]) {
            let input: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
            let start: Vec<u8> = (0..len).map(|_| rng.u8(..)).collect();
            for c in [0, 1, 2, 3, 0x80, 0xFF, rng.u8(..)] {
                let mut expected = start.clone();
                galois_8::mul_slice_xor(c, &input, &mut expected);
                let mut out = start.clone();
                mul_add(level(), c, &input, &mut out);
                assert_eq!(out, expected, "best kernel, c {c}, {len} bytes");
                let table = &TABLES.nibbles[usize::from(c)];
                let mut out = start.clone();
                let done = masks(c, &input, &mut out);
                bytes(table, &input[done..], &mut out[done..]);
                assert_eq!(out, expected, "masks, c {c}, {len} bytes");
                #[cfg(target_arch = "x86_64")]
                if let Some(sse) = level().as_sse4_2() {
                    let mut out = start.clone();
                    let done = x86::shuffle16(sse, table, &input, &mut out);
                    bytes(table, &input[done..], &mut out[done..]);
                    assert_eq!(out, expected, "16 byte kernel, c {c}, {len} bytes");
                }
            }
        }
    }

    #[test]
    fn the_shorter_slice_decides() {
        let mut out = [0; 40];
        mul_add(level(), 2, &[1; 33], &mut out);
        assert_eq!(out[..33], [2; 33]);
        assert_eq!(out[33..], [0; 7]);
        let mut out = [0; 3];
        mul_add(level(), 2, &[1; 33], &mut out);
        assert_eq!(out, [2; 3]);
    }
}
