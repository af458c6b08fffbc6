//! Goodput under loss over the real kernel, and what it costs on the wire:
//! `cargo run --release -p kcp-benches --bin goodput -- [--quick] [--runs 0..3] [--setting open,100M] [--raw FILE] [--out DIR]
//! [--document FILE]`.
//! Needs root. Appends a JSON line per run to the raw file, then makes tables, JSON and plots of all that is in it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use kcp_benches::lab::{Contestant, Lab, Sample, Work};
use kcp_benches::peers::process::raise_limits;
use kcp_benches::plot::{self, Labels, Line};
use kcp_benches::report::{into_document, table_head};
use kcp_netlab::{LinkConfig, Loss};
use serde::{Deserialize, Serialize};
use serde_json::json;

const PERCENT: [u32; 4] = [1, 5, 10, 20];
const RTT_MS: [u64; 4] = [20, 50, 100, 200];
/// Bytes per second of the limited link: 100 Mbit/s.
const RATE: u64 = 12_500_000;

/// Goodput under loss over the real kernel.
#[derive(Debug, Parser)]
struct Args {
    /// Runs, as first..last; "none": only make tables of what is in the raw file.
    #[arg(long, default_value = "0..3")]
    runs: String,
    /// One second per run, two round trips, two rates of loss: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Seconds that count of each run.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Windows of every KCP, in segments: what a path of 100 Mbit/s and 200 ms holds, twice.
    #[arg(long, default_value_t = 4096)]
    window: u16,
    /// Only these contestants, separated by commas: "ours turbo,tcp bbr".
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these: open (no limit to the link's rate), 100M (100 Mbit/s, a queue of one round trip).
    #[arg(long, value_delimiter = ',', default_value = "open,100M")]
    setting: Vec<String>,
    /// Only these round trips, in milliseconds.
    #[arg(long, value_delimiter = ',')]
    rtt: Vec<u64>,
    /// So many contestants at a time, each with its own link. More than one where the processor has time for all.
    #[arg(long, default_value_t = 1)]
    together: usize,
    /// A JSON line per run is appended here.
    #[arg(long, default_value = "target/goodput.jsonl")]
    raw: PathBuf,
    /// JSON and plots go here.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Puts the tables between the marks of this document.
    #[arg(long)]
    document: Option<PathBuf>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Run {
    setting: String,
    percent: u32,
    rtt_ms: u64,
    peer: String,
    run: u64,
    sample: Option<Sample>,
    error: Option<String>,
}

fn link(setting: &str, percent: u32, rtt_ms: u64) -> LinkConfig {
    let config = LinkConfig {
        loss: Loss::Uniform(f64::from(percent) / 100.0),
        ..LinkConfig::lossy(0.0, Duration::from_millis(rtt_ms))
    };
    match setting {
        "open" => config,
        // One product of rate and round trip, as routers have it, but not less than 64 full packets.
        _ => {
            LinkConfig { rate: Some(RATE), queue: ((RATE * rtt_ms / 1000) as usize).max(64 * 1500), ..config }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if args.runs != "none" {
        kcp_netlab::available()?;
        raise_limits();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (first, last) = args.runs.split_once("..").ok_or("runs are first..last")?;
        let mut raw = File::options().create(true).append(true).open(&args.raw)?;
        for run in first.parse()?..last.parse()? {
            measure(&args, run, &mut raw)?;
        }
    }
    report(&args, args.out.as_deref())
}

fn measure(args: &Args, run: u64, raw: &mut File) -> Result<(), Box<dyn Error>> {
    let contestants: Vec<_> = Contestant::all()
        .into_iter()
        // The others of ours differ from `turbo` in what they do for small messages, or are not for this.
        .filter(|one| ["ours fast", "ours turbo"].contains(&one.name) || !one.name.starts_with("ours"))
        .filter(|one| args.peers.is_empty() || args.peers.iter().any(|name| name == one.name))
        .collect();
    for setting in &args.setting {
        for rtt_ms in RTT_MS {
            if !args.rtt.is_empty() && !args.rtt.contains(&rtt_ms)
                || args.quick && !matches!(rtt_ms, 50 | 200)
            {
                continue;
            }
            for percent in PERCENT {
                if args.quick && !matches!(percent, 1 | 10) {
                    continue;
                }
                let lasting = Duration::from_secs_f64(if args.quick { 1.0 } else { args.seconds });
                // Windows are open after a few round trips.
                let work = Work::Bulk { warm: Duration::from_millis(500 + 5 * rtt_ms), lasting };
                let config = link(setting, percent, rtt_ms);
                for group in contestants.chunks(args.together.max(1)) {
                    let seed = run << 32 | u64::from(percent) << 16 | rtt_ms;
                    let labs = group
                        .iter()
                        .map(|one| Lab::new(*one, config.clone(), seed))
                        .collect::<Result<Vec<_>, _>>()?;
                    let results = std::thread::scope(|scope| {
                        let threads: Vec<_> =
                            labs.iter().map(|lab| scope.spawn(|| lab.run(args.window, work))).collect();
                        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
                    });
                    for (one, result) in group.iter().zip(results) {
                        let (sample, error) = match result.map_err(|_| "panicked".to_owned()) {
                            Ok(Ok(sample)) => (Some(sample), None),
                            Ok(Err(error)) => (None, Some(error.to_string())),
                            Err(error) => (None, Some(error)),
                        };
                        if let Some(error) = &error {
                            eprintln!("{setting} {percent} % {rtt_ms} ms {}: FAILED: {error}", one.name);
                        }
                        let peer = one.name.to_owned();
                        let line =
                            Run { setting: setting.clone(), percent, rtt_ms, peer, run, sample, error };
                        writeln!(raw, "{}", serde_json::to_string(&line)?)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    // The middle one, or the mean of both.
    let middle = [values.len().saturating_sub(1) / 2, values.len() / 2];
    let both = middle.map(|place| values.get(place).copied().unwrap_or(f64::NAN));
    f64::midpoint(both[0], both[1])
}

#[derive(Debug, Default)]
struct Cell {
    failed: u32,
    mb_per_s: Vec<f64>,
    wire: Vec<f64>,
    lost: Vec<f64>,
    dropped: Vec<f64>,
}

fn report(args: &Args, out: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let names: Vec<_> = Contestant::all().into_iter().map(|one| one.name).collect();
    // (setting, round trip, loss, place of the contestant).
    let mut cells: BTreeMap<(String, u64, u32, usize), Cell> = BTreeMap::new();
    for line in BufReader::new(File::open(&args.raw)?).lines() {
        let run: Run = serde_json::from_str(&line?)?;
        let Some(place) = names.iter().position(|&name| name == run.peer) else { continue };
        let cell = cells.entry((run.setting, run.rtt_ms, run.percent, place)).or_default();
        let Some(sample) = run.sample else {
            cell.failed += 1;
            continue;
        };
        cell.mb_per_s.push(sample.delivered as f64 / 1e6 / sample.seconds);
        cell.wire.push(sample.bytes as f64 / sample.delivered.max(1) as f64);
        cell.lost.push(sample.lost);
        cell.dropped.push(sample.dropped);
    }
    let mut results = Vec::new();
    let mut plots: BTreeMap<(String, u64, &str), Vec<Line>> = BTreeMap::new();
    let mut rows: BTreeMap<(String, u64, usize), Vec<String>> = BTreeMap::new();
    for ((setting, rtt_ms, percent, place), cell) in &mut cells {
        let name = names[*place];
        let (speed, wire) = (median(&mut cell.mb_per_s), median(&mut cell.wire));
        let (lost, dropped) = (median(&mut cell.lost), median(&mut cell.dropped));
        results.push(json!({
            "setting": setting, "rtt_ms": rtt_ms, "percent": percent, "peer": name, "runs": cell.mb_per_s.len(),
            "failed": cell.failed, "mb_per_s": speed, "wire_per_byte": wire, "lost": lost, "queue_dropped": dropped,
        }));
        let mut text = format!("{speed:.2} / {wire:.2}");
        if cell.failed > 0 {
            text += &format!(" ({} failed)", cell.failed);
        }
        rows.entry((setting.clone(), *rtt_ms, *place)).or_default().push(text);
        for (figure, y) in [("goodput", speed), ("wire", wire)] {
            if !y.is_finite() {
                continue;
            }
            let lines = plots.entry((setting.clone(), *rtt_ms, figure)).or_default();
            if !lines.iter().any(|(other, _)| other == name) {
                lines.push((name.to_owned(), Vec::new()));
            }
            if let Some((_, points)) = lines.iter_mut().find(|(other, _)| other == name) {
                points.push((f64::from(*percent), y));
            }
        }
    }
    let (mut heading, mut tables) = (String::new(), String::new());
    for ((setting, rtt_ms, place), texts) in &rows {
        let title = format!("{setting}, {rtt_ms} ms");
        if heading != title {
            tables += &table_head(&title, PERCENT.map(|percent| format!("{percent} %")));
            heading = title;
        }
        writeln!(tables, "| {} | {} |", names[*place], texts.join(" | "))?;
    }
    println!("{tables}");
    if let Some(document) = &args.document {
        into_document(document, "goodput", &(tables + "\n"))?;
    }
    let Some(out) = out else { return Ok(()) };
    fs::create_dir_all(out)?;
    fs::write(out.join("goodput.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    for ((setting, rtt_ms, figure), lines) in plots {
        let (what, y) = match figure {
            "goodput" => ("goodput", "MB/s"),
            _ => ("bytes on the wire per byte delivered", "bytes"),
        };
        let title = format!("{what}, link {setting}, round trip {rtt_ms} ms, window {}", args.window);
        let labels = Labels { title: &title, x: "packets lost in each direction, %", y };
        plot::lines(
            &out.join(format!("goodput-{setting}-{rtt_ms}-{figure}.svg")),
            labels,
            [false, figure == "goodput"],
            &lines,
        )?;
    }
    Ok(())
}
