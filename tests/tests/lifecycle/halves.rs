//! Owned halves: dropped in either order, used in two tasks, put together again.

use std::io::ErrorKind;
use std::time::Duration;

use kcp_tests::pattern;
use tokio::io::AsyncWriteExt;

use crate::transport::Transport;
use crate::{assert_end, assert_kind, assert_pending, pair, read_all, read_len, read_some};

pub(crate) async fn read_half_dropped_first<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    let (reader, mut writer) = T::into_split(client);
    drop(reader);
    // The peer does not notice.
    assert_pending(read_some(&mut server)).await;
    server.write_all(b"ignored").await.unwrap();
    writer.write_all(b"still here").await.unwrap();
    assert_eq!(read_len(&mut server, 10).await.unwrap(), b"still here");
    server.write_all(b"ignored").await.unwrap();
    writer.shutdown().await.unwrap();
    assert_end(&mut server).await;
    // Half of the stream is held: nothing is reset.
    server.write_all(b"ignored").await.unwrap();
}

pub(crate) async fn write_half_dropped_first<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    let (mut reader, mut writer) = T::into_split(client);
    writer.write_all(b"last").await.unwrap();
    drop(writer);
    assert_eq!(read_all(&mut server).await.unwrap(), b"last");
    let data = pattern(100_000, 1);
    let sent = data.clone();
    let serving = tokio::spawn(async move { server.write_all(&sent).await.unwrap() });
    assert!(read_all(&mut reader).await.unwrap() == data);
    serving.await.unwrap();
}

pub(crate) async fn both_halves_dropped_with_unread_data<T: Transport>() {
    for write_half_first in [true, false] {
        let (client, mut server) = pair::<T>().await;
        server.write_all(b"unread").await.unwrap();
        assert_eq!(T::peek(&client, &mut [0; 6]).await.unwrap(), 6);
        let (reader, writer) = T::into_split(client);
        if write_half_first {
            drop(writer);
            drop(reader);
        } else {
            drop(reader);
            drop(writer);
        }
        // The write half's drop came before the reset: an end of stream.
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
}

pub(crate) async fn write_half_dropped_delivers_all<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    let (mut reader, mut writer) = T::into_split(client);
    let data = pattern(200_000, 2);
    let sent = data.clone();
    let sending = tokio::spawn(async move { writer.write_all(&sent).await.unwrap() });
    assert!(read_all(&mut server).await.unwrap() == data);
    sending.await.unwrap();
    drop(server);
    assert_end(&mut reader).await;
}

pub(crate) async fn write_half_shut_down_then_written<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    let (mut reader, mut writer) = T::into_split(client);
    writer.write_all(b"one").await.unwrap();
    writer.shutdown().await.unwrap();
    assert_kind(writer.write(b"two").await, ErrorKind::BrokenPipe);
    writer.shutdown().await.unwrap();
    assert_eq!(read_all(&mut server).await.unwrap(), b"one");
    server.write_all(b"three").await.unwrap();
    drop(writer);
    assert_eq!(read_len(&mut reader, 5).await.unwrap(), b"three");
}

pub(crate) async fn halves_in_two_tasks<T: Transport>() {
    let (client, server) = pair::<T>().await;
    let (mut reader, mut writer) = T::into_split(client);
    let (mut their_reader, mut their_writer) = T::into_split(server);
    let echoing = tokio::spawn(async move { tokio::io::copy(&mut their_reader, &mut their_writer).await });
    let data = pattern(500_000, 3);
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        for chunk in sent.chunks(7_001) {
            writer.write_all(chunk).await.unwrap();
        }
    });
    let reading = tokio::spawn(async move { read_all(&mut reader).await.unwrap() });
    assert!(reading.await.unwrap() == data);
    sending.await.unwrap();
    assert_eq!(echoing.await.unwrap().unwrap(), 500_000);
}

pub(crate) async fn write_half_dropped_under_a_pending_read<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    let (mut reader, writer) = T::into_split(client);
    let reading = tokio::spawn(async move { read_all(&mut reader).await });
    tokio::task::yield_now().await;
    drop(writer);
    assert_end(&mut server).await;
    assert!(!reading.is_finished());
    server.write_all(b"goes on").await.unwrap();
    drop(server);
    assert_eq!(reading.await.unwrap().unwrap(), b"goes on");
}

pub(crate) async fn reset_under_a_pending_read<T: Transport>() {
    let (client, server) = pair::<T>().await;
    let (mut reader, mut writer) = T::into_split(client);
    let reading = tokio::spawn(async move { read_some(&mut reader).await });
    tokio::task::yield_now().await;
    T::abort(server);
    assert_kind(reading.await.unwrap(), ErrorKind::ConnectionReset);
    assert_kind(writer.write(b"x").await, ErrorKind::BrokenPipe);
}

pub(crate) async fn reunited_stream_goes_on<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    let (mut reader, mut writer) = T::into_split(client);
    server.write_all(b"unread").await.unwrap();
    writer.write_all(b"one").await.unwrap();
    assert_eq!(read_len(&mut reader, 2).await.unwrap(), b"un");
    let Ok(mut client) = T::reunite(reader, writer) else { panic!("halves of one stream") };
    assert_eq!(read_len(&mut client, 4).await.unwrap(), b"read");
    client.write_all(b"two").await.unwrap();
    assert_eq!(read_len(&mut server, 6).await.unwrap(), b"onetwo");
    // Not shut down by the reunion.
    assert_pending(read_some(&mut server)).await;
    drop(client);
    assert_end(&mut server).await;
}

pub(crate) async fn reunited_after_shutdown_stays_shut<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    let (reader, mut writer) = T::into_split(client);
    writer.shutdown().await.unwrap();
    let Ok(mut client) = T::reunite(reader, writer) else { panic!("halves of one stream") };
    assert_kind(client.write(b"x").await, ErrorKind::BrokenPipe);
    assert_end(&mut server).await;
    server.write_all(b"read on").await.unwrap();
    assert_eq!(read_len(&mut client, 7).await.unwrap(), b"read on");
}

pub(crate) async fn foreign_halves_do_not_reunite<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    let (other_client, mut other_server) = pair::<T>().await;
    let (reader, writer) = T::into_split(client);
    let (other_reader, other_writer) = T::into_split(other_client);
    let Err((mut reader, mut other_writer)) = T::reunite(reader, other_writer) else { panic!("foreign") };
    // Both came back whole.
    other_writer.write_all(b"other").await.unwrap();
    assert_eq!(read_len(&mut other_server, 5).await.unwrap(), b"other");
    server.write_all(b"own").await.unwrap();
    assert_eq!(read_len(&mut reader, 3).await.unwrap(), b"own");
    assert!(T::reunite(reader, writer).is_ok());
    assert!(T::reunite(other_reader, other_writer).is_ok());
}
