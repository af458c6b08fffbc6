//! The client: TCP connections in, streams out, over sessions that are dialled when they are needed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use kcp_smux::Stream;
use kcp_tokio::KcpStream;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::address::{Connection, Listener};
use super::flags::ClientFlags;
use super::link::Link;
use super::pipe::{self, Manners};
use super::settings::ClientSettings;
use super::{Daemon, LAST_WORDS, Tasks, raised};

/// A connection waits for a session for so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between attempts to dial.
const PAUSE: Duration = Duration::from_secs(1);
/// Whether an expired session has streams is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// The sessions of one reading of the configuration.
struct Pool {
    settings: ClientSettings,
    slots: Vec<Mutex<Option<Arc<Dialled>>>>,
    next: AtomicUsize,
    /// True: another reading has taken over, and these sessions end with their streams.
    retired: watch::Sender<bool>,
    daemon: Arc<Daemon>,
    /// Held by each session's task.
    sessions: Tasks,
}

/// A session.
struct Dialled {
    link: Link,
    /// It takes no more streams.
    expires: Option<Instant>,
}

impl Dialled {
    fn is_usable(&self) -> bool {
        self.link.mux.close_reason().is_none() && self.expires.is_none_or(|at| Instant::now() < at)
    }
}

impl Pool {
    fn new(settings: ClientSettings, daemon: &Arc<Daemon>, sessions: &Tasks) -> Arc<Self> {
        let slots = (0..settings.sessions).map(|_| Mutex::default()).collect();
        let retired = watch::Sender::new(false);
        let (daemon, sessions) = (daemon.clone(), sessions.clone());
        Arc::new(Self { settings, slots, next: AtomicUsize::new(0), retired, daemon, sessions })
    }

    /// A stream of the next session in turn, which is dialled if there is none.
    async fn stream(self: &Arc<Self>) -> Result<(Stream, Manners)> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let mut last = None;
        let found = timeout(PATIENCE, async {
            loop {
                match self.session(turn).await {
                    Ok(session) => match session.link.mux.open() {
                        Ok(stream) => return (stream, session.link.manners),
                        // It has just ended, or is full of streams.
                        Err(error) => last = Some(anyhow!(error)),
                    },
                    Err(error) => {
                        self.daemon
                            .log
                            .sparing("dial", format_args!("cannot dial {}: {error:#}", self.settings.remote));
                        last = Some(error);
                    }
                }
                sleep(PAUSE).await;
            }
        });
        let found = found.await;
        found.map_err(|_| last.unwrap_or_else(|| anyhow!("no session within {} s", PATIENCE.as_secs())))
    }

    async fn session(self: &Arc<Self>, turn: usize) -> Result<Arc<Dialled>> {
        let mut slot = self.slots[turn].lock().await;
        if let Some(session) = slot.as_ref().filter(|session| session.is_usable()) {
            return Ok(session.clone());
        }
        *slot = None;
        let session = Arc::new(self.dial().await?);
        *slot = Some(session.clone());
        Ok(session)
    }

    async fn dial(self: &Arc<Self>) -> Result<Dialled> {
        let addrs = self.settings.remote.pick().await?;
        let kcp = KcpStream::connect_with(addrs.as_slice(), self.settings.common.kcp.clone()).await;
        let kcp = kcp.context("no answer that this key opens")?;
        let peer = kcp.peer_addr()?;
        self.daemon.log.line(format_args!("session to {peer}"));
        let link = Link::new(kcp, true, &self.settings.common, &self.daemon.counters)?;
        let expires = self.settings.expire.map(|expire| Instant::now() + expire);
        tokio::spawn(self.clone().tend(link.clone(), expires, peer.to_string(), self.sessions.clone()));
        Ok(Dialled { link, expires })
    }

    /// Looks after a session until it ends: one that takes no more streams ends with the last, or when its time is over.
    async fn tend(self: Arc<Self>, link: Link, expires: Option<Instant>, peer: String, _task: Tasks) {
        let mut retired = self.retired.subscribe();
        let mut stop = self.daemon.stop.subscribe();
        let expired = async {
            match expires {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let reason = tokio::select! {
            reason = link.mux.closed() => Some(reason),
            () = expired => None,
            () = raised(&mut retired) => None,
            () = raised(&mut stop) => None,
        };
        if let Some(reason) = reason {
            self.daemon.log.line(format_args!("session to {peer} has ended: {reason}"));
            return;
        }
        let until = Instant::now() + self.settings.scavenge;
        loop {
            // First, since whoever has just been given this session opens a stream now.
            tokio::select! {
                _ = link.mux.closed() => break,
                () = sleep(LOOK.min(until.saturating_duration_since(Instant::now()))) => {}
                () = raised(&mut stop) => break,
            }
            if link.mux.streams() == 0 || Instant::now() >= until {
                break;
            }
        }
        let left = link.mux.streams();
        let _ = timeout(LAST_WORDS, link.mux.close()).await;
        self.daemon.log.line(format_args!("session to {peer} was closed with {left} streams"));
    }

    async fn serve(self: Arc<Self>, local: Connection, from: String, _task: Tasks) {
        match self.stream().await {
            Err(error) => {
                local.abort();
                self.daemon.log.sparing("turned away", format_args!("{from} was turned away: {error:#}"));
            }
            Ok((stream, manners)) => {
                let id = stream.id();
                let log = &self.daemon.log;
                log.stream(format_args!("stream opened: {from}, number {id}"));
                let outcome = pipe::join(local, stream, manners).await;
                log.stream(format_args!("stream closed: {from}, number {id}, {}", pipe::told(&outcome)));
            }
        }
    }
}

/// Runs until a signal ends it.
pub(crate) async fn run(flags: ClientFlags) -> Result<()> {
    let settings = ClientSettings::read(&flags, None)?;
    let (daemon, mut signals) = Daemon::start(&settings.common)?;
    let mut listener =
        settings.local.listen().await.with_context(|| format!("cannot listen on {}", settings.local))?;
    daemon.log.line(format_args!("listening on {}, server {}", listener.name(), settings.remote));
    let (connections, mut all_connections) = super::tasks();
    let (sessions, mut all_sessions) = super::tasks();
    let mut grace = settings.common.grace;
    let current = RwLock::new(Pool::new(settings, &daemon, &sessions));
    let pool = || current.read().unwrap_or_else(PoisonError::into_inner).clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((local, from)) => drop(tokio::spawn(pool().serve(local, from, connections.clone()))),
                Err(error) => super::survive(&daemon.log, &error).await,
            },
            signal = signals.next() => match signal {
                super::Signal::Reload => match reload(&flags, &pool(), &mut listener).await {
                    Ok(settings) => {
                        grace = settings.common.grace;
                        let before = pool();
                        *current.write().unwrap_or_else(PoisonError::into_inner) = Pool::new(settings, &daemon, &sessions);
                        let _ = before.retired.send_replace(true);
                    }
                    Err(error) => daemon.keep(&error),
                },
                super::Signal::Counters => daemon.log.line(format_args!("{}", daemon.counters.summary())),
                super::Signal::End => break,
            },
        }
    }
    drop((listener, connections, sessions, current));
    daemon.end(&mut signals, grace, &mut all_connections, &mut all_sessions).await;
    Ok(())
}

/// Reads the configuration again. When it fails nothing has changed.
async fn reload(flags: &ClientFlags, pool: &Pool, listener: &mut Listener) -> Result<ClientSettings> {
    let settings = ClientSettings::read(flags, Some(&pool.settings.common))?;
    let elsewhere = settings.local != pool.settings.local;
    let other = if elsewhere {
        Some(settings.local.listen().await.with_context(|| format!("cannot listen on {}", settings.local))?)
    } else {
        None
    };
    pool.daemon.follow(&settings.common)?;
    if let Some(other) = other {
        pool.daemon.log.line(format_args!("listening on {}", other.name()));
        *listener = other;
    }
    Ok(settings)
}
