//! Acknowledgements owed: bounded, and elided where `una` says the same.

use alloc::collections::VecDeque;

use crate::seq::Seq;

/// ACKs waiting for the next flush, in order of arrival.
///
/// An ACK for a segment before `rcv_nxt` tells the peer nothing that `una` does not, but for its RTT sample; only
/// the newest of those is kept (kcp-go does the same). So in-order traffic owes at most one ACK per flush.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    /// Invariant: at most one entry before `rcv_nxt` counts, the last one pushed; others are elided on the way out.
    owed: VecDeque<(Seq, u32)>,
    /// ACKs beyond `rcv_nxt` that the flush under way has sent, and those of the flush before.
    flushed: VecDeque<(Seq, u32)>,
    repeat: VecDeque<(Seq, u32)>,
    elided: u64,
}

/// ACKs that may be repeated: a datagram of them.
const MAX_REPEAT: usize = 56;

impl AckQueue {
    /// Owes an ACK for (sn, ts); at `limit` entries the oldest is forgotten (the peer sends that segment again).
    pub(crate) fn push(&mut self, sn: Seq, ts: u32, rcv_nxt: Seq, limit: usize) {
        while self.owed.back().is_some_and(|&(last, _)| last.is_before(rcv_nxt)) {
            self.owed.pop_back();
            self.elided = self.elided.wrapping_add(1);
        }
        if self.owed.len() >= limit.max(1) {
            self.owed.pop_front();
        }
        self.owed.push_back((sn, ts));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// The next ACK worth sending; entries that `una` covers are dropped on the way, except the newest.
    pub(crate) fn peek(&mut self, rcv_nxt: Seq) -> Option<(Seq, u32)> {
        while self.owed.len() > 1 && self.owed.front().is_some_and(|&(sn, _)| sn.is_before(rcv_nxt)) {
            self.owed.pop_front();
            self.elided = self.elided.wrapping_add(1);
        }
        self.owed.front().copied()
    }

    /// Drops the one that `una` covers, too.
    pub(crate) fn elide(&mut self, rcv_nxt: Seq) {
        let before = self.owed.len();
        self.owed.retain(|&(sn, _)| !sn.is_before(rcv_nxt));
        self.elided = self.elided.wrapping_add(before.saturating_sub(self.owed.len()) as u64);
    }

    /// Removes what [`peek`](Self::peek) returned: it has been sent.
    pub(crate) fn pop(&mut self, rcv_nxt: Seq) {
        let sent = self.owed.pop_front().filter(|&(sn, _)| !sn.is_before(rcv_nxt));
        if self.flushed.len() < MAX_REPEAT {
            self.flushed.extend(sent);
        }
        if self.owed.is_empty() {
            // An idle session keeps no buffer.
            self.owed.shrink_to(4);
        }
    }

    /// An ACK of the flush before, to be sent again where there is room for it. KCP acknowledges a segment beyond a hole
    /// only once: a lost datagram of ACKs would make the sender take dozens of segments for lost.
    pub(crate) fn next_repeat(&mut self, rcv_nxt: Seq) -> Option<(Seq, u32)> {
        while let Some((sn, ts)) = self.repeat.pop_front() {
            if !sn.is_before(rcv_nxt) {
                return Some((sn, ts));
            }
        }
        None
    }

    /// Everything owed has been sent: what of it is worth repeating rides with the next flush.
    pub(crate) fn end_flush(&mut self) {
        if !(self.repeat.is_empty() && self.flushed.is_empty()) {
            self.repeat = core::mem::take(&mut self.flushed);
        }
    }

    /// The segment has come again, and is acknowledged again anyway.
    pub(crate) fn forget_repeat(&mut self, sn: Seq) {
        self.repeat.retain(|&(repeated, _)| repeated != sn);
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
        while let Some((sn, _)) = queue.peek(rcv_nxt) {
            out.push(sn.value());
            queue.pop(rcv_nxt);
        }
        while let Some((sn, _)) = queue.next_repeat(rcv_nxt) {
            out.push(1_000_000 + sn.value());
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

    /// Segments arrive in any order; the oracle keeps every ACK owed and filters at the end.
    #[test]
    fn same_as_a_list() {
        for seed in 0..200 {
            let mut rng = crate::tests::Rng::new(seed);
            let start = u32::MAX - 30;
            let sn_of = |position: u64| Seq::new(start.wrapping_add(position as u32));
            let (mut queue, mut owed, mut repeat) =
                (AckQueue::default(), Vec::<(u64, u32)>::new(), Vec::new());
            let (mut next, mut held) = (0u64, alloc::collections::BTreeSet::new());
            let mut pushed = 0u64;
            let mut gone = 0u64;
            for ts in 0..300u32 {
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
                    let mut got = Vec::new();
                    while let Some((sn, ts)) = queue.peek(sn_of(next)) {
                        got.push((next.wrapping_add_signed(sn.since(sn_of(next)).into()), ts));
                        queue.pop(sn_of(next));
                    }
                    assert_eq!(got, expected, "seed {seed}");
                    gone += got.len() as u64;
                    let mut again = Vec::new();
                    while let Some((sn, ts)) = queue.next_repeat(sn_of(next)) {
                        again.push((next.wrapping_add_signed(sn.since(sn_of(next)).into()), ts));
                    }
                    repeat.retain(|&(position, _): &(u64, u32)| position >= next);
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
