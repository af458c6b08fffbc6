//! Twofish with a key of 256 bits. The crate of that name computes its S-boxes anew for every byte; here they are
//! tables, as the cipher's authors meant it for keys that stay, and it is fast enough to be of use.

use super::block::BlockEncrypt;

/// The S-boxes of one key, each along with its column of the matrix that mixes them, and the round keys.
pub(super) struct Twofish {
    boxes: [[u32; 256]; 4],
    keys: [u32; 40],
}

const ROUNDS: usize = 16;

/// The mixing matrix (MDS) and the one that makes S-box keys of the key (RS), with the polynomials they are over.
const MDS: [[u8; 4]; 4] =
    [[0x01, 0xEF, 0x5B, 0x5B], [0x5B, 0xEF, 0xEF, 0x01], [0xEF, 0x5B, 0x01, 0xEF], [0xEF, 0x01, 0xEF, 0x5B]];
const MDS_POLYNOMIAL: u16 = 0x169;
const RS: [[u8; 8]; 4] = [
    [0x01, 0xA4, 0x55, 0x87, 0x5A, 0x58, 0xDB, 0x9E],
    [0xA4, 0x56, 0x82, 0xF3, 0x1E, 0xC6, 0x68, 0xE5],
    [0x02, 0xA1, 0xFC, 0xC1, 0x47, 0xAE, 0x3D, 0x19],
    [0xA4, 0x55, 0x87, 0x5A, 0x58, 0xDB, 0x9E, 0x03],
];
const RS_POLYNOMIAL: u16 = 0x14D;

/// What the fixed permutations q0 and q1 are made of.
const NIBBLES: [[[u8; 16]; 4]; 2] = [
    [
        [0x8, 0x1, 0x7, 0xD, 0x6, 0xF, 0x3, 0x2, 0x0, 0xB, 0x5, 0x9, 0xE, 0xC, 0xA, 0x4],
        [0xE, 0xC, 0xB, 0x8, 0x1, 0x2, 0x3, 0x5, 0xF, 0x4, 0xA, 0x6, 0x7, 0x0, 0x9, 0xD],
        [0xB, 0xA, 0x5, 0xE, 0x6, 0xD, 0x9, 0x0, 0xC, 0x8, 0xF, 0x3, 0x2, 0x4, 0x7, 0x1],
        [0xD, 0x7, 0xF, 0x4, 0x1, 0x2, 0x6, 0xE, 0x9, 0xB, 0x3, 0x0, 0x8, 0x5, 0xC, 0xA],
    ],
    [
        [0x2, 0x8, 0xB, 0xD, 0xF, 0x7, 0x6, 0xE, 0x3, 0x1, 0x9, 0x4, 0x0, 0xA, 0xC, 0x5],
        [0x1, 0xE, 0x2, 0xB, 0x4, 0xC, 0x3, 0x7, 0x6, 0xD, 0xA, 0x5, 0xF, 0x9, 0x0, 0x8],
        [0x4, 0xC, 0x7, 0x5, 0x1, 0x6, 0x9, 0xA, 0x0, 0xE, 0xD, 0x8, 0x2, 0xB, 0x3, 0xF],
        [0xB, 0x9, 0x5, 0x1, 0xC, 0x3, 0xD, 0xE, 0x6, 0x4, 0x7, 0xF, 0x2, 0x0, 0x8, 0xA],
    ],
];

/// Which permutation each byte of a word goes through, between one key byte and the next: the last one first.
const ORDER: [[usize; 5]; 4] = [[1, 1, 0, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [1, 0, 1, 1, 0]];

const fn permute(which: usize, x: u8) -> u8 {
    let [t0, t1, t2, t3] = NIBBLES[which];
    let (a, b) = (x >> 4, x & 15);
    let (a, b) = (t0[(a ^ b) as usize], t1[turn(a, b) as usize]);
    let (a, b) = (t2[(a ^ b) as usize], t3[turn(a, b) as usize]);
    b << 4 | a
}

const fn turn(a: u8, b: u8) -> u8 {
    (a ^ (b >> 1 | b << 3) ^ (a << 3)) & 15
}

fn multiply(a: u8, b: u8, polynomial: u16) -> u8 {
    let mut product = 0u16;
    for bit in (0..8).rev() {
        product <<= 1;
        if product & 0x100 != 0 {
            product ^= polynomial;
        }
        if b >> bit & 1 != 0 {
            product ^= u16::from(a);
        }
    }
    // Reduced below the polynomial's degree.
    product as u8
}

/// A byte of a word, which goes through the permutations with the same byte of each key word in between, as a column.
fn column(at: usize, x: u8, keys: [u32; 4]) -> u32 {
    let mut y = permute(ORDER[at][0], x);
    for (key, which) in keys.iter().rev().zip(&ORDER[at][1..]) {
        y = permute(*which, y ^ key.to_le_bytes()[at]);
    }
    u32::from_le_bytes(MDS.map(|row| multiply(row[at], y, MDS_POLYNOMIAL)))
}

impl Twofish {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let (words, _) = key.as_chunks::<4>();
        let word = |i: usize| u32::from_le_bytes(words[i]);
        let (even, odd) = ([0, 2, 4, 6].map(word), [1, 3, 5, 7].map(word));
        let all = |x: u8, keys| (0..4).fold(0, |sum, at| sum ^ column(at, x, keys));
        let mut round_keys = [0; 40];
        for (i, pair) in round_keys.chunks_exact_mut(2).enumerate() {
            let (a, b) = (all(2 * i as u8, even), all(2 * i as u8 + 1, odd).rotate_left(8));
            pair[0] = a.wrapping_add(b);
            pair[1] = a.wrapping_add(b.wrapping_mul(2)).rotate_left(9);
        }
        let (eights, _) = key.as_chunks::<8>();
        let box_keys = [3, 2, 1, 0].map(|i: usize| {
            let byte = |row: [u8; 8]| {
                row.iter().zip(&eights[i]).fold(0, |sum, (a, b)| sum ^ multiply(*a, *b, RS_POLYNOMIAL))
            };
            u32::from_le_bytes(RS.map(byte))
        });
        let boxes = std::array::from_fn(|at| std::array::from_fn(|x| column(at, x as u8, box_keys)));
        Self { boxes, keys: round_keys }
    }

    fn g(&self, x: u32) -> u32 {
        let [a, b, c, d] = x.to_le_bytes().map(usize::from);
        self.boxes[0][a] ^ self.boxes[1][b] ^ self.boxes[2][c] ^ self.boxes[3][d]
    }

    fn encrypt_block(&self, block: &mut [u8; 16]) {
        let (words, _) = block.as_chunks::<4>();
        let [mut r0, mut r1, mut r2, mut r3]: [u32; 4] =
            std::array::from_fn(|i| u32::from_le_bytes(words[i]) ^ self.keys[i]);
        for keys in self.keys[8..8 + 2 * ROUNDS].chunks_exact(2) {
            let (t0, t1) = (self.g(r0), self.g(r1.rotate_left(8)));
            let f0 = t0.wrapping_add(t1).wrapping_add(keys[0]);
            let f1 = t0.wrapping_add(t1.wrapping_mul(2)).wrapping_add(keys[1]);
            (r2, r3) = ((r2 ^ f0).rotate_right(1), r3.rotate_left(1) ^ f1);
            (r0, r1, r2, r3) = (r2, r3, r0, r1);
        }
        let out = [r2, r3, r0, r1];
        for (i, word) in block.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *word = (out[i] ^ self.keys[4 + i]).to_le_bytes();
        }
    }
}

impl BlockEncrypt<16> for Twofish {
    fn encrypt(&self, blocks: &mut [[u8; 16]]) {
        blocks.iter_mut().for_each(|block| self.encrypt_block(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::block::Core;

    #[test]
    fn the_same_as_the_crate() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..50 {
            let key: [u8; 32] = std::array::from_fn(|_| rng.u8(..));
            let mut ours: [[u8; 16]; 9] = std::array::from_fn(|_| std::array::from_fn(|_| rng.u8(..)));
            let mut theirs = ours;
            Twofish::new(&key).encrypt(&mut ours);
            Core::<::twofish::Twofish>::new(&key).encrypt(&mut theirs);
            assert_eq!(ours, theirs);
        }
    }

    /// From the cipher's submission: the variable text test's first for a key of zeros.
    #[test]
    fn known_answer() {
        let mut block = [[0; 16]];
        Twofish::new(&[0; 32]).encrypt(&mut block);
        assert_eq!(u128::from_be_bytes(block[0]), 0x57FF_739D_4DC9_2C1B_D7FC_0170_0CC8_216F);
    }
}
