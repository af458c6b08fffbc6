//! Criterion: 16 MiB and a round trip over loopback, ours and `tokio_kcp`.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kcp_benches::loopback::{Peer, bulk, ping_pong, server};

const WINDOW: u16 = 1024;
const BYTES: u64 = 16 << 20;

fn loopback(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let mut group = criterion.benchmark_group("loopback");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    for peer in [Peer::Ours, Peer::TokioKcp] {
        let addr = runtime.block_on(server(peer, WINDOW));
        group.throughput(Throughput::Bytes(BYTES));
        group.bench_function(format!("bulk_{peer:?}"), |bencher| {
            bencher.iter_custom(|iterations| {
                (0..iterations).map(|_| runtime.block_on(bulk(peer, addr, WINDOW, BYTES))).sum()
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("ping_pong_{peer:?}"), |bencher| {
            bencher.iter_custom(|iterations| {
                let count = u32::try_from(iterations).unwrap_or(u32::MAX);
                runtime.block_on(ping_pong(peer, addr, WINDOW, count, 64)).iter().sum()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, loopback);
criterion_main!(benches);
