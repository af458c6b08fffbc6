//! Several sockets on one address: who gets what, and that a session does not care.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use kcp_tokio::{KcpConfig, KcpEndpoint, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Not by a macro, whose lines the harness keeps while a test passes.
fn skipped(test: &str, why: &str) {
    let _ = std::io::stderr().write_all(format!("skipped: {test}: {why}\n").as_bytes());
}

/// Far beyond what any of these takes; a hang fails instead of blocking the run.
const LIMIT: Duration = Duration::from_secs(60);

fn config(shards: usize) -> KcpConfig {
    // However long a machine takes: plain peers that say nothing more are not to time out.
    KcpConfig::from(SessionConfig::turbo().idle_timeout(None)).shards(shards)
}

async fn listen(config: KcpConfig) -> (KcpListener, SocketAddr) {
    let listener = KcpListener::bind_with("127.0.0.1:0", config).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// What a plain peer's first datagram is: one segment of one byte.
fn first(conv: u32) -> Vec<u8> {
    let mut datagram = conv.to_le_bytes().to_vec();
    datagram.extend([81, 0, 128, 0]);
    // ts, sn, una, len.
    datagram.extend([[0; 4], [0; 4], [0; 4], 1u32.to_le_bytes()].concat());
    datagram.push(b'x');
    datagram
}

async fn accept(listener: &KcpListener) -> KcpStream {
    timeout(LIMIT, listener.accept()).await.unwrap().unwrap().0
}

async fn echo(mut stream: KcpStream) {
    let mut buf = vec![0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buf).await {
        stream.write_all(&buf[..n]).await.unwrap();
    }
    stream.shutdown().await.unwrap();
}

async fn exchange(stream: &mut KcpStream, fill: u8, len: usize) {
    let sent = vec![fill; len];
    let mut reply = vec![0; len];
    let both = async {
        stream.write_all(&sent).await.unwrap();
        stream.read_exact(&mut reply).await.unwrap();
    };
    timeout(LIMIT, both).await.unwrap();
    assert_eq!(reply, sent);
}

#[tokio::test]
async fn every_conv_lands_on_its_shard_from_any_port() {
    let (listener, addr) = listen(config(3)).await;
    let mut before = vec![0; 3];
    for round in 0..2 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut streams = Vec::new();
        for conv in 0x1100..0x1200 {
            socket.send_to(&first(conv), addr).await.unwrap();
            let mut stream = accept(&listener).await;
            assert_eq!(stream.read_u8().await.unwrap(), b'x');
            streams.push(stream);
        }
        for session in listener.sessions() {
            assert_eq!(session.shard(), (session.conv() & 0xFF) as usize % 3, "conv {:#x}", session.conv());
        }
        assert_eq!(listener.sessions().len(), 256 * (round + 1));
        let now = listener.endpoint().received_by_shard();
        let new: Vec<_> = now.iter().zip(&before).map(|(now, before)| now - before).collect();
        assert_eq!(new, [86, 85, 85], "of 256 lows");
        before = now;
        streams.into_iter().for_each(std::mem::forget);
    }
}

/// What each socket received meanwhile.
fn since(listener: &KcpListener, before: &[u64]) -> Vec<u64> {
    listener.endpoint().received_by_shard().iter().zip(before).map(|(now, before)| now - before).collect()
}

async fn a_client_that_moves(config: KcpConfig, shards: usize, stays: bool) {
    let (listener, addr) = listen(config.clone().shards(shards)).await;
    let mut client = KcpStream::connect_with(addr, config).await.unwrap();
    // The server sees an extended client's stream when data comes.
    client.write_all(b"hi").await.unwrap();
    tokio::spawn(echo(accept(&listener).await));
    client.read_exact(&mut [0; 2]).await.unwrap();
    let home = listener.sessions()[0].shard();
    if stays {
        assert_eq!(home, (client.conv() & 0xFF) as usize % shards);
    }
    for move_ in 0..8 {
        let before = listener.endpoint().received_by_shard();
        exchange(&mut client, move_, 20_000).await;
        if stays {
            let new = since(&listener, &before);
            assert!(new.iter().enumerate().all(|(shard, &n)| (n > 0) == (shard == home)), "{home}: {new:?}");
        }
        assert_eq!(listener.sessions().len(), 1);
        client.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).await.unwrap();
    }
    exchange(&mut client, 99, 20_000).await;
    assert!(listener.stats().moved >= 1);
    assert_eq!(listener.sessions()[0].shard(), home);
    assert_eq!(listener.stats().accepted, 1, "always the same session");
    client.shutdown().await.unwrap();
    drop(client);
    listener.stop_accepting();
    timeout(LIMIT, listener.wait_idle()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_on_its_shard_when_its_client_moves() {
    a_client_that_moves(KcpConfig::turbo(), 4, true).await;
}

#[cfg(feature = "layers")]
#[tokio::test]
async fn error_correction_and_its_parity_stay_on_the_shard() {
    a_client_that_moves(KcpConfig::turbo().fec(3, 2), 4, true).await;
}

/// The kernel cannot see conv and chooses by addresses: wherever datagrams come in, the session is found.
#[cfg(feature = "layers")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encrypted_sessions_are_found_from_every_shard() {
    use kcp_tokio::layers::{Cipher, Crypt};
    let crypt = Crypt::from_password(Cipher::Aes128Gcm, "a long secret");
    a_client_that_moves(KcpConfig::turbo().crypt(crypt.clone()), 4, false).await;
    a_client_that_moves(KcpConfig::turbo().fec(3, 1).crypt(crypt), 4, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_spread_evenly_and_all_are_served() {
    let (listener, addr) = listen(config(2)).await;
    let server = tokio::spawn(async move {
        let mut shards = [0; 2];
        for _ in 0..200 {
            tokio::spawn(echo(accept(&listener).await));
        }
        for session in listener.sessions() {
            shards[session.shard()] += 1;
        }
        (listener, shards)
    });
    let shared = KcpEndpoint::bind("127.0.0.1:0".parse().unwrap(), KcpConfig::turbo()).await.unwrap();
    let mut clients = tokio::task::JoinSet::new();
    for i in 0..200 {
        let mut stream = match i % 2 {
            0 => shared.connect(addr).await.unwrap(),
            _ => KcpStream::connect_with(addr, KcpConfig::turbo()).await.unwrap(),
        };
        clients.spawn(async move {
            exchange(&mut stream, i, 30_000).await;
            stream
        });
    }
    // Open until all were accepted.
    let streams = clients.join_all().await;
    let (listener, shards) = server.await.unwrap();
    // Each a coin of its own: fewer than 60 of 200 come once in 10^8 runs.
    assert!(shards.iter().all(|&n| n > 60), "{shards:?}");
    assert_eq!(shards.iter().sum::<i32>(), 200);
    drop(streams);
    listener.stop_accepting();
    timeout(LIMIT, listener.wait_idle()).await.unwrap();
    assert_eq!(listener.stats().sessions, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_of_several_sockets_dials_from_all() {
    let (listener, addr) = listen(config(2)).await;
    tokio::spawn(async move {
        loop {
            tokio::spawn(echo(accept(&listener).await));
        }
    });
    let endpoint = KcpEndpoint::bind("127.0.0.1:0".parse().unwrap(), config(3)).await.unwrap();
    assert_eq!(endpoint.shards(), 3);
    let mut streams = Vec::new();
    for i in 0..9 {
        let mut stream = endpoint.connect(addr).await.unwrap();
        exchange(&mut stream, i, 5000).await;
        assert_eq!(stream.local_addr().unwrap(), endpoint.local_addr().unwrap());
        streams.push(stream);
    }
    for session in endpoint.sessions() {
        assert_eq!(session.shard(), (session.conv() & 0xFF) as usize % 3);
    }
    assert!(endpoint.received_by_shard().iter().all(|&n| n > 0));
    // All move to one socket, and go on.
    endpoint.rebind(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).await.unwrap();
    for (i, stream) in streams.iter_mut().enumerate() {
        exchange(stream, 100 + i as u8, 5000).await;
    }
    let mut late = endpoint.connect(addr).await.unwrap();
    exchange(&mut late, 7, 100_000).await;
    drop((streams, late));
    timeout(LIMIT, endpoint.wait_idle()).await.unwrap();
}

#[tokio::test]
async fn streams_outlive_the_listener_and_the_port_is_free_afterwards() {
    let (listener, addr) = listen(config(2)).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = KcpStream::connect_with(addr, KcpConfig::turbo()).await.unwrap();
        client.write_all(b"!").await.unwrap();
        tokio::spawn(echo(accept(&listener).await));
        client.read_exact(&mut [0]).await.unwrap();
        clients.push(client);
    }
    drop(listener);
    for (i, client) in clients.iter_mut().enumerate() {
        exchange(client, i as u8, 50_000).await;
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the server ends its stream as well");
    }
    drop(clients);
    timeout(LIMIT, async {
        while let Err(error) = std::net::UdpSocket::bind(addr) {
            assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
            // The drivers are tasks of this thread: it is free when they have had their turns.
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("both drivers end");
}

#[tokio::test]
async fn close_ends_the_sessions_of_all_shards() {
    let (listener, addr) = listen(config(4)).await;
    let mut clients = Vec::new();
    for _ in 0..32 {
        let mut client = KcpStream::connect_with(addr, KcpConfig::turbo()).await.unwrap();
        client.write_all(b"!").await.unwrap();
        clients.push((client, accept(&listener).await));
    }
    listener.close();
    timeout(LIMIT, listener.wait_idle()).await.unwrap();
    let error = listener.accept().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    for (client, _) in &clients {
        let ended = timeout(LIMIT, client.closed()).await.unwrap();
        assert_eq!(ended, kcp_tokio::KcpError::Closed(kcp_tokio::CloseReason::Reset));
    }
}

#[tokio::test]
async fn a_taken_address_is_taken_for_several_sockets_as_well() {
    let (listener, addr) = listen(config(2)).await;
    for shards in [1, 2] {
        let error = KcpListener::bind_with(addr, config(shards)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{shards}");
    }
    drop(listener);
    for shards in [0, 257] {
        let error = KcpListener::bind_with("127.0.0.1:0", config(shards)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{shards}");
    }
}

#[tokio::test]
async fn ipv6_sockets_are_steered_as_well() {
    let listener = match KcpListener::bind_with("[::1]:0", config(2)).await {
        Ok(listener) => listener,
        // A machine without IPv6.
        Err(error) => return skipped("ipv6_sockets_are_steered_as_well", &error.to_string()),
    };
    let addr = listener.local_addr().unwrap();
    let socket = UdpSocket::bind("[::1]:0").await.unwrap();
    for conv in 1..=64 {
        socket.send_to(&first(conv), addr).await.unwrap();
        std::mem::forget(accept(&listener).await);
    }
    assert_eq!(listener.endpoint().received_by_shard(), [32, 32]);
}

/// As root the steering test runs again without privileges: as nobody, in a process of its own.
#[test]
fn no_privileges_are_needed() {
    let exe = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--"]);
    let child = command
        .arg(exe)
        .args(["--exact", "every_conv_lands_on_its_shard_from_any_port", "--nocapture"])
        .current_dir("/")
        .output();
    match child {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        }
        // Not root, or no such tool: then the other tests have shown it, or cannot.
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("setpriv:") => {
            skipped("no_privileges_are_needed", String::from_utf8_lossy(&output.stderr).trim());
        }
        Err(error) => skipped("no_privileges_are_needed", &error.to_string()),
        Ok(output) => panic!("{output:?}"),
    }
}
