//! Segments that arrived at or beyond `rcv_nxt`, in a ring indexed by sequence number.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::kept::Usage;
use crate::num::{narrow, size};
use crate::rare::Rare;
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
    slots: VecDeque<Option<Place>>,
    /// Slots that are occupied.
    held: usize,
    bytes: usize,
    store: Store,
    usage: Usage,
}

/// Where the payload of a segment is.
#[derive(Copy, Clone, Debug)]
struct Place {
    chunk: u32,
    start: u32,
    len: u32,
    frg: u8,
}

/// Payloads back to back, in order of arrival: an allocation per chunk instead of one per segment.
#[derive(Debug, Default)]
struct Store {
    chunks: VecDeque<Chunk>,
    /// The number of the first; they count up, wrapping.
    first: u32,
    /// Of all chunks.
    capacity: usize,
    /// A used one.
    spare: Vec<u8>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// Segments in it. Without any it has no memory.
    live: u32,
}

/// A chunk is as large as what is held already, between a segment and this.
const MAX_CHUNK: usize = 32 * 1024;
/// What is not held any more may take as much memory as what is, and so many bytes: a chunk lives as long as one of its segments,
/// which a peer can choose.
const MAX_WASTE: usize = 4 * MAX_CHUNK;

impl Store {
    // A chunk is as long as a datagram at most.
    fn push(&mut self, frg: u8, payload: &[u8], held: usize) -> Place {
        let has_room = |chunk: &Chunk| {
            chunk.live > 0 && chunk.bytes.capacity().saturating_sub(chunk.bytes.len()) >= payload.len()
        };
        if !self.chunks.back().is_some_and(has_room) {
            let mut bytes = core::mem::take(&mut self.spare);
            if bytes.capacity() < payload.len() {
                bytes = Vec::with_capacity(held.min(MAX_CHUNK).max(payload.len()));
            }
            self.capacity = self.capacity.saturating_add(bytes.capacity());
            self.chunks.push_back(Chunk { bytes, live: 0 });
        }
        let behind = narrow(self.chunks.len().saturating_sub(1));
        let mut place =
            Place { chunk: self.first.wrapping_add(behind), start: 0, len: narrow(payload.len()), frg };
        if let Some(chunk) = self.chunks.back_mut() {
            place.start = narrow(chunk.bytes.len());
            chunk.bytes.extend_from_slice(payload);
            chunk.live = chunk.live.saturating_add(1);
        }
        place
    }

    fn get(&self, place: Place) -> &[u8] {
        let Some(chunk) = self.chunks.get(size(place.chunk.wrapping_sub(self.first))) else { return &[] };
        let start = size(place.start);
        chunk.bytes.get(start..start.saturating_add(size(place.len))).unwrap_or_default()
    }

    fn remove(&mut self, place: Place) {
        let Some(chunk) = self.chunks.get_mut(size(place.chunk.wrapping_sub(self.first))) else { return };
        chunk.live = chunk.live.saturating_sub(1);
        if chunk.live > 0 {
            return;
        }
        self.spare = core::mem::take(&mut chunk.bytes);
        self.capacity = self.capacity.saturating_sub(self.spare.capacity());
        self.spare.clear();
        while self.chunks.front().is_some_and(|chunk| chunk.live == 0) {
            self.chunks.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }
}

impl Ring {
    /// Moves what is held together where too much memory is held with it.
    fn compact(&mut self) {
        if self.store.capacity <= self.bytes.saturating_mul(2).saturating_add(MAX_WASTE) {
            return;
        }
        let (mut store, mut held) = (Store::default(), self.bytes);
        for place in self.slots.iter_mut().flatten() {
            *place = store.push(place.frg, self.store.get(*place), held);
            held = held.saturating_sub(size(place.len));
        }
        self.store = store;
    }
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
    pub(crate) fn insert(&mut self, sn: Seq, frg: u8, payload: &[u8]) {
        let Some(offset) = sn.offset_from(self.next) else { return };
        let ring = self.ring.make();
        if offset >= ring.slots.len() {
            ring.slots.resize(offset.saturating_add(1), None);
        }
        if let Some(slot) = ring.slots.get_mut(offset)
            && slot.is_none()
        {
            *slot = Some(ring.store.push(frg, payload, ring.bytes));
            ring.held = ring.held.saturating_add(1);
            ring.bytes = ring.bytes.saturating_add(payload.len());
        }
    }

    /// The segment at `rcv_nxt`, if it is there: its `frg` and its payload.
    pub(crate) fn front(&self) -> Option<(u8, &[u8])> {
        let ring = self.ring.get()?;
        let place = (*ring.slots.front()?)?;
        Some((place.frg, ring.store.get(place)))
    }

    /// Drops what [`front`](Self::front) returns, and advances.
    pub(crate) fn pop(&mut self) {
        let Some(ring) = self.ring.get_mut() else { return };
        let Some(place) = ring.slots.front().copied().flatten() else { return };
        ring.usage.note(ring.slots.len());
        ring.slots.pop_front();
        ring.held = ring.held.saturating_sub(1);
        ring.bytes = ring.bytes.saturating_sub(size(place.len));
        ring.store.remove(place);
        self.next = self.next.next();
        if !ring.slots.is_empty() {
            ring.compact();
        } else if ring.usage.is_exceeded(ring.slots.capacity()) {
            self.ring.clear();
        }
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

    /// Against a BTreeMap of u64 positions, from a start just below the wrap.
    #[test]
    fn same_as_a_map() {
        for seed in 0..crate::tests::rounds(50) {
            let start = u32::MAX - 20;
            let mut rng = crate::tests::Rng::new(seed);
            let mut ring = Assembler::new(Seq::new(start));
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
                        ring.insert(sn, step as u8, &data);
                        oracle.insert(position, (step as u8, data));
                    }
                } else {
                    let expected = oracle.remove(&base);
                    let got = ring.front().map(|(frg, data)| (frg, data.to_vec()));
                    ring.pop();
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
                if let Some(ring) = ring.ring.get() {
                    assert!(ring.store.capacity <= 2 * ring.bytes + MAX_WASTE + 50_000);
                }
            }
            while ring.front().is_some() {
                ring.pop();
                base += 1;
            }
            assert!(!oracle.contains_key(&base));
            if ring.is_empty() {
                ring.trim();
                assert!(ring.ring.get().is_none());
            }
        }
    }

    #[test]
    fn chunks_double_are_counted_and_end_with_their_last_segment() {
        let mut ring = Assembler::new(Seq::new(0));
        for sn in 1..=100u32 {
            ring.insert(Seq::new(sn), 0, &vec![sn as u8; 100 + sn as usize % 3]);
        }
        let store = |ring: &Assembler| {
            let store = &ring.ring.get().unwrap().store;
            let capacity: usize = store.chunks.iter().map(|chunk| chunk.bytes.capacity()).sum();
            assert_eq!(store.capacity, capacity);
            (store.chunks.len(), capacity)
        };
        let (chunks, capacity) = store(&ring);
        assert!(chunks <= 10 && capacity < 3 * ring.bytes(), "{chunks} chunks of {capacity} bytes");
        ring.insert(Seq::new(0), 0, b"x");
        let last = |ring: &Assembler| {
            let ring = ring.ring.get().unwrap();
            ring.store.get(ring.slots.back().unwrap().unwrap()).as_ptr()
        };
        let before = last(&ring);
        for sn in 0..100u32 {
            assert_eq!(ring.front().map(|(_, data)| data[0]), Some(if sn == 0 { b'x' } else { sn as u8 }));
            ring.pop();
            assert_eq!(last(&ring), before, "nothing moves where little is wasted");
        }
        ring.pop();
        assert_eq!(store(&ring), (0, 0));
    }

    /// A small segment far ahead in the chunk of large ones that are taken soon, again and again.
    #[test]
    fn a_small_segment_pins_no_large_chunk() {
        let mut ring = Assembler::new(Seq::new(0));
        let (mut far, large) = (1000u32, vec![7; 30_000]);
        for round in 0..200u32 {
            let next = ring.next();
            ring.insert(next, 0, &large);
            ring.insert(Seq::new(far), 0, &[round as u8]);
            far += 1;
            ring.pop();
            let held = ring.ring.get().unwrap();
            assert!(held.store.capacity <= 2 * held.bytes + MAX_WASTE, "round {round}");
        }
        assert_eq!((ring.bytes(), ring.next()), (200, Seq::new(200)));
        for sn in 200..1000 {
            ring.insert(Seq::new(sn), 0, &[]);
            ring.pop();
        }
        for round in 0..200u32 {
            assert_eq!(ring.front(), Some((0, &[round as u8][..])));
            ring.pop();
        }
        assert!(ring.is_empty());
    }
}
