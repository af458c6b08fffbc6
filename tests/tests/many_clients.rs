//! 200 clients on one listener socket, real sockets, 5 % loss: every byte arrives, whatever three clients do that never
//! read.

use std::sync::Arc;
use std::time::Duration;

use kcp_netsim::{LinkConfig, UdpRelay};
use kcp_tests::pattern;
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;
use tokio::time::timeout;

const CLIENTS: usize = 200;
const BYTES: usize = 256 * 1024;
const LIMIT: Duration = Duration::from_secs(240);

fn config() -> KcpConfig {
    SessionConfig::turbo().send_window(64).recv_window(64).send_buffer(64 * 1024).into()
}

/// Echoes until the session ends; a client that never reads blocks only its own writer.
async fn echo(stream: KcpStream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buf = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = reader.read(&mut buf).await {
        if writer.write_all(&buf[..n]).await.is_err() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_and_three_that_never_read() {
    let listener = KcpListener::bind_with("127.0.0.1:0", config()).await.unwrap();
    let server = listener.local_addr().unwrap();
    let link = LinkConfig::lossy(0.05, Duration::from_millis(20));
    let relay = UdpRelay::bind("127.0.0.1:0".parse().unwrap(), server, link.clone(), link, 1).await.unwrap();
    let addr = relay.local_addr().unwrap();
    let listener = Arc::new(listener);
    let accepting = listener.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = accepting.accept().await {
            tokio::spawn(echo(stream));
        }
    });

    // Those that never read write until they block: both windows and both buffers are full then.
    let mut stuck = Vec::new();
    for seed in 0..3 {
        let mut stream = KcpStream::connect_with(addr, config()).await.unwrap();
        let data = pattern(16 * 1024, seed);
        let mut written = 0;
        while let Ok(result) = timeout(Duration::from_secs(1), stream.write_all(&data)).await {
            result.unwrap();
            written += data.len();
            assert!(written < 4 << 20, "nobody reads, and yet it goes on");
        }
        stuck.push(stream);
    }

    let all_connected = Arc::new(Barrier::new(CLIENTS));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| {
            let all_connected = all_connected.clone();
            tokio::spawn(async move {
                let stream = KcpStream::connect_with(addr, config()).await.unwrap();
                all_connected.wait().await;
                let data = pattern(BYTES, id as u64 + 100);
                let expected = data.clone();
                let (mut reader, mut writer) = tokio::io::split(stream);
                let send = async {
                    writer.write_all(&data).await.unwrap();
                    writer.flush().await.unwrap();
                };
                let receive = async {
                    let mut got = vec![0; BYTES];
                    reader.read_exact(&mut got).await.unwrap();
                    assert!(got == expected, "client {id}");
                };
                tokio::join!(send, receive);
            })
        })
        .collect();
    for client in clients {
        timeout(LIMIT, client).await.expect("a client is stuck").unwrap();
    }
    assert!(listener.stats().accepted >= CLIENTS as u64 + 3);
    assert!(relay.stats().up.lost > 0 && relay.stats().down.lost > 0);
    drop(stuck);
}
