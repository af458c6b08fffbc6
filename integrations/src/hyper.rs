//! HTTP clients of hyper-util over KCP.
//!
//! A server needs nothing from here: `hyper_util::rt::TokioIo::new(stream)` is what hyper serves.
//!
//! ```no_run
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use kcp_integrations::hyper::KcpConnector;
//!
//! # async fn get(body: http_body_util::Empty<bytes::Bytes>) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder(TokioExecutor::new()).build(KcpConnector::default());
//! # let request = http::Request::get("http://game.example:4000/").body(body)?;
//! # client.request(request).await?;
//! let response = client.get("http://game.example:4000/".parse()?).await?;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::hyper::rt::{Read, ReadBufCursor, Write};
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use kcp_tokio::{KcpConfig, KcpStream};
use tower_service::Service;

/// Connects to the host and port of a URI; the port defaults to the scheme's.
///
/// Speaks no TLS, and therefore refuses `https` unless told that what wraps it does: see
/// [`enforce_http`](Self::enforce_http).
#[derive(Clone, Debug)]
pub struct KcpConnector {
    config: KcpConfig,
    enforce_http: bool,
}

impl KcpConnector {
    /// Connects with this configuration.
    #[must_use]
    pub const fn new(config: KcpConfig) -> Self {
        Self { config, enforce_http: true }
    }

    /// Whether every scheme but `http` is refused, as is the default. Off for connectors that put TLS on top.
    #[must_use]
    pub const fn enforce_http(mut self, enforce: bool) -> Self {
        self.enforce_http = enforce;
        self
    }

    fn target(&self, uri: &Uri) -> io::Result<(String, u16)> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if self.enforce_http && uri.scheme_str() != Some("http") {
            return Err(invalid("the connector speaks http only"));
        }
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("the URI names no host"))?;
        // An IPv6 address is in brackets in a URI and nowhere else.
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        Ok((bare.to_owned(), uri.port_u16().unwrap_or(default)))
    }
}

impl Default for KcpConnector {
    fn default() -> Self {
        Self::new(KcpConfig::default())
    }
}

impl Service<Uri> for KcpConnector {
    type Response = KcpIo;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let target = self.target(&uri);
        let config = self.config.clone();
        Connecting(Box::pin(async move {
            let (host, port) = target?;
            KcpStream::connect_with((host, port), config).await.map(KcpIo::new)
        }))
    }
}

/// An attempt of [`KcpConnector`]; dropped, it is abandoned.
pub struct Connecting(Pin<Box<dyn Future<Output = io::Result<KcpIo>> + Send>>);

impl Future for Connecting {
    type Output = io::Result<KcpIo>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connecting")
    }
}

/// The addresses of a connection, in the extensions of each response that came over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KcpInfo {
    /// The server's address.
    pub peer: SocketAddr,
    /// The address of the socket.
    pub local: SocketAddr,
}

/// A [`KcpStream`] as hyper wants it.
#[derive(Debug)]
pub struct KcpIo(TokioIo<KcpStream>);

impl KcpIo {
    /// Wraps.
    #[must_use]
    pub fn new(stream: KcpStream) -> Self {
        Self(TokioIo::new(stream))
    }

    /// The stream below.
    #[must_use]
    pub fn get_ref(&self) -> &KcpStream {
        self.0.inner()
    }

    /// Gives the stream back.
    #[must_use]
    pub fn into_inner(self) -> KcpStream {
        self.0.into_inner()
    }
}

impl Connection for KcpIo {
    fn connected(&self) -> Connected {
        let stream = self.get_ref();
        match (stream.peer_addr(), stream.local_addr()) {
            (Ok(peer), Ok(local)) => Connected::new().extra(KcpInfo { peer, local }),
            _ => Connected::new(),
        }
    }
}

impl Read for KcpIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for KcpIo {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(connector: &KcpConnector, uri: &str) -> io::Result<(String, u16)> {
        connector.target(&uri.parse().unwrap())
    }

    #[test]
    fn where_a_uri_leads() {
        let plain = KcpConnector::default();
        assert_eq!(target(&plain, "http://host:4000/x").unwrap(), ("host".to_owned(), 4000));
        assert_eq!(target(&plain, "http://host/").unwrap(), ("host".to_owned(), 80));
        assert_eq!(target(&plain, "http://[::1]:9/").unwrap(), ("::1".to_owned(), 9));
        assert_eq!(target(&plain.enforce_http(false), "https://host/").unwrap(), ("host".to_owned(), 443));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        for uri in ["https://host/", "/path", "ftp://host/"] {
            let error = target(&KcpConnector::default(), uri).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{uri}");
        }
        assert!(target(&KcpConnector::default().enforce_http(false), "/path").is_err());
    }
}
