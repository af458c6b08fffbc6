//! Cipher feedback as kcp-go has it: whole blocks, a fixed initial value.
//!
//! Decryption knows all its inputs at once. Encryption does not within a packet, but packets know nothing of each other: those
//! of a run go in step, so that the processor has as many blocks at a time to work on.

use super::Unauthenticated;
use super::block::BlockEncrypt;

/// Fixed, so that equal packets would look alike; the random bytes at the beginning of each see to that they are not.
const INITIAL: [u8; 16] =
    [0xA7, 0x73, 0x4F, 0x9C, 0x12, 0xAC, 0x1B, 0x01, 0xA4, 0x15, 0xF2, 0xC1, 0xFC, 0x78, 0xE6, 0x6B];

/// Packets encrypted in step, and blocks decrypted at a time.
const LANES: usize = 8;

pub(super) struct Cfb<C, const N: usize>(pub(super) C);

fn initial<const N: usize>() -> [u8; N] {
    std::array::from_fn(|i| INITIAL[i])
}

fn xor(data: &mut [u8], key: &[u8]) {
    data.iter_mut().zip(key).for_each(|(data, key)| *data ^= key);
}

impl<C: BlockEncrypt<N>, const N: usize> Unauthenticated for Cfb<C, N> {
    fn seal(&self, packets: &mut [u8], stride: usize) {
        for group in packets.chunks_mut(stride * LANES) {
            let lanes = group.len().div_ceil(stride);
            let mut feedback = [initial::<N>(); LANES];
            for offset in (0..stride).step_by(N) {
                self.0.encrypt(&mut feedback[..lanes]);
                for (packet, feedback) in group.chunks_mut(stride).zip(&mut feedback) {
                    let Some(rest) = packet.get_mut(offset..) else { continue };
                    if let Some(block) = rest.first_chunk_mut::<N>() {
                        xor(block, feedback);
                        *feedback = *block;
                    } else {
                        xor(rest, feedback);
                    }
                }
            }
        }
    }

    fn open(&self, packet: &mut [u8]) {
        let mut last = initial::<N>();
        for part in packet.chunks_mut(N * LANES) {
            let (blocks, _) = part.as_chunks::<N>();
            let mut keys = [last; LANES];
            for (key, block) in keys[1..].iter_mut().zip(blocks) {
                *key = *block;
            }
            last = blocks.last().copied().unwrap_or(last);
            self.0.encrypt(&mut keys[..part.len().div_ceil(N)]);
            xor(part, keys.as_flattened());
        }
    }
}
