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
    elided: u64,
}

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

    /// Removes what [`peek`](Self::peek) returned.
    pub(crate) fn pop(&mut self) {
        self.owed.pop_front();
        if self.owed.is_empty() {
            // An idle session keeps no buffer.
            self.owed.shrink_to(4);
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
        while let Some((sn, _)) = queue.peek(rcv_nxt) {
            out.push(sn.value());
            queue.pop();
        }
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
        // The hole is filled before the flush: una covers 5..=7, the newest stays for its RTT sample.
        for sn in [5, 7, 6, 4] {
            queue.push(Seq::new(sn), 0, Seq::new(4), 1000);
        }
        assert_eq!(drain(&mut queue, Seq::new(8)), [4]);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut queue = AckQueue::default();
        for sn in 0..1000 {
            queue.push(Seq::new(10 + sn), 0, Seq::new(0), 64);
        }
        assert_eq!(drain(&mut queue, Seq::new(0)).len(), 64);
    }
}
