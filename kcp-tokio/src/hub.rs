//! What all sockets of an endpoint share: registry, limits, counters, accept queue, and whether anybody still uses them.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use futures::task::AtomicWaker;
use kcp_core::{SessionConfig, Timestamp};
use tokio::time::Instant;

use crate::budget::Budget;
use crate::config::KcpConfig;
use crate::entropy::Entropy;
use crate::error::KcpError;
use crate::halfopen::HalfOpen;
use crate::layered::Front;
use crate::limiter::Limiter;
use crate::logs::LogLimits;
use crate::registry::Registry;
use crate::session::Session;
use crate::stats::{Counters, EndpointStats, count};

/// An endpoint, whichever of its sockets a session is on.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) config: KcpConfig,
    /// Of sessions to come.
    session_config: RwLock<Arc<SessionConfig>>,
    /// Encryption and error correction, if any.
    pub(crate) front: Option<Front>,
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    pub(crate) budget: Budget,
    /// Of conversations, tokens and nonces.
    pub(crate) entropy: Entropy,
    pub(crate) logs: LogLimits,
    pub(crate) half_open: Mutex<HalfOpen>,
    pub(crate) limiter: Mutex<Limiter>,
    accepted: Mutex<AcceptQueue>,
    /// Sessions that peers have opened, by address; kept only where their number is limited.
    per_ip: Mutex<HashMap<IpAddr, usize>>,
    /// Wait until there is no session.
    idle: Mutex<Vec<Waker>>,
    /// One per socket.
    pub(crate) drivers: Vec<DriverSlot>,
    /// Endpoints, listeners and streams; with none of them and no session the drivers end.
    handles: AtomicUsize,
    /// In microseconds: until then the driver answers for sessions that have ended, although nobody uses the socket.
    stay_until: AtomicU64,
    dead: AtomicBool,
    pub(crate) dials_only: bool,
    epoch: Instant,
}

/// What the endpoint knows of one driver: in cache lines of its own, since each driver writes it all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct DriverSlot {
    pub(crate) waker: AtomicWaker,
    /// Datagrams that it has received.
    pub(crate) received: AtomicU64,
    /// Offloads that its socket does without, as of its last turn.
    pub(crate) refused: AtomicU64,
}

#[derive(Debug, Default)]
struct AcceptQueue {
    /// False: nobody will ever accept (again).
    open: bool,
    ready: VecDeque<Arc<Session>>,
    wakers: Vec<Waker>,
}

impl Hub {
    pub(crate) fn new(config: KcpConfig, accepting: bool, sockets: usize) -> io::Result<Arc<Self>> {
        let entropy = Entropy::new(config.seed);
        Ok(Arc::new(Self {
            session_config: RwLock::new(Arc::new(config.inner_session())),
            front: Front::of(&config, &entropy)?,
            logs: LogLimits::default(),
            budget: Budget::new(config.recv_budget, config.send_budget),
            config,
            registry: Registry::default(),
            counters: Counters::default(),
            accepted: Mutex::new(AcceptQueue { open: accepting, ..AcceptQueue::default() }),
            half_open: Mutex::default(),
            limiter: Mutex::new(Limiter::new(entropy.u64()?)),
            entropy,
            per_ip: Mutex::default(),
            idle: Mutex::default(),
            drivers: std::iter::repeat_with(DriverSlot::default).take(sockets).collect(),
            handles: AtomicUsize::new(0),
            stay_until: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            dials_only: !accepting,
            epoch: Instant::now(),
        }))
    }

    /// Whether a packet that this key opened may open a session.
    pub(crate) fn is_current_key(&self, key: u32) -> bool {
        self.front.as_ref().is_none_or(|front| front.keys().current == key)
    }

    pub(crate) fn session_config(&self) -> Arc<SessionConfig> {
        self.session_config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sessions to come are of this configuration.
    pub(crate) fn reconfigure(&self, config: &KcpConfig) -> io::Result<()> {
        Front::reconfigure(self.front.as_ref(), config, &self.entropy)?;
        let session = Arc::new(config.inner_session());
        *self.session_config.write().unwrap_or_else(PoisonError::into_inner) = session;
        Ok(())
    }

    /// The sessions' clock: tokio's, so that paused time is virtual time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.epoch.elapsed()
    }

    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.epoch + at.saturating_since(Timestamp::ZERO)
    }

    pub(crate) fn wake_drivers(&self) {
        for driver in &self.drivers {
            driver.waker.wake();
        }
    }

    // ---- admission ----

    /// How many sessions wait for `accept`; none if nobody accepts.
    pub(crate) fn waiting(&self) -> Option<usize> {
        let accepted = lock(&self.accepted);
        accepted.open.then(|| accepted.ready.len())
    }

    /// A session has become somebody's: false when nobody has room for it.
    pub(crate) fn offer(&self, session: &Arc<Session>) -> bool {
        let wakers = {
            let mut accepted = lock(&self.accepted);
            if !accepted.open {
                count(&self.counters.dropped_not_listening);
                return false;
            }
            if accepted.ready.len() >= self.config.backlog {
                count(&self.counters.dropped_backlog);
                return false;
            }
            accepted.ready.push_back(session.clone());
            std::mem::take(&mut accepted.wakers)
        };
        count(&self.counters.accepted);
        for waker in wakers {
            waker.wake();
        }
        true
    }

    pub(crate) fn left_half_open(&self, ip: IpAddr) {
        lock(&self.half_open).leave(ip);
    }

    pub(crate) fn admits_ip(&self, ip: IpAddr) -> bool {
        let Some(limit) = self.config.max_sessions_per_ip else { return true };
        lock(&self.per_ip).get(&ip).is_none_or(|&count| count < limit)
    }

    pub(crate) fn count_in(&self, ip: IpAddr) {
        if self.config.max_sessions_per_ip.is_some() {
            *lock(&self.per_ip).entry(ip).or_default() += 1;
        }
    }

    pub(crate) fn count_out(&self, ip: IpAddr) {
        if self.config.max_sessions_per_ip.is_some() {
            let mut per_ip = lock(&self.per_ip);
            if let Some(count) = per_ip.get_mut(&ip) {
                *count -= 1;
                if *count == 0 {
                    per_ip.remove(&ip);
                }
            }
        }
    }

    /// Sessions that somebody has accepted or dialled, each once.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        let mut all = self.registry.all();
        all.retain(|session| !session.is_half_open());
        all
    }

    pub(crate) fn poll_idle(&self, cx: &Context<'_>) -> Poll<()> {
        let mut idle = lock(&self.idle);
        if self.registry.is_empty() {
            return Poll::Ready(());
        }
        if !idle.iter().any(|waker| waker.will_wake(cx.waker())) {
            idle.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(crate) fn wake_idle(&self) {
        let wakers = std::mem::take(&mut *lock(&self.idle));
        for waker in wakers {
            waker.wake();
        }
    }

    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<io::Result<Arc<Session>>> {
        loop {
            let Some(session) = lock(&self.accepted).ready.pop_front() else { break };
            // Those that timed out while they waited are nobody's business.
            let state = session.lock();
            if !state.core.is_closed() || state.core.is_readable() {
                drop(state);
                return Poll::Ready(Ok(session));
            }
        }
        let mut accepted = lock(&self.accepted);
        if let Some(session) = accepted.ready.pop_front() {
            return Poll::Ready(Ok(session));
        }
        if self.is_dead() {
            return Poll::Ready(Err(KcpError::DriverGone.into()));
        }
        if !accepted.open {
            return Poll::Ready(Err(KcpError::ListenerClosed.into()));
        }
        // Several tasks may accept at once.
        if !accepted.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            accepted.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes no more sessions; those that nobody has accepted are dropped.
    pub(crate) fn stop_accepting(&self) {
        let (unaccepted, wakers) = {
            let mut accepted = lock(&self.accepted);
            accepted.open = false;
            (std::mem::take(&mut accepted.ready), std::mem::take(&mut accepted.wakers))
        };
        for session in unaccepted {
            session.with(|state, _| state.core.abort());
        }
        for waker in wakers {
            waker.wake();
        }
    }

    pub(crate) fn stats(&self) -> EndpointStats {
        let half_open = lock(&self.half_open).len();
        let received = self.drivers.iter().map(|driver| driver.received.load(Ordering::Relaxed)).sum();
        let refused = self.drivers.iter().map(|driver| driver.refused.load(Ordering::Relaxed)).sum();
        let mut stats = self.counters.snapshot(self.registry.len(), half_open, self.budget.held());
        (stats.datagrams_received, stats.offloads_refused) = (received, refused);
        stats
    }

    // ---- life ----

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_drivers();
        }
    }

    /// Nobody uses the socket and nothing lives on it.
    fn is_unused(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0 && self.registry.is_empty()
    }

    /// A listener's port is to be free at once.
    pub(crate) fn stay_until(&self, at: Timestamp) {
        if !self.dials_only {
            return;
        }
        self.stay_until.fetch_max(at.as_micros(), Ordering::AcqRel);
    }

    /// When nobody needs the socket any more, if nobody uses it now.
    pub(crate) fn unused_at(&self) -> Option<Timestamp> {
        self.is_unused().then(|| Timestamp::from_micros(self.stay_until.load(Ordering::Acquire)))
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// A driver has ended, and all of them do: everybody who waits for something learns of it.
    pub(crate) fn die(&self) {
        self.dead.store(true, Ordering::Release);
        for session in self.registry.all() {
            session.fail();
        }
        let wakers = std::mem::take(&mut lock(&self.accepted).wakers);
        for waker in wakers {
            waker.wake();
        }
        self.wake_idle();
        self.wake_drivers();
    }
}

/// Nothing panics under these locks, so poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
