//! Bytes on the way: blocking, empty and small operations, both directions at once, much data.

use std::io::{ErrorKind, IoSlice};

use kcp_tests::pattern;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::transport::Transport;
use crate::{A_WHILE, assert_end, assert_kind, assert_pending, fill, pair, read_all, read_len, read_some};

pub(crate) async fn writer_blocks_while_nobody_reads<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let mut written = fill(&mut client).await;
    assert_pending(client.write(b"x")).await;
    timeout(A_WHILE, client.flush()).await.expect("flush waits").unwrap();
    let got = read_len(&mut server, written.len()).await.unwrap();
    assert!(got == written);
    // And it goes on.
    written = pattern(100_000, 1);
    let sent = written.clone();
    let sending = tokio::spawn(async move { client.write_all(&sent).await.unwrap() });
    assert!(read_all(&mut server).await.unwrap() == written);
    sending.await.unwrap();
}

pub(crate) async fn zero_length_reads<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    assert_pending(server.read(&mut [])).await;
    client.write_all(b"data").await.unwrap();
    assert_eq!(T::peek(&server, &mut [0; 4]).await.unwrap(), 4);
    for _ in 0..3 {
        assert_eq!(server.read(&mut []).await.unwrap(), 0);
    }
    assert_eq!(read_len(&mut server, 4).await.unwrap(), b"data");
    client.shutdown().await.unwrap();
    assert_end(&mut server).await;
    assert_eq!(server.read(&mut []).await.unwrap(), 0);
}

pub(crate) async fn zero_length_writes<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    assert_eq!(client.write(b"").await.unwrap(), 0);
    client.write_all(b"data").await.unwrap();
    assert_eq!(client.write(b"").await.unwrap(), 0);
    client.write_all(b"").await.unwrap();
    assert_eq!(read_len(&mut server, 4).await.unwrap(), b"data");
    // Nothing was sent for the empty ones: neither bytes nor an end.
    assert_pending(read_some(&mut server)).await;
    client.shutdown().await.unwrap();
    assert_kind(client.write(b"").await, ErrorKind::BrokenPipe);
    assert_end(&mut server).await;
    assert_eq!(server.write(b"").await.unwrap(), 0);
}

pub(crate) async fn zero_length_write_while_blocked<T: Transport>() {
    let (mut client, _server) = pair::<T>().await;
    fill(&mut client).await;
    assert_pending(client.write(b"")).await;
}

pub(crate) async fn one_byte_pieces<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let data = pattern(5_000, 2);
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        for byte in sent {
            client.write_all(&[byte]).await.unwrap();
        }
    });
    assert!(read_all(&mut server).await.unwrap() == data);
    sending.await.unwrap();
}

pub(crate) async fn one_byte_reads<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let data = pattern(5_000, 3);
    client.write_all(&data).await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    let mut byte = [0];
    while server.read(&mut byte).await.unwrap() == 1 {
        got.push(byte[0]);
    }
    assert!(got == data);
}

pub(crate) async fn vectored_write<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    assert_eq!(client.write_vectored(&[]).await.unwrap(), 0);
    assert_eq!(client.write_vectored(&[IoSlice::new(b""), IoSlice::new(b"")]).await.unwrap(), 0);
    assert!(client.is_write_vectored());
    let slices: [&[u8]; 4] = [b"one ", b"", b"two ", b"three"];
    let n = client.write_vectored(&slices.map(IoSlice::new)).await.unwrap();
    assert_eq!(n, 13);
    assert_eq!(read_len(&mut server, 13).await.unwrap(), b"one two three");
    client.shutdown().await.unwrap();
    assert_kind(client.write_vectored(&slices.map(IoSlice::new)).await, ErrorKind::BrokenPipe);
}

pub(crate) async fn a_short_read_does_not_wait_for_more<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"short").await.unwrap();
    assert_eq!(read_some(&mut server).await.unwrap(), b"short");
    assert_pending(read_some(&mut server)).await;
}

pub(crate) async fn ping_pong<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let serving = tokio::spawn(async move {
        let mut buf = [0; 32];
        while server.read_exact(&mut buf).await.is_ok() {
            buf.reverse();
            server.write_all(&buf).await.unwrap();
        }
    });
    for round in 0..200 {
        let mut ping = pattern(32, round);
        client.write_all(&ping).await.unwrap();
        ping.reverse();
        assert_eq!(read_len(&mut client, 32).await.unwrap(), ping);
    }
    drop(client);
    serving.await.unwrap();
}

pub(crate) async fn full_duplex<T: Transport>() {
    let (client, server) = pair::<T>().await;
    let (up, down) = (pattern(1 << 20, 4), pattern(1 << 20, 5));
    async fn side<T: Transport>(stream: T::Stream, mine: Vec<u8>, theirs: Vec<u8>) {
        let (mut reader, mut writer) = T::into_split(stream);
        let sending = tokio::spawn(async move {
            writer.write_all(&mine).await.unwrap();
            writer
        });
        assert!(read_len(&mut reader, theirs.len()).await.unwrap() == theirs);
        drop(sending.await.unwrap());
        assert_end(&mut reader).await;
    }
    let there = tokio::spawn(side::<T>(server, down.clone(), up.clone()));
    side::<T>(client, up, down).await;
    there.await.unwrap();
}

pub(crate) async fn eight_mebibytes_and_shutdown<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let data = pattern(8 << 20, 6);
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    assert!(read_all(&mut server).await.unwrap() == data);
    drop(server);
    assert_end(&mut sending.await.unwrap()).await;
}

pub(crate) async fn copy_bidirectional_between_two<T: Transport>() {
    let (mut client, mut front) = pair::<T>().await;
    let (mut back, server) = pair::<T>().await;
    let relaying = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut front, &mut back).await });
    let echoing = tokio::spawn(async move {
        let (mut reader, mut writer) = T::into_split(server);
        tokio::io::copy(&mut reader, &mut writer).await
    });
    let data = pattern(300_000, 7);
    let (mut reader, mut writer) = tokio::io::split(&mut client);
    let send = async {
        writer.write_all(&data).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let ((), back) = tokio::join!(send, read_all(&mut reader));
    assert!(back.unwrap() == data);
    assert_eq!(relaying.await.unwrap().unwrap(), (300_000, 300_000));
    assert_eq!(echoing.await.unwrap().unwrap(), 300_000);
}
