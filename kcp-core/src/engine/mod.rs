//! The protocol itself, without lifecycle: what `ikcp.c` does. Both faces, [`Session`](crate::Session) and
//! [`Kcp`](crate::Kcp), drive this one engine.

mod flight;
mod input;
mod transmit;
mod window;

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::ack::AckQueue;
use crate::admission::NOTHING_ACKED;
use crate::config::{SessionConfig, mss_of};
use crate::congestion::{BoxedController, Classic, Off};
use crate::error::WriteError;
use crate::num::{fits, size, wide};
use crate::rare::Rare;
use crate::recv::assembler::Assembler;
use crate::recv::reader::ReadQueue;
use crate::recv::store::Store;
use crate::rtt::{INITIAL_RTO, RttEstimator};
use crate::send::inflight::Inflight;
use crate::send::queue::SendQueue;
use crate::seq::Seq;
use crate::stats::{Counters, Held, Stats};
use crate::time::{Timestamp, WireClock, saturating_micros};
use crate::wire::control::{Control, MAGIC};
use crate::wire::datagram::Transmit;
use crate::wire::{Command, HEADER_LEN, Header};
use flight::{Flight, INITIAL};
use transmit::{CONTROL_SN, append};
use window::{Announcer, Prober};

/// `ikcp_send` refuses a message of 128 fragments and more, and so may a peer's receiver.
const MAX_FRAGMENTS: usize = 127;
/// `IKCP_WND_RCV`: what a peer's window is taken for until it is heard of.
const INITIAL_PEER_WINDOW: u32 = 128;
/// The bookkeeping of one queued message, so that empty ones are bounded too.
const MESSAGE_COST: usize = 64;
/// What may be sent to an address that is not proven, times what came from there (RFC 9000, 8.1).
const AMPLIFICATION: u64 = 3;
/// Echoes of timestamps that were never sent, from an address that is not proven, until it is taken for a liar's.
const MAX_WRONG_ECHOES: u64 = 16;
/// Bursts after which a session keeps memory for the next one.
const MIN_RESTS: u8 = 8;
/// Transmissions remembered until the proof.
const MAX_PROOFS: usize = 64;
/// A segment that denies: a header and the magic byte.
const DENIAL_LEN: usize = HEADER_LEN + 1;
/// One that answers a hello: magic byte, type, length, two tokens.
const ANSWER_LEN: usize = HEADER_LEN + 20;
/// The shortest mtu at which a segment of some length has room behind that.
const MIN_LEAD_MTU: usize = 128;

/// Parameters in the units of the engine. Durations are microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Params {
    pub(crate) mtu: usize,
    pub(crate) snd_wnd: u32,
    pub(crate) rcv_wnd: u32,
    pub(crate) stream: bool,
    pub(crate) nodelay: u8,
    pub(crate) interval: u64,
    pub(crate) resend: u32,
    pub(crate) min_rto: u64,
    pub(crate) fast_limit: u32,
    pub(crate) dead_link: u32,
    pub(crate) early_retransmit: bool,
    pub(crate) ack_nodelay: bool,
    pub(crate) write_delay: bool,
    pub(crate) send_buffer: usize,
    pub(crate) recv_buffer: usize,
    pub(crate) redundancy: u8,
    /// With `nc`: a flight is limited to what the path takes.
    pub(crate) pacing: bool,
}

impl Params {
    pub(crate) fn new(config: &SessionConfig) -> Self {
        let numbers = config.nodelay;
        Self {
            mtu: config.mtu,
            snd_wnd: config.send_window,
            rcv_wnd: config.recv_window,
            stream: config.stream,
            nodelay: numbers.nodelay,
            interval: saturating_micros(numbers.interval),
            resend: numbers.resend,
            min_rto: min_rto_of(numbers.nodelay),
            fast_limit: config.fast_limit,
            dead_link: config.dead_link,
            early_retransmit: config.early_retransmit,
            ack_nodelay: config.ack_nodelay,
            write_delay: config.write_delay,
            send_buffer: config.send_buffer,
            recv_buffer: config.recv_buffer,
            redundancy: config.redundancy,
            pacing: config.pacing && numbers.nc,
        }
    }

    pub(crate) const fn mss(&self) -> usize {
        mss_of(self.mtu)
    }
}

/// `IKCP_RTO_MIN` 100 ms, `IKCP_RTO_NDL` 30 ms.
pub(crate) const fn min_rto_of(nodelay: u8) -> u64 {
    if nodelay == 0 { 100_000 } else { 30_000 }
}

/// Until the proof no more than three times of what came from there goes to the peer's address, for it may be a victim's.
#[derive(Debug, Default)]
struct Unproven {
    /// The transmissions made so far, (sn, ts): the echo of any of them is the proof. At most [`MAX_PROOFS`].
    proofs: Vec<(Seq, u32)>,
    /// Bytes received from, and sent to, addresses before this one.
    received: u64,
    sent: u64,
    /// What was told last before nothing more was to be acknowledged: less would look like another's.
    una: Seq,
    lead: Option<Lead>,
    /// When the first hello came.
    greeted_at: Option<Timestamp>,
}

/// What every datagram to a peer begins with that may mean another: who was here before, and took to its grave what it knew.
#[derive(Copy, Clone, Debug)]
enum Lead {
    /// Data has opened the session; its (sn, ts).
    Denial(Seq, u32),
    /// The peer has said hello. Nothing but our token is the proof then: what it echoes may come from the former life.
    Answer { token: u64, echo: u64 },
}

impl Lead {
    const fn len(self) -> usize {
        match self {
            Self::Denial(..) => DENIAL_LEN,
            Self::Answer { .. } => ANSWER_LEN,
        }
    }
}

/// One conversation's protocol state.
#[derive(Debug)]
pub(crate) struct Engine {
    conv: u32,
    pub(crate) params: Params,
    clock: WireClock,
    rtt: RttEstimator,
    congestion: BoxedController,
    flight: Rare<Flight>,

    queue: SendQueue,
    inflight: Inflight,
    peer_window: u32,
    prober: Prober,
    /// Stream mode with `write_delay`: when less than a full segment leaves anyway.
    hold_until: Option<Timestamp>,
    /// The pacing budget is spent until then.
    paced_until: Option<Timestamp>,
    /// Last time that data in flight was acknowledged, or that something came into flight after nothing was; or that the peer
    /// fell behind when nothing was.
    progress_at: Timestamp,
    /// What was heard last says that less has arrived than was said before: it was late, or the peer is another.
    peer_is_behind: bool,
    /// A segment was sent `dead_link` times.
    dead: bool,

    /// How often nothing was left in flight or unread since memory was given back.
    rests: u8,

    assembler: Assembler,
    reader: ReadQueue,
    /// The payloads of both.
    store: Store,
    /// The reader is gone: data is acknowledged and thrown away.
    discard: bool,
    /// Payload of the longest segment received: the peer's may be longer than ours.
    longest: usize,
    /// Segments beyond a hole of which each followed the latest until then.
    in_a_row: u32,
    /// The peer's fragments do not count down: the byte stream is undefined from here.
    broken: bool,
    announcer: Announcer,

    acks: AckQueue,
    /// When the owed ACKs leave at the latest. Invariant: Some whenever `acks` is not empty.
    ack_due: Option<Timestamp>,
    /// The peer is one of ours: it learns from `una` what it needs of an ACK in order.
    una_suffices: bool,
    /// When a hole was last filled.
    repaired_at: Option<Timestamp>,
    /// How long the peer thinks that we may hold an ACK, in `HELD_UNIT`.
    told_hold: u64,
    /// When data last arrived.
    data_at: Timestamp,
    /// When the application last wrote, and the two gaps before that, in microseconds: what is owed may ride with the next.
    wrote_at: Timestamp,
    write_gaps: [u32; 2],
    /// When it last got an ACK, of which it takes the round-trip time.
    sampled_at: Option<Timestamp>,
    /// Data segments received since ACKs were last sent.
    unacked: u32,
    /// A `WASK` is to be sent.
    ask: bool,
    /// A `WINS` is to be sent.
    tell: bool,
    /// There while the peer has not proven that it gets what is sent to its address.
    unproven: Rare<Unproven>,

    stats: Counters,
}

impl Engine {
    pub(crate) fn new(conv: u32, params: Params, nc: bool, ts_offset: u32, now: Timestamp) -> Self {
        let congestion = make_controller(nc, params.mss());
        Self {
            conv,
            clock: WireClock::new(ts_offset),
            rtt: RttEstimator::new(),
            congestion,
            flight: Rare::none(),
            queue: SendQueue::default(),
            inflight: Inflight::new(Seq::new(0)),
            peer_window: INITIAL_PEER_WINDOW,
            prober: Prober::default(),
            hold_until: None,
            paced_until: None,
            progress_at: now,
            peer_is_behind: false,
            dead: false,
            rests: 0,
            assembler: Assembler::new(Seq::new(0)),
            reader: ReadQueue::default(),
            store: Store::default(),
            discard: false,
            longest: 0,
            in_a_row: 0,
            broken: false,
            announcer: Announcer::new(params.rcv_wnd),
            acks: AckQueue::default(),
            ack_due: None,
            una_suffices: false,
            repaired_at: None,
            sampled_at: None,
            told_hold: 0,
            data_at: Timestamp::ZERO,
            wrote_at: Timestamp::ZERO,
            write_gaps: [u32::MAX; 2],
            unacked: 0,
            ask: false,
            tell: false,
            unproven: Rare::none(),
            stats: Counters::default(),
            params,
        }
    }

    pub(crate) const fn conv(&self) -> u32 {
        self.conv
    }

    pub(crate) fn set_controller(&mut self, controller: BoxedController) {
        self.congestion = controller;
        self.params.pacing = false;
    }

    pub(crate) fn set_nc(&mut self, nc: bool) {
        self.congestion = make_controller(nc, self.params.mss());
    }

    pub(crate) fn set_write_delay(&mut self, on: bool) {
        self.params.write_delay = on;
        if !on {
            self.release_held();
        }
    }

    pub(crate) fn set_mtu(&mut self, mtu: usize) {
        self.params.mtu = mtu;
        self.congestion.on_mss(self.params.mss());
    }

    pub(crate) fn held(&self) -> Held {
        Held {
            received: self.reader.bytes().saturating_add(self.assembler.bytes()),
            sent: self.queue.bytes().saturating_add(self.inflight.bytes()),
        }
    }

    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.inflight.bytes()
    }

    pub(crate) const fn set_buffers(&mut self, recv: usize, send: usize) {
        self.params.recv_buffer = recv;
        self.params.send_buffer = send;
    }

    // ---- application ----

    /// Takes as many bytes as the send buffer has room for.
    pub(crate) fn write(&mut self, now: Timestamp, buf: &[u8]) -> Result<usize, WriteError> {
        let room = self.params.send_buffer.saturating_sub(self.queue.bytes());
        let Some(taken) = buf.get(..room.min(buf.len())) else { return Err(WriteError::Blocked) };
        if buf.is_empty() {
            return Ok(0);
        }
        if taken.is_empty() {
            return Err(WriteError::Blocked);
        }
        self.queue.push_bytes(taken, self.params.mss());
        self.hold(now);
        Ok(taken.len())
    }

    /// Takes a whole message or nothing of it.
    pub(crate) fn send_msg(&mut self, now: Timestamp, msg: Bytes) -> Result<(), WriteError> {
        self.admit(msg.len())?;
        if self.params.stream {
            self.queue.push_bytes(&msg, self.params.mss());
        } else {
            self.queue.push_message(msg);
        }
        self.hold(now);
        Ok(())
    }

    /// As [`send_msg`](Self::send_msg), copying only what is taken.
    pub(crate) fn copy_msg(&mut self, now: Timestamp, msg: &[u8]) -> Result<(), WriteError> {
        self.admit(msg.len())?;
        self.push_message(now, msg);
        Ok(())
    }

    fn admit(&self, len: usize) -> Result<(), WriteError> {
        self.check_message(len)?;
        if self.has_room(len) { Ok(()) } else { Err(WriteError::Blocked) }
    }

    pub(crate) fn check_message(&self, len: usize) -> Result<(), WriteError> {
        let limit = self.params.mss().saturating_mul(MAX_FRAGMENTS);
        if len > limit { Err(WriteError::TooLarge { limit }) } else { Ok(()) }
    }

    /// Takes data without asking for room (the classic face has no bound; its users watch `waitsnd`).
    pub(crate) fn push_message(&mut self, now: Timestamp, msg: &[u8]) {
        if self.params.stream {
            self.queue.push_bytes(msg, self.params.mss());
        } else {
            self.queue.copy_message(msg, self.params.mss());
        }
        self.hold(now);
    }

    fn hold(&mut self, now: Timestamp) {
        let gap = saturating_micros(now.saturating_since(self.wrote_at));
        self.write_gaps = [fits(gap), self.write_gaps[0]];
        self.wrote_at = now;
        if self.params.write_delay && self.hold_until.is_none() {
            self.hold_until = Some(now.plus_micros(self.params.interval));
        }
    }

    /// Lets held data go.
    pub(crate) const fn release_held(&mut self) {
        self.hold_until = None;
    }

    /// Whether data may be held.
    pub(crate) const fn holds(&self) -> bool {
        self.hold_until.is_some()
    }

    /// Whether a write would take something.
    pub(crate) fn is_writable(&self) -> bool {
        let queued = self.queue.bytes().saturating_add(if self.params.stream {
            0
        } else {
            self.queue.entries().saturating_mul(MESSAGE_COST)
        });
        queued < self.params.send_buffer
    }

    /// Whether `len` more bytes would be taken. An empty queue takes a message of any length.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let queued = self.queue.bytes().saturating_add(self.queue.entries().saturating_mul(MESSAGE_COST));
        if self.params.stream && len <= 1 {
            return self.is_writable();
        }
        (queued == 0 && self.params.send_buffer > 0) || queued.saturating_add(len) <= self.params.send_buffer
    }

    pub(crate) const fn owes_acks(&self) -> bool {
        self.ack_due.is_some()
    }

    pub(crate) fn una(&self) -> Seq {
        self.assembler.next()
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.reader.is_readable(self.params.stream)
    }

    pub(crate) fn read(&mut self, now: Timestamp, buf: &mut [u8]) -> usize {
        loop {
            let n = self.reader.read(self.params.stream, buf, &mut self.store);
            self.after_read(now);
            // Where it skipped empty messages, something to read may have come into the room that they left.
            if n > 0 || buf.is_empty() || !self.is_readable() {
                return n;
            }
        }
    }

    pub(crate) fn peek(&self, buf: &mut [u8]) -> usize {
        self.reader.peek(self.params.stream, buf, &self.store)
    }

    pub(crate) fn pop_message(&mut self, now: Timestamp) -> Option<Bytes> {
        let message = self.reader.pop_message(self.params.stream, &mut self.store)?;
        self.after_read(now);
        Some(message)
    }

    pub(crate) fn peek_len(&self) -> Option<usize> {
        self.reader.peek_len(self.params.stream)
    }

    /// Throws away what has arrived and what will arrive; it is still acknowledged.
    pub(crate) fn discard_input(&mut self, now: Timestamp) {
        self.discard = true;
        self.reader.clear(&mut self.store);
        self.after_read(now);
    }

    /// Since when nothing has arrived, was written or acknowledged, while memory is kept for what comes next.
    pub(crate) fn kept_since(&self) -> Option<Timestamp> {
        let kept = self.queue.keeps()
            || self.inflight.keeps()
            || self.reader.keeps()
            || self.assembler.keeps()
            || self.store.keeps()
            || self.acks.keeps();
        kept.then_some(self.data_at.max(self.wrote_at).max(self.progress_at))
    }

    /// Nothing is in flight any more, or unread: whoever said little so far may say no more.
    pub(super) fn rest(&mut self) {
        if self.rests < MIN_RESTS {
            self.rests = self.rests.saturating_add(1);
            self.queue.trim();
            self.inflight.trim();
            self.reader.trim();
            self.store.trim();
        }
    }

    /// Gives back what is kept for what comes next.
    pub(crate) fn trim(&mut self) {
        self.rests = 0;
        self.queue.trim();
        self.inflight.trim();
        self.reader.trim();
        self.assembler.trim();
        self.store.trim();
        self.acks.trim();
    }

    /// Forgets what was not delivered: nothing more will be read or sent.
    pub(crate) fn forget(&mut self, unread_too: bool) {
        self.queue = SendQueue::default();
        self.inflight = Inflight::new(self.inflight.nxt());
        self.acks = AckQueue::default();
        self.ack_due = None;
        (self.ask, self.tell) = (false, false);
        if unread_too {
            self.reader.clear(&mut self.store);
            self.assembler = Assembler::new(self.assembler.next());
            self.store = Store::default();
        }
    }

    // ---- state ----

    /// Everything accepted has been acknowledged.
    pub(crate) fn is_drained(&self) -> bool {
        self.queue.is_empty() && self.inflight.is_empty()
    }

    pub(crate) const fn is_dead(&self) -> bool {
        self.dead
    }

    /// Segments that wait or are in flight (`ikcp_waitsnd`).
    pub(crate) fn waitsnd(&self) -> usize {
        let queued = self.queue.segments(self.params.stream, self.params.mss());
        queued.saturating_add(size(self.inflight.len()))
    }

    /// Since when data in flight has made no progress. Data that the peer has acknowledged but cannot deliver (its
    /// reader is full) has arrived. One that has room and does not deliver never had what came before: it was replaced by
    /// another, which knows this conversation by its repeated segments only. So has one that falls behind: its window is not known.
    pub(crate) fn stalled_since(&self) -> Option<Timestamp> {
        let undelivered = !self.inflight.is_empty() && (self.peer_window > 0 || self.peer_is_behind);
        (self.inflight.has_unacked() || undelivered).then_some(self.progress_at)
    }

    /// Since when data has waited for the peer's window to open.
    pub(crate) fn window_closed_since(&self) -> Option<Timestamp> {
        self.prober.since()
    }

    /// No `WINS` is owed: something else answers.
    pub(crate) const fn untell(&mut self) {
        self.tell = false;
    }

    /// The peer is one of ours.
    pub(crate) const fn elide_acks(&mut self) {
        self.una_suffices = true;
    }

    /// Sends a `WASK` with the next transmission.
    pub(crate) const fn ask_window(&mut self) {
        self.ask = true;
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.stats.snapshot();
        stats.acks_elided = self.acks.elided();
        stats.srtt = self.rtt.srtt().map(core::time::Duration::from_micros);
        stats.rttvar = core::time::Duration::from_micros(self.rtt.rttvar());
        stats.rto = core::time::Duration::from_micros(self.rtt.rto());
        stats.cwnd = self.congestion.window();
        stats.flight_limit = self.flight_limit();
        stats.peer_window = self.peer_window;
        stats.in_flight = self.inflight.len();
        stats.unsent_bytes = wide(self.queue.bytes());
        stats.unread_bytes = wide(self.reader.bytes());
        stats
    }

    /// Payload bytes that may be on their way.
    pub(super) fn flight_limit(&self) -> u64 {
        if self.params.pacing { self.flight.get().map_or(INITIAL, Flight::limit) } else { u64::MAX }
    }

    /// What was lost on the old path must not wait for what its losses have made of timeouts.
    pub(crate) fn path_changed(&mut self) {
        self.flight.clear();
        self.inflight.end_backoff(self.rtt.rto());
    }

    pub(super) fn is_flight_full(&self) -> bool {
        wide(self.inflight.on_the_way()) >= self.flight_limit()
    }

    /// Caps what is sent until the peer's address is proven.
    pub(crate) fn distrust(&mut self) {
        self.unproven.make();
    }

    /// The peer begins at another address, which it has not proven either: what came from the old one earns it nothing.
    pub(crate) fn distrust_anew(&mut self) {
        let (received, sent) = (self.stats.bytes_received, self.stats.bytes_sent);
        let unproven = self.unproven.make();
        (unproven.received, unproven.sent) = (received, sent);
    }

    /// The peer's address is proven.
    pub(crate) fn validate(&mut self) {
        self.unproven.clear();
    }

    /// When the first hello came, of a peer whose address is not proven.
    pub(crate) fn greeted_at(&self) -> Option<Timestamp> {
        self.unproven.get().and_then(|unproven| unproven.greeted_at)
    }

    /// An exchange without data took so long: what data may take that is sent now. One of our kind answers at once, others at their tick.
    pub(crate) fn expect(&mut self, took: u64) {
        let least = if self.una_suffices { self.params.min_rto } else { u64::from(INITIAL_RTO) };
        self.rtt.expect(took, self.params.interval, least);
    }

    pub(crate) fn is_validated(&self) -> bool {
        self.unproven.get().is_none()
    }

    /// Takes note of a transmission to an address that is not proven.
    pub(super) fn note_proof(&mut self, sn: Seq, ts: u32) {
        if let Some(unproven) = self.unproven.get_mut().filter(|unproven| unproven.proofs.len() < MAX_PROOFS)
        {
            unproven.proofs.push((sn, ts));
        }
    }

    /// The peer has said hello: whatever leaves begins with the answer, until it shows our token.
    pub(crate) fn greet(&mut self, now: Timestamp, token: u64, echo: u64) {
        if let Some(unproven) = self.unproven.get_mut() {
            unproven.greeted_at.get_or_insert(now);
            unproven.lead = Some(Lead::Answer { token, echo });
        }
    }

    /// Data has opened the session: whatever leaves says so, until its sender has shown that it took some of it, which one of our
    /// kind does not that means another.
    pub(crate) fn deny(&mut self, sn: Seq, ts: u32) {
        if let Some(unproven) = self.unproven.get_mut() {
            unproven.lead = Some(Lead::Denial(sn, ts));
        }
    }

    /// Nothing but our token proves the peer's address.
    pub(crate) fn needs_token(&self) -> bool {
        self.unproven.get().is_some_and(|unproven| matches!(unproven.lead, Some(Lead::Answer { .. })))
    }

    /// The same, and datagrams are too short to begin with it: nothing else leaves.
    pub(crate) fn is_mute(&self) -> bool {
        self.needs_token() && self.params.mtu < MIN_LEAD_MTU
    }

    fn lead(&self) -> Option<Lead> {
        self.unproven.get()?.lead
    }

    /// Bytes of each datagram that are kept for a lead while one may come.
    const fn lead_room(&self) -> usize {
        if self.params.mtu < MIN_LEAD_MTU { DENIAL_LEN } else { ANSWER_LEN }
    }

    fn push_lead(&self, now: Timestamp, lead: Lead, buf: &mut Vec<u8>) {
        match lead {
            Lead::Denial(sn, ts) => self.push_denial(sn, ts, buf),
            Lead::Answer { token, echo } => {
                let mut payload = alloc::vec![MAGIC];
                Control::HelloAck { token, echo }.encode(&mut payload);
                append(self.header(Command::Wins, CONTROL_SN, self.clock.stamp(now)), &payload, buf);
            }
        }
    }

    /// Bytes that may be sent now to an address that is not proven yet.
    pub(super) fn allowance(&self) -> u64 {
        let Some(unproven) = self.unproven.get() else { return u64::MAX };
        let received = self.stats.bytes_received.saturating_sub(unproven.received);
        let sent = self.stats.bytes_sent.saturating_sub(unproven.sent);
        let lead = unproven.lead.map_or(0, Lead::len);
        received.saturating_mul(AMPLIFICATION).saturating_sub(sent).saturating_sub(wide(lead))
    }

    /// While data waits for the proof of the peer's address, nothing is acknowledged: an acknowledged peer may fall silent,
    /// one that repeats itself gives us more to answer with.
    pub(super) fn withholds_acks(&self) -> bool {
        self.withheld_una().is_some()
    }

    /// What leaves tells the true `una`.
    pub(super) fn note_una(&mut self) {
        let una = self.assembler.next();
        if let Some(unproven) = self.unproven.get_mut() {
            unproven.una = una;
        }
    }

    /// What is told instead of the true `una` while that is so.
    pub(super) fn withheld_una(&self) -> Option<Seq> {
        let waits = || !self.queue.is_empty() || self.inflight.has_unacked();
        self.unproven.get().filter(|_| waits()).map(|unproven| unproven.una)
    }

    /// Longest payload that a new segment may have now; 0: none may be sent. Before the peer's address is proven it is one
    /// segment at a time, of a third of what is allowed: the rest is for repeating it.
    pub(super) fn new_len(&self) -> usize {
        let mss = self.params.mss();
        if self.is_validated() {
            return mss;
        }
        if !self.inflight.is_empty() {
            return 0;
        }
        let mss = mss.saturating_sub(self.lead_room());
        let part = usize::try_from(self.allowance() / AMPLIFICATION).unwrap_or(usize::MAX);
        let enough = self.allowance() > wide(HEADER_LEN);
        part.saturating_sub(HEADER_LEN).max(usize::from(enough)).min(mss)
    }

    fn may_send_new(&self) -> bool {
        let longest = self.new_len();
        let next = self.queue.next_len(self.params.stream, longest).unwrap_or(0);
        longest > 0 && wide(HEADER_LEN.saturating_add(next)) <= self.allowance()
    }

    /// Whether the peer echoed too many timestamps that were never sent, before it proved its address.
    pub(crate) fn is_guessing(&self) -> bool {
        !self.is_validated() && self.stats.mismatched_echoes() >= MAX_WRONG_ECHOES
    }

    /// Appends a datagram as it is, if it may leave.
    pub(crate) fn write_answer(&mut self, datagram: &[u8], buf: &mut Vec<u8>) -> Option<Transmit> {
        let len = datagram.len();
        if wide(len) > self.allowance() {
            return None;
        }
        buf.extend_from_slice(datagram);
        Some(self.count_one(len))
    }

    /// Appends a datagram of one control segment.
    pub(crate) fn write_payload(
        &mut self,
        now: Timestamp,
        cmd: Command,
        payload: &[u8],
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let len = HEADER_LEN.saturating_add(payload.len());
        if wide(len) > self.allowance() {
            return None;
        }
        let header = self.header(cmd, CONTROL_SN, self.clock.stamp(now));
        if !self.withholds_acks() {
            self.note_una();
        }
        self.announcer.told(u32::from(header.wnd));
        append(header, payload, buf);
        Some(self.count_one(len))
    }

    /// A datagram of one control segment. To who may mean another session it acknowledges nothing.
    pub(crate) fn aside(&self, now: Timestamp, payload: &[u8]) -> Vec<u8> {
        let una = self.assembler.next();
        let una = if self.is_validated() { una } else { una.plus(NOTHING_ACKED) };
        let header = self.header(Command::Wins, CONTROL_SN, self.clock.stamp(now));
        let mut datagram = Vec::with_capacity(HEADER_LEN.saturating_add(payload.len()));
        append(Header { una, ..header }, payload, &mut datagram);
        datagram
    }

    /// Counts a datagram that is a run of its own.
    pub(crate) const fn count_one(&mut self, len: usize) -> Transmit {
        self.count_sent(1, len);
        Transmit { datagrams: 1, stride: len, len }
    }

    pub(super) const fn count_sent(&mut self, datagrams: usize, len: usize) {
        self.stats.datagrams_sent = self.stats.datagrams_sent.wrapping_add(wide(datagrams));
        self.stats.bytes_sent = self.stats.bytes_sent.wrapping_add(wide(len));
    }

    /// When this very transmission left, if it is in flight.
    pub(crate) fn in_flight_since(&self, sn: Seq, ts: u32) -> Option<Timestamp> {
        self.inflight.in_flight_since(sn, ts)
    }

    /// Appends the answer to data of a session that was not known before it: to one of ours that has had a session here it
    /// says that it is gone, to everybody else nothing.
    pub(crate) fn write_denial(&mut self, sn: Seq, ts: u32, buf: &mut Vec<u8>) -> Option<Transmit> {
        let mut denial = Vec::new();
        self.push_denial(sn, ts, &mut denial);
        self.write_answer(&denial, buf)
    }

    fn push_denial(&self, sn: Seq, ts: u32, buf: &mut Vec<u8>) {
        // It would not be in flight any more, and the echo would prove nothing.
        let una = sn.plus(NOTHING_ACKED);
        append(Header { una, ..self.header(Command::Wins, sn, ts) }, &[MAGIC], buf);
    }

    /// Everything accepted has been sent at least once.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.queue.is_empty()
    }

    /// `snd_nxt`.
    pub(crate) fn snd_nxt(&self) -> Seq {
        self.inflight.nxt()
    }

    /// Microseconds.
    pub(crate) fn rto(&self) -> u64 {
        self.rtt.rto()
    }

    /// Whether a segment at or beyond `sn` has arrived.
    pub(crate) fn has_received_from(&self, sn: Seq) -> bool {
        sn.is_before(self.assembler.end())
    }

    /// Whether something has arrived that nobody has read.
    pub(crate) fn has_unread(&self) -> bool {
        self.reader.is_readable(true) || !self.assembler.is_empty()
    }

    pub(crate) fn srtt(&self) -> Option<u64> {
        self.rtt.srtt()
    }

    /// When the engine has something to do next; a time in the past when it has something to send now.
    pub(crate) fn deadline(&mut self) -> Option<Timestamp> {
        if (self.ask || self.tell) && self.allowance() >= wide(HEADER_LEN) {
            return Some(Timestamp::ZERO);
        }
        let first = self.first_timeout();
        let probe = self.tail_probe().map(|(at, _)| at);
        let mut next = self.inflight.next_deadline(first, self.peer_window);
        let mut consider = |candidate: Option<Timestamp>| {
            next = match (next, candidate) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        if !self.withholds_acks() && self.allowance() >= wide(HEADER_LEN) {
            consider(self.ack_due);
        }
        consider(probe);
        consider(self.announcer.next());
        consider(self.prober.next());
        if let Some(len) = self.inflight.peek_due().map(|(_, _, slot)| slot.data.len()) {
            if wide(HEADER_LEN.saturating_add(len)) <= self.allowance() && !self.is_flight_full() {
                consider(Some(self.paced_until.unwrap_or(Timestamp::ZERO)));
            }
        } else if !self.queue.is_empty()
            && self.inflight.len() < self.send_limit()
            && self.may_send_new()
            && !self.is_flight_full()
        {
            let held = self.hold_until.filter(|_| self.is_held());
            consider(Some(held.or(self.paced_until).unwrap_or(Timestamp::ZERO)));
        }
        next
    }

    /// Whether nothing is to be sent now, seen at a glance: most calls of [`transmit`](Self::transmit) find nothing.
    pub(super) fn is_quiet(&mut self, now: Timestamp) -> bool {
        let owed = self.tell || self.ask || self.ack_due.is_some_and(|due| due <= now);
        let probes = self.announcer.next().is_some() || self.prober.next().is_some() || self.peer_window == 0;
        if owed || probes || self.inflight.has_due() {
            return false;
        }
        let has_room = self.inflight.len() < self.send_limit();
        if has_room && !self.queue.is_empty() {
            return false;
        }
        let timeout =
            self.inflight.next_deadline(self.first_timeout(), self.peer_window).is_some_and(|at| at <= now);
        if timeout || self.tail_probe().is_some_and(|(at, _)| at <= now) {
            return false;
        }
        self.nothing_queued(now);
        true
    }

    /// No data is sent now: because there is none, or the window is full.
    pub(super) fn nothing_queued(&mut self, now: Timestamp) {
        if self.hold_until.is_some_and(|until| until <= now) {
            self.hold_until = None;
        }
        if self.inflight.len() < self.send_limit() && !self.is_held() {
            self.congestion.on_app_limited(now);
        }
    }

    /// When the next retransmission timeout ends.
    pub(crate) fn resend_deadline(&mut self) -> Option<Timestamp> {
        let first = self.first_timeout();
        self.inflight.next_deadline(first, self.peer_window)
    }

    pub(crate) fn set_initial_sn(&mut self, snd: u32, rcv: u32) {
        self.inflight = Inflight::new(Seq::new(snd));
        self.assembler.set_next(Seq::new(rcv));
        if let Some(unproven) = self.unproven.get_mut() {
            unproven.una = Seq::new(rcv);
        }
    }
}

fn make_controller(nc: bool, mss: usize) -> BoxedController {
    if nc { Box::new(Off) } else { Box::new(Classic::new(mss)) }
}
