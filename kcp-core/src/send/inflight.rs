//! Segments in flight: a ring by `sn - una`, loss detection in send order, exact RTO deadlines.

use alloc::collections::{BinaryHeap, VecDeque};
use core::cmp::Reverse;

use bytes::Bytes;

use crate::kept::Usage;
use crate::num::{fits, narrow, size, wide};
use crate::rare::Rare;
use crate::seq::Seq;
use crate::time::Timestamp;

/// Why a segment is sent again.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum Cause {
    /// `resend` transmissions sent later were acknowledged first.
    Fast,
    /// No acknowledgement within its RTO.
    Timeout,
    /// Nothing was acknowledged for a while, and it is the last: its ACK will tell of those before it.
    Probe,
}

/// A segment that has a sequence number and is not covered by `una` yet.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) data: Bytes,
    pub(crate) frg: u8,
    /// Acknowledged by its sn; it stays (without its data) until `una` covers it, so that positions stay true.
    acked: bool,
    /// Waits in `due`.
    due: bool,
    /// Transmissions so far, but for those into a closed window after the second, and those within a timeout; at least 1.
    pub(crate) xmit: u32,
    /// `ts` of the latest transmission, which its ACK echoes.
    ts: u32,
    /// Time of the latest transmission.
    pub(crate) sent_at: Timestamp,
    /// Position of the latest transmission in send order.
    order: u64,
    /// Microseconds; grows with every timeout. 0 until it was sent again. Both are at most the longest RTO, a minute.
    rto: u32,
    /// What is left of it when the deadline that is set has passed: the first in flight is sent in between.
    left: u32,
    /// Copies that have ridden along in other datagrams since the latest transmission.
    rides: u8,
    /// The timeout was put off, since a copy has ridden along.
    deferred: bool,
}

/// How a segment is sent again.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Resend {
    pub(crate) ts: u32,
    /// That of a segment sent now.
    pub(crate) rto: u64,
    /// The first in flight, which all others wait for, is sent at least so often, in microseconds, however long its timeout has become.
    pub(crate) gap: u64,
    /// The peer has room for it; otherwise this asks whether it has, and does not count as a failure.
    pub(crate) wanted: bool,
    /// A copy of a small one rides along with something later, even if it was lost only once.
    pub(crate) protect: bool,
}

/// When the timeout of a segment ends that was sent once.
#[derive(Copy, Clone, Debug)]
pub(crate) struct FirstTimeout {
    /// In microseconds.
    pub(crate) rto: u64,
    /// Other data is likely to leave then. Small segments whose timeout ends up to `wait` microseconds before leave with it.
    pub(crate) company: Timestamp,
    pub(crate) wait: u64,
}

impl FirstTimeout {
    /// (Deadlines are looked at in the order of sending: where a small one waits, a longer one behind it waits with it.)
    fn end(&self, slot: &Slot) -> Timestamp {
        self.with_company(slot, slot.sent_at.plus_micros(self.rto), self.wait)
    }

    /// Of one that was put off until then: it waits half as long once more.
    fn put_off_end(&self, slot: &Slot, deadline: Timestamp) -> Timestamp {
        self.with_company(slot, deadline, self.wait / 2)
    }

    fn with_company(&self, slot: &Slot, end: Timestamp, wait: u64) -> Timestamp {
        let waits = slot.data.len() <= SMALL && end < self.company && self.company <= end.plus_micros(wait);
        if waits { self.company } else { end }
    }
}

/// A transmission that is not its segment's latest: one before it, or a copy that rode along in a datagram with room. Its
/// ACK gives an RTT sample too.
#[derive(Debug)]
struct Sending {
    sn: Seq,
    ts: u32,
    sent_at: Timestamp,
}

/// Those remembered; older ones give no sample.
const MAX_OTHERS: usize = 64;
/// Segments of which a copy is to ride, at most.
const MAX_FRAGILE: usize = 64;
/// So often rides what was lost twice: all that came after it waits for it, and the next timeout is longer.
const LATE_RIDES: u8 = 3;
/// How far from the end the tail is looked for.
const TAIL: usize = 8;
/// Payload of a segment that may ride, in bytes at most.
pub(crate) const SMALL: usize = 256;

/// What an ACK told.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum AckOutcome {
    /// The segment was in flight; `sent_at` is known if the echo names its latest transmission.
    Acked {
        /// When the acknowledged transmission was sent.
        sent_at: Option<Timestamp>,
    },
    /// Covered by `una`, or acknowledged before.
    Known,
    /// Never sent.
    NeverSent,
}

/// The segments between `snd_una` and `snd_nxt`.
///
/// Nothing here scans the window. First transmissions happen in order of sn, so two cursors into the ring find the
/// next one that may be lost and the next one whose RTO may end; retransmissions, which are few, have a queue in send
/// order and a heap of deadlines. Every cursor only moves forward, entries that no longer apply are dropped when met.
///
/// Loss detection: an ACK that echoes (sn, ts) names the transmission that arrived. Everything sent at least `resend`
/// transmissions before it and not acknowledged is lost. For first transmissions in order this is `ikcp_parse_fastack`
/// (`resend` ACKs skipped it), without touching every earlier segment at every ACK.
#[derive(Debug)]
pub(crate) struct Inflight {
    una: Seq,
    slots: VecDeque<Slot>,
    /// Payload bytes in slots that are not acknowledged.
    bytes: usize,
    /// Of those, the bytes that wait in `due`: they are on their way no longer.
    lost: usize,
    /// Bytes that were ever found lost.
    ever_lost: u64,
    /// Slots that are not acknowledged.
    unacked: u32,
    /// Transmissions so far; the next one's position in send order.
    next_order: u64,
    /// One past the latest position in send order known to have arrived.
    arrived: u64,
    /// Time of the latest transmission.
    last_sent: Timestamp,
    /// A probe was sent since something was last acknowledged.
    probed: bool,
    /// Before it, no slot with one transmission can newly be found lost.
    loss_cursor: Seq,
    /// Before it, every slot is acknowledged, due or retransmitted. Not before `una`.
    rto_cursor: Seq,
    /// There since something was sent again, or a copy rode along; empty when nothing is in flight.
    repairs: Rare<Repairs>,
    usage: Usage,
}

/// What is kept of segments that are lost, or were sent more than once.
#[derive(Debug, Default)]
struct Repairs {
    /// Retransmissions in send order: (order, sn); stale unless the slot's order is the same.
    resent: VecDeque<(u64, Seq)>,
    /// RTO deadlines of retransmissions: (deadline, order, sn); stale as above.
    deadlines: BinaryHeap<Reverse<(Timestamp, u64, u32)>>,
    /// Segments to send again; stale where acknowledged meanwhile.
    due: VecDeque<(Seq, Cause)>,
    /// Due, but beyond a window that the peer has made smaller since they were sent; stale as above.
    stalled: VecDeque<(Seq, Cause)>,
    /// Retransmissions of which it is open whether copies follow, the next one first; stale as above.
    lone: VecDeque<(u64, Seq)>,
    others: VecDeque<Sending>,
    /// Small segments sent again: copies ride along with something later. Stale as above.
    fragile: VecDeque<Seq>,
}

impl Repairs {
    /// Whether a copy of `sn` rode along just now.
    fn rode_at(&self, sn: Seq, now: Timestamp) -> bool {
        self.others.iter().rev().take_while(|ride| ride.sent_at == now).any(|ride| ride.sn == sn)
    }

    fn clear(&mut self) {
        self.resent.clear();
        self.deadlines.clear();
        self.due.clear();
        self.stalled.clear();
        self.lone.clear();
        self.others.clear();
        self.fragile.clear();
    }
}

impl Inflight {
    pub(crate) const fn new(una: Seq) -> Self {
        Self {
            una,
            slots: VecDeque::new(),
            bytes: 0,
            lost: 0,
            ever_lost: 0,
            unacked: 0,
            next_order: 0,
            arrived: 0,
            last_sent: Timestamp::ZERO,
            probed: false,
            loss_cursor: una,
            rto_cursor: una,
            repairs: Rare::none(),
            usage: Usage::new(),
        }
    }

    /// `snd_una`.
    pub(crate) const fn una(&self) -> Seq {
        self.una
    }

    /// `snd_nxt`.
    pub(crate) fn nxt(&self) -> Seq {
        self.una.plus(self.len())
    }

    /// Segments between `una` and `nxt`.
    // Bounded by the send window.
    pub(crate) fn len(&self) -> u32 {
        narrow(self.slots.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Payload bytes in flight and not acknowledged.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Payload bytes neither acknowledged nor known to be lost.
    pub(crate) const fn on_the_way(&self) -> usize {
        self.bytes.saturating_sub(self.lost)
    }

    /// Time of the latest transmission.
    pub(crate) const fn last_sent(&self) -> Timestamp {
        self.last_sent
    }

    /// Payload bytes that were found lost, since the session began.
    pub(crate) const fn ever_lost(&self) -> u64 {
        self.ever_lost
    }

    /// Position in send order of the latest transmission, and the first beyond what is known to have arrived.
    pub(crate) const fn latest_and_arrived(&self) -> (u64, u64) {
        (self.next_order.wrapping_sub(1), self.arrived)
    }

    /// Segments in flight that are not acknowledged in any way.
    pub(crate) const fn unacked(&self) -> u32 {
        self.unacked
    }

    /// Whether something in flight is not acknowledged in any way.
    pub(crate) const fn has_unacked(&self) -> bool {
        self.unacked > 0
    }

    fn get(&self, sn: Seq) -> Option<&Slot> {
        find(&self.slots, self.una, sn)
    }

    fn get_mut(&mut self, sn: Seq) -> Option<&mut Slot> {
        find_mut(&mut self.slots, self.una, sn)
    }

    /// Position `order` in send order is known to have arrived.
    fn has_arrived(&mut self, order: u64) {
        self.arrived = self.arrived.max(order.wrapping_add(1));
    }

    /// Takes a new segment, whose first transmission happens now; returns its sn.
    pub(crate) fn push(&mut self, frg: u8, data: Bytes, ts: u32, now: Timestamp) -> Seq {
        let sn = self.nxt();
        self.bytes = self.bytes.saturating_add(data.len());
        self.unacked = self.unacked.saturating_add(1);
        let order = self.take_order();
        self.last_sent = now;
        self.slots.push_back(Slot {
            data,
            frg,
            acked: false,
            due: false,
            xmit: 1,
            ts,
            sent_at: now,
            order,
            rto: 0,
            left: 0,
            rides: 0,
            deferred: false,
        });
        sn
    }

    fn take_order(&mut self) -> u64 {
        let order = self.next_order;
        self.next_order = order.wrapping_add(1);
        order
    }

    /// When `sn` was sent with `ts`, if it was and is not acknowledged.
    pub(crate) fn in_flight_since(&self, sn: Seq, ts: u32) -> Option<Timestamp> {
        let slot = self.get(sn).filter(|slot| !slot.acked)?;
        if slot.ts == ts { Some(slot.sent_at) } else { self.other_at(sn, ts) }
    }

    fn other_at(&self, sn: Seq, ts: u32) -> Option<Timestamp> {
        let others = &self.repairs.get()?.others;
        others.iter().rev().find(|ride| ride.sn == sn && ride.ts == ts).map(|ride| ride.sent_at)
    }

    /// The next segment of which a copy may ride along in a datagram that leaves anyway: of those sent again one each, or a few, some
    /// time after; besides, of the `recent` newest before `end`, as often, and once more what is not acknowledged `late` after it was
    /// sent. Only up to `longest` bytes.
    pub(crate) fn next_rider(
        &mut self,
        now: Timestamp,
        recent: u8,
        end: Seq,
        (gap, late): (u64, u64),
        longest: usize,
    ) -> Option<(Seq, &Slot)> {
        let old_enough = |slot: &Slot| slot.sent_at.plus_micros(gap) <= now;
        if let Some(sn) = self.next_fragile(now, |slot| old_enough(slot) && slot.data.len() <= longest) {
            return self.get(sn).map(|slot| (sn, slot));
        }
        if recent == 0 {
            return None;
        }
        let last = end.offset_from(self.una)?;
        let newest = last.saturating_sub(usize::from(recent));
        let first = newest.saturating_sub(1);
        let candidates = (first..).zip(self.slots.range(first..last.min(self.slots.len())));
        let mut sn = self.una.plus(u32::try_from(first).ok()?);
        for (i, slot) in candidates {
            let fits = !slot.data.is_empty() && slot.data.len() <= longest;
            let is_late = slot.sent_at.plus_micros(late) <= now;
            let most = recent.saturating_add(u8::from(is_late));
            let rides = slot.rides < most && (is_late || i >= newest);
            let wanted = !slot.acked && !slot.due && rides && fits && old_enough(slot);
            if wanted && !self.repairs.get().is_some_and(|repairs| repairs.rode_at(sn, now)) {
                return Some((sn, slot));
            }
            sn = sn.next();
        }
        None
    }

    /// The first of those that were sent again and have not ridden often enough since, if it may ride now.
    fn next_fragile(&mut self, now: Timestamp, may_ride: impl Fn(&Slot) -> bool) -> Option<Seq> {
        let Self { slots, una, repairs, .. } = self;
        let repairs = repairs.get_mut()?;
        loop {
            let &sn = repairs.fragile.front()?;
            let slot = find(slots, *una, sn).filter(|slot| slot.is_fragile() && !slot.due);
            match slot {
                Some(slot) => return (may_ride(slot) && !repairs.rode_at(sn, now)).then_some(sn),
                None => _ = repairs.fragile.pop_front(),
            }
        }
    }

    /// Whether it is open for something sent again if copies follow.
    pub(crate) fn has_lone(&self) -> bool {
        self.repairs.get().is_some_and(|repairs| !repairs.lone.is_empty())
    }

    /// The first of those sent again, so often at least and longer than so many bytes, that no copy has followed yet; then those
    /// that one has followed, and so on.
    pub(crate) fn next_lone(&mut self, least_xmit: u32, longer_than: usize) -> Option<(Seq, &Slot)> {
        let Self { slots, una, repairs, .. } = self;
        let lone = &mut repairs.get_mut()?.lone;
        loop {
            let &(order, sn) = lone.front()?;
            if let Some(slot) = find(slots, *una, sn).filter(|slot| {
                slot.is_latest(order) && slot.xmit >= least_xmit && slot.data.len() > longer_than
            }) {
                return Some((sn, slot));
            }
            lone.pop_front();
        }
    }

    /// Books a copy of `sn`, which [`next_lone`](Self::next_lone) returned; of `copies`, it gets the others when its turn comes.
    pub(crate) fn copied(&mut self, sn: Seq, ts: u32, now: Timestamp, copies: u8) {
        self.rode(sn, ts, now);
        let rides = self.get(sn).map_or(0, |slot| slot.rides);
        let lone = &mut self.repairs.make().lone;
        let first = lone.pop_front();
        lone.extend(first.filter(|_| rides < copies));
    }

    /// What was sent again until now needs no copy.
    pub(crate) fn leave_lone(&mut self) {
        if let Some(repairs) = self.repairs.get_mut() {
            repairs.lone.clear();
        }
    }

    fn note(&mut self, sending: Sending) {
        let others = &mut self.repairs.make().others;
        if others.len() >= MAX_OTHERS {
            others.pop_front();
        }
        others.push_back(sending);
    }

    /// Lets copies of `sn` ride along with something later.
    pub(crate) fn protect(&mut self, sn: Seq) {
        let fragile = &mut self.repairs.make().fragile;
        if fragile.len() < MAX_FRAGILE {
            fragile.push_back(sn);
        }
    }

    /// Books a copy of `sn`.
    pub(crate) fn rode(&mut self, sn: Seq, ts: u32, now: Timestamp) {
        self.note(Sending { sn, ts, sent_at: now });
        let Self { slots, una, repairs, .. } = self;
        let fragile = &mut repairs.make().fragile;
        let first = if fragile.front() == Some(&sn) { fragile.pop_front() } else { None };
        if let Some(slot) = find_mut(slots, *una, sn) {
            slot.rides = slot.rides.saturating_add(1);
            fragile.extend(first.filter(|_| slot.is_fragile()));
        }
    }

    /// Applies an ACK for (sn, ts).
    pub(crate) fn on_ack(&mut self, sn: Seq, ts: u32) -> AckOutcome {
        if sn.is_before(self.una) {
            return AckOutcome::Known;
        }
        let Some(slot) = self.get_mut(sn) else { return AckOutcome::NeverSent };
        if slot.acked {
            return AckOutcome::Known;
        }
        slot.acked = true;
        let exact = slot.ts == ts;
        let (sent_at, order, once) = (slot.sent_at, slot.order, slot.xmit == 1 && slot.rides == 0);
        let (data, due) = (core::mem::take(&mut slot.data), slot.due);
        self.bytes = self.bytes.saturating_sub(data.len());
        if due {
            self.lost = self.lost.saturating_sub(data.len());
        }
        self.unacked = self.unacked.saturating_sub(1);
        self.probed = false;
        if exact {
            self.has_arrived(order);
        }
        let sent_at = if exact || once { exact.then_some(sent_at) } else { self.other_at(sn, ts) };
        AckOutcome::Acked { sent_at }
    }

    /// Applies a cumulative acknowledgement, which the caller has checked not to exceed `nxt`. Returns how many
    /// segments it newly covers, and of those how many payload bytes were not acknowledged before.
    pub(crate) fn on_una(&mut self, una: Seq) -> (u32, usize) {
        let count = una.offset_from(self.una).unwrap_or(0).min(self.slots.len());
        if count == 0 {
            return (0, 0);
        }
        self.usage.note(self.slots.len());
        let before = self.bytes;
        self.probed &= count == 0;
        for slot in self.slots.drain(..count) {
            if slot.acked {
                continue;
            }
            self.bytes = self.bytes.saturating_sub(slot.data.len());
            self.unacked = self.unacked.saturating_sub(1);
            if slot.due {
                self.lost = self.lost.saturating_sub(slot.data.len());
            }
            if slot.xmit == 1 {
                self.arrived = self.arrived.max(slot.order.wrapping_add(1));
            }
        }
        // At most the send window.
        let covered = narrow(count);
        self.una = self.una.plus(covered);
        for cursor in [&mut self.loss_cursor, &mut self.rto_cursor] {
            if cursor.is_before(self.una) {
                *cursor = self.una;
            }
        }
        if self.slots.is_empty() {
            self.release();
        }
        (covered, before.saturating_sub(self.bytes))
    }

    /// Nothing is in flight: the ring stays for what comes next, unless it is much too large.
    fn release(&mut self) {
        if self.usage.is_exceeded(self.slots.capacity()) {
            self.trim();
        } else if let Some(repairs) = self.repairs.get_mut() {
            repairs.clear();
        }
    }

    /// Whether something was lost, or a copy rode along, lately.
    pub(crate) fn has_repairs(&self) -> bool {
        self.repairs.get().is_some()
    }

    /// Whether something may have to be sent again now.
    pub(crate) fn has_due(&self) -> bool {
        self.repairs.get().is_some_and(|repairs| !repairs.due.is_empty())
    }

    /// Whether memory is kept although nothing is in flight.
    pub(crate) fn keeps(&self) -> bool {
        self.slots.is_empty() && (self.slots.capacity() > 0 || self.repairs.get().is_some())
    }

    /// An idle session keeps no buffer.
    pub(crate) fn trim(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
            self.repairs.clear();
        }
    }

    /// Finds segments that at least `resend` later transmissions have overtaken; returns how many became due.
    /// `limit`: segments sent more often are left to their timeout (0: none are).
    pub(crate) fn detect_losses(&mut self, resend: u32, limit: u32) -> u32 {
        if resend == 0 {
            return 0;
        }
        let arrived = self.arrived;
        let overtaken = |order: u64| order.saturating_add(u64::from(resend)) < arrived;
        let mut found = 0u32;
        while let Some(slot) = self.loss_cursor.offset_from(self.una).and_then(|i| self.slots.get_mut(i)) {
            if slot.xmit == 1 && !slot.acked && !slot.due {
                if !overtaken(slot.order) {
                    break;
                }
                lose(&mut self.lost, &mut self.ever_lost, slot);
                self.repairs.make().due.push_back((self.loss_cursor, Cause::Fast));
                found = found.saturating_add(1);
            }
            self.loss_cursor = self.loss_cursor.next();
        }
        let Self { slots, una, repairs, lost, ever_lost, .. } = self;
        let Some(Repairs { resent, due, .. }) = repairs.get_mut() else { return found };
        while let Some(&(order, sn)) = resent.front() {
            if let Some(slot) = find_mut(slots, *una, sn).filter(|slot| slot.is_latest(order)) {
                if !overtaken(order) {
                    break;
                }
                if limit == 0 || slot.xmit <= limit {
                    lose(lost, ever_lost, slot);
                    due.push_back((sn, Cause::Fast));
                    found = found.saturating_add(1);
                }
            }
            resent.pop_front();
        }
        found
    }

    /// Moves segments whose RTO has ended to `due`; returns how many.
    pub(crate) fn expire(&mut self, now: Timestamp, first: FirstTimeout) -> u32 {
        let mut found = 0u32;
        while let Some((sn, deadline)) = self.first_deadline(first) {
            if deadline > now {
                break;
            }
            found = found.saturating_add(u32::from(self.time_out(sn, now, first.rto)));
        }
        while let Some((deadline, sn)) = self.repeated_deadline(first) {
            if deadline > now {
                break;
            }
            found = found.saturating_add(u32::from(self.time_out(sn, now, first.rto)));
        }
        found
    }

    /// The timeout of `sn` has ended; false if it begins again, since a copy rode along later and may be on its way.
    fn time_out(&mut self, sn: Seq, now: Timestamp, first_rto: u64) -> bool {
        let Self { slots, una, repairs, lost, ever_lost, .. } = self;
        let repairs = repairs.make();
        let first_ride = repairs.others.iter().find(|ride| ride.sn == sn).map(|ride| ride.sent_at);
        let Some(slot) = find_mut(slots, *una, sn) else { return false };
        let later = first_ride.filter(|_| slot.xmit == 1 && !slot.deferred);
        if let Some(deadline) = later.map(|at| at.plus_micros(first_rto)).filter(|&deadline| deadline > now) {
            slot.deferred = true;
            repairs.deadlines.push(Reverse((deadline, slot.order, sn.value())));
            return false;
        }
        lose(lost, ever_lost, slot);
        repairs.due.push_back((sn, Cause::Timeout));
        true
    }

    /// Sends the first segment again if it was, and that is longer ago than `rto`: its own timeout has grown while the peer
    /// had no room, and now it has.
    pub(crate) fn retry_first(&mut self, now: Timestamp, rto: u64) {
        let (una, Some(slot)) = (self.una, self.slots.front_mut()) else { return };
        if slot.xmit > 1 && !slot.acked && !slot.due && slot.sent_at.plus_micros(rto) <= now {
            lose(&mut self.lost, &mut self.ever_lost, slot);
            self.repairs.make().due.push_back((una, Cause::Fast));
        }
    }

    /// The last segment on its way, if it is not the only one, and since when nothing has left. None once it was sent as a probe,
    /// until something is acknowledged.
    pub(crate) fn tail(&self) -> Option<(Seq, Timestamp)> {
        if self.probed {
            return None;
        }
        let mut sn = self.nxt();
        for slot in self.slots.iter().rev().take(TAIL) {
            sn = sn.plus(u32::MAX);
            if !slot.acked && !slot.due {
                return (self.on_the_way() > slot.data.len()).then_some((sn, self.last_sent));
            }
        }
        None
    }

    /// Sends the [`tail`](Self::tail) again. Its place in send order is `resend` further, so that its ACK overtakes all before it.
    pub(crate) fn probe(&mut self, sn: Seq, resend: u32) {
        self.probed = true;
        self.next_order = self.next_order.wrapping_add(u64::from(resend));
        let Self { slots, una, lost, ever_lost, repairs, .. } = self;
        if let Some(slot) = find_mut(slots, *una, sn) {
            lose(lost, ever_lost, slot);
            repairs.make().due.push_back((sn, Cause::Probe));
        }
    }

    /// Timeouts that have grown beyond `rto` end as if they had not.
    pub(crate) fn end_backoff(&mut self, rto: u64) {
        let Some(Repairs { deadlines, .. }) = self.repairs.get_mut() else { return };
        let mut sn = self.una;
        for slot in &mut self.slots {
            if !slot.acked && !slot.due && u64::from(slot.rto) > rto {
                (slot.rto, slot.left) = (fits(rto), 0);
                // The entry with the old deadline is stale once this one has ended.
                deadlines.push(Reverse((slot.sent_at.plus_micros(rto), slot.order, sn.value())));
            }
            sn = sn.next();
        }
    }

    /// The earliest deadline among segments sent once: they were sent in order of sn, so it is the first one's.
    fn first_deadline(&mut self, first: FirstTimeout) -> Option<(Seq, Timestamp)> {
        loop {
            let slot = self.get(self.rto_cursor)?;
            if slot.xmit == 1 && !slot.acked && !slot.due && !slot.deferred {
                return Some((self.rto_cursor, first.end(slot)));
            }
            self.rto_cursor = self.rto_cursor.next();
        }
    }

    /// When the next RTO ends; `None` when nothing is in flight, or everything in flight is acknowledged or due. Once something waits
    /// for the peer's window, `window`, nobody is woken for what was sent once and would join it.
    pub(crate) fn next_deadline(&mut self, first: FirstTimeout, window: u32) -> Option<Timestamp> {
        let (una, stalled) = (self.una, self.is_stalled());
        let once = self.first_deadline(first).filter(|&(sn, _)| !stalled || !is_beyond(sn, una, window));
        let once = once.map(|(_, deadline)| deadline);
        let repeated = self.repeated_deadline(first).map(|(deadline, _)| deadline);
        once.into_iter().chain(repeated).min()
    }

    /// The earliest deadline among the others.
    fn repeated_deadline(&mut self, first: FirstTimeout) -> Option<(Timestamp, Seq)> {
        let Self { slots, una, repairs, .. } = self;
        let deadlines = &mut repairs.get_mut()?.deadlines;
        loop {
            let &Reverse((deadline, order, sn)) = deadlines.peek()?;
            let sn = Seq::new(sn);
            if let Some(slot) = find(slots, *una, sn).filter(|slot| slot.is_latest(order)) {
                let end = if slot.deferred { first.put_off_end(slot, deadline) } else { deadline };
                return Some((end, sn));
            }
            deadlines.pop();
        }
    }

    /// The next segment to send again.
    pub(crate) fn peek_due(&mut self) -> Option<(Seq, Cause, &Slot)> {
        let Self { slots, una, repairs, .. } = self;
        let due = &mut repairs.get_mut()?.due;
        loop {
            let &(sn, cause) = due.front()?;
            if let Some(slot) = find(slots, *una, sn).filter(|slot| !slot.acked && slot.due) {
                return Some((sn, cause, slot));
            }
            due.pop_front();
        }
    }

    /// Puts aside what [`peek_due`](Self::peek_due) returned: the peer has no room for it.
    pub(crate) fn stall(&mut self) {
        let Repairs { stalled, due, .. } = self.repairs.make();
        stalled.extend(due.pop_front());
    }

    /// What was put aside and lies within the first `window` segments is due again.
    pub(crate) fn unstall(&mut self, window: u32) {
        let una = self.una;
        let Some(Repairs { stalled, due, .. }) = self.repairs.get_mut() else { return };
        stalled.retain(|&(sn, cause)| {
            let beyond = is_beyond(sn, una, window);
            if !beyond {
                due.push_back((sn, cause));
            }
            beyond
        });
    }

    /// Whether something waits for the peer's window.
    pub(crate) fn is_stalled(&self) -> bool {
        self.repairs.get().is_some_and(|repairs| !repairs.stalled.is_empty())
    }

    /// Books the transmission of what [`peek_due`](Self::peek_due) returned.
    pub(crate) fn resent(&mut self, now: Timestamp, sending: &Resend, backoff: impl Fn(u64) -> u64) {
        let Some((sn, cause)) = self.repairs.get_mut().and_then(|repairs| repairs.due.pop_front()) else {
            return;
        };
        let &Resend { ts, rto, gap, wanted, protect } = sending;
        let order = self.take_order();
        self.last_sent = now;
        let first = sn == self.una;
        let Some(slot) = self.get_mut(sn) else { return };
        let in_between = slot.is_in_between(cause);
        if !in_between {
            let last = if slot.xmit == 1 { rto } else { u64::from(slot.rto) };
            slot.rto = fits(if cause == Cause::Timeout { backoff(last) } else { last });
            slot.left = slot.rto;
        }
        let wait = if first { slot.left.min(fits(gap)) } else { slot.left };
        slot.left = slot.left.saturating_sub(wait);
        slot.due = false;
        let len = slot.data.len();
        if (wanted && !in_between) || slot.xmit == 1 {
            slot.xmit = slot.xmit.saturating_add(1);
        }
        let before = Sending { sn, ts: slot.ts, sent_at: slot.sent_at };
        slot.ts = ts;
        slot.sent_at = now;
        slot.order = order;
        slot.rides = 0;
        slot.deferred = false;
        let ride = (protect || slot.xmit > 2) && slot.data.len() <= SMALL;
        let deadline = now.plus_micros(u64::from(wait));
        self.lost = self.lost.saturating_sub(len);
        self.note(before);
        if ride {
            self.protect(sn);
        }
        let Self { slots, una, repairs, .. } = self;
        let Repairs { resent, deadlines, lone, .. } = repairs.make();
        resent.push_back((order, sn));
        lone.push_back((order, sn));
        deadlines.push(Reverse((deadline, order, sn.value())));
        // Stale entries lie below live ones; keep all structures in proportion to the window.
        let limit = slots.len().saturating_mul(2).saturating_add(64);
        let is_live = |order, sn| find(slots, *una, sn).is_some_and(|slot| slot.is_latest(order));
        if deadlines.len() > limit {
            deadlines.retain(|&Reverse((_, order, sn))| is_live(order, Seq::new(sn)));
        }
        for queue in [resent, lone] {
            if queue.len() > limit {
                queue.retain(|&(order, sn)| is_live(order, sn));
            }
        }
    }
}

/// Counts a segment that is to be sent again.
const fn lose(lost: &mut usize, ever_lost: &mut u64, slot: &mut Slot) {
    slot.due = true;
    let len = slot.data.len();
    *lost = lost.saturating_add(len);
    *ever_lost = ever_lost.saturating_add(wide(len));
}

/// The peer's window ends before `sn`. The first segment asks whether it still does.
fn is_beyond(sn: Seq, una: Seq, window: u32) -> bool {
    sn.offset_from(una).is_some_and(|i| i > 0 && i >= size(window))
}

fn find(slots: &VecDeque<Slot>, una: Seq, sn: Seq) -> Option<&Slot> {
    slots.get(sn.offset_from(una)?)
}

fn find_mut(slots: &mut VecDeque<Slot>, una: Seq, sn: Seq) -> Option<&mut Slot> {
    slots.get_mut(sn.offset_from(una)?)
}

impl Slot {
    /// Within a timeout that has not ended: nothing grows for it, and it does not count.
    fn is_in_between(&self, cause: Cause) -> bool {
        cause == Cause::Timeout && self.left > 0
    }

    /// What [`xmit`](Self::xmit) will be once it is sent again.
    pub(crate) fn next_xmit(&self, cause: Cause) -> u32 {
        self.xmit.saturating_add(u32::from(!self.is_in_between(cause)))
    }

    /// Whether it may ride once more since it was sent again.
    const fn is_fragile(&self) -> bool {
        !self.acked && self.rides < if self.xmit > 2 { LATE_RIDES } else { 1 }
    }

    /// Whether transmission `order` is its latest, and it is neither acknowledged nor about to be repeated.
    const fn is_latest(&self, order: u64) -> bool {
        self.order == order && !self.acked && !self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec;
    use alloc::vec::Vec;

    const RTO: u64 = 100_000;
    const RESEND: Resend = Resend { ts: 0, rto: RTO, gap: u64::MAX, wanted: true, protect: true };

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn first(rto: u64) -> FirstTimeout {
        FirstTimeout { rto, company: at(0), wait: 0 }
    }

    fn filled(start: u32, n: u32) -> Inflight {
        let mut ring = Inflight::new(Seq::new(start));
        for i in 0..n {
            let sn = ring.push(0, Bytes::from(vec![0; 10]), 1000 + i, at(u64::from(i)));
            assert_eq!(sn.value(), start.wrapping_add(i));
        }
        ring
    }

    fn due(ring: &mut Inflight, now: Timestamp) -> Vec<(u32, Cause)> {
        let mut out = Vec::new();
        while let Some((sn, cause, _)) = ring.peek_due() {
            out.push((sn.value(), cause));
            ring.resent(now, &Resend { ts: 5000, ..RESEND }, |rto| rto * 2);
        }
        out
    }

    #[test]
    fn the_first_is_tried_again_once_it_was_repeated_and_an_rto_has_passed() {
        let mut ring = filled(7, 3);
        ring.retry_first(at(5_000), RTO);
        assert_eq!(due(&mut ring, at(5_000)), [], "sent once: its timeout is not long");
        assert_eq!(ring.expire(at(100), first(RTO)), 1);
        assert_eq!(due(&mut ring, at(100)), [(7, Cause::Timeout)]);
        ring.retry_first(at(199), RTO);
        assert_eq!(due(&mut ring, at(199)), []);
        ring.retry_first(at(200), RTO);
        ring.retry_first(at(200), RTO);
        assert_eq!(due(&mut ring, at(200)), [(7, Cause::Fast)]);
    }

    #[test]
    fn lost_exactly_when_resend_later_ones_arrived() {
        for resend in 1..5u32 {
            let mut ring = filled(u32::MAX - 1, 10);
            let sn = |i: u32| Seq::new((u32::MAX - 1).wrapping_add(i));
            for i in 1..=resend {
                assert_eq!(ring.detect_losses(resend, 5), 0, "only {} later ones", i - 1);
                ring.on_ack(sn(i), 1000 + i);
            }
            assert_eq!(ring.detect_losses(resend, 5), 1);
            assert_eq!(due(&mut ring, at(50)), [(u32::MAX - 1, Cause::Fast)]);
            assert_eq!(ring.detect_losses(resend, 5), 0, "found once");
        }
    }

    #[test]
    fn a_lost_retransmission_is_found_too() {
        let mut ring = filled(0, 3);
        ring.on_ack(Seq::new(1), 1001);
        ring.on_ack(Seq::new(2), 1002);
        assert_eq!(ring.detect_losses(2, 5), 1);
        assert_eq!(due(&mut ring, at(50)), [(0, Cause::Fast)]);
        for i in 3..5u32 {
            ring.push(0, Bytes::new(), 2000 + i, at(60));
            ring.on_ack(Seq::new(i), 2000 + i);
        }
        assert_eq!(ring.detect_losses(2, 5), 1);
        assert_eq!(due(&mut ring, at(70)), [(0, Cause::Fast)]);
    }

    #[test]
    fn fast_limit_leaves_it_to_the_timeout() {
        let mut ring = filled(0, 1);
        let mut fast = 0;
        for round in 0..10u32 {
            for i in 0..2 {
                let sn = ring.push(0, Bytes::new(), round * 2 + i, at(10));
                ring.on_ack(sn, round * 2 + i);
            }
            ring.detect_losses(2, 5);
            fast += due(&mut ring, at(10)).len();
        }
        assert_eq!(fast, 5, "xmit 2..=6, then no more");
        assert!(ring.next_deadline(first(RTO), u32::MAX).is_some());
    }

    #[test]
    fn an_old_echo_proves_nothing_about_order() {
        let mut ring = filled(0, 3);
        ring.expire(at(101), first(RTO));
        assert_eq!(due(&mut ring, at(101)), [(0, Cause::Timeout), (1, Cause::Timeout)]);
        // The ACK of sn 1's first transmission, not of the one just sent.
        assert_eq!(ring.on_ack(Seq::new(1), 1001), AckOutcome::Acked { sent_at: Some(at(1)) });
        assert_eq!(ring.detect_losses(1, 0), 0);
        assert_eq!(ring.on_ack(Seq::new(0), 999), AckOutcome::Acked { sent_at: None }, "never sent");
    }

    #[test]
    fn deadlines_are_exact() {
        let mut ring = filled(0, 3);
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(100)));
        assert_eq!(ring.expire(Timestamp::from_micros(99_999), first(RTO)), 0);
        assert_eq!(ring.expire(at(100), first(RTO)), 1);
        assert_eq!(due(&mut ring, at(100)), [(0, Cause::Timeout)]);
        // sn 1 is next, then sn 2, then the retransmission with its RTO doubled.
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(101)));
        ring.on_ack(Seq::new(1), 1001);
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(102)));
        ring.on_ack(Seq::new(2), 1002);
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(300)));
        assert_eq!(ring.expire(at(300), first(RTO)), 1);
        assert_eq!(due(&mut ring, at(300)), [(0, Cause::Timeout)]);
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(700)));
        ring.on_una(Seq::new(3));
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), None);
        assert!(ring.is_empty());
    }

    #[test]
    fn acks_and_una() {
        let mut ring = filled(10, 4);
        assert_eq!(ring.on_ack(Seq::new(14), 0), AckOutcome::NeverSent);
        assert_eq!(ring.on_ack(Seq::new(9), 0), AckOutcome::Known);
        assert_eq!(ring.on_ack(Seq::new(12), 1002), AckOutcome::Acked { sent_at: Some(at(2)) });
        assert_eq!(ring.on_ack(Seq::new(12), 1002), AckOutcome::Known);
        assert_eq!(ring.on_una(Seq::new(13)), (3, 20), "12 was counted by its ACK");
        assert_eq!((ring.una().value(), ring.nxt().value(), ring.len()), (13, 14, 1));
        assert_eq!(ring.on_una(Seq::new(11)), (0, 0), "an old una changes nothing");
    }

    /// The sn of the next rider, which then has ridden.
    fn ride(ring: &mut Inflight, now: u64, recent: u8, end: u32) -> Option<u32> {
        let sn = ring.next_rider(at(now), recent, Seq::new(end), (5_000, 150_000), 10).map(|(sn, _)| sn)?;
        ring.rode(sn, 9_000, at(now));
        Some(sn.value())
    }

    #[test]
    fn the_newest_ride_oldest_first_as_often_as_asked_once_per_time() {
        let mut ring = filled(0, 4);
        assert_eq!(ride(&mut ring, 20, 0, 4), None, "not asked for");
        assert_eq!(ride(&mut ring, 6, 2, 3), Some(1), "before the end, the two newest");
        assert_eq!(ride(&mut ring, 6, 2, 3), None, "2 left 4 ms ago, 1 has just ridden");
        assert_eq!([(); 3].map(|()| ride(&mut ring, 7, 2, 3)), [Some(1), Some(2), None]);
        assert_eq!([(); 2].map(|()| ride(&mut ring, 8, 2, 3)), [Some(2), None], "twice each");
        assert_eq!(ride(&mut ring, 20, 9, 0), None, "none before the end");
        ring.on_ack(Seq::new(0), 1000);
        assert_eq!(ride(&mut ring, 20, 3, 4), Some(1), "not what is acknowledged");
        // What is lost is sent again instead.
        ring.on_ack(Seq::new(3), 1003);
        assert_eq!(ring.detect_losses(1, 0), 2);
        assert_eq!(ride(&mut ring, 21, 9, 4), None);
    }

    #[test]
    fn neither_the_empty_nor_the_long_ride() {
        let mut ring = Inflight::new(Seq::new(0));
        for len in [0, 10, 11] {
            ring.push(0, Bytes::from(vec![0; len]), 1, at(0));
        }
        assert_eq!([(); 2].map(|()| ride(&mut ring, 20, 3, 3)), [Some(1), None]);
        // Nor where they were sent again.
        let mut ring = filled(0, 1);
        ring.push(0, Bytes::from(vec![0; 11]), 1, at(0));
        ring.expire(at(101), first(RTO));
        assert_eq!(due(&mut ring, at(101)).len(), 2);
        assert_eq!(ride(&mut ring, 105, 0, 2), None, "too soon");
        assert_eq!([(); 2].map(|()| ride(&mut ring, 106, 0, 2)), [Some(0), None]);
    }

    #[test]
    fn of_what_was_sent_again_nothing_rides_that_is_acknowledged_or_lost_once_more() {
        let mut ring = filled(0, 3);
        ring.expire(at(102), first(RTO));
        assert_eq!(due(&mut ring, at(102)).len(), 3);
        ring.on_ack(Seq::new(0), 5000);
        assert_eq!([(); 3].map(|()| ride(&mut ring, 107, 0, 3)), [Some(1), Some(2), None]);
        let mut ring = filled(0, 2);
        ring.expire(at(101), first(RTO));
        assert_eq!(due(&mut ring, at(101)).len(), 2);
        assert_eq!(ring.expire(at(301), first(RTO)), 2);
        assert_eq!(ride(&mut ring, 400, 0, 2), None);
        assert_eq!(due(&mut ring, at(400)).len(), 2);
        assert_eq!([(); 3].map(|()| ride(&mut ring, 405, 0, 2)), [Some(0), Some(1), None]);
    }

    #[test]
    fn of_many_sent_again_only_so_many_ride() {
        let mut ring = filled(0, 100);
        ring.expire(at(200), first(RTO));
        assert_eq!(due(&mut ring, at(200)).len(), 100);
        let rides = core::iter::from_fn(|| ride(&mut ring, 300, 0, 100)).count();
        assert_eq!(rides, MAX_FRAGILE);
    }

    #[test]
    fn a_ride_is_an_exact_sample_and_the_timeout_begins_with_the_first() {
        let mut ring = filled(0, 2);
        assert_eq!(ride(&mut ring, 50, 1, 1), Some(0));
        assert_eq!(ring.in_flight_since(Seq::new(0), 9_000), Some(at(50)));
        assert_eq!(ring.in_flight_since(Seq::new(0), 1_000), Some(at(0)));
        assert_eq!(ring.in_flight_since(Seq::new(1), 9_000), None, "of another");
        assert_eq!(ring.expire(at(100), first(RTO)), 0, "put off");
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(101)));
        assert_eq!(ring.expire(at(149), first(RTO)), 1, "sn 1, which has not ridden");
        assert_eq!(ring.expire(at(150), first(RTO)), 1);
        assert_eq!(ring.on_ack(Seq::new(0), 9_000), AckOutcome::Acked { sent_at: Some(at(50)) });
        assert_eq!(ring.in_flight_since(Seq::new(0), 1_000), None, "acknowledged");
    }

    #[test]
    fn a_small_segments_first_timeout_waits_for_company_and_no_other() {
        let ends = |len, company, wait| {
            let mut ring = Inflight::new(Seq::new(0));
            ring.push(0, Bytes::from(vec![0; len]), 0, at(0));
            let first = FirstTimeout { rto: RTO, company: at(company), wait };
            let end = ring.next_deadline(first, u32::MAX).unwrap();
            assert_eq!(ring.expire(Timestamp::from_micros(end.as_micros() - 1), first), 0);
            assert_eq!(ring.expire(end, first), 1);
            due(&mut ring, end);
            assert_eq!(ring.next_deadline(first, u32::MAX), Some(end.plus_micros(2 * RTO)), "not the second");
            end
        };
        assert_eq!(ends(SMALL, 107, 7_000), at(107));
        assert_eq!(ends(SMALL, 107, 6_999), at(100), "too long");
        assert_eq!(ends(SMALL + 1, 107, 7_000), at(100), "not small");
        assert_eq!(ends(SMALL, 99, 7_000), at(100), "it has left");
        // In the order of sending, however many.
        let mut ring = filled(0, 5);
        let first = FirstTimeout { rto: RTO, company: at(103), wait: 2_000 };
        for (now, expired) in [(100, 1), (102, 0), (103, 3), (104, 1)] {
            assert_eq!(ring.expire(at(now), first), expired, "{now}");
        }
    }

    #[test]
    fn what_is_late_rides_once_more_than_the_newest() {
        let mut ring = filled(0, 4);
        assert_eq!([5, 6].map(|now| ride(&mut ring, now, 2, 2)), [Some(0), Some(0)]);
        assert_eq!(ride(&mut ring, 149, 2, 3), Some(1), "0 is neither late nor among the newest");
        assert_eq!(ride(&mut ring, 150, 2, 3), Some(0), "sent 150 ms ago");
        assert_eq!(ride(&mut ring, 151, 2, 3), Some(1));
        assert_eq!([(); 2].map(|()| ride(&mut ring, 152, 2, 3)), [Some(1), Some(2)], "0 has ridden thrice");
        assert_eq!(ride(&mut ring, 160, 2, 4), Some(2), "1 has");
        assert_eq!(ride(&mut ring, 160, 0, 4), None, "not asked for");
    }

    #[test]
    fn what_was_put_off_waits_half_as_long_for_company() {
        for (company, end) in [(103, 103), (104, 101)] {
            let mut ring = filled(0, 1);
            ring.rode(Seq::new(0), 9_000, at(1));
            let first = FirstTimeout { rto: RTO, company: at(company), wait: 5_000 };
            assert_eq!(ring.expire(at(100), FirstTimeout { wait: 0, ..first }), 0, "put off");
            assert_eq!(ring.next_deadline(first, u32::MAX), Some(at(end)));
            assert_eq!(ring.expire(at(end - 1), first), 0);
            assert_eq!(ring.expire(at(end), first), 1);
        }
    }

    #[test]
    fn what_was_lost_twice_rides_three_times_even_if_what_was_lost_once_may_not() {
        let mut ring = filled(0, 2);
        let resend = |ring: &mut Inflight, now| {
            ring.expire(at(now), first(RTO));
            let count = core::iter::from_fn(|| {
                ring.peek_due()?;
                ring.resent(at(now), &Resend { protect: false, ..RESEND }, |rto| rto);
                Some(())
            });
            count.count()
        };
        assert_eq!(resend(&mut ring, 101), 2);
        assert_eq!(ride(&mut ring, 110, 0, 2), None, "lost once");
        assert_eq!(resend(&mut ring, 201), 2);
        let mut rides = |now| core::iter::from_fn(|| ride(&mut ring, now, 0, 2)).collect::<Vec<_>>();
        assert_eq!(rides(205), [], "too soon");
        assert_eq!(rides(206), [0, 1], "once in a datagram");
        assert_eq!([rides(207), rides(208), rides(209)], [vec![0, 1], vec![0, 1], vec![]]);
        assert_eq!(resend(&mut ring, 301), 2);
        assert_eq!(ride(&mut ring, 310, 0, 2), Some(0));
        ring.on_ack(Seq::new(0), 5000);
        assert_eq!(ride(&mut ring, 311, 0, 2), Some(1), "0 has arrived");
    }

    fn lone(ring: &mut Inflight) -> Option<u32> {
        ring.next_lone(2, 0).map(|(sn, _)| sn.value())
    }

    #[test]
    fn each_that_was_sent_again_is_copied_once_in_order_or_left() {
        let mut ring = filled(0, 5);
        assert_eq!(lone(&mut ring), None);
        ring.expire(at(102), first(RTO));
        assert_eq!(due(&mut ring, at(102)).len(), 3);
        assert_eq!(lone(&mut ring), Some(0));
        assert_eq!(lone(&mut ring), Some(0), "until it is booked");
        ring.copied(Seq::new(0), 6_000, at(103), 1);
        assert_eq!(ring.in_flight_since(Seq::new(0), 6_000), Some(at(103)));
        ring.on_ack(Seq::new(1), 5_000);
        assert_eq!(lone(&mut ring), Some(2), "1 has arrived");
        ring.copied(Seq::new(2), 6_000, at(103), 1);
        assert_eq!(lone(&mut ring), None);
        ring.expire(at(104), first(RTO));
        assert_eq!(due(&mut ring, at(104)).len(), 2);
        assert_eq!(lone(&mut ring), Some(3));
        ring.leave_lone();
        assert_eq!(lone(&mut ring), None);
        assert_eq!(ring.expire(at(302), first(RTO)), 2);
        assert_eq!(lone(&mut ring), None, "lost once more");
        assert_eq!(due(&mut ring, at(302)).len(), 2);
        assert_eq!(lone(&mut ring), Some(0), "sent once more");
    }

    #[test]
    fn copies_of_several_take_turns() {
        let mut ring = filled(0, 3);
        ring.expire(at(102), first(RTO));
        assert_eq!(due(&mut ring, at(102)).len(), 3);
        let order: Vec<_> = core::iter::from_fn(|| {
            let sn = lone(&mut ring)?;
            ring.copied(Seq::new(sn), 6_000, at(103), 2);
            Some(sn)
        })
        .collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn the_tail_is_the_last_of_several_on_their_way_and_is_probed_for_once() {
        let mut ring = filled(0, 1);
        assert_eq!(ring.tail(), None, "a lone one is left to its timeout");
        ring.push(0, Bytes::from(vec![0; 3]), 2, at(7));
        assert_eq!(ring.tail(), Some((Seq::new(1), at(7))));
        ring.push(0, Bytes::from(vec![0; 3]), 3, at(9));
        ring.on_ack(Seq::new(2), 3);
        assert_eq!(ring.tail(), Some((Seq::new(1), at(9))), "the last that is not acknowledged");
        ring.probe(Seq::new(1), 2);
        assert_eq!(ring.tail(), None);
        assert_eq!((ring.on_the_way(), ring.ever_lost()), (10, 3));
        assert_eq!(due(&mut ring, at(20)), [(1, Cause::Probe)]);
        assert_eq!((ring.on_the_way(), ring.tail()), (13, None), "once");
        assert_eq!(ring.on_ack(Seq::new(1), 5000), AckOutcome::Acked { sent_at: Some(at(20)) });
        assert_eq!(ring.detect_losses(2, 0), 1, "the answer overtakes all before it");
        assert_eq!(due(&mut ring, at(30)), [(0, Cause::Fast)]);
        // Whatever is acknowledged allows the next.
        for una in [true, false] {
            let mut ring = filled(0, 4);
            ring.probe(Seq::new(3), 1);
            due(&mut ring, at(20));
            assert_eq!(ring.tail(), None);
            if una {
                ring.on_una(Seq::new(1));
            } else {
                ring.on_ack(Seq::new(0), 1000);
            }
            assert_eq!(ring.tail(), Some((Seq::new(3), at(20))));
        }
    }

    #[test]
    fn the_tail_is_not_looked_for_far_from_the_end() {
        for (acked, found) in [(TAIL as u32 - 1, true), (TAIL as u32, false)] {
            let mut ring = filled(0, 20);
            for sn in 20 - acked..20 {
                ring.on_ack(Seq::new(sn), 1000 + sn);
            }
            assert_eq!(ring.tail().map(|(sn, _)| sn.value()), found.then(|| 19 - acked));
        }
    }

    #[test]
    fn what_is_acknowledged_is_neither_due_nor_outstanding() {
        let mut ring = filled(0, 3);
        assert!(ring.has_unacked() && !ring.has_due() && !ring.has_repairs());
        ring.expire(at(101), first(RTO));
        assert!(ring.has_due() && ring.has_repairs());
        ring.on_ack(Seq::new(0), 1000);
        assert_eq!(ring.peek_due().map(|(sn, ..)| sn.value()), Some(1), "0 has arrived");
        ring.on_ack(Seq::new(1), 1001);
        ring.on_ack(Seq::new(2), 1002);
        assert_eq!((ring.has_unacked(), ring.len()), (false, 3));
        let mut ring = filled(0, 2);
        ring.expire(at(101), first(RTO));
        ring.on_una(Seq::new(2));
        assert!(!ring.has_due());
    }

    #[test]
    fn a_ring_is_kept_where_something_was_in_it() {
        let mut ring = Inflight::new(Seq::new(0));
        assert!(!ring.keeps());
        let mut ring2 = filled(0, 3);
        assert!(!ring2.keeps());
        ring2.on_una(Seq::new(3));
        assert!(ring2.keeps());
        ring2.trim();
        assert!(!ring2.keeps());
        // A copy that was booked when nothing was there.
        ring.rode(Seq::new(0), 0, at(0));
        assert!(ring.keeps());
    }

    #[test]
    fn the_latest_transmission_and_those_known_to_have_arrived() {
        let mut ring = filled(0, 3);
        assert_eq!(ring.latest_and_arrived(), (2, 0));
        ring.on_ack(Seq::new(1), 1001);
        assert_eq!(ring.latest_and_arrived(), (2, 2));
        assert_eq!(ring.expire(at(100), first(RTO)), 1);
        due(&mut ring, at(100));
        assert_eq!(ring.latest_and_arrived(), (3, 2));
        // Of what was sent more than once una does not tell which has arrived.
        ring.on_una(Seq::new(1));
        assert_eq!(ring.latest_and_arrived(), (3, 2));
        ring.on_una(Seq::new(3));
        assert_eq!(ring.latest_and_arrived(), (3, 3));
    }

    #[test]
    fn so_many_other_transmissions_are_remembered() {
        let mut ring = filled(0, 3);
        for n in 0..=MAX_OTHERS as u32 {
            ring.rode(Seq::new(n % 3), 7_000 + n, at(10 + u64::from(n)));
        }
        assert_eq!(ring.in_flight_since(Seq::new(0), 7_000), None, "the oldest is forgotten");
        for n in 1..=MAX_OTHERS as u32 {
            let since = ring.in_flight_since(Seq::new(n % 3), 7_000 + n);
            assert_eq!(since, Some(at(10 + u64::from(n))));
        }
    }

    #[test]
    fn a_ride_of_another_takes_no_turn() {
        let mut ring = filled(0, 2);
        assert_eq!(ring.expire(at(100), first(RTO)), 1);
        assert_eq!(due(&mut ring, at(100)), [(0, Cause::Timeout)]);
        assert_eq!(ride(&mut ring, 102, 1, 2), Some(1), "0 was just sent");
        assert_eq!(ride(&mut ring, 106, 0, 2), Some(0));
    }

    /// Sn 0 was found lost and sent again at 10 ms.
    fn repeated() -> Inflight {
        let mut ring = filled(0, 2);
        ring.on_ack(Seq::new(1), 1001);
        assert_eq!(ring.detect_losses(1, 0), 1);
        assert_eq!(due(&mut ring, at(10)), [(0, Cause::Fast)]);
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(110)));
        ring
    }

    #[test]
    fn only_the_first_timeout_is_put_off_and_once() {
        for rides in [false, true] {
            let mut ring = repeated();
            if rides {
                ring.rode(Seq::new(0), 9_000, at(50));
            }
            assert_eq!(ring.expire(at(110), first(2 * RTO)), 1, "sent twice");
        }
        let mut ring = filled(0, 1);
        ring.rode(Seq::new(0), 9_000, at(50));
        assert_eq!(ring.expire(at(100), first(RTO)), 0);
        assert_eq!(ring.expire(at(150), first(3 * RTO)), 1, "put off before");
    }

    #[test]
    fn an_ended_backoff_shortens_what_waits_longer_and_nothing_else() {
        let mut ring = repeated();
        ring.end_backoff(2 * RTO);
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(110)));
        assert_eq!(ring.expire(at(110), first(RTO)), 1);
        due(&mut ring, at(110));
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(310)), "doubled once");
        ring.end_backoff(RTO);
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(210)));
        assert_eq!(ring.expire(at(210), first(RTO)), 1);
        due(&mut ring, at(210));
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(410)));
        assert_eq!(ring.expire(at(410), first(RTO)), 1);
        // Due already: it is sent now anyway.
        ring.end_backoff(RTO);
        due(&mut ring, at(410));
        assert_eq!(ring.next_deadline(first(RTO), u32::MAX), Some(at(810)));
    }

    #[test]
    fn what_the_peer_has_no_room_for_comes_back_in_order_as_the_window_opens() {
        let mut ring = filled(u32::MAX, 4);
        assert_eq!(ring.expire(at(103), first(RTO)), 4);
        while ring.has_due() {
            ring.stall();
        }
        let mut back = |window| {
            ring.unstall(window);
            let all = due(&mut ring, at(110));
            (all.into_iter().map(|(sn, _)| sn).collect::<Vec<_>>(), ring.is_stalled())
        };
        assert_eq!(back(0), (vec![u32::MAX], true), "the first asks whether there is room");
        assert_eq!(back(1), (vec![], true));
        assert_eq!(back(2), (vec![0], true));
        assert_eq!(back(4), (vec![1, 2], false));
    }

    /// Random operations against a plain map that scans everything.
    #[test]
    fn same_as_a_naive_oracle() {
        struct Naive {
            xmit: u32,
            acked: bool,
            due: bool,
            order: u64,
            deadline: Option<Timestamp>,
            sent: Timestamp,
        }
        for seed in 0..crate::tests::rounds(200) {
            let mut rng = crate::tests::Rng::new(seed);
            let start = 0u32.wrapping_sub(50);
            let mut ring = Inflight::new(Seq::new(start));
            let mut naive: BTreeMap<u64, Naive> = BTreeMap::new();
            let (mut next, mut una, mut order, mut now) = (0u64, 0u64, 0u64, 0u64);
            let mut arrived: Option<u64> = None;
            let wire = |n: u64| Seq::new(start.wrapping_add(n as u32));
            for step in 0..600 {
                now += rng.below(30);
                match rng.below(5) {
                    0 | 1 => {
                        ring.push(0, Bytes::new(), order as u32, at(now));
                        let new =
                            Naive { xmit: 1, acked: false, due: false, order, deadline: None, sent: at(now) };
                        naive.insert(next, new);
                        next += 1;
                        order += 1;
                    }
                    2 if next > una => {
                        let n = una + rng.below(next - una);
                        let slot = naive.get_mut(&n).unwrap();
                        let echo = slot.order as u32;
                        let outcome = ring.on_ack(wire(n), echo);
                        if slot.acked {
                            assert_eq!(outcome, AckOutcome::Known);
                        } else {
                            assert_eq!(outcome, AckOutcome::Acked { sent_at: Some(slot.sent) });
                            slot.acked = true;
                            arrived = arrived.max(Some(slot.order));
                        }
                    }
                    3 if next > una => {
                        let to = una + rng.below((next - una).min(4) + 1);
                        for n in una..to {
                            let slot = naive.remove(&n).unwrap();
                            if !slot.acked && slot.xmit == 1 {
                                arrived = arrived.max(Some(slot.order));
                            }
                        }
                        una = to;
                        ring.on_una(wire(to));
                    }
                    _ => {}
                }
                let mut expected: Vec<u64> = Vec::new();
                for (n, slot) in &mut naive {
                    let lost = arrived.is_some_and(|a| slot.order + 2 <= a);
                    if !slot.acked && !slot.due && lost {
                        slot.due = true;
                        expected.push(*n);
                    }
                }
                assert_eq!(ring.detect_losses(2, 0) as usize, expected.len(), "seed {seed} step {step}");
                let deadline = |slot: &Naive| slot.deadline.unwrap_or(slot.sent.plus_micros(RTO));
                let waiting = |slot: &&Naive| !slot.acked && !slot.due;
                let earliest = naive.values().filter(waiting).map(deadline).min();
                assert_eq!(ring.next_deadline(first(RTO), u32::MAX), earliest, "seed {seed} step {step}");
                let mut timeouts = 0;
                for slot in naive.values_mut() {
                    if !slot.acked && !slot.due && deadline(slot) <= at(now) {
                        slot.due = true;
                        timeouts += 1;
                    }
                }
                assert_eq!(ring.expire(at(now), first(RTO)), timeouts);
                while let Some((sn, _, slot)) = ring.peek_due() {
                    let n = una + sn.offset_from(wire(una)).unwrap() as u64;
                    let model = naive.get_mut(&n).unwrap();
                    assert!(model.due && !model.acked);
                    assert_eq!(model.xmit, slot.xmit);
                    ring.resent(at(now), &Resend { ts: order as u32, ..RESEND }, |rto| rto);
                    model.due = false;
                    model.xmit += 1;
                    model.order = order;
                    model.sent = at(now);
                    model.deadline = Some(at(now).plus_micros(RTO));
                    order += 1;
                }
                assert!(naive.values().all(|slot| !slot.due || slot.acked));
            }
        }
    }
}
