//! KCP where code is generic over tokio-util's `Listener`, and through its `Either` beside TCP.
//!
//! ```
//! use kcp_integrations::tokio_util::Listener;
//! use tokio_util::either::Either;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let kcp = true;
//! let listener: Either<tokio::net::TcpListener, Listener> = if kcp {
//!     Either::Right(kcp_tokio::KcpListener::bind("127.0.0.1:0").await?.into())
//! } else {
//!     Either::Left(tokio::net::TcpListener::bind("127.0.0.1:0").await?)
//! };
//! # drop(listener);
//! # Ok(())
//! # }
//! ```

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use kcp_tokio::{KcpListener, KcpStream};

/// A [`KcpListener`] as tokio-util's [`Listener`](::tokio_util::net::Listener).
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

impl ::tokio_util::net::Listener for Listener {
    type Io = KcpStream;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(KcpStream, SocketAddr)>> {
        self.0.poll_accept(cx)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
