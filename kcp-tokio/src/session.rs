//! A session as tasks share it: the core's state machine behind one mutex, its wakers, and the one epilogue.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use kcp_core::{CloseReason, Event, Framing, Held, Timestamp};
use tracing::Span;

use crate::agenda::{Marked, Marks};
use crate::error::KcpError;
use crate::halfopen::Stranger;
use crate::hub::Hub;
use crate::layered::Layered;
use crate::outbox::Outbox;
use crate::registry::{Key, Named};
use crate::shard::Shard;
use crate::socket::Route;
use crate::stats::count;
use crate::timers::Mark;
use crate::waiters::Waiters;

/// How long a stranger's session may take to prove something.
const HALF_OPEN_TIME: Duration = std::time::Duration::from_secs(10);
/// How long a socket that nobody uses any more answers for its last session, at most.
const LONGEST_WAIT: Duration = std::time::Duration::from_secs(2);
/// Runs that an application's task sends itself before it leaves the rest to the driver.
pub(crate) const INLINE_RUNS: usize = 2;
/// Runs that the driver sends for one session before it turns to the next.
pub(crate) const DRIVER_RUNS: usize = 4;
/// ICMP refusals that end a connect: one may be forged or left over from another process.
const REFUSALS: u8 = 3;
/// Who has nothing to do for so long is idle.
const IDLE: Duration = Duration::from_secs(1);
/// While the socket is full nothing can be sent; timeouts are looked after this often.
const BLOCKED_RECHECK: Duration = std::time::Duration::from_millis(20);

thread_local! {
    /// What is being transmitted; borrowed per epilogue, so that idle sessions own no buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A session on a socket. Held by its stream, by the registry, and by entries of the timer heap and the work queues.
pub(crate) struct Session {
    pub(crate) shard: Arc<Shard>,
    /// Changes when the session follows its peer.
    route: Mutex<Route>,
    pub(crate) conv: u32,
    /// Opened by a stranger who has proven nothing yet; nobody can accept it.
    half_open: AtomicBool,
    /// Opened by the peer: it may follow the peer to another address.
    passive: bool,
    marks: Marks,
    state: Mutex<State>,
}

/// Everything behind the lock. There may be a million of it: what only few sessions have, or only for a while, is in
/// [`Extra`].
pub(crate) struct State {
    pub(crate) core: kcp_core::Session,
    /// Encryption and error correction between the core and the socket, if any.
    pub(crate) layered: Option<Box<Layered>>,
    pub(crate) reader: Waiters,
    /// Given back when the session is idle and nothing is in it.
    extra: Option<Box<Extra>>,
    /// Why it ended, if not by the core's own reason.
    pub(crate) failed: Option<KcpError>,
    /// In the touched list of the receive batch under way.
    pub(crate) touched: bool,
    /// Opened by a plain probe, which is all that its peer may ever say first.
    pub(crate) probed: bool,
    ends: Ends,
    /// A reset is told once, as TCP does; then reads find the end, and writes a broken pipe.
    pub(crate) reset_told: bool,
    /// Everything written was acknowledged after the shutdown.
    pub(crate) drained: bool,
    /// The registry knows that it may follow its peer.
    roams: bool,
    objections: Objections,
    retired: bool,
    /// Entries in the timer heap.
    scheduled: Mark,
    /// As the socket's budget knows it.
    held: Held,
    /// The buffers are lowered: the budget was short when it was last asked.
    limited: bool,
}

/// What the system says against sending to the peer: believed only while nothing valid was heard.
#[derive(Copy, Clone, Default)]
struct Objections {
    /// The peer's system has answered that nothing listens, so often.
    refusals: u8,
    /// Ours knows no way there from this socket.
    no_way: Option<io::ErrorKind>,
}

impl Objections {
    const fn refuse(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    fn failure(self) -> Option<KcpError> {
        self.no_way.map(KcpError::NoWay).or((self.refusals >= REFUSALS).then_some(KcpError::Refused))
    }
}

/// When a session ends by itself.
#[derive(Copy, Clone)]
enum Ends {
    Never,
    /// A half-open one, unless it proves something.
    Unproven(Timestamp),
    /// The stream is gone; the session drains until then.
    Detached(Timestamp),
}

/// What most idle sessions have nothing of.
#[derive(Default)]
pub(crate) struct Extra {
    pub(crate) writer: Waiters,
    /// Wait for the connect, or for the shutdown to drain.
    pub(crate) waiter: Waiters,
    /// Wait for an unreliable datagram.
    pub(crate) datagram: Waiters,
    /// Runs of datagrams that the socket had no room for: sent first, in order, never dropped.
    stash: Vec<Stash>,
    /// How long it may drain when its stream is gone, if not as configured.
    pub(crate) linger: Option<Duration>,
    /// The other name it is known by: conv 0, chosen by a peer that leaves the choice to us.
    pub(crate) alias: Option<Key>,
    /// Level debug, and only for who has proven something: strangers must not make us log. None if nobody listens.
    span: Option<Span>,
}

struct Stash {
    run: Vec<u8>,
    stride: usize,
}

/// What is left to do after the lock is released: wakers to be called, and in a driver's turn datagrams to be sent.
#[derive(Default)]
pub(crate) struct Turn {
    wakers: Vec<Waker>,
    /// None: everything is sent at once.
    pub(crate) outbox: Option<Outbox>,
    /// Of a driver that receives: what may leave with what woken tasks write waits until they have run.
    pub(crate) defers: bool,
    /// The same for deadlines, which those tasks mostly put off: another turn follows.
    pub(crate) hurries: bool,
    pub(crate) deferred: Vec<Arc<Session>>,
}

impl Turn {
    pub(crate) const fn with(outbox: Option<Outbox>) -> Self {
        Self { wakers: Vec::new(), outbox, defers: false, hurries: false, deferred: Vec::new() }
    }

    fn add(&mut self, waiters: &mut Waiters) {
        waiters.take_into(&mut self.wakers);
    }

    /// Sends what the outbox holds, if it is full or has to be emptied. No session is locked.
    pub(crate) fn empty(&mut self, shard: &Shard, now: Timestamp, all: bool) {
        if let Some(outbox) = &mut self.outbox
            && (all || outbox.is_full())
        {
            outbox.flush(shard, now);
        }
    }

    /// Sends, then wakes.
    pub(crate) fn end(&mut self, shard: &Shard, now: Timestamp) {
        self.empty(shard, now, true);
        self.wake();
    }

    /// Calls the wakers; how many there were.
    pub(crate) fn wake(&mut self) -> usize {
        let count = self.wakers.len();
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        count
    }
}

impl Session {
    pub(crate) fn new(
        shard: Arc<Shard>,
        route: Route,
        core: kcp_core::Session,
        layered: Option<Box<Layered>>,
        passive: bool,
    ) -> Arc<Self> {
        let conv = core.conv();
        let ends = if passive { Ends::Unproven(shard.hub.now() + HALF_OPEN_TIME) } else { Ends::Never };
        let state = State {
            core,
            layered,
            reader: Waiters::default(),
            extra: None,
            failed: None,
            touched: false,
            probed: false,
            ends,
            reset_told: false,
            drained: false,
            roams: false,
            objections: Objections::default(),
            retired: false,
            scheduled: Mark::default(),
            held: Held::default(),
            limited: false,
        };
        Arc::new(Self {
            shard,
            route: Mutex::new(route),
            conv,
            half_open: AtomicBool::new(passive),
            passive,
            marks: Marks::default(),
            state: Mutex::new(state),
        })
    }

    /// Where its peer is.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.route().peer
    }

    /// Which way its datagrams go.
    pub(crate) fn route(&self) -> Route {
        *self.lock_route()
    }

    fn lock_route(&self) -> MutexGuard<'_, Route> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of ours that its peer knows, if the socket has no other.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        let mut addr = self.shard.socket().local_addr()?;
        if let Some(local) = self.route().local
            && addr.ip().is_unspecified()
        {
            addr.set_ip(local);
        }
        Ok(addr)
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.shard.hub
    }

    pub(crate) const fn is_passive(&self) -> bool {
        self.passive
    }

    fn leave_half_open(&self) {
        if self.half_open.swap(false, Ordering::AcqRel) {
            self.hub().left_half_open(self.peer().ip());
        }
    }

    /// No code that runs under the lock panics, so poison means nothing.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` under the lock, then the epilogue, then the wakers.
    pub(crate) fn with<R>(self: &Arc<Self>, f: impl FnOnce(&mut State, Timestamp) -> R) -> R {
        let mut turn = Turn::default();
        let now = self.hub().now();
        let result = {
            let mut state = self.lock();
            self.share(&mut state);
            let result = f(&mut state, now);
            self.after(&mut state, now, INLINE_RUNS, &mut turn);
            result
        };
        turn.wake();
        result
    }

    /// Before anything is received or written: what the session may hold, of what all may.
    pub(crate) fn share(&self, state: &mut State) {
        let share = self.hub().budget.share(self.hub().registry.len(), state.held);
        let buffers = state.core.config().buffers();
        // What is in flight does not count against the configured send buffer.
        let limited = share.received < buffers.received || share.sent < buffers.sent + state.held.sent;
        if limited || state.limited {
            state.core.limit_buffers(share);
            state.limited = limited;
        }
    }

    /// After anything was received, and before the next datagram is: that may be from the same peer, who is elsewhere already.
    pub(crate) fn let_roam(self: &Arc<Self>, state: &mut State) {
        if self.passive && !state.roams && state.core.is_extended() && !state.core.is_closed() {
            state.roams = true;
            self.hub().registry.may_roam(self);
        }
    }

    /// After anything was received, read, written or acknowledged.
    pub(crate) fn account(&self, state: &mut State) {
        let held = state.core.held();
        self.hub().budget.account(state.held, held);
        state.held = held;
    }

    /// The same where nothing more is to be taken now: buffers that were short may have room again.
    pub(crate) fn settle(&self, state: &mut State) {
        self.account(state);
        if state.limited {
            self.share(state);
        }
    }

    /// The epilogue of every entrance (a received batch, an application's call, a timer): transmit what is due, hand on
    /// events, schedule the next deadline.
    pub(crate) fn after(self: &Arc<Self>, state: &mut State, now: Timestamp, runs: usize, turn: &mut Turn) {
        if turn.defers && state.has_waiting_tasks() {
            state.core.hold_answers();
        } else {
            state.core.release_answers();
        }
        let more = self.transmit(state, now, runs, turn);
        if state.core.is_connecting()
            && let Some(failure) = state.objections.failure()
        {
            state.failed = Some(failure);
            state.core.abort();
        }
        if self.is_half_open() {
            // Data from the beginning, or a token that only who got our answer knows.
            if state.core.una().value() != 0 || state.core.is_validated() || state.probed {
                self.leave_half_open();
                state.ends = Ends::Never;
                state.open_span(self.peer(), self.conv);
                if !self.hub().offer(self) {
                    state.core.abort();
                }
            } else if matches!(state.ends, Ends::Unproven(at) if now >= at) {
                count(&self.hub().counters.half_open_expired);
                state.core.abort();
            }
        }
        self.settle(state);
        let others = turn.wakers.len();
        while let Some(event) = state.core.poll_event() {
            if event == Event::Readable {
                turn.add(&mut state.reader);
                continue;
            }
            state.drained |= event == Event::Drained;
            let every = matches!(event, Event::Closed(_));
            if every {
                turn.add(&mut state.reader);
            }
            let Some(extra) = &mut state.extra else { continue };
            if every || event == Event::Writable {
                turn.add(&mut extra.writer);
            }
            if every || matches!(event, Event::Connected | Event::Drained) {
                turn.add(&mut extra.waiter);
            }
            if every || event == Event::Datagram {
                turn.add(&mut extra.datagram);
            }
        }
        if let Ends::Detached(deadline) = state.ends
            && ((state.core.is_done() && !state.has_stash()) || now >= deadline || self.hub().life.is_dead())
        {
            state.core.abort();
        }
        if state.core.is_closed() {
            // It may have a last word for its peer.
            self.transmit(state, now, 1, turn);
            self.retire(state, now);
        } else if more {
            self.mark();
        } else if turn.hurries && turn.wakers.len() > others {
            turn.deferred.push(self.clone());
        } else if state.core.release_answers() {
            self.mark();
        } else {
            self.schedule(state, now);
        }
    }

    /// The tasks that were woken have had their turn: what has waited for them leaves, and the next deadline is entered.
    pub(crate) fn end_deferral(self: &Arc<Self>, now: Timestamp, turn: &mut Turn) {
        let mut state = self.lock();
        if state.core.release_answers() {
            self.after(&mut state, now, DRIVER_RUNS, turn);
        } else {
            self.schedule(&mut state, now);
        }
    }

    /// Sends at most `runs` runs; true when there may be more.
    fn transmit(self: &Arc<Self>, state: &mut State, now: Timestamp, runs: usize, turn: &mut Turn) -> bool {
        if state.has_stash() {
            return false;
        }
        // Only its own driver has an outbox for it.
        let mut outbox = turn.outbox.as_mut().filter(|outbox| outbox.shard == self.shard.index);
        let waits = outbox.is_none() && (self.marks.is_boxed() || self.shard.agenda.gathers(now));
        if waits && !state.core.is_closed() {
            // What it has to send leaves with what others have.
            return state.core.poll_timeout().is_some_and(|at| at <= now);
        }
        let State { core, layered, extra, objections, .. } = &mut *state;
        if let Some(layered) = layered {
            layered.hold(!core.is_validated());
        }
        let framing = Framing { max_datagrams: self.shard.max_run() };
        let mut send_all = |scratch: &mut Vec<u8>| {
            for _ in 0..runs {
                scratch.clear();
                let Some(run) = core.poll_transmit(now, framing, scratch) else { return false };
                match layered {
                    None => self.send_or_stash(extra, objections, scratch, run.stride, &mut outbox),
                    Some(layered) => layered.seal(now, scratch, run.stride, |run, stride| {
                        self.send_or_stash(extra, objections, run, stride, &mut outbox);
                    }),
                }
                if extra.as_ref().is_some_and(|extra| !extra.stash.is_empty()) {
                    return false;
                }
            }
            true
        };
        // Gone while the thread ends: what is dropped then still sends its last words.
        let result =
            SCRATCH.try_with(|scratch| scratch.try_borrow_mut().map(|mut scratch| send_all(&mut scratch)));
        result.ok().and_then(Result::ok).unwrap_or_else(|| send_all(&mut Vec::new()))
    }

    /// Sends a run after those that wait; what the socket has no room for waits as well.
    fn send_or_stash(
        self: &Arc<Self>,
        extra: &mut Option<Box<Extra>>,
        objections: &mut Objections,
        run: &[u8],
        stride: usize,
        outbox: &mut Option<&mut Outbox>,
    ) {
        let waits = extra.as_ref().is_some_and(|extra| !extra.stash.is_empty());
        // A long run gains nothing by company.
        if let Some(outbox) = outbox
            && !waits
            && (run.len() <= stride || self.marks.is_boxed())
        {
            self.marks.set_boxed();
            outbox.push(self, run, stride);
            return;
        }
        let unsent = if waits { Some(run) } else { self.send(objections, run, stride) };
        if let Some(unsent) = unsent {
            let stash = &mut extra.get_or_insert_default().stash;
            if stash.is_empty() {
                self.shard.wait_for_room(self.clone());
            }
            stash.push(Stash { run: unsent.to_vec(), stride });
        }
    }

    /// Keeps what the socket had no room for when the outbox was emptied.
    pub(crate) fn stash(self: &Arc<Self>, run: &[u8], stride: usize) {
        let mut state = self.lock();
        if state.retired {
            return;
        }
        let stash = &mut state.extra().stash;
        if stash.is_empty() {
            self.shard.wait_for_room(self.clone());
        }
        stash.push(Stash { run: run.to_vec(), stride });
    }

    /// Sends a run; returns what the socket has no room for. A datagram that cannot be sent counts as lost.
    fn send<'a>(&self, objections: &mut Objections, mut run: &'a [u8], stride: usize) -> Option<&'a [u8]> {
        let mut reported = false;
        let (socket, route) = (self.shard.socket(), self.route());
        while !run.is_empty() {
            match socket.try_send(route, run, stride) {
                // On a connected socket this reports an earlier datagram's fate instead of sending this one.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !reported => {
                    reported = true;
                    objections.refuse();
                }
                Ok(sent) => run = run.get(sent.max(1)..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    count(&self.hub().counters.send_blocked);
                    return Some(run);
                }
                Err(error) => {
                    use io::ErrorKind::{
                        AddrNotAvailable, HostUnreachable, InvalidInput, NetworkUnreachable,
                    };
                    objections.no_way = Some(error.kind()).filter(|kind| {
                        matches!(kind, AddrNotAvailable | HostUnreachable | InvalidInput | NetworkUnreachable)
                    });
                    count(&self.hub().counters.send_errors);
                    if let Some(more) = self.hub().logs.send.permit(self.hub().now()) {
                        tracing::debug!(peer = %route.peer, %error, more, "datagrams lost on send");
                    }
                    return None;
                }
            }
        }
        None
    }

    /// The socket has room again: first what it had none for.
    pub(crate) fn resume(self: &Arc<Self>, now: Timestamp, turn: &mut Turn) {
        let mut state = self.lock();
        let State { extra, objections, .. } = &mut *state;
        let stash = extra.as_mut().map(|extra| std::mem::take(&mut extra.stash));
        for waiting in stash.unwrap_or_default() {
            self.send_or_stash(extra, objections, &waiting.run, waiting.stride, &mut None);
        }
        self.after(&mut state, now, DRIVER_RUNS, turn);
    }

    /// The deadline for which the session was entered has passed.
    pub(crate) fn on_timer(self: &Arc<Self>, entered: Timestamp, now: Timestamp, turn: &mut Turn) {
        let mut state = self.lock();
        if !state.scheduled.fired(entered) || state.retired {
            return;
        }
        state.core.handle_timeout(now);
        let State { core, layered, extra, objections, .. } = &mut *state;
        if let Some(layered) = layered
            && layered.poll_timeout().is_some_and(|at| at <= now)
        {
            layered.hold(!core.is_validated());
            layered.handle_timeout(now, |run, stride| {
                self.send_or_stash(extra, objections, run, stride, &mut None)
            });
        }
        self.after(&mut state, now, DRIVER_RUNS, turn);
    }

    /// Enters the session for its next deadline.
    pub(crate) fn schedule(self: &Arc<Self>, state: &mut State, now: Timestamp) {
        if state.retired {
            return;
        }
        let ends = match state.ends {
            Ends::Never => None,
            Ends::Unproven(at) | Ends::Detached(at) => Some(at),
        };
        let layered = state.layered.as_ref().and_then(|layered| layered.poll_timeout());
        let deadline = [state.core.poll_timeout(), ends, layered].into_iter().flatten().min();
        if deadline.is_none_or(|at| at > now + IDLE) {
            state.rest();
        }
        let mut kept_until = state.core.kept_since().map(|since| since + IDLE);
        if kept_until.is_some_and(|at| at <= now) {
            state.core.trim();
            kept_until = None;
        }
        let Some(mut at) = deadline.into_iter().chain(kept_until).min() else { return };
        if state.has_stash() {
            at = at.max(now + BLOCKED_RECHECK);
        }
        if state.scheduled.enter(at) {
            self.shard.insert_timer(at, self.clone());
        }
    }

    /// Leaves the rest of the work to the driver.
    pub(crate) fn mark(self: &Arc<Self>) {
        self.shard.mark(self);
    }

    /// The session has ended: its name is free, and remembered for a while.
    fn retire(self: &Arc<Self>, state: &mut State, now: Timestamp) {
        if state.retired {
            return;
        }
        state.retired = true;
        // What was not acknowledged is forgotten.
        self.account(state);
        let good = state.core.close_reason() == Some(CloseReason::Finished) || state.core.is_done();
        if good && state.core.is_extended() {
            // Its last words may get lost: for a moment somebody answers.
            self.hub().stay_until(now + (state.core.rto() * 4).min(LONGEST_WAIT));
        }
        if let Some(extra) = &mut state.extra {
            extra.stash = Vec::new();
        }
        self.leave_half_open();
        let (peer, epitaph) = (self.peer(), state.core.epitaph());
        self.hub().registry.remove(self, state.alias(), now, epitaph);
        if self.passive {
            self.hub().count_out(peer.ip());
        }
        state.in_span(|| tracing::debug!(reason = ?state.core.close_reason(), "session ended"));
        if self.hub().registry.is_empty() {
            self.hub().life.on_empty();
        }
    }

    /// Somebody elsewhere speaks of this session: has its peer moved? True when it has, and the datagram is the session's.
    pub(crate) fn follow(self: &Arc<Self>, from: Route, datagram: &[u8], now: Timestamp) -> bool {
        let mut state = self.lock();
        let path = self.hub().path(from.peer);
        if !state.core.proves_path(datagram, path) && !state.core.begins_elsewhere(datagram) {
            // Not more than three times of what came from there.
            let question = state.core.challenge_path(now, path).filter(|ask| ask.len() <= datagram.len() * 3);
            if let Some(question) = question {
                count(&self.hub().counters.path_challenges);
                self.shard.send_bare(from, &question, now);
            }
            return false;
        }
        let old = self.peer();
        if !self.hub().registry.rename(self, from.peer) {
            return false;
        }
        self.lock_route().local = from.local;
        if self.is_passive() {
            self.hub().count_out(old.ip());
            self.hub().count_in(from.peer.ip(), true);
        }
        count(&self.hub().counters.moved);
        if let Some(more) = self.hub().logs.moved.permit(now) {
            state.in_span(|| tracing::info!(%old, new = %from.peer, more, "peer has moved"));
        }
        state.core.probe_path();
        true
    }

    /// The peer's system has answered a datagram with "nothing listens here".
    pub(crate) fn on_refused(self: &Arc<Self>) {
        self.with(|state, _| state.objections.refuse());
    }

    /// The driver is gone: nothing will ever arrive or leave.
    pub(crate) fn fail(self: &Arc<Self>) {
        let mut turn = Turn::default();
        {
            let mut state = self.lock();
            if !state.core.is_closed() {
                state.failed = Some(KcpError::DriverGone);
                // What has arrived is delivered before the error.
                state.core.disconnect();
            }
            self.after(&mut state, self.hub().now(), 0, &mut turn);
        }
        turn.wake();
    }

    /// The stream is dropped: what was written drains in the background, what arrives is acknowledged and discarded.
    pub(crate) fn detach(self: &Arc<Self>) {
        self.with(|state, now| {
            state.reader.clear();
            let mut linger = None;
            if let Some(extra) = &mut state.extra {
                for waiters in [&mut extra.writer, &mut extra.waiter, &mut extra.datagram] {
                    waiters.clear();
                }
                linger = extra.linger;
            }
            let linger = linger.unwrap_or_else(|| state.core.config().linger_time());
            if state.core.is_closed() {
                // Nobody will read it, and an entry among the timers may keep the session for a while.
                state.core.orphan(now);
            } else if linger.is_zero() || state.core.is_connecting() {
                state.core.abort();
            } else {
                state.core.orphan(now);
                state.ends = Ends::Detached(now + linger);
            }
        });
    }
}

impl Named for Session {
    fn key(&self) -> Key {
        (self.peer(), self.conv)
    }

    fn conv(&self) -> u32 {
        self.conv
    }

    fn set_peer(&self, peer: SocketAddr) {
        self.lock_route().peer = peer;
    }
}

impl Stranger for Session {
    fn is_half_open(&self) -> bool {
        self.half_open.load(Ordering::Acquire)
    }
}

impl Marked for Arc<Session> {
    fn marks(&self) -> &Marks {
        &self.marks
    }
}

impl State {
    pub(crate) fn open_span(&mut self, peer: SocketAddr, conv: u32) {
        let span = tracing::debug_span!("kcp", %peer, conv);
        if !span.is_disabled() {
            self.extra().span = Some(span);
        }
        self.in_span(|| tracing::debug!("session opened"));
    }

    fn in_span<R>(&self, f: impl FnOnce() -> R) -> R {
        match self.extra.as_ref().and_then(|extra| extra.span.as_ref()) {
            Some(span) => span.in_scope(f),
            None => f(),
        }
    }

    pub(crate) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Who may be woken by what has arrived, and write something then.
    fn has_waiting_tasks(&self) -> bool {
        let connects = self.extra.as_ref().is_some_and(|extra| !extra.waiter.is_empty());
        connects || !self.reader.is_empty()
    }

    fn has_stash(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| !extra.stash.is_empty())
    }

    pub(crate) fn alias(&self) -> Option<Key> {
        self.extra.as_ref().and_then(|extra| extra.alias)
    }

    /// Gives back what an idle session does not need.
    fn rest(&mut self) {
        self.extra.take_if(|extra| {
            let Extra { writer, waiter, datagram, stash, linger, alias, span } = &**extra;
            [writer, waiter, datagram].into_iter().all(Waiters::is_empty)
                && stash.is_empty()
                && linger.is_none()
                && alias.is_none()
                && span.is_none()
        });
    }

    /// Why nothing more will happen, if so.
    pub(crate) fn end(&self) -> Option<KcpError> {
        self.failed.or_else(|| self.core.close_reason().map(KcpError::Closed))
    }

    /// The error for a read from a core that says it is closed.
    pub(crate) fn closed(&mut self, reason: CloseReason) -> KcpError {
        let reset = matches!(reason, CloseReason::Reset | CloseReason::ProtocolError);
        if reset && std::mem::replace(&mut self.reset_told, true) {
            return KcpError::EndOfStream;
        }
        self.failed.unwrap_or(KcpError::Closed(reason))
    }

    /// The same for a write.
    pub(crate) fn unwritable(&mut self, reason: CloseReason) -> KcpError {
        let reset = matches!(reason, CloseReason::Reset | CloseReason::ProtocolError);
        // Whoever has seen the end of the peer's stream has been told enough.
        if reset && !self.core.is_read_closed() && !std::mem::replace(&mut self.reset_told, true) {
            return KcpError::Closed(reason);
        }
        self.failed.unwrap_or(KcpError::Write(kcp_core::WriteError::Closed(reason)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let held = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).held;
        self.shard.hub.budget.account(held, Held::default());
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer())
            .field("conv", &self.conv)
            .finish_non_exhaustive()
    }
}
