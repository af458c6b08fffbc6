//! What TCP users miss in KCP, over real sockets: another socket under a live session, datagrams,
//! messages as `Sink` and `Stream`, broadcasts, a quiet end.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use kcp_tokio::{CloseReason, KcpConfig, KcpEndpoint, KcpError, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

async fn pair(config: KcpConfig) -> (KcpStream, KcpStream, KcpListener) {
    let listener = KcpListener::bind_with("127.0.0.1:0", config.clone()).await.unwrap();
    let client = KcpStream::connect_with(listener.local_addr().unwrap(), config).await.unwrap();
    let (server, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    (client, server, listener)
}

fn any_socket() -> std::net::UdpSocket {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap()
}

#[tokio::test]
async fn another_socket_under_a_live_session() {
    let (mut client, mut server, _listener) = pair(KcpConfig::turbo()).await;
    let mut got = [0; 6];
    for round in 0..3 {
        client.write_all(b"before").await.unwrap();
        timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
        let old = client.local_addr().unwrap();
        client.rebind(any_socket()).await.unwrap();
        assert_ne!(client.local_addr().unwrap(), old);
        client.write_all(b"after.").await.unwrap();
        timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(&got, b"after.", "round {round}");
        server.write_all(b"answer").await.unwrap();
        timeout(LIMIT, client.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(server.peer_addr().unwrap().port(), client.local_addr().unwrap().port());
    }
    // A peer of IPv4 is another one for a socket of IPv6.
    let other = || std::net::UdpSocket::bind("[::]:0").unwrap();
    let endpoint = KcpEndpoint::bind("127.0.0.1:0".parse().unwrap(), KcpConfig::turbo()).await.unwrap();
    for refused in [client.rebind(other()).await, endpoint.rebind(other()).await] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn halves_and_handles_send_what_is_no_stream() {
    let (client, server, _listener) = pair(KcpConfig::turbo()).await;
    let handle = server.handle();
    let (reader, writer) = client.into_split();
    writer.as_ref().send_datagram(Bytes::from_static(b"one")).unwrap();
    assert_eq!(timeout(LIMIT, server.recv_datagram()).await.unwrap().unwrap(), "one");
    handle.send_datagram(Bytes::from_static(b"two")).unwrap();
    assert_eq!(timeout(LIMIT, reader.as_ref().recv_datagram()).await.unwrap().unwrap(), "two");
    let mut client = reader.reunite(writer).unwrap();
    let (reader, writer) = client.split();
    assert_eq!(reader.as_ref().conv(), handle.conv());
    writer.as_ref().send_datagram(Bytes::from_static(b"three")).unwrap();
    assert_eq!(timeout(LIMIT, server.recv_datagram()).await.unwrap().unwrap(), "three");
}

#[tokio::test]
async fn datagrams_beside_the_stream() {
    let (client, server, _listener) = pair(KcpConfig::turbo()).await;
    assert!(client.is_extended() && server.is_extended());
    client.send_datagram(Bytes::from_static(b"position")).unwrap();
    assert_eq!(timeout(LIMIT, server.recv_datagram()).await.unwrap().unwrap(), "position");
    server.send_datagram(Bytes::from(vec![7; server.max_datagram()])).unwrap();
    assert_eq!(timeout(LIMIT, client.recv_datagram()).await.unwrap().unwrap().len(), 1400 - 28);
    let too_long = client.send_datagram(Bytes::from(vec![0; client.max_datagram() + 1])).unwrap_err();
    assert_eq!(too_long.kind(), ErrorKind::InvalidInput);
    let plain = KcpConfig::from(SessionConfig::turbo().extensions(false));
    let (client, _server, _listener) = pair(plain).await;
    assert_eq!(client.send_datagram(Bytes::new()).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn messages_as_sink_and_stream_to_the_end() {
    let config = KcpConfig::from(SessionConfig::turbo().stream(false).send_buffer(2000));
    let (client, server, _listener) = pair(config).await;
    let (mut client, mut server) = (client.into_messages(), server.into_messages());
    let sent: Vec<Bytes> = (0..200u16).map(|i| Bytes::from(vec![i as u8; usize::from(i) * 9])).collect();
    let expected = sent.clone();
    let sender = tokio::spawn(async move {
        for message in sent {
            client.send(message).await.unwrap();
        }
        client.close().await.unwrap();
    });
    for message in expected {
        assert_eq!(timeout(LIMIT, server.next()).await.unwrap().unwrap().unwrap(), message);
    }
    assert!(timeout(LIMIT, server.next()).await.unwrap().is_none(), "the end");
    sender.await.unwrap();
}

#[tokio::test]
async fn broadcast_reports_the_slow_and_waits_for_nobody() {
    let config =
        KcpConfig::from(SessionConfig::turbo().stream(false).send_buffer(8000).send_window(4).recv_window(4));
    let listener = KcpListener::bind_with("127.0.0.1:0", config.clone()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..3 {
        clients.push(KcpStream::connect_with(addr, config.clone()).await.unwrap());
        servers.push(timeout(LIMIT, listener.accept()).await.unwrap().unwrap().0);
    }
    let slow = clients.pop().unwrap();
    let message = Bytes::from(vec![9; 1000]);
    let mut skipped = Vec::new();
    for _ in 0..40 {
        let result = listener.broadcast(&message);
        assert_eq!(result.sent + result.slow.len(), 3);
        skipped.extend(result.slow.iter().map(kcp_tokio::SessionHandle::conv));
        for client in &clients {
            assert_eq!(timeout(LIMIT, client.recv_msg()).await.unwrap().unwrap(), message);
        }
    }
    assert!(!skipped.is_empty() && skipped.iter().all(|&conv| conv == slow.conv()));
    // The policy is the server's: here the slow one goes.
    let handle = listener.sessions().into_iter().find(|session| session.conv() == slow.conv()).unwrap();
    handle.abort();
    assert_eq!(timeout(LIMIT, slow.closed()).await.unwrap(), KcpError::Closed(CloseReason::Reset));
    drop(clients);
    for mut server in servers {
        let _ = server.shutdown().await;
    }
    listener.stop_accepting();
    timeout(LIMIT, listener.wait_idle()).await.unwrap();
    assert_eq!(listener.stats().sessions, 0);
}

#[tokio::test]
async fn who_may_not_come_in_does_not() {
    let config = KcpConfig::turbo().filter(|peer| peer.port().is_multiple_of(2));
    let endpoint = KcpEndpoint::from_std(any_socket(), config).await.unwrap();
    let addr = endpoint.local_addr().unwrap();
    let quick = KcpConfig::from(SessionConfig::turbo().connect_timeout(Duration::from_millis(300)));
    let (mut even, mut odd) = (false, false);
    while !(even && odd) {
        let socket = any_socket();
        let is_even = socket.local_addr().unwrap().port().is_multiple_of(2);
        let connected = KcpStream::connect_on(socket, addr, quick.clone()).await;
        assert_eq!(connected.is_ok(), is_even);
        even |= is_even;
        odd |= !is_even;
    }
    let lazy = endpoint.connect_lazy(addr);
    assert!(lazy.is_ok());
}

#[tokio::test]
async fn an_ended_session_whose_stream_is_gone_holds_nothing() {
    let (mut client, mut server, listener) = pair(KcpConfig::turbo()).await;
    client.write_all(&[7; 100_000]).await.unwrap();
    timeout(LIMIT, client.shutdown()).await.unwrap().unwrap();
    timeout(LIMIT, server.shutdown()).await.unwrap().unwrap();
    assert_eq!(timeout(LIMIT, server.closed()).await.unwrap(), KcpError::Closed(CloseReason::Finished));
    assert_eq!(listener.stats().unread_bytes, 100_000);
    drop(server);
    assert_eq!(listener.stats().unread_bytes, 0);
    // And of what was not acknowledged when the time to linger was over.
    let silent = any_socket();
    let endpoint = KcpEndpoint::bind("127.0.0.1:0".parse().unwrap(), KcpConfig::turbo()).await.unwrap();
    let mut client = endpoint.connect_lazy(silent.local_addr().unwrap()).unwrap();
    client.write_all(&[7; 1000]).await.unwrap();
    client.set_linger(Some(Duration::from_millis(20))).unwrap();
    drop(client);
    assert_eq!(endpoint.stats().unacked_bytes, 1000);
    timeout(LIMIT, endpoint.wait_idle()).await.unwrap();
    assert_eq!(endpoint.stats().unacked_bytes, 0);
}
