//! Accepted bytes that have no sequence number yet; they are cut when the window admits them.

use alloc::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::kept::Usage;
use crate::rare::Rare;

/// A piece cut for one segment.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) frg: u8,
    pub(crate) data: Bytes,
}

/// Writes are gathered in chunks that double up to this size while data is in flight. Segments are slices of them, so it
/// is also the granularity in which memory returns. One allocation per segment would cost more than the copy: freed a
/// window later, its neighbours have left the cache.
const CHUNK: usize = 64 * 1024;

/// Full chunks that are looked at for one that can be used again: segments that are lost hold the first ones.
const LOOK_AT: usize = 8;

/// Bytes or messages accepted from the application, in order.
///
/// Stream mode gathers writes into chunks and cuts segments off their front without copying; only at a chunk's end
/// are two pieces joined. (`ikcp_send` re-copies the tail segment at every small write.)
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    /// A small write with nothing before it, which is all that an interactive session ever has. Invariant: nothing else is
    /// queued while it is there.
    alone: Bytes,
    /// There while more than that is queued or in flight, and kept for what comes next until [`trim`](Self::trim).
    gathered: Rare<Gathered>,
    /// Payload bytes in all of it.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Gathered {
    /// Whole messages, or complete chunks of the stream.
    chunks: VecDeque<Bytes>,
    /// The chunk being filled. In stream mode its bytes come after all of `chunks`; in message mode it has none, only
    /// room for messages to come.
    tail: BytesMut,
    /// What is left of each full chunk: nothing but the right to use it again, when all its segments are acknowledged.
    full: VecDeque<BytesMut>,
    /// Capacity of the last chunk; 0 when nothing was gathered since nothing was in flight.
    last_chunk: usize,
    /// Message mode: the rest of a message whose first fragment has been taken; before all of `chunks`.
    fragments: VecDeque<Piece>,
    /// Of `chunks`.
    usage: Usage,
    /// Bytes gathered since nothing was in flight, in units of `UNIT`.
    gathered: usize,
    stored: Usage,
}

const UNIT: usize = 64;

impl SendQueue {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        // Not `bytes == 0`: an empty message is something to send.
        self.alone.is_empty() && self.gathered.get().is_none_or(Gathered::is_empty)
    }

    /// Segments that the queue would take at this mss.
    pub(crate) fn segments(&self, stream: bool, mss: usize) -> usize {
        if stream {
            return self.bytes.div_ceil(mss.max(1));
        }
        let gathered = self.gathered.get().map_or(0, |gathered| {
            let whole = gathered.chunks.iter().map(|chunk| fragments_of(chunk.len(), mss));
            whole.sum::<usize>().saturating_add(gathered.fragments.len())
        });
        gathered.saturating_add(if self.alone.is_empty() { 0 } else { fragments_of(self.alone.len(), mss) })
    }

    /// Messages or chunks held: empty messages have no bytes, so memory is bounded by this as well.
    pub(crate) fn entries(&self) -> usize {
        let gathered = self.gathered.get().map_or(0, |it| it.chunks.len().saturating_add(it.fragments.len()));
        gathered.saturating_add(usize::from(!self.alone.is_empty()))
    }

    /// Payload length of the next segment that [`take`](Self::take) would cut.
    pub(crate) fn next_len(&self, stream: bool, mss: usize) -> Option<usize> {
        if stream {
            return (self.bytes > 0).then(|| self.bytes.min(mss));
        }
        if !self.alone.is_empty() {
            return Some(self.alone.len().min(mss));
        }
        let gathered = self.gathered.get()?;
        match gathered.fragments.front() {
            Some(piece) => Some(piece.data.len()),
            None => gathered.chunks.front().map(|message| message.len().min(mss)),
        }
    }

    /// Appends to the stream.
    pub(crate) fn push_bytes(&mut self, buf: &[u8], mss: usize) {
        if self.is_small_and_alone(buf.len(), mss) {
            self.alone = Bytes::copy_from_slice(buf);
        } else {
            self.gather().push_bytes(buf, mss);
        }
        self.bytes = self.bytes.saturating_add(buf.len());
    }

    /// An interactive write with nothing queued leaves at once: an exact copy is all it needs.
    fn is_small_and_alone(&self, len: usize, mss: usize) -> bool {
        let gathering = || self.gathered.get().is_some_and(|gathered| gathered.tail.capacity() > 0);
        len > 0 && len <= mss / 2 && self.is_empty() && !gathering()
    }

    /// Where everything else goes, behind what was alone.
    #[inline]
    fn gather(&mut self) -> &mut Gathered {
        let gathered = self.gathered.make();
        if !self.alone.is_empty() {
            gathered.chunks.push_back(core::mem::take(&mut self.alone));
        }
        gathered
    }

    /// Appends a message, possibly empty.
    pub(crate) fn push_message(&mut self, msg: Bytes) {
        self.bytes = self.bytes.saturating_add(msg.len());
        self.gather().chunks.push_back(msg);
    }

    /// Appends a copy of a message, possibly empty.
    pub(crate) fn copy_message(&mut self, msg: &[u8], mss: usize) {
        if self.is_small_and_alone(msg.len(), mss) {
            self.alone = Bytes::copy_from_slice(msg);
        } else {
            self.gather().copy_message(msg);
        }
        self.bytes = self.bytes.saturating_add(msg.len());
    }

    /// Nothing is in flight any more: what is kept for what comes next is in proportion to what came lately.
    pub(crate) fn release(&mut self) {
        let Some(gathered) = self.gathered.get_mut().filter(|gathered| gathered.is_empty()) else { return };
        gathered.stored.note(core::mem::take(&mut gathered.gathered) / UNIT);
        let excess =
            gathered.usage.is_exceeded(gathered.chunks.capacity().max(gathered.fragments.capacity()));
        if gathered.stored.is_exceeded(gathered.last_chunk / UNIT) || excess {
            return self.gathered.clear();
        }
        gathered.full.clear();
        // Nobody has a slice of it any more: from its beginning again.
        if gathered.tail.capacity() < gathered.last_chunk && !gathered.tail.try_reclaim(gathered.last_chunk) {
            gathered.tail = BytesMut::new();
        }
    }

    /// Whether memory is kept although nothing is queued.
    pub(crate) fn keeps(&self) -> bool {
        self.gathered.get().is_some_and(Gathered::is_empty)
    }

    /// An idle session keeps no buffer.
    pub(crate) fn trim(&mut self) {
        if self.keeps() {
            self.gathered.clear();
        }
    }

    /// Cuts the next segment's payload: at most `longest` bytes, which is less than `mss` while little may be sent.
    pub(crate) fn take(&mut self, stream: bool, mss: usize, longest: usize) -> Option<Piece> {
        let piece = if !self.alone.is_empty() && self.alone.len() <= longest {
            Piece { frg: 0, data: core::mem::take(&mut self.alone) }
        } else if stream {
            self.gather().take_stream(longest)?
        } else {
            self.gather().take_fragment(mss, longest)?
        };
        self.bytes = self.bytes.saturating_sub(piece.data.len());
        Some(piece)
    }
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty() && self.fragments.is_empty()
    }

    fn push_bytes(&mut self, mut buf: &[u8], mss: usize) {
        while !buf.is_empty() {
            let room = self.tail.capacity().saturating_sub(self.tail.len());
            if room == 0 {
                if !self.tail.is_empty() {
                    self.chunks.push_back(self.tail.split().freeze());
                }
                // Whole segments, so that few are cut across chunks.
                let whole = |len: usize| len.div_ceil(mss.max(1)).saturating_mul(mss.max(1));
                self.grow(
                    whole(buf.len()).min(whole(CHUNK)),
                    whole(self.last_chunk.saturating_mul(2).min(CHUNK)),
                );
                continue;
            }
            let (now, later) = buf.split_at(room.min(buf.len()));
            self.gathered = self.gathered.saturating_add(now.len());
            self.tail.extend_from_slice(now);
            buf = later;
        }
    }

    fn grow(&mut self, need: usize, wanted: usize) {
        let before = core::mem::replace(&mut self.last_chunk, need.max(wanted));
        if before >= CHUNK {
            self.full.push_back(core::mem::take(&mut self.tail));
        }
        // In the order in which they are acknowledged.
        let free = self.full.iter_mut().take(LOOK_AT).position(|chunk| chunk.try_reclaim(self.last_chunk));
        self.tail = free
            .and_then(|at| self.full.remove(at))
            .unwrap_or_else(|| BytesMut::with_capacity(self.last_chunk));
        // Acknowledgements come for many at once; three free ones for one in flight are too many.
        let most = self.full.len().saturating_sub(self.full.len() / 4);
        if self.full.get_mut(most).is_some_and(|chunk| chunk.try_reclaim(1)) {
            self.full.remove(most);
        }
    }

    fn copy_message(&mut self, msg: &[u8]) {
        if msg.len() > CHUNK / 2 {
            self.chunks.push_back(Bytes::copy_from_slice(msg));
            return;
        }
        if self.tail.capacity() < msg.len() {
            self.grow(msg.len(), self.last_chunk.saturating_mul(2).min(CHUNK));
        }
        self.gathered = self.gathered.saturating_add(msg.len());
        self.tail.extend_from_slice(msg);
        let copy = self.tail.split().freeze();
        self.chunks.push_back(copy);
    }

    fn take_stream(&mut self, mss: usize) -> Option<Piece> {
        self.usage.note(self.chunks.len());
        let Some(front) = self.chunks.front_mut() else {
            let len = self.tail.len().min(mss);
            return (len > 0).then(|| Piece { frg: 0, data: self.tail.split_to(len).freeze() });
        };
        if front.len() > mss {
            return Some(Piece { frg: 0, data: front.split_to(mss) });
        }
        let first = self.chunks.pop_front()?;
        if first.len() == mss || (self.chunks.is_empty() && self.tail.is_empty()) {
            return Some(Piece { frg: 0, data: first });
        }
        // A chunk's end: fill the segment from what follows.
        let mut joined = BytesMut::with_capacity(mss);
        joined.extend_from_slice(&first);
        while joined.len() < mss {
            let want = mss.saturating_sub(joined.len());
            match self.chunks.front_mut() {
                Some(next) if next.len() > want => joined.extend_from_slice(&next.split_to(want)),
                Some(_) => joined.extend_from_slice(&self.chunks.pop_front().unwrap_or_default()),
                None if self.tail.is_empty() => break,
                None => joined.extend_from_slice(&self.tail.split_to(want.min(self.tail.len()))),
            }
        }
        Some(Piece { frg: 0, data: joined.freeze() })
    }

    fn take_fragment(&mut self, mss: usize, longest: usize) -> Option<Piece> {
        if let Some(piece) = self.fragments.pop_front() {
            return Some(piece);
        }
        self.usage.note(self.chunks.len());
        let mut rest = self.chunks.pop_front()?;
        if rest.len() <= longest {
            return Some(Piece { frg: 0, data: rest });
        }
        // All fragments are cut at once: their numbers count down from the first, so a later change of the mtu must
        // not change how many there are. Admission has checked that the count fits `frg`.
        let first = rest.split_to(longest);
        let count = fragments_of(rest.len(), mss);
        for left in (0..count).rev() {
            let data = rest.split_to(rest.len().min(mss));
            self.fragments.push_back(Piece { frg: u8::try_from(left).unwrap_or(u8::MAX), data });
        }
        Some(Piece { frg: u8::try_from(count).unwrap_or(u8::MAX), data: first })
    }
}

/// Fragments of a message of `len` bytes; an empty message takes one.
pub(crate) fn fragments_of(len: usize, mss: usize) -> usize {
    len.div_ceil(mss.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn drain(queue: &mut SendQueue, stream: bool, mss: usize) -> Vec<(u8, Vec<u8>)> {
        core::iter::from_fn(|| queue.take(stream, mss, mss)).map(|p| (p.frg, p.data.to_vec())).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn stream_is_cut_full_whatever_the_writes() {
        let mss = 100;
        for write in [1usize, 7, 49, 51, 100, 101, 250, 70_000] {
            let data: Vec<u8> = (0..150_000u32).map(|i| (i % 251) as u8).collect();
            let mut queue = SendQueue::default();
            for chunk in data.chunks(write) {
                queue.push_bytes(chunk, mss);
            }
            assert_eq!(queue.bytes(), data.len());
            assert_eq!(queue.segments(true, mss), 1500);
            let pieces = drain(&mut queue, true, mss);
            assert!(pieces.iter().all(|(frg, p)| *frg == 0 && p.len() == mss), "write {write}");
            assert_eq!(pieces.into_iter().flat_map(|(_, p)| p).collect::<Vec<_>>(), data);
            assert!(queue.is_empty() && queue.bytes() == 0);
            queue.release();
            // One chunk for what comes next, if at all.
            assert!(queue.gathered.get().is_none_or(|it| it.tail.capacity() <= CHUNK + mss));
            queue.trim();
            assert!(queue.gathered.get().is_none());
        }
    }

    #[test]
    fn copied_messages_share_chunks_that_double() {
        let mut queue = SendQueue::default();
        for i in 0..200u8 {
            queue.copy_message(&vec![i; 1000], 1376);
        }
        assert_eq!(queue.gathered.get().unwrap().last_chunk, CHUNK);
        let got = drain(&mut queue, false, 1376);
        assert!((0..200u8).zip(&got).all(|(i, (frg, data))| *frg == 0 && *data == vec![i; 1000]));
        // In one chunk: neighbours in memory.
        assert_eq!(got.len(), 200);
        drop(got);
        queue.release();
        assert!(queue.keeps());
        assert_eq!(queue.gathered.get().unwrap().tail.capacity(), CHUNK, "from its beginning again");
        queue.trim();
        queue.copy_message(b"alone", 1376);
        queue.copy_message(b"", 1376);
        assert_eq!((&queue.alone[..], queue.entries()), (&b""[..], 2));
        assert_eq!(queue.gathered.get().unwrap().tail.capacity(), 0);
        assert_eq!(drain(&mut queue, false, 1376), [(0, b"alone".to_vec()), (0, vec![])]);
    }

    #[test]
    fn a_small_write_with_nothing_before_it_has_memory_of_its_own() {
        for (len, alone) in [(1, true), (50, true), (51, false)] {
            let mut queue = SendQueue::default();
            queue.push_bytes(&vec![7; len], 100);
            assert_eq!(
                (queue.alone.len(), queue.gathered.get().is_none()),
                (if alone { len } else { 0 }, alone)
            );
            queue.push_bytes(b"x", 100);
            assert!(queue.alone.is_empty(), "not any more");
        }
        let mut queue = SendQueue::default();
        queue.copy_message(b"", 100);
        assert_eq!((queue.alone.len(), queue.entries()), (0, 1));
        // Where there is a chunk, it goes there, however little.
        let mut queue = SendQueue::default();
        queue.push_bytes(&[7; 51], 100);
        drain(&mut queue, true, 100);
        queue.push_bytes(b"x", 100);
        assert!(queue.alone.is_empty());
        // And where there is none, although there was one.
        let mut queue = SendQueue::default();
        queue.push_message(Bytes::from_static(b"x"));
        drain(&mut queue, false, 100);
        queue.copy_message(b"x", 100);
        assert_eq!(queue.alone.len(), 1);
    }

    #[test]
    fn long_messages_are_copied_apart() {
        for (len, chunk) in [(CHUNK / 2, CHUNK / 2), (CHUNK / 2 + 1, 0)] {
            let mut queue = SendQueue::default();
            queue.copy_message(&vec![7; len], 1376);
            assert_eq!(queue.gathered.get().unwrap().last_chunk, chunk);
            assert_eq!(drain(&mut queue, false, 1376).iter().map(|(_, data)| data.len()).sum::<usize>(), len);
        }
    }

    /// Writes and cuts `n` full chunks' worth of segments of 1024 bytes, into `sent`.
    fn send_chunks(queue: &mut SendQueue, n: usize, sent: &mut VecDeque<Bytes>) {
        for _ in 0..n * CHUNK / 1024 {
            queue.push_bytes(&[7; 1024], 1024);
            sent.extend(queue.take(true, 1024, 1024).map(|piece| piece.data));
        }
    }

    fn full(queue: &SendQueue) -> usize {
        queue.gathered.get().unwrap().full.len()
    }

    #[test]
    fn a_chunk_is_used_again_when_its_segments_are_acknowledged() {
        let (mut queue, mut sent) = (SendQueue::default(), VecDeque::new());
        send_chunks(&mut queue, 100, &mut sent);
        // The chunks in flight are all kept, however many.
        let many = full(&queue);
        assert!((95..100).contains(&many), "{many}");
        let addresses = |sent: &VecDeque<Bytes>| -> alloc::collections::BTreeSet<usize> {
            sent.iter().map(|data| data.as_ptr() as usize).collect()
        };
        let before = addresses(&sent);
        // Ten are acknowledged, and ten more written: nothing is allocated.
        for _ in 0..20 {
            sent.drain(..10 * CHUNK / 1024);
            send_chunks(&mut queue, 10, &mut sent);
            assert!(full(&queue) <= 100);
        }
        let new = addresses(&sent).difference(&before).count();
        assert!(new <= 3 * CHUNK / 1024, "{new} segments elsewhere");
    }

    #[test]
    fn lost_segments_hold_their_own_chunks_alone() {
        let (mut queue, mut sent) = (SendQueue::default(), VecDeque::new());
        send_chunks(&mut queue, 40, &mut sent);
        let many = full(&queue);
        // Of each of the first chunks one segment stays.
        let lost: Vec<Bytes> = (0..LOOK_AT - 1).map(|n| sent[(n + 2) * CHUNK / 1024].clone()).collect();
        for _ in 0..20 {
            sent.drain(..20 * CHUNK / 1024);
            send_chunks(&mut queue, 20, &mut sent);
            assert!(full(&queue) <= many + lost.len() + 1);
        }
        assert!(lost.iter().all(|data| data[..] == [7; 1024]));
    }

    #[test]
    fn free_chunks_go_back_but_for_three_of_four() {
        let (mut queue, mut sent) = (SendQueue::default(), VecDeque::new());
        send_chunks(&mut queue, 100, &mut sent);
        for left in [10; 9] {
            sent.drain(..sent.len() - left * CHUNK / 1024);
            send_chunks(&mut queue, 10, &mut sent);
        }
        let kept = full(&queue);
        assert!((40..=80).contains(&kept), "{kept} for twenty in flight");
    }

    #[test]
    fn a_chunk_goes_back_after_many_bursts_that_needed_none() {
        for large in [40_000, 200_000] {
            let mut queue = SendQueue::default();
            queue.push_bytes(&vec![0; large], 1000);
            drain(&mut queue, true, 1000);
            queue.release();
            let bursts = (0..100).take_while(|_| {
                queue.push_bytes(&[0; 501], 1000);
                drain(&mut queue, true, 1000);
                queue.release();
                queue.keeps()
            });
            // An eighth less each time, down to a quarter of the chunk.
            assert_eq!(bursts.count(), if large == 40_000 { 10 } else { 18 });
        }
    }

    #[test]
    fn interleaved_writes_and_cuts_keep_the_order() {
        let mut queue = SendQueue::default();
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for i in 0..if cfg!(miri) { 100 } else { 2000usize } {
            let data = vec![i as u8; i * 37 % 301];
            sent.extend_from_slice(&data);
            queue.push_bytes(&data, 90);
            if i % 3 == 0 {
                got.extend(queue.take(true, 90, 90).map(|p| p.data.to_vec()).unwrap_or_default());
            }
        }
        got.extend(drain(&mut queue, true, 90).into_iter().flat_map(|(_, p)| p));
        assert_eq!(sent, got);
    }

    #[test]
    fn messages_count_down_and_keep_their_count_when_the_mss_changes() {
        let mut queue = SendQueue::default();
        queue.push_message(Bytes::from(vec![1; 250]));
        queue.push_message(Bytes::new());
        assert_eq!(queue.segments(false, 100), 4);
        let first = queue.take(false, 100, 100).unwrap();
        assert_eq!((first.frg, first.data.len()), (2, 100));
        let rest = drain(&mut queue, false, 30);
        assert_eq!(rest.iter().map(|(f, p)| (*f, p.len())).collect::<Vec<_>>(), [(1, 100), (0, 50), (0, 0)]);
        assert!(queue.is_empty());
    }

    /// Writes of any size and kind in, segments of any length out, while the mss changes: the bytes are those written, in order
    /// and with their boundaries.
    #[test]
    fn same_as_a_plain_list() {
        for seed in 0..crate::tests::rounds(200) {
            let mut rng = crate::tests::Rng::new(seed);
            let stream = seed % 2 == 0;
            let mut queue = SendQueue::default();
            let (mut written, mut taken) = (vec![vec![]], vec![vec![]]);
            for _ in 0..300 {
                let mss = [1, 7, 50][rng.below(3) as usize];
                if rng.chance(40) {
                    let data: Vec<u8> = (0..rng.below(60)).map(|_| rng.next() as u8).collect();
                    match rng.below(2) {
                        _ if stream => queue.push_bytes(&data, mss),
                        0 => queue.copy_message(&data, mss),
                        _ => queue.push_message(data.clone().into()),
                    }
                    if stream {
                        written[0].extend(data);
                    } else {
                        written.insert(written.len() - 1, data);
                    }
                } else {
                    let longest = 1 + rng.below(mss as u64) as usize;
                    let next = queue.next_len(stream, longest);
                    let Some(piece) = queue.take(stream, mss, longest) else {
                        assert!(queue.is_empty() && next.is_none());
                        continue;
                    };
                    // Fragments but the first were cut together, at the mss of that time.
                    assert!(piece.data.len() <= longest || (!stream && piece.data.len() <= 50));
                    assert_eq!(Some(piece.data.len()), next);
                    taken.last_mut().unwrap().extend_from_slice(&piece.data);
                    if !stream && piece.frg == 0 {
                        taken.push(vec![]);
                    }
                }
                let bytes = |lists: &[Vec<u8>]| lists.iter().map(Vec::len).sum::<usize>();
                assert_eq!(queue.bytes(), bytes(&written) - bytes(&taken));
            }
            while let Some(piece) = queue.take(stream, 9, 9) {
                taken.last_mut().unwrap().extend_from_slice(&piece.data);
                if !stream && piece.frg == 0 {
                    taken.push(vec![]);
                }
            }
            assert_eq!(taken, written, "seed {seed}");
        }
    }
}
