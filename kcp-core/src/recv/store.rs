//! The memory of what has arrived: payloads back to back, where they stay until they are read, whatever order they came in.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::kept::Usage;
use crate::num::{narrow, size};
use crate::rare::Rare;

/// An allocation per chunk instead of one per segment.
#[derive(Debug, Default)]
pub(crate) struct Store {
    /// There since something arrived, and kept for what comes next until [`trim`](Self::trim).
    chunks: Rare<Chunks>,
}

/// Where a payload is. Each that [`push`](Store::push) returns goes back to [`remove`](Store::remove) once.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Place {
    chunk: u32,
    start: u32,
    len: u32,
}

impl Place {
    /// For what is not in the store.
    pub(crate) const fn nowhere(len: usize) -> Self {
        Self { chunk: 0, start: 0, len: narrow(len) }
    }

    pub(crate) const fn len(self) -> usize {
        size(self.len)
    }
}

/// A segment that has arrived, or what is left of it.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) place: Place,
    pub(crate) frg: u8,
    /// Its payload has memory of its own; the place only says how long it is.
    pub(crate) own: bool,
}

#[derive(Debug, Default)]
struct Chunks {
    /// What arrives goes there.
    last: Chunk,
    /// Before it, in order of arrival. Invariant: the first one holds something, if there is one.
    full: VecDeque<Chunk>,
    /// The number of the first; they count up, wrapping.
    first: u32,
    /// Bytes of all payloads in them.
    held: usize,
    /// Of all of them.
    capacity: usize,
    /// Used ones.
    spare: Vec<Vec<u8>>,
    /// In units of `UNIT` bytes.
    usage: Usage,
}

#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Payloads in it. Without any it is empty, and has memory only if it is the last.
    live: u32,
}

/// A chunk is as large as what is held already or was lately, between a segment and this, so that little is held beyond what has arrived.
const MAX_CHUNK: usize = 65_536;
/// Or as this, so that two small messages are no reason to allocate.
const MIN_CHUNK: usize = 512;
/// Chunks that wait to be used again.
const MAX_SPARE: usize = 16;
/// What is not held any more may take as much memory as what is, and so many bytes: a chunk lives as long as one of its segments,
/// which a peer can choose.
const MAX_WASTE: usize = 2 * MAX_CHUNK;
const UNIT: usize = 64;

impl Store {
    /// Holds a copy.
    #[inline]
    pub(crate) fn push(&mut self, payload: &[u8]) -> Place {
        if payload.is_empty() {
            return Place::default();
        }
        let chunks = self.chunks.make();
        let room = |chunk: &Chunk| chunk.bytes.capacity().saturating_sub(chunk.bytes.len());
        if room(&chunks.last) < payload.len() {
            chunks.grow(payload.len());
        }
        chunks.held = chunks.held.saturating_add(payload.len());
        let last = &mut chunks.last;
        // A chunk is as long as a datagram at most.
        let place = Place {
            chunk: chunks.first.wrapping_add(narrow(chunks.full.len())),
            start: narrow(last.bytes.len()),
            len: narrow(payload.len()),
        };
        last.bytes.extend_from_slice(payload);
        last.live = last.live.saturating_add(1);
        place
    }

    #[inline]
    pub(crate) fn get(&self, place: Place) -> &[u8] {
        let Some(chunks) = self.chunks.get() else { return &[] };
        let at = size(place.chunk.wrapping_sub(chunks.first));
        let chunk = chunks.full.get(at).unwrap_or(&chunks.last);
        let start = size(place.start);
        chunk.bytes.get(start..start.saturating_add(place.len())).unwrap_or_default()
    }

    /// The first `len` bytes of it, which are not all, are not needed any more.
    pub(crate) fn advance(&mut self, place: &mut Place, len: usize) {
        let len = narrow(len).min(place.len);
        place.start = place.start.saturating_add(len);
        place.len = place.len.saturating_sub(len);
        if let Some(chunks) = self.chunks.get_mut() {
            chunks.held = chunks.held.saturating_sub(size(len));
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, place: Place) {
        let Some(chunks) = self.chunks.get_mut().filter(|_| place.len > 0) else { return };
        chunks.held = chunks.held.saturating_sub(place.len());
        let at = size(place.chunk.wrapping_sub(chunks.first));
        let chunk = chunks.full.get_mut(at).unwrap_or(&mut chunks.last);
        chunk.live = chunk.live.saturating_sub(1);
        if chunk.live == 0 {
            chunk.bytes.clear();
            if at < chunks.full.len() {
                chunks.end(at);
            }
            if chunks.held == 0 && chunks.usage.is_exceeded(chunks.kept() / UNIT) {
                self.chunks.clear();
            }
        }
    }

    /// To be called when a datagram's payloads are there: whether to keep memory is asked when nothing is held.
    pub(crate) fn note(&mut self) {
        if let Some(chunks) = self.chunks.get_mut() {
            chunks.usage.note(chunks.held / UNIT);
        }
    }

    /// Whether too much memory is held for what is in it: then all of it is to be [moved](Self::move_from).
    pub(crate) fn is_wasteful(&self) -> bool {
        self.chunks.get().is_some_and(|it| it.capacity > it.held.saturating_mul(2).saturating_add(MAX_WASTE))
    }

    /// Holds a copy of what `other` holds.
    pub(crate) fn move_from(&mut self, other: &Self, piece: &mut Piece) {
        if !piece.own {
            piece.place = self.push(other.get(piece.place));
        }
    }

    /// Whether memory is kept although nothing is held.
    pub(crate) fn keeps(&self) -> bool {
        self.chunks.get().is_some_and(|chunks| chunks.held == 0)
    }

    /// An idle session keeps no buffer.
    pub(crate) fn trim(&mut self) {
        if self.keeps() {
            self.chunks.clear();
        }
    }
}

impl Chunks {
    /// Makes room for a payload of so many bytes.
    #[inline(never)]
    fn grow(&mut self, len: usize) {
        let used = self.spare.pop().filter(|chunk| chunk.capacity() >= len);
        let bytes = used.unwrap_or_else(|| {
            // That is an eighth less already.
            let lately = self.usage.lately().saturating_mul(UNIT * 5 / 4);
            Vec::with_capacity(self.held.max(lately).clamp(MIN_CHUNK, MAX_CHUNK).max(len))
        });
        self.capacity = self.capacity.saturating_add(bytes.capacity());
        let before = core::mem::replace(&mut self.last, Chunk { bytes, live: 0 });
        if before.live > 0 {
            self.full.push_back(before);
        } else {
            self.retire(before.bytes);
        }
    }

    /// Nothing is left in a chunk that is not the last.
    #[inline(never)]
    fn end(&mut self, at: usize) {
        let bytes = self.full.get_mut(at).map(|chunk| core::mem::take(&mut chunk.bytes));
        self.retire(bytes.unwrap_or_default());
        while self.full.front().is_some_and(|chunk| chunk.live == 0) {
            self.full.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Of the small ones that it began with none is worth keeping.
    fn retire(&mut self, mut bytes: Vec<u8>) {
        self.capacity = self.capacity.saturating_sub(bytes.capacity());
        if bytes.capacity() >= MAX_CHUNK && self.spare.len() < MAX_SPARE {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    fn kept(&self) -> usize {
        self.spare.iter().fold(self.capacity, |sum, chunk| sum.saturating_add(chunk.capacity()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec;

    fn chunks(store: &Store) -> &Chunks {
        let chunks = store.chunks.get().unwrap();
        let all = chunks.full.iter().chain([&chunks.last]);
        assert_eq!(chunks.capacity, all.map(|chunk| chunk.bytes.capacity()).sum::<usize>());
        chunks
    }

    fn count(store: &Store) -> usize {
        chunks(store).full.len() + 1
    }

    /// Payloads of random lengths that go in random order, some of them in two steps, against a map.
    #[test]
    fn same_as_a_map() {
        for seed in 0..crate::tests::rounds(50) {
            let mut rng = crate::tests::Rng::new(seed);
            let mut store = Store::default();
            let mut oracle: BTreeMap<u64, (Piece, Vec<u8>)> = BTreeMap::new();
            let longest = if seed % 5 == 0 { 50_000 } else { 100 };
            for step in 0..1000u64 {
                if rng.chance(if step < 500 { 60 } else { 40 }) {
                    let data = vec![step as u8; rng.below(longest) as usize];
                    let piece = Piece { place: store.push(&data), frg: 0, own: false };
                    oracle.insert(step, (piece, data));
                } else if !oracle.is_empty() {
                    let key = *oracle.keys().nth(rng.below(oracle.len() as u64) as usize).unwrap();
                    let (piece, data) = oracle.get_mut(&key).unwrap();
                    assert_eq!((store.get(piece.place), piece.place.len()), (&data[..], data.len()));
                    let part = data.len() / 3;
                    if rng.chance(30) && part > 0 {
                        store.advance(&mut piece.place, part);
                        data.drain(..part);
                        assert_eq!(store.get(piece.place), data);
                    } else {
                        store.remove(piece.place);
                        oracle.remove(&key);
                    }
                }
                let held = oracle.values().map(|(_, data)| data.len()).sum::<usize>();
                if held == 0 && store.chunks.get().is_none() {
                    continue;
                }
                assert_eq!(
                    (chunks(&store).held, store.keeps()),
                    (held, held == 0),
                    "seed {seed} step {step}"
                );
                let was = store.is_wasteful();
                assert_eq!(was, chunks(&store).capacity > 2 * held + MAX_WASTE);
                if was {
                    let before = core::mem::take(&mut store);
                    oracle.values_mut().for_each(|(piece, _)| store.move_from(&before, piece));
                    assert!(!store.is_wasteful(), "seed {seed} step {step}");
                }
            }
            for (piece, data) in oracle.values() {
                assert_eq!(store.get(piece.place), data, "seed {seed}");
                store.remove(piece.place);
            }
            store.trim();
            assert!(store.chunks.get().is_none());
        }
    }

    #[test]
    fn chunks_double_and_end_with_their_last_payload() {
        let mut store = Store::default();
        let places: Vec<Place> = (0..100u8).map(|n| store.push(&vec![n; 100 + usize::from(n) % 3])).collect();
        let (count, capacity, held) = (count(&store), chunks(&store).capacity, chunks(&store).held);
        assert!(count <= 10 && capacity < 3 * held, "{count} chunks of {capacity} bytes");
        store.note();
        let last = store.get(places[99]).as_ptr();
        for (n, &place) in (0..100u8).zip(&places) {
            assert_eq!(store.get(place)[0], n);
            assert_eq!(store.get(places[99]).as_ptr(), last, "nothing moves");
            store.remove(place);
        }
        assert_eq!((self::count(&store), store.keeps()), (1, true));
        // As large as what was held lately: that all of it fits into one the next time.
        let places: Vec<Place> = (0..100u8).map(|n| store.push(&[n; 100])).collect();
        store.note();
        places.iter().for_each(|&place| store.remove(place));
        let places: Vec<Place> = (0..100u8).map(|n| store.push(&[n; 100])).collect();
        assert_eq!(self::count(&store), 1);
        places.iter().for_each(|&place| store.remove(place));
        assert_eq!(self::count(&store), 1);
    }

    /// One small one in the chunk of large ones that are read soon, again and again.
    #[test]
    fn a_small_payload_pins_no_large_chunk_for_ever() {
        let (mut store, large) = (Store::default(), vec![7; 30_000]);
        let mut far = vec![];
        let mut moves = 0;
        for round in 0..200u8 {
            let now = store.push(&large);
            far.push(Piece { place: store.push(&[round]), frg: 0, own: false });
            store.remove(now);
            if store.is_wasteful() {
                let before = core::mem::take(&mut store);
                far.iter_mut().for_each(|piece| store.move_from(&before, piece));
                moves += 1;
            }
            assert!(chunks(&store).capacity <= 2 * far.len() + MAX_WASTE);
        }
        assert!((20..100).contains(&moves), "{moves}");
        for (round, piece) in (0..200u8).zip(&far) {
            assert_eq!(store.get(piece.place), [round]);
        }
    }

    #[test]
    fn so_many_large_chunks_are_used_again() {
        let mut store = Store::default();
        let spare = |store: &Store| store.chunks.get().unwrap().spare.len();
        let places: Vec<Place> = (0..40).map(|_| store.push(&[0; 60_000])).collect();
        store.remove(places[39]);
        store.push(&[0; 60_000]);
        assert_eq!(spare(&store), 0, "the last one is written to again");
        places.iter().take(39).for_each(|&place| store.remove(place));
        assert_eq!(spare(&store), MAX_SPARE);
        for n in 1..=3 {
            store.push(&[0; 60_000]);
            assert_eq!(spare(&store), MAX_SPARE - n);
        }
    }

    #[test]
    fn an_empty_last_chunk_without_room_gives_way() {
        let mut store = Store::default();
        let first = store.push(b"first");
        let second = store.push(b"second");
        store.remove(second);
        let third = store.push(&[3; 1000]);
        assert_eq!((store.get(first), count(&store)), (&b"first"[..], 2));
        store.remove(first);
        assert_eq!((store.get(third), count(&store)), (&[3; 1000][..], 1));
        store.remove(Place::default());
        assert_eq!(store.get(Place::default()), b"");
        assert!(!store.keeps());
    }
}
