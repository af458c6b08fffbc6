//! What stands where `TcpStream` stood.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use kcp_core::{ReadError, Stats, WriteError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::ToSocketAddrs;

use crate::config::KcpConfig;
use crate::connect;
use crate::error::KcpError;
use crate::session::Session;

/// A reliable, ordered stream to a peer.
///
/// * A read gives `Ok(0)` never because of silence: a peer that is gone is `TimedOut`. Plain KCP has no end of stream.
/// * [`shutdown`](tokio::io::AsyncWriteExt::shutdown) waits until the peer has acknowledged every byte; writing after it
///   is `BrokenPipe`, reading goes on.
/// * [`flush`](tokio::io::AsyncWriteExt::flush) hands everything to the network and does not wait for acknowledgements.
/// * Dropped, the stream goes on sending what was written for up to the configured linger time.
///
/// # Cancel safety
/// `read`, `write`, `flush`, `shutdown`, `send_msg` and `recv_msg` may be dropped at any point: what did not complete took
/// nothing and lost nothing. `read_exact` and `write_all` are not safe, as in tokio.
///
/// ```no_run
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # async fn talk() -> std::io::Result<()> {
/// let mut stream = kcp_tokio::KcpStream::connect("game.example:4000").await?;
/// stream.write_all(b"hello").await?;
/// let mut reply = [0; 5];
/// stream.read_exact(&mut reply).await?;
/// # Ok(())
/// # }
/// ```
pub struct KcpStream {
    session: Arc<Session>,
}

impl KcpStream {
    /// Connects with the default configuration, from a socket of its own; each address of a host name is tried.
    ///
    /// # Errors
    /// `TimedOut` when nobody answers within the connect timeout, `ConnectionRefused` when the peer's system says that
    /// nothing listens, and those of resolving and binding.
    ///
    /// # Cancel safety
    /// Dropped before it completes, the attempt is abandoned.
    pub async fn connect(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::connect_with(addr, KcpConfig::default()).await
    }

    /// Connects; see [`connect`](Self::connect).
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and `InvalidInput` for a configuration out of range.
    pub async fn connect_with(addr: impl ToSocketAddrs, config: KcpConfig) -> io::Result<Self> {
        connect::connect(addr, config).await
    }

    pub(crate) fn new(session: Arc<Session>) -> Self {
        session.shard.add_handle();
        Self { session }
    }

    /// Waits for the peer's first answer.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        // Starts the probing.
        self.session.with(|_, _| ());
        poll_fn(|cx| {
            let mut state = self.session.lock();
            if let Some(error) = state.end() {
                return Poll::Ready(Err(error.into()));
            }
            if !state.core.is_connecting() {
                return Poll::Ready(Ok(()));
            }
            state.waiter.register(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// The peer's address.
    ///
    /// # Errors
    /// None; the signature is `TcpStream`'s.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.session.peer)
    }

    /// The address of the socket.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.session.shard.socket.local_addr()
    }

    /// The conversation id.
    #[must_use]
    pub fn conv(&self) -> u32 {
        self.session.conv
    }

    /// Counters and gauges of this session.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.session.lock().core.stats()
    }

    /// Sends a message; in message mode its boundaries are kept.
    ///
    /// # Errors
    /// `InvalidInput` when it is longer than 127 fragments; otherwise those of a write.
    ///
    /// # Cancel safety
    /// Safe: dropped before it completes, nothing was sent.
    pub async fn send_msg(&self, msg: Bytes) -> io::Result<()> {
        poll_fn(|cx| self.poll_write_with(cx, |core, now| core.send_msg(now, msg.clone()))).await
    }

    /// Receives a message; in stream mode whatever bytes are next.
    ///
    /// # Errors
    /// Those of a read.
    ///
    /// # Cancel safety
    /// Safe: dropped before it completes, nothing was taken.
    pub async fn recv_msg(&self) -> io::Result<Bytes> {
        poll_fn(|cx| self.poll_read_with(cx, |core, now| core.recv_msg(now))).await
    }

    /// Ends the session at once. What was not acknowledged is lost; plain KCP cannot tell the peer.
    pub fn abort(&self) {
        self.session.with(|state, _| state.core.abort());
    }

    fn poll_read_with<T>(
        &self,
        cx: &Context<'_>,
        read: impl FnOnce(&mut kcp_core::Session, kcp_core::Timestamp) -> Result<T, ReadError>,
    ) -> Poll<io::Result<T>> {
        let mut wakeups = crate::session::Wakeups::default();
        let now = self.session.shard.now();
        let mut state = self.session.lock();
        let result = read(&mut state.core, now);
        match result {
            Ok(value) => {
                // Only a reader that made room in a closed window has something to send.
                if state.core.poll_timeout().is_some_and(|at| at <= now) {
                    self.session.after(&mut state, now, crate::session::INLINE_RUNS, &mut wakeups);
                }
                drop(state);
                wakeups.wake();
                Poll::Ready(Ok(value))
            }
            Err(ReadError::Closed(reason)) => Poll::Ready(Err(state.closed(reason).into())),
            Err(_) => {
                state.reader.register(cx.waker());
                Poll::Pending
            }
        }
    }

    fn poll_write_with<T>(
        &self,
        cx: &Context<'_>,
        write: impl FnOnce(&mut kcp_core::Session, kcp_core::Timestamp) -> Result<T, WriteError>,
    ) -> Poll<io::Result<T>> {
        self.session.with(|state, now| match write(&mut state.core, now) {
            Ok(value) => Poll::Ready(Ok(value)),
            Err(WriteError::Blocked) => {
                state.writer.register(cx.waker());
                Poll::Pending
            }
            Err(WriteError::Closed(reason)) => Poll::Ready(Err(state.closed(reason).into())),
            Err(error) => Poll::Ready(Err(KcpError::Write(error).into())),
        })
    }
}

impl AsyncRead for KcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = self.poll_read_with(cx, |core, now| core.read(now, buf.initialize_unfilled()));
        read.map_ok(|n| buf.advance(n))
    }
}

impl AsyncWrite for KcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |core, now| core.write(now, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |core, now| {
            if !core.config().is_stream() {
                // All slices together are one message.
                let message: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
                return core.write(now, &message);
            }
            let mut taken = 0;
            for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
                match core.write(now, buf) {
                    Ok(n) => {
                        taken += n;
                        if n < buf.len() {
                            break;
                        }
                    }
                    Err(error) if taken == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            Ok(taken)
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.session.with(|state, _| {
            state.core.flush();
            state.end().map_or(Ok(()), |error| Err(error.into()))
        }))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.with(|state, _| {
            state.core.shutdown();
            if let Some(error) = state.end() {
                return Poll::Ready(Err(error.into()));
            }
            if state.core.is_drained() {
                return Poll::Ready(Ok(()));
            }
            state.waiter.register(cx.waker());
            Poll::Pending
        })
    }
}

impl Drop for KcpStream {
    fn drop(&mut self) {
        self.session.detach();
        self.session.shard.drop_handle();
    }
}

impl fmt::Debug for KcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KcpStream")
            .field("peer", &self.session.peer)
            .field("conv", &self.session.conv)
            .finish()
    }
}

const _: () = {
    const fn like_a_tcp_stream<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug + 'static>() {}
    like_a_tcp_stream::<KcpStream>();
};
