//! Data in order: read as bytes or as whole messages.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::{Buf, Bytes, BytesMut};

use crate::kept::Usage;
use crate::num::{narrow, size};
use crate::rare::Rare;

/// Segments in order that the application has not read (`rcv_queue`).
#[derive(Debug, Default)]
pub(crate) struct ReadQueue {
    /// There while something is unread, and kept for what comes next until [`trim`](Self::trim).
    unread: Rare<Unread>,
    /// Message mode: complete messages in it.
    complete: u32,
    /// Message mode: the number that the next segment must carry while a message is under way.
    expected: Option<u8>,
    /// The application takes messages as they are, and may keep one of many: each has its own memory then.
    whole: bool,
    bytes: usize,
}

/// A segment that was not read, or what is left of it.
#[derive(Copy, Clone, Debug)]
struct Piece {
    len: u32,
    frg: u8,
    /// Its payload is the next of `own`, otherwise the next in the store.
    own: bool,
}

#[derive(Debug, Default)]
struct Unread {
    pieces: VecDeque<Piece>,
    own: VecDeque<Bytes>,
    store: Store,
    usage: Usage,
    /// Of the store, in units of `UNIT` bytes.
    stored: Usage,
}

const UNIT: usize = 64;

/// Payload back to back: an allocation per chunk instead of one per segment. A piece never spans two chunks.
#[derive(Debug, Default)]
struct Store {
    /// Read up to `head`. Invariant: nothing comes after it while it is empty.
    front: Vec<u8>,
    head: usize,
    more: VecDeque<Vec<u8>>,
    /// Used ones.
    spare: Vec<Vec<u8>>,
}

/// A chunk is as large as what is unread already, between a segment and this, so that little is held beyond the unread bytes.
const MAX_CHUNK: usize = 65_536;
/// Chunks that wait to be used again.
const MAX_SPARE: usize = 16;

/// A fragment number that does not continue the message under way.
#[derive(Debug)]
pub(crate) struct BrokenChain;

impl Store {
    /// `unread`: bytes that are unread already.
    fn append(&mut self, payload: &[u8], unread: usize) {
        let back = self.more.back_mut().unwrap_or(&mut self.front);
        if back.capacity().saturating_sub(back.len()) >= payload.len() {
            back.extend_from_slice(payload);
            return;
        }
        let used = self.spare.pop().filter(|chunk| chunk.capacity() >= payload.len());
        let mut chunk = used.unwrap_or_else(|| Vec::with_capacity(unread.min(MAX_CHUNK).max(payload.len())));
        chunk.extend_from_slice(payload);
        if self.front.is_empty() {
            self.front = chunk;
        } else {
            self.more.push_back(chunk);
        }
    }

    /// The next `len` bytes, which are of one piece.
    fn next(&self, len: usize) -> &[u8] {
        self.front.get(self.head..self.head.saturating_add(len)).unwrap_or_default()
    }

    fn advance(&mut self, len: usize) {
        self.head = self.head.saturating_add(len);
        if self.head >= self.front.len() {
            self.head = 0;
            self.front.clear();
            if let Some(next) = self.more.pop_front() {
                let used = core::mem::replace(&mut self.front, next);
                // Of the small ones that it began with none is worth keeping.
                if used.capacity() >= MAX_CHUNK && self.spare.len() < MAX_SPARE {
                    self.spare.push(used);
                }
            }
        }
    }

    /// Of what is kept while nothing is unread.
    fn capacity(&self) -> usize {
        self.spare.iter().fold(self.front.capacity(), |sum, chunk| sum.saturating_add(chunk.capacity()))
    }

    fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.front.get(self.head..).unwrap_or_default();
        core::iter::once(first).chain(self.more.iter().map(Vec::as_slice))
    }
}

impl Unread {
    fn note(&mut self, bytes: usize) {
        self.usage.note(self.pieces.len());
        self.stored.note(bytes / UNIT);
    }

    /// Bytes of a piece that is not empty.
    fn front(&self, piece: Piece) -> &[u8] {
        match self.own.front() {
            Some(own) if piece.own => own,
            _ => self.store.next(size(piece.len)),
        }
    }

    /// `len` bytes of the first piece have been read.
    fn advance(&mut self, piece: Piece, len: usize) {
        match self.own.front_mut() {
            Some(own) if piece.own => {
                own.advance(len.min(own.len()));
                if own.is_empty() {
                    self.own.pop_front();
                }
            }
            _ => self.store.advance(len),
        }
    }

    /// The first piece as bytes of its own.
    fn pop(&mut self) -> Option<(u8, Bytes)> {
        let piece = self.pieces.pop_front()?;
        if piece.own
            && let Some(own) = self.own.pop_front()
        {
            return Some((piece.frg, own));
        }
        let data = Bytes::copy_from_slice(self.store.next(size(piece.len)));
        self.store.advance(data.len());
        Some((piece.frg, data))
    }
}

impl ReadQueue {
    /// Segments held; they occupy the receive window.
    pub(crate) fn len(&self) -> usize {
        self.unread.get().map_or(0, |unread| unread.pieces.len())
    }

    /// Unread payload bytes.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a copy of the next segment in order.
    pub(crate) fn push(&mut self, stream: bool, frg: u8, payload: &[u8]) -> Result<(), BrokenChain> {
        let before = self.bytes;
        let piece = self.admit(stream, frg, payload.len())?;
        let unread = self.unread.make();
        if piece.own {
            unread.own.push_back(Bytes::copy_from_slice(payload));
        } else {
            unread.store.append(payload, before);
        }
        unread.pieces.push_back(piece);
        Ok(())
    }

    fn admit(&mut self, stream: bool, frg: u8, len: usize) -> Result<Piece, BrokenChain> {
        if !stream {
            if self.expected.is_some_and(|expected| expected != frg) {
                return Err(BrokenChain);
            }
            self.expected = frg.checked_sub(1);
            if self.expected.is_none() {
                self.complete = self.complete.saturating_add(1);
            }
        }
        self.bytes = self.bytes.saturating_add(len);
        // No datagram is longer.
        Ok(Piece { len: u32::try_from(len).unwrap_or(u32::MAX), frg, own: self.whole && len > 0 })
    }

    /// Whether a read would return something. An empty message counts: it is for
    /// [`pop_message`](Self::pop_message), while [`read`](Self::read) skips it.
    pub(crate) fn is_readable(&self, stream: bool) -> bool {
        if stream { self.bytes > 0 } else { self.complete > 0 }
    }

    /// Copies bytes out. In message mode never past the end of a message; a message longer than `buf` is continued
    /// by the next call, and empty messages are skipped. 0 when there is nothing.
    pub(crate) fn read(&mut self, stream: bool, buf: &mut [u8]) -> usize {
        self.whole = false;
        let Some(unread) = self.unread.get_mut() else { return 0 };
        unread.note(self.bytes);
        let mut filled = 0usize;
        // In the middle of a message.
        let mut inside = false;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if !stream && self.complete == 0 {
                break;
            }
            let Some(&piece) = unread.pieces.front() else { break };
            let n = size(piece.len).min(rest.len());
            if n > 0 {
                if let (Some(to), Some(from)) = (rest.get_mut(..n), unread.front(piece).get(..n)) {
                    to.copy_from_slice(from);
                }
                unread.advance(piece, n);
            }
            filled = filled.saturating_add(n);
            self.bytes = self.bytes.saturating_sub(n);
            // At most piece.len.
            let left = piece.len.saturating_sub(narrow(n));
            if left > 0 {
                if let Some(front) = unread.pieces.front_mut() {
                    front.len = left;
                }
                break;
            }
            inside = !stream && piece.frg != 0;
            unread.pieces.pop_front();
            if !stream && !inside {
                self.complete = self.complete.saturating_sub(1);
                if filled > 0 {
                    break;
                }
            }
        }
        if inside {
            self.skip_empty_rest();
        }
        self.settle();
        filled
    }

    /// A message of which only empty fragments are left has been read.
    fn skip_empty_rest(&mut self) {
        let Some(Unread { pieces, .. }) = self.unread.get_mut() else { return };
        let mut rest = pieces.iter().take_while(|piece| piece.len == 0);
        let Some(last) = rest.position(|piece| piece.frg == 0) else { return };
        pieces.drain(..=last);
        self.complete = self.complete.saturating_sub(1);
    }

    /// Copies what a read would, and takes nothing.
    pub(crate) fn peek(&self, stream: bool, buf: &mut [u8]) -> usize {
        let Some(unread) = self.unread.get().filter(|_| stream || self.complete > 0) else { return 0 };
        let (mut own, mut chunks) = (unread.own.iter(), unread.store.chunks());
        let (mut chunk, mut rest, mut filled) = (&[][..], buf, 0usize);
        for piece in &unread.pieces {
            let mut data = &[][..];
            if piece.own {
                data = own.next().map_or(data, |own| own);
            } else if piece.len > 0 {
                while chunk.is_empty()
                    && let Some(next) = chunks.next()
                {
                    chunk = next;
                }
                (data, chunk) = chunk.split_at(size(piece.len).min(chunk.len()));
            }
            let n = data.len().min(rest.len());
            let (to, later) = rest.split_at_mut(n);
            to.copy_from_slice(data.get(..n).unwrap_or_default());
            rest = later;
            filled = filled.saturating_add(n);
            if rest.is_empty() || (!stream && piece.frg == 0 && filled > 0) {
                break;
            }
        }
        filled
    }

    /// Takes the next whole message (what is left of it after a partial read); in stream mode the next chunk.
    pub(crate) fn pop_message(&mut self, stream: bool) -> Option<Bytes> {
        if !stream && self.complete == 0 {
            return None;
        }
        let unread = self.unread.get_mut()?;
        unread.note(self.bytes);
        let (frg, first) = unread.pop()?;
        self.whole = true;
        let message = if stream || frg == 0 { first } else { unread.join(frg, &first) };
        self.complete = self.complete.saturating_sub(u32::from(!stream));
        self.bytes = self.bytes.saturating_sub(message.len());
        self.settle();
        Some(message)
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.unread.get().into_iter().flat_map(|unread| &unread.pieces)
    }

    /// Length of the next whole message; in stream mode of the next chunk (`ikcp_peeksize`).
    pub(crate) fn peek_len(&self, stream: bool) -> Option<usize> {
        if stream {
            return self.pieces().next().map(|piece| size(piece.len));
        }
        if self.complete == 0 {
            return None;
        }
        let mut len = 0usize;
        for piece in self.pieces() {
            len = len.saturating_add(size(piece.len));
            if piece.frg == 0 {
                break;
            }
        }
        Some(len)
    }

    /// Throws everything away.
    pub(crate) fn clear(&mut self) {
        self.unread.clear();
        self.complete = 0;
        self.bytes = 0;
    }

    /// Whether memory is kept although nothing is unread.
    pub(crate) fn keeps(&self) -> bool {
        self.unread.get().is_some_and(|unread| unread.pieces.is_empty())
    }

    /// An idle session keeps no buffer.
    pub(crate) fn trim(&mut self) {
        if self.keeps() {
            self.unread.clear();
        }
    }

    /// What is kept while nothing is unread is in proportion to what came lately.
    fn settle(&mut self) {
        let Some(unread) = self.unread.get_mut().filter(|unread| unread.pieces.is_empty()) else { return };
        let capacity = unread.pieces.capacity().max(unread.own.capacity());
        let stored = unread.store.capacity();
        let excess = unread.usage.is_exceeded(capacity);
        if unread.stored.is_exceeded(stored / UNIT) || excess {
            self.unread.clear();
        }
    }
}

impl Unread {
    /// A message of several segments, of which the first has been taken.
    fn join(&mut self, mut frg: u8, first: &[u8]) -> Bytes {
        let mut message = BytesMut::with_capacity(first.len().saturating_mul(usize::from(frg) + 1));
        message.extend_from_slice(first);
        while frg > 0
            && let Some(piece) = self.pieces.pop_front()
        {
            frg = piece.frg;
            message.extend_from_slice(self.front(piece));
            self.advance(piece, size(piece.len));
        }
        message.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn stream_reads_across_segments() {
        let mut queue = ReadQueue::default();
        for data in [b"abc".as_slice(), b"de", b"f"] {
            queue.push(true, 0, data).unwrap();
        }
        let mut buf = [0; 4];
        assert_eq!(queue.read(true, &mut buf), 4);
        assert_eq!(&buf, b"abcd");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.read(true, &mut buf), 2);
        assert_eq!(&buf[..2], b"ef");
        assert_eq!((queue.read(true, &mut buf), queue.bytes(), queue.len()), (0, 0, 0));
    }

    #[test]
    fn messages_keep_their_boundaries() {
        let mut queue = ReadQueue::default();
        queue.push(false, 1, b"ab").unwrap();
        assert!(!queue.is_readable(false) && queue.peek_len(false).is_none());
        assert_eq!(queue.read(false, &mut [0; 8]), 0, "an incomplete message is not read");
        assert_eq!(queue.peek(false, &mut [0; 8]), 0);
        queue.push(false, 0, b"cd").unwrap();
        queue.push(false, 0, b"").unwrap();
        queue.push(false, 0, b"efg").unwrap();
        assert_eq!(queue.peek_len(false), Some(4));
        let mut buf = [0; 3];
        assert_eq!((queue.read(false, &mut buf), &buf), (3, b"abc"));
        assert_eq!(queue.pop_message(false), Some(Bytes::from_static(b"d")), "the rest of a partly read one");
        assert_eq!(queue.peek_len(false), Some(0));
        let mut queue2 = ReadQueue::default();
        queue2.push(false, 0, b"").unwrap();
        queue2.push(false, 0, b"x").unwrap();
        assert_eq!(queue2.pop_message(false), Some(Bytes::new()));
        assert_eq!(queue.read(false, &mut buf), 3, "read skips the empty message");
        assert_eq!(&buf, b"efg");
        assert!(!queue.is_readable(false));
    }

    #[test]
    fn an_empty_last_fragment_leaves_no_message_behind() {
        let mut queue = ReadQueue::default();
        for (frg, data) in [(2, b"ab".as_slice()), (1, b""), (0, b""), (0, b"c")] {
            queue.push(false, frg, data).unwrap();
        }
        assert_eq!(queue.read(false, &mut [0; 2]), 2);
        assert_eq!((queue.len(), queue.peek_len(false)), (1, Some(1)));
        assert_eq!(queue.pop_message(false), Some(Bytes::from_static(b"c")));
        // Of one that has not arrived whole nothing is read.
        queue.push(false, 1, b"d").unwrap();
        assert_eq!((queue.read(false, &mut [0; 1]), queue.len()), (0, 1));
    }

    #[test]
    fn a_peek_shows_what_a_read_takes() {
        for stream in [true, false] {
            let mut queue = ReadQueue::default();
            for (frg, data) in [(0, b"".as_slice()), (1, b"ab"), (0, b"cd"), (0, b"ef")] {
                if !(stream && data.is_empty()) {
                    queue.push(stream, frg, data).unwrap();
                }
            }
            for len in [1, 2, 3, 4, 5, 6] {
                let (mut seen, mut read) = ([0; 6], [0; 6]);
                let n = queue.peek(stream, &mut seen[..len]);
                assert_eq!(queue.peek(stream, &mut seen[..len]), n);
                if len == 6 {
                    assert_eq!(queue.read(stream, &mut read), n);
                    assert_eq!((n, seen), if stream { (6, *b"abcdef") } else { (4, *b"abcd\0\0") });
                }
            }
        }
    }

    #[test]
    fn a_stream_is_taken_segment_by_segment() {
        let mut queue = ReadQueue::default();
        for (frg, data) in [(200, b"ab"), (0, b"cd"), (0, b"ef")] {
            queue.push(true, frg, data).unwrap();
        }
        assert_eq!(queue.peek_len(true), Some(2));
        assert_eq!(queue.pop_message(true), Some(Bytes::from_static(b"ab")));
        assert_eq!((queue.read(true, &mut [0; 1]), queue.bytes()), (1, 3));
        assert_eq!(queue.pop_message(true), Some(Bytes::from_static(b"d")), "what is left of it");
        assert_eq!(queue.pop_message(true), Some(Bytes::from_static(b"ef")));
        assert_eq!((queue.pop_message(true), queue.len()), (None, 0));
    }

    #[test]
    fn each_has_its_own_memory_where_whole_messages_are_taken() {
        let mut queue = ReadQueue::default();
        let own = |queue: &mut ReadQueue, data| {
            queue.push(false, 0, data).unwrap();
            queue.unread.get().unwrap().own.len()
        };
        assert_eq!(own(&mut queue, b"a"), 0);
        queue.pop_message(false).unwrap();
        assert_eq!([own(&mut queue, b"b"), own(&mut queue, b"")], [1, 1], "nothing needs no memory");
        queue.read(false, &mut [0; 1]);
        assert_eq!(own(&mut queue, b"c"), 0);
    }

    #[test]
    fn what_a_large_burst_needed_goes_back_after_many_small_ones() {
        let small = |queue: &mut ReadQueue, len: usize| {
            queue.push(true, 0, &vec![0; len]).unwrap();
            queue.read(true, &mut vec![0; len]);
            queue.keeps()
        };
        // Many segments, or many bytes: either is enough. An eighth less each time, down to a quarter.
        for (segments, len, bursts) in [(1000, 1, 10), (20, 60_000, 10)] {
            let mut queue = ReadQueue::default();
            assert!(!queue.keeps());
            for _ in 0..segments {
                queue.push(true, 0, &vec![0; len]).unwrap();
            }
            assert!(!queue.keeps());
            queue.read(true, &mut vec![0; segments * len]);
            assert_eq!((queue.len(), queue.keeps()), (0, true));
            assert_eq!((0..100).take_while(|_| small(&mut queue, 1)).count(), bursts, "{segments}");
            queue.trim();
            assert!(small(&mut queue, 1));
            queue.trim();
            assert!(!queue.keeps());
        }
    }

    #[test]
    fn so_many_large_chunks_are_used_again() {
        let mut queue = ReadQueue::default();
        let spare = |queue: &ReadQueue| queue.unread.get().unwrap().store.spare.len();
        for _ in 0..40 {
            queue.push(true, 0, &vec![0; 60_000]).unwrap();
        }
        queue.read(true, &mut vec![0; 59_999]);
        assert_eq!(spare(&queue), 0);
        queue.read(true, &mut vec![0; 39 * 60_000]);
        assert_eq!(spare(&queue), MAX_SPARE);
        for n in 1..=3 {
            queue.push(true, 0, &vec![0; 60_000]).unwrap();
            assert_eq!(spare(&queue), MAX_SPARE - n);
        }
    }

    #[test]
    fn fragments_must_count_down() {
        let mut queue = ReadQueue::default();
        queue.push(false, 2, b"a").unwrap();
        assert!(queue.push(false, 0, b"b").is_err());
        queue.push(false, 1, b"b").unwrap();
        queue.push(false, 0, b"c").unwrap();
        assert_eq!(queue.pop_message(false).unwrap(), vec![b'a', b'b', b'c']);
        // Stream mode ignores the numbers.
        queue.push(true, 200, b"z").unwrap();
        assert_eq!(queue.read(true, &mut [0; 8]), 1);
    }

    /// Fragments of random messages in, reads of random kinds out: what comes out is what a list of byte strings gives.
    #[test]
    fn same_as_a_list_of_messages() {
        for seed in 0..crate::tests::rounds(200) {
            let mut rng = crate::tests::Rng::new(seed);
            let stream = seed % 2 == 0;
            let mut queue = ReadQueue::default();
            // Whole messages that were not read yet; in stream mode their bytes.
            let mut oracle: alloc::collections::VecDeque<alloc::vec::Vec<u8>> =
                alloc::collections::VecDeque::new();
            for step in 0..300u64 {
                if rng.chance(50) {
                    let fragments = if stream { 1 } else { 1 + rng.below(4) };
                    let mut message = vec![];
                    for frg in (0..fragments).rev() {
                        // A stream's empty segments never get here.
                        let len = rng.below(6) + u64::from(stream);
                        let data: alloc::vec::Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
                        message.extend_from_slice(&data);
                        queue.push(stream, frg as u8, &data).unwrap();
                    }
                    oracle.push_back(message);
                } else if rng.chance(70) {
                    let len = rng.below(9) as usize;
                    let (mut seen, mut buf) = (vec![0; len], vec![0; len]);
                    let n = queue.peek(stream, &mut seen);
                    assert_eq!(queue.read(stream, &mut buf), n, "seed {seed} step {step}");
                    assert_eq!(seen[..n], buf[..n]);
                    let mut expected = vec![];
                    while len > 0
                        && expected.len() < len
                        && let Some(front) = oracle.front_mut()
                    {
                        let take = front.len().min(len - expected.len());
                        expected.extend(front.drain(..take));
                        let ended = front.is_empty();
                        if ended {
                            oracle.pop_front();
                        }
                        if !(stream || ended && expected.is_empty()) {
                            break;
                        }
                    }
                    assert_eq!(buf[..n], expected, "seed {seed} step {step}");
                } else if !stream {
                    assert_eq!(queue.peek_len(stream), oracle.front().map(alloc::vec::Vec::len));
                    assert_eq!(queue.pop_message(stream).map(|m| m.to_vec()), oracle.pop_front());
                }
                assert_eq!(queue.bytes(), oracle.iter().map(alloc::vec::Vec::len).sum::<usize>());
                assert_eq!(queue.is_readable(stream), !oracle.is_empty(), "seed {seed} step {step}");
            }
        }
    }
}
