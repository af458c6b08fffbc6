//! gRPC over KCP: [`Incoming`] for a server, [`connect`] for a client.
//!
//! ```no_run
//! use kcp_integrations::tonic::{Incoming, connect};
//! use tonic::transport::{Endpoint, Server};
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let (_, health) = tonic_health::server::health_reporter();
//! let listener = kcp_tokio::KcpListener::bind("0.0.0.0:4000").await?;
//! tokio::spawn(Server::builder().add_service(health).serve_with_incoming(Incoming::from(listener)));
//!
//! let channel = connect(&Endpoint::from_static("http://127.0.0.1:4000")).await?;
//! let client = tonic_health::pb::health_client::HealthClient::new(channel);
//! # Ok(())
//! # }
//! ```

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::tonic::transport::server::{Connected, TcpConnectInfo};
use ::tonic::transport::{Channel, Endpoint, Error};
use futures::Stream;
use kcp_tokio::{KcpListener, KcpStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::hyper::KcpConnector;

/// A channel over one KCP session, with the default configuration. It connects again when the session has ended.
///
/// With another configuration: `endpoint.connect_with_connector(KcpConnector::new(config))`.
///
/// # Errors
/// When nobody answers, or the endpoint's URI is none that [`KcpConnector`] takes.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    endpoint.connect_with_connector(KcpConnector::default()).await
}

/// The streams that a listener accepts, for `serve_with_incoming`. It ends when the listener is closed.
#[derive(Debug)]
pub struct Incoming(KcpListener);

impl Incoming {
    /// The listener below.
    #[must_use]
    pub const fn get_ref(&self) -> &KcpListener {
        &self.0
    }
}

impl From<KcpListener> for Incoming {
    fn from(listener: KcpListener) -> Self {
        Self(listener)
    }
}

impl Stream for Incoming {
    type Item = io::Result<KcpIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = ready!(Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(accepted.map(|stream| stream.map(KcpIo)))
    }
}

/// A [`KcpStream`] as tonic's server wants it: `Request::remote_addr` and `local_addr` tell the session's addresses.
#[derive(Debug)]
pub struct KcpIo(KcpStream);

impl KcpIo {
    /// The stream below.
    #[must_use]
    pub const fn get_ref(&self) -> &KcpStream {
        &self.0
    }

    /// Gives the stream back.
    #[must_use]
    pub fn into_inner(self) -> KcpStream {
        self.0
    }
}

impl From<KcpStream> for KcpIo {
    fn from(stream: KcpStream) -> Self {
        Self(stream)
    }
}

impl Connected for KcpIo {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        TcpConnectInfo { local_addr: self.0.local_addr().ok(), remote_addr: self.0.peer_addr().ok() }
    }
}

impl AsyncRead for KcpIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for KcpIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
