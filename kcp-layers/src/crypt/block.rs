//! Block ciphers, several blocks at once.

use aes::cipher::array::Array;
use aes::cipher::consts::{U8, U16};
use aes::cipher::{BlockCipherEncrypt, KeyInit};

/// Encrypts blocks of `N` bytes. Several in one call take hardly longer than one where the processor has AES.
pub(super) trait BlockEncrypt<const N: usize>: Send + Sync {
    fn encrypt(&self, blocks: &mut [[u8; N]]);
}

/// A cipher from a crate.
pub(super) struct Core<C>(C);

impl<C: KeyInit> Core<C> {
    /// # Panics
    /// If the cipher does not take keys of this length.
    pub(super) fn new(key: &[u8]) -> Self {
        Self(C::new_from_slice(key).expect("a key of the cipher's length"))
    }
}

impl<C: BlockCipherEncrypt<BlockSize = U16> + Send + Sync> BlockEncrypt<16> for Core<C> {
    fn encrypt(&self, blocks: &mut [[u8; 16]]) {
        self.0.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}

impl<C: BlockCipherEncrypt<BlockSize = U8> + Send + Sync> BlockEncrypt<8> for Core<C> {
    fn encrypt(&self, blocks: &mut [[u8; 8]]) {
        self.0.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}

/// The golden ratio, added in each cycle of TEA and XTEA.
const DELTA: u32 = 0x9E37_79B9;

/// Blocks that TEA and XTEA encrypt side by side: nothing but additions, shifts and xors, of which the compiler makes vector
/// instructions.
const SIDE_BY_SIDE: usize = 8;

fn words<const W: usize>(bytes: &[u8]) -> [u32; W] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_be_bytes(words[i]))
}

/// Encrypts blocks given as their first and their second words.
fn side_by_side(
    blocks: &mut [[u8; 8]],
    encrypt: impl Fn(&mut [u32; SIDE_BY_SIDE], &mut [u32; SIDE_BY_SIDE]),
) {
    for blocks in blocks.chunks_mut(SIDE_BY_SIDE) {
        let (mut first, mut second) = ([0; SIDE_BY_SIDE], [0; SIDE_BY_SIDE]);
        for (i, block) in blocks.iter().enumerate() {
            [first[i], second[i]] = words(block);
        }
        encrypt(&mut first, &mut second);
        for (block, (v0, v1)) in blocks.iter_mut().zip(first.into_iter().zip(second)) {
            *block = ((u64::from(v0) << 32) | u64::from(v1)).to_be_bytes();
        }
    }
}

/// TEA, with 8 of its 32 cycles (16 rounds) as in kcp-go.
pub(super) struct Tea([u32; 4]);

impl Tea {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        Self(words(key))
    }

    fn cycles(&self, cycles: u32, blocks: &mut [[u8; 8]]) {
        let [k0, k1, k2, k3] = self.0;
        let mix = |v: u32, a: u32, b: u32, sum: u32| {
            (v << 4).wrapping_add(a) ^ v.wrapping_add(sum) ^ (v >> 5).wrapping_add(b)
        };
        side_by_side(blocks, |first, second| {
            for cycle in 1..=cycles {
                let sum = DELTA.wrapping_mul(cycle);
                for (v0, v1) in first.iter_mut().zip(&mut *second) {
                    *v0 = v0.wrapping_add(mix(*v1, k0, k1, sum));
                    *v1 = v1.wrapping_add(mix(*v0, k2, k3, sum));
                }
            }
        });
    }
}

impl BlockEncrypt<8> for Tea {
    fn encrypt(&self, blocks: &mut [[u8; 8]]) {
        self.cycles(8, blocks);
    }
}

/// XTEA with all its 32 cycles.
pub(super) struct Xtea {
    /// What each half of a cycle mixes in.
    keys: [[u32; 2]; 32],
}

impl Xtea {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let key: [u32; 4] = words(key);
        let mixed = |sum: u32, word: u32| sum.wrapping_add(key[(word & 3) as usize]);
        let keys = std::array::from_fn(|cycle| {
            let before = DELTA.wrapping_mul(cycle as u32);
            let after = before.wrapping_add(DELTA);
            [mixed(before, before), mixed(after, after >> 11)]
        });
        Self { keys }
    }
}

impl BlockEncrypt<8> for Xtea {
    fn encrypt(&self, blocks: &mut [[u8; 8]]) {
        let mix = |v: u32, key: u32| ((v << 4) ^ (v >> 5)).wrapping_add(v) ^ key;
        side_by_side(blocks, |first, second| {
            for [k0, k1] in self.keys {
                for (v0, v1) in first.iter_mut().zip(&mut *second) {
                    *v0 = v0.wrapping_add(mix(*v1, k0));
                    *v1 = v1.wrapping_add(mix(*v0, k1));
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encrypts a block, and finds the same at every place among others.
    fn encrypt(block: [u8; 8], encrypt: impl Fn(&mut [[u8; 8]])) -> u64 {
        let mut blocks = [block; 19];
        encrypt(&mut blocks);
        assert_eq!(blocks, [blocks[0]; 19]);
        u64::from_be_bytes(blocks[0])
    }

    /// Published vectors of the whole ciphers; the 8 cycles of kcp-go's TEA are checked against kcptun's packets.
    #[test]
    fn tea_and_xtea_known_answers() {
        let tea = |key, block| encrypt(block, |blocks| Tea::new(&key).cycles(32, blocks));
        let xtea = |key, block| encrypt(block, |blocks| Xtea::new(&key).encrypt(blocks));
        assert_eq!(tea([0; 16], [0; 8]), 0x41EA_3A0A_94BA_A940);
        assert_eq!(tea([0xFF; 16], [0xFF; 8]), 0x319B_BEFB_016A_BDB2);
        assert_eq!(xtea([0; 16], [0; 8]), 0xDEE9_D4D8_F713_1ED9);
        let counting = std::array::from_fn(|i| i as u8);
        assert_eq!(xtea(counting, *b"ABCDEFGH"), 0x497D_F3D0_7261_2CB5);
    }
}
