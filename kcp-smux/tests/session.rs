//! Two sessions, one at each end of a pipe: data, ends, budgets, fairness.

use std::io::ErrorKind;
use std::time::Duration;

use kcp_smux::{Config, Error, Session, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

const BOTH: [Version; 2] = [Version::V1, Version::V2];

fn pair(config: &Config) -> (Session, Session) {
    pair_over(config, 16 << 10)
}

fn pair_over(config: &Config, pipe: usize) -> (Session, Session) {
    let (here, there) = tokio::io::duplex(pipe);
    (Session::client(here, config.clone()).unwrap(), Session::server(there, config.clone()).unwrap())
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

#[tokio::test(start_paused = true)]
async fn many_streams_both_ways_arrive_whole() {
    for version in BOTH {
        let config = Config::new(version).stream_buffer(100_000).max_frame(3000);
        let (client, server) = pair(&config);
        tokio::spawn(async move {
            while let Ok(stream) = server.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                    writer.shutdown().await.unwrap();
                });
            }
        });
        let tasks: Vec<_> = (0..20)
            .map(|seed| {
                let stream = client.open().unwrap();
                tokio::spawn(async move {
                    let data = pattern(700_000, seed);
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    let sending = data.clone();
                    let send = tokio::spawn(async move {
                        for part in sending.chunks(1 + seed as usize * 1000) {
                            writer.write_all(part).await.unwrap();
                        }
                        writer.shutdown().await.unwrap();
                    });
                    let mut got = Vec::new();
                    reader.read_to_end(&mut got).await.unwrap();
                    send.await.unwrap();
                    assert!(got == data);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(client.streams(), 0);
        assert!(client.close_reason().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_stops_others_in_version_1_only() {
    for version in BOTH {
        let config = Config::new(version).receive_buffer(600_000).stream_buffer(300_000);
        let (client, server) = pair(&config);
        let mut full = client.open().unwrap();
        let writing = tokio::spawn(async move { full.write_all(&[0; 2_000_000]).await });
        let stalled = server.accept().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let mut other = client.open().unwrap();
        other.write_all(b"hello").await.unwrap();
        let hello = timeout(Duration::from_secs(100), async {
            let mut hello = [0; 5];
            server.accept().await.unwrap().read_exact(&mut hello).await.unwrap();
            hello
        });
        match version {
            Version::V1 => assert!(hello.await.is_err()),
            Version::V2 => assert_eq!(&hello.await.unwrap(), b"hello"),
        }
        // Neither end takes the other's silence for its death.
        assert!(client.close_reason().is_none() && server.close_reason().is_none());
        // Whoever lets go of it sets the others free.
        drop(stalled);
        if version == Version::V1 {
            let mut hello = [0; 5];
            server.accept().await.unwrap().read_exact(&mut hello).await.unwrap();
            writing.await.unwrap().unwrap();
        } else {
            assert!(!writing.is_finished());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_leaves_after_everything_was_dropped() {
    for version in BOTH {
        let (client, server) = pair_over(&Config::new(version), 100);
        let data = pattern(60_000, 1);
        let mut stream = client.open().unwrap();
        stream.write_all(&data).await.unwrap();
        drop(stream);
        drop(client);
        let mut got = Vec::new();
        server.accept().await.unwrap().read_to_end(&mut got).await.unwrap();
        assert!(got == data);
        assert!(matches!(server.closed().await, Error::Ended));
    }
}

#[tokio::test(start_paused = true)]
async fn close_waits_until_everything_has_left() {
    let (client, server) = pair_over(&Config::default(), 100);
    let mut stream = client.open().unwrap();
    stream.write_all(&[5; 50_000]).await.unwrap();
    let (reason, got) = tokio::join!(client.close(), async {
        let mut got = Vec::new();
        let result = server.accept().await.unwrap().read_to_end(&mut got).await;
        // The stream has not ended: its session has.
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset);
        got
    });
    assert!(matches!(reason, Error::Closed));
    assert_eq!(got, [5; 50_000]);
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert!(matches!(client.open().unwrap_err(), Error::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_whose_peer_does_not_read_gives_up() {
    let (client, server) = pair(&Config::default());
    let mut stream = client.open().unwrap();
    stream.write_all(&[5; 262_144 + 10_000]).await.unwrap();
    drop(stream);
    let mut peer = server.accept().await.unwrap();
    sleep(Duration::from_secs(29)).await;
    assert_eq!(client.streams(), 1);
    sleep(Duration::from_secs(62)).await;
    assert_eq!(client.streams(), 0);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len(), 262_144);
}

/// Its peer, which has not seen anything else of it, would not know otherwise whether anybody still reads.
#[tokio::test(start_paused = true)]
async fn after_its_end_a_reader_tells_more_often_that_it_reads() {
    let (client, server) = pair(&Config::default());
    let mut reader = client.open().unwrap();
    reader.shutdown().await.unwrap();
    let mut writer = server.accept().await.unwrap();
    assert_eq!(writer.read(&mut [0]).await.unwrap(), 0);
    assert!(writer.peer_finished());
    writer.write_all(&vec![0; 150_000]).await.unwrap();
    let mut some = vec![0; 140_000];
    reader.read_exact(&mut some).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    assert!(writer.peer_consumed() > 70_000, "{}", writer.peer_consumed());
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_session_refuses_streams_and_keeps_those_that_it_has() {
    let (client, server) = pair(&Config::default());
    let mut mine = client.open().unwrap();
    mine.write_all(b"1").await.unwrap();
    let mut theirs = server.accept().await.unwrap();
    drop(server);
    let mut refused = client.open().unwrap();
    assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
    theirs.write_all(b"still there").await.unwrap();
    let mut text = [0; 11];
    mine.read_exact(&mut text).await.unwrap();
    drop((theirs, refused));
    assert_eq!(mine.read(&mut [0]).await.unwrap(), 0);
    assert!(matches!(client.closed().await, Error::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_an_error() {
    let (here, there) = tokio::io::duplex(100);
    let session = Session::client(here, Config::default()).unwrap();
    let mut stream = session.open().unwrap();
    let reading = tokio::spawn(async move { stream.read(&mut [0]).await });
    sleep(Duration::from_millis(1)).await;
    drop(there);
    assert_eq!(reading.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(session.accept().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_goes_away_leaves_nobody_waiting() {
    let (here, _there) = tokio::io::duplex(100);
    let other = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { Session::client(here, Config::default()).unwrap() })
    });
    let session = other.await.unwrap();
    assert!(matches!(session.closed().await, Error::Closed));
}

/// An idle session has nothing to do but its signs of life.
#[tokio::test(start_paused = true)]
async fn idle_sessions_live_for_days() {
    let (client, server) = pair(&Config::default());
    sleep(Duration::from_secs(3 * 86_400)).await;
    assert!(client.close_reason().is_none() && server.close_reason().is_none());
}
