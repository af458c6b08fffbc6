//! Streams over real loopback sockets: echo, half-close, drop, refusal, and a runtime that goes away.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use kcp_netsim::{LinkConfig, SimNet};
use kcp_tokio::{KcpConfig, KcpEndpoint, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Far beyond what any of these takes; a hang fails instead of blocking the run.
const LIMIT: Duration = Duration::from_secs(60);

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

/// A listener that echoes every session, and its address.
async fn echo_server(config: KcpConfig) -> SocketAddr {
    let listener = KcpListener::bind_with("127.0.0.1:0", config).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(stream);
                tokio::io::copy(&mut reader, &mut writer).await
            });
        }
    });
    addr
}

async fn echo(stream: KcpStream, data: Vec<u8>) -> KcpStream {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let expected = data.clone();
    let send = async move {
        writer.write_all(&data).await.unwrap();
        writer.flush().await.unwrap();
        writer
    };
    let receive = async move {
        let mut got = vec![0; expected.len()];
        reader.read_exact(&mut got).await.unwrap();
        assert!(got == expected);
        reader
    };
    let (writer, reader) = timeout(LIMIT, async { tokio::join!(send, receive) }).await.unwrap();
    reader.unsplit(writer)
}

#[tokio::test]
async fn echo_of_all_sizes_and_presets() {
    for config in [KcpConfig::normal(), KcpConfig::fast(), KcpConfig::turbo()] {
        let addr = echo_server(config.clone()).await;
        for len in [1, 100, 1376, 1377, 100_000, 3_000_000] {
            let stream = KcpStream::connect_with(addr, config.clone()).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), addr);
            assert_ne!(stream.conv(), 0);
            echo(stream, pattern(len, len as u64)).await;
        }
    }
}

/// Of a machine with several addresses the one that a client has dialled answers: from another one it would be a stranger.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_address_that_was_asked_answers() {
    for config in [KcpConfig::turbo(), KcpConfig::turbo().dscp(46)] {
        for (any, hosts) in [
            ("0.0.0.0:0", ["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
            ("[::]:0", ["127.0.0.1", "::1", "127.0.0.2"]),
        ] {
            let listener = KcpListener::bind_with(any, config.clone()).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let hosts = hosts.map(|host| host.parse::<std::net::IpAddr>().unwrap());
            let serve = async {
                for _ in 0..hosts.len() * 8 {
                    let (stream, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
                    let local = stream.local_addr().unwrap();
                    assert!(hosts.contains(&local.ip()) && local.port() == port, "{local}");
                    tokio::spawn(async move {
                        let (mut reader, mut writer) = stream.into_split();
                        assert_eq!(reader.local_addr().unwrap(), local);
                        tokio::io::copy(&mut reader, &mut writer).await
                    });
                }
            };
            // Long ones for trains, many at once for batches; each moves to another port in between.
            let clients = (0..hosts.len() * 8).map(|i| {
                let (config, to) = (config.clone(), (hosts[i % hosts.len()], port));
                tokio::spawn(async move {
                    let stream = KcpStream::connect_with(to, config).await.unwrap();
                    let stream = echo(stream, pattern(if i < 3 { 200_000 } else { 200 }, i as u64)).await;
                    let other = if to.0.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    stream.rebind(std::net::UdpSocket::bind(other).unwrap()).await.unwrap();
                    echo(stream, pattern(3000, i as u64)).await;
                })
            });
            let clients: Vec<_> = clients.collect();
            serve.await;
            for client in clients {
                timeout(LIMIT, client).await.unwrap().unwrap();
            }
        }
    }
}

/// The same of answers that no session gives.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_that_was_started_anew_says_so_from_the_address_that_was_asked() {
    let endpoint = KcpEndpoint::bind("0.0.0.0:0".parse().unwrap(), KcpConfig::turbo()).await.unwrap();
    let addr = endpoint.local_addr().unwrap();
    let (client, server) = tokio::join!(KcpStream::connect(("127.0.0.2", addr.port())), endpoint.accept());
    let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
    for _ in 0..2 {
        client.write_all(b"to the first").await.unwrap();
        timeout(LIMIT, server.read_exact(&mut [0; 12])).await.unwrap().unwrap();
        server.write_all(b"from it").await.unwrap();
        timeout(LIMIT, client.read_exact(&mut [0; 7])).await.unwrap().unwrap();
    }
    // To a network without anybody else: it falls silent.
    endpoint.rebind_to(SimNet::new(LinkConfig::ideal(), 1).bind(addr).unwrap());
    let listener = loop {
        match KcpListener::bind(addr).await {
            Ok(listener) => break listener,
            // The driver looks up the old socket in its next turn.
            Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
        }
        tokio::task::yield_now().await;
    };
    client.write_all(b"to the second").await.unwrap();
    let read = timeout(LIMIT, client.read_u8()).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(listener.endpoint().stats().resets_sent > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_of_one_endpoint() {
    let addr = echo_server(KcpConfig::turbo()).await;
    let endpoint = KcpEndpoint::bind("127.0.0.1:0".parse().unwrap(), KcpConfig::turbo()).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(timeout(LIMIT, endpoint.connect(addr)).await.unwrap().unwrap());
    }
    assert_eq!(endpoint.stats().sessions, 50);
    let tasks: Vec<_> = streams
        .into_iter()
        .zip(0..)
        .map(|(stream, seed)| tokio::spawn(echo(stream, pattern(100_000, seed))))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn messages_and_ping_pong() {
    let config = KcpConfig::from(SessionConfig::turbo().stream(false));
    let listener = KcpListener::bind_with("127.0.0.1:0", config.clone()).await.unwrap();
    let client = KcpStream::connect_with(listener.local_addr().unwrap(), config).await.unwrap();
    let (server, peer) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    assert_eq!(peer.port(), client.local_addr().unwrap().port());
    for len in [0usize, 1, 1376, 1377, 50_000] {
        let message = Bytes::from(pattern(len, 9));
        client.send_msg(message.clone()).await.unwrap();
        assert_eq!(timeout(LIMIT, server.recv_msg()).await.unwrap().unwrap(), message);
        server.send_msg(message.clone()).await.unwrap();
        assert_eq!(timeout(LIMIT, client.recv_msg()).await.unwrap().unwrap(), message);
    }
    let error = client.send_msg(Bytes::from(vec![0; 1376 * 127 + 1])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn shutdown_waits_for_the_last_byte_and_reading_goes_on() {
    let listener = KcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = KcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let data = pattern(500_000, 3);
    client.write_all(&data).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut got = vec![0; data.len()];
    let (down, read) = tokio::join!(timeout(LIMIT, client.shutdown()), server.read_exact(&mut got));
    down.unwrap().unwrap();
    read.unwrap();
    assert!(got == data);
    assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    client.shutdown().await.unwrap();
    server.write_all(b"reply").await.unwrap();
    let mut reply = [0; 5];
    timeout(LIMIT, client.read_exact(&mut reply)).await.unwrap().unwrap();
    assert_eq!(&reply, b"reply");
}

#[tokio::test]
async fn a_dropped_stream_drains_in_the_background() {
    let listener = KcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = KcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let data = pattern(500_000, 4);
    client.write_all(&data).await.unwrap();
    drop(client);
    let (mut server, _) = listener.accept().await.unwrap();
    let mut got = vec![0; data.len()];
    timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == data);
}

#[tokio::test]
async fn a_dropped_listener_leaves_streams_alone() {
    let listener = KcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut client = KcpStream::connect(addr).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    drop(listener);
    client.write_all(b"still there?").await.unwrap();
    let mut got = [0; 12];
    timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
    // Nobody is let in any more, and the port is free once the last stream is gone.
    let config = KcpConfig::from(SessionConfig::fast().connect_timeout(Duration::from_millis(300)));
    let refused = KcpStream::connect_with(addr, config).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_closed_port_refuses() {
    let closed = {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let error = timeout(LIMIT, KcpStream::connect(closed)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    assert!(error.get_ref().unwrap().downcast_ref::<kcp_tokio::KcpError>().is_some());
}

#[tokio::test]
async fn where_no_way_leads_a_connect_says_so() {
    // Nothing would end it but the answer, or the limit of this test.
    let config = KcpConfig::from(SessionConfig::fast().connect_timeout(2 * LIMIT));
    let lone = KcpStream::connect_with("127.0.0.1:0", config.clone());
    let found = timeout(LIMIT, lone).await.unwrap();
    assert_eq!(found.unwrap_err().kind(), ErrorKind::InvalidInput);
    for peer in ["[::1]:9", "127.0.0.1:0", "192.0.2.1:9"] {
        let endpoint = KcpEndpoint::bind("127.0.0.1:0".parse().unwrap(), config.clone()).await.unwrap();
        let found = timeout(LIMIT, endpoint.connect(peer.parse().unwrap())).await.unwrap();
        assert_eq!(found.unwrap_err().kind(), ErrorKind::InvalidInput, "{peer}");
        assert_eq!(endpoint.stats().sessions, 0);
    }
}

#[tokio::test]
async fn a_silent_peer_times_out() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = KcpConfig::from(SessionConfig::fast().connect_timeout(Duration::from_millis(300)));
    let connect = KcpStream::connect_with(silent.local_addr().unwrap(), config);
    let error = timeout(LIMIT, connect).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[tokio::test]
async fn bad_configuration_is_invalid_input() {
    let config = KcpConfig::from(SessionConfig::fast().mtu(10));
    for error in [
        KcpListener::bind_with("127.0.0.1:0", config.clone()).await.unwrap_err(),
        KcpStream::connect_with("127.0.0.1:1", config).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let one = KcpConfig::fast;
    for (good, bad) in [
        (one().backlog(1), one().backlog(0)),
        (one().half_open(1), one().half_open(0)),
        (one().max_sessions(1), one().max_sessions(0)),
        (one().max_sessions_per_ip(Some(1)), one().max_sessions_per_ip(Some(0))),
    ] {
        KcpListener::bind_with("127.0.0.1:0", good).await.unwrap();
        let error = KcpListener::bind_with("127.0.0.1:0", bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
    let occupied = KcpListener::bind("127.0.0.1:0").await.unwrap();
    let again = KcpListener::bind(occupied.local_addr().unwrap()).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_runtime_that_goes_away_is_an_error() {
    let outer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inner = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut stream, listener) = inner.block_on(async {
        let listener = KcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = KcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener)
    });
    inner.shutdown_background();
    outer.block_on(async {
        let read = timeout(LIMIT, stream.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(read.kind(), ErrorKind::ConnectionAborted);
        // One session waits to be accepted; after it, the error.
        let first = timeout(LIMIT, listener.accept()).await.unwrap();
        let last = if first.is_ok() { timeout(LIMIT, listener.accept()).await.unwrap() } else { first };
        assert_eq!(last.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    });
    drop(stream);
}
