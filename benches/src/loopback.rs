//! Bulk and ping-pong over real loopback sockets, ours and `tokio_kcp`, with the same settings.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes written at a time in bulk.
const WRITE: usize = 16 * 1024;

/// Which implementation.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// This one.
    Ours,
    /// `tokio_kcp` 0.9.8.
    TokioKcp,
}

fn ours(window: u16) -> KcpConfig {
    SessionConfig::turbo().send_window(window.into()).recv_window(window.into()).into()
}

fn theirs(window: u16) -> tokio_kcp::KcpConfig {
    tokio_kcp::KcpConfig {
        nodelay: tokio_kcp::KcpNoDelayConfig::fastest(),
        wnd_size: (window, window),
        flush_write: true,
        flush_acks_input: true,
        stream: true,
        ..tokio_kcp::KcpConfig::default()
    }
}

/// Serves one client: 8 bytes say how much is to come, 0 asks for an echo of all that follows.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buf = vec![0; 128 * 1024];
    let Ok(mut left) = stream.read_u64_le().await else { return };
    if left == 0 {
        while let Ok(n @ 1..) = stream.read(&mut buf).await {
            if stream.write_all(&buf[..n]).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
        return;
    }
    while left > 0 {
        match stream.read(&mut buf).await {
            Ok(n @ 1..) => left = left.saturating_sub(n as u64),
            _ => return,
        }
    }
    let _ = stream.write_u64_le(0x600D).await;
    let _ = stream.flush().await;
    // Keep it until the client has its answer.
    let _ = stream.read(&mut buf).await;
}

/// A server in the background of the current runtime, and its address.
///
/// # Panics
/// When it cannot bind.
pub async fn server(peer: Peer, window: u16) -> SocketAddr {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    match peer {
        Peer::Ours => {
            let listener = KcpListener::bind_with(any, ours(window)).await.expect("bind");
            let addr = listener.local_addr().expect("address");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream));
                }
            });
            addr
        }
        Peer::TokioKcp => {
            let mut listener = tokio_kcp::KcpListener::bind(theirs(window), any).await.expect("bind");
            let addr = listener.local_addr().expect("address");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream));
                }
            });
            addr
        }
    }
}

/// Time to move `bytes` one way, until the server has said that it has them all.
///
/// # Panics
/// When the transfer fails.
pub async fn bulk(peer: Peer, addr: SocketAddr, window: u16, bytes: u64) -> Duration {
    async fn run(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: u64) -> Duration {
        let chunk = vec![0x5A; WRITE];
        let started = Instant::now();
        stream.write_u64_le(bytes).await.expect("write");
        let mut left = bytes;
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(WRITE).min(WRITE);
            stream.write_all(&chunk[..n]).await.expect("write");
            left -= n as u64;
        }
        stream.flush().await.expect("flush");
        assert_eq!(stream.read_u64_le().await.expect("answer"), 0x600D);
        started.elapsed()
    }
    match peer {
        Peer::Ours => run(KcpStream::connect_with(addr, ours(window)).await.expect("connect"), bytes).await,
        Peer::TokioKcp => {
            run(tokio_kcp::KcpStream::connect(&theirs(window), addr).await.expect("connect"), bytes).await
        }
    }
}

/// Round-trip times of `count` messages of `size` bytes, one after the other.
///
/// # Panics
/// When a reply differs.
pub async fn ping_pong(peer: Peer, addr: SocketAddr, window: u16, count: u32, size: usize) -> Vec<Duration> {
    async fn run(mut stream: impl AsyncRead + AsyncWrite + Unpin, count: u32, size: usize) -> Vec<Duration> {
        stream.write_u64_le(0).await.expect("write");
        let mut times = Vec::with_capacity(count as usize);
        let (mut message, mut reply) = (vec![0; size], vec![0; size]);
        for i in 0..count {
            message[..4].copy_from_slice(&i.to_le_bytes());
            let started = Instant::now();
            stream.write_all(&message).await.expect("write");
            stream.flush().await.expect("flush");
            stream.read_exact(&mut reply).await.expect("read");
            times.push(started.elapsed());
            assert!(reply == message);
        }
        times
    }
    match peer {
        Peer::Ours => {
            run(KcpStream::connect_with(addr, ours(window)).await.expect("connect"), count, size).await
        }
        Peer::TokioKcp => {
            let stream = tokio_kcp::KcpStream::connect(&theirs(window), addr).await.expect("connect");
            run(stream, count, size).await
        }
    }
}
