//! Nanoseconds per segment of the core, ours and `ikcp.c` in turn, over windows and loss. Medians of five.
//!
//! `cargo run --release -p kcp-benches --bin engine_table`

use kcp_benches::engine::{WINDOWS, c, ours};

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..5).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[2]
}

fn main() {
    println!("ns per 1376-byte segment, both ends together (burst pattern)");
    println!("{:>6} {:>8} {:>8} {:>8} {:>6}", "loss", "window", "ours", "ikcp.c", "ratio");
    for loss in [0.0, 0.01, 0.1] {
        for window in WINDOWS {
            // ikcp.c scans its window for every ACK: fewer segments where that takes long.
            let segments = u64::from(window) * 4 + 20_000;
            let ours = median(|| ours(window, loss, segments));
            let c = median(|| c(window, loss, segments));
            println!("{:>5}% {window:>8} {ours:>8.0} {c:>8.0} {:>6.2}", loss * 100.0, c / ours);
        }
    }
}
