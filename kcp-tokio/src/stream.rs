//! What stands where `TcpStream` stood.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kcp_core::Stats;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::ToSocketAddrs;

use crate::config::KcpConfig;
use crate::connect;
use crate::error::KcpError;
use crate::halves::{self, OwnedReadHalf, OwnedWriteHalf, ReadHalf, WriteHalf};
use crate::handle::SessionHandle;
use crate::messages::KcpMessages;
use crate::session::Session;

/// A reliable, ordered stream to a peer.
///
/// * A read gives `Ok(0)` when the peer has shut down and everything was read, never because of silence: a peer that is
///   gone is `TimedOut`. A peer of another implementation cannot tell that its stream has ended.
/// * [`shutdown`] waits until the peer has acknowledged every byte; writing after it
///   is `BrokenPipe`, reading goes on.
/// * [`flush`] hands everything to the network and does not wait for acknowledgements.
/// * Dropped, the stream goes on sending what was written for up to the linger time, unless something was left unread:
///   then it is reset, as TCP does. No kernel does that: a runtime that ends first takes what is unsent with it, and the peer is told of a
///   reset. [`shutdown`] before the end of `main`.
/// * In message mode (`SessionConfig::stream(false)`) each write is a message, sent whole or not at all.
///
/// [`shutdown`]: https://docs.rs/tokio/latest/tokio/io/trait.AsyncWriteExt.html#method.shutdown
/// [`flush`]: https://docs.rs/tokio/latest/tokio/io/trait.AsyncWriteExt.html#method.flush
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
pub struct KcpStream(pub(crate) Owner);

/// Whoever holds it holds the stream: with the last one the session is left to itself.
#[derive(Debug)]
pub(crate) struct Owner(pub(crate) Arc<Session>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.detach();
        self.0.hub().life.drop_handle();
    }
}

impl KcpStream {
    /// Connects with the default configuration, from a socket of its own; each address of a host name is tried.
    ///
    /// # Errors
    /// `TimedOut` when nobody answers within the connect timeout, `ConnectionRefused` when the peer's system says three times that
    /// nothing listens (after about a second: one such message may be forged), that of the system when it knows no way there, and those of
    /// resolving and binding.
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

    /// Opens a session without waiting for the peer's answer: what is written leaves at once. A peer that is not there shows
    /// by the session's timeouts only.
    ///
    /// # Errors
    /// Those of resolving and binding, and `InvalidInput` for a configuration out of range.
    pub async fn connect_lazy(addr: impl ToSocketAddrs, config: KcpConfig) -> io::Result<Self> {
        connect::connect(addr, config.connect_probe(false)).await
    }

    /// Connects from a socket that the caller has made.
    ///
    /// # Errors
    /// As [`connect_with`](Self::connect_with).
    pub async fn connect_on(
        socket: std::net::UdpSocket,
        peer: SocketAddr,
        config: KcpConfig,
    ) -> io::Result<Self> {
        connect::connect_on(socket, peer, config).await
    }

    pub(crate) fn new(session: Arc<Session>) -> Self {
        session.hub().life.add_handle();
        Self(Owner(session))
    }

    pub(crate) const fn session(&self) -> &Arc<Session> {
        &self.0.0
    }

    /// Waits for the peer's first answer.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        // Starts the probing.
        self.session().with(|_, _| ());
        poll_fn(|cx| {
            let mut state = self.session().lock();
            if let Some(error) = state.end() {
                return Poll::Ready(Err(error.into()));
            }
            if !state.core.is_connecting() {
                return Poll::Ready(Ok(()));
            }
            state.extra().waiter.register(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// The peer's address.
    ///
    /// # Errors
    /// None; the signature is `TcpStream`'s.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.session().peer())
    }

    /// The address of the socket.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.session().local_addr()
    }

    /// The conversation id.
    #[must_use]
    pub fn conv(&self) -> u32 {
        self.session().conv
    }

    /// Counters and gauges of this session.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.session().lock().core.stats()
    }

    /// The same of encryption and error correction, if the configuration has any.
    #[cfg(feature = "layers")]
    #[must_use]
    pub fn layer_stats(&self) -> Option<kcp_layers::LayerStats> {
        self.session().lock().layered.as_ref().map(|layered| layered.stats())
    }

    /// Smoothed round-trip time, after the first sample.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.session().lock().core.rtt()
    }

    /// Whether the peer is one of ours: then ends of streams and resets are told, the session follows its client to another
    /// address, and datagrams can be sent.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.session().lock().core.is_extended()
    }

    /// A look at this session from outside the stream, which it may outlive.
    #[must_use]
    pub fn handle(&self) -> SessionHandle {
        SessionHandle::new(self.session().clone())
    }

    /// Sends a message; in message mode its boundaries are kept.
    ///
    /// # Errors
    /// `InvalidInput` when it is longer than 127 fragments; otherwise those of a write. One of more fragments than the peer's receive window
    /// has segments, which the peer never tells, can never arrive, and ends the session.
    ///
    /// # Cancel safety
    /// Safe: dropped before it completes, nothing was sent.
    pub async fn send_msg(&self, msg: Bytes) -> io::Result<()> {
        poll_fn(|cx| self.session().poll_send_msg(cx, &msg)).await
    }

    /// Receives a message; in stream mode whatever bytes are next.
    ///
    /// # Errors
    /// `UnexpectedEof` when the peer has ended its stream; otherwise those of a read.
    ///
    /// # Cancel safety
    /// Safe: dropped before it completes, nothing was taken.
    pub async fn recv_msg(&self) -> io::Result<Bytes> {
        poll_fn(|cx| self.session().poll_recv_msg(cx)).await.map_err(Into::into)
    }

    /// The stream as a `Sink` and a `Stream` of messages.
    #[must_use]
    pub const fn into_messages(self) -> KcpMessages {
        KcpMessages::new(self)
    }

    /// Sends a datagram that is neither repeated nor ordered, and overtakes the stream. Some wait when the network is slow
    /// (64 KiB); then the oldest are dropped, and counted.
    ///
    /// # Errors
    /// `Unsupported` when the peer is a plain KCP implementation, `InvalidInput` when it is longer than
    /// [`max_datagram`](Self::max_datagram), `NotConnected` after the end.
    pub fn send_datagram(&self, data: Bytes) -> io::Result<()> {
        self.session().send_datagram(data)
    }

    /// The next unreliable datagram of the peer. 64 KiB of them wait to be received; then the oldest are dropped, and counted.
    ///
    /// A peer that has ended its stream may send datagrams all the same. If it has gone, that is heard at once from a read, and here only
    /// when its linger time is over: who waits for datagrams alone does well to read as well.
    ///
    /// # Errors
    /// When the session has ended.
    ///
    /// # Cancel safety
    /// Safe: dropped before it completes, nothing was taken.
    pub async fn recv_datagram(&self) -> io::Result<Bytes> {
        poll_fn(|cx| self.session().poll_recv_datagram(cx)).await
    }

    /// Longest unreliable datagram, in bytes: the mtu less 28.
    #[must_use]
    pub fn max_datagram(&self) -> usize {
        self.session().lock().core.max_datagram()
    }

    /// Reads without taking; waits until something is there. At the end of the stream `Ok(0)`.
    ///
    /// # Errors
    /// Those of a read.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.session().poll_peek(cx, buf)).await
    }

    /// Waits until an operation of this interest would not wait.
    ///
    /// # Errors
    /// None; the signature is `TcpStream`'s.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        Ok(self.session().ready(interest).await)
    }

    /// Waits until a read would not wait: for data, the end of the stream or an error.
    ///
    /// # Errors
    /// None; the signature is `TcpStream`'s.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until a write would not wait.
    ///
    /// # Errors
    /// None; the signature is `TcpStream`'s.
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is; otherwise those of a read.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.session().try_read(buf)
    }

    /// Reads what is there, into several buffers.
    ///
    /// # Errors
    /// As [`try_read`](Self::try_read).
    pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.session().try_read_vectored(bufs)
    }

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; otherwise those of a write.
    pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        self.session().try_write(&[IoSlice::new(buf)])
    }

    /// Writes what there is room for, from several buffers.
    ///
    /// # Errors
    /// As [`try_write`](Self::try_write).
    pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.session().try_write(bufs)
    }

    /// Borrows the two directions.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf(self), WriteHalf(self))
    }

    /// Parts the two directions for good, or until they are
    /// [reunited](OwnedReadHalf::reunite). Dropping the write half shuts its direction down.
    #[must_use]
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        halves::split(self)
    }

    /// Off: small writes wait up to `interval` for more, to share a segment (`SessionConfig::write_delay`).
    ///
    /// # Errors
    /// None; the signature is `TcpStream`'s.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.session().with(|state, _| state.core.set_write_delay(!nodelay));
        Ok(())
    }

    /// How long this stream goes on sending after it was dropped; zero resets the session then. `None`: as configured.
    ///
    /// # Errors
    /// None; the signature is `TcpStream`'s.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.session().lock().extra().linger = linger;
        Ok(())
    }

    /// Ends the session at once. What was not acknowledged is lost; the peer is told, unless it is a plain one.
    pub fn abort(&self) {
        self.session().abort();
    }

    /// Waits for the end of the session, and tells why.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn closed(&self) -> KcpError {
        self.session().closed().await
    }

    /// Moves to another socket, after a change of networks. The peer, if it is one of ours, follows within a round trip;
    /// nothing is lost.
    ///
    /// # Errors
    /// `InvalidInput` for a socket of the other family (IPv4, IPv6), and those of the new socket.
    pub async fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        let shard = &self.session().shard;
        connect::same_family(&socket, self.session().peer())?;
        let socket = connect::adopt(socket, &shard.hub.config, Some(self.session().peer())).await?;
        shard.rebind(socket, None);
        Ok(())
    }
}

impl AsyncRead for KcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.session().poll_read(cx, buf)
    }
}

impl AsyncWrite for KcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.session().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.session().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session().poll_flush()
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session().poll_shutdown(cx)
    }
}

impl fmt::Debug for KcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KcpStream")
            .field("peer", &self.session().peer())
            .field("conv", &self.session().conv)
            .finish()
    }
}

const _: () = {
    const fn like_a_tcp_stream<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug + 'static>() {}
    like_a_tcp_stream::<KcpStream>();
};
