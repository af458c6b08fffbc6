//! An axum application served over KCP.
//!
//! ```no_run
//! use axum::{Router, extract::ConnectInfo, routing::get};
//! use kcp_integrations::axum::{Listener, PeerAddr};
//!
//! # async fn serve() -> std::io::Result<()> {
//! let app = Router::new()
//!     .route("/", get(|ConnectInfo(peer): ConnectInfo<PeerAddr>| async move { format!("hello, {peer}") }));
//! let listener = Listener::from(kcp_tokio::KcpListener::bind("0.0.0.0:4000").await?);
//! axum::serve(listener, app.into_make_service_with_connect_info::<PeerAddr>()).await
//! # }
//! ```

use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;

use ::axum::extract::connect_info::Connected;
use ::axum::serve::IncomingStream;
use kcp_tokio::{KcpListener, KcpStream};

/// A [`KcpListener`] for [`axum::serve`](::axum::serve()).
///
/// Handlers that extract `ConnectInfo<SocketAddr>` and are to stay as they are get it through axum's own `tap_io`:
///
/// ```no_run
/// use std::net::SocketAddr;
/// use axum::{Router, serve::ListenerExt};
/// use kcp_integrations::axum::Listener;
///
/// # async fn serve(app: Router, listener: kcp_tokio::KcpListener) -> std::io::Result<()> {
/// let listener = Listener::from(listener).tap_io(|_stream| ());
/// axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
/// # }
/// ```
#[derive(Debug)]
pub struct Listener(KcpListener);

impl Listener {
    /// The listener below.
    #[must_use]
    pub const fn get_ref(&self) -> &KcpListener {
        &self.0
    }

    /// Gives the listener back.
    #[must_use]
    pub fn into_inner(self) -> KcpListener {
        self.0
    }
}

impl From<KcpListener> for Listener {
    fn from(listener: KcpListener) -> Self {
        Self(listener)
    }
}

impl ::axum::serve::Listener for Listener {
    type Io = KcpStream;
    type Addr = SocketAddr;

    /// Never an error, as axum wants it. `KcpListener` fails only for good: then nobody arrives any more, what was accepted
    /// is served on, and a graceful shutdown still works.
    async fn accept(&mut self) -> (KcpStream, SocketAddr) {
        match self.0.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "the listener accepts no more");
                pending().await
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The peer's address, for `ConnectInfo<PeerAddr>`.
///
/// A type of its own because axum implements its trait for `SocketAddr` and nobody else may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr(pub SocketAddr);

impl Connected<IncomingStream<'_, Listener>> for PeerAddr {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
