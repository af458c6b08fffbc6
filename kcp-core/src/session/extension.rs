//! What two of ours tell each other beyond KCP: hello, end of stream, reset, signs of life, moves, datagrams.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;

use crate::admission::answer_for;
use crate::engine::Engine;
use crate::rare::Rare;
use crate::seq::Seq;
use crate::time::Timestamp;
use crate::wire::control::{Control, DATAGRAM_OVERHEAD, MAGIC, controls, pad};
use crate::wire::{Command, HEADER_LEN, Header};

/// The hello buys the answering side room for a full segment: it may send three times what it got from an address that
/// is not proven yet.
const HELLO_LEN: usize = 512;
/// Type and length of a record.
const RECORD_OVERHEAD: usize = 3;
/// Between hellos in an open session, in microseconds.
const HELLO_WAIT: u64 = 200_000;
/// Hellos to a peer that answers like a plain one.
const MAX_HELLOS: u32 = 5;
/// First wait for a `FinAck` at least, and longest, in microseconds.
const MIN_FIN_WAIT: u64 = 100_000;
const MAX_FIN_WAIT: u64 = 2_000_000;
/// Forged resets in a row before resets are ignored for a while.
const MAX_WRONG_RESETS: u32 = 8;
const RESET_DEAFNESS: u64 = 10_000_000;
/// Bytes of unreliable datagrams that wait, in each direction; the oldest are dropped first.
const DATAGRAM_BUFFER: usize = 64 * 1024;
/// Each counts at least so much: empty ones are bounded too.
const DATAGRAM_COST: usize = 64;

/// Our own end of the stream.
#[derive(Copy, Clone, Debug, Default)]
enum Fin {
    /// Not sent yet.
    #[default]
    Open,
    Sent {
        sn: Seq,
        next: Timestamp,
        wait: u64,
        since: Timestamp,
    },
    Acked,
}

/// Which session of a conversation speaks: the one that answered our hello, or one that came after it.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) enum Life {
    Ours,
    /// It knows no hello. Proven: it had better, for it denies what is in flight; else the network may have repeated what opened it.
    Denied {
        proven: bool,
    },
    Other,
}

/// To a peer that means another session.
#[derive(Clone, Debug)]
pub(super) enum Denial {
    /// This data has opened the session.
    Opened(Seq, u32),
    /// What it sent was not for us: the answer that it would have got from nobody.
    Stranger(Vec<u8>),
}

/// What a datagram's control messages mean for the session.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(super) enum Verdict {
    Nothing,
    /// The peer reset the session, and proved that it may.
    Reset,
    /// The peer contradicts itself.
    Broken,
}

/// Bytes of a bounded queue that drops its oldest entries.
#[derive(Debug, Default)]
struct DatagramQueue {
    queue: VecDeque<Bytes>,
    cost: usize,
}

impl DatagramQueue {
    /// How many old ones were dropped for it.
    fn push(&mut self, data: Bytes) -> u64 {
        let mut dropped = 0u64;
        self.cost = self.cost.saturating_add(data.len().max(DATAGRAM_COST));
        self.queue.push_back(data);
        while self.cost > DATAGRAM_BUFFER && self.queue.len() > 1 {
            self.pop();
            dropped = dropped.saturating_add(1);
        }
        dropped
    }

    fn pop(&mut self) -> Option<Bytes> {
        let data = self.queue.pop_front()?;
        self.cost = self.cost.saturating_sub(data.len().max(DATAGRAM_COST));
        if self.queue.is_empty() {
            // An idle session keeps no buffer.
            self.queue = VecDeque::new();
        }
        Some(data)
    }
}

#[derive(Debug)]
pub(super) struct Extension {
    enabled: bool,
    /// Issued by us; the peer proves with it that it has seen the handshake.
    own: u64,
    /// Issued by the peer. Some: the extensions are on.
    peer: Option<u64>,
    /// We dialled: hellos sent since the session is open.
    hellos: Option<u32>,
    /// When the extensions came on.
    on_since: Option<Timestamp>,
    /// Owed at once.
    denial: Option<Box<Denial>>,
    /// The session is open, and neither a hello's answer nor a plain peer's has come: when to repeat it.
    next_hello: Option<Timestamp>,
    /// Repeats the answer to a hello until the peer proves that it came: when, and the wait after it. Whoever dialled may
    /// have nothing to say first.
    repeat_ack: Option<(Timestamp, u64)>,
    /// The peer has shown the token that our answer to its hello brought: it came. An echo of data proves the address, but
    /// not that.
    answer_came: bool,
    /// Owed: the answer to a hello, ours to its answer, to a `Ping`; a reset.
    hello_ack: bool,
    token: bool,
    pong: Option<u64>,
    reset: bool,
    /// The token and the answer to a `Fin`, for which nobody waits, are not owed before something else leaves.
    holds: bool,
    /// A keepalive is owed; the nonce of the latest one.
    ping_owed: bool,
    ping: Option<u64>,
    seldom: Rare<Seldom>,
}

/// What most sessions have only at their end, or never.
#[derive(Debug, Default)]
struct Seldom {
    fin: Fin,
    /// The peer's stream ends before this sn.
    peer_fin: Option<Seq>,
    /// Owed: the answers to a `Fin` and to a challenge.
    fin_ack: Option<Seq>,
    path_response: Option<u64>,
    wrong_resets: u32,
    search: Option<Search>,
    ignore_resets_until: Timestamp,
    out: DatagramQueue,
    inbox: DatagramQueue,
    datagrams_dropped: u64,
}

/// Questions on a new path until one is answered.
#[derive(Copy, Clone, Debug)]
struct Search {
    next: Timestamp,
    /// After the next one, in microseconds; the RTO at first.
    wait: Option<u64>,
    left: u8,
}

/// How often.
const MAX_SEARCHES: u8 = 10;

/// What follows a wait for an answer that did not come.
fn longer(wait: u64) -> u64 {
    (wait.saturating_mul(3) / 2).min(MAX_FIN_WAIT)
}

/// With a small mtu not all that is owed fits one datagram: the rest leaves with the next. A record is `RECORD_OVERHEAD` and so
/// many numbers.
fn has_room(payload: &[u8], numbers: usize, limit: usize) -> bool {
    let len = payload.len().saturating_add(RECORD_OVERHEAD).saturating_add(numbers.saturating_mul(8));
    payload.len() == 1 || len <= limit
}

impl Seldom {
    fn is_owed(&self, unproven: bool, holds: bool) -> bool {
        // A datagram may have no room behind the answer to a hello.
        let datagrams = !unproven && !self.out.queue.is_empty();
        (self.fin_ack.is_some() && !holds) || self.path_response.is_some() || datagrams
    }

    fn is_search_due(&mut self, now: Timestamp, rto: u64) -> bool {
        let Some(search) = self.search.as_mut().filter(|search| search.next <= now) else { return false };
        let wait = search.wait.unwrap_or(rto).min(MAX_FIN_WAIT);
        search.next = now.plus_micros(wait);
        search.wait = Some(longer(wait));
        search.left = search.left.saturating_sub(1);
        if search.left == 0 {
            self.search = None;
        }
        true
    }

    /// Appends what is owed, but for datagrams, and fits.
    fn answer(&mut self, now: Timestamp, token: u64, limit: usize, payload: &mut Vec<u8>) {
        if let Fin::Sent { sn, next, wait, .. } = &mut self.fin
            && *next <= now
            && has_room(payload, 2, limit)
        {
            Control::Fin { sn: *sn, token }.encode(payload);
            *next = now.plus_micros(*wait);
            *wait = longer(*wait);
        }
        if has_room(payload, 2, limit)
            && let Some(sn) = self.fin_ack.take()
        {
            Control::FinAck { sn, token }.encode(payload);
        }
        if has_room(payload, 2, limit)
            && let Some(nonce) = self.path_response.take()
        {
            Control::PathResponse { nonce, token }.encode(payload);
        }
    }

    /// Appends datagrams up to `limit` bytes of payload, one of any length at least.
    fn fill(&mut self, limit: usize, payload: &mut Vec<u8>) {
        while let Some(data) = self.out.queue.front() {
            let len = payload.len().saturating_add(RECORD_OVERHEAD).saturating_add(data.len());
            if payload.len() > 1 && len > limit {
                break;
            }
            if let Some(data) = self.out.pop() {
                Control::Datagram(&data).encode(payload);
            }
        }
    }
}

impl Extension {
    pub(super) fn new(enabled: bool, token: u64, dialled: bool) -> Self {
        Self {
            enabled,
            own: token,
            peer: None,
            hellos: dialled.then_some(0),
            on_since: None,
            denial: None,
            next_hello: None,
            repeat_ack: None,
            answer_came: false,
            hello_ack: false,
            token: false,
            pong: None,
            reset: false,
            holds: false,
            ping_owed: false,
            ping: None,
            seldom: Rare::none(),
        }
    }

    pub(super) const fn hold(&mut self) {
        self.holds = true;
    }

    /// Whether something is owed now that was held before.
    pub(super) fn release(&mut self) -> bool {
        let held = self.is_holding();
        self.holds = false;
        held
    }

    pub(super) fn is_holding(&self) -> bool {
        self.holds && (self.token || self.fin_ack().is_some())
    }

    /// The session was opened by data: whoever has had one here before shall know that it is gone.
    pub(super) fn deny(&mut self, sn: Seq, ts: u32, engine: &mut Engine) {
        if self.enabled && !self.is_on() {
            self.denial = Some(Box::new(Denial::Opened(sn, ts)));
            engine.deny(sn, ts);
        }
    }

    /// A datagram acknowledges what this session has never sent.
    pub(super) fn answer_stranger(&mut self, datagram: &[u8]) {
        if self.enabled
            && !self.is_on()
            && self.denial.is_none()
            && let Some(answer) = answer_for(datagram, None)
        {
            self.denial = Some(Box::new(Denial::Stranger(answer)));
        }
    }

    pub(super) const fn owes_denial(&self) -> bool {
        self.denial.is_some()
    }

    pub(super) fn take_denial(&mut self) -> Option<Denial> {
        self.denial.take().map(|denial| *denial)
    }

    /// We have dialled, and the peer has answered our hello.
    pub(super) const fn has_dialled(&self) -> bool {
        self.hellos.is_some() && self.is_on()
    }

    /// Something comes of a peer that has yet to show that our answer to its hello came.
    pub(super) const fn greet_again(&mut self) {
        self.hello_ack = true;
    }

    /// Whose a datagram is that begins with this.
    pub(super) fn life(&self, header: &Header, payload: &[u8], engine: &Engine) -> Life {
        match controls(payload).map(|mut all| all.next()) {
            _ if !header.cmd.carries_control() => Life::Ours,
            Some(None) if payload.len() == 1 && header.cmd == Command::Wins => {
                Life::Denied { proven: self.is_forgotten(header, engine) }
            }
            Some(Some(Control::HelloAck { token, echo })) if echo == self.own && Some(token) != self.peer => {
                Life::Other
            }
            _ => Life::Ours,
        }
    }

    /// Whether this denies what left after hellos had been exchanged: whoever knew them is gone.
    fn is_forgotten(&self, header: &Header, engine: &Engine) -> bool {
        // Of what left before the peer was known, a newly opened session may say so, too.
        let since = engine.in_flight_since(header.sn, header.ts);
        since.is_some_and(|since| self.on_since.is_some_and(|on| on <= since))
    }

    /// Both ends speak it.
    pub(super) const fn is_on(&self) -> bool {
        self.peer.is_some()
    }

    /// The tokens: issued by us, issued by the peer.
    pub(super) const fn tokens(&self) -> (u64, Option<u64>) {
        (self.own, self.peer)
    }

    /// The session is open, but no answer to a hello has opened it.
    pub(super) fn opened(&mut self, now: Timestamp) {
        if self.enabled && self.peer.is_none() && self.hellos.is_some() {
            self.next_hello = Some(now.plus_micros(HELLO_WAIT));
        }
    }

    /// A plain peer has answered.
    pub(super) const fn on_plain_answer(&mut self) {
        self.next_hello = None;
    }

    /// The payload of an opening probe. Every one has it: whichever is answered decides what the session can do.
    pub(super) fn hello(&self, mtu: usize) -> Vec<u8> {
        if !self.enabled || self.hellos.is_none() {
            return Vec::new();
        }
        let mut payload = vec![MAGIC];
        Control::Hello { token: self.own }.encode(&mut payload);
        pad(&mut payload, HELLO_LEN.min(mtu).saturating_sub(HEADER_LEN));
        payload
    }

    /// One in an open session, of a few, if it is time.
    pub(super) fn late_hello(&mut self, now: Timestamp) -> Option<Vec<u8>> {
        self.next_hello.filter(|at| *at <= now)?;
        self.next_hello = None;
        let sent = self.hellos.as_mut()?;
        *sent = sent.saturating_add(1);
        // Behind the last one nobody is woken for nothing.
        self.next_hello = (*sent < MAX_HELLOS).then(|| now.plus_micros(HELLO_WAIT));
        Some(self.hello(0))
    }

    /// Applies the control messages of a segment.
    pub(super) fn apply(
        &mut self,
        now: Timestamp,
        header: &Header,
        payload: &[u8],
        engine: &mut Engine,
    ) -> Verdict {
        if !self.enabled {
            return Verdict::Nothing;
        }
        let Some(messages) = controls(payload) else { return Verdict::Nothing };
        if payload.len() == 1 {
            let forgotten = header.cmd == Command::Wins && self.is_forgotten(header, engine);
            return self.on_reset(now, forgotten);
        }
        if self.hellos.is_some() && self.peer.is_none() {
            // Whoever speaks so is one of ours, and has not been heard completely.
            self.hellos = Some(0);
            self.next_hello = self.next_hello.or(Some(now));
        }
        for message in messages {
            let verdict = self.apply_one(now, header.cmd, message, engine);
            if self.on_since.is_none() && self.is_on() {
                self.on_since = Some(now);
                self.denial = None;
            }
            if verdict != Verdict::Nothing {
                return verdict;
            }
        }
        Verdict::Nothing
    }

    fn apply_one(
        &mut self,
        now: Timestamp,
        cmd: Command,
        message: Control<'_>,
        engine: &mut Engine,
    ) -> Verdict {
        match message {
            // Another token is another's: the first one stays.
            Control::Hello { token } if self.hellos.is_none() && cmd == Command::Wask => {
                self.hello_ack = *self.peer.get_or_insert(token) == token;
                engine.greet(now, self.own, token);
                // The answer is a `WINS`, too: a plain one beside it might arrive alone, and look like a plain peer's.
                engine.untell();
            }
            Control::HelloAck { token, echo } if self.hellos.is_some() && echo == self.own => {
                if *self.peer.get_or_insert(token) != token {
                    // Only who has got our hello knows our token: it is another than the one before, who is gone.
                    return Verdict::Reset;
                }
                self.token = true;
                self.next_hello = None;
            }
            Control::Reset { .. } => return self.on_reset(now, self.proves(message)),
            _ if self.peer.is_none() => {}
            Control::Token { token } if token == self.own => self.answer_came = true,
            Control::Fin { sn, token } if token == self.own => {
                self.answer_came = true;
                return self.on_fin(sn);
            }
            Control::FinAck { sn, token }
                if token == self.own && matches!(self.fin(), Fin::Sent { sn: sent, .. } if sent == sn) =>
            {
                self.seldom.make().fin = Fin::Acked;
                self.answer_came = true;
            }
            Control::Ping { nonce } => self.pong = Some(nonce),
            Control::Pong { nonce } if Some(nonce) == self.ping => {
                self.ping = None;
                if let Some(seldom) = self.seldom.get_mut() {
                    seldom.search = None;
                }
            }
            Control::PathChallenge { nonce } if self.hellos.is_some() => {
                self.seldom.make().path_response = Some(nonce);
            }
            Control::Datagram(data) => {
                let seldom = self.seldom.make();
                let dropped = seldom.inbox.push(Bytes::copy_from_slice(data));
                seldom.datagrams_dropped = seldom.datagrams_dropped.wrapping_add(dropped);
            }
            _ => {}
        }
        Verdict::Nothing
    }

    /// Whether the sender shows our token: it gets what is sent to its address.
    pub(super) const fn knows_token(&self, message: Control<'_>) -> bool {
        match message {
            Control::Token { token } | Control::Fin { token, .. } | Control::FinAck { token, .. } => {
                self.is_on() && token == self.own
            }
            _ => false,
        }
    }

    /// Whether this is a reset by who knows our token, or our last ping.
    pub(super) fn proves(&self, message: Control<'_>) -> bool {
        matches!(message, Control::Reset { proof } if proof == self.own || Some(proof) == self.ping)
    }

    fn on_reset(&mut self, now: Timestamp, proven: bool) -> Verdict {
        if self.believes_reset(now, proven, true) { Verdict::Reset } else { Verdict::Nothing }
    }

    /// A right one ends the session; guessing is made hopeless. What leads other segments is no guess: it spoils them.
    pub(super) fn believes_reset(&mut self, now: Timestamp, proven: bool, guess: bool) -> bool {
        let seldom = self.seldom.make();
        let deaf = now < seldom.ignore_resets_until;
        if !deaf && !proven && guess {
            seldom.wrong_resets = seldom.wrong_resets.saturating_add(1);
            if seldom.wrong_resets >= MAX_WRONG_RESETS {
                seldom.wrong_resets = 0;
                seldom.ignore_resets_until = now.plus_micros(RESET_DEAFNESS);
            }
        }
        proven && !deaf
    }

    fn on_fin(&mut self, sn: Seq) -> Verdict {
        // Whether more has arrived than that is looked at afterwards, as with whatever comes later.
        if self.peer_fin().is_some_and(|known| known != sn) {
            return Verdict::Broken;
        }
        let seldom = self.seldom.make();
        seldom.peer_fin = Some(sn);
        seldom.fin_ack = Some(sn);
        Verdict::Nothing
    }

    /// Whether the peer has sent beyond the end that it announced.
    pub(super) fn is_contradicted(&self, engine: &Engine) -> bool {
        self.peer_fin().is_some_and(|sn| engine.has_received_from(sn))
    }

    fn peer_fin(&self) -> Option<Seq> {
        self.seldom.get()?.peer_fin
    }

    fn fin(&self) -> Fin {
        self.seldom.get().map_or(Fin::Open, |seldom| seldom.fin)
    }

    pub(super) fn owes_fin_ack(&self) -> bool {
        self.fin_ack().is_some()
    }

    fn fin_ack(&self) -> Option<Seq> {
        self.seldom.get()?.fin_ack
    }

    /// The peer's stream has ended, and all of it has arrived.
    pub(super) fn is_complete(&self, engine: &Engine) -> bool {
        self.peer_fin() == Some(engine.una())
    }

    /// The peer knows that our stream has ended.
    pub(super) fn is_fin_acked(&self) -> bool {
        matches!(self.fin(), Fin::Acked)
    }

    /// Everything is said in both directions, if nothing more is written.
    pub(super) fn is_finished(&self, engine: &Engine) -> bool {
        self.is_fin_acked() && engine.is_drained() && self.is_complete(engine) && self.fin_ack().is_none()
    }

    /// Since when our end of stream has waited for its acknowledgement.
    pub(super) fn fin_since(&self) -> Option<Timestamp> {
        match self.fin() {
            Fin::Sent { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Asks the peer for a sign of life that a restarted one cannot give.
    pub(super) const fn ask(&mut self) {
        self.ping_owed = true;
    }

    /// Asks until there is an answer, a few times: at first nobody knows us where we are now.
    pub(super) fn search(&mut self) {
        self.seldom.make().search = Some(Search { next: Timestamp::ZERO, wait: None, left: MAX_SEARCHES });
    }

    /// The session ends here: the peer shall know.
    pub(super) const fn owe_reset(&mut self) {
        self.reset = self.peer.is_some();
    }

    /// Whether something is to be said although the session has ended.
    pub(super) const fn has_last_word(&self) -> bool {
        self.reset
    }

    pub(super) fn send_datagram(&mut self, data: Bytes) {
        let seldom = self.seldom.make();
        let dropped = seldom.out.push(data);
        seldom.datagrams_dropped = seldom.datagrams_dropped.wrapping_add(dropped);
    }

    pub(super) fn recv_datagram(&mut self) -> Option<Bytes> {
        self.seldom.get_mut()?.inbox.pop()
    }

    pub(super) fn has_datagram(&self) -> bool {
        self.seldom.get().is_some_and(|seldom| !seldom.inbox.queue.is_empty())
    }

    pub(super) fn datagrams_dropped(&self) -> u64 {
        self.seldom.get().map_or(0, |seldom| seldom.datagrams_dropped)
    }

    /// Longest unreliable datagram at this mtu.
    pub(super) const fn max_datagram(mtu: usize) -> usize {
        mtu.saturating_sub(HEADER_LEN).saturating_sub(DATAGRAM_OVERHEAD)
    }

    /// Nothing is to be said, now or later, while the stream goes on: at a glance.
    pub(super) const fn is_silent(&self) -> bool {
        let owed = self.hello_ack | self.token | self.reset | self.ping_owed;
        let timed = self.next_hello.is_some() | self.repeat_ack.is_some();
        !(owed | timed | self.pong.is_some() | self.denial.is_some() | self.seldom.get().is_some())
    }

    /// When there is something to send next. Asked several times a datagram, and mostly there is nothing.
    #[inline]
    pub(super) fn next(&self, shutdown: bool, engine: &Engine) -> Option<Timestamp> {
        if shutdown || !self.is_silent() { self.next_message(shutdown, engine) } else { None }
    }

    fn next_message(&self, shutdown: bool, engine: &Engine) -> Option<Timestamp> {
        let repeat = self.repeat_ack.filter(|_| !self.answer_came).map(|(at, _)| at);
        if engine.is_mute() && !self.reset {
            return if self.hello_ack || self.denial.is_some() { Some(Timestamp::ZERO) } else { repeat };
        }
        let owed = self.denial.is_some()
            || self.hello_ack
            || (self.token && !self.holds)
            || self.reset
            || self.ping_owed
            || self.pong.is_some()
            || self.seldom.get().is_some_and(|seldom| seldom.is_owed(engine.needs_token(), self.holds));
        if owed || self.is_fin_due(shutdown, engine) {
            return Some(Timestamp::ZERO);
        }
        let fin = match self.fin() {
            Fin::Sent { next, .. } => Some(next),
            _ => None,
        };
        let search = self.seldom.get().and_then(|seldom| seldom.search).map(|search| search.next);
        fin.into_iter().chain(self.next_hello).chain(repeat).chain(search).min()
    }

    fn is_fin_due(&self, shutdown: bool, engine: &Engine) -> bool {
        shutdown && self.is_on() && matches!(self.fin(), Fin::Open) && engine.is_all_sent()
    }

    /// The next control payload to send, and the command that carries it. `limit`: bytes of a payload.
    pub(super) fn take(
        &mut self,
        now: Timestamp,
        shutdown: bool,
        limit: usize,
        nonce: impl FnOnce() -> u64,
        engine: &Engine,
    ) -> Option<(Command, Vec<u8>)> {
        let mut payload = vec![MAGIC];
        let mut cmd = Command::Wins;
        let (unproven, mute) = (engine.needs_token(), engine.is_mute() && !self.reset);
        let leads = unproven && !engine.is_mute();
        if self.is_fin_due(shutdown, engine) && !mute {
            let wait = engine.rto().clamp(MIN_FIN_WAIT, MAX_FIN_WAIT);
            self.seldom.make().fin = Fin::Sent { sn: engine.snd_nxt(), next: now, wait, since: now };
        }
        let repeat = !self.answer_came && self.repeat_ack.is_some_and(|(at, _)| at <= now);
        let room = |payload: &[u8], numbers| has_room(payload, numbers, limit);
        if (core::mem::take(&mut self.hello_ack) || repeat || leads)
            && let Some(echo) = self.peer
        {
            let wait = self.repeat_ack.map_or(HELLO_WAIT, |(_, wait)| wait);
            self.repeat_ack = Some((now.plus_micros(wait), longer(wait)));
            Control::HelloAck { token: self.own, echo }.encode(&mut payload);
        }
        if let Some(token) = self.peer.filter(|_| !mute) {
            if room(&payload, 1) && core::mem::take(&mut self.token) {
                Control::Token { token }.encode(&mut payload);
            }
            if let Some(seldom) = self.seldom.get_mut() {
                seldom.answer(now, token, limit, &mut payload);
            }
            if room(&payload, 1) && core::mem::take(&mut self.reset) {
                Control::Reset { proof: token }.encode(&mut payload);
            }
            if room(&payload, 1)
                && let Some(nonce) = self.pong.take()
            {
                Control::Pong { nonce }.encode(&mut payload);
            }
            if let Some(seldom) = self.seldom.get_mut() {
                self.ping_owed |= seldom.is_search_due(now, engine.rto());
            }
            if room(&payload, 1) && core::mem::take(&mut self.ping_owed) {
                let nonce = *self.ping.insert(nonce());
                cmd = Command::Wask;
                Control::Ping { nonce }.encode(&mut payload);
            }
            if let Some(seldom) = self.seldom.get_mut().filter(|_| !unproven) {
                seldom.fill(limit, &mut payload);
            }
        }
        (payload.len() > 1).then_some((cmd, payload))
    }
}
