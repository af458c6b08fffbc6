//! With `tokio_kcp` 0.9.8 over real sockets: both roles, stream and message mode, with and without loss, and the client
//! that leaves the choice of conv to the server.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use kcp_netsim::{LinkConfig, UdpRelay};
use kcp_tests::pattern;
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);
const LOCAL: &str = "127.0.0.1:0";

fn theirs(stream: bool) -> tokio_kcp::KcpConfig {
    tokio_kcp::KcpConfig {
        nodelay: tokio_kcp::KcpNoDelayConfig::fastest(),
        wnd_size: (256, 256),
        flush_write: true,
        flush_acks_input: true,
        stream,
        ..tokio_kcp::KcpConfig::default()
    }
}

fn ours(stream: bool) -> KcpConfig {
    SessionConfig::turbo().stream(stream).send_window(256).recv_window(256).into()
}

/// Sends `data` and compares what comes back.
async fn expect_echo(stream: impl AsyncRead + AsyncWrite + Unpin, data: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        // tokio_kcp refuses a write of more than 127 segments.
        for chunk in data.chunks(16 * 1024) {
            writer.write_all(chunk).await.unwrap();
        }
        writer.flush().await.unwrap();
    };
    let receive = async {
        let mut got = vec![0; data.len()];
        reader.read_exact(&mut got).await.unwrap();
        assert!(got == data);
    };
    timeout(LIMIT, async { tokio::join!(send, receive) }).await.unwrap();
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buf = vec![0; 65536];
    while let Ok(n @ 1..) = stream.read(&mut buf).await {
        if stream.write_all(&buf[..n]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
}

async fn their_server(stream: bool) -> SocketAddr {
    let mut listener = tokio_kcp::KcpListener::bind(theirs(stream), LOCAL).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    addr
}

async fn our_server(stream: bool) -> SocketAddr {
    let listener = KcpListener::bind_with(LOCAL, ours(stream)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    addr
}

/// A relay that loses 10 % each way, or the server itself.
async fn path(server: SocketAddr, lossy: bool) -> (SocketAddr, Option<UdpRelay>) {
    if !lossy {
        return (server, None);
    }
    let link = LinkConfig::lossy(0.1, Duration::from_millis(10));
    let relay = UdpRelay::bind(LOCAL.parse().unwrap(), server, link.clone(), link, 5).await.unwrap();
    (relay.local_addr().unwrap(), Some(relay))
}

#[tokio::test]
async fn our_client_their_server() {
    for lossy in [false, true] {
        let (addr, _relay) = path(their_server(true).await, lossy).await;
        let stream = timeout(LIMIT, KcpStream::connect_with(addr, ours(true))).await.unwrap().unwrap();
        expect_echo(stream, &pattern(300_000, 1)).await;
    }
}

#[tokio::test]
async fn their_client_our_server() {
    for lossy in [false, true] {
        let (addr, _relay) = path(our_server(true).await, lossy).await;
        let stream = tokio_kcp::KcpStream::connect(&theirs(true), addr).await.unwrap();
        expect_echo(stream, &pattern(300_000, 2)).await;
    }
}

#[tokio::test]
async fn their_client_that_asks_for_a_conv() {
    for lossy in [false, true] {
        let (addr, _relay) = path(our_server(true).await, lossy).await;
        let stream = tokio_kcp::KcpStream::connect_with_conv(&theirs(true), 0, addr).await.unwrap();
        expect_echo(stream, &pattern(100_000, 3)).await;
    }
}

#[tokio::test]
async fn messages_our_client_their_server() {
    for lossy in [false, true] {
        let mut listener = tokio_kcp::KcpListener::bind(theirs(false), LOCAL).await.unwrap();
        let (addr, _relay) = path(listener.local_addr().unwrap(), lossy).await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buf = vec![0; 65536];
            while let Ok(n @ 1..) = stream.recv(&mut buf).await {
                stream.send(&buf[..n]).await.unwrap();
            }
        });
        let stream = timeout(LIMIT, KcpStream::connect_with(addr, ours(false))).await.unwrap().unwrap();
        for len in [1usize, 100, 1376, 1377, 20_000] {
            let message = Bytes::from(pattern(len, 4));
            stream.send_msg(message.clone()).await.unwrap();
            assert_eq!(timeout(LIMIT, stream.recv_msg()).await.unwrap().unwrap(), message);
        }
    }
}

#[tokio::test]
async fn messages_their_client_our_server() {
    for lossy in [false, true] {
        let listener = KcpListener::bind_with(LOCAL, ours(false)).await.unwrap();
        let (addr, _relay) = path(listener.local_addr().unwrap(), lossy).await;
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            while let Ok(message) = stream.recv_msg().await {
                stream.send_msg(message).await.unwrap();
            }
        });
        let mut stream = tokio_kcp::KcpStream::connect(&theirs(false), addr).await.unwrap();
        let mut buf = vec![0; 65536];
        for len in [1usize, 100, 1376, 1377, 20_000] {
            let message = pattern(len, 5);
            stream.send(&message).await.unwrap();
            let n = timeout(LIMIT, stream.recv(&mut buf)).await.unwrap().unwrap();
            assert!(buf[..n] == message);
        }
    }
}
