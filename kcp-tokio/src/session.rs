//! A session as tasks share it: the core's state machine behind one mutex, its wakers, and the one epilogue.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use kcp_core::{CloseReason, Event, Framing, Held, Timestamp};
use tracing::Span;

use crate::error::KcpError;
use crate::layered::Layered;
use crate::registry::Key;
use crate::shard::Shard;
use crate::stats::count;
use crate::timers::Mark;

/// How long a stranger's session may take to prove something.
const HALF_OPEN_TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// How long a socket that nobody uses any more answers for its last session, at most.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(2);
/// Runs that an application's task sends itself before it leaves the rest to the driver.
pub(crate) const INLINE_RUNS: usize = 2;
/// Runs that the driver sends for one session before it turns to the next.
pub(crate) const DRIVER_RUNS: usize = 4;
/// ICMP refusals that end a connect: one may be forged or left over from another process.
const REFUSALS: u32 = 3;
/// While the socket is full nothing can be sent; timeouts are looked after this often.
const BLOCKED_RECHECK: std::time::Duration = std::time::Duration::from_millis(20);

thread_local! {
    /// What is being transmitted; borrowed per epilogue, so that idle sessions own no buffer.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A session on a socket. Held by its stream, by the registry, and by entries of the timer heap and the work queues.
pub(crate) struct Session {
    pub(crate) shard: Arc<Shard>,
    /// Changes when the session follows its peer.
    peer: Mutex<SocketAddr>,
    pub(crate) conv: u32,
    /// Opened by a stranger who has proven nothing yet; nobody can accept it.
    half_open: AtomicBool,
    /// Opened by the peer: it may follow the peer to another address.
    passive: bool,
    /// Waits in the shard's work queue; set once however often the session is marked.
    queued: AtomicBool,
    state: Mutex<State>,
}

/// Everything behind the lock.
pub(crate) struct State {
    pub(crate) core: kcp_core::Session,
    /// Encryption and error correction between the core and the socket, if any.
    pub(crate) layered: Option<Box<Layered>>,
    pub(crate) reader: Waiters,
    pub(crate) writer: Waiters,
    /// Wait for the connect, or for the shutdown to drain.
    pub(crate) waiter: Waiters,
    /// Why it ended, if not by the core's own reason.
    pub(crate) failed: Option<KcpError>,
    /// In the touched list of the receive batch under way.
    pub(crate) touched: bool,
    /// Opened by a plain probe, which is all that its peer may ever say first.
    pub(crate) probed: bool,
    /// The stream is gone; the session drains until then.
    pub(crate) detached: Option<Timestamp>,
    /// How long it may, if not as configured.
    pub(crate) linger: Option<std::time::Duration>,
    /// A half-open session ends then.
    expires: Timestamp,
    /// A reset is told once, as TCP does; then reads find the end, and writes a broken pipe.
    pub(crate) reset_told: bool,
    /// Everything written was acknowledged after the shutdown.
    pub(crate) drained: bool,
    /// The registry knows that it may follow its peer.
    roams: bool,
    /// Waits for an unreliable datagram.
    pub(crate) datagram: Waiters,
    /// The other name it is known by: conv 0, chosen by a peer that leaves the choice to us.
    pub(crate) alias: Option<Key>,
    /// Entries in the timer heap.
    scheduled: Mark,
    /// Runs of datagrams that the socket had no room for: sent first, in order, never dropped.
    stash: Vec<Stash>,
    refusals: u32,
    retired: bool,
    /// As the socket's budget knows it.
    held: Held,
    /// The buffers are lowered: the budget was short when it was last asked.
    limited: bool,
    /// Level debug, and only for who has proven something: strangers must not make us log.
    span: Span,
}

struct Stash {
    run: Vec<u8>,
    stride: usize,
}

/// Wakers kept per cause: cancelled polls leave theirs behind.
const MAX_WAITERS: usize = 32;

/// Tasks that wait for the same thing: `send_msg(&self)` and `recv_msg(&self)` invite several. All are woken, and those that
/// come too late wait again.
#[derive(Default)]
pub(crate) struct Waiters(Vec<Waker>);

impl Waiters {
    pub(crate) fn register(&mut self, waker: &Waker) {
        if self.0.iter().any(|held| held.will_wake(waker)) {
            return;
        }
        if self.0.len() >= MAX_WAITERS {
            // Most belong to futures that were dropped: those that do not will come back.
            self.0.drain(..).for_each(Waker::wake);
        }
        self.0.push(waker.clone());
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Wakers to be called after the lock is released.
#[derive(Default)]
pub(crate) struct Wakeups(Vec<Waker>);

impl Wakeups {
    fn add(&mut self, waiters: &mut Waiters) {
        self.0.append(&mut waiters.0);
    }

    pub(crate) fn wake(&mut self) {
        for waker in self.0.drain(..) {
            waker.wake();
        }
    }
}

impl Session {
    pub(crate) fn new(
        shard: Arc<Shard>,
        peer: SocketAddr,
        core: kcp_core::Session,
        layered: Option<Box<Layered>>,
        passive: bool,
    ) -> Arc<Self> {
        let conv = core.conv();
        let expires = shard.now() + HALF_OPEN_TIME;
        let state = State {
            core,
            layered,
            reader: Waiters::default(),
            writer: Waiters::default(),
            waiter: Waiters::default(),
            failed: None,
            touched: false,
            probed: false,
            detached: None,
            linger: None,
            expires,
            reset_told: false,
            drained: false,
            roams: false,
            datagram: Waiters::default(),
            alias: None,
            scheduled: Mark::default(),
            stash: Vec::new(),
            refusals: 0,
            retired: false,
            held: Held::default(),
            limited: false,
            span: Span::none(),
        };
        Arc::new(Self {
            shard,
            peer: Mutex::new(peer),
            conv,
            half_open: AtomicBool::new(passive),
            passive,
            queued: AtomicBool::new(false),
            state: Mutex::new(state),
        })
    }

    /// Where its peer is.
    pub(crate) fn peer(&self) -> SocketAddr {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_half_open(&self) -> bool {
        self.half_open.load(Ordering::Acquire)
    }

    pub(crate) const fn is_passive(&self) -> bool {
        self.passive
    }

    fn leave_half_open(&self) {
        if self.half_open.swap(false, Ordering::AcqRel) {
            self.shard.left_half_open(self.peer().ip());
        }
    }

    /// No code that runs under the lock panics, so poison means nothing.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` under the lock, then the epilogue, then the wakers.
    pub(crate) fn with<R>(self: &Arc<Self>, f: impl FnOnce(&mut State, Timestamp) -> R) -> R {
        let mut wakeups = Wakeups::default();
        let now = self.shard.now();
        let result = {
            let mut state = self.lock();
            self.share(&mut state);
            let result = f(&mut state, now);
            self.after(&mut state, now, INLINE_RUNS, &mut wakeups);
            result
        };
        wakeups.wake();
        result
    }

    /// Before anything is received or written: what the session may hold, of what all may.
    pub(crate) fn share(&self, state: &mut State) {
        let share = self.shard.budget.share(self.shard.registry.len(), state.held);
        let buffers = state.core.config().buffers();
        // What is in flight does not count against the configured send buffer.
        let limited = share.received < buffers.received || share.sent < buffers.sent + state.held.sent;
        if limited || state.limited {
            state.core.limit_buffers(share);
            state.limited = limited;
        }
    }

    /// After anything was received, read, written or acknowledged.
    pub(crate) fn account(&self, state: &mut State) {
        let held = state.core.held();
        self.shard.budget.account(state.held, held);
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
    pub(crate) fn after(
        self: &Arc<Self>,
        state: &mut State,
        now: Timestamp,
        runs: usize,
        wakeups: &mut Wakeups,
    ) {
        let more = self.transmit(state, now, runs);
        // The peer's system says that nothing listens: believed only while nothing valid was heard.
        if state.refusals >= REFUSALS && state.core.is_connecting() {
            state.failed = Some(KcpError::Refused);
            state.core.abort();
        }
        if self.is_half_open() {
            // Data from the beginning, or a token that only who got our answer knows.
            if state.core.una().value() != 0 || state.core.is_validated() || state.probed {
                self.leave_half_open();
                state.open_span(self.peer(), self.conv);
                if !self.shard.offer(self) {
                    state.core.abort();
                }
            } else if now >= state.expires {
                count(&self.shard.counters.half_open_expired);
                state.core.abort();
            }
        }
        if self.passive && !state.roams && state.core.is_extended() {
            state.roams = true;
            self.shard.registry.may_roam(self);
        }
        self.settle(state);
        while let Some(event) = state.core.poll_event() {
            match event {
                Event::Readable => wakeups.add(&mut state.reader),
                Event::Writable => wakeups.add(&mut state.writer),
                Event::Connected => wakeups.add(&mut state.waiter),
                Event::Drained => {
                    state.drained = true;
                    wakeups.add(&mut state.waiter);
                }
                Event::Datagram => wakeups.add(&mut state.datagram),
                _ => {
                    let State { reader, writer, waiter, datagram, .. } = &mut *state;
                    for waiters in [reader, writer, waiter, datagram] {
                        wakeups.add(waiters);
                    }
                }
            }
        }
        if let Some(deadline) = state.detached
            && ((state.core.is_done() && state.stash.is_empty()) || now >= deadline || self.shard.is_dead())
        {
            state.core.abort();
        }
        if state.core.is_closed() {
            // It may have a last word for its peer.
            self.transmit(state, now, 1);
            self.retire(state, now);
        } else if more {
            self.mark();
        } else {
            self.schedule(state, now);
        }
    }

    /// Sends at most `runs` runs; true when there may be more.
    fn transmit(self: &Arc<Self>, state: &mut State, now: Timestamp, runs: usize) -> bool {
        if !state.stash.is_empty() {
            return false;
        }
        let State { core, layered, stash, refusals, .. } = &mut *state;
        if let Some(layered) = layered {
            layered.hold(!core.is_validated());
        }
        let framing = Framing { max_datagrams: self.shard.max_run() };
        let mut send_all = |scratch: &mut Vec<u8>| {
            for _ in 0..runs {
                scratch.clear();
                let Some(run) = core.poll_transmit(now, framing, scratch) else { return false };
                match layered {
                    None => self.send_or_stash(stash, refusals, scratch, run.stride),
                    Some(layered) => layered.seal(now, scratch, run.stride, |run, stride| {
                        self.send_or_stash(stash, refusals, run, stride);
                    }),
                }
                if !stash.is_empty() {
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
        stash: &mut Vec<Stash>,
        refusals: &mut u32,
        run: &[u8],
        stride: usize,
    ) {
        let unsent = if stash.is_empty() { self.send(refusals, run, stride) } else { Some(run) };
        if let Some(unsent) = unsent {
            if stash.is_empty() {
                self.shard.wait_for_room(self.clone());
            }
            stash.push(Stash { run: unsent.to_vec(), stride });
        }
    }

    /// Sends a run; returns what the socket has no room for. A datagram that cannot be sent counts as lost.
    fn send<'a>(&self, refusals: &mut u32, mut run: &'a [u8], stride: usize) -> Option<&'a [u8]> {
        let mut reported = false;
        let (socket, peer) = (self.shard.socket(), self.peer());
        while !run.is_empty() {
            match socket.try_send(peer, run, stride) {
                // On a connected socket this reports an earlier datagram's fate instead of sending this one.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !reported => {
                    reported = true;
                    *refusals = refusals.saturating_add(1);
                }
                Ok(sent) => run = run.get(sent.max(1)..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    count(&self.shard.counters.send_blocked);
                    return Some(run);
                }
                Err(error) => {
                    count(&self.shard.counters.send_errors);
                    if let Some(more) = self.shard.logs.send.permit(self.shard.now()) {
                        tracing::debug!(%peer, %error, more, "datagrams lost on send");
                    }
                    return None;
                }
            }
        }
        None
    }

    /// The socket has room again: first what it had none for.
    pub(crate) fn resume(self: &Arc<Self>, now: Timestamp, wakeups: &mut Wakeups) {
        let mut state = self.lock();
        let State { stash, refusals, .. } = &mut *state;
        for waiting in std::mem::take(stash) {
            self.send_or_stash(stash, refusals, &waiting.run, waiting.stride);
        }
        self.after(&mut state, now, DRIVER_RUNS, wakeups);
    }

    /// The deadline for which the session was entered has passed.
    pub(crate) fn on_timer(self: &Arc<Self>, entered: Timestamp, now: Timestamp, wakeups: &mut Wakeups) {
        let mut state = self.lock();
        if !state.scheduled.fired(entered) || state.retired {
            return;
        }
        state.core.handle_timeout(now);
        let State { core, layered, stash, refusals, .. } = &mut *state;
        if let Some(layered) = layered
            && layered.poll_timeout().is_some_and(|at| at <= now)
        {
            layered.hold(!core.is_validated());
            layered.handle_timeout(now, |run, stride| self.send_or_stash(stash, refusals, run, stride));
        }
        self.after(&mut state, now, DRIVER_RUNS, wakeups);
    }

    fn schedule(self: &Arc<Self>, state: &mut State, now: Timestamp) {
        let expires = self.is_half_open().then_some(state.expires);
        let layered = state.layered.as_ref().and_then(|layered| layered.poll_timeout());
        let deadline =
            [state.core.poll_timeout(), state.detached, expires, layered].into_iter().flatten().min();
        let Some(mut at) = deadline else { return };
        if !state.stash.is_empty() {
            at = at.max(now + BLOCKED_RECHECK);
        }
        if state.scheduled.enter(at) {
            self.shard.insert_timer(at, self.clone());
        }
    }

    /// Leaves the rest of the work to the driver.
    pub(crate) fn mark(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.shard.enqueue(self.clone());
        }
    }

    /// The driver has taken it from the queue.
    pub(crate) fn unmark(&self) {
        self.queued.store(false, Ordering::Release);
    }

    /// The session has ended: its name is free, and remembered for a while.
    fn retire(self: &Arc<Self>, state: &mut State, now: Timestamp) {
        if state.retired {
            return;
        }
        state.retired = true;
        let good = state.core.close_reason() == Some(CloseReason::Finished) || state.core.is_done();
        if good && state.core.is_extended() {
            // Its last words may get lost: for a moment somebody answers.
            self.shard.stay_until(now + (state.core.rto() * 4).min(LONGEST_WAIT));
        }
        state.stash = Vec::new();
        self.leave_half_open();
        let (peer, epitaph) = (self.peer(), state.core.epitaph());
        if let Some(alias) = state.alias {
            self.shard.registry.remove(&alias, self, now, epitaph);
        }
        self.shard.registry.remove(&(peer, self.conv), self, now, epitaph);
        if self.passive {
            self.shard.count_out(peer.ip());
        }
        state.span.in_scope(|| tracing::debug!(reason = ?state.core.close_reason(), "session ended"));
        if self.shard.registry.is_empty() {
            // It may have been the last thing that the driver lived for.
            self.shard.wake_driver();
            self.shard.wake_idle();
        }
    }

    /// Somebody elsewhere speaks of this session: has its peer moved? True when it has, and the datagram is the session's.
    pub(crate) fn follow(self: &Arc<Self>, from: SocketAddr, datagram: &[u8], now: Timestamp) -> bool {
        let mut state = self.lock();
        if !state.core.proves_path(datagram) {
            // Not more than three times of what came from there.
            let question = state.core.challenge_path(now).filter(|ask| ask.len() <= datagram.len() * 3);
            if let Some(question) = question {
                count(&self.shard.counters.path_challenges);
                self.shard.send_bare(from, &question, now);
            }
            return false;
        }
        let old = self.peer();
        if !self.shard.registry.rename(&(old, self.conv), (from, self.conv), self) {
            return false;
        }
        if self.is_passive() {
            self.shard.count_out(old.ip());
            self.shard.count_in(from.ip());
        }
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = from;
        count(&self.shard.counters.moved);
        if let Some(more) = self.shard.logs.moved.permit(now) {
            state.span.in_scope(|| tracing::info!(%old, new = %from, more, "peer has moved"));
        }
        state.core.probe_path();
        true
    }

    /// The peer's system has answered a datagram with "nothing listens here".
    pub(crate) fn on_refused(self: &Arc<Self>) {
        self.with(|state, _| state.refusals = state.refusals.saturating_add(1));
    }

    /// The driver is gone: nothing will ever arrive or leave.
    pub(crate) fn fail(self: &Arc<Self>) {
        let mut wakeups = Wakeups::default();
        {
            let mut state = self.lock();
            if !state.core.is_closed() {
                state.failed = Some(KcpError::DriverGone);
                // What has arrived is delivered before the error.
                state.core.disconnect();
            }
            self.after(&mut state, self.shard.now(), 0, &mut wakeups);
        }
        wakeups.wake();
    }

    /// The stream is dropped: what was written drains in the background, what arrives is acknowledged and discarded.
    pub(crate) fn detach(self: &Arc<Self>) {
        self.with(|state, now| {
            let State { reader, writer, waiter, datagram, .. } = &mut *state;
            for waiters in [reader, writer, waiter, datagram] {
                waiters.clear();
            }
            let linger = state.linger.unwrap_or_else(|| state.core.config().linger_time());
            if linger.is_zero() || state.core.is_connecting() {
                state.core.abort();
            } else if !state.core.is_closed() {
                state.core.orphan(now);
                state.detached = Some(now + linger);
            }
        });
    }
}

impl State {
    pub(crate) fn open_span(&mut self, peer: SocketAddr, conv: u32) {
        self.span = tracing::debug_span!("kcp", %peer, conv);
        self.span.in_scope(|| tracing::debug!("session opened"));
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
        self.shard.budget.account(held, Held::default());
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
