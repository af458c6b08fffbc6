//! With the registry's `kcp-tokio` 0.7.0 (another product of the same name) over real sockets: both roles, with and
//! without loss, stream and message mode.

use std::net::SocketAddr;
use std::time::Duration;

use kcp_netsim::{LinkConfig, UdpRelay};
use kcp_tests::pattern;
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use registry_kcp_tokio as peer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

fn local() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn theirs(stream: bool) -> peer::config::KcpConfig {
    peer::config::KcpConfig::new().turbo_mode().window_size(256, 256).mtu(1400).stream_mode(stream)
}

fn ours(stream: bool) -> KcpConfig {
    SessionConfig::turbo().stream(stream).send_window(256).recv_window(256).into()
}

async fn expect_echo(stream: impl AsyncRead + AsyncWrite + Unpin, data: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        writer.write_all(data).await.unwrap();
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

async fn path(server: SocketAddr, lossy: bool) -> (SocketAddr, Option<UdpRelay>) {
    if !lossy {
        return (server, None);
    }
    let link = LinkConfig::lossy(0.1, Duration::from_millis(10));
    let relay = UdpRelay::bind(local(), server, link.clone(), link, 6).await.unwrap();
    (relay.local_addr().unwrap(), Some(relay))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_their_server() {
    for (stream, lossy) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut listener = peer::listener::KcpListener::bind(local(), theirs(stream)).await.unwrap();
        let (addr, _relay) = path(*listener.local_addr(), lossy).await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        let client = timeout(LIMIT, KcpStream::connect_with(addr, ours(stream))).await.unwrap().unwrap();
        expect_echo(client, &pattern(if stream { 300_000 } else { 50_000 }, 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn their_client_our_server() {
    for (stream, lossy) in [(true, false), (true, true), (false, false), (false, true)] {
        let listener = KcpListener::bind_with(local(), ours(stream)).await.unwrap();
        let (addr, _relay) = path(listener.local_addr().unwrap(), lossy).await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        let client = peer::stream::KcpStream::connect(addr, theirs(stream)).await.unwrap();
        expect_echo(client, &pattern(if stream { 300_000 } else { 50_000 }, 2)).await;
    }
}
