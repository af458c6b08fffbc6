//! Criterion: the core per segment, over windows and loss.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kcp_benches_core::{MSS, Pattern, Peer, WINDOWS, Workload, measure};

fn engine(criterion: &mut Criterion) {
    for pattern in [Pattern::Burst, Pattern::Tick, Pattern::Event] {
        let mut group = criterion.benchmark_group(format!("engine_ns_per_segment_{pattern:?}"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1));
        for loss in [0.0, 0.01, 0.1] {
            for window in WINDOWS {
                let workload = Workload { pattern, size: MSS, window, loss };
                let name = BenchmarkId::new(format!("loss_{loss}"), window);
                group.bench_with_input(name, &workload, |bencher, &workload| {
                    // What `measure` reports is the time per segment, without its warm-up.
                    bencher.iter_custom(|iterations| {
                        let segments = iterations.max(u64::from(window) * 2);
                        let each = measure(Peer::Ours, workload, segments, None).ns;
                        Duration::from_nanos((each * iterations as f64) as u64)
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, engine);
criterion_main!(benches);
