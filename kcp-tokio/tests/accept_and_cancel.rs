//! What a `TcpStream`'s users rely on: vectored writes, several tasks that accept, cancelled writes and accepts.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Far beyond what any of these takes; a hang fails instead of blocking the run.
const LIMIT: Duration = Duration::from_secs(60);

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

async fn pair(config: KcpConfig) -> (KcpStream, KcpStream, KcpListener) {
    let listener = KcpListener::bind_with("127.0.0.1:0", config.clone()).await.unwrap();
    let client = KcpStream::connect_with(listener.local_addr().unwrap(), config).await.unwrap();
    let (server, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    (client, server, listener)
}

#[tokio::test]
async fn vectored_writes_arrive_in_order() {
    let (mut client, mut server, _listener) = pair(KcpConfig::turbo()).await;
    assert!(tokio::io::AsyncWrite::is_write_vectored(&client));
    let parts: Vec<Vec<u8>> = [0, 1, 1376, 5000, 0, 77].iter().map(|&len| pattern(len, len as u64)).collect();
    let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let expected = parts.concat();
    assert_eq!(client.write_vectored(&slices).await.unwrap(), expected.len());
    let mut got = vec![0; expected.len()];
    timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_tasks_accept_and_none_is_lost() {
    let listener = Arc::new(KcpListener::bind("127.0.0.1:0").await.unwrap());
    let addr = listener.local_addr().unwrap();
    let (tx, mut rx) = futures::channel::mpsc::unbounded();
    for _ in 0..4 {
        let (listener, tx) = (listener.clone(), tx.clone());
        tokio::spawn(async move {
            loop {
                // A cancelled accept now and then: nothing may get lost with it.
                tokio::select! {
                    biased;
                    accepted = listener.accept() => {
                        if tx.unbounded_send(accepted.unwrap().0.conv()).is_err() {
                            return;
                        }
                    }
                    () = tokio::task::yield_now() => {}
                }
            }
        });
    }
    let mut expected = Vec::new();
    let mut streams = Vec::new();
    for _ in 0..40 {
        let stream = timeout(LIMIT, KcpStream::connect(addr)).await.unwrap().unwrap();
        expected.push(stream.conv());
        streams.push(stream);
    }
    let mut got = Vec::new();
    while got.len() < expected.len() {
        got.push(timeout(LIMIT, rx.next()).await.unwrap().unwrap());
    }
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_cancelled_write_took_nothing() {
    let config = KcpConfig::from(SessionConfig::turbo().send_buffer(8192).send_window(8));
    let (mut client, mut server, _listener) = pair(config).await;
    let data = pattern(600_000, 5);
    let expected = data.clone();
    let writer = tokio::spawn(async move {
        let mut sent = 0;
        while sent < data.len() {
            let end = data.len().min(sent + 3000);
            tokio::select! {
                biased;
                taken = client.write(&data[sent..end]) => sent += taken.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        }
        client.shutdown().await.unwrap();
    });
    let mut got = vec![0; expected.len()];
    timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == expected);
    timeout(LIMIT, writer).await.unwrap().unwrap();
}
