//! Acknowledgements owed: bounded, and elided where `una` says the same.

use alloc::collections::VecDeque;

use crate::num::wide;
use crate::rare::Rare;
use crate::seq::Seq;

/// ACKs waiting for the next flush, in order of arrival.
///
/// An ACK for a segment before `rcv_nxt` tells the peer nothing that `una` does not, but for its RTT sample; only
/// the newest of those is kept (kcp-go does the same). So in-order traffic owes at most one ACK per flush.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    /// The last one pushed; all that there is while nothing is lost or reordered.
    newest: Option<(Seq, u32)>,
    /// There since a segment beyond a hole was acknowledged, until [`trim`](Self::trim).
    holes: Rare<Holes>,
    elided: u64,
}

/// What is owed for segments beyond a hole.
#[derive(Debug, Default)]
struct Holes {
    /// Owed before `newest`. Entries before `rcv_nxt` do not count: they are elided on the way out.
    owed: VecDeque<(Seq, u32)>,
    /// ACKs beyond `rcv_nxt` that the flush under way has sent, and those of the flush before.
    flushed: VecDeque<(Seq, u32)>,
    repeat: VecDeque<(Seq, u32)>,
}

impl Holes {
    fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.flushed.is_empty() && self.repeat.is_empty()
    }
}

/// Consecutive ACKs that leave as one segment: the first is its header, each further one a byte of its payload, which says how many
/// milliseconds later its `ts` is.
#[derive(Debug)]
pub(crate) struct AckRun {
    pub(crate) first: (Seq, u32),
    last: (Seq, u32),
    /// Bytes of the payload.
    pub(crate) len: usize,
    /// So many of them, the first ones, have been said before.
    pub(crate) repeated: usize,
}

/// Bytes of a run's payload at most: the longer it is the less its header counts, and the more is lost with it.
pub(crate) const MAX_LATER: usize = 63;

impl AckRun {
    const fn new(first: (Seq, u32)) -> Self {
        Self { first, last: first, len: 0, repeated: 0 }
    }

    /// Takes the ACK if it comes next and `room`, the payload, has some.
    fn join(&mut self, (sn, ts): (Seq, u32), room: &mut [u8]) -> bool {
        let Some(place) = room.get_mut(self.len) else { return false };
        let Some(later) = later(self.last, (sn, ts)) else { return false };
        *place = later;
        self.len = self.len.saturating_add(1);
        self.last = (sn, ts);
        true
    }

    /// Those that have not been said before.
    pub(crate) const fn fresh(&self) -> usize {
        self.len.saturating_add(1).saturating_sub(self.repeated)
    }
}

/// How much later `ts` is than that of the segment before, if the two can stand in one run.
fn later(before: (Seq, u32), (sn, ts): (Seq, u32)) -> Option<u8> {
    if before.0.next() != sn {
        return None;
    }
    u8::try_from(ts.wrapping_sub(before.1)).ok()
}

/// ACKs that may be repeated, one segment each: a datagram of them.
const MAX_REPEAT: usize = 56;
/// And in runs: two flights of a path that is not known yet.
const MAX_REPEAT_IN_RUNS: usize = 256;
/// Room for ACKs owed that is kept from flush to flush.
const MOST_KEPT: usize = 512;

impl AckQueue {
    /// Owes an ACK for (sn, ts); at `limit` entries the oldest is forgotten (the peer sends that segment again).
    pub(crate) fn push(&mut self, sn: Seq, ts: u32, rcv_nxt: Seq, limit: usize) {
        match self.newest.replace((sn, ts)) {
            Some((last, _)) if last.is_before(rcv_nxt) => self.elide_one(),
            Some(last) => {
                let owed = &mut self.holes.make().owed;
                if owed.len().saturating_add(1) >= limit.max(1) {
                    owed.pop_front();
                }
                owed.push_back(last);
            }
            None => return,
        }
        // What came before it may have been covered in the meantime, too.
        let Some(holes) = self.holes.get_mut() else { return };
        while holes.owed.back().is_some_and(|&(last, _)| last.is_before(rcv_nxt)) {
            holes.owed.pop_back();
            self.elided = self.elided.wrapping_add(1);
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.newest.is_none()
    }

    /// The next ACK worth sending; entries that `una` covers are dropped on the way, except the newest.
    fn peek(&mut self, rcv_nxt: Seq) -> Option<(Seq, u32)> {
        if let Some(holes) = self.holes.get_mut() {
            while let Some(&(sn, ts)) = holes.owed.front() {
                if !sn.is_before(rcv_nxt) {
                    return Some((sn, ts));
                }
                holes.owed.pop_front();
                self.elided = self.elided.wrapping_add(1);
            }
        }
        self.newest
    }

    /// Drops the one that `una` covers, too.
    pub(crate) fn elide(&mut self, rcv_nxt: Seq) {
        if self.newest.is_some_and(|(sn, _)| sn.is_before(rcv_nxt)) {
            self.elide_one();
            // What is still owed is worth sending: its last one takes the place.
            self.newest = self.holes.get_mut().and_then(|holes| {
                let before = holes.owed.len();
                holes.owed.retain(|&(sn, _)| !sn.is_before(rcv_nxt));
                let dropped = before.saturating_sub(holes.owed.len());
                self.elided = self.elided.wrapping_add(wide(dropped));
                holes.owed.pop_back()
            });
        }
    }

    const fn elide_one(&mut self) {
        self.elided = self.elided.wrapping_add(1);
    }

    /// Takes the next ACK worth sending, and what follows it as far as there is `room`, after what of the flush before leads to it.
    #[inline]
    pub(crate) fn next_run(&mut self, rcv_nxt: Seq, room: &mut [u8]) -> Option<AckRun> {
        let first = self.peek(rcv_nxt)?;
        let mut run = AckRun::new(first);
        if room.is_empty() {
            self.pop(rcv_nxt, MAX_REPEAT);
            return Some(run);
        }
        if let Some(before) = self.repeat_before(first, rcv_nxt, room) {
            run = before;
            run.join(first, room);
        }
        self.pop(rcv_nxt, MAX_REPEAT_IN_RUNS);
        while self.peek(rcv_nxt).is_some_and(|next| run.join(next, room)) {
            self.pop(rcv_nxt, MAX_REPEAT_IN_RUNS);
        }
        Some(run)
    }

    /// Of the ACKs of the flush before those that `first` follows: in a run with it they cost a byte each.
    #[inline(never)]
    fn repeat_before(&mut self, first: (Seq, u32), rcv_nxt: Seq, room: &mut [u8]) -> Option<AckRun> {
        let repeat = &mut self.holes.get_mut()?.repeat;
        let mut next = first;
        let leads = |&&ack: &&(Seq, u32)| {
            let leads = !ack.0.is_before(rcv_nxt) && later(ack, next).is_some();
            next = ack;
            leads
        };
        let count = repeat.iter().rev().take(room.len()).take_while(leads).count();
        let mut leading = repeat.drain(repeat.len().saturating_sub(count)..);
        let mut run = AckRun::new(leading.next()?);
        run.repeated = count;
        leading.for_each(|ack| {
            run.join(ack, room);
        });
        Some(run)
    }

    /// Removes what [`peek`](Self::peek) returned: it has been sent, and may come again if no more than `limit` do.
    fn pop(&mut self, rcv_nxt: Seq, limit: usize) {
        let first = self.holes.get_mut().and_then(|holes| holes.owed.pop_front());
        let sent = first.or_else(|| self.newest.take()).filter(|&(sn, _)| !sn.is_before(rcv_nxt));
        if let Some(sent) = sent {
            let flushed = &mut self.holes.make().flushed;
            if flushed.len() < limit {
                flushed.push_back(sent);
            }
        }
    }

    /// Whether something of the flush before is worth saying again; what `una` covers is forgotten.
    pub(crate) fn has_repeat(&mut self, rcv_nxt: Seq) -> bool {
        let Some(Holes { repeat, .. }) = self.holes.get_mut() else { return false };
        let covered = repeat.iter().take_while(|(sn, _)| sn.is_before(rcv_nxt)).count();
        repeat.drain(..covered);
        !repeat.is_empty()
    }

    /// An ACK of the flush before, if [`has_repeat`](Self::has_repeat), to be sent again where there is room for it. KCP acknowledges
    /// a segment beyond a hole only once: a lost datagram of ACKs would make the sender take dozens of segments for lost.
    pub(crate) fn next_repeat(&mut self, room: &mut [u8]) -> Option<AckRun> {
        let repeat = &mut self.holes.get_mut()?.repeat;
        let mut run = AckRun::new(repeat.pop_front()?);
        while repeat.front().is_some_and(|&next| run.join(next, room)) {
            repeat.pop_front();
        }
        run.repeated = run.len.saturating_add(1);
        Some(run)
    }

    /// Everything owed has been sent: what of it is worth repeating, if anything, rides with the next flush.
    pub(crate) fn end_flush(&mut self) -> bool {
        let Some(holes) = self.holes.get_mut() else { return false };
        core::mem::swap(&mut holes.repeat, &mut holes.flushed);
        holes.flushed.clear();
        let repeats = !holes.repeat.is_empty();
        if holes.owed.capacity() > MOST_KEPT && holes.is_empty() {
            self.holes.clear();
        }
        repeats
    }

    /// Whether memory is kept although nothing is owed.
    pub(crate) fn keeps(&self) -> bool {
        self.holes.get().is_some_and(Holes::is_empty)
    }

    /// An idle session keeps no buffer.
    pub(crate) fn trim(&mut self) {
        if self.keeps() {
            self.holes.clear();
        }
    }

    /// The segment has come again, and is acknowledged again anyway.
    pub(crate) fn forget_repeat(&mut self, sn: Seq) {
        if let Some(holes) = self.holes.get_mut() {
            holes.repeat.retain(|&(repeated, _)| repeated != sn);
        }
    }

    /// How many ACKs were never sent since `una` covers them.
    pub(crate) const fn elided(&self) -> u64 {
        self.elided
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn drain(queue: &mut AckQueue, rcv_nxt: Seq) -> Vec<u32> {
        let mut out = Vec::new();
        while let Some(run) = queue.next_run(rcv_nxt, &mut []) {
            assert_eq!((run.len, run.repeated), (0, 0));
            out.push(run.first.0.value());
        }
        while queue.has_repeat(rcv_nxt) {
            let run = queue.next_repeat(&mut []).unwrap();
            assert_eq!((run.len, run.repeated), (0, 1));
            out.push(1_000_000 + run.first.0.value());
        }
        queue.end_flush();
        out
    }

    #[test]
    fn in_order_owes_only_the_newest() {
        let mut queue = AckQueue::default();
        for sn in 0..100 {
            queue.push(Seq::new(sn), sn, Seq::new(sn + 1), 1000);
        }
        assert_eq!(drain(&mut queue, Seq::new(100)), [99]);
        assert_eq!(queue.elided(), 99);
    }

    #[test]
    fn beyond_a_hole_every_ack_goes_out() {
        let mut queue = AckQueue::default();
        for sn in [5, 7, 6] {
            queue.push(Seq::new(sn), 0, Seq::new(4), 1000);
        }
        assert_eq!(drain(&mut queue, Seq::new(4)), [5, 7, 6]);
        queue.push(Seq::new(8), 0, Seq::new(4), 1000);
        assert_eq!(
            drain(&mut queue, Seq::new(4)),
            [8, 1_000_005, 1_000_007, 1_000_006],
            "once more, where there is room"
        );
        assert_eq!(drain(&mut queue, Seq::new(4)), [1_000_008]);
        assert_eq!(drain(&mut queue, Seq::new(4)), [0u32; 0], "and not again");
        // The hole is filled before the flush: una covers 5..=7, the newest stays for its RTT sample.
        for sn in [5, 7, 6, 4] {
            queue.push(Seq::new(sn), 0, Seq::new(4), 1000);
        }
        assert_eq!(drain(&mut queue, Seq::new(8)), [4]);
        assert_eq!(drain(&mut queue, Seq::new(8)), [0u32; 0]);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut queue = AckQueue::default();
        for sn in 0..1000 {
            queue.push(Seq::new(10 + sn), 0, Seq::new(0), 64);
        }
        assert_eq!(drain(&mut queue, Seq::new(0)).len(), 64);
    }

    #[test]
    fn so_many_are_repeated_and_no_more() {
        let mut queue = AckQueue::default();
        for sn in 0..300 {
            queue.push(Seq::new(10 + sn), 0, Seq::new(0), 1000);
        }
        assert_eq!(drain(&mut queue, Seq::new(0)).len(), 300);
        queue.push(Seq::new(500), 0, Seq::new(0), 1000);
        assert_eq!(drain(&mut queue, Seq::new(0)).len(), 1 + MAX_REPEAT);
    }

    #[test]
    fn what_is_left_to_repeat_is_told_and_una_and_what_came_again_are_not() {
        let mut queue = AckQueue::default();
        assert!(!queue.has_repeat(Seq::new(0)) && !queue.end_flush());
        queue.push(Seq::new(3), 0, Seq::new(4), 1000);
        assert!(queue.next_run(Seq::new(4), &mut []).is_some() && !queue.end_flush(), "una says it");
        for sn in [6, 8, 9] {
            queue.push(Seq::new(sn), 0, Seq::new(4), 1000);
        }
        while queue.next_run(Seq::new(4), &mut []).is_some() {}
        assert!(!queue.has_repeat(Seq::new(4)), "the flush goes on");
        assert!(queue.end_flush());
        assert!(queue.has_repeat(Seq::new(6)) && !queue.has_repeat(Seq::new(10)));
        for sn in [6, 8, 9] {
            queue.push(Seq::new(sn), 0, Seq::new(4), 1000);
        }
        assert_eq!(drain(&mut queue, Seq::new(4)), [6, 8, 9]);
        queue.forget_repeat(Seq::new(8));
        assert_eq!(drain(&mut queue, Seq::new(4)), [1_000_006, 1_000_009]);
    }

    #[test]
    fn what_una_covers_gives_its_place_to_the_last_that_is_worth_sending() {
        let mut queue = AckQueue::default();
        for sn in [5, 8, 4] {
            queue.push(Seq::new(sn), sn, Seq::new(4), 1000);
        }
        // 4 and 5 have been taken.
        queue.elide(Seq::new(6));
        assert_eq!((queue.peek(Seq::new(6)), queue.elided()), (Some((Seq::new(8), 8)), 2));
        queue.elide(Seq::new(6));
        assert_eq!(drain(&mut queue, Seq::new(6)), [8], "beyond a hole nothing is left out");
        queue.push(Seq::new(6), 6, Seq::new(6), 1000);
        queue.elide(Seq::new(9));
        assert!(queue.is_empty());
    }

    #[test]
    fn memory_is_kept_until_nothing_is_to_be_repeated_and_much_of_it_no_longer() {
        let mut queue = AckQueue::default();
        for sn in 0..100 {
            queue.push(Seq::new(sn), 0, Seq::new(sn), 1000);
        }
        drain(&mut queue, Seq::new(100));
        assert!(!queue.keeps(), "in order there was none");
        // One of them is kept apart from the rest.
        for (n, stays) in [(MOST_KEPT as u32 + 1, true), (MOST_KEPT as u32 + 2, false)] {
            for sn in 0..n {
                queue.push(Seq::new(102 + sn), 0, Seq::new(100), 1000);
            }
            assert!(!queue.keeps());
            assert_eq!(drain(&mut queue, Seq::new(100)).len(), n as usize);
            assert!(!queue.keeps());
            queue.trim();
            assert_eq!(drain(&mut queue, Seq::new(100)).len(), MAX_REPEAT);
            assert_eq!(queue.keeps(), stays);
            queue.trim();
            assert!(!queue.keeps());
        }
    }

    /// A run as its receiver reads it.
    fn read(run: &AckRun, payload: &[u8]) -> Vec<(Seq, u32)> {
        let (mut sn, mut ts) = run.first;
        let mut acks = alloc::vec![(sn, ts)];
        for &later in &payload[..run.len] {
            (sn, ts) = (sn.next(), ts.wrapping_add(later.into()));
            acks.push((sn, ts));
        }
        assert_eq!(run.fresh() + run.repeated, acks.len());
        acks
    }

    #[test]
    fn consecutive_ones_leave_together_and_bring_what_was_said_before_them() {
        let ack = |sn, ts| (Seq::new(sn), ts);
        let mut queue = AckQueue::default();
        let owe = |queue: &mut AckQueue, acks: &[(u32, u32)]| {
            acks.iter().for_each(|&(sn, ts)| queue.push(Seq::new(sn), ts, Seq::new(4), 1000));
        };
        let mut flush = |acks: &[(u32, u32)], room: usize| {
            owe(&mut queue, acks);
            let room = &mut alloc::vec![0; room];
            let mut all = Vec::new();
            while let Some(run) = queue.next_run(Seq::new(4), room) {
                all.push((read(&run, room), run.repeated));
            }
            let mut again = Vec::new();
            while queue.has_repeat(Seq::new(4)) {
                let run = queue.next_repeat(room).unwrap();
                assert_eq!(run.fresh(), 0);
                again.push(read(&run, room));
            }
            queue.end_flush();
            (all, again)
        };
        // A gap, and a `ts` that is too late, or earlier than the one before, end a run.
        let (all, again) = flush(&[(5, 0), (6, 255), (7, 511), (9, 511), (10, 510)], 100);
        let expected = [
            alloc::vec![ack(5, 0), ack(6, 255)],
            alloc::vec![ack(7, 511)],
            alloc::vec![ack(9, 511)],
            alloc::vec![ack(10, 510)],
        ];
        assert_eq!(all, expected.clone().map(|run| (run, 0)));
        assert!(again.is_empty());
        // What leads to it comes along, what does not comes behind, both once.
        let (all, again) = flush(&[(11, 510), (12, 511)], 100);
        assert_eq!(all, [(alloc::vec![ack(10, 510), ack(11, 510), ack(12, 511)], 1)]);
        assert_eq!(again, expected[..3]);
        let (all, again) = flush(&[(13, 511)], 1);
        assert_eq!(all, [(alloc::vec![ack(12, 511), ack(13, 511)], 1)], "as many as there is room for");
        assert_eq!(again, [[ack(11, 510)]]);
        let (all, again) = flush(&[(14, 511)], 0);
        assert_eq!(
            (all, again),
            (alloc::vec![(alloc::vec![ack(14, 511)], 0)], alloc::vec![alloc::vec![ack(13, 511)]])
        );
        let (all, again) = flush(&(15..79).map(|sn| (sn, 600)).collect::<Vec<_>>(), MAX_LATER);
        let lens: Vec<_> = all.iter().map(|(run, repeated)| (run.len(), *repeated)).collect();
        assert_eq!((lens, again.len()), (alloc::vec![(64, 1), (1, 0)], 0), "no more than so many");
        let end = 80 + MAX_REPEAT_IN_RUNS as u32;
        flush(&(80..end + 8).map(|sn| (sn, 600)).collect::<Vec<_>>(), MAX_LATER);
        let (all, again) = flush(&[(end, 600)], MAX_LATER);
        assert_eq!((all[0].0.len(), all[0].1), (64, 63), "none but the first of a flush are repeated");
        assert_eq!(again.iter().map(Vec::len).sum::<usize>(), MAX_REPEAT_IN_RUNS - 63);
    }

    /// Segments arrive in any order; the oracle keeps every ACK owed and filters at the end.
    #[test]
    fn same_as_a_list() {
        for seed in 0..crate::tests::rounds(200) {
            let mut rng = crate::tests::Rng::new(seed);
            let start = u32::MAX - 30;
            let sn_of = |position: u64| Seq::new(start.wrapping_add(position as u32));
            let (mut queue, mut owed, mut repeat) =
                (AckQueue::default(), Vec::<(u64, u32)>::new(), Vec::new());
            let (mut next, mut held) = (0u64, alloc::collections::BTreeSet::new());
            let mut pushed = 0u64;
            let mut gone = 0u64;
            let pace = if rng.chance(50) { 1 } else { 100 };
            for ts in (0..300u32).map(|step| step * pace) {
                if rng.chance(70) {
                    // ACKs are owed with the rcv_nxt from before, as the engine does it.
                    let position = next + rng.below(12);
                    queue.push(sn_of(position), ts, sn_of(next), 1000);
                    owed.push((position, ts));
                    pushed += 1;
                    held.insert(position);
                    while held.remove(&next) {
                        next += 1;
                    }
                } else {
                    // What is worth sending: everything beyond the hole, and of what una covers the newest, if nothing is
                    // behind it.
                    let last = owed.len().saturating_sub(1);
                    let keep = |(i, ack): (usize, &(u64, u32))| (ack.0 >= next || i == last).then_some(*ack);
                    let expected: Vec<_> = owed.iter().enumerate().filter_map(keep).collect();
                    let (mut got, mut again) = (Vec::new(), Vec::new());
                    let place =
                        |(sn, ts): (Seq, u32)| (next.wrapping_add_signed(sn.since(sn_of(next)).into()), ts);
                    let room = [0, 1, 4, MAX_LATER][rng.below(4) as usize];
                    let payload = &mut alloc::vec![0; room];
                    let mut before: Option<AckRun> = None;
                    while let Some(run) = queue.next_run(sn_of(next), payload) {
                        let acks = read(&run, payload);
                        assert!(acks.len() <= room + 1);
                        again.extend(acks[..run.repeated].iter().copied().map(place));
                        got.extend(acks[run.repeated..].iter().copied().map(place));
                        let apart =
                            |before: AckRun| before.len == room || later(before.last, acks[0]).is_none();
                        assert!(before.replace(run).is_none_or(apart), "seed {seed}: as long as they can be");
                    }
                    assert_eq!(got, expected, "seed {seed}");
                    gone += got.len() as u64;
                    let apart = again.len();
                    while queue.has_repeat(sn_of(next)) {
                        let run = queue.next_repeat(payload).unwrap();
                        assert_eq!(run.fresh(), 0);
                        again.extend(read(&run, payload).into_iter().map(place));
                    }
                    repeat.retain(|&(position, _): &(u64, u32)| position >= next);
                    assert!(room > 0 || apart == 0);
                    if room > 0 {
                        // Those that lead to something new come with it.
                        again.sort_unstable();
                        repeat.sort_unstable();
                    }
                    assert_eq!(again, repeat, "seed {seed}: repeated");
                    repeat =
                        got.into_iter().filter(|&(position, _)| position >= next).take(MAX_REPEAT).collect();
                    queue.end_flush();
                    owed.clear();
                    assert_eq!(queue.elided(), pushed - gone);
                    assert!(queue.is_empty());
                }
            }
        }
    }
}
