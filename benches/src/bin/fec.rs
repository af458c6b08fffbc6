//! Where error correction pays: delivery delay and bytes with none, with redundancy, and in several shapes, by loss.

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use kcp_benches::fec::{MESSAGE, Outcome, TICK, run};
use kcp_benches::plot::{self, Labels, Line};
use kcp_netsim::{LinkConfig, Loss};
use kcp_tokio::layers::{FecConfig, LayersConfig};
use kcp_tokio::{KcpConfig, SessionConfig};
use serde_json::json;

#[derive(Parser)]
struct Args {
    /// Runs of each kind, each with another seed
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// Messages in each run
    #[arg(long, default_value_t = 1500)]
    messages: u64,
    /// Round trip in ms
    #[arg(long, default_value_t = 100)]
    rtt: u64,
    /// Directory for the JSON result and the plots
    #[arg(long)]
    out: Option<PathBuf>,
}

fn ways() -> Result<Vec<(&'static str, KcpConfig)>, Box<dyn Error>> {
    let fec = |config: FecConfig| KcpConfig::turbo().layers(LayersConfig::new().fec(config));
    let flush = Some(Duration::from_millis(10));
    Ok(vec![
        ("none", KcpConfig::turbo()),
        ("10/3", fec(FecConfig::new(10, 3)?.flush_after(None))),
        ("10/3, 10 ms", fec(FecConfig::new(10, 3)?.flush_after(flush))),
        ("3/1", fec(FecConfig::new(3, 1)?.flush_after(None))),
        ("1/1", fec(FecConfig::new(1, 1)?.flush_after(None))),
        ("3/3, adaptive", fec(FecConfig::new(3, 3)?.flush_after(None).adaptive(1))),
        ("redundancy 3", SessionConfig::realtime().into()),
    ])
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut results = Vec::new();
    println!(
        "a {MESSAGE} B message per {TICK:?}, one way, round trip {} ms, {} x {} messages",
        args.rtt, args.seeds, args.messages
    );
    println!(
        "{:8} {:8} {:14} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
        "loss", "", "", "p50 ms", "p90", "p99", "p99.9", "B/message", "packets"
    );
    for bursty in [false, true] {
        let kind = if bursty { "bursts" } else { "uniform" };
        let mut p99: Vec<Line> = Vec::new();
        let mut bytes: Vec<Line> = Vec::new();
        for (name, config) in ways()? {
            let (mut delays, mut costs) = (Vec::new(), Vec::new());
            for percent in [0u32, 1, 5, 10, 20] {
                let share = f64::from(percent) / 100.0;
                let loss =
                    if bursty && percent > 0 { Loss::bursty(share, 3.0) } else { Loss::Uniform(share) };
                let link = LinkConfig { loss, ..LinkConfig::lossy(0.0, Duration::from_millis(args.rtt)) };
                let mut all: Option<Outcome> = None;
                for seed in 0..args.seeds {
                    let one = run(&config, &link, args.messages, seed);
                    match &mut all {
                        Some(all) => all.merge(&one),
                        None => all = Some(one),
                    }
                }
                let all = all.ok_or("no seeds")?;
                let ms = |quantile| all.delay.value_at_quantile(quantile) as f64 / 1000.0;
                let messages = (args.seeds * args.messages) as f64;
                let (each, packets) = (all.bytes as f64 / messages, all.datagrams as f64 / messages);
                println!(
                    "{percent:>3} %    {kind:8} {name:14} {:8.1} {:8.1} {:8.1} {:8.1} {each:9.1} {packets:9.2}",
                    ms(0.5),
                    ms(0.9),
                    ms(0.99),
                    ms(0.999)
                );
                results.push(json!({
                    "loss": share, "kind": kind, "way": name, "p50_ms": ms(0.5), "p90_ms": ms(0.9),
                    "p99_ms": ms(0.99), "p999_ms": ms(0.999), "bytes_per_message": each,
                    "packets_per_message": packets,
                }));
                delays.push((f64::from(percent), ms(0.99)));
                costs.push((f64::from(percent), each));
            }
            p99.push((name.to_owned(), delays));
            bytes.push((name.to_owned(), costs));
        }
        if let Some(out) = &args.out {
            fs::create_dir_all(out)?;
            let title = format!("99th percentile of delivery delay, loss {kind}, round trip {} ms", args.rtt);
            let labels = Labels { title: &title, x: "packets lost, %", y: "ms" };
            plot::lines(&out.join(format!("fec-delay-{kind}.svg")), labels, [false; 2], &p99)?;
            let title = format!("UDP payload per message of {MESSAGE} B, both directions, loss {kind}");
            let labels = Labels { title: &title, x: "packets lost, %", y: "bytes" };
            plot::lines(&out.join(format!("fec-bytes-{kind}.svg")), labels, [false; 2], &bytes)?;
        }
    }
    if let Some(out) = &args.out {
        fs::write(out.join("fec.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    }
    Ok(())
}
