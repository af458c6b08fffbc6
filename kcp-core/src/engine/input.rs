//! Applies a datagram: first all of it is checked, then acknowledgements, then data.

use core::num::NonZeroUsize;

use super::Engine;
use super::transmit::HELD_UNIT;
use crate::congestion::AckInfo;
use crate::error::InputError;
use crate::num::{size, wide};
use crate::send::inflight::{AckOutcome, SMALL};
use crate::seq::Seq;
use crate::stats::bump;
use crate::time::Timestamp;
use crate::wire::{Command, Header, Segments};

/// Fragments of an incoming message at most, whatever the window: `frg` has 8 bits.
const MAX_INCOMING_FRAGMENTS: u32 = 256;
/// A lone segment's ACK waits this part of `interval` for data to ride with, within these bounds (microseconds).
const ACK_DELAY_DIVISOR: u64 = 4;
const MIN_ACK_DELAY: u64 = 1_000;
const MAX_ACK_DELAY: u64 = 10_000;
/// In microseconds: a longer `interval` makes timers no later.
const MAX_LATENESS: u64 = 5_000;

/// So many beyond a hole are acknowledged at once, for the peer to find the loss (three, as in RFC 5681); then in so many at once at most.
const MIN_HEARD: u32 = 3;
const MAX_TOGETHER: u32 = 16;
/// Where small messages are said several times: payload of a segment that has a few of them, which were late and read together.
const FEW_SMALL: usize = SMALL.saturating_mul(2);
/// How much later than its rhythm an application may write, in microseconds: runtimes count in milliseconds.
const WRITE_SLACK: u64 = 1_000;
/// What is owed to one of our kind waits for a write within so many halves of `interval`.
const WRITE_HALVES: u64 = 3;

/// What an accepted datagram meant.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Heard {
    /// It shows that the peer of this session lives: not merely a window announcement from before `snd_una`, as a
    /// restarted peer sends it.
    pub(crate) alive: bool,
    /// New data can be read.
    pub(crate) readable: bool,
    /// Data in flight was acknowledged.
    pub(crate) acked: bool,
    /// It carries a `WINS` as plain peers send them.
    pub(crate) plain_wins: bool,
    /// It carries control messages between two of ours.
    pub(crate) control: bool,
}

/// Collected over the segments of one datagram.
#[derive(Default)]
struct Applied {
    pushes: u32,
    /// Segments that were not here before.
    fresh: u32,
    /// Segments that were.
    repeated: bool,

    /// Latest `sent_at` among the ACKs whose echo is exact.
    sample: Option<Timestamp>,
    /// How long the peer held that ACK, in microseconds.
    held: u64,
}

impl Engine {
    /// Applies a datagram, or refuses it as a whole and counts why.
    pub(crate) fn input(&mut self, now: Timestamp, datagram: &[u8]) -> Result<Heard, InputError> {
        let segments = match self.check(datagram) {
            Ok(segments) => segments,
            Err(error) => {
                self.count_rejected(error);
                return Err(error);
            }
        };
        bump(&mut self.stats.datagrams_received);
        self.stats.bytes_received = self.stats.bytes_received.wrapping_add(wide(datagram.len()));

        let (una_before, closed_before) = (self.inflight.una(), self.peer_window == 0);
        let unacked_before = self.inflight.bytes();
        let in_flight_before = self.inflight.unacked();
        let mut una = una_before;
        let had_hole = !self.assembler.is_empty();
        let mut heard = Heard::default();
        let mut applied = Applied::default();
        if !self.is_validated() && !self.needs_token() {
            self.seek_proof(segments);
        }
        let validated = self.is_validated();
        let mut behind = false;
        for (header, payload) in segments {
            match header.cmd {
                Command::Ack if !validated => {}
                // ACKs are judged against the una from before this datagram: an honest one is often covered by the
                // una of its own segment.
                Command::Ack => {
                    let was_sent = self.apply_ack(&header, &mut applied);
                    if was_sent && self.una_suffices && !payload.is_empty() {
                        self.apply_run(&header, payload, &mut applied);
                    }
                }
                Command::Push => self.apply_push(&header, payload, &mut applied),
                Command::Wask => self.tell = true,
                Command::Wins => {}
            }
            heard.plain_wins |= payload.is_empty() && header.cmd == Command::Wins;
            heard.control |= !payload.is_empty() && header.cmd.carries_control();
            behind = header.una.is_before(una_before);
            heard.alive |= !(behind && header.cmd == Command::Wins);
            // From an address that is not proven nothing counts as acknowledged: what is in flight is repeated until its
            // exact echo comes.
            if validated && una.is_before(header.una) {
                una = header.una;
            }
            // A reordered datagram must not bring back an old window.
            if !header.una.is_before(una) {
                self.peer_window = u32::from(header.wnd);
            }
        }
        let (covered, _) = self.inflight.on_una(una);
        let bytes = unacked_before.saturating_sub(self.inflight.bytes());
        let rtt = applied.sample.map(|sent_at| now.saturating_since(sent_at));
        if let Some(rtt) = rtt {
            let micros = crate::time::saturating_micros(rtt);
            let stands_for = in_flight_before.saturating_sub(self.inflight.unacked());
            self.rtt.sample(micros, applied.held, stands_for, self.tick(), self.params.min_rto);
        }
        if covered > 0 && self.inflight.is_empty() {
            self.queue.release();
            self.rest();
        }
        if self.inflight.is_stalled() {
            self.inflight.unstall(self.peer_window);
        }
        if closed_before && self.peer_window > 0 && covered == 0 {
            self.inflight.retry_first(now, self.rtt.rto());
        }
        if behind && !self.peer_is_behind && !self.inflight.has_unacked() {
            self.progress_at = now;
        }
        self.peer_is_behind = behind;
        if covered > 0 || bytes > 0 {
            heard.acked = true;
            self.progress_at = now;
            let (in_flight, peer_window) = (self.inflight.len(), self.peer_window);
            self.congestion.on_ack(now, &AckInfo { segments: covered, bytes, in_flight, peer_window, rtt });
            if let Some(flight) = self.flight.get_mut() {
                let rtt = rtt.map(|rtt| crate::time::saturating_micros(rtt).saturating_sub(applied.held));
                let arrived = self.inflight.latest_and_arrived().1;
                flight.on_ack(now, bytes, arrived, self.inflight.ever_lost(), rtt);
            }
        }
        let resend =
            if self.params.early_retransmit && self.queue.is_empty() { 1 } else { self.params.resend };
        if self.inflight.detect_losses(resend, self.params.fast_limit) > 0 {
            self.congestion.on_fast_retransmit(now, self.inflight.len(), self.params.resend);
        }
        if applied.pushes > 0 {
            heard.readable = self.deliver();
            // A loss, or its repair: the sender should know at once.
            let irregular = had_hole || !self.assembler.is_empty();
            if had_hole && heard.readable {
                self.repaired_at = Some(now);
            }
            self.data_at = now;
            self.schedule_ack(now, &applied, irregular);
        }
        self.follow_peer_window(now);
        Ok(heard)
    }

    /// Everything that can be wrong is found here, before anything changes.
    fn check<'a>(&self, datagram: &'a [u8]) -> Result<Segments<'a>, InputError> {
        let nxt = self.inflight.nxt();
        let fragments = self.params.rcv_wnd.min(MAX_INCOMING_FRAGMENTS);
        let mut refused = None;
        let segments = Segments::parse_with(datagram, self.conv, |header| {
            let error = if nxt.is_before(header.una) {
                InputError::UnaBeyondSent
            } else if header.cmd == Command::Push && !self.params.stream && u32::from(header.frg) >= fragments
            {
                InputError::FragmentTooLarge { frg: header.frg }
            } else {
                return;
            };
            refused.get_or_insert(error);
        })?;
        refused.map_or(Ok(segments), Err)
    }

    fn count_rejected(&mut self, error: InputError) {
        let rare = self.stats.rare.make();
        let counter = match error {
            InputError::Short => &mut rare.rejected_short,
            InputError::ConvMismatch { .. } => &mut rare.rejected_conv,
            InputError::Truncated { .. } => &mut rare.rejected_truncated,
            InputError::UnknownCommand(_) => &mut rare.rejected_command,
            InputError::UnaBeyondSent => &mut rare.rejected_una,
            InputError::FragmentTooLarge { .. } | InputError::BrokenMessage => &mut rare.rejected_fragment,
            InputError::OtherLife | InputError::Closed(_) => return,
        };
        bump(counter);
    }

    /// Who echoes a timestamp that only we know gets what is sent there.
    fn seek_proof(&mut self, segments: Segments<'_>) {
        for (header, _) in segments.filter(|(header, _)| header.cmd == Command::Ack) {
            if self.unproven.get().is_some_and(|all| all.proofs.contains(&(header.sn, header.ts))) {
                return self.validate();
            }
            self.stats.rarely(|rare| &mut rare.mismatched_echoes);
        }
    }

    /// The rest of a run, between two of ours: each byte is the next segment's, and says how much later its `ts` is.
    #[inline(never)]
    fn apply_run(&mut self, header: &Header, payload: &[u8], applied: &mut Applied) {
        let (mut sn, mut ts) = (header.sn, header.ts);
        for &later in payload {
            (sn, ts) = (sn.next(), ts.wrapping_add(later.into()));
            if !self.apply_ack(&Header { sn, ts, ..*header }, applied) {
                // Nor was anything after it sent.
                return;
            }
        }
    }

    /// Whether the segment has ever been sent.
    #[inline]
    fn apply_ack(&mut self, header: &Header, applied: &mut Applied) -> bool {
        match self.inflight.on_ack(header.sn, header.ts) {
            AckOutcome::Acked { sent_at: Some(sent_at) } => {
                if applied.sample.is_none_or(|latest| latest <= sent_at) {
                    applied.sample = Some(sent_at);
                    applied.held = if self.una_suffices { u64::from(header.frg) * HELD_UNIT } else { 0 };
                }
            }
            AckOutcome::Acked { sent_at: None } => {
                self.stats.rarely(|rare| &mut rare.mismatched_echoes);
            }
            AckOutcome::Known => {}
            AckOutcome::NeverSent => {
                self.stats.rarely(|rare| &mut rare.ignored_acks);
                return false;
            }
        }
        true
    }

    fn apply_push(&mut self, header: &Header, payload: &[u8], applied: &mut Applied) {
        bump(&mut self.stats.segments_received);
        let rcv_nxt = self.assembler.next();
        self.longest = self.longest.max(payload.len());
        let ahead = header.sn.offset_from(rcv_nxt);
        let beyond = ahead.is_some_and(|ahead| ahead >= size(self.params.rcv_wnd));
        let duplicate = !beyond && self.assembler.has(header.sn);
        if beyond || (!duplicate && !self.has_room_for(header.sn, rcv_nxt, payload.len())) {
            // Not acknowledged: it will come again when there is room. Who was invited to send it is told that there is none.
            self.tell |= !beyond && self.free_window() == 0;
            self.stats.rarely(|rare| &mut rare.beyond_window);
            return;
        }
        applied.pushes = applied.pushes.saturating_add(1);
        let limit = size(self.params.rcv_wnd).saturating_mul(2);
        if duplicate {
            // Acknowledged again: the first ACK may have been lost.
            self.stats.rarely(|rare| &mut rare.duplicates);
            applied.repeated = true;
            self.acks.forget_repeat(header.sn);
            self.acks.push(header.sn, header.ts, rcv_nxt, limit);
            return;
        }
        applied.fresh = applied.fresh.saturating_add(1);
        self.announcer.on_data();
        let frg = header.frg;
        if ahead == Some(0) && self.assembler.is_empty() && self.reader.len() < size(self.params.rcv_wnd) {
            self.assembler.bypass();
            if self.takes(payload.len()) {
                self.broken |= self.reader.push(self.params.stream, frg, payload, &mut self.store).is_err();
            }
        } else {
            self.in_a_row =
                if header.sn == self.assembler.end() { self.in_a_row.saturating_add(1) } else { 0 };
            self.assembler.insert(header.sn, frg, payload, &mut self.store);
        }
        self.acks.push(header.sn, header.ts, self.assembler.next(), limit);
    }

    /// The byte budget. The segment that `rcv_nxt` waits for is let in while the reader has nothing to read, or a
    /// message longer than the budget could never be completed.
    fn has_room_for(&self, sn: Seq, rcv_nxt: Seq, len: usize) -> bool {
        let held = self.held().received;
        held.saturating_add(len) <= self.params.recv_buffer || (sn == rcv_nxt && !self.is_readable())
    }

    /// Moves what has become in order to the reader while it has room; true when it can be read.
    fn deliver(&mut self) -> bool {
        while self.reader.len() < size(self.params.rcv_wnd) {
            let Some(piece) = self.assembler.pop() else { break };
            if self.takes(piece.place.len()) {
                self.broken |= self.reader.append(self.params.stream, piece, &mut self.store).is_err();
            } else {
                self.store.remove(piece.place);
            }
        }
        self.store.note();
        self.compact();
        self.is_readable()
    }

    /// Moves all that is held together where too much memory is held with it.
    #[inline]
    fn compact(&mut self) {
        if self.store.is_wasteful() {
            self.move_together();
        }
    }

    #[inline(never)]
    fn move_together(&mut self) {
        let before = core::mem::take(&mut self.store);
        for piece in self.reader.pieces_mut().chain(self.assembler.pieces_mut()) {
            self.store.move_from(&before, piece);
        }
    }

    /// Counts a segment in order of `len` bytes; whether it is for the reader.
    fn takes(&mut self, len: usize) -> bool {
        self.stats.payload_received = self.stats.payload_received.wrapping_add(wide(len));
        if self.params.stream && len == 0 {
            // Legal, means nothing in a stream, and must neither stall the reader nor look like EOF.
            self.stats.rarely(|rare| &mut rare.empty_segments);
            return false;
        }
        !self.discard
    }

    fn schedule_ack(&mut self, now: Timestamp, applied: &Applied, irregular: bool) {
        self.unacked = self.unacked.saturating_add(applied.fresh);
        // A copy that rode along with something new is no sign that an acknowledgement was lost.
        let repeated = applied.repeated && applied.fresh == 0;
        // Of small messages that are said several times anyway hardly one is missing: nothing hurries.
        let spared = self.params.redundancy > 0 && self.longest <= FEW_SMALL && self.una_suffices;
        // The peer has heard enough to find the loss, and this tells of no other: one of ours hears of several at once.
        let calm = irregular
            && !repeated
            && self.in_a_row >= MIN_HEARD
            && self.unacked < MAX_TOGETHER
            && self.longest > SMALL
            && self.una_suffices;
        let urgent =
            ((irregular || repeated || self.unacked >= 2) && !spared && !calm) || self.params.ack_nodelay;
        let due = match () {
            () if urgent => now,
            () if calm => now.plus_micros(MIN_ACK_DELAY),
            () => {
                let delay = (self.params.interval / ACK_DELAY_DIVISOR).clamp(MIN_ACK_DELAY, MAX_ACK_DELAY);
                self.next_write(now).unwrap_or(now.plus_micros(delay))
            }
        };
        self.ack_due = Some(self.ack_due.map_or(due, |earlier| earlier.min(due)));
    }

    /// An ikcp peer acknowledges at its next tick; ours say how long they take, and what is left is how late timers and tasks are.
    pub(super) fn tick(&self) -> u64 {
        if self.una_suffices { (self.params.interval / 2).min(MAX_LATENESS) } else { self.params.interval }
    }

    /// When the application writes next if it goes on as before.
    pub(super) fn likely_write(&self) -> Timestamp {
        let [last, before] = self.write_gaps;
        self.wrote_at.plus_micros(u64::from(last.max(before))).plus_micros(WRITE_SLACK)
    }

    /// When the application is likely to write next, if that is soon enough for what is owed to one of our kind to wait.
    fn next_write(&self, now: Timestamp) -> Option<Timestamp> {
        let next = self.likely_write();
        let soon =
            next > now && next <= now.plus_micros(self.params.interval.saturating_mul(WRITE_HALVES) / 2);
        (self.una_suffices && soon).then_some(next)
    }

    /// After the application took something: room for held segments, and perhaps a closed window to reopen.
    pub(super) fn after_read(&mut self, now: Timestamp) {
        if self.reader.keeps() {
            self.rest();
        }
        if self.assembler.is_empty() {
            self.compact();
        } else {
            self.deliver();
        }
        if !self.announcer.is_closed() {
            return;
        }
        let free = u32::from(self.free_window());
        let by_bytes = self.params.recv_buffer.div_ceil(self.segment_len().get());
        let total = u32::try_from(by_bytes).unwrap_or(u32::MAX).min(self.params.rcv_wnd);
        if self.announcer.on_room(now, free, total, self.rtt.rto()) {
            self.tell = true;
        }
    }

    pub(crate) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// How long the peer's segments may be.
    fn segment_len(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.params.mss().max(self.longest)).unwrap_or(NonZeroUsize::MIN)
    }

    /// The `wnd` of everything that leaves now.
    pub(super) fn free_window(&self) -> u16 {
        let free = size(self.params.rcv_wnd).saturating_sub(self.reader.len());
        let room = self.params.recv_buffer.saturating_sub(self.held().received);
        // Only what surely fits: a peer repeats, and at last gives up, what it was invited to send and is discarded.
        let longest = self.segment_len();
        // Without a division where there is plenty of room.
        let by_bytes = if free.saturating_mul(longest.get()) <= room {
            free
        } else {
            self.assembler.window(room / longest)
        };
        let by_bytes = if self.is_readable() { by_bytes } else { by_bytes.max(1) };
        u16::try_from(free.min(by_bytes)).unwrap_or(u16::MAX)
    }
}
