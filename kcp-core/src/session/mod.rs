//! A session: the engine plus its beginning, its liveness and its end.

mod extension;
mod lifecycle;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use crate::config::{SessionConfig, mss_of};
use crate::congestion::Controller;
use crate::engine::{Engine, Params};
use crate::error::{CloseReason, DatagramError, InputError, ReadError, SendError, WriteError};
use crate::seed::{Seed, mix, next_nonce};
use crate::stats::{Held, Stats};
use crate::time::{Timestamp, saturating_micros};
use crate::wire::control::{Control, MAGIC, controls};
use crate::wire::datagram::{Framing, Transmit};
use crate::wire::{Command, HEADER_LEN, Segments};
use extension::{Denial, Extension, Life, Verdict};
use lifecycle::{Liveness, Opening};

/// Challenges to another address, in microseconds apart: it may be a victim's.
const CHALLENGE_INTERVAL: u64 = 100_000;

/// Something the application or the driver wants to know.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A [`Session::connect`] was answered.
    Connected,
    /// A read that found nothing would find something now.
    Readable,
    /// A write that was blocked would take something now.
    Writable,
    /// An unreliable datagram has arrived.
    Datagram,
    /// After [`Session::shutdown`]: everything written has been acknowledged by the peer, and it knows that this was all.
    Drained,
    /// The session has ended; nothing more will be transmitted. What arrived in order before can still be read.
    Closed(CloseReason),
}

#[derive(Debug)]
enum State {
    /// Waits for the first valid segment of the peer.
    Opening(Box<Opening>),
    Open,
    Closed(CloseReason),
}

/// Events that wait for [`Session::poll_event`].
#[derive(Copy, Clone, Debug, Default)]
struct Pending {
    connected: bool,
    readable: bool,
    writable: bool,
    datagram: bool,
    drained: bool,
    closed: bool,
}

/// One KCP conversation as a state machine without IO.
///
/// Time is an argument of every call, nothing is spawned and nothing calls back. **After any number of inputs and
/// application calls: [`poll_transmit`](Self::poll_transmit) until `None`, [`poll_event`](Self::poll_event) until
/// `None`, then wait for [`poll_timeout`](Self::poll_timeout), a datagram or the application.** Draining once per batch
/// is what makes one flush per batch; forgetting it delays and never corrupts. No call panics.
///
/// ```
/// use std::sync::Arc;
/// use kcp_core::{Event, Framing, Seed, Session, SessionConfig, Timestamp};
///
/// let config = Arc::new(SessionConfig::turbo());
/// let now = Timestamp::ZERO;
/// let mut client = Session::established(7, config.clone(), Seed::from_u64(1), now);
/// let mut server = Session::established(7, config, Seed::from_u64(2), now);
///
/// client.write(now, b"hello")?;
/// let mut datagrams = Vec::new();
/// while client.poll_transmit(now, Framing::default(), &mut datagrams).is_some() {}
/// server.handle_datagram(now, &datagrams)?;
///
/// assert_eq!(server.poll_event(), Some(Event::Readable));
/// let mut buf = [0; 16];
/// let n = server.read(now, &mut buf)?;
/// assert_eq!(&buf[..n], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    config: Arc<SessionConfig>,
    state: State,
    liveness: Liveness,
    extension: Extension,
    /// Sequences of nonces, each with a secret of its own.
    ping_nonces: u64,
    /// Of the nonces for paths.
    path_secret: u64,
    /// When another address may be challenged again.
    next_challenge: Option<Timestamp>,
    /// The stream is gone: new data is answered with a reset, once ours is delivered.
    orphaned: bool,
    unwanted: bool,
    /// Opened by a peer of whom nothing has been heard yet.
    fresh: bool,
    /// The session ended while data was not acknowledged.
    lost_data: bool,
    /// No more writes are taken.
    shutdown: bool,
    /// Length of the shortest write that was refused for lack of room since the last `Writable`.
    write_blocked: Option<usize>,
    pending: Pending,
}

impl Session {
    /// Opens actively: probes with `WASK`, which every KCP peer answers and from which listeners open a session, until
    /// anything valid comes back ([`Event::Connected`]) or the connect timeout ends it. Data may be written at once; it
    /// leaves after the answer.
    ///
    /// `conv` must be random and not 0.
    #[must_use]
    pub fn connect(conv: u32, config: Arc<SessionConfig>, seed: Seed, now: Timestamp) -> Self {
        let opening = Opening::new(now, config.connect_timeout);
        Self::new(conv, config, seed, now, State::Opening(Box::new(opening)))
    }

    /// The passive side, towards an address that may be forged: until the peer has proven that it gets what is sent there,
    /// no more than three times of what came from it leaves.
    #[must_use]
    pub fn accept(conv: u32, config: Arc<SessionConfig>, seed: Seed, now: Timestamp) -> Self {
        let mut session = Self::new(conv, config, seed, now, State::Open);
        session.engine.distrust();
        session.fresh = true;
        session
    }

    /// Opens actively without waiting for an answer: data leaves at once, a hello beside it.
    #[must_use]
    pub fn connect_lazy(conv: u32, config: Arc<SessionConfig>, seed: Seed, now: Timestamp) -> Self {
        let mut session = Self::connect(conv, config, seed, now);
        session.state = State::Open;
        session.extension.opened(now);
        session
    }

    /// Opens without asking and without a hello: either side where addresses cannot be forged.
    #[must_use]
    pub fn established(conv: u32, config: Arc<SessionConfig>, seed: Seed, now: Timestamp) -> Self {
        Self::new(conv, config, seed, now, State::Open)
    }

    fn new(conv: u32, config: Arc<SessionConfig>, seed: Seed, now: Timestamp, state: State) -> Self {
        let engine = Engine::new(conv, Params::new(&config), config.nodelay.nc, seed.ts_offset, now);
        let liveness = Liveness::new(&config, seed.jitter, now);
        let dialled = matches!(state, State::Opening(_));
        let extension = Extension::new(config.extensions, seed.token, dialled);
        Self {
            extension,
            ping_nonces: seed.ping,
            path_secret: seed.path,
            next_challenge: None,
            orphaned: false,
            unwanted: false,
            fresh: false,
            lost_data: false,
            engine,
            config,
            state,
            liveness,
            shutdown: false,
            write_blocked: None,
            pending: Pending::default(),
        }
    }

    /// Replaces the congestion controller; to be called before anything is sent.
    pub fn set_controller(&mut self, controller: Box<dyn Controller>) {
        self.engine.set_controller(controller);
    }

    // ---- in ----

    /// Applies a datagram that came from this session's peer. What is kept of it is copied.
    ///
    /// # Errors
    /// [`InputError`] when it was refused: nothing of it was applied then, but that it may have proven its sender's address, and a
    /// counter says why. (A message whose fragment numbers are broken also ends the session.)
    pub fn handle_datagram(&mut self, now: Timestamp, datagram: &[u8]) -> Result<(), InputError> {
        if let State::Closed(reason) = self.state {
            return Err(InputError::Closed(reason));
        }
        let opening = self.is_connecting();
        let received = self.engine.una();
        self.check_life(now, datagram)?;
        // When the exchange began that this ends.
        let mut greeted_at = None;
        if !self.is_validated() && self.is_said(datagram, |_, control| self.extension.knows_token(control)) {
            // Before anything counts: what it acknowledges is acknowledged.
            greeted_at = self.engine.greeted_at();
            self.engine.validate();
        }
        let heard = match self.engine.input(now, datagram) {
            Ok(heard) => heard,
            Err(error) => {
                if error == InputError::UnaBeyondSent && !self.is_validated() {
                    // It speaks to another that was here before.
                    self.extension.answer_stranger(datagram);
                } else if error == InputError::UnaBeyondSent && self.is_reset(now, datagram) {
                    // Who was started anew cannot know what of ours would acknowledge nothing.
                    return Err(self.end_by_reset());
                }
                return Err(error);
            }
        };
        if self.engine.is_broken() {
            self.close(CloseReason::ProtocolError);
            return Err(InputError::BrokenMessage);
        }
        if heard.alive {
            self.liveness.heard(now);
            if let State::Opening(opening) = &self.state {
                greeted_at = Some(opening.since);
                self.state = State::Open;
                self.pending.connected = true;
                self.extension.opened(now);
            }
        }
        self.pending.readable |= heard.readable;
        if core::mem::take(&mut self.fresh)
            && let Some((header, _)) = Segments::parse(datagram, self.engine.conv())?.next()
            && header.cmd == Command::Push
        {
            self.extension.deny(header.sn, header.ts, &mut self.engine);
        }
        if heard.plain_wins {
            self.extension.on_plain_answer();
        }
        if heard.control {
            self.apply_controls(now, datagram, opening)?;
            if self.extension.is_on() {
                self.engine.elide_acks();
            }
        }
        if let Some(at) = greeted_at {
            self.engine.expect(saturating_micros(now.saturating_since(at)));
        }
        if heard.alive && self.engine.is_mute() {
            self.extension.greet_again();
        }
        if self.extension.is_contradicted(&self.engine) {
            self.close(CloseReason::ProtocolError);
            return Err(InputError::Closed(CloseReason::ProtocolError));
        }
        if self.engine.is_guessing() {
            self.close(CloseReason::ProtocolError);
            return Err(InputError::Closed(CloseReason::ProtocolError));
        }
        if self.extension.is_complete(&self.engine) {
            // A reader that waits learns that nothing more comes.
            self.pending.readable = true;
        }
        self.unwanted |= self.orphaned && self.is_extended() && received.is_before(self.engine.una());
        if heard.acked || heard.control || heard.readable || self.unwanted {
            self.note_progress();
        }
        Ok(())
    }

    /// Refuses what comes of another session than the one that has answered our hello, before anything of it counts.
    fn check_life(&mut self, now: Timestamp, datagram: &[u8]) -> Result<(), InputError> {
        if datagram.get(HEADER_LEN) != Some(&MAGIC) || !self.extension.has_dialled() {
            return Ok(());
        }
        let Ok(mut segments) = Segments::parse(datagram, self.engine.conv()) else { return Ok(()) };
        let Some((header, payload)) = segments.next() else { return Ok(()) };
        let alone = segments.next().is_none();
        let reset = match self.extension.life(&header, payload, &self.engine) {
            Life::Ours => return Ok(()),
            Life::Other => true,
            Life::Denied { proven } => self.extension.believes_reset(now, proven, alone),
        };
        Err(if reset { self.end_by_reset() } else { InputError::OtherLife })
    }

    /// The peer is not the one that this session is with, before anything of its datagram counts.
    fn end_by_reset(&mut self) -> InputError {
        self.close(CloseReason::Reset);
        InputError::Closed(CloseReason::Reset)
    }

    fn apply_controls(&mut self, now: Timestamp, datagram: &[u8], opening: bool) -> Result<(), InputError> {
        let had = self.extension.has_datagram();
        for (header, payload) in Segments::parse(datagram, self.engine.conv())? {
            if payload.is_empty() || !header.cmd.carries_control() {
                continue;
            }
            let reason = match self.extension.apply(now, &header, payload, &mut self.engine) {
                Verdict::Nothing => continue,
                Verdict::Reset if opening => CloseReason::Refused,
                // Our last word to it was lost, and its last acknowledgement came with this.
                Verdict::Reset if self.is_finished() => CloseReason::Finished,
                Verdict::Reset => CloseReason::Reset,
                Verdict::Broken => CloseReason::ProtocolError,
            };
            self.close(reason);
            return Err(InputError::Closed(reason));
        }
        self.pending.datagram |= !had && self.extension.has_datagram();
        Ok(())
    }

    /// Time has passed: ends the session where a limit is reached, and asks a quiet peer for a sign of life. To be
    /// called at [`poll_timeout`](Self::poll_timeout); any other time does no harm.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let expired = match &self.state {
            State::Closed(_) => None,
            State::Opening(opening) => opening.expired(now),
            State::Open => self.liveness.expired(&self.config, &self.engine, &self.extension, now),
        };
        if let Some(reason) = expired {
            self.close(reason);
        } else if matches!(self.state, State::Open) && self.liveness.keepalive_due(now) {
            if self.extension.is_on() {
                self.extension.ask();
            } else {
                self.engine.ask_window();
            }
        }
    }

    // ---- application ----

    /// Takes bytes to send: at least one, unless `buf` is empty, and as many as the send buffer has room for. In
    /// message mode `buf` is one message, taken whole or not at all.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was kept then.
    pub fn write(&mut self, now: Timestamp, buf: &[u8]) -> Result<usize, WriteError> {
        if !self.config.stream {
            self.check_writable()?;
            let taken = self.engine.copy_msg(now, buf).map(|()| buf.len());
            self.note_blocked(taken.as_ref().err(), buf.len());
            return taken;
        }
        self.check_writable()?;
        let taken = self.engine.write(now, buf);
        self.note_blocked(taken.as_ref().err(), 1);
        taken
    }

    /// Takes a message to send: all of it or nothing. In stream mode its bytes are appended to the stream. In message
    /// mode it may be empty, and has at most 127 fragments of mtu - 24 bytes.
    ///
    /// # Errors
    /// [`WriteError`]; nothing was kept then.
    pub fn send_msg(&mut self, now: Timestamp, msg: Bytes) -> Result<(), SendError> {
        self.check_writable()?;
        let len = msg.len();
        let sent = self.engine.send_msg(now, msg);
        self.note_blocked(sent.as_ref().err(), len);
        sent
    }

    /// Copies received bytes to `buf`. In message mode not past the end of a message; a message longer than `buf` is
    /// continued by the next read, and empty messages are skipped.
    ///
    /// Reading makes room, so there may be something to transmit afterwards.
    ///
    /// # Errors
    /// [`ReadError::Empty`] when nothing has arrived; [`ReadError::Closed`] when nothing will.
    pub fn read(&mut self, now: Timestamp, buf: &mut [u8]) -> Result<usize, ReadError> {
        let n = self.engine.read(now, buf);
        if n > 0 || (buf.is_empty() && self.engine.is_readable()) {
            Ok(n)
        } else {
            Err(self.nothing_to_read())
        }
    }

    /// Copies what [`read`](Self::read) would, and takes nothing.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn peek(&self, buf: &mut [u8]) -> Result<usize, ReadError> {
        match self.engine.peek(buf) {
            0 if !(buf.is_empty() && self.engine.is_readable()) => Err(self.nothing_to_read()),
            n => Ok(n),
        }
    }

    /// Whether a read would not wait: there is data, or the stream or the session has ended.
    #[must_use]
    pub fn is_read_ready(&self) -> bool {
        self.engine.is_readable() || self.nothing_to_read() != ReadError::Empty
    }

    /// Whether a write would not wait.
    #[must_use]
    pub fn is_write_ready(&self) -> bool {
        self.shutdown || self.is_closed() || self.engine.is_writable()
    }

    /// From now on two answers for which the peer does not wait leave with what is sent next for another reason, since the
    /// application has just been told of what it may want to answer: the one that completes the exchange of hellos, and the
    /// acknowledgement of the peer's end of stream. [`release_answers`](Self::release_answers) has to follow when the application has
    /// had its turn; [`poll_timeout`](Self::poll_timeout) does not count them before.
    pub const fn hold_answers(&mut self) {
        self.extension.hold();
    }

    /// The end of [`hold_answers`](Self::hold_answers). True when something has been held that is to be transmitted now.
    pub fn release_answers(&mut self) -> bool {
        self.extension.release()
    }

    /// Whether the peer has ended its stream, and everything of it has arrived.
    #[must_use]
    pub fn is_read_closed(&self) -> bool {
        self.extension.is_complete(&self.engine)
    }

    /// Changes whether small writes wait for more ([`SessionConfig::write_delay`]).
    pub fn set_write_delay(&mut self, on: bool) {
        self.engine.set_write_delay(on);
    }

    /// Notes that a writer waits for room: [`Event::Writable`] will tell.
    pub fn want_write(&mut self) {
        self.note_blocked(Some(&WriteError::Blocked), 1);
    }

    /// Takes one whole message; in stream mode the next chunk of bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn recv_msg(&mut self, now: Timestamp) -> Result<Bytes, ReadError> {
        self.engine.pop_message(now).ok_or_else(|| self.nothing_to_read())
    }

    /// Length of what [`recv_msg`](Self::recv_msg) would return.
    #[must_use]
    pub fn peek_len(&self) -> Option<usize> {
        self.engine.peek_len()
    }

    /// Lets data go that `write_delay` holds back.
    pub fn flush(&mut self) {
        self.engine.release_held();
    }

    /// Whether [`flush`](Self::flush) would let something go.
    #[must_use]
    pub const fn is_holding(&self) -> bool {
        self.engine.holds()
    }

    /// Takes no more writes; [`Event::Drained`] tells when everything written is acknowledged. Reading goes on.
    pub fn shutdown(&mut self) {
        if !self.shutdown && !self.is_closed() {
            self.shutdown = true;
            self.engine.release_held();
            self.note_progress();
        }
    }

    /// Ends the session at once; a plain peer cannot be told. What was not read or not acknowledged is lost.
    pub fn abort(&mut self) {
        if !self.is_closed() {
            self.close(CloseReason::Aborted);
            self.engine.forget(true);
        }
    }

    /// Sends a datagram that is neither repeated nor ordered. A few wait when the network is slow; then the oldest are
    /// dropped.
    ///
    /// # Errors
    /// [`DatagramError`]; nothing was kept then.
    pub fn send_datagram(&mut self, data: Bytes) -> Result<(), DatagramError> {
        if self.check_writable().is_err() {
            return Err(DatagramError::Closed);
        }
        if !self.extension.is_on() {
            return Err(DatagramError::Unsupported);
        }
        let limit = self.max_datagram();
        if data.len() > limit {
            return Err(DatagramError::TooLarge { limit });
        }
        self.extension.send_datagram(data);
        Ok(())
    }

    /// The oldest unreliable datagram that has arrived.
    pub fn recv_datagram(&mut self) -> Option<Bytes> {
        self.extension.recv_datagram()
    }

    /// Longest unreliable datagram, in bytes.
    #[must_use]
    pub fn max_datagram(&self) -> usize {
        Extension::max_datagram(self.config.mtu)
    }

    /// Whether both ends speak the extensions: then the end of a stream is told, and datagrams can be sent.
    #[must_use]
    pub const fn is_extended(&self) -> bool {
        self.extension.is_on()
    }

    /// A segment of this conversation came from another address: the question to send there, if it is time for one. Its
    /// answer [proves](Self::proves_path) that the peer has moved. `path` stands for that address: always the same number for one,
    /// and one that the peer cannot compute. The same question is repeated until it is answered, however long the round trip.
    pub fn challenge_path(&mut self, now: Timestamp, path: u64) -> Option<Vec<u8>> {
        let wait = self.next_challenge.is_some_and(|next| now < next);
        if wait || !self.extension.is_on() || self.is_closed() {
            return None;
        }
        let nonce = self.path_nonce(path);
        self.next_challenge = Some(now.plus_micros(CHALLENGE_INTERVAL));
        let mut payload = alloc::vec![MAGIC];
        Control::PathChallenge { nonce }.encode(&mut payload);
        // Not to the address that the limit of an unproven one is for.
        let datagram = self.engine.aside(now, &payload);
        self.engine.count_one(datagram.len());
        Some(datagram)
    }

    /// Whether a datagram from another address answers the challenge, so that the session may move there.
    pub fn proves_path(&mut self, datagram: &[u8], path: u64) -> bool {
        if self.next_challenge.is_none() {
            return false;
        }
        let (own, _) = self.extension.tokens();
        let answer = Control::PathResponse { nonce: self.path_nonce(path), token: own };
        let proven = self.is_said(datagram, |_, control| control == answer);
        if proven {
            self.next_challenge = None;
            self.engine.validate();
        }
        proven
    }

    /// Whether a datagram from another address is the hello of this session's peer, before it has proven any: then it has moved
    /// while it was connecting, and knows too little to answer a challenge. (Nobody else knows the token of its hello.) What
    /// may be sent to the new address is three times of what comes from there.
    pub fn begins_elsewhere(&mut self, datagram: &[u8]) -> bool {
        let (_, Some(token)) = self.extension.tokens() else { return false };
        let hello = Control::Hello { token };
        let same = self.is_said(datagram, |cmd, control| cmd == Command::Wask && control == hello);
        let begins = same && !self.engine.is_validated() && !self.is_closed();
        if begins {
            self.engine.distrust_anew();
        }
        begins
    }

    /// What is asked at an address.
    const fn path_nonce(&self, path: u64) -> u64 {
        mix(self.path_secret ^ path)
    }

    /// Whether a datagram of which nothing else counts carries a reset that is to be believed.
    fn is_reset(&mut self, now: Timestamp, datagram: &[u8]) -> bool {
        if !self.extension.is_on()
            || !self.is_said(datagram, |_, control| matches!(control, Control::Reset { .. }))
        {
            return false;
        }
        let proven = self.is_said(datagram, |_, control| self.extension.proves(control));
        self.extension.believes_reset(now, proven, true)
    }

    /// Whether a datagram of this conversation, from wherever it came, carries such a control message.
    fn is_said(&self, datagram: &[u8], wanted: impl Fn(Command, Control<'_>) -> bool) -> bool {
        let Ok(mut segments) = Segments::parse(datagram, self.engine.conv()) else { return false };
        segments.any(|(header, payload)| {
            header.cmd.carries_control()
                && controls(payload).is_some_and(|mut all| all.any(|control| wanted(header.cmd, control)))
        })
    }

    /// The path has changed: what is in flight may be lost, and is repeated without backoff; nothing is known of what the new
    /// one takes; and the peer shall hear from us.
    pub fn probe_path(&mut self) {
        self.engine.path_changed();
        if self.extension.is_on() {
            self.extension.search();
        } else {
            self.engine.ask_window();
        }
    }

    /// Whether the peer has proven that it gets what is sent to its address. Always so for a session that we have dialled.
    #[must_use]
    pub fn is_validated(&self) -> bool {
        self.engine.is_validated()
    }

    /// What is needed to answer for this session after it has ended.
    #[must_use]
    pub fn epitaph(&self) -> crate::admission::Epitaph {
        let (own, peer) = self.extension.tokens();
        let peer = peer.filter(|_| self.is_validated());
        crate::admission::Epitaph { una: self.engine.una(), own, peer }
    }

    /// Ends the session at once as [`abort`](Self::abort) does, but what arrived in order can still be read: for a
    /// transport that failed.
    pub fn disconnect(&mut self) {
        if !self.is_closed() {
            self.close(CloseReason::Aborted);
        }
    }

    /// Reader and writer are gone. What arrives is acknowledged and thrown away, so that the peer's window stays open while
    /// our own last bytes are delivered. As TCP does, a session is reset at once when something was left unread, if the
    /// peer can be told. One that has ended forgets what was left to read.
    pub fn orphan(&mut self, now: Timestamp) {
        if self.is_closed() {
            // Beginnings of messages, and what came behind a hole, could not be read anyway.
            return self.engine.forget(true);
        }
        if self.extension.is_on() && self.engine.has_unread() {
            return self.abort();
        }
        self.orphaned = true;
        self.engine.discard_input(now);
        self.shutdown();
    }

    /// Whether nothing is left to do for an [orphaned](Self::orphan) session: everything is delivered, and the peer, if it
    /// can tell, has ended its stream too.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let ended = !self.is_extended() || self.is_read_closed();
        self.orphaned && self.is_drained() && !self.owes_acks() && ended
    }

    /// Whether the session ended while something that was written had not been acknowledged.
    #[must_use]
    pub const fn has_lost_data(&self) -> bool {
        self.lost_data
    }

    // ---- out ----

    /// Appends one run of datagrams to `buf`; `None` when nothing is due (now).
    pub fn poll_transmit(&mut self, now: Timestamp, framing: Framing, buf: &mut Vec<u8>) -> Option<Transmit> {
        let run = match &mut self.state {
            State::Closed(_) if !self.extension.has_last_word() => return None,
            State::Closed(_) => return self.transmit_control(now, buf),
            State::Opening(opening) => {
                if !opening.probe_due(now) {
                    return None;
                }
                let hello = self.extension.hello(self.config.mtu);
                return Some(self.engine.write_opening_probe(now, &hello, buf));
            }
            State::Open => {
                // A denial first: what is acknowledged before it is no longer in flight, and then it proves nothing. It is lost where
                // there is no room for it.
                let first = if self.extension.owes_denial() { self.transmit_denial(buf) } else { None };
                // Few and short, and much depends on them: behind a flight they might be dropped with its end.
                match first.or_else(|| self.transmit_control(now, buf)) {
                    None if !self.engine.is_mute() => self.engine.transmit(now, framing, false, buf),
                    Some(control) if first.is_none() => Some(self.engine.fill(now, control, buf)),
                    run => run,
                }
            }
        };
        if run.is_some() {
            if self.engine.is_dead() {
                self.close(CloseReason::DeadLink);
            }
            self.note_progress();
        }
        run
    }

    fn transmit_denial(&mut self, buf: &mut Vec<u8>) -> Option<Transmit> {
        match self.extension.take_denial()? {
            Denial::Opened(sn, ts) => self.engine.write_denial(sn, ts, buf),
            Denial::Stranger(answer) => self.engine.write_answer(&answer, buf),
        }
    }

    fn transmit_control(&mut self, now: Timestamp, buf: &mut Vec<u8>) -> Option<Transmit> {
        // What every datagram passes: nothing below is computed for it.
        if self.extension.is_silent() && !self.shutdown {
            return None;
        }
        if self.extension.is_holding() && !self.engine.is_quiet(now) {
            // What leaves anyway takes them along.
            self.extension.release();
        }
        if let Some(hello) = self.extension.late_hello(now) {
            // As one that opens: there may have been no data yet that did.
            return Some(self.engine.write_opening_probe(now, &hello, buf));
        }
        // The end of a session is not the end of its stream: what was not sent is forgotten, and would be missed by nobody.
        let shutdown = self.shutdown && !self.is_closed();
        // What may not be sent to an address that is not proven is lost, as it might be on the way.
        while self.extension.next(shutdown, &self.engine).is_some_and(|at| at <= now) {
            let (limit, nonces) = (self.config.mss(), &mut self.ping_nonces);
            let (cmd, payload) =
                self.extension.take(now, shutdown, limit, || next_nonce(nonces), &self.engine)?;
            let run = if self.is_closed() && self.engine.is_mute() {
                // A reset that has no room for what tells whose it is.
                let aside = self.engine.aside(now, &payload);
                self.engine.write_answer(&aside, buf)
            } else {
                self.engine.write_payload(now, cmd, &payload, buf)
            };
            if run.is_some() {
                return run;
            }
        }
        None
    }

    /// The next event, each at most once.
    pub fn poll_event(&mut self) -> Option<Event> {
        let pending = &mut self.pending;
        for (flag, event) in [
            (&mut pending.connected, Event::Connected),
            (&mut pending.readable, Event::Readable),
            (&mut pending.writable, Event::Writable),
            (&mut pending.datagram, Event::Datagram),
            (&mut pending.drained, Event::Drained),
        ] {
            if core::mem::take(flag) {
                return Some(event);
            }
        }
        match self.state {
            State::Closed(reason) if core::mem::take(&mut self.pending.closed) => Some(Event::Closed(reason)),
            _ => None,
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) and [`poll_transmit`](Self::poll_transmit) next, if nothing
    /// else happens before; in the past if something is due already. `None`: nothing is pending, wait for input.
    pub fn poll_timeout(&mut self) -> Option<Timestamp> {
        let deadlines = match &self.state {
            State::Closed(_) => return None,
            State::Opening(opening) => return Some(opening.next()),
            State::Open => [
                // Until it shows our token, nothing of it can be answered.
                if self.engine.is_mute() { None } else { self.engine.deadline() },
                self.liveness.next(&self.config, &self.engine, &self.extension),
                self.extension.next(self.shutdown, &self.engine),
            ],
        };
        deadlines.iter().flatten().min().copied()
    }

    // ---- state ----

    /// The conversation id.
    #[must_use]
    pub const fn conv(&self) -> u32 {
        self.engine.conv()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { datagrams_dropped: self.extension.datagrams_dropped(), ..self.engine.stats() }
    }

    /// The parameters.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Whether a [`connect`](Self::connect) still waits for its answer.
    #[must_use]
    pub const fn is_connecting(&self) -> bool {
        matches!(self.state, State::Opening(_))
    }

    /// Whether the session has ended.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    /// Why it has ended, if it has.
    #[must_use]
    pub const fn close_reason(&self) -> Option<CloseReason> {
        match self.state {
            State::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether a read would return something (or, in message mode, skip an empty message).
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.engine.is_readable()
    }

    /// Whether a write would take something.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        !self.shutdown && !self.is_closed() && self.engine.is_writable()
    }

    /// Whether everything written has been acknowledged; after [`shutdown`](Self::shutdown) also that this was all, where
    /// the peer can be told.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let told = !self.shutdown || !self.extension.is_on() || self.extension.is_fin_acked();
        self.engine.is_drained() && told
    }

    /// Whether acknowledgements wait to be sent: a peer that never gets them takes its data, or the end of its stream, for lost.
    #[must_use]
    pub fn owes_acks(&self) -> bool {
        self.engine.owes_acks() || self.extension.owes_fin_ack()
    }

    /// The first sequence number that has not arrived in order: the `una` of everything we send.
    #[must_use]
    pub fn una(&self) -> crate::seq::Seq {
        self.engine.una()
    }

    /// Whether [`shutdown`](Self::shutdown) was called.
    #[must_use]
    pub const fn is_shutdown(&self) -> bool {
        self.shutdown
    }

    /// Bytes received that nobody has read, and bytes written that nobody has acknowledged: what the session holds.
    #[must_use]
    pub fn held(&self) -> Held {
        self.engine.held()
    }

    /// Since when nothing has been written, has arrived or was acknowledged, if the session keeps memory for what comes next
    /// (in proportion to its latest bursts); `None` when it keeps none. Who owns many sessions calls [`trim`](Self::trim) some
    /// time after.
    #[must_use]
    pub fn kept_since(&self) -> Option<Timestamp> {
        self.engine.kept_since()
    }

    /// Gives back the memory that is kept for what comes next. It is allocated again when it is needed.
    pub fn trim(&mut self) {
        self.engine.trim();
    }

    /// Lowers the buffers below their configured sizes for the time being, as an owner of many sessions may have to. What is
    /// held stays; nothing more is taken until it is below the limit. Limits above the configuration mean the configuration.
    ///
    /// The peer sees a smaller window, the application a full buffer. One segment is always taken where nothing is held, lest
    /// nothing move.
    pub fn limit_buffers(&mut self, limit: Held) {
        let recv = limit.received.min(self.config.recv_buffer).max(1);
        let least = if self.engine.held().sent == 0 { mss_of(self.config.mtu) } else { 0 };
        let queued = limit.sent.saturating_sub(self.engine.in_flight_bytes()).max(least);
        self.engine.set_buffers(recv, queued.min(self.config.send_buffer));
        self.note_progress();
    }

    /// Retransmission timeout of a segment sent now.
    #[must_use]
    pub fn rto(&self) -> Duration {
        Duration::from_micros(self.engine.rto())
    }

    /// Smoothed round-trip time, after the first sample.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.engine.srtt().map(Duration::from_micros)
    }

    // ---- inside ----

    fn check_writable(&self) -> Result<(), WriteError> {
        match self.state {
            State::Closed(reason) => Err(WriteError::Closed(reason)),
            _ if self.shutdown => Err(WriteError::Shutdown),
            _ => Ok(()),
        }
    }

    fn nothing_to_read(&self) -> ReadError {
        let ended = self.extension.is_complete(&self.engine);
        match self.close_reason() {
            Some(CloseReason::IdleTimeout) if self.config.idle_is_eof && !self.is_extended() => {
                ReadError::EndOfStream
            }
            Some(CloseReason::Aborted) => ReadError::Closed(CloseReason::Aborted),
            _ if ended => ReadError::EndOfStream,
            Some(reason) => ReadError::Closed(reason),
            None => ReadError::Empty,
        }
    }

    fn note_blocked(&mut self, error: Option<&WriteError>, len: usize) {
        if matches!(error, Some(WriteError::Blocked)) {
            self.write_blocked = Some(self.write_blocked.map_or(len, |shortest| shortest.min(len)));
            // Nothing joins what is held, and the writer waits for it.
            self.engine.release_held();
        }
    }

    /// Sending may have made room, an acknowledgement may have been the last one.
    fn note_progress(&mut self) {
        let awaited = self.write_blocked.is_some() || self.shutdown || self.unwanted;
        if !awaited || self.is_closed() {
            // What was not delivered is forgotten, which is no progress.
            return;
        }
        // Room for less than what was refused would wake the writer for nothing, again and again.
        if self.write_blocked.is_some_and(|len| self.engine.has_room(len)) {
            self.write_blocked = None;
            self.pending.writable = true;
        }
        if self.shutdown && !self.liveness.drained && self.is_drained() {
            self.liveness.drained = true;
            self.pending.drained = true;
        }
        if self.unwanted && self.engine.is_drained() {
            // Nobody will read it. Ours is delivered.
            self.close(CloseReason::Aborted);
        }
        // A peer that is not told of its last segment takes the answer to its next ping for a reset.
        if !self.is_closed() && self.is_finished() && !self.owes_acks() {
            self.close(CloseReason::Finished);
        }
    }

    /// Everything is said in both directions.
    fn is_finished(&self) -> bool {
        self.shutdown && self.extension.is_finished(&self.engine)
    }

    fn close(&mut self, reason: CloseReason) {
        // The peer need not wait for its own timeout.
        let told = matches!(reason, CloseReason::Finished | CloseReason::Reset | CloseReason::Refused);
        if !told && !self.is_done() {
            self.extension.owe_reset();
        }
        self.lost_data = !self.engine.is_drained();
        self.state = State::Closed(reason);
        self.pending.connected &= reason != CloseReason::Refused;
        self.pending.closed = true;
        // Blocked readers and writers have to learn of it.
        self.pending.readable = true;
        self.pending.writable = true;
        self.engine.forget(false);
    }

    /// Starts elsewhere in the sequence, before anything is said: tests have no time to get to its wrap.
    #[doc(hidden)]
    pub fn set_initial_sn(&mut self, snd: u32, rcv: u32) {
        self.engine.set_initial_sn(snd, rcv);
    }
}
