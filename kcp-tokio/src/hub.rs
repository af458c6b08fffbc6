//! What all sockets of an endpoint share: registry, limits, counters, accept queue, and whether anybody still uses them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};

use kcp_core::{SessionConfig, Timestamp};
use tokio::time::Instant;

use crate::accept::{AcceptQueue, Over, Refused};
use crate::budget::Budget;
use crate::config::KcpConfig;
use crate::entropy::Entropy;
use crate::error::KcpError;
use crate::halfopen::{HalfOpen, Stranger};
use crate::layered::Front;
use crate::life::Life;
use crate::limiter::Limiter;
use crate::logs::LogLimits;
use crate::registry::Registry;
use crate::session::Session;
use crate::stats::{Counters, EndpointStats, count};
use crate::sync::lock;

/// An endpoint, whichever of its sockets a session is on.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) config: KcpConfig,
    /// Of sessions to come.
    session_config: RwLock<Arc<SessionConfig>>,
    /// Encryption and error correction, if any.
    pub(crate) front: Option<Front>,
    pub(crate) registry: Registry<Session>,
    pub(crate) counters: Counters,
    pub(crate) budget: Budget,
    /// Of conversations, tokens and nonces.
    pub(crate) entropy: Entropy,
    /// Of the numbers that stand for addresses.
    path_secret: u64,
    pub(crate) logs: LogLimits,
    pub(crate) half_open: Mutex<HalfOpen<Session>>,
    pub(crate) limiter: Mutex<Limiter>,
    accepted: AcceptQueue<Arc<Session>>,
    pub(crate) life: Life,
    /// Sessions that peers have opened, by address; kept only where their number is limited.
    per_ip: Mutex<HashMap<IpAddr, usize>>,
    pub(crate) dials_only: bool,
    epoch: Instant,
}

impl Hub {
    /// What stands for an address in questions to it: nobody else can compute it, so nobody can answer for an address at which
    /// the question did not arrive.
    pub(crate) fn path(&self, addr: SocketAddr) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.path_secret, addr).hash(&mut hasher);
        hasher.finish()
    }

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
            accepted: AcceptQueue::new(accepting),
            life: Life::new(sockets),
            half_open: Mutex::default(),
            limiter: Mutex::new(Limiter::new(entropy.u64()?)),
            path_secret: entropy.u64()?,
            entropy,
            per_ip: Mutex::default(),
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

    // ---- admission ----

    /// How many sessions wait for `accept`; none if nobody accepts.
    pub(crate) fn waiting(&self) -> Option<usize> {
        self.accepted.waiting()
    }

    /// A session has become somebody's: false when nobody has room for it.
    pub(crate) fn offer(&self, session: &Arc<Session>) -> bool {
        let counter = match self.accepted.offer(session.clone(), self.config.backlog) {
            Ok(()) => {
                count(&self.counters.accepted);
                return true;
            }
            Err(Refused::NotListening) => &self.counters.dropped_not_listening,
            Err(Refused::Full) => &self.counters.dropped_backlog,
        };
        count(counter);
        false
    }

    pub(crate) fn left_half_open(&self, ip: IpAddr) {
        lock(&self.half_open).leave(ip);
    }

    pub(crate) fn admits_ip(&self, ip: IpAddr) -> bool {
        let Some(limit) = self.config.max_sessions_per_ip else { return true };
        lock(&self.per_ip).get(&ip).is_none_or(|&count| count < limit)
    }

    /// One more of this address, unless there are too many. Who has moved is welcome anyway.
    pub(crate) fn count_in(&self, ip: IpAddr, moved: bool) -> bool {
        let Some(limit) = self.config.max_sessions_per_ip else { return true };
        let mut per_ip = lock(&self.per_ip);
        let count = per_ip.get(&ip).copied().unwrap_or_default();
        let admitted = moved || count < limit;
        if admitted {
            per_ip.insert(ip, count + 1);
        }
        admitted
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
        self.life.poll_idle(cx.waker(), || self.registry.is_empty())
    }

    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<io::Result<Arc<Session>>> {
        loop {
            return match self.accepted.poll(cx.waker(), || self.life.is_dead()) {
                Poll::Ready(Ok(session)) => {
                    let state = session.lock();
                    if state.core.is_closed() && !state.core.is_readable() {
                        // Those that timed out while they waited are nobody's business.
                        continue;
                    }
                    drop(state);
                    Poll::Ready(Ok(session))
                }
                Poll::Ready(Err(Over::DriverGone)) => Poll::Ready(Err(KcpError::DriverGone.into())),
                Poll::Ready(Err(Over::Closed)) => Poll::Ready(Err(KcpError::ListenerClosed.into())),
                Poll::Pending => Poll::Pending,
            };
        }
    }

    /// Takes no more sessions; those that nobody has accepted are dropped.
    pub(crate) fn stop_accepting(&self) {
        for session in self.accepted.close() {
            session.with(|state, _| state.core.abort());
        }
    }

    pub(crate) fn stats(&self) -> EndpointStats {
        let half_open = lock(&self.half_open).len();
        let received = self.life.drivers.iter().map(|driver| driver.received.load(Ordering::Relaxed)).sum();
        let refused = self.life.drivers.iter().map(|driver| driver.refused.load(Ordering::Relaxed)).sum();
        let mut stats = self.counters.snapshot(self.registry.len(), half_open, self.budget.held());
        (stats.datagrams_received, stats.offloads_refused) = (received, refused);
        stats
    }

    // ---- life ----

    /// A listener's port is to be free at once.
    pub(crate) fn stay_until(&self, at: Timestamp) {
        if !self.dials_only {
            return;
        }
        self.life.stay_until(at.as_micros());
    }

    /// When nobody needs the socket any more, if nobody uses it now.
    pub(crate) fn unused_at(&self) -> Option<Timestamp> {
        self.life.unused_at(|| self.registry.is_empty()).map(Timestamp::from_micros)
    }

    /// A driver has ended, and all of them do: everybody who waits for something learns of it.
    pub(crate) fn die(&self) {
        self.life.kill();
        for session in self.registry.all() {
            session.fail();
        }
        self.accepted.wake_all();
        self.life.wake_idle();
        self.life.wake_drivers();
    }
}
