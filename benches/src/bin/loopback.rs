//! Bulk throughput and ping-pong latency over loopback, ours and `tokio_kcp` in turn, medians of five.
//!
//! `cargo run --release -p kcp-benches --bin loopback`

use std::time::Duration;

use kcp_benches::loopback::{Peer, bulk, ping_pong, server};

const WINDOW: u16 = 1024;
const BYTES: u64 = 256 << 20;
const ROUNDS: usize = 5;

/// The server has a thread and a runtime of its own, as the client has.
fn with_server<T>(peer: Peer, client: impl AsyncFnOnce(std::net::SocketAddr) -> T) -> T {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async move {
            tell.send(server(peer, WINDOW).await).expect("the client waits");
            let _ = stopped.await;
        });
    });
    let result = runtime().block_on(client(told.recv().expect("the server's address")));
    let _ = stop.send(());
    let _ = thread.join();
    result
}

fn median<T: Copy>(mut values: Vec<T>, order: impl FnMut(&T, &T) -> std::cmp::Ordering) -> T {
    values.sort_by(order);
    values[values.len() / 2]
}

fn main() {
    let peers = [Peer::Ours, Peer::TokioKcp];
    let mut speeds = [Vec::new(), Vec::new()];
    let mut latencies = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (i, peer) in peers.into_iter().enumerate() {
            let time = with_server(peer, async |addr| bulk(peer, addr, WINDOW, BYTES).await);
            speeds[i].push(BYTES as f64 / 1e6 / time.as_secs_f64());
            let mut times = with_server(peer, async |addr| ping_pong(peer, addr, WINDOW, 20_000, 64).await);
            times.sort();
            latencies[i].push((times[times.len() / 2], times[times.len() * 99 / 100]));
        }
    }
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    println!("bulk, 256 MiB, window {WINDOW}: MB/s (median of {ROUNDS}); ping-pong, 64 B: us");
    println!("{:>10} {:>8} {:>8} {:>8}", "", "MB/s", "p50", "p99");
    for (i, peer) in peers.into_iter().enumerate() {
        let speed = median(speeds[i].clone(), f64::total_cmp);
        let (p50, _) = median(latencies[i].clone(), |a, b| a.0.cmp(&b.0));
        let (_, p99) = median(latencies[i].clone(), |a, b| a.1.cmp(&b.1));
        println!("{:>10} {speed:>8.0} {:>8.1} {:>8.1}", format!("{peer:?}"), us(p50), us(p99));
    }
}
