//! Abrupt ends: abort, zero linger, and a stream dropped with unread data.

use std::io::ErrorKind;
use std::time::Duration;

use kcp_tests::pattern;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::transport::Transport;
use crate::{assert_end, assert_kind, fill, pair, read_all, read_len, read_some};

/// A pair whose second end has data from the first that nobody reads.
async fn pair_with_unread<T: Transport>() -> (T::Stream, T::Stream) {
    let (mut client, server) = pair::<T>().await;
    client.write_all(b"unread").await.unwrap();
    assert_eq!(T::peek(&server, &mut [0; 6]).await.unwrap(), 6);
    (client, server)
}

/// The reset is told once; then the stream has ended.
async fn assert_reset_on_read<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut S) {
    assert_kind(read_some(&mut *stream).await, ErrorKind::ConnectionReset);
    assert_end(&mut *stream).await;
    assert_kind(stream.write(b"x").await, ErrorKind::BrokenPipe);
    assert_kind(stream.write(b"x").await, ErrorKind::BrokenPipe);
    assert_end(&mut *stream).await;
}

pub(crate) async fn peer_dropped_with_unread_data<T: Transport>() {
    let (mut client, server) = pair_with_unread::<T>().await;
    drop(server);
    assert_reset_on_read(&mut client).await;
}

pub(crate) async fn peer_dropped_with_unread_data_write_first<T: Transport>() {
    let (mut client, server) = pair_with_unread::<T>().await;
    drop(server);
    T::readable(&client).await.unwrap();
    assert_kind(client.write(b"x").await, ErrorKind::ConnectionReset);
    assert_kind(client.write(b"x").await, ErrorKind::BrokenPipe);
    assert_end(&mut client).await;
}

pub(crate) async fn peer_dropped_half_read<T: Transport>() {
    let (mut client, mut server) = pair_with_unread::<T>().await;
    server.write_all(b"answer").await.unwrap();
    assert_eq!(read_len(&mut server, 3).await.unwrap(), b"unr");
    assert_eq!(T::peek(&client, &mut [0; 6]).await.unwrap(), 6);
    drop(server);
    // What was there before the reset is read first.
    assert_eq!(read_len(&mut client, 6).await.unwrap(), b"answer");
    assert_reset_on_read(&mut client).await;
}

pub(crate) async fn peer_dropped_with_unread_data_after_its_shutdown<T: Transport>() {
    let (mut client, mut server) = pair_with_unread::<T>().await;
    server.shutdown().await.unwrap();
    assert_end(&mut client).await;
    drop(server);
    // The end of stream came first, and stays.
    assert_end(&mut client).await;
    let error = loop {
        if let Err(error) = client.write(b"x").await {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_end(&mut client).await;
}

pub(crate) async fn peer_aborted<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    T::abort(server);
    assert_reset_on_read(&mut client).await;
    let (client, mut server) = pair::<T>().await;
    T::abort(client);
    assert_reset_on_read(&mut server).await;
}

pub(crate) async fn peer_aborted_write_first<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    T::abort(server);
    T::readable(&client).await.unwrap();
    assert_kind(client.write(b"x").await, ErrorKind::ConnectionReset);
    assert_kind(client.write(b"x").await, ErrorKind::BrokenPipe);
    assert_end(&mut client).await;
}

pub(crate) async fn abort_leaves_received_data_readable<T: Transport>() {
    let (client, mut server) = pair_with_unread::<T>().await;
    T::abort(client);
    assert_eq!(read_len(&mut server, 6).await.unwrap(), b"unread");
    assert_reset_on_read(&mut server).await;
}

pub(crate) async fn abort_cuts_the_stream_to_a_prefix<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let written = fill(&mut client).await;
    T::abort(client);
    let mut got = Vec::new();
    assert_kind(server.read_to_end(&mut got).await, ErrorKind::ConnectionReset);
    assert!(got.len() < written.len(), "all of {} bytes", written.len());
    assert!(written.starts_with(&got));
    assert_end(&mut server).await;
}

pub(crate) async fn abort_wakes_a_pending_read<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"1").await.unwrap();
    assert_eq!(read_len(&mut server, 1).await.unwrap(), b"1");
    let reading = tokio::spawn(async move { read_some(&mut server).await });
    tokio::task::yield_now().await;
    T::abort(client);
    assert_kind(reading.await.unwrap(), ErrorKind::ConnectionReset);
}

pub(crate) async fn abort_wakes_a_pending_write<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    fill(&mut client).await;
    let writing = tokio::spawn(async move {
        let result = client.write(b"blocked").await;
        (client, result)
    });
    tokio::task::yield_now().await;
    T::abort(server);
    let (mut client, result) = writing.await.unwrap();
    assert_kind(result, ErrorKind::ConnectionReset);
    assert_kind(client.write(b"x").await, ErrorKind::BrokenPipe);
    assert_end(&mut client).await;
}

pub(crate) async fn abort_after_own_shutdown<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.shutdown().await.unwrap();
    assert_end(&mut server).await;
    T::abort(client);
    assert_end(&mut server).await;
    let error = loop {
        if let Err(error) = server.write(b"x").await {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert_end(&mut server).await;
}

pub(crate) async fn abort_after_the_peers_shutdown<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.shutdown().await.unwrap();
    assert_end(&mut server).await;
    T::abort(server);
    assert_kind(read_some(&mut client).await, ErrorKind::ConnectionReset);
    assert_end(&mut client).await;
    assert_kind(client.write(b"x").await, ErrorKind::BrokenPipe);
}

pub(crate) async fn zero_linger_and_drop<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    T::set_linger(&server, Some(Duration::ZERO)).unwrap();
    drop(server);
    assert_reset_on_read(&mut client).await;
}

pub(crate) async fn no_linger_and_drop<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    T::set_linger(&server, Some(Duration::ZERO)).unwrap();
    T::set_linger(&server, None).unwrap();
    let data = pattern(50_000, 1);
    let sent = data.clone();
    let sending = tokio::spawn(async move { server.write_all(&sent).await.unwrap() });
    assert!(read_all(&mut client).await.unwrap() == data);
    sending.await.unwrap();
}

pub(crate) async fn flush_and_shutdown_after_reset<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    T::abort(server);
    T::readable(&client).await.unwrap();
    client.flush().await.unwrap();
    client.shutdown().await.unwrap();
    // Neither took the error from the reader.
    assert_kind(read_some(&mut client).await, ErrorKind::ConnectionReset);
    client.flush().await.unwrap();
    client.shutdown().await.unwrap();
    assert_kind(client.write(b"x").await, ErrorKind::BrokenPipe);
}
