//! One socket of an endpoint: what its driver shares with the sessions on it, and who is let in.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Context;
use std::time::Duration;

use kcp_core::Timestamp;
use kcp_core::admission::{Epitaph, Opening, answer_for};
use kcp_core::wire::Segments;

use crate::agenda::Agenda;
use crate::error::KcpError;
use crate::hub::Hub;
use crate::life::DriverSlot;
use crate::registry::Filed;
use crate::session::Session;
use crate::socket::{DatagramSocket, Route, crowd};
use crate::stats::count;
use crate::steer::conv_on;
use crate::sync::lock;

/// GSO takes at most 64 datagrams and one UDP payload of them.
pub(crate) const MAX_RUN_BYTES: usize = 65_507;

/// Tasks that run for longer than this before the driver's turn send themselves.
const LONGEST_GATHERING: Duration = Duration::from_micros(200);

/// A socket and what its driver has to do. Its sessions send by it; whichever socket hears of them, the registry knows them.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) hub: Arc<Hub>,
    /// Its number among the endpoint's.
    pub(crate) index: usize,
    way: RwLock<Way>,
    /// Datagrams in one transmit run.
    max_run: AtomicUsize,
    pub(crate) agenda: Agenda<Arc<Session>>,
}

/// Changes when the endpoint moves to another socket.
#[derive(Debug)]
struct Way {
    socket: Arc<dyn DatagramSocket>,
    /// The shard whose socket this is, if it is not its own: an endpoint of several sockets has moved to one.
    host: Option<Arc<Shard>>,
}

impl Shard {
    pub(crate) fn new(hub: Arc<Hub>, index: usize, socket: Arc<dyn DatagramSocket>) -> Arc<Self> {
        let mtu = hub.config.session.mtu_bytes();
        Arc::new(Self {
            max_run: AtomicUsize::new(socket.max_run().min(MAX_RUN_BYTES / mtu).max(1)),
            hub,
            index,
            way: RwLock::new(Way { socket, host: None }),
            agenda: Agenda::new(index),
        })
    }

    pub(crate) fn socket(&self) -> Arc<dyn DatagramSocket> {
        self.way.read().unwrap_or_else(PoisonError::into_inner).socket.clone()
    }

    pub(crate) fn max_run(&self) -> usize {
        self.max_run.load(Ordering::Relaxed)
    }

    /// Of runs that are under way the longest must fit, whatever the session.
    pub(crate) fn limit_runs(&self, mtu: usize) {
        self.max_run.fetch_min((MAX_RUN_BYTES / mtu).max(1), Ordering::Relaxed);
    }

    /// The socket, if it is this shard's to receive from.
    pub(crate) fn own_socket(&self) -> Option<Arc<dyn DatagramSocket>> {
        let way = self.way.read().unwrap_or_else(PoisonError::into_inner);
        way.host.is_none().then(|| way.socket.clone())
    }

    /// Moves to another socket, of its own or of `host`: extended peers follow within a round trip.
    pub(crate) fn rebind(&self, socket: Arc<dyn DatagramSocket>, host: Option<Arc<Self>>) {
        crowd::forget();
        *self.way.write().unwrap_or_else(PoisonError::into_inner) = Way { socket, host };
        self.wake_driver();
        for session in self.hub.registry.all() {
            if std::ptr::eq(&raw const *session.shard, self) {
                session.with(|state, _| state.core.probe_path());
            }
        }
    }

    // ---- work for the driver ----

    fn driver(&self) -> Option<&DriverSlot> {
        self.hub.life.drivers.get(self.index)
    }

    pub(crate) fn count_received(&self, datagrams: usize) {
        if let Some(driver) = self.driver() {
            driver.received.fetch_add(datagrams as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_refused(&self, refused: u64) {
        if let Some(driver) = self.driver() {
            driver.refused.store(refused, Ordering::Relaxed);
        }
    }

    pub(crate) fn wake_driver(&self) {
        self.hub.life.wake_driver(self.index);
    }

    pub(crate) fn register_driver(&self, cx: &Context<'_>) {
        self.hub.life.register(self.index, cx.waker());
    }

    /// From now on what tasks write waits for the driver's next turn, unless that lets them wait for long.
    pub(crate) fn gather(&self, now: Timestamp) {
        self.agenda.gather(now + LONGEST_GATHERING);
    }

    /// The same, once until that turn has come.
    pub(crate) fn gather_once(&self, now: Timestamp) {
        self.agenda.gather_once(now + LONGEST_GATHERING);
    }

    /// Leaves the rest of a session's work to the driver.
    pub(crate) fn mark(&self, session: &Arc<Session>) {
        self.agenda.mark(&self.hub.life, session);
    }

    pub(crate) fn wait_for_room(&self, session: Arc<Session>) {
        let host = self.way.read().unwrap_or_else(PoisonError::into_inner).host.clone();
        host.as_deref().unwrap_or(self).agenda.wait_for_room(&self.hub.life, session);
    }

    pub(crate) fn insert_timer(&self, at: Timestamp, session: Arc<Session>) {
        self.agenda.insert_timer(&self.hub.life, at, session);
    }

    // ---- sessions ----

    /// A session of ours towards `peer`.
    pub(crate) fn dial(self: &Arc<Self>, peer: SocketAddr, lazy: bool) -> io::Result<Arc<Session>> {
        if self.hub.life.is_dead() {
            return Err(KcpError::DriverGone.into());
        }
        let now = self.hub.now();
        // Random, so that a guess is one in 2^32, and not one that is in use or was lately.
        for _ in 0..64 {
            let conv = self.random_conv()?;
            if self.hub.registry.is_buried(&(peer, conv), now) {
                continue;
            }
            let (config, seed) = (self.hub.session_config(), self.hub.entropy.seed()?);
            let core = if lazy || !self.hub.config.connect_probe {
                kcp_core::Session::connect_lazy(conv, config, seed, now)
            } else {
                kcp_core::Session::connect(conv, config, seed, now)
            };
            let front = self.hub.front.as_ref();
            let layered = front.map(|front| front.session(false, &self.hub.entropy)).transpose()?;
            let session = Session::new(self.clone(), peer.into(), core, layered, false);
            if self.hub.registry.insert(&session, usize::MAX) == Filed::Yes {
                if self.hub.life.is_dead() {
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
    pub(crate) fn admit(
        self: &Arc<Self>,
        from: Route,
        conv: u32,
        datagram: &[u8],
        now: Timestamp,
    ) -> Option<Arc<Session>> {
        let peer = from.peer;
        let key = (peer, conv);
        // First, since what a dead session's peer repeats rarely looks like a beginning.
        if conv != 0
            && let Some(epitaph) = self.hub.registry.buried(&key, now)
        {
            self.answer(from, datagram, Some(&epitaph), now);
            count(&self.hub.counters.dropped_tombstone);
            return None;
        }
        if let Some(session) = self.hub.registry.roamer(conv)
            && Segments::parse(datagram, conv).is_ok()
        {
            return session.follow(from, datagram, now).then_some(session);
        }
        let config = self.hub.session_config();
        let window = config.recv_window_segments();
        let Some((conv, opening)) = kcp_core::admission::first_segment(datagram, window) else {
            count(&self.hub.counters.dropped_unknown);
            self.answer(from, datagram, None, now);
            return None;
        };
        let extended = opening == Opening::Probe && answer_for(datagram, None).is_some();
        let silently = |counter| {
            count(counter);
            if let Some(more) = self.hub.logs.turned_away.permit(now) {
                tracing::debug!(%peer, conv, more, "a first datagram is turned away: the counters say why");
            }
            None
        };
        let in_vain = |counter| {
            if opening == Opening::Push {
                // It may be what a client of a former life repeats: to every other one the answer means nothing.
                self.answer(from, datagram, None, now);
            }
            silently(counter)
        };
        if peer.port() == 0 {
            return silently(&self.hub.counters.dropped_source);
        }
        let Some(waiting) = self.hub.waiting() else {
            self.answer(from, datagram, None, now);
            return silently(&self.hub.counters.dropped_not_listening);
        };
        if self.hub.registry.len() >= self.hub.config.max_sessions {
            return in_vain(&self.hub.counters.dropped_sessions);
        }
        if waiting >= self.hub.config.backlog {
            return in_vain(&self.hub.counters.dropped_backlog);
        }
        if !self.hub.config.filter.admits(peer) {
            return silently(&self.hub.counters.dropped_filtered);
        }
        if !lock(&self.hub.half_open).admits(peer.ip(), self.hub.config.half_open, now)
            || !self.hub.admits_ip(peer.ip())
        {
            return in_vain(&self.hub.counters.dropped_filtered);
        }
        // conv 0 leaves the choice to us: one stable conv while the session lives, which the peer learns from our answer.
        let chosen = if conv == 0 { self.random_conv().ok()? } else { conv };
        let core = kcp_core::Session::accept(chosen, config, self.hub.entropy.seed().ok()?, now);
        let front = self.hub.front.as_ref();
        let layered = front.map(|front| front.session(true, &self.hub.entropy)).transpose().ok()?;
        let session = Session::new(self.clone(), from, core, layered, true);
        let evicted = {
            // Until it is entered everywhere: another socket of the endpoint may end it as soon as the registry knows it.
            let mut state = session.lock();
            if !self.hub.count_in(peer.ip(), false) {
                return in_vain(&self.hub.counters.dropped_filtered);
            }
            let filed = self.hub.registry.insert(&session, self.hub.config.max_sessions);
            if filed != Filed::Yes {
                self.hub.count_out(peer.ip());
                if filed == Filed::Full {
                    return in_vain(&self.hub.counters.dropped_sessions);
                }
                // Another socket of the endpoint was quicker.
                return self.hub.registry.get(&(peer, chosen));
            }
            if conv == 0 {
                state.extra().alias = Some(key);
                self.hub.registry.insert_alias(key, &session);
            }
            state.probed = opening == Opening::Probe && !extended;
            lock(&self.hub.half_open).push(peer.ip(), &session, self.hub.config.half_open)
        };
        if let Some(evicted) = evicted {
            count(&self.hub.counters.half_open_expired);
            evicted.with(|state, _| state.core.abort());
        }
        Some(session)
    }

    /// Answers a datagram of no session, if it expects an answer: never more than it brought.
    fn answer(&self, to: Route, datagram: &[u8], epitaph: Option<&Epitaph>, now: Timestamp) {
        let Some(answer) = answer_for(datagram, epitaph) else { return };
        if epitaph.is_none() {
            if !lock(&self.hub.limiter).permit(to.peer, now) {
                return;
            }
            count(&self.hub.counters.resets_sent);
        }
        self.send_bare(to, &answer, now);
    }

    /// Sends a datagram that is no session's. Lost is lost: it will be asked for again.
    pub(crate) fn send_bare(&self, to: Route, datagram: &[u8], now: Timestamp) {
        let send = |packet: &[u8]| drop(self.socket().try_send(to, packet, packet.len()));
        match &self.hub.front {
            Some(front) => front.seal(now, datagram, send),
            None => send(datagram),
        }
    }

    /// A conversation of this shard, and not 0.
    fn random_conv(&self) -> io::Result<u32> {
        Ok(conv_on(self.hub.entropy.u64()? as u32, self.index, self.hub.life.drivers.len()))
    }

    /// The driver has ended.
    pub(crate) fn die(&self) {
        self.hub.die();
        self.agenda.clear();
    }
}
