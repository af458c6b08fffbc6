//! The server: sessions in, a connection to the target out for each of their streams.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use kcp_smux::Stream;
use kcp_tokio::{KcpConfig, KcpEndpoint, KcpListener, KcpStream};
use tokio::time::timeout;

use super::flags::ServerFlags;
use super::link::Link;
use super::pipe::{self, Manners};
use super::settings::ServerSettings;
use super::{Daemon, LAST_WORDS, Tasks, raised};

/// For the target to take a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// What sessions and streams have in common.
struct Server {
    /// Of sessions to come.
    settings: RwLock<Arc<ServerSettings>>,
    daemon: Arc<Daemon>,
}

impl Server {
    fn settings(&self) -> Arc<ServerSettings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Until the listener takes no more.
    async fn accept(self: Arc<Self>, listener: Arc<KcpListener>, sessions: Tasks, streams: Tasks) {
        while let Ok((kcp, peer)) = listener.accept().await {
            tokio::spawn(self.clone().session(kcp, peer, sessions.clone(), streams.clone()));
        }
    }

    async fn session(self: Arc<Self>, kcp: KcpStream, peer: SocketAddr, _task: Tasks, streams: Tasks) {
        let (settings, log) = (self.settings(), &self.daemon.log);
        let link = match Link::new(kcp, false, &settings.common, &self.daemon.counters) {
            Ok(link) => link,
            Err(error) => return log.sparing("session", format_args!("session from {peer}: {error:#}")),
        };
        log.sparing("begin", format_args!("session from {peer}"));
        let mut stop = self.daemon.stop.subscribe();
        let draining = self.daemon.draining.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = link.mux.accept() => accepted,
                () = raised(&mut stop) => {
                    let _ = timeout(LAST_WORDS, link.mux.close()).await;
                    return;
                }
            };
            match accepted {
                // Dropped, it is answered with FIN.
                Ok(_) if *draining.borrow() => {}
                Ok(stream) => {
                    let task =
                        self.clone().stream(settings.clone(), stream, link.manners, peer, streams.clone());
                    tokio::spawn(task);
                }
                Err(reason) => {
                    return log.sparing("end", format_args!("session from {peer} has ended: {reason}"));
                }
            }
        }
    }

    async fn stream(
        self: Arc<Self>,
        settings: Arc<ServerSettings>,
        stream: Stream,
        manners: Manners,
        peer: SocketAddr,
        _task: Tasks,
    ) {
        let (id, log, target) = (stream.id(), &self.daemon.log, &settings.target);
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        match timeout(PATIENCE, target.connect()).await.unwrap_or_else(|_| Err(late())) {
            Err(error) => log.sparing("target", format_args!("cannot connect to {target}: {error}")),
            Ok(connection) => {
                log.stream(format_args!("stream opened: {peer}, number {id}"));
                let outcome = pipe::join(connection, stream, manners).await;
                log.stream(format_args!("stream closed: {peer}, number {id}, {}", pipe::told(&outcome)));
            }
        }
    }
}

/// Binds every port.
async fn listen(settings: &ServerSettings) -> Result<Vec<Arc<KcpListener>>> {
    let mut listeners = Vec::new();
    let bound = async {
        for addrs in settings.listen.all().await? {
            listeners.push(Arc::new(bind(&addrs, &settings.common.kcp).await?));
        }
        anyhow::Ok(())
    };
    bound.await.with_context(|| format!("cannot listen on {}", settings.listen))?;
    Ok(listeners)
}

async fn bind(addrs: &[SocketAddr], config: &KcpConfig) -> io::Result<KcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for addr in addrs {
        match KcpEndpoint::bind(*addr, config.clone()).await {
            Ok(endpoint) => return Ok(endpoint.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Runs until a signal ends it.
pub(crate) async fn run(flags: ServerFlags) -> Result<()> {
    let settings = ServerSettings::read(&flags, None)?;
    let (daemon, mut signals) = Daemon::start(&settings.common)?;
    let mut listeners = listen(&settings).await?;
    let (streams, mut all_streams) = super::tasks();
    let (sessions, mut all_sessions) = super::tasks();
    let server = Arc::new(Server { settings: RwLock::new(Arc::new(settings)), daemon: daemon.clone() });
    let serve = |listeners: &[Arc<KcpListener>]| {
        for listener in listeners {
            let addr = listener.local_addr().map_or_else(|error| error.to_string(), |addr| addr.to_string());
            daemon.log.line(format_args!("listening on {addr}, target {}", server.settings().target));
            daemon.counters.listener(listener.clone());
            tokio::spawn(server.clone().accept(listener.clone(), sessions.clone(), streams.clone()));
        }
    };
    serve(&listeners);
    loop {
        match signals.next().await {
            super::Signal::Reload => match reload(&flags, &server, &listeners).await {
                Ok(None) => {}
                Ok(Some(others)) => {
                    for listener in std::mem::replace(&mut listeners, others) {
                        listener.stop_accepting();
                        daemon.counters.retire(&listener);
                    }
                    serve(&listeners);
                }
                Err(error) => daemon.keep(&error),
            },
            super::Signal::Counters => daemon.log.line(format_args!("{}", daemon.counters.summary())),
            super::Signal::End => break,
        }
    }
    daemon.draining.send_replace(true);
    for listener in &listeners {
        listener.stop_accepting();
    }
    drop((streams, sessions));
    daemon.end(&mut signals, server.settings().common.grace, &mut all_streams, &mut all_sessions).await;
    Ok(())
}

/// Reads the configuration again; the new listeners, if it wants others. When it fails nothing has changed.
async fn reload(
    flags: &ServerFlags,
    server: &Server,
    listeners: &[Arc<KcpListener>],
) -> Result<Option<Vec<Arc<KcpListener>>>> {
    let before = server.settings();
    let settings = ServerSettings::read(flags, Some(&before.common))?;
    let others = if settings.listen == before.listen { None } else { Some(listen(&settings).await?) };
    if others.is_none() {
        let [first, rest @ ..] = listeners else { return Ok(None) };
        let wrong = "this change takes another listen address, or a restart";
        first.reconfigure(&settings.common.kcp).context(wrong)?;
        // What one takes all do.
        for listener in rest {
            listener.reconfigure(&settings.common.kcp).context(wrong)?;
        }
        if settings.common.socket != before.common.socket {
            let kept = "sockbuf and dscp stay as they were: they belong to the socket";
            server.daemon.log.line(format_args!("{kept}"));
        }
    }
    server.daemon.follow(&settings.common)?;
    *server.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    Ok(others)
}
