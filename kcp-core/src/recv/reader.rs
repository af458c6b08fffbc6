//! Data in order: read as bytes or as whole messages.

use alloc::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::rare::Rare;
use crate::recv::assembler::Received;

/// Segments in order that the application has not read (`rcv_queue`).
#[derive(Debug, Default)]
pub(crate) struct ReadQueue {
    /// There while something is unread.
    unread: Rare<Unread>,
    /// Message mode: complete messages in it.
    complete: u32,
    /// Message mode: the number that the next segment must carry while a message is under way.
    expected: Option<u8>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Unread {
    segments: VecDeque<Received>,
    /// Payload of segments in order is copied here, and they share it: an allocation per doubling instead of one per segment.
    chunk: BytesMut,
}

/// A chunk is as large as what is unread already, between a segment and this. It lives as long as one of its segments is
/// unread, so that at most one chunk is held beyond the unread bytes.
const MAX_CHUNK: usize = 65_536;

/// A fragment number that does not continue the message under way.
#[derive(Debug)]
pub(crate) struct BrokenChain;

impl ReadQueue {
    /// Segments held; they occupy the receive window.
    pub(crate) fn len(&self) -> usize {
        self.unread.get().map_or(0, |unread| unread.segments.len())
    }

    /// Unread payload bytes.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps the payload of the next segment in order.
    pub(crate) fn copy(&mut self, payload: &[u8]) -> Bytes {
        let Some(Unread { chunk, .. }) = self.unread.get_mut() else {
            return Bytes::copy_from_slice(payload);
        };
        if chunk.capacity() < payload.len() {
            let size = self.bytes.min(MAX_CHUNK).max(payload.len());
            *chunk = BytesMut::with_capacity(size);
        }
        chunk.extend_from_slice(payload);
        chunk.split().freeze()
    }

    /// Appends the next segment in order.
    pub(crate) fn push(&mut self, stream: bool, segment: Received) -> Result<(), BrokenChain> {
        if !stream {
            if self.expected.is_some_and(|expected| expected != segment.frg) {
                return Err(BrokenChain);
            }
            self.expected = segment.frg.checked_sub(1);
            if self.expected.is_none() {
                self.complete = self.complete.saturating_add(1);
            }
        }
        self.bytes = self.bytes.saturating_add(segment.data.len());
        self.unread.make().segments.push_back(segment);
        Ok(())
    }

    /// Whether a read would return something. An empty message counts: it is for
    /// [`pop_message`](Self::pop_message), while [`read`](Self::read) skips it.
    pub(crate) fn is_readable(&self, stream: bool) -> bool {
        if stream { self.bytes > 0 } else { self.complete > 0 }
    }

    /// Copies bytes out. In message mode never past the end of a message; a message longer than `buf` is continued
    /// by the next call, and empty messages are skipped. 0 when there is nothing.
    pub(crate) fn read(&mut self, stream: bool, buf: &mut [u8]) -> usize {
        let mut filled = 0usize;
        // In the middle of a message.
        let mut inside = false;
        while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            if !stream && self.complete == 0 {
                break;
            }
            let Some(Unread { segments, .. }) = self.unread.get_mut() else { break };
            let Some(front) = segments.front_mut() else { break };
            let n = front.data.len().min(rest.len());
            if let (Some(to), Some(from)) = (rest.get_mut(..n), front.data.get(..n)) {
                to.copy_from_slice(from);
            }
            front.data.advance(n);
            filled = filled.saturating_add(n);
            self.bytes = self.bytes.saturating_sub(n);
            if !front.data.is_empty() {
                break;
            }
            inside = !stream && front.frg != 0;
            segments.pop_front();
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
        self.release();
        filled
    }

    /// A message of which only empty fragments are left has been read.
    fn skip_empty_rest(&mut self) {
        let Some(Unread { segments, .. }) = self.unread.get_mut() else { return };
        let mut rest = segments.iter().take_while(|segment| segment.data.is_empty());
        let Some(last) = rest.position(|segment| segment.frg == 0) else { return };
        segments.drain(..=last);
        self.complete = self.complete.saturating_sub(1);
    }

    /// Copies what a read would, and takes nothing.
    pub(crate) fn peek(&self, stream: bool, buf: &mut [u8]) -> usize {
        let mut rest = buf;
        let mut filled = 0usize;
        if !stream && self.complete == 0 {
            return 0;
        }
        for segment in self.segments() {
            let n = segment.data.len().min(rest.len());
            let (to, later) = rest.split_at_mut(n);
            to.copy_from_slice(segment.data.get(..n).unwrap_or_default());
            rest = later;
            filled = filled.saturating_add(n);
            if rest.is_empty() || (!stream && segment.frg == 0 && filled > 0) {
                break;
            }
        }
        filled
    }

    /// Takes the next whole message (what is left of it after a partial read); in stream mode the next chunk.
    pub(crate) fn pop_message(&mut self, stream: bool) -> Option<Bytes> {
        let Unread { segments, .. } = self.unread.get_mut()?;
        let message = if stream {
            segments.pop_front()?.data
        } else if self.complete > 0 {
            self.complete = self.complete.saturating_sub(1);
            let first = segments.pop_front()?;
            if first.frg == 0 { first.data } else { join(first, segments) }
        } else {
            return None;
        };
        self.bytes = self.bytes.saturating_sub(message.len());
        self.release();
        Some(message)
    }

    fn segments(&self) -> impl Iterator<Item = &Received> {
        self.unread.get().into_iter().flat_map(|unread| &unread.segments)
    }

    /// Length of the next whole message; in stream mode of the next chunk (`ikcp_peeksize`).
    pub(crate) fn peek_len(&self, stream: bool) -> Option<usize> {
        if stream {
            return self.segments().next().map(|segment| segment.data.len());
        }
        if self.complete == 0 {
            return None;
        }
        let mut len = 0usize;
        for segment in self.segments() {
            len = len.saturating_add(segment.data.len());
            if segment.frg == 0 {
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

    fn release(&mut self) {
        if self.segments().next().is_none() {
            // An idle session keeps no buffer.
            self.unread.clear();
        }
    }
}

/// A message of several segments, of which the first has been taken.
fn join(first: Received, segments: &mut VecDeque<Received>) -> Bytes {
    let mut message = BytesMut::with_capacity(first.data.len().saturating_mul(usize::from(first.frg) + 1));
    let mut part = Some(first);
    while let Some(segment) = part {
        message.extend_from_slice(&segment.data);
        part = if segment.frg == 0 { None } else { segments.pop_front() };
    }
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn segment(frg: u8, data: &'static [u8]) -> Received {
        Received { frg, data: Bytes::from_static(data) }
    }

    #[test]
    fn stream_reads_across_segments() {
        let mut queue = ReadQueue::default();
        for data in [b"abc".as_slice(), b"de", b"f"] {
            queue.push(true, segment(0, data)).unwrap();
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
        queue.push(false, segment(1, b"ab")).unwrap();
        assert!(!queue.is_readable(false) && queue.peek_len(false).is_none());
        assert_eq!(queue.read(false, &mut [0; 8]), 0, "an incomplete message is not read");
        queue.push(false, segment(0, b"cd")).unwrap();
        queue.push(false, segment(0, b"")).unwrap();
        queue.push(false, segment(0, b"efg")).unwrap();
        assert_eq!(queue.peek_len(false), Some(4));
        let mut buf = [0; 3];
        assert_eq!((queue.read(false, &mut buf), &buf), (3, b"abc"));
        assert_eq!(queue.pop_message(false), Some(Bytes::from_static(b"d")), "the rest of a partly read one");
        assert_eq!(queue.peek_len(false), Some(0));
        let mut queue2 = ReadQueue::default();
        queue2.push(false, segment(0, b"")).unwrap();
        queue2.push(false, segment(0, b"x")).unwrap();
        assert_eq!(queue2.pop_message(false), Some(Bytes::new()));
        assert_eq!(queue.read(false, &mut buf), 3, "read skips the empty message");
        assert_eq!(&buf, b"efg");
        assert!(!queue.is_readable(false));
    }

    #[test]
    fn an_empty_last_fragment_leaves_no_message_behind() {
        let mut queue = ReadQueue::default();
        for (frg, data) in [(2, b"ab".as_slice()), (1, b""), (0, b""), (0, b"c")] {
            queue.push(false, segment(frg, data)).unwrap();
        }
        assert_eq!(queue.read(false, &mut [0; 2]), 2);
        assert_eq!((queue.len(), queue.peek_len(false)), (1, Some(1)));
        assert_eq!(queue.pop_message(false), Some(Bytes::from_static(b"c")));
        // Of one that has not arrived whole nothing is read.
        queue.push(false, segment(1, b"d")).unwrap();
        assert_eq!((queue.read(false, &mut [0; 1]), queue.len()), (0, 1));
    }

    #[test]
    fn a_peek_shows_what_a_read_takes() {
        for stream in [true, false] {
            let mut queue = ReadQueue::default();
            for (frg, data) in [(0, b"".as_slice()), (1, b"ab"), (0, b"cd"), (0, b"ef")] {
                if !(stream && data.is_empty()) {
                    queue.push(stream, segment(frg, data)).unwrap();
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
    fn fragments_must_count_down() {
        let mut queue = ReadQueue::default();
        queue.push(false, segment(2, b"a")).unwrap();
        assert!(queue.push(false, segment(0, b"b")).is_err());
        queue.push(false, segment(1, b"b")).unwrap();
        queue.push(false, segment(0, b"c")).unwrap();
        assert_eq!(queue.pop_message(false).unwrap(), vec![b'a', b'b', b'c']);
        // Stream mode ignores the numbers.
        queue.push(true, segment(200, b"z")).unwrap();
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
                        let data = if rng.chance(50) { queue.copy(&data) } else { data.into() };
                        queue.push(stream, Received { frg: frg as u8, data }).unwrap();
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
