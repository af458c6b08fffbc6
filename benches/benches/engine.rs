//! Criterion: the core per segment, over windows and loss.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kcp_benches::engine::{WINDOWS, ours};

fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine_ns_per_segment");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for loss in [0.0, 0.01, 0.1] {
        for window in WINDOWS {
            let name = BenchmarkId::new(format!("loss_{loss}"), window);
            group.bench_with_input(name, &window, |bencher, &window| {
                // What `ours` reports is the time per segment, without its warm-up.
                bencher.iter_custom(|iterations| {
                    let segments = iterations.max(u64::from(window) * 2);
                    Duration::from_nanos((ours(window, loss, segments) * iterations as f64) as u64)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, engine);
criterion_main!(benches);
