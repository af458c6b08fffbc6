//! KCP behind the names of the suite.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use kcp_tokio::{KcpListener, KcpStream, OwnedReadHalf, OwnedWriteHalf};
use tokio::io::{Interest, Ready};

use crate::transport::Transport;

pub(crate) enum Kcp {}

impl Transport for Kcp {
    type Stream = KcpStream;
    type Listener = KcpListener;
    type ReadHalf = OwnedReadHalf;
    type WriteHalf = OwnedWriteHalf;

    async fn bind() -> io::Result<KcpListener> {
        KcpListener::bind("127.0.0.1:0").await
    }

    fn listener_addr(listener: &KcpListener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(listener: &KcpListener) -> io::Result<(KcpStream, SocketAddr)> {
        listener.accept().await
    }

    async fn connect(addr: SocketAddr) -> io::Result<KcpStream> {
        KcpStream::connect(addr).await
    }

    fn local_addr(stream: &KcpStream) -> io::Result<SocketAddr> {
        stream.local_addr()
    }

    fn peer_addr(stream: &KcpStream) -> io::Result<SocketAddr> {
        stream.peer_addr()
    }

    fn set_linger(stream: &KcpStream, linger: Option<Duration>) -> io::Result<()> {
        stream.set_linger(linger)
    }

    fn abort(stream: KcpStream) {
        stream.abort();
    }

    async fn peek(stream: &KcpStream, buf: &mut [u8]) -> io::Result<usize> {
        stream.peek(buf).await
    }

    async fn readable(stream: &KcpStream) -> io::Result<()> {
        stream.readable().await
    }

    async fn writable(stream: &KcpStream) -> io::Result<()> {
        stream.writable().await
    }

    async fn ready(stream: &KcpStream, interest: Interest) -> io::Result<Ready> {
        stream.ready(interest).await
    }

    fn try_read(stream: &KcpStream, buf: &mut [u8]) -> io::Result<usize> {
        stream.try_read(buf)
    }

    fn try_write(stream: &KcpStream, buf: &[u8]) -> io::Result<usize> {
        stream.try_write(buf)
    }

    fn into_split(stream: KcpStream) -> (OwnedReadHalf, OwnedWriteHalf) {
        stream.into_split()
    }

    fn reunite(
        reader: OwnedReadHalf,
        writer: OwnedWriteHalf,
    ) -> Result<KcpStream, (OwnedReadHalf, OwnedWriteHalf)> {
        reader.reunite(writer).map_err(|error| (error.0, error.1))
    }
}
