//! A session as tasks share it: the core's state machine behind one mutex, its wakers, and the one epilogue.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use kcp_core::{CloseReason, Event, Framing, Timestamp};

use crate::error::KcpError;
use crate::registry::Key;
use crate::shard::Shard;
use crate::stats::count;
use crate::timers::Mark;

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
    pub(crate) peer: SocketAddr,
    pub(crate) conv: u32,
    /// Waits in the shard's work queue; set once however often the session is marked.
    queued: AtomicBool,
    state: Mutex<State>,
}

/// Everything behind the lock.
pub(crate) struct State {
    pub(crate) core: kcp_core::Session,
    pub(crate) reader: Waiters,
    pub(crate) writer: Waiters,
    /// Wait for the connect, or for the shutdown to drain.
    pub(crate) waiter: Waiters,
    /// Why it ended, if not by the core's own reason.
    pub(crate) failed: Option<KcpError>,
    /// In the touched list of the receive batch under way.
    pub(crate) touched: bool,
    /// The stream is gone; the session drains until then.
    pub(crate) detached: Option<Timestamp>,
    /// The other name it is known by: conv 0, chosen by a peer that leaves the choice to us.
    pub(crate) alias: Option<Key>,
    /// Entries in the timer heap.
    scheduled: Mark,
    /// Datagrams that the socket had no room for: sent first, never dropped.
    stash: Option<Stash>,
    refusals: u32,
    retired: bool,
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
    pub(crate) fn new(shard: Arc<Shard>, peer: SocketAddr, core: kcp_core::Session) -> Arc<Self> {
        let conv = core.conv();
        let state = State {
            core,
            reader: Waiters::default(),
            writer: Waiters::default(),
            waiter: Waiters::default(),
            failed: None,
            touched: false,
            detached: None,
            alias: None,
            scheduled: Mark::default(),
            stash: None,
            refusals: 0,
            retired: false,
        };
        Arc::new(Self { shard, peer, conv, queued: AtomicBool::new(false), state: Mutex::new(state) })
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
            let result = f(&mut state, now);
            self.after(&mut state, now, INLINE_RUNS, &mut wakeups);
            result
        };
        wakeups.wake();
        result
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
        while let Some(event) = state.core.poll_event() {
            match event {
                Event::Readable => wakeups.add(&mut state.reader),
                Event::Writable => wakeups.add(&mut state.writer),
                Event::Connected | Event::Drained => wakeups.add(&mut state.waiter),
                _ => {
                    for waiters in [&mut state.reader, &mut state.writer, &mut state.waiter] {
                        wakeups.add(waiters);
                    }
                }
            }
        }
        if let Some(deadline) = state.detached {
            // An acknowledgement still owed would leave the peer with data that it takes for lost.
            let quiet = !state.core.owes_acks() && state.stash.is_none();
            let done = quiet && state.core.is_drained() && state.core.is_shutdown();
            if done || now >= deadline || self.shard.is_dead() {
                state.core.abort();
            }
        }
        if state.core.is_closed() {
            self.retire(state, now);
        } else if more {
            self.mark();
        } else {
            self.schedule(state, now);
        }
    }

    /// Sends at most `runs` runs; true when there may be more.
    fn transmit(self: &Arc<Self>, state: &mut State, now: Timestamp, runs: usize) -> bool {
        if state.stash.is_some() {
            return false;
        }
        let framing = Framing { max_datagrams: self.shard.max_run };
        SCRATCH.with_borrow_mut(|scratch| {
            for _ in 0..runs {
                scratch.clear();
                let Some(run) = state.core.poll_transmit(now, framing, scratch) else { return false };
                if let Some(unsent) = self.send(&mut state.refusals, scratch, run.stride) {
                    state.stash = Some(Stash { run: unsent.to_vec(), stride: run.stride });
                    self.shard.wait_for_room(self.clone());
                    return false;
                }
            }
            true
        })
    }

    /// Sends a run; returns what the socket has no room for. A datagram that cannot be sent counts as lost.
    fn send<'a>(&self, refusals: &mut u32, mut run: &'a [u8], stride: usize) -> Option<&'a [u8]> {
        let mut reported = false;
        while !run.is_empty() {
            match self.shard.socket.try_send(self.peer, run, stride) {
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
                    tracing::trace!(peer = %self.peer, %error, "datagram lost on send");
                    return None;
                }
            }
        }
        None
    }

    /// The socket has room again: first what it had none for.
    pub(crate) fn resume(self: &Arc<Self>, now: Timestamp, wakeups: &mut Wakeups) {
        let mut state = self.lock();
        if let Some(stash) = state.stash.take()
            && let Some(unsent) = self.send(&mut state.refusals, &stash.run, stash.stride)
        {
            state.stash = Some(Stash { run: unsent.to_vec(), stride: stash.stride });
            self.shard.wait_for_room(self.clone());
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
        self.after(&mut state, now, DRIVER_RUNS, wakeups);
    }

    fn schedule(self: &Arc<Self>, state: &mut State, now: Timestamp) {
        let deadline = [state.core.poll_timeout(), state.detached].into_iter().flatten().min();
        let Some(mut at) = deadline else { return };
        if state.stash.is_some() {
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
        state.stash = None;
        if let Some(alias) = state.alias {
            self.shard.registry.remove(&alias, self, now, state.core.una());
        }
        self.shard.registry.remove(&(self.peer, self.conv), self, now, state.core.una());
        tracing::debug!(peer = %self.peer, conv = self.conv, reason = ?state.core.close_reason(), "session ended");
        if self.shard.registry.is_empty() {
            // It may have been the last thing that the driver lived for.
            self.shard.wake_driver();
        }
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
            for waiters in [&mut state.reader, &mut state.writer, &mut state.waiter] {
                waiters.clear();
            }
            let linger = state.core.config().linger_time();
            if linger.is_zero() || state.core.is_connecting() {
                state.core.abort();
            } else if !state.core.is_closed() {
                state.core.discard_input(now);
                state.core.shutdown();
                state.detached = Some(now + linger);
            }
        });
    }
}

impl State {
    /// Why nothing more will happen, if so.
    pub(crate) fn end(&self) -> Option<KcpError> {
        self.failed.or_else(|| self.core.close_reason().map(KcpError::Closed))
    }

    /// The error for a core that says it is closed.
    pub(crate) fn closed(&self, reason: CloseReason) -> KcpError {
        self.failed.unwrap_or(KcpError::Closed(reason))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("peer", &self.peer).field("conv", &self.conv).finish_non_exhaustive()
    }
}
