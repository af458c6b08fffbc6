//! Writes what is due into datagrams (`ikcp_flush`): retransmissions, new data, then control segments.

use alloc::vec::Vec;

use super::Engine;
use crate::ack::{AckRun, MAX_LATER};
use crate::num::{size, wide};
use crate::rtt::RttEstimator;
use crate::send::inflight::{Cause, FirstTimeout, Resend, SMALL};
use crate::seq::Seq;
use crate::stats::bump;
use crate::time::Timestamp;
use crate::wire::datagram::{DatagramWriter, Framing, Transmit};
use crate::wire::{Command, HEADER_LEN, Header};

const HEADER_BYTES: u64 = wide(HEADER_LEN);

/// A copy rides this part of `interval` after its original at the earliest: what is lost is often lost together.
const RIDE_GAP_DIVISOR: u64 = 4;
/// The `frg` of an ACK counts this many microseconds between two of ours.
pub(super) const HELD_UNIT: u64 = 250;
/// Of so many segments so many may ride once more after a loss, beyond the first few: where much is lost, much would be sent twice.
const SEGMENTS_PER_COPIES: u64 = 16;
const COPIES: u64 = 3;
const FIRST_COPIES: u64 = 8;
/// A timeout waits so much of itself at most for something to leave with.
const RTO_PER_WAIT: u64 = 7;
/// A probe waits so much longer than two round trips, in microseconds: runtimes count in milliseconds.
const PROBE_SLACK: u64 = 2_000;
/// So many acknowledgements of one flush come once more after this time, in microseconds, if nothing else carries them.
const MANY_ACKS: u32 = 32;
const REPEAT_DELAY: u64 = 1_000;
/// `sn` of control segments. Listeners of other implementations take sn 0 with another conv for a new session, so
/// ours never carry it, but for the probe that opens one.
pub(super) const CONTROL_SN: Seq = Seq::new(1);

impl Engine {
    /// Appends one run of datagrams to `buf`, or returns `None` when nothing is due. To be called until it does.
    ///
    /// `flush` (the classic face): owed ACKs leave although their delay has not passed.
    pub(crate) fn transmit(
        &mut self,
        now: Timestamp,
        framing: Framing,
        flush: bool,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if !flush && self.is_quiet(now) {
            debug_assert!(self.deadline().is_none_or(|at| at > now), "something is due");
            return None;
        }
        let Some(lead) = self.lead() else {
            return self.transmit_run(now, framing, self.params.mtu, flush, 0, buf);
        };
        // In the same datagram, so that neither loss nor reordering brings one without the other.
        let start = buf.len();
        self.push_lead(now, lead, buf);
        let mtu = self.params.mtu.saturating_sub(self.lead_room());
        let run = self.transmit_run(now, Framing { max_datagrams: 1 }, mtu, flush, 0, buf);
        let Some(run) = run else {
            buf.truncate(start);
            return None;
        };
        self.stats.bytes_sent = self.stats.bytes_sent.wrapping_add(wide(lead.len()));
        let len = run.len.saturating_add(lead.len());
        Some(Transmit { stride: len, len, ..run })
    }

    /// Adds what is due, and acknowledgements that wait for something to ride with, to a datagram that was appended to `buf` and
    /// counted.
    pub(crate) fn fill(&mut self, now: Timestamp, begun: Transmit, buf: &mut Vec<u8>) -> Transmit {
        if !self.is_validated() {
            return begun;
        }
        let run =
            self.transmit_run(now, Framing { max_datagrams: 1 }, self.params.mtu, false, begun.len, buf);
        run.unwrap_or(begun)
    }

    /// `begun`: bytes at the end of `buf` that the first datagram begins with, and that are counted.
    fn transmit_run(
        &mut self,
        now: Timestamp,
        framing: Framing,
        mtu: usize,
        flush: bool,
        begun: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        self.tell |= self.announcer.update(now);
        if self.inflight.expire(now, self.first_timeout()) > 0 {
            self.congestion.on_timeout(now, self.inflight.len());
        }
        if let Some((at, sn)) = self.tail_probe()
            && at <= now
        {
            self.inflight.probe(sn, self.params.resend);
        }
        self.congestion.on_tick(now);

        let max = framing.max_datagrams.max(1);
        let control = self.tell || self.ask || !self.acks.is_empty();
        // Data must not starve ACKs: the last datagram of a run is theirs.
        let for_data = if control && max > 1 { max.saturating_sub(1) } else { max };
        let first_new = self.inflight.nxt();
        let withheld = self.withholds_acks();
        let mut writer = DatagramWriter::new(begun, buf, mtu);
        self.write_data(now, for_data, &mut writer);
        // After the data, of which some may just have found the window closed.
        self.follow_peer_window(now);
        let data = writer.len() > begun;
        let acks_due = flush || self.ack_due.is_some_and(|due| due <= now);
        if acks_due || self.tell || self.ask || !writer.is_empty() {
            self.write_control(now, max, &mut writer);
        }
        if data && self.is_validated() && self.params.nodelay > 0 {
            self.write_riders(now, first_new, &mut writer);
        }
        let run = writer.finish()?;
        if !withheld {
            self.note_una();
        }
        self.announcer.told(u32::from(self.free_window()));
        let (datagrams, len) =
            (run.datagrams.saturating_sub(usize::from(begun > 0)), run.len.saturating_sub(begun));
        self.count_sent(datagrams, len);
        if len > 0 {
            self.congestion.on_pkt_sent(now, len);
        }
        if data && let Some(flight) = self.flight.get_mut() {
            flight.on_sent(now, self.inflight.latest_and_arrived().0, self.inflight.ever_lost());
            flight.spend(wide(len));
        }
        Some(run)
    }

    fn write_data(&mut self, now: Timestamp, max_datagrams: usize, writer: &mut DatagramWriter<'_>) {
        if self.queue.is_empty() && !self.inflight.has_due() {
            self.paced_until = None;
            return self.nothing_queued(now);
        }
        let mut budget = self.congestion.pacing_budget(now);
        if let Some((bytes, next)) = self.flight.get_mut().and_then(|flight| flight.burst(now))
            && bytes < budget.bytes
        {
            (budget.bytes, budget.next) = (bytes, Some(next));
        }
        let mut room = Room { bytes: budget.bytes.min(self.allowance()), max_datagrams };
        self.paced_until = None;
        let ts = self.clock.stamp(now);
        let template = self.header(Command::Push, Seq::new(0), ts);
        let (rto, nodelay) = (self.rtt.rto(), self.params.nodelay);
        let una = self.inflight.una();
        let flight = self.flight_limit();
        loop {
            let on_the_way = wide(self.inflight.on_the_way());
            let Some((sn, cause, slot)) = self.inflight.peek_due() else { break };
            // But for the first, which asks whether there is room.
            let wanted = sn.offset_from(una).is_none_or(|i| i < size(self.peer_window));
            if !wanted && sn != una {
                self.inflight.stall();
                continue;
            }
            if on_the_way >= flight {
                return self.flight_is_full(now);
            }
            match room.fits(HEADER_LEN.saturating_add(slot.data.len()), writer) {
                Fit::Yes => {}
                Fit::RunEnds => return,
                Fit::Paced => {
                    self.paced_until = budget.next;
                    return;
                }
            }
            writer
                .push(&Header { sn, frg: slot.frg, len: wire_len(slot.data.len()), ..template }, &slot.data);
            // A peer that has no room is not dead for that, nor a path that loses much and lets something through.
            let often = slot.next_xmit(cause) >= self.params.dead_link;
            self.dead |= wanted && often && self.progress_at <= slot.sent_at;
            // A small one costs little, and its repetition is lost as easily: backoff begins with the next.
            let again = nodelay > 0 && slot.xmit == 1 && slot.data.len() <= SMALL;
            let backoff = |last| if again { last } else { backed_off(last, rto, nodelay) };
            let gap = if nodelay == 0 || !wanted { u64::MAX } else { rto.max(LONGEST_SILENCE) };
            let sending = Resend { ts, rto, gap, wanted, protect: self.may_copy() };
            self.inflight.resent(now, &sending, backoff);
            self.note_proof(sn, ts);
            self.stats.rarely(|rare| match cause {
                Cause::Fast => &mut rare.fast_retransmits,
                Cause::Timeout => &mut rare.timeout_retransmits,
                Cause::Probe => &mut rare.tail_probes,
            });
        }
        self.write_copies(now, &template, &mut room, writer);
        let (stream, mss) = (self.params.stream, self.params.mss());
        let limit = self.send_limit();
        if self.hold_until.is_some_and(|until| until <= now) {
            self.hold_until = None;
        }
        while self.inflight.len() < limit && !self.is_held() {
            let longest = self.new_len();
            if longest == 0 {
                return;
            }
            let Some(len) = self.queue.next_len(stream, longest) else {
                self.hold_until = None;
                self.congestion.on_app_limited(now);
                return;
            };
            if wide(self.inflight.on_the_way()) >= flight {
                return self.flight_is_full(now);
            }
            match room.fits(HEADER_LEN.saturating_add(len), writer) {
                Fit::Yes => {}
                Fit::RunEnds => return,
                Fit::Paced => {
                    self.paced_until = budget.next;
                    return;
                }
            }
            let Some(piece) = self.queue.take(stream, mss, longest) else { return };
            let sn = self.inflight.nxt();
            writer.push(&Header { sn, frg: piece.frg, len: wire_len(len), ..template }, &piece.data);
            if !self.inflight.has_unacked() {
                self.progress_at = now;
            }
            let small = piece.data.len() <= SMALL;
            self.inflight.push(piece.frg, piece.data, ts, now);
            if small
                && self.repaired_at.is_some_and(|at| at.plus_micros(self.params.interval) > now)
                && self.may_copy()
            {
                // Perhaps the answer to what is late already: a second loss would cost most.
                self.inflight.protect(sn);
            }
            self.note_proof(sn, ts);
            bump(&mut self.stats.segments_sent);
            self.stats.payload_sent = self.stats.payload_sent.wrapping_add(wide(len));
        }
        if self.inflight.len() >= limit
            && !self.queue.is_empty()
            && let Some(flight) = self.flight.get_mut()
        {
            flight.met_window();
        }
    }

    /// What is sent again is sent more than once where the next loss would leave the path idle for another round trip: when the
    /// window is about to end for want of it, so often that this is unlikely; and, once it was lost twice, at the end of a burst. (A
    /// small one rides along with what comes next instead.)
    fn write_copies(
        &mut self,
        now: Timestamp,
        template: &Header,
        room: &mut Room,
        writer: &mut DatagramWriter<'_>,
    ) {
        if !self.inflight.has_lone() {
            return;
        }
        let window = self.send_limit();
        let free = window.saturating_sub(self.inflight.len());
        let wanted = match self.flight.get() {
            _ if self.is_flight_full() => None,
            _ if self.queue.is_empty() => (self.params.nodelay > 0).then_some((3, SMALL, 1)),
            Some(flight) => {
                flight.copies(window, free, self.params.mss()).map(|(xmit, copies)| (xmit, 0, copies))
            }
            None => None,
        };
        let Some((least_xmit, longer_than, copies)) = wanted else { return self.inflight.leave_lone() };
        while let Some((sn, slot)) = self.inflight.next_lone(least_xmit, longer_than) {
            let len = slot.data.len();
            if !matches!(room.fits(HEADER_LEN.saturating_add(len), writer), Fit::Yes) {
                return;
            }
            writer.push(&Header { sn, frg: slot.frg, len: wire_len(len), ..*template }, &slot.data);
            self.inflight.copied(sn, template.ts, now, copies);
            self.stats.rarely(|rare| &mut rare.copies_sent);
        }
    }

    /// More could be sent than may be on its way.
    fn flight_is_full(&mut self, now: Timestamp) {
        let flight = self.flight.make();
        // A round begins with what leaves now: what left before arrives earlier, and would make the path shorter than it is.
        if self.inflight.last_sent() == now {
            flight.on_sent(now, self.inflight.latest_and_arrived().0, self.inflight.ever_lost());
        }
        flight.met_limit();
    }

    /// Whether what was lost once may ride once more. (What was lost twice does, and what `redundancy` asks for is paid for anyway.)
    fn may_copy(&self) -> bool {
        let Some(rare) = self.stats.rare.get().filter(|_| self.params.redundancy == 0) else { return true };
        rare.copies_sent < most_copies(self.stats.segments_sent)
    }

    /// Copies of small segments in the room that the last datagram has: a lost one costs no round trip then.
    fn write_riders(&mut self, now: Timestamp, first_new: Seq, writer: &mut DatagramWriter<'_>) {
        if self.params.redundancy == 0 && !self.inflight.has_repairs() {
            return;
        }
        let ts = self.clock.stamp(now);
        let template = self.header(Command::Push, Seq::new(0), ts);
        let (recent, ages) =
            (self.params.redundancy, (self.params.interval / RIDE_GAP_DIVISOR, self.rtt.rto()));
        while let Some((sn, slot)) = self.inflight.next_rider(now, recent, first_new, ages, SMALL) {
            let len = slot.data.len();
            if !writer.has_room(HEADER_LEN.saturating_add(len)) {
                return;
            }
            writer.push(&Header { sn, frg: slot.frg, len: wire_len(len), ..template }, &slot.data);
            self.inflight.rode(sn, ts, now);
            self.stats.rarely(|rare| &mut rare.copies_sent);
        }
    }

    fn write_control(&mut self, now: Timestamp, max_datagrams: usize, writer: &mut DatagramWriter<'_>) {
        let rcv_nxt = self.assembler.next();
        let template = self.header(Command::Ack, CONTROL_SN, 0);
        // Bytes already in this run count against the allowance too.
        let mut room = self.allowance().saturating_sub(wide(writer.len())) / HEADER_BYTES;
        let mut may_send = || {
            let yes = room > 0;
            room = room.saturating_sub(1);
            yes
        };
        let withhold = self.withholds_acks();
        // What leaves carries `una`, which says as much; our own kind needs no more than a sample of the round trip now and then.
        let sampled = self.sampled_at.is_some_and(|at| at.plus_micros(self.sample_gap()) > now);
        // What is held longer than the peer knows of would look lost to it.
        let held = crate::time::saturating_micros(now.saturating_since(self.data_at)) / HELD_UNIT;
        let known = held <= self.told_hold;
        if self.una_suffices && sampled && known && !writer.is_empty() && !withhold {
            self.acks.elide(rcv_nxt);
        }
        // Consecutive ones as one segment, for one of our kind: every other reads but the first.
        let together = self.una_suffices && self.is_validated();
        let mut later = [0; MAX_LATER];
        while !withhold && !self.acks.is_empty() {
            if !may_send() {
                return;
            }
            if !writer.reserve(HEADER_LEN, max_datagrams) {
                self.ack_due = Some(now);
                return;
            }
            // How long it was held, for one of our kind: every other ignores it, and takes it for the network's.
            let held = if self.una_suffices { u8::try_from(held).unwrap_or(u8::MAX) } else { 0 };
            self.told_hold = u64::from(held).max(RttEstimator::forget(self.told_hold));
            let room = if together { room_in(&mut later, writer) } else { &mut [] };
            let Some(run) = self.acks.next_run(rcv_nxt, room) else { break };
            push_run(&run, room, Header { frg: held, ..template }, writer);
            self.sampled_at = Some(now);
            self.stats.acks_sent = self.stats.acks_sent.wrapping_add(wide(run.fresh()));
            self.stats.rarely_so_many(run.repeated, |rare| &mut rare.acks_repeated);
        }
        // Small segments that an ACK was lost for cost less to come again than all their ACKs said twice.
        let repeats = self.longest > SMALL;
        while !withhold
            && repeats
            && self.acks.has_repeat(rcv_nxt)
            && (writer.has_room(HEADER_LEN) || writer.is_empty())
            && may_send()
            && writer.reserve(HEADER_LEN, 1)
        {
            let room = if together { room_in(&mut later, writer) } else { &mut [] };
            let Some(run) = self.acks.next_repeat(room) else { break };
            push_run(&run, room, template, writer);
            self.stats.rarely_so_many(run.repeated, |rare| &mut rare.acks_repeated);
        }
        if !withhold {
            // So many at once that the sender may wait for them all, and send them again: if nothing follows, they come twice.
            let many = together && repeats && self.unacked >= MANY_ACKS;
            self.ack_due = (self.acks.end_flush() && many).then(|| now.plus_micros(REPEAT_DELAY));
            self.unacked = 0;
        }
        if self.ask && may_send() && writer.reserve(HEADER_LEN, max_datagrams) {
            writer.push(&Header { cmd: Command::Wask, ..template }, &[]);
            self.ask = false;
            self.stats.rarely(|rare| &mut rare.probes_sent);
        }
        if self.tell && may_send() && writer.reserve(HEADER_LEN, max_datagrams) {
            writer.push(&Header { cmd: Command::Wins, ..template }, &[]);
            self.tell = false;
            self.stats.rarely(|rare| &mut rare.announcements_sent);
        }
    }

    /// How long after a sample of its round-trip time the peer needs the next: a round trip, until that varies so little that
    /// its RTO would not change.
    fn sample_gap(&self) -> u64 {
        let steady = self.rtt.rttvar().saturating_mul(4) <= self.tick();
        self.rtt.srtt().unwrap_or(0).saturating_mul(if steady { 4 } else { 1 })
    }

    pub(super) fn header(&self, cmd: Command, sn: Seq, ts: u32) -> Header {
        let una = self.withheld_una().unwrap_or(self.assembler.next());
        let wnd = self.free_window();
        Header { conv: self.conv, cmd, frg: 0, wnd, ts, sn, una, len: 0 }
    }

    /// The probe that opens a session: `WASK` with sn 0 and una 0, perhaps with a hello.
    pub(crate) fn write_opening_probe(
        &mut self,
        now: Timestamp,
        payload: &[u8],
        buf: &mut Vec<u8>,
    ) -> Transmit {
        append(self.header(Command::Wask, Seq::new(0), self.clock.stamp(now)), payload, buf);
        self.stats.rarely(|rare| &mut rare.probes_sent);
        self.count_one(HEADER_LEN.saturating_add(payload.len()))
    }

    /// Segments that may be in flight: the smallest of the three windows.
    pub(super) fn send_limit(&self) -> u32 {
        self.params.snd_wnd.min(self.peer_window).min(self.congestion.window())
    }

    /// Less than a full segment waits for more (`write_delay`).
    pub(super) fn is_held(&self) -> bool {
        self.params.write_delay && self.hold_until.is_some() && self.queue.bytes() < self.params.mss()
    }

    /// RTO of a segment sent once. Mode 0 gives the first timeout an eighth of slack. Not before the path has had the time for
    /// what is on its way, and a quarter more: samples are so many there that they hardly leave any variation.
    pub(super) fn first_rto(&self) -> u64 {
        let rto = self.rtt.rto();
        let rto = if self.params.nodelay == 0 { rto.saturating_add(rto / 8) } else { rto };
        let Some(flight) = self.flight.get() else { return rto };
        // What stands in a queue behind our own is late and not lost. (What is lost counts too: a timeout must not make the next one
        // come sooner.)
        rto.max(flight.time_for(wide(self.inflight.bytes())).saturating_add(rto / 4))
    }

    /// When a segment sent once is sent again. A small one may wait for what the application is likely to write next: it is late by
    /// so much more than a round trip that this hardly counts, and saves a datagram.
    pub(super) fn first_timeout(&self) -> FirstTimeout {
        let rto = self.first_rto();
        if !self.una_suffices || self.params.nodelay == 0 {
            return FirstTimeout { rto, company: Timestamp::ZERO, wait: 0 };
        }
        let wait = self.params.interval.min(rto / RTO_PER_WAIT);
        FirstTimeout { rto, company: self.likely_write(), wait }
    }

    /// When to send which segment again, since a flight's end was perhaps lost, which no later one's ACK would show (RACK-TLP, RFC
    /// 8985, 7.2). Where the round trip is much shorter than the least RTO; one of ours acknowledges two segments at once.
    pub(super) fn tail_probe(&self) -> Option<(Timestamp, Seq)> {
        if !self.una_suffices || self.params.resend == 0 {
            return None;
        }
        let (sn, since) = self.inflight.tail()?;
        let wait = self.rtt.srtt()?.saturating_mul(2).saturating_add(self.rtt.rttvar().saturating_mul(4));
        Some((since.max(self.progress_at).plus_micros(wait.saturating_add(PROBE_SLACK)), sn))
    }

    pub(super) fn follow_peer_window(&mut self, now: Timestamp) {
        let closed = self.peer_window == 0 && (!self.queue.is_empty() || self.inflight.is_stalled());
        self.ask |= self.prober.update(now, closed);
    }
}

/// Of so many segments, how many may ride once more.
const fn most_copies(segments: u64) -> u64 {
    (segments / SEGMENTS_PER_COPIES).saturating_mul(COPIES).saturating_add(FIRST_COPIES)
}

/// Room for the payload of a run of ACKs in the datagram being filled.
fn room_in<'a>(later: &'a mut [u8; MAX_LATER], writer: &DatagramWriter<'_>) -> &'a mut [u8] {
    let room = writer.room().saturating_sub(HEADER_LEN).min(MAX_LATER);
    later.get_mut(..room).unwrap_or_default()
}

#[inline]
fn push_run(run: &AckRun, payload: &[u8], template: Header, writer: &mut DatagramWriter<'_>) {
    let (sn, ts) = run.first;
    let payload = payload.get(..run.len).unwrap_or_default();
    writer.push(&Header { sn, ts, len: wire_len(payload.len()), ..template }, payload);
}

/// What may still be written.
struct Room {
    bytes: u64,
    max_datagrams: usize,
}

impl Room {
    /// Nothing changes before room and budget are known to suffice.
    fn fits(&mut self, len: usize, writer: &mut DatagramWriter<'_>) -> Fit {
        if wide(len) > self.bytes {
            return Fit::Paced;
        }
        if !writer.reserve(len, self.max_datagrams) {
            return Fit::RunEnds;
        }
        self.bytes = self.bytes.saturating_sub(wide(len));
        Fit::Yes
    }
}

enum Fit {
    Yes,
    RunEnds,
    Paced,
}

/// A segment's RTO after its timeout (`ikcp_flush`), bounded, which ikcp forgets.
fn backed_off(last: u64, rto: u64, nodelay: u8) -> u64 {
    let more = match nodelay {
        0 => last.max(rto),
        1 => last / 2,
        _ => rto / 2,
    };
    let longest = if nodelay == 0 { MAX_BACKOFF } else { rto.saturating_mul(2).max(MAX_FAST_BACKOFF) };
    last.saturating_add(more).min(longest)
}

/// `IKCP_RTO_MAX` in microseconds.
const MAX_BACKOFF: u64 = 60_000_000;
/// In modes 1 and 2, which are for low latency: after a burst of losses a lone segment must not wait much longer than a path
/// takes to recover.
const MAX_FAST_BACKOFF: u64 = 2_000_000;

/// And the first in flight, which everything waits for, asks in between whether the path is back.
const LONGEST_SILENCE: u64 = 500_000;

/// Appends a segment whose payload is not data.
pub(super) fn append(header: Header, payload: &[u8], buf: &mut Vec<u8>) {
    buf.extend_from_slice(&Header { len: wire_len(payload.len()), ..header }.encode());
    buf.extend_from_slice(payload);
}

/// A payload never exceeds a datagram.
fn wire_len(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_three_sixteenths_of_the_segments_and_a_few() {
        for (segments, most) in [(0, 8), (15, 8), (16, 11), (1600, 308), (u64::MAX, u64::MAX / 16 * 3 + 8)] {
            assert_eq!(most_copies(segments), most, "{segments}");
        }
    }

    #[test]
    fn backoff_modes() {
        assert_eq!(backed_off(200, 200, 0), 400);
        assert_eq!(backed_off(400, 200, 0), 800);
        assert_eq!(backed_off(100, 200, 0), 300, "at least the current RTO on top");
        assert_eq!(backed_off(200, 100, 1), 300);
        assert_eq!(backed_off(200, 100, 2), 250);
        assert_eq!(backed_off(59_000_000, 100, 0), 60_000_000);
        for nodelay in [1, 2] {
            assert_eq!(backed_off(1_999_000, 100_000, nodelay), 2_000_000);
            assert_eq!(
                backed_off(2_900_000, 1_500_000, nodelay),
                3_000_000,
                "a long path has longer timeouts anyway"
            );
        }
    }
}
