//! KCP behind the names of the suite, as far as kcp-tokio goes today; `kcp.rs` takes its place.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kcp_tokio::{KcpListener, KcpStream};
use tokio::io::{
    AsyncRead, AsyncWrite, Interest, ReadBuf, ReadHalf as SplitRead, Ready, WriteHalf as SplitWrite,
};

use crate::transport::Transport;

pub(crate) enum Kcp {}

/// The stream behind a lock: reading and writing need `&mut`.
#[derive(Debug)]
pub(crate) struct Stream(Mutex<KcpStream>);

impl Stream {
    fn with<V>(&self, run: impl FnOnce(Pin<&mut KcpStream>) -> V) -> V {
        run(Pin::new(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

fn missing<V>() -> io::Result<V> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Transport for Kcp {
    type Stream = Stream;
    type Listener = KcpListener;
    type ReadHalf = SplitRead<Stream>;
    type WriteHalf = SplitWrite<Stream>;

    async fn bind() -> io::Result<KcpListener> {
        KcpListener::bind("127.0.0.1:0").await
    }

    fn listener_addr(listener: &KcpListener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(listener: &KcpListener) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = listener.accept().await?;
        Ok((Stream(Mutex::new(stream)), peer))
    }

    async fn connect(addr: SocketAddr) -> io::Result<Stream> {
        Ok(Stream(Mutex::new(KcpStream::connect(addr).await?)))
    }

    fn local_addr(stream: &Stream) -> io::Result<SocketAddr> {
        stream.with(|stream| stream.local_addr())
    }

    fn peer_addr(stream: &Stream) -> io::Result<SocketAddr> {
        stream.with(|stream| stream.peer_addr())
    }

    fn set_linger(_: &Stream, _: Option<Duration>) -> io::Result<()> {
        missing()
    }

    fn abort(stream: Stream) {
        stream.with(|stream| stream.abort());
    }

    async fn peek(_: &Stream, _: &mut [u8]) -> io::Result<usize> {
        missing()
    }

    async fn readable(_: &Stream) -> io::Result<()> {
        missing()
    }

    async fn writable(_: &Stream) -> io::Result<()> {
        missing()
    }

    async fn ready(_: &Stream, _: Interest) -> io::Result<Ready> {
        missing()
    }

    fn try_read(stream: &Stream, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match stream.with(|stream| stream.poll_read(&mut Context::from_waker(Waker::noop()), &mut buf)) {
            Poll::Ready(result) => result.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn try_write(stream: &Stream, buf: &[u8]) -> io::Result<usize> {
        match stream.with(|stream| stream.poll_write(&mut Context::from_waker(Waker::noop()), buf)) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn into_split(stream: Stream) -> (Self::ReadHalf, Self::WriteHalf) {
        tokio::io::split(stream)
    }

    fn reunite(
        reader: Self::ReadHalf,
        writer: Self::WriteHalf,
    ) -> Result<Stream, (Self::ReadHalf, Self::WriteHalf)> {
        if reader.is_pair_of(&writer) { Ok(reader.unsplit(writer)) } else { Err((reader, writer)) }
    }
}
