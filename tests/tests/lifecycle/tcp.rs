//! The oracle: tokio's TCP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::transport::Transport;

pub(crate) enum Tcp {}

impl Transport for Tcp {
    type Stream = TcpStream;
    type Listener = TcpListener;
    type ReadHalf = OwnedReadHalf;
    type WriteHalf = OwnedWriteHalf;

    async fn bind() -> io::Result<TcpListener> {
        TcpListener::bind("127.0.0.1:0").await
    }

    fn listener_addr(listener: &TcpListener) -> io::Result<SocketAddr> {
        listener.local_addr()
    }

    async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        listener.accept().await
    }

    async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(addr).await
    }

    fn local_addr(stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.local_addr()
    }

    fn peer_addr(stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.peer_addr()
    }

    fn set_linger(stream: &TcpStream, linger: Option<Duration>) -> io::Result<()> {
        SockRef::from(stream).set_linger(linger)
    }

    fn abort(stream: TcpStream) {
        stream.set_zero_linger().unwrap();
    }

    async fn peek(stream: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        stream.peek(buf).await
    }

    async fn readable(stream: &TcpStream) -> io::Result<()> {
        stream.readable().await
    }

    async fn writable(stream: &TcpStream) -> io::Result<()> {
        stream.writable().await
    }

    async fn ready(stream: &TcpStream, interest: Interest) -> io::Result<Ready> {
        stream.ready(interest).await
    }

    fn try_read(stream: &TcpStream, buf: &mut [u8]) -> io::Result<usize> {
        stream.try_read(buf)
    }

    fn try_write(stream: &TcpStream, buf: &[u8]) -> io::Result<usize> {
        stream.try_write(buf)
    }

    fn into_split(stream: TcpStream) -> (OwnedReadHalf, OwnedWriteHalf) {
        stream.into_split()
    }

    fn reunite(
        reader: OwnedReadHalf,
        writer: OwnedWriteHalf,
    ) -> Result<TcpStream, (OwnedReadHalf, OwnedWriteHalf)> {
        reader.reunite(writer).map_err(|error| (error.0, error.1))
    }
}
