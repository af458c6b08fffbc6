//! Nanoseconds per segment of the core: ours, `ikcp.c` and no protocol in turn, over windows and loss. Medians of five.
//!
//! `cargo run --release -p kcp-benches --bin engine_table`

use kcp_benches::engine::{MSS, Pattern, Peer, SMALL, WINDOWS, Workload, measure};

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..5).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[2]
}

fn main() {
    for (pattern, size) in
        [(Pattern::Burst, MSS), (Pattern::Event, MSS), (Pattern::Burst, SMALL), (Pattern::Event, SMALL)]
    {
        println!("{pattern:?}: ns of CPU per segment of {size} bytes, both ends and the link together");
        println!("{:>6} {:>8} {:>8} {:>8} {:>8} {:>8}", "loss", "window", "ours", "ikcp.c", "ratio", "null");
        for loss in [0.0, 0.01, 0.1] {
            let mut ends = Vec::new();
            for window in WINDOWS {
                let workload = Workload { pattern, size, window, loss };
                let wnd = u64::from(window);
                let many = wnd * 4 + 20_000;
                let ours = median(|| measure(Peer::Ours, workload, many));
                let null = median(|| measure(Peer::Null, Workload { loss: 0.0, ..workload }, many));
                // Flushing per event costs ikcp.c time in proportion to its window: minutes at the largest.
                let c = match (pattern, window) {
                    (Pattern::Event, 16384..) => None,
                    (Pattern::Event, 1024..) => Some(measure(Peer::C, workload, wnd)),
                    _ => Some(median(|| measure(Peer::C, workload, many))),
                };
                let text = |value: Option<f64>, digits| value.map_or("-".into(), |v| format!("{v:.digits$}"));
                println!(
                    "{:>5}% {window:>8} {ours:>8.0} {:>8} {:>8} {null:>8.0}",
                    loss * 100.0,
                    text(c, 0),
                    text(c.map(|c| c / ours), 2)
                );
                ends.push((ours, null));
            }
            let ((small, small_null), (large, large_null)) = (ends[0], ends[ends.len() - 1]);
            println!(
                "       growth 32 to 16384: {:.2} raw, {:.2} net of what the link grows",
                large / small,
                (large - large_null + small_null) / small
            );
        }
    }
}
