//! Data in order: read as bytes or as whole messages.

use alloc::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::kept::Usage;
use crate::rare::Rare;
use crate::recv::store::{Piece, Place, Store};

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

#[derive(Debug, Default)]
struct Unread {
    pieces: VecDeque<Piece>,
    /// Of those that are `own`, in their order.
    own: VecDeque<Bytes>,
    usage: Usage,
}

/// A fragment number that does not continue the message under way.
#[derive(Debug)]
pub(crate) struct BrokenChain;

impl Unread {
    /// The payload of the first piece.
    fn front<'a>(&'a self, piece: Piece, store: &'a Store) -> &'a [u8] {
        match self.own.front() {
            Some(own) if piece.own => own,
            _ => store.get(piece.place),
        }
    }

    /// `len` bytes of the first piece have been read, which are not all.
    fn advance(&mut self, len: usize, store: &mut Store) {
        let Some(piece) = self.pieces.front_mut() else { return };
        match self.own.front_mut() {
            Some(own) if piece.own => {
                own.advance(len.min(own.len()));
                piece.place = Place::nowhere(own.len());
            }
            _ => store.advance(&mut piece.place, len),
        }
    }

    /// The first piece has been read.
    fn remove(&mut self, first: Piece, store: &mut Store) {
        self.pieces.pop_front();
        if first.own {
            self.own.pop_front();
        } else {
            store.remove(first.place);
        }
    }

    /// The first piece as bytes of its own.
    fn pop(&mut self, store: &mut Store) -> Option<(u8, Bytes)> {
        let piece = *self.pieces.front()?;
        let data = match self.own.front() {
            Some(own) if piece.own => own.clone(),
            _ => Bytes::copy_from_slice(store.get(piece.place)),
        };
        self.remove(piece, store);
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
    pub(crate) fn push(
        &mut self,
        stream: bool,
        frg: u8,
        payload: &[u8],
        store: &mut Store,
    ) -> Result<(), BrokenChain> {
        self.admit(stream, frg, payload.len())?;
        let unread = self.unread.make();
        let own = self.whole && !payload.is_empty();
        let place = if own {
            unread.own.push_back(Bytes::copy_from_slice(payload));
            Place::nowhere(payload.len())
        } else {
            store.push(payload)
        };
        unread.pieces.push_back(Piece { place, frg, own });
        Ok(())
    }

    /// Appends the next segment in order, which is in the store already.
    pub(crate) fn append(
        &mut self,
        stream: bool,
        mut piece: Piece,
        store: &mut Store,
    ) -> Result<(), BrokenChain> {
        if let Err(broken) = self.admit(stream, piece.frg, piece.place.len()) {
            store.remove(piece.place);
            return Err(broken);
        }
        let unread = self.unread.make();
        if self.whole && piece.place.len() > 0 {
            unread.own.push_back(Bytes::copy_from_slice(store.get(piece.place)));
            store.remove(piece.place);
            piece.own = true;
        }
        unread.pieces.push_back(piece);
        Ok(())
    }

    fn admit(&mut self, stream: bool, frg: u8, len: usize) -> Result<(), BrokenChain> {
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
        Ok(())
    }

    /// Whether a read would return something. An empty message counts: it is for
    /// [`pop_message`](Self::pop_message), while [`read`](Self::read) skips it.
    pub(crate) fn is_readable(&self, stream: bool) -> bool {
        if stream { self.bytes > 0 } else { self.complete > 0 }
    }

    /// Copies bytes out. In message mode never past the end of a message; a message longer than `buf` is continued
    /// by the next call, and empty messages are skipped. 0 when there is nothing.
    pub(crate) fn read(&mut self, stream: bool, buf: &mut [u8], store: &mut Store) -> usize {
        self.whole = false;
        let Some(unread) = self.unread.get_mut() else { return 0 };
        unread.usage.note(unread.pieces.len());
        let mut filled = 0usize;
        // In the middle of a message.
        let mut inside = false;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if !stream && self.complete == 0 {
                break;
            }
            let Some(&piece) = unread.pieces.front() else { break };
            let n = piece.place.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..n), unread.front(piece, store).get(..n)) {
                to.copy_from_slice(from);
            }
            filled = filled.saturating_add(n);
            self.bytes = self.bytes.saturating_sub(n);
            if n < piece.place.len() {
                unread.advance(n, store);
                break;
            }
            unread.remove(piece, store);
            inside = !stream && piece.frg != 0;
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
        let mut rest = pieces.iter().take_while(|piece| piece.place.len() == 0);
        let Some(last) = rest.position(|piece| piece.frg == 0) else { return };
        pieces.drain(..=last);
        self.complete = self.complete.saturating_sub(1);
    }

    /// Copies what a read would, and takes nothing.
    pub(crate) fn peek(&self, stream: bool, buf: &mut [u8], store: &Store) -> usize {
        let Some(unread) = self.unread.get().filter(|_| stream || self.complete > 0) else { return 0 };
        let mut own = unread.own.iter();
        let (mut rest, mut filled) = (buf, 0usize);
        for piece in &unread.pieces {
            let data = if piece.own { own.next().map_or(&[][..], |own| own) } else { store.get(piece.place) };
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
    pub(crate) fn pop_message(&mut self, stream: bool, store: &mut Store) -> Option<Bytes> {
        if !stream && self.complete == 0 {
            return None;
        }
        let unread = self.unread.get_mut()?;
        unread.usage.note(unread.pieces.len());
        let (frg, first) = unread.pop(store)?;
        self.whole = true;
        let message = if stream || frg == 0 { first } else { unread.join(frg, &first, store) };
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
            return self.pieces().next().map(|piece| piece.place.len());
        }
        if self.complete == 0 {
            return None;
        }
        let mut len = 0usize;
        for piece in self.pieces() {
            len = len.saturating_add(piece.place.len());
            if piece.frg == 0 {
                break;
            }
        }
        Some(len)
    }

    /// Throws everything away.
    pub(crate) fn clear(&mut self, store: &mut Store) {
        self.pieces().filter(|piece| !piece.own).for_each(|piece| store.remove(piece.place));
        self.unread.clear();
        self.complete = 0;
        self.bytes = 0;
    }

    /// All that is unread.
    pub(crate) fn pieces_mut(&mut self) -> impl Iterator<Item = &mut Piece> {
        self.unread.get_mut().into_iter().flat_map(|unread| &mut unread.pieces)
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
        if unread.usage.is_exceeded(unread.pieces.capacity().max(unread.own.capacity())) {
            self.unread.clear();
        }
    }
}

impl Unread {
    /// A message of several segments, of which the first has been taken.
    fn join(&mut self, mut frg: u8, first: &[u8], store: &mut Store) -> Bytes {
        let mut message = BytesMut::with_capacity(first.len().saturating_mul(usize::from(frg) + 1));
        message.extend_from_slice(first);
        while frg > 0
            && let Some(&piece) = self.pieces.front()
        {
            frg = piece.frg;
            message.extend_from_slice(self.front(piece, store));
            self.remove(piece, store);
        }
        message.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// A queue and the store of its payloads.
    #[derive(Default)]
    struct Queue {
        queue: ReadQueue,
        store: Store,
    }

    impl Queue {
        fn push(&mut self, stream: bool, frg: u8, payload: &[u8]) -> Result<(), BrokenChain> {
            self.queue.push(stream, frg, payload, &mut self.store)?;
            self.store.note();
            Ok(())
        }

        fn read(&mut self, stream: bool, buf: &mut [u8]) -> usize {
            self.queue.read(stream, buf, &mut self.store)
        }

        fn peek(&self, stream: bool, buf: &mut [u8]) -> usize {
            self.queue.peek(stream, buf, &self.store)
        }

        fn pop_message(&mut self, stream: bool) -> Option<Bytes> {
            self.queue.pop_message(stream, &mut self.store)
        }

        fn own(&self) -> usize {
            self.queue.unread.get().unwrap().own.len()
        }
    }

    impl core::ops::Deref for Queue {
        type Target = ReadQueue;

        fn deref(&self) -> &ReadQueue {
            &self.queue
        }
    }

    #[test]
    fn stream_reads_across_segments() {
        let mut queue = Queue::default();
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
        let mut queue = Queue::default();
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
        let mut queue2 = Queue::default();
        queue2.push(false, 0, b"").unwrap();
        queue2.push(false, 0, b"x").unwrap();
        assert_eq!(queue2.pop_message(false), Some(Bytes::new()));
        assert_eq!(queue.read(false, &mut buf), 3, "read skips the empty message");
        assert_eq!(&buf, b"efg");
        assert!(!queue.is_readable(false));
    }

    #[test]
    fn an_empty_last_fragment_leaves_no_message_behind() {
        let mut queue = Queue::default();
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
            let mut queue = Queue::default();
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
        let mut queue = Queue::default();
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
        let mut queue = Queue::default();
        let own = |queue: &mut Queue, data| {
            queue.push(false, 0, data).unwrap();
            queue.own()
        };
        assert_eq!(own(&mut queue, b"a"), 0);
        queue.pop_message(false).unwrap();
        assert_eq!([own(&mut queue, b"b"), own(&mut queue, b"")], [1, 1], "nothing needs no memory");
        queue.read(false, &mut [0; 1]);
        assert_eq!(own(&mut queue, b"c"), 0);
    }

    /// What has waited behind a hole is in the store already, and stays where it is unless each message has its own memory.
    #[test]
    fn what_is_in_the_store_is_not_copied() {
        let mut queue = Queue::default();
        let append = |queue: &mut Queue, frg, data: &[u8]| {
            let place = queue.store.push(data);
            let at = queue.store.get(place).as_ptr();
            queue.queue.append(false, Piece { place, frg, own: false }, &mut queue.store).map(|()| at)
        };
        let at = append(&mut queue, 0, b"abc").unwrap();
        let unread = queue.queue.unread.get().unwrap();
        assert_eq!(unread.front(unread.pieces[0], &queue.store).as_ptr(), at);
        assert_eq!(queue.read(false, &mut [0; 1]), 1);
        assert_eq!(queue.pop_message(false), Some(Bytes::from_static(b"bc")), "what is left of it");
        assert!(queue.store.keeps());
        append(&mut queue, 1, b"de").unwrap();
        assert!(queue.store.keeps(), "it has been copied once");
        assert!(append(&mut queue, 2, b"x").is_err());
        assert!(queue.store.keeps(), "nor is what does not belong there held");
        append(&mut queue, 0, b"").unwrap();
        assert_eq!((queue.own(), queue.bytes(), queue.len()), (1, 2, 2));
        assert_eq!((queue.read(false, &mut [0; 1]), queue.peek(false, &mut [0; 9])), (1, 1));
        assert_eq!(queue.pop_message(false), Some(Bytes::from_static(b"e")));
        append(&mut queue, 0, b"f").unwrap();
        queue.read(false, &mut [0; 1]);
        append(&mut queue, 0, b"gh").unwrap();
        assert!(!queue.store.keeps());
        queue.queue.clear(&mut queue.store);
        assert!(queue.store.keeps() && queue.bytes() == 0);
    }

    #[test]
    fn what_a_large_burst_needed_goes_back_after_many_small_ones() {
        let keeps = |queue: &Queue| [queue.keeps(), queue.store.keeps()];
        let small = |queue: &mut Queue| {
            queue.push(true, 0, b"x").unwrap();
            queue.read(true, &mut [0]);
            keeps(queue)
        };
        // Many segments, or many bytes: each for itself, an eighth less each time, down to a quarter.
        for (segments, len) in [(1000, 1), (20, 60_000)] {
            let mut queue = Queue::default();
            assert_eq!(keeps(&queue), [false, false]);
            for _ in 0..segments {
                queue.push(true, 0, &vec![0; len]).unwrap();
            }
            assert_eq!(keeps(&queue), [false, false]);
            queue.read(true, &mut vec![0; segments * len]);
            assert_eq!((queue.len(), keeps(&queue)), (0, [true, true]));
            assert_eq!((0..100).take_while(|_| small(&mut queue) == [true, true]).count(), 10, "{segments}");
            assert_eq!(small(&mut queue), [true, true], "it begins again");
            queue.queue.trim();
            queue.store.trim();
            assert_eq!(small(&mut queue), [true, true]);
            queue.queue.trim();
            queue.store.trim();
            assert_eq!(keeps(&queue), [false, false]);
        }
    }

    #[test]
    fn fragments_must_count_down() {
        let mut queue = Queue::default();
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
            let mut queue = Queue::default();
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
