//! Segments that arrived at or beyond `rcv_nxt`, in a ring indexed by sequence number.

use alloc::collections::VecDeque;

use crate::kept::Usage;
use crate::rare::Rare;
use crate::recv::store::{Piece, Store};
use crate::seq::Seq;

/// Received segments; position 0 is `rcv_nxt`. Insertion and removal are O(1).
#[derive(Debug)]
pub(crate) struct Assembler {
    /// Everything before has been taken.
    next: Seq,
    /// There while something is held, and kept for what comes next until [`trim`](Self::trim).
    ring: Rare<Ring>,
}

/// Grows only as far as the farthest segment held.
#[derive(Debug, Default)]
struct Ring {
    /// Invariant: the last slot is occupied, if there is one.
    slots: VecDeque<Option<Piece>>,
    /// Slots that are occupied.
    held: usize,
    bytes: usize,
    usage: Usage,
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

    /// A window from `rcv_nxt` on, of which no more than so many segments are missing: what is held takes no room again. If there is not room for
    /// all that is missing before the last that is held, it ends sooner.
    pub(crate) fn window(&self, room: usize) -> usize {
        let Some(ring) = self.ring.get() else { return room };
        let missing = ring.slots.len().saturating_sub(ring.held);
        if missing <= room { room.saturating_add(ring.held) } else { room }
    }

    /// Whether nothing is held. Else a segment is missing, or the reader is full.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.get().is_none_or(|ring| ring.slots.is_empty())
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

    /// Holds a copy of a segment that [`has`](Self::has) not arrived before; the caller has checked it against the window,
    /// which bounds how far the ring grows.
    pub(crate) fn insert(&mut self, sn: Seq, frg: u8, payload: &[u8], store: &mut Store) {
        let Some(offset) = sn.offset_from(self.next) else { return };
        let ring = self.ring.make();
        if offset >= ring.slots.len() {
            ring.slots.resize(offset.saturating_add(1), None);
        }
        if let Some(slot) = ring.slots.get_mut(offset)
            && slot.is_none()
        {
            *slot = Some(Piece { place: store.push(payload), frg, own: false });
            ring.held = ring.held.saturating_add(1);
            ring.bytes = ring.bytes.saturating_add(payload.len());
        }
    }

    /// Takes the segment at `rcv_nxt`, if it is there, and advances.
    pub(crate) fn pop(&mut self) -> Option<Piece> {
        let ring = self.ring.get_mut()?;
        let piece = (*ring.slots.front()?)?;
        ring.usage.note(ring.slots.len());
        ring.slots.pop_front();
        ring.held = ring.held.saturating_sub(1);
        ring.bytes = ring.bytes.saturating_sub(piece.place.len());
        self.next = self.next.next();
        if ring.slots.is_empty() && ring.usage.is_exceeded(ring.slots.capacity()) {
            self.ring.clear();
        }
        Some(piece)
    }

    /// All that is held.
    pub(crate) fn pieces_mut(&mut self) -> impl Iterator<Item = &mut Piece> {
        self.ring.get_mut().into_iter().flat_map(|ring| ring.slots.iter_mut().flatten())
    }

    /// A segment that is exactly `rcv_nxt` with nothing held need not pass through the ring.
    pub(crate) const fn bypass(&mut self) {
        self.next = self.next.next();
    }

    /// Whether memory is kept although nothing is held.
    pub(crate) fn keeps(&self) -> bool {
        self.ring.get().is_some_and(|ring| ring.slots.is_empty())
    }

    /// An idle session keeps no buffer.
    pub(crate) fn trim(&mut self) {
        if self.keeps() {
            self.ring.clear();
        }
    }

    pub(crate) const fn set_next(&mut self, next: Seq) {
        self.next = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec;
    use alloc::vec::Vec;

    impl Assembler {
        fn front<'a>(&self, store: &'a Store) -> Option<(u8, &'a [u8])> {
            let piece = (*self.ring.get()?.slots.front()?)?;
            Some((piece.frg, store.get(piece.place)))
        }
    }

    /// Against a BTreeMap of u64 positions, from a start just below the wrap.
    #[test]
    fn same_as_a_map() {
        for seed in 0..crate::tests::rounds(50) {
            let start = u32::MAX - 20;
            let mut rng = crate::tests::Rng::new(seed);
            let (mut ring, mut store) = (Assembler::new(Seq::new(start)), Store::default());
            let mut oracle: BTreeMap<u64, (u8, Vec<u8>)> = BTreeMap::new();
            let mut base = 0u64;
            let longest = if seed % 5 == 0 { 50_000 } else { 100 };
            for step in 0..500u64 {
                if rng.chance(60) {
                    let position = base + rng.below(40);
                    let sn = Seq::new(start.wrapping_add(position as u32));
                    assert_eq!(ring.has(sn), oracle.contains_key(&position), "seed {seed} step {step}");
                    if !ring.has(sn) {
                        let data = vec![step as u8; rng.below(longest) as usize];
                        ring.insert(sn, step as u8, &data, &mut store);
                        oracle.insert(position, (step as u8, data));
                    }
                } else {
                    let expected = oracle.remove(&base);
                    let got = ring.front(&store).map(|(frg, data)| (frg, data.to_vec()));
                    if let Some(piece) = ring.pop() {
                        store.remove(piece.place);
                    }
                    assert_eq!(got, expected, "seed {seed} step {step}");
                    base += u64::from(expected.is_some());
                }
                assert_eq!(ring.bytes(), oracle.values().map(|(_, data)| data.len()).sum::<usize>());
                assert_eq!(ring.is_empty(), oracle.is_empty());
                assert_eq!(ring.next().value(), start.wrapping_add(base as u32));
                let room = rng.below(40) as usize;
                let missing =
                    |window: u64| (base..base + window).filter(|at| !oracle.contains_key(at)).count();
                let window = ring.window(room) as u64;
                assert!(missing(window) <= room, "seed {seed} step {step}");
                if oracle.last_key_value().is_none_or(|(last, _)| missing(last - base) <= room) {
                    assert_eq!(missing(window + 1), room + 1, "the longest, seed {seed} step {step}");
                }
            }
            while ring.pop().is_some() {
                base += 1;
            }
            assert!(!oracle.contains_key(&base));
            if ring.is_empty() {
                ring.trim();
                assert!(ring.ring.get().is_none());
            }
        }
    }
}
