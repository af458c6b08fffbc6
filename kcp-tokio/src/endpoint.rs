//! One socket that both dials and accepts.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::config::KcpConfig;
use crate::driver::Driver;
use crate::handle::{Broadcast, SessionHandle};
use crate::hub::Hub;
use crate::shard::Shard;
use crate::socket::{DatagramSocket, UdpIo, bind_group};
use crate::stats::EndpointStats;
use crate::stream::KcpStream;

/// One UDP socket (or [several](KcpConfig::shards)) with any number of sessions, dialled and accepted.
///
/// Dropping it stops accepting; streams go on, and the socket lives as long as they need it.
///
/// A server of another implementation that tells sessions apart by address alone sees one client in all sessions of an
/// endpoint; towards those use [`KcpStream::connect`], which has a socket of its own.
#[derive(Debug)]
pub struct KcpEndpoint {
    hub: Arc<Hub>,
    /// At least one.
    shards: Vec<Arc<Shard>>,
    /// Whose turn it is to dial.
    next: AtomicUsize,
}

impl KcpEndpoint {
    /// Binds a socket. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Those of binding, and `InvalidInput` for a configuration out of range.
    #[allow(clippy::unused_async, reason = "registering with the runtime is async by contract, as in tokio")]
    pub async fn bind(addr: SocketAddr, config: KcpConfig) -> io::Result<Self> {
        config.validate()?;
        let mut sockets: Vec<Arc<dyn DatagramSocket>> = Vec::new();
        for socket in bind_group(addr, &config)? {
            sockets.push(Arc::new(UdpIo::new(socket, &config)?));
        }
        Self::start(sockets, config, true)
    }

    /// Takes any datagram transport, whatever the configuration says of [shards](KcpConfig::shards). Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration out of range.
    pub fn from_socket(socket: Arc<dyn DatagramSocket>, config: KcpConfig) -> io::Result<Self> {
        Self::start(vec![socket], config, true)
    }

    /// The same, to dial only, as [`KcpStream::connect`] does: [`accept`](Self::accept) fails at once, and who dials it is told that nobody
    /// listens. What its sessions write does not wait for what others write at the same moment, and after the last session's good end the socket
    /// stays for a moment (four RTOs, 2 s at most) to answer for it. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration out of range.
    pub fn client(socket: Arc<dyn DatagramSocket>, config: KcpConfig) -> io::Result<Self> {
        Self::start(vec![socket], config, false)
    }

    pub(crate) fn start(
        sockets: Vec<Arc<dyn DatagramSocket>>,
        config: KcpConfig,
        accepting: bool,
    ) -> io::Result<Self> {
        config.validate()?;
        let hub = Hub::new(config, accepting, sockets.len())?;
        hub.life.add_handle();
        let shards: Vec<_> = sockets
            .into_iter()
            .enumerate()
            .map(|(index, socket)| Shard::new(hub.clone(), index, socket))
            .collect();
        for shard in &shards {
            Driver::spawn(shard.clone());
        }
        Ok(Self { hub, shards, next: AtomicUsize::new(0) })
    }

    /// Takes turns, so that what is dialled spreads over the sockets.
    fn dial(&self, peer: SocketAddr, lazy: bool) -> io::Result<KcpStream> {
        let peer = self.reachable(peer)?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len().max(1);
        let shard = self.shards.get(turn).ok_or(io::ErrorKind::NotConnected)?;
        Ok(KcpStream::new(shard.dial(peer, lazy)?))
    }

    /// Opens a session towards `peer`.
    ///
    /// # Errors
    /// `TimedOut` when nobody answers within the connect timeout: a closed port as well, since a socket that has many peers is not told
    /// about one ([`KcpStream::connect`] is). The system's when it knows no way there from this socket.
    ///
    /// # Cancel safety
    /// Dropped before it completes, the attempt is abandoned.
    pub async fn connect(&self, peer: SocketAddr) -> io::Result<KcpStream> {
        let stream = self.dial(peer, false)?;
        stream.connected().await?;
        Ok(stream)
    }

    /// Opens a session towards `peer` without waiting for its answer.
    ///
    /// # Errors
    /// When the socket has failed; `InvalidInput` for an IPv6 peer of an IPv4 socket.
    pub fn connect_lazy(&self, peer: SocketAddr) -> io::Result<KcpStream> {
        self.dial(peer, true)
    }

    /// Takes over a socket that the caller has made. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Those of the socket, and `InvalidInput` for a configuration out of range.
    pub async fn from_std(socket: std::net::UdpSocket, config: KcpConfig) -> io::Result<Self> {
        config.validate()?;
        let socket = crate::connect::adopt(socket, &config, None).await?;
        Self::from_socket(socket, config)
    }

    /// Sessions opened from now on have the session parameters, the error correction and the key of `config`; those that live keep
    /// theirs, and go on. What concerns the socket (buffers, budgets, limits, filter) stays as it was.
    ///
    /// A session keeps its old key until it ends, but follows its peer to no other address any more once the key has changed.
    ///
    /// # Errors
    /// `InvalidInput` for a configuration out of range; `Unsupported` where packets could not be told apart: between layers and
    /// none, and to another key from or to none (`null` included). Nothing has changed then.
    pub fn reconfigure(&self, config: &KcpConfig) -> io::Result<()> {
        config.validate()?;
        self.hub.reconfigure(config)?;
        for shard in &self.shards {
            shard.limit_runs(config.session.mtu_bytes());
        }
        Ok(())
    }

    /// Moves all sessions to another socket: see [`KcpStream::rebind`]. An endpoint of several has one from then on.
    ///
    /// # Errors
    /// `InvalidInput` for a socket of the other family (IPv4, IPv6), and those of the new socket.
    pub async fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        crate::connect::same_family(&socket, self.local_addr()?)?;
        self.rebind_to(crate::connect::adopt(socket, &self.hub.config, None).await?);
        Ok(())
    }

    /// The same, to a socket of another kind, as [`from_socket`](Self::from_socket) takes one.
    pub fn rebind_to(&self, socket: Arc<dyn DatagramSocket>) {
        let Some((host, others)) = self.shards.split_first() else { return };
        host.rebind(socket.clone(), None);
        for other in others {
            other.rebind(socket.clone(), Some(host.clone()));
        }
    }

    /// The sessions that live now, accepted or dialled.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionHandle> {
        self.hub.sessions().into_iter().map(SessionHandle::new).collect()
    }

    /// Sends one message to every session; its bytes exist once however many there are (in message mode). Nobody waits for a
    /// slow one.
    pub fn broadcast(&self, msg: &Bytes) -> Broadcast {
        let mut result = Broadcast::default();
        for shard in &self.shards {
            // One call of the system for many, instead of one for each.
            shard.gather(self.hub.now());
        }
        for session in self.sessions() {
            match session.try_send_msg(msg) {
                Ok(()) => result.sent += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => result.slow.push(session),
                // Ended meanwhile.
                Err(_) => {}
            }
        }
        result
    }

    /// Takes no more sessions. Those that live go on; those that nobody has accepted are reset.
    pub fn stop_accepting(&self) {
        self.hub.stop_accepting();
    }

    /// Takes no more sessions, and ends those that live at once. Their peers are told, plain ones cannot be.
    pub fn close(&self) {
        self.hub.stop_accepting();
        for session in self.hub.registry.all() {
            session.abort();
        }
    }

    /// Waits until no session lives: after [`stop_accepting`](Self::stop_accepting), until all have ended and what dropped
    /// streams had to send is acknowledged.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_idle(&self) {
        poll_fn(|cx| self.hub.poll_idle(cx)).await;
    }

    /// An IPv6 socket knows IPv4 peers by their mapped address.
    fn reachable(&self, peer: SocketAddr) -> io::Result<SocketAddr> {
        match (self.local_addr()?, peer) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
                Ok(SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()))
            }
            (SocketAddr::V4(_), SocketAddr::V6(_)) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "an IPv4 socket reaches no IPv6 peer"))
            }
            _ => Ok(peer),
        }
    }

    /// The next session that a peer opens, and the peer's address.
    ///
    /// # Errors
    /// Only when the socket has failed for good: a peer's misbehaviour is never an error here.
    ///
    /// # Cancel safety
    /// Safe: no session is lost.
    pub async fn accept(&self) -> io::Result<(KcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`accept`](Self::accept) as a poll. Several tasks may poll; each is woken.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(KcpStream, SocketAddr)>> {
        self.hub.poll_accept(cx).map_ok(|session| {
            let peer = session.peer();
            (KcpStream::new(session), peer)
        })
    }

    /// The address of the socket.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let first = self.shards.first().ok_or(io::ErrorKind::NotConnected)?;
        first.socket().local_addr()
    }

    /// How many sockets it has: see [`KcpConfig::shards`].
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Datagrams received by each of its sockets: whether the load is spread.
    #[must_use]
    pub fn received_by_shard(&self) -> Vec<u64> {
        self.hub.life.drivers.iter().map(|driver| driver.received.load(Ordering::Relaxed)).collect()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        self.hub.stats()
    }
}

impl Drop for KcpEndpoint {
    fn drop(&mut self) {
        self.hub.stop_accepting();
        self.hub.life.drop_handle();
    }
}
