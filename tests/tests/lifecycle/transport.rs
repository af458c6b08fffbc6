//! What a scenario may do with a transport; the names are those of tokio's TCP.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, Ready};

pub(crate) trait Transport: 'static {
    type Stream: AsyncRead + AsyncWrite + std::fmt::Debug + Unpin + Send + Sync + 'static;
    type Listener: Send + Sync + 'static;
    type ReadHalf: AsyncRead + Unpin + Send + Sync + 'static;
    type WriteHalf: AsyncWrite + Unpin + Send + Sync + 'static;

    /// Binds to a free port of 127.0.0.1.
    fn bind() -> impl Future<Output = io::Result<Self::Listener>> + Send;
    fn listener_addr(listener: &Self::Listener) -> io::Result<SocketAddr>;
    fn accept(
        listener: &Self::Listener,
    ) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
    fn connect(addr: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    fn local_addr(stream: &Self::Stream) -> io::Result<SocketAddr>;
    fn peer_addr(stream: &Self::Stream) -> io::Result<SocketAddr>;
    fn set_linger(stream: &Self::Stream, linger: Option<Duration>) -> io::Result<()>;
    /// Ends the connection at once; the peer is reset.
    fn abort(stream: Self::Stream);

    fn peek(stream: &Self::Stream, buf: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;
    fn readable(stream: &Self::Stream) -> impl Future<Output = io::Result<()>> + Send;
    fn writable(stream: &Self::Stream) -> impl Future<Output = io::Result<()>> + Send;
    fn ready(stream: &Self::Stream, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send;
    fn try_read(stream: &Self::Stream, buf: &mut [u8]) -> io::Result<usize>;
    fn try_write(stream: &Self::Stream, buf: &[u8]) -> io::Result<usize>;

    fn into_split(stream: Self::Stream) -> (Self::ReadHalf, Self::WriteHalf);
    fn reunite(
        reader: Self::ReadHalf,
        writer: Self::WriteHalf,
    ) -> Result<Self::Stream, (Self::ReadHalf, Self::WriteHalf)>;
}
