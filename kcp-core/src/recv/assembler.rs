//! Segments that arrived at or beyond `rcv_nxt`, in a ring indexed by sequence number.

use alloc::collections::VecDeque;

use bytes::Bytes;

use crate::rare::Rare;
use crate::seq::Seq;

/// A received data segment.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) frg: u8,
    pub(crate) data: Bytes,
}

/// Received segments; position 0 is `rcv_nxt`. Insertion and removal are O(1).
#[derive(Debug)]
pub(crate) struct Assembler {
    /// Everything before has been taken.
    next: Seq,
    /// There while something is held.
    ring: Rare<Ring>,
}

/// Grows only as far as the farthest segment held.
#[derive(Debug, Default)]
struct Ring {
    /// Invariant: the last slot is occupied, so there is one.
    slots: VecDeque<Option<Received>>,
    bytes: usize,
}

impl Assembler {
    pub(crate) const fn new(next: Seq) -> Self {
        Self { next, ring: Rare::none() }
    }

    /// `rcv_nxt`.
    pub(crate) const fn next(&self) -> Seq {
        self.next
    }

    /// One past the last segment that has arrived.
    pub(crate) fn end(&self) -> Seq {
        let len = self.ring.get().map_or(0, |ring| ring.slots.len());
        self.next.plus(u32::try_from(len).unwrap_or(u32::MAX))
    }

    /// Payload bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.ring.get().map_or(0, |ring| ring.bytes)
    }

    /// Whether something is held: then a segment is missing, or the reader is full.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.get().is_none()
    }

    /// Whether `sn` has arrived before (taken or held).
    pub(crate) fn has(&self, sn: Seq) -> bool {
        match sn.offset_from(self.next) {
            None => true,
            Some(offset) => {
                self.ring.get().is_some_and(|ring| ring.slots.get(offset).is_some_and(Option::is_some))
            }
        }
    }

    /// Holds a segment that [`has`](Self::has) not arrived before; the caller has checked it against the window,
    /// which bounds how far the ring grows.
    pub(crate) fn insert(&mut self, sn: Seq, segment: Received) {
        let Some(offset) = sn.offset_from(self.next) else { return };
        let ring = self.ring.make();
        if offset >= ring.slots.len() {
            ring.slots.resize(offset.saturating_add(1), None);
        }
        if let Some(slot) = ring.slots.get_mut(offset)
            && slot.is_none()
        {
            ring.bytes = ring.bytes.saturating_add(segment.data.len());
            *slot = Some(segment);
        }
    }

    /// Takes the segment at `rcv_nxt`, if it is there, and advances.
    pub(crate) fn pop(&mut self) -> Option<Received> {
        let ring = self.ring.get_mut()?;
        let segment = ring.slots.front_mut()?.take()?;
        ring.slots.pop_front();
        ring.bytes = ring.bytes.saturating_sub(segment.data.len());
        if ring.slots.is_empty() {
            self.ring.clear();
        }
        self.next = self.next.next();
        Some(segment)
    }

    /// A segment that is exactly `rcv_nxt` with nothing held need not pass through the ring.
    pub(crate) const fn bypass(&mut self) {
        self.next = self.next.next();
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn set_next(&mut self, next: Seq) {
        assert!(self.is_empty());
        self.next = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    /// Against a BTreeMap of u64 positions, from a start just below the wrap.
    #[test]
    fn same_as_a_map() {
        for seed in 0..crate::tests::rounds(50) {
            let start = u32::MAX - 20;
            let mut rng = crate::tests::Rng::new(seed);
            let mut ring = Assembler::new(Seq::new(start));
            let mut oracle: BTreeMap<u64, u8> = BTreeMap::new();
            let mut base = 0u64;
            for step in 0..500u64 {
                if rng.chance(60) {
                    let position = base + rng.below(40);
                    let sn = Seq::new(start.wrapping_add(position as u32));
                    assert_eq!(ring.has(sn), oracle.contains_key(&position), "seed {seed} step {step}");
                    if !ring.has(sn) {
                        let data = Bytes::from(alloc::vec![step as u8; 3]);
                        ring.insert(sn, Received { frg: step as u8, data });
                        oracle.insert(position, step as u8);
                    }
                } else {
                    let expected = oracle.remove(&base);
                    let got = ring.pop();
                    assert_eq!(got.map(|s| s.frg), expected);
                    base += u64::from(expected.is_some());
                }
                assert_eq!(ring.bytes(), oracle.len() * 3);
                assert_eq!(ring.is_empty(), oracle.is_empty());
                assert_eq!(ring.next().value(), start.wrapping_add(base as u32));
            }
            let rest: Vec<_> = core::iter::from_fn(|| ring.pop()).collect();
            assert!(rest.len() <= oracle.len());
        }
    }
}
