//! Looking before reading or writing: peek, readable, writable, ready, and the try operations.

use std::io::ErrorKind;

use kcp_tests::pattern;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::time::timeout;

use crate::transport::Transport;
use crate::{
    A_WHILE, MORE_THAN_BUFFERS, assert_end, assert_kind, assert_pending, fill, pair, read_all, read_len,
    read_some,
};

/// Readiness may be a false alarm, as that of a stream just accepted is; an attempt that would block ends it.
async fn assert_not_readable<T: Transport>(stream: &T::Stream) {
    for _ in 0..10 {
        assert_kind(T::try_read(stream, &mut [0]), ErrorKind::WouldBlock);
        if timeout(A_WHILE, T::readable(stream)).await.is_err() {
            return;
        }
    }
    panic!("pending expected");
}

pub(crate) async fn peek_does_not_consume<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"peeked").await.unwrap();
    let mut buf = [0; 4];
    for _ in 0..3 {
        assert_eq!(T::peek(&server, &mut buf).await.unwrap(), 4);
        assert_eq!(&buf, b"peek");
    }
    let mut large = [0; 100];
    assert_eq!(T::peek(&server, &mut large).await.unwrap(), 6);
    assert_eq!(&large[..6], b"peeked");
    assert_eq!(read_len(&mut server, 2).await.unwrap(), b"pe");
    assert_eq!(T::peek(&server, &mut large).await.unwrap(), 4);
    assert_eq!(&large[..4], b"eked");
    assert_eq!(read_some(&mut server).await.unwrap(), b"eked");
    assert_pending(T::peek(&server, &mut large)).await;
}

pub(crate) async fn peek_pends_until_data<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    let mut buf = [0; 8];
    assert_pending(T::peek(&server, &mut buf)).await;
    let peeking = tokio::spawn(async move {
        let mut buf = [0; 8];
        let n = T::peek(&server, &mut buf).await.unwrap();
        buf[..n].to_vec()
    });
    tokio::task::yield_now().await;
    client.write_all(b"now").await.unwrap();
    assert_eq!(peeking.await.unwrap(), b"now");
}

pub(crate) async fn peek_at_the_end<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    client.write_all(b"x").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_len(&mut server, 1).await.unwrap(), b"x");
    let mut buf = [0; 8];
    for _ in 0..3 {
        assert_eq!(T::peek(&server, &mut buf).await.unwrap(), 0);
    }
    assert_end(&mut server).await;
}

pub(crate) async fn peek_after_reset<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    T::abort(server);
    let mut buf = [0; 8];
    assert_kind(T::peek(&client, &mut buf).await, ErrorKind::ConnectionReset);
    // It took the error.
    assert_eq!(T::peek(&client, &mut buf).await.unwrap(), 0);
    assert_end(&mut client).await;
}

pub(crate) async fn try_read_empty_data_end<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    let mut buf = [0; 16];
    assert_kind(T::try_read(&server, &mut buf), ErrorKind::WouldBlock);
    client.write_all(b"tried").await.unwrap();
    T::readable(&server).await.unwrap();
    assert_eq!(T::try_read(&server, &mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"tried");
    assert_kind(T::try_read(&server, &mut buf), ErrorKind::WouldBlock);
    client.shutdown().await.unwrap();
    T::readable(&server).await.unwrap();
    for _ in 0..3 {
        assert_eq!(T::try_read(&server, &mut buf).unwrap(), 0);
    }
    // And a reset.
    let (client, server) = pair::<T>().await;
    T::abort(client);
    T::readable(&server).await.unwrap();
    assert_kind(T::try_read(&server, &mut buf), ErrorKind::ConnectionReset);
    assert_eq!(T::try_read(&server, &mut buf).unwrap(), 0);
}

pub(crate) async fn try_write_until_it_would_block<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let chunk = pattern(30_011, 1);
    let mut written = Vec::new();
    T::writable(&client).await.unwrap();
    let error = loop {
        match T::try_write(&client, &chunk) {
            Ok(n) => written.extend_from_slice(&chunk[..n]),
            Err(error) => break error,
        }
        assert!(written.len() < MORE_THAN_BUFFERS, "nobody reads, and yet it goes on");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(!written.is_empty());
    let reading = tokio::spawn(async move { read_all(&mut server).await.unwrap() });
    // The reader makes room.
    T::writable(&client).await.unwrap();
    client.shutdown().await.unwrap();
    assert!(reading.await.unwrap() == written);
}

pub(crate) async fn try_write_after_shutdown<T: Transport>() {
    let (mut client, _server) = pair::<T>().await;
    client.shutdown().await.unwrap();
    T::writable(&client).await.unwrap();
    assert_kind(T::try_write(&client, b"x"), ErrorKind::BrokenPipe);
}

pub(crate) async fn readable_pends_until_data<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    assert_not_readable::<T>(&server).await;
    let waiting = tokio::spawn(async move {
        T::readable(&server).await.unwrap();
        server = server_with_one_byte::<T>(server).await;
        server
    });
    tokio::task::yield_now().await;
    client.write_all(b"1").await.unwrap();
    server = waiting.await.unwrap();
    assert_not_readable::<T>(&server).await;
    client.write_all(b"2").await.unwrap();
    // Readable for as long as it is not read.
    for _ in 0..3 {
        T::readable(&server).await.unwrap();
    }
    server_with_one_byte::<T>(server).await;
}

/// Reads the one byte that is there, and finds no other.
async fn server_with_one_byte<T: Transport>(server: T::Stream) -> T::Stream {
    let mut buf = [0; 16];
    assert_eq!(T::try_read(&server, &mut buf).unwrap(), 1);
    assert_kind(T::try_read(&server, &mut buf), ErrorKind::WouldBlock);
    server
}

pub(crate) async fn readable_at_the_end_and_after_reset<T: Transport>() {
    let (client, mut server) = pair::<T>().await;
    drop(client);
    T::readable(&server).await.unwrap();
    assert_end(&mut server).await;
    T::readable(&server).await.unwrap();
    T::writable(&server).await.unwrap();
    let (client, mut server) = pair::<T>().await;
    T::abort(client);
    T::readable(&server).await.unwrap();
    T::writable(&server).await.unwrap();
    assert_kind(read_some(&mut server).await, ErrorKind::ConnectionReset);
    T::readable(&server).await.unwrap();
    T::writable(&server).await.unwrap();
}

pub(crate) async fn writable_pends_while_blocked<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    T::writable(&client).await.unwrap();
    T::writable(&server).await.unwrap();
    let written = fill(&mut client).await;
    assert_pending(T::writable(&client)).await;
    let reading = tokio::spawn(async move {
        let got = read_len(&mut server, written.len()).await.unwrap();
        assert!(got == written);
        server
    });
    T::writable(&client).await.unwrap();
    assert!(T::try_write(&client, b"x").unwrap() > 0);
    let mut server = reading.await.unwrap();
    assert_eq!(read_len(&mut server, 1).await.unwrap(), b"x");
}

pub(crate) async fn ready_of_a_fresh_stream<T: Transport>() {
    let (client, server) = pair::<T>().await;
    for stream in [&client, &server] {
        assert_not_readable::<T>(stream).await;
        let ready = T::ready(stream, Interest::READABLE | Interest::WRITABLE).await.unwrap();
        assert!(ready.is_writable());
        assert!(!ready.is_readable());
        assert!(!ready.is_read_closed());
        assert!(!ready.is_write_closed());
        assert_pending(T::ready(stream, Interest::READABLE)).await;
    }
}

pub(crate) async fn ready_tells_of_data<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    assert_not_readable::<T>(&server).await;
    client.write_all(b"data").await.unwrap();
    let ready = T::ready(&server, Interest::READABLE).await.unwrap();
    assert!(ready.is_readable());
    assert!(!ready.is_writable(), "not asked for");
    let ready = T::ready(&server, Interest::READABLE | Interest::WRITABLE).await.unwrap();
    assert!(ready.is_readable());
    assert!(ready.is_writable());
    let mut buf = [0; 16];
    assert_eq!(T::try_read(&server, &mut buf).unwrap(), 4);
    assert_eq!(&buf[..4], b"data");
    assert_not_readable::<T>(&server).await;
    assert_pending(T::ready(&server, Interest::READABLE)).await;
}

pub(crate) async fn ready_tells_of_the_end<T: Transport>() {
    let (mut client, server) = pair::<T>().await;
    assert_not_readable::<T>(&server).await;
    client.shutdown().await.unwrap();
    let ready = T::ready(&server, Interest::READABLE).await.unwrap();
    assert!(ready.is_readable());
    assert!(ready.is_read_closed());
    let ready = T::ready(&server, Interest::WRITABLE).await.unwrap();
    assert!(ready.is_writable());
    assert!(!ready.is_write_closed());
    T::abort(server);
    T::readable(&client).await.unwrap();
    let ready = T::ready(&client, Interest::READABLE | Interest::WRITABLE).await.unwrap();
    assert!(ready.is_read_closed());
    assert!(ready.is_write_closed());
}
