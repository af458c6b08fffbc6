//! Listeners: refused and waiting connections, dropped listeners, many connections.

use std::io::ErrorKind;

use kcp_tests::pattern;
use tokio::io::AsyncWriteExt;

use crate::transport::Transport;
use crate::{
    assert_end, assert_kind, assert_pending, closed_addr, listener_and_pair, read_all, read_len, read_some,
};

pub(crate) async fn addresses_agree<T: Transport>() {
    let listener = T::bind().await.unwrap();
    let addr = T::listener_addr(&listener).unwrap();
    let (client, accepted) = tokio::join!(T::connect(addr), T::accept(&listener));
    let (client, (server, peer)) = (client.unwrap(), accepted.unwrap());
    assert_eq!(T::peer_addr(&client).unwrap(), addr);
    assert_eq!(T::local_addr(&server).unwrap(), addr);
    assert_eq!(T::peer_addr(&server).unwrap(), peer);
    assert_eq!(T::local_addr(&client).unwrap(), peer);
}

pub(crate) async fn nothing_listens<T: Transport>() {
    let addr = closed_addr::<T>().await;
    assert_kind(T::connect(addr).await, ErrorKind::ConnectionRefused);
}

pub(crate) async fn listener_dropped_streams_go_on<T: Transport>() {
    let (listener, mut client, mut server) = listener_and_pair::<T>().await;
    client.write_all(b"before").await.unwrap();
    drop(listener);
    client.write_all(b" and after").await.unwrap();
    assert_eq!(read_len(&mut server, 16).await.unwrap(), b"before and after");
    let data = pattern(100_000, 1);
    let sent = data.clone();
    let serving = tokio::spawn(async move { server.write_all(&sent).await.unwrap() });
    assert!(read_all(&mut client).await.unwrap() == data);
    serving.await.unwrap();
}

pub(crate) async fn listener_dropped_connections_are_refused<T: Transport>() {
    let (listener, mut client, mut server) = listener_and_pair::<T>().await;
    let addr = T::listener_addr(&listener).unwrap();
    drop(listener);
    // An accepted stream still has the port.
    assert_kind(T::connect(addr).await, ErrorKind::ConnectionRefused);
    client.write_all(b"goes on").await.unwrap();
    assert_eq!(read_len(&mut server, 7).await.unwrap(), b"goes on");
}

pub(crate) async fn listener_dropped_with_a_backlog<T: Transport>() {
    let listener = T::bind().await.unwrap();
    let mut waiting = T::connect(T::listener_addr(&listener).unwrap()).await.unwrap();
    let mut writing = T::connect(T::listener_addr(&listener).unwrap()).await.unwrap();
    writing.write_all(b"never read").await.unwrap();
    drop(listener);
    assert_kind(read_some(&mut waiting).await, ErrorKind::ConnectionReset);
    assert_kind(read_some(&mut writing).await, ErrorKind::ConnectionReset);
}

pub(crate) async fn closed_before_accept<T: Transport>() {
    let listener = T::bind().await.unwrap();
    let addr = T::listener_addr(&listener).unwrap();
    let mut client = T::connect(addr).await.unwrap();
    client.write_all(b"early").await.unwrap();
    let from = T::local_addr(&client).unwrap();
    drop(client);
    let (mut server, peer) = T::accept(&listener).await.unwrap();
    assert_eq!(peer, from);
    assert_eq!(read_all(&mut server).await.unwrap(), b"early");
    assert_eq!(server.write(b"nobody").await.unwrap(), 6);
    assert_pending(T::accept(&listener)).await;
}

pub(crate) async fn many_connections_in_sequence<T: Transport>() {
    let listener = T::bind().await.unwrap();
    let addr = T::listener_addr(&listener).unwrap();
    let serving = tokio::spawn(async move {
        for _ in 0..50 {
            let (mut server, _) = T::accept(&listener).await.unwrap();
            let mut request = read_all(&mut server).await.unwrap();
            request.reverse();
            server.write_all(&request).await.unwrap();
            server.shutdown().await.unwrap();
        }
        assert_pending(T::accept(&listener)).await;
    });
    for seed in 0..50 {
        let mut client = T::connect(addr).await.unwrap();
        let mut request = pattern(3_000, seed);
        client.write_all(&request).await.unwrap();
        client.shutdown().await.unwrap();
        request.reverse();
        assert!(read_all(&mut client).await.unwrap() == request);
        assert_end(&mut client).await;
    }
    serving.await.unwrap();
}

pub(crate) async fn many_connections_at_once<T: Transport>() {
    let listener = T::bind().await.unwrap();
    let addr = T::listener_addr(&listener).unwrap();
    let clients: Vec<_> = (0..30)
        .map(|seed| {
            tokio::spawn(async move {
                let mut client = T::connect(addr).await.unwrap();
                let request = pattern(10_000, seed);
                client.write_all(&request).await.unwrap();
                client.shutdown().await.unwrap();
                assert!(read_all(&mut client).await.unwrap() == request);
            })
        })
        .collect();
    let mut servers = Vec::new();
    for _ in 0..30 {
        let (mut server, _) = T::accept(&listener).await.unwrap();
        servers.push(tokio::spawn(async move {
            let request = read_all(&mut server).await.unwrap();
            server.write_all(&request).await.unwrap();
        }));
    }
    for task in clients.into_iter().chain(servers) {
        task.await.unwrap();
    }
}
