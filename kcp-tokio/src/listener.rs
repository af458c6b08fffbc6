//! What stands where `TcpListener` stood.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use tokio::net::{ToSocketAddrs, lookup_host};

use crate::config::KcpConfig;
use crate::endpoint::KcpEndpoint;
use crate::handle::{Broadcast, SessionHandle};
use crate::stats::EndpointStats;
use crate::stream::KcpStream;

/// Accepts KCP sessions, of any implementation, on one UDP socket.
///
/// Dropping it stops accepting and nothing else: accepted streams go on.
///
/// ```no_run
/// # async fn serve() -> std::io::Result<()> {
/// let listener = kcp_tokio::KcpListener::bind("0.0.0.0:4000").await?;
/// loop {
///     let (mut stream, peer) = listener.accept().await?;
///     tokio::spawn(async move {
///         let (mut reader, mut writer) = tokio::io::split(stream);
///         tokio::io::copy(&mut reader, &mut writer).await
///     });
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct KcpListener {
    endpoint: KcpEndpoint,
}

impl KcpListener {
    /// Binds with the default configuration; of several addresses the first that works.
    ///
    /// # Errors
    /// Those of resolving and binding.
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::bind_with(addr, KcpConfig::default()).await
    }

    /// Binds.
    ///
    /// # Errors
    /// Those of resolving and binding, and `InvalidInput` for a configuration out of range.
    pub async fn bind_with(addr: impl ToSocketAddrs, config: KcpConfig) -> io::Result<Self> {
        let mut last = None;
        for addr in lookup_host(addr).await? {
            match KcpEndpoint::bind(addr, config.clone()).await {
                Ok(endpoint) => return Ok(Self { endpoint }),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address to bind to")))
    }

    /// The next session that a peer opens, and the peer's address.
    ///
    /// # Errors
    /// Only when the socket has failed for good.
    ///
    /// # Cancel safety
    /// Safe: no session is lost.
    pub async fn accept(&self) -> io::Result<(KcpStream, SocketAddr)> {
        self.endpoint.accept().await
    }

    /// [`accept`](Self::accept) as a poll.
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(KcpStream, SocketAddr)>> {
        self.endpoint.poll_accept(cx)
    }

    /// The sessions that arrive, as a stream that ends only when the socket has failed.
    #[must_use]
    pub const fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    /// The endpoint below: dials from the same socket, lists sessions, broadcasts.
    #[must_use]
    pub const fn endpoint(&self) -> &KcpEndpoint {
        &self.endpoint
    }

    /// See [`KcpEndpoint::sessions`].
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionHandle> {
        self.endpoint.sessions()
    }

    /// See [`KcpEndpoint::broadcast`].
    pub fn broadcast(&self, msg: &Bytes) -> Broadcast {
        self.endpoint.broadcast(msg)
    }

    /// See [`KcpEndpoint::reconfigure`].
    ///
    /// # Errors
    /// Those of [`KcpEndpoint::reconfigure`].
    pub fn reconfigure(&self, config: &KcpConfig) -> io::Result<()> {
        self.endpoint.reconfigure(config)
    }

    /// See [`KcpEndpoint::stop_accepting`].
    pub fn stop_accepting(&self) {
        self.endpoint.stop_accepting();
    }

    /// See [`KcpEndpoint::close`].
    pub fn close(&self) {
        self.endpoint.close();
    }

    /// See [`KcpEndpoint::wait_idle`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        self.endpoint.stats()
    }
}

/// [`KcpListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a>(&'a KcpListener);

fn next(listener: &KcpListener, cx: &mut Context<'_>) -> Poll<Option<io::Result<KcpStream>>> {
    listener.poll_accept(cx).map(|accepted| match accepted {
        Ok((stream, _)) => Some(Ok(stream)),
        // The listener was closed: a stream's end.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => None,
        Err(error) => Some(Err(error)),
    })
}

impl Stream for Incoming<'_> {
    type Item = io::Result<KcpStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        next(self.0, cx)
    }
}

impl Stream for KcpListener {
    type Item = io::Result<KcpStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        next(&self, cx)
    }
}

impl From<KcpEndpoint> for KcpListener {
    fn from(endpoint: KcpEndpoint) -> Self {
        Self { endpoint }
    }
}
