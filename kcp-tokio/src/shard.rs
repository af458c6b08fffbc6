//! What the driver of one socket shares with its sessions: registry, timers, work queues, accept queue.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use futures::task::AtomicWaker;
use kcp_core::admission::{Epitaph, Opening, answer_for};
use kcp_core::wire::Segments;
use kcp_core::{Seed, SessionConfig, Timestamp};
use tokio::time::Instant;

use crate::budget::Budget;
use crate::config::KcpConfig;
use crate::error::KcpError;
use crate::halfopen::HalfOpen;
use crate::layered::Front;
use crate::limiter::Limiter;
use crate::logs::LogLimits;
use crate::registry::{Key, Registry};
use crate::session::Session;
use crate::socket::DatagramSocket;
use crate::stats::{Counters, EndpointStats, count};
use crate::timers::Timers;

/// GSO takes at most 64 datagrams and one UDP payload of them.
const MAX_RUN_BYTES: usize = 65_507;

/// One socket and everything that lives on it.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Changes when the endpoint moves to another socket.
    socket: RwLock<Arc<dyn DatagramSocket>>,
    pub(crate) config: KcpConfig,
    /// Of sessions to come.
    session_config: RwLock<Arc<SessionConfig>>,
    /// Encryption and error correction, if any.
    pub(crate) front: Option<Front>,
    pub(crate) registry: Registry,
    pub(crate) counters: Counters,
    pub(crate) budget: Budget,
    pub(crate) logs: LogLimits,
    /// Datagrams in one transmit run.
    max_run: AtomicUsize,
    /// Sessions with work for the driver. Lock order: session, then any of these; never two of these at once.
    work: Mutex<Vec<Arc<Session>>>,
    /// Sessions that wait for the socket to have room.
    blocked: Mutex<Vec<Arc<Session>>>,
    timers: Mutex<Timers>,
    accepted: Mutex<AcceptQueue>,
    half_open: Mutex<HalfOpen>,
    limiter: Mutex<Limiter>,
    /// Sessions that peers have opened, by address; kept only where their number is limited.
    per_ip: Mutex<HashMap<IpAddr, usize>>,
    /// Wait until there is no session.
    idle: Mutex<Vec<Waker>>,
    driver: AtomicWaker,
    /// Endpoints, listeners and streams; with none of them and no session the driver ends.
    handles: AtomicUsize,
    /// In microseconds: until then the driver answers for sessions that have ended, although nobody uses the socket.
    stay_until: AtomicU64,
    dead: AtomicBool,
    dials_only: bool,
    epoch: Instant,
}

#[derive(Debug, Default)]
struct AcceptQueue {
    /// False: nobody will ever accept (again).
    open: bool,
    ready: VecDeque<Arc<Session>>,
    wakers: Vec<Waker>,
}

impl Shard {
    pub(crate) fn new(
        socket: Arc<dyn DatagramSocket>,
        config: KcpConfig,
        accepting: bool,
    ) -> io::Result<Arc<Self>> {
        let mtu = config.session.mtu_bytes();
        Ok(Arc::new(Self {
            max_run: AtomicUsize::new(socket.max_run().min(MAX_RUN_BYTES / mtu).max(1)),
            socket: RwLock::new(socket),
            session_config: RwLock::new(Arc::new(config.inner_session())),
            front: Front::of(&config)?,
            logs: LogLimits::default(),
            budget: Budget::new(config.recv_budget, config.send_budget),
            config,
            registry: Registry::default(),
            counters: Counters::default(),
            work: Mutex::default(),
            blocked: Mutex::default(),
            timers: Mutex::default(),
            accepted: Mutex::new(AcceptQueue { open: accepting, ..AcceptQueue::default() }),
            half_open: Mutex::default(),
            limiter: Mutex::default(),
            per_ip: Mutex::default(),
            idle: Mutex::default(),
            driver: AtomicWaker::new(),
            handles: AtomicUsize::new(0),
            stay_until: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            dials_only: !accepting,
            epoch: Instant::now(),
        }))
    }

    /// The sessions' clock: tokio's, so that paused time is virtual time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.epoch.elapsed()
    }

    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.epoch + at.saturating_since(Timestamp::ZERO)
    }

    pub(crate) fn socket(&self) -> Arc<dyn DatagramSocket> {
        self.socket.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a packet that this key opened may open a session.
    pub(crate) fn is_current_key(&self, key: u32) -> bool {
        self.front.as_ref().is_none_or(|front| front.keys().current == key)
    }

    fn session_config(&self) -> Arc<SessionConfig> {
        self.session_config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn max_run(&self) -> usize {
        self.max_run.load(Ordering::Relaxed)
    }

    /// Sessions to come are of this configuration.
    pub(crate) fn reconfigure(&self, config: &KcpConfig) -> io::Result<()> {
        Front::reconfigure(self.front.as_ref(), config)?;
        // Of runs that are under way the longest must fit, whatever the session.
        self.max_run.fetch_min((MAX_RUN_BYTES / config.session.mtu_bytes()).max(1), Ordering::Relaxed);
        *self.session_config.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(config.inner_session());
        Ok(())
    }

    /// Moves to another socket: extended peers follow within a round trip.
    pub(crate) fn rebind(&self, socket: Arc<dyn DatagramSocket>) {
        *self.socket.write().unwrap_or_else(PoisonError::into_inner) = socket;
        self.wake_driver();
        for session in self.registry.all() {
            session.with(|state, _| state.core.probe_path());
        }
    }

    // ---- work for the driver ----

    pub(crate) fn wake_driver(&self) {
        self.driver.wake();
    }

    pub(crate) fn register_driver(&self, cx: &Context<'_>) {
        self.driver.register(cx.waker());
    }

    pub(crate) fn enqueue(&self, session: Arc<Session>) {
        lock(&self.work).push(session);
        self.wake_driver();
    }

    /// Swaps the work queue with an empty one, so that marks made meanwhile wait for the next turn.
    pub(crate) fn take_work(&self, into: &mut Vec<Arc<Session>>) {
        std::mem::swap(&mut *lock(&self.work), into);
    }

    pub(crate) fn wait_for_room(&self, session: Arc<Session>) {
        lock(&self.blocked).push(session);
        self.wake_driver();
    }

    pub(crate) fn has_blocked(&self) -> bool {
        !lock(&self.blocked).is_empty()
    }

    pub(crate) fn take_blocked(&self) -> Vec<Arc<Session>> {
        std::mem::take(&mut *lock(&self.blocked))
    }

    pub(crate) fn insert_timer(&self, at: Timestamp, session: Arc<Session>) {
        if lock(&self.timers).insert(at, session) {
            self.wake_driver();
        }
    }

    pub(crate) fn pop_timer(&self, now: Timestamp) -> Option<(Timestamp, Arc<Session>)> {
        lock(&self.timers).pop_due(now)
    }

    /// The next deadline; the driver promises to wake up then.
    pub(crate) fn arm(&self) -> Option<Timestamp> {
        let mut timers = lock(&self.timers);
        timers.armed = timers.next();
        timers.armed
    }

    // ---- sessions ----

    /// A session of ours towards `peer`.
    pub(crate) fn dial(self: &Arc<Self>, peer: SocketAddr, lazy: bool) -> io::Result<Arc<Session>> {
        if self.is_dead() {
            return Err(KcpError::DriverGone.into());
        }
        let now = self.now();
        // Random, so that a guess is one in 2^32, and not one that is in use or was lately.
        for _ in 0..64 {
            let conv = random()? as u32;
            if conv == 0 || self.registry.is_buried(&(peer, conv), now) {
                continue;
            }
            let (config, seed) = (self.session_config(), seed()?);
            let core = if lazy || !self.config.connect_probe {
                kcp_core::Session::connect_lazy(conv, config, seed, now)
            } else {
                kcp_core::Session::connect(conv, config, seed, now)
            };
            let layered = self.front.as_ref().map(|front| front.session(false)).transpose()?;
            let session = Session::new(self.clone(), peer, core, layered, false);
            if self.registry.insert((peer, conv), &session) {
                if self.is_dead() {
                    // The driver ended meanwhile, and may have told its sessions before this one was there.
                    session.fail();
                    return Err(KcpError::DriverGone.into());
                }
                session.lock().open_span(peer, conv);
                return Ok(session);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no free conversation id towards this peer"))
    }

    /// Judges a datagram that belongs to no session; the session that it opens, if it does.
    pub(crate) fn admit(self: &Arc<Self>, key: Key, datagram: &[u8], now: Timestamp) -> Option<Arc<Session>> {
        let (peer, conv) = key;
        // First, since what a dead session's peer repeats rarely looks like a beginning.
        if conv != 0
            && let Some(epitaph) = self.registry.buried(&key, now)
        {
            self.answer(peer, datagram, Some(&epitaph), now);
            count(&self.counters.dropped_tombstone);
            return None;
        }
        if let Some(session) = self.registry.roamer(conv)
            && Segments::parse(datagram, conv).is_ok()
        {
            return session.follow(peer, datagram, now).then_some(session);
        }
        let config = self.session_config();
        let window = config.recv_window_segments();
        let Some((conv, opening)) = kcp_core::admission::first_segment(datagram, window) else {
            count(&self.counters.dropped_unknown);
            self.answer(peer, datagram, None, now);
            return None;
        };
        let extended = opening == Opening::Probe && answer_for(datagram, None).is_some();
        let in_vain = |counter| {
            count(counter);
            if let Some(more) = self.logs.turned_away.permit(now) {
                tracing::debug!(%peer, conv, more, "a first datagram is turned away: the counters say why");
            }
            None
        };
        let ready = {
            let accepted = lock(&self.accepted);
            if !accepted.open {
                drop(accepted);
                self.answer(peer, datagram, None, now);
                return in_vain(&self.counters.dropped_not_listening);
            }
            accepted.ready.len()
        };
        if self.registry.len() >= self.config.max_sessions {
            return in_vain(&self.counters.dropped_sessions);
        }
        if ready >= self.config.backlog {
            return in_vain(&self.counters.dropped_backlog);
        }
        if peer.port() == 0 {
            return in_vain(&self.counters.dropped_source);
        }
        let crowded = !lock(&self.half_open).admits(peer.ip(), self.config.half_open, now)
            || !self.admits_ip(peer.ip());
        if crowded || !self.config.filter.admits(peer) {
            return in_vain(&self.counters.dropped_filtered);
        }
        // conv 0 leaves the choice to us: one stable conv while the session lives, which the peer learns from our answer.
        let chosen = if conv == 0 { (random().ok()? as u32).max(1) } else { conv };
        let core = kcp_core::Session::accept(chosen, config, seed().ok()?, now);
        let layered = self.front.as_ref().map(|front| front.session(true)).transpose().ok()?;
        let session = Session::new(self.clone(), peer, core, layered, true);
        {
            // Nobody else knows it yet.
            let mut state = session.lock();
            state.alias = (conv == 0).then_some(key);
            state.probed = opening == Opening::Probe && !extended;
        }
        if !self.registry.insert((peer, chosen), &session) {
            return None;
        }
        if conv == 0 {
            self.registry.insert(key, &session);
        }
        self.count_in(peer.ip());
        let evicted = lock(&self.half_open).push(peer.ip(), &session, self.config.half_open);
        if let Some(evicted) = evicted {
            count(&self.counters.half_open_expired);
            evicted.with(|state, _| state.core.abort());
        }
        Some(session)
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

    /// Answers a datagram of no session, if it expects an answer: never more than it brought.
    fn answer(&self, peer: SocketAddr, datagram: &[u8], epitaph: Option<&Epitaph>, now: Timestamp) {
        let Some(answer) = answer_for(datagram, epitaph) else { return };
        if epitaph.is_none() {
            if !lock(&self.limiter).permit(peer, now) {
                return;
            }
            count(&self.counters.resets_sent);
        }
        self.send_bare(peer, &answer, now);
    }

    /// Sends a datagram that is no session's. Lost is lost: it will be asked for again.
    pub(crate) fn send_bare(&self, to: SocketAddr, datagram: &[u8], now: Timestamp) {
        let send = |packet: &[u8]| drop(self.socket().try_send(to, packet, packet.len()));
        match &self.front {
            Some(front) => front.seal(now, datagram, send),
            None => send(datagram),
        }
    }

    pub(crate) fn left_half_open(&self, ip: IpAddr) {
        lock(&self.half_open).leave(ip);
    }

    fn half_open(&self) -> usize {
        lock(&self.half_open).len()
    }

    fn admits_ip(&self, ip: IpAddr) -> bool {
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
        self.counters.snapshot(self.registry.len(), self.half_open(), self.budget.held())
    }

    // ---- life ----

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_driver();
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

    /// The driver has ended: everybody who waits for something learns of it.
    pub(crate) fn die(&self) {
        self.dead.store(true, Ordering::Release);
        for session in self.registry.all() {
            session.fail();
        }
        lock(&self.timers).clear();
        lock(&self.work).clear();
        lock(&self.blocked).clear();
        let wakers = std::mem::take(&mut lock(&self.accepted).wakers);
        for waker in wakers {
            waker.wake();
        }
        self.wake_idle();
    }
}

/// Nothing panics under these locks, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}

fn seed() -> io::Result<Seed> {
    random_bytes().map(Seed::from_bytes)
}

/// From the operating system.
pub(crate) fn random_bytes() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
