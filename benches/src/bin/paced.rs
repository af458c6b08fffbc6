//! Tables of `paced`: delivery delay of small messages and of bursts under loss, per preset. `paced [seeds] [messages] [bursts]`.

use std::time::Duration;

use kcp_benches::paced::{BURSTS, Paced, SMALL, Work, run};
use kcp_core::SessionConfig;
use kcp_netsim::{LinkConfig, Loss};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let mut number = |default| numbers.next().unwrap_or(default);
    let (seeds, messages, bursts) = (number(20), number(1500), number(200));
    println!("one 64 B message per 20 ms, echoed, RTT 50 ms, {seeds} seeds of {messages} messages");
    table(SMALL, seeds, messages);
    println!("\na burst of 64 KiB, its answer, 200 ms, RTT 50 ms, {seeds} seeds of {bursts} bursts");
    table(BURSTS, seeds, bursts);
}

fn table(work: Work, seeds: u64, requests: u64) {
    let losses = [
        ("0 %", Loss::Uniform(0.0)),
        ("1 %", Loss::Uniform(0.01)),
        ("5 %", Loss::Uniform(0.05)),
        ("5 % bursts of 3", Loss::bursty(0.05, 3.0)),
        ("10 %", Loss::Uniform(0.1)),
        ("10 % bursts of 3", Loss::bursty(0.1, 3.0)),
        ("20 %", Loss::Uniform(0.2)),
        ("20 % bursts of 3", Loss::bursty(0.2, 3.0)),
    ];
    let presets: [(&str, SessionConfig); 3] = [
        ("fast", SessionConfig::fast()),
        ("turbo", SessionConfig::turbo()),
        ("realtime", SessionConfig::realtime()),
    ];
    println!(
        "{:16} {:10} {:>7} {:>7} {:>7} {:>7} {:>9} {:>8} {:>6} {:>6} {:>6} {:>6}",
        "loss",
        "preset",
        "p50 ms",
        "p99",
        "p99.9",
        "max",
        "kB",
        "packets",
        "alone",
        "lost",
        "resent",
        "copied"
    );
    for (name, loss) in losses {
        for (preset, config) in &presets {
            let mut link = LinkConfig::ideal();
            link.delay = Duration::from_millis(25);
            link.loss = loss.clone();
            let mut all = Paced::default();
            for seed in 0..seeds {
                all.merge(run(work, config, &link, requests, seed), seed as u32);
            }
            println!(
                "{name:16} {preset:10} {:7.1} {:7.1} {:7.1} {:7.1} {:9.1} {:8} {:6} {:5.1}% {:6} {:6}",
                all.percentile(0.5),
                all.percentile(0.99),
                all.percentile(0.999),
                all.percentile(1.0),
                all.bytes as f64 / 1000.0 / seeds as f64,
                all.datagrams / seeds,
                all.alone / seeds,
                all.lost * 100.0,
                all.again[0] / seeds,
                all.again[1] / seeds,
            );
        }
    }
}
