//! Any bytes as the peer of a session, in pieces of any size, while streams are opened, read, written, shut down and dropped: no
//! panic, no spinning, and never more held than configured.
#![no_main]

use std::time::Duration;

use kcp_smux::{Config, Session, Stream, Version};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fuzz_target!(|data: &[u8]| {
    let Some((&[kind, buffer], mut rest)) = data.split_first_chunk() else { return };
    let version = if kind & 1 == 0 { Version::V1 } else { Version::V2 };
    let buffer = usize::from(buffer) * 64 + 1;
    let config = Config::new(version)
        .receive_buffer(buffer)
        .stream_buffer(buffer)
        .send_buffer(100)
        .max_frame(7)
        .max_streams(5)
        .accept_backlog(3);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let (here, mut wire) = tokio::io::duplex(200);
        let session =
            if kind & 2 == 0 { Session::server(here, config) } else { Session::client(here, config) };
        let session = session.expect("a valid configuration");
        let mut streams: Vec<Stream> = Vec::new();
        let mut sink = vec![0; 100];
        // Records: what to do, how many bytes come first.
        while let Some((&[action, len], tail)) = rest.split_first_chunk() {
            let (bytes, tail) = tail.split_at(usize::from(len).min(tail.len()));
            rest = tail;
            let soon = Duration::from_millis(1);
            let _ = tokio::time::timeout(soon, wire.write_all(bytes)).await;
            let at = usize::from(action >> 4) % streams.len().max(1);
            match (action % 8, streams.get_mut(at)) {
                (0, _) => streams.extend(session.open().ok()),
                (1, _) => streams
                    .extend(tokio::time::timeout(soon, session.accept()).await.ok().and_then(Result::ok)),
                (2, Some(stream)) => drop(tokio::time::timeout(soon, stream.read(&mut sink)).await),
                (3, Some(stream)) => drop(tokio::time::timeout(soon, stream.write(bytes)).await),
                (4, Some(stream)) => drop(stream.shutdown().await),
                (5, Some(_)) => drop(streams.swap_remove(at)),
                (6, _) => drop(tokio::time::timeout(soon, wire.read(&mut sink)).await),
                (7, _) => tokio::time::sleep(Duration::from_secs(10)).await,
                _ => {}
            }
            assert!(session.streams() <= 5 || session.close_reason().is_some());
        }
        // What was received can be read, and is within the budget.
        drop(wire);
        session.closed().await;
        let mut held = 0;
        for stream in &mut streams {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).await;
            held += all.len();
        }
        assert!(held <= buffer, "{held} of {buffer}");
    });
});
