//! KCP where UDP passes, TCP where it does not: one stream type for both, and a client that falls back.
//! `cargo run --example any_stream` shows both cases by itself.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// How long UDP may take to prove itself: a few round trips, and repetitions of what is lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// A stream over either.
#[derive(Debug)]
pub enum AnyStream {
    /// Over UDP.
    Kcp(KcpStream),
    /// Where UDP is blocked.
    Tcp(TcpStream),
}

impl AnyStream {
    /// Tries KCP first; TCP, at the same port, if nobody answers.
    ///
    /// # Errors
    /// TCP's, when both fail.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let config = KcpConfig::from(SessionConfig::fast().connect_timeout(PATIENCE));
        match KcpStream::connect_with(addr, config).await {
            Ok(stream) => Ok(Self::Kcp(stream)),
            Err(_) => {
                let stream = TcpStream::connect(addr).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
        }
    }
}

/// Calls a method of whichever stream it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            AnyStream::Kcp(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
            AnyStream::Tcp(stream) => {
                let $inner = Pin::new(stream);
                $call
            }
        }
    };
}

impl AsyncRead for AnyStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for AnyStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_shutdown(cx))
    }
}

/// Upper-cases what one client says, whatever it came by.
async fn shout(mut stream: AnyStream) -> io::Result<()> {
    let mut said = String::new();
    stream.read_to_string(&mut said).await?;
    stream.write_all(said.to_uppercase().as_bytes()).await?;
    stream.shutdown().await
}

/// Serves one client over TCP, or over KCP if `udp` lets it.
async fn serve(tcp: TcpListener, udp: Option<KcpListener>) -> io::Result<()> {
    let Some(udp) = udp else { return shout(AnyStream::Tcp(tcp.accept().await?.0)).await };
    tokio::select! {
        accepted = udp.accept() => shout(AnyStream::Kcp(accepted?.0)).await,
        accepted = tcp.accept() => shout(AnyStream::Tcp(accepted?.0)).await,
    }
}

/// One client and its server; returns what the client got, and over what.
pub(crate) async fn talk(udp_passes: bool) -> io::Result<(String, &'static str)> {
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let addr = tcp.local_addr()?;
    // The same port, which is what makes the fallback need no second address.
    let udp = if udp_passes { Some(KcpListener::bind(addr).await?) } else { None };
    let server = tokio::spawn(serve(tcp, udp));
    let mut stream = AnyStream::connect(addr).await?;
    let over = match stream {
        AnyStream::Kcp(_) => "KCP",
        AnyStream::Tcp(_) => "TCP",
    };
    stream.write_all(b"hello").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    server.await.map_err(io::Error::other)??;
    Ok((answer, over))
}

#[tokio::main]
async fn main() -> io::Result<()> {
    for udp_passes in [true, false] {
        let (answer, over) = talk(udp_passes).await?;
        println!("UDP passes: {udp_passes}: {answer} over {over}");
    }
    Ok(())
}
