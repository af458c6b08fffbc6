//! Orderly ends: shutdown, drop, and what either side may do afterwards.

use std::io::ErrorKind;
use std::time::Duration;

use kcp_tests::pattern;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::transport::Transport;
use crate::{
    assert_end, assert_kind, connect_and_accept, fill, listener_and_pair, pair, read_all, read_len, read_some,
};

pub(crate) async fn request_shutdown_response<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let serving = tokio::spawn(async move {
        let request = read_all(&mut server).await.unwrap();
        let response: Vec<u8> = request.iter().rev().copied().collect();
        server.write_all(&response).await.unwrap();
    });
    let request = pattern(30_000, 1);
    client.write_all(&request).await.unwrap();
    client.shutdown().await.unwrap();
    let response = read_all(&mut client).await.unwrap();
    assert!(response.iter().eq(request.iter().rev()));
    serving.await.unwrap();
}

pub(crate) async fn whole_with_shutdown_and_drop<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let data = pattern(200_000, 2);
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
    });
    assert!(read_all(&mut server).await.unwrap() == data);
    sending.await.unwrap();
}

pub(crate) async fn whole_with_drop_alone<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let data = pattern(200_000, 3);
    let sent = data.clone();
    let sending = tokio::spawn(async move { client.write_all(&sent).await.unwrap() });
    assert!(read_all(&mut server).await.unwrap() == data);
    sending.await.unwrap();
}

pub(crate) async fn nothing_sent_then_shutdown<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.shutdown().await.unwrap();
    assert_end(&mut server).await;
    server.shutdown().await.unwrap();
    assert_end(&mut client).await;
}

pub(crate) async fn write_after_shutdown_is_broken_pipe<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"before").await.unwrap();
    client.shutdown().await.unwrap();
    for _ in 0..3 {
        assert_kind(client.write(b"after").await, ErrorKind::BrokenPipe);
    }
    assert_eq!(read_all(&mut server).await.unwrap(), b"before");
    assert_kind(client.write(b"after").await, ErrorKind::BrokenPipe);
}

pub(crate) async fn shutdown_twice<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"once").await.unwrap();
    client.shutdown().await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await.unwrap(), b"once");
    client.shutdown().await.unwrap();
    // Both sides are shut now, and again.
    server.shutdown().await.unwrap();
    assert_end(&mut client).await;
    client.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
}

pub(crate) async fn reading_goes_on_after_shutdown<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.shutdown().await.unwrap();
    let data = pattern(100_000, 4);
    let sent = data.clone();
    let serving = tokio::spawn(async move {
        assert_end(&mut server).await;
        server.write_all(&sent).await.unwrap();
        // Held until the client has everything: the end is the shutdown's.
        server.shutdown().await.unwrap();
        server
    });
    assert!(read_all(&mut client).await.unwrap() == data);
    drop(serving.await.unwrap());
}

pub(crate) async fn writing_goes_on_after_the_peers_shutdown<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.shutdown().await.unwrap();
    assert_end(&mut server).await;
    for round in 0..20 {
        let data = pattern(1_000, round);
        server.write_all(&data).await.unwrap();
        assert!(read_len(&mut client, 1_000).await.unwrap() == data);
        assert_end(&mut server).await;
    }
}

pub(crate) async fn end_of_stream_is_sticky<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"last").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await.unwrap(), b"last");
    for _ in 0..5 {
        assert_end(&mut server).await;
    }
    drop(client);
    for _ in 0..5 {
        assert_end(&mut server).await;
    }
}

pub(crate) async fn peer_dropped_then_read_and_first_write<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    drop(client);
    assert_end(&mut server).await;
    assert_eq!(server.write(b"nobody").await.unwrap(), 6);
}

pub(crate) async fn writes_to_a_dropped_peer_fail_in_the_end<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    drop(client);
    assert_end(&mut server).await;
    let error = loop {
        if let Err(error) = server.write(b"nobody").await {
            break error;
        }
        // Until the answer to the first write is here.
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_kind(server.write(b"nobody").await, ErrorKind::BrokenPipe);
    // The end that was there first stays.
    assert_end(&mut server).await;
}

pub(crate) async fn flush_of_an_ended_stream<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.flush().await.unwrap();
    client.write_all(b"flushed").await.unwrap();
    client.flush().await.unwrap();
    client.shutdown().await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(read_all(&mut server).await.unwrap(), b"flushed");
    server.flush().await.unwrap();
    drop(client);
    server.flush().await.unwrap();
}

pub(crate) async fn shutdown_after_the_peer_is_gone<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    drop(client);
    assert_end(&mut server).await;
    server.shutdown().await.unwrap();
    assert_end(&mut server).await;
    assert_kind(server.write(b"late").await, ErrorKind::BrokenPipe);
}

pub(crate) async fn drop_with_full_buffers_delivers_all<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let written = fill(&mut client).await;
    drop(client);
    assert!(read_all(&mut server).await.unwrap() == written);
}

pub(crate) async fn simultaneous_shutdown<T: Transport>() {
    for _ in 0..20 {
        let (mut client, mut server) = pair::<T>().await;
        let (a, b) = tokio::join!(client.shutdown(), server.shutdown());
        a.unwrap();
        b.unwrap();
        tokio::join!(assert_end(&mut client), assert_end(&mut server));
        assert_kind(client.write(b"x").await, ErrorKind::BrokenPipe);
        assert_kind(server.write(b"x").await, ErrorKind::BrokenPipe);
    }
}

pub(crate) async fn simultaneous_shutdown_with_data_in_flight<T: Transport>() {
    let (client, server) = pair::<T>().await;
    async fn side<T: Transport>(stream: T::Stream, mine: Vec<u8>, theirs: Vec<u8>) {
        let (mut reader, mut writer) = T::into_split(stream);
        let send = async {
            writer.write_all(&mine).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let receive = async { assert!(read_all(&mut reader).await.unwrap() == theirs) };
        tokio::join!(send, receive);
    }
    let (up, down) = (pattern(300_000, 5), pattern(300_000, 6));
    let there = tokio::spawn(side::<T>(server, down.clone(), up.clone()));
    side::<T>(client, up, down).await;
    there.await.unwrap();
}

pub(crate) async fn server_closes_first<T: Transport>() {
    let (listener, mut client, mut server) = listener_and_pair::<T>().await;
    for round in 0..5 {
        server.write_all(b"bye").await.unwrap();
        server.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await.unwrap(), b"bye");
        client.write_all(&[round]).await.unwrap();
        drop(client);
        assert_eq!(read_all(&mut server).await.unwrap(), [round]);
        drop(server);
        (client, server) = connect_and_accept::<T>(&listener).await;
    }
}

pub(crate) async fn client_closes_first<T: Transport>() {
    let (listener, mut client, mut server) = listener_and_pair::<T>().await;
    for round in 0..5 {
        client.write_all(b"bye").await.unwrap();
        drop(client);
        assert_eq!(read_all(&mut server).await.unwrap(), b"bye");
        server.write_all(&[round]).await.unwrap();
        drop(server);
        (client, server) = connect_and_accept::<T>(&listener).await;
    }
}

pub(crate) async fn aborted_task_closes_its_stream<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let task = tokio::spawn(async move {
        server.write_all(b"here").await.unwrap();
        read_some(&mut server).await
    });
    assert_eq!(read_len(&mut client, 4).await.unwrap(), b"here");
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_end(&mut client).await;
}

pub(crate) async fn drop_wakes_a_pending_read<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"1").await.unwrap();
    assert_eq!(read_len(&mut server, 1).await.unwrap(), b"1");
    let reading = tokio::spawn(async move { read_some(&mut server).await });
    tokio::task::yield_now().await;
    drop(client);
    assert_eq!(reading.await.unwrap().unwrap(), b"");
}

pub(crate) async fn read_exact_across_the_end<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"four").await.unwrap();
    drop(client);
    let mut buf = [0; 8];
    assert_kind(server.read_exact(&mut buf).await, ErrorKind::UnexpectedEof);
    assert_eq!(&buf[..4], b"four");
    assert_end(&mut server).await;
}
