//! What a window that is larger than the socket's buffer costs, with and without pacing: bulk over loopback, both ends in one
//! process, a thread each.
//!
//! `cargo run --release -p kcp-benches --bin windows`

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use kcp_benches::median;
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BYTES: usize = 256 << 20;
const CHUNK: usize = 64 * 1024;
const RUNS: usize = 5;

fn config(window: u32, buffer: usize, pacing: bool) -> KcpConfig {
    let session = SessionConfig::turbo().send_window(window).recv_window(window).recv_buffer(64 << 20);
    KcpConfig::from(session.pacing(pacing)).socket_buffer(buffer)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

/// What the receiver does with a byte.
#[derive(Copy, Clone, Debug)]
enum Work {
    Little,
    Much,
}

/// MB/s, and transmissions per segment.
fn run(config: &KcpConfig, work: Work) -> (f64, f64) {
    let (tell, told) = std::sync::mpsc::channel::<SocketAddr>();
    let (end, over) = tokio::sync::oneshot::channel::<()>();
    let server = config.clone();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async move {
            let any: SocketAddr = ([127, 0, 0, 1], 0).into();
            let listener = KcpListener::bind_with(any, server).await.expect("bind");
            tell.send(listener.local_addr().expect("address")).expect("the client waits");
            let (mut stream, _) = listener.accept().await.expect("accept");
            let (mut buf, twice) = (vec![0; CHUNK], (0..2 * CHUNK).map(pattern).collect::<Vec<_>>());
            let mut got = 0;
            while let n @ 1.. = stream.read(&mut buf).await.expect("read") {
                let at = got % CHUNK;
                let expected = &twice[at..at + n];
                let equal = match work {
                    Work::Little => buf[..n] == *expected,
                    // A byte at a time, as a parser reads.
                    Work::Much => buf[..n].iter().zip(expected).all(|(a, b)| black_box(a) == black_box(b)),
                };
                assert!(equal, "other bytes");
                got += n;
            }
            stream.shutdown().await.expect("shutdown");
            let _ = over.await;
            got
        })
    });
    let addr = told.recv().expect("the server's address");
    let (time, stats) = runtime().block_on(async {
        let mut stream = KcpStream::connect_with(addr, config.clone()).await.expect("connect");
        let chunk: Vec<u8> = (0..CHUNK).map(pattern).collect();
        let started = Instant::now();
        for _ in 0..BYTES / CHUNK {
            stream.write_all(&chunk).await.expect("write");
        }
        stream.shutdown().await.expect("shutdown");
        let time = started.elapsed();
        // Whoever goes before the other's end has come cannot acknowledge it.
        assert_eq!(stream.read(&mut [0]).await.expect("read"), 0);
        (time, stream.stats())
    });
    let _ = end.send(());
    assert_eq!(thread.join().expect("server"), BYTES, "all of it");
    let all = stats.segments_sent + stats.retransmits + stats.copies_sent;
    (BYTES as f64 / 1e6 / time.as_secs_f64(), all as f64 / stats.segments_sent as f64)
}

/// Byte `i` of every chunk.
const fn pattern(i: usize) -> u8 {
    (i % CHUNK % 251) as u8
}

fn main() {
    println!("256 MiB over loopback, medians of {RUNS}: MB/s, transmissions per segment");
    println!("{:>10} {:>10} {:>8} {:>18} {:>18}", "reader", "buffer", "window", "paced", "without");
    for work in [Work::Little, Work::Much] {
        for buffer in [208 << 10, 4 << 20] {
            for window in [128, 1024, 4096, 16_384] {
                let row = [true, false].map(|pacing| {
                    let config = config(window, buffer, pacing);
                    let (speeds, sent) = (0..RUNS).map(|_| run(&config, work)).unzip();
                    format!("{:>9.0} {:>8.3}", median(speeds), median(sent))
                });
                let work = format!("{work:?}");
                println!("{work:>10} {buffer:>10} {window:>8} {:>18} {:>18}", row[0], row[1]);
            }
        }
    }
}
