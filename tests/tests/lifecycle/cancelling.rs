//! Futures dropped after any number of polls lose nothing and take nothing.

use kcp_tests::pattern;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};

use crate::transport::Transport;
use crate::{assert_pending, cancelled_after, fill, pair, read_all, read_len};

const POLLS: usize = 5;

pub(crate) async fn accept_cancelled_at_every_poll<T: Transport>() {
    let listener = T::bind().await.unwrap();
    let addr = T::listener_addr(&listener).unwrap();
    let connecting = tokio::spawn(async move {
        let mut clients = Vec::new();
        for id in 0..20 {
            let mut client = T::connect(addr).await.unwrap();
            client.write_all(&[id]).await.unwrap();
            clients.push(client);
        }
        clients
    });
    let mut ids = Vec::new();
    let mut servers = Vec::new();
    for polls in (0..POLLS).cycle() {
        if let Some(accepted) = cancelled_after(polls, T::accept(&listener)).await {
            let (mut server, _) = accepted.unwrap();
            ids.extend(read_len(&mut server, 1).await.unwrap());
            servers.push(server);
        }
        if ids.len() == 20 {
            break;
        }
        tokio::task::yield_now().await;
    }
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..20), "{ids:?}");
    assert_pending(T::accept(&listener)).await;
    connecting.await.unwrap();
}

pub(crate) async fn connect_cancelled_at_every_poll<T: Transport>() {
    let listener = T::bind().await.unwrap();
    let addr = T::listener_addr(&listener).unwrap();
    let serving = tokio::spawn(async move {
        loop {
            // Of attempts that were given up too.
            let (mut server, _) = T::accept(&listener).await.unwrap();
            tokio::spawn(async move {
                let mut byte = [0];
                if server.read_exact(&mut byte).await.is_ok() {
                    server.write_all(&byte).await.unwrap();
                }
            });
        }
    });
    for id in 0..10 {
        for polls in 0..POLLS {
            drop(cancelled_after(polls, T::connect(addr)).await);
        }
        let mut client = T::connect(addr).await.unwrap();
        client.write_all(&[id]).await.unwrap();
        assert_eq!(read_len(&mut client, 1).await.unwrap(), [id]);
    }
    serving.abort();
}

pub(crate) async fn read_cancelled_at_every_poll<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let data = pattern(300_000, 1);
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        for chunk in sent.chunks(1_237) {
            client.write_all(chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut got = Vec::new();
    let mut buf = [0; 3_001];
    for polls in (0..POLLS).cycle() {
        match cancelled_after(polls, server.read(&mut buf)).await {
            Some(result) => match result.unwrap() {
                0 => break,
                n => got.extend_from_slice(&buf[..n]),
            },
            None => tokio::task::yield_now().await,
        }
    }
    assert!(got == data);
    sending.await.unwrap();
}

pub(crate) async fn write_cancelled_at_every_poll<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        let mut buf = [0; 9_001];
        loop {
            match server.read(&mut buf).await.unwrap() {
                0 => break got,
                n => got.extend_from_slice(&buf[..n]),
            }
            tokio::task::yield_now().await;
        }
    });
    let mut model = Vec::new();
    for (round, polls) in (0..POLLS).cycle().enumerate() {
        let chunk = pattern(20_000, round as u64);
        match cancelled_after(polls, client.write(&chunk)).await {
            Some(result) => model.extend_from_slice(&chunk[..result.unwrap()]),
            None => tokio::task::yield_now().await,
        }
        if model.len() > 4 << 20 {
            break;
        }
    }
    client.shutdown().await.unwrap();
    assert!(reading.await.unwrap() == model);
}

pub(crate) async fn blocked_write_cancelled<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let mut model = fill(&mut client).await;
    for polls in 0..POLLS {
        assert!(cancelled_after(polls, client.write(b"not sent")).await.is_none());
    }
    let reading = tokio::spawn(async move { read_all(&mut server).await.unwrap() });
    client.write_all(b"sent").await.unwrap();
    model.extend_from_slice(b"sent");
    client.shutdown().await.unwrap();
    assert!(reading.await.unwrap() == model);
}

pub(crate) async fn peek_and_readiness_cancelled<T: Transport>() {
    let (mut client, mut server) = pair::<T>().await;
    let mut buf = [0; 8];
    for polls in 0..POLLS {
        assert!(cancelled_after(polls, T::peek(&server, &mut buf)).await.is_none());
        assert!(cancelled_after(polls, T::readable(&server)).await.is_none());
        assert!(cancelled_after(polls, T::ready(&server, Interest::READABLE)).await.is_none());
    }
    client.write_all(b"data").await.unwrap();
    for polls in (0..POLLS).cycle() {
        if let Some(n) = cancelled_after(polls, T::peek(&server, &mut buf)).await {
            assert_eq!(&buf[..n.unwrap()], b"data");
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(read_len(&mut server, 4).await.unwrap(), b"data");
}

pub(crate) async fn shutdown_cancelled<T: Transport>() {
    for polls in 0..POLLS {
        let (mut client, mut server) = pair::<T>().await;
        let data = pattern(20_000, 2);
        let sent = data.clone();
        let sending = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            let _ = cancelled_after(polls, client.shutdown()).await;
            client.shutdown().await.unwrap();
            client
        });
        assert!(read_all(&mut server).await.unwrap() == data);
        sending.await.unwrap();
    }
}
