//! Delivery delay over the real kernel under loss, TCP's beside QUIC's and KCP's:
//! `cargo run --release -p kcp-benches --bin latency -- [--quick] [--seeds 0..5] [--raw FILE] [--out DIR] [--document FILE]`. Needs root.
//! Appends a JSON line per run to the raw file, then makes tables, JSON and plots of all that is in it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use kcp_benches::lab::{Contestant, EVERY, Lab, PAUSE, Sample, Work};
use kcp_benches::peers::process::raise_limits;
use kcp_benches::plot::{self, Labels, Line};
use kcp_benches::report::{into_document, table_head};
use kcp_netlab::{LinkConfig, Loss};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Of every KCP, in segments.
const WINDOW: u16 = 256;
const RTT: Duration = Duration::from_millis(50);
const PERCENT: [u32; 5] = [0, 1, 5, 10, 20];
const BURST_OF_LOSS: f64 = 3.0;

/// Delivery delay over the real kernel under loss.
#[derive(Debug, Parser)]
struct Args {
    /// Seeds to run, as first..last; "none": only make tables of what is in the raw file.
    #[arg(long, default_value = "0..5")]
    seeds: String,
    /// A tenth of the messages: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Only these contestants, separated by commas: "ours turbo,tcp bbr".
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Only these: paced, bursts.
    #[arg(long, value_delimiter = ',', default_value = "paced,bursts")]
    work: Vec<String>,
    /// A JSON line per run is appended here.
    #[arg(long, default_value = "target/latency.jsonl")]
    raw: PathBuf,
    /// JSON and plots go here.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Puts tables between the marks of this document, two for each work and pattern.
    #[arg(long)]
    document: Option<PathBuf>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Run {
    work: String,
    pattern: String,
    percent: u32,
    peer: String,
    seed: u64,
    sample: Option<Sample>,
    error: Option<String>,
}

fn loss(pattern: &str, percent: u32) -> Loss {
    let share = f64::from(percent) / 100.0;
    if pattern == "bursty" { Loss::bursty(share, BURST_OF_LOSS) } else { Loss::Uniform(share) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if args.seeds != "none" {
        kcp_netlab::available()?;
        raise_limits();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (first, last) = args.seeds.split_once("..").ok_or("seeds are first..last")?;
        let (first, last) = (first.parse()?, last.parse()?);
        let mut raw = File::options().create(true).append(true).open(&args.raw)?;
        for seed in first..last {
            for work in &args.work {
                for run in round(&args, work, seed)? {
                    writeln!(raw, "{}", serde_json::to_string(&run)?)?;
                }
            }
        }
    }
    report(&args.raw, args.out.as_deref(), args.document.as_deref())
}

/// All contestants and settings at once: each has its own link, and hardly any has something to do.
fn round(args: &Args, work: &str, seed: u64) -> Result<Vec<Run>, Box<dyn Error>> {
    let part = if args.quick { 10 } else { 1 };
    let what = match work {
        "paced" => Work::Paced { messages: 1500 / part },
        "bursts" => Work::Bursts { lasting: Duration::from_secs(20) / part as u32 },
        _ => return Err(format!("no work is called {work}").into()),
    };
    let mut labs = Vec::new();
    for pattern in ["uniform", "bursty"] {
        for percent in PERCENT.into_iter().filter(|&percent| percent > 0 || pattern == "uniform") {
            for contestant in Contestant::all() {
                if !args.peers.is_empty() && !args.peers.iter().any(|name| name == contestant.name) {
                    continue;
                }
                let link = LinkConfig { loss: loss(pattern, percent), ..LinkConfig::lossy(0.0, RTT) };
                let number = labs.len() as u64;
                labs.push((pattern, percent, contestant, Lab::new(contestant, link, seed << 16 | number)?));
            }
        }
    }
    let count = labs.len() as u32;
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0u32..)
            .zip(&labs)
            .map(|(i, (.., lab))| {
                scope.spawn(move || {
                    // Spread over the time between two messages, so that they do not wait for one another.
                    std::thread::sleep(EVERY * i / count);
                    lab.run(WINDOW, what)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let mut runs = Vec::new();
    for ((pattern, percent, contestant, _), result) in labs.iter().zip(results) {
        let (sample, error) = match result.map_err(|_| "panicked".to_owned()) {
            Ok(Ok(sample)) => (Some(sample), None),
            Ok(Err(error)) => (None, Some(error.to_string())),
            Err(error) => (None, Some(error)),
        };
        if let Some(error) = &error {
            eprintln!("{work} {pattern} {percent} % {}: FAILED: {error}", contestant.name);
        }
        runs.push(Run {
            work: work.to_owned(),
            pattern: (*pattern).to_owned(),
            percent: *percent,
            peer: contestant.name.to_owned(),
            seed,
            sample,
            error,
        });
    }
    Ok(runs)
}

/// All seeds of one cell.
#[derive(Debug, Default)]
struct Cell {
    seeds: u32,
    failed: u32,
    missing: u64,
    /// In milliseconds, sorted.
    delays: Vec<f64>,
    packets: f64,
    bytes: f64,
    lost: f64,
    delivered: f64,
}

impl Cell {
    fn quantile(&self, part: f64) -> f64 {
        let index = (self.delays.len() as f64 * part).ceil() as usize;
        self.delays.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    fn mean(&self) -> f64 {
        self.delays.iter().sum::<f64>() / self.delays.len() as f64
    }
}

/// Those of one work and pattern.
#[derive(Debug, Default)]
struct Tables {
    percents: Vec<u32>,
    /// By contestant: delays, and what they cost, for each rate of loss.
    rows: BTreeMap<usize, [Vec<String>; 2]>,
}

fn report(raw: &Path, out: Option<&Path>, document: Option<&Path>) -> Result<(), Box<dyn Error>> {
    // (work, pattern, percent, place of the contestant).
    let mut cells: BTreeMap<(String, String, u32, usize), Cell> = BTreeMap::new();
    let names: Vec<_> = Contestant::all().into_iter().map(|one| one.name).collect();
    for line in BufReader::new(File::open(raw)?).lines() {
        let run: Run = serde_json::from_str(&line?)?;
        let Some(place) = names.iter().position(|&name| name == run.peer) else { continue };
        let cell = cells.entry((run.work, run.pattern, run.percent, place)).or_default();
        let Some(sample) = run.sample else {
            cell.failed += 1;
            continue;
        };
        cell.seeds += 1;
        cell.missing += sample.missing;
        cell.delays.extend(sample.delays.iter().map(|&us| us as f64 / 1000.0));
        cell.packets += sample.packets as f64;
        cell.bytes += sample.bytes as f64;
        cell.lost += sample.lost;
        cell.delivered += sample.delivered as f64;
    }
    let mut results = Vec::new();
    let mut plots: BTreeMap<(String, String, &str), Vec<Line>> = BTreeMap::new();
    let mut heading = String::new();
    let mut documented: BTreeMap<(String, String), Tables> = BTreeMap::new();
    for ((work, pattern, percent, place), cell) in &mut cells {
        cell.delays.sort_by(f64::total_cmp);
        let (name, seeds) = (names[*place], f64::from(cell.seeds.max(1)));
        let (packets, bytes, lost) = (cell.packets / seeds, cell.bytes / seeds, cell.lost / seeds);
        let expansion = cell.bytes / cell.delivered.max(1.0);
        let title = format!("{work}, {pattern}");
        if heading != title {
            println!("\n### {title}\n");
            println!(
                "| loss | | mean ms | p50 | p99 | p99.9 | kB | packets | wire bytes per byte | realised loss | seeds |"
            );
            println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
            heading = title;
        }
        let mut note = format!("{}", cell.seeds);
        if cell.failed > 0 {
            note += &format!(", {} failed", cell.failed);
        }
        if cell.missing > 0 {
            note += &format!(", {} never came", cell.missing);
        }
        let [mean, p50, p99, p999] =
            [cell.mean(), cell.quantile(0.5), cell.quantile(0.99), cell.quantile(0.999)];
        println!(
            "| {percent} % | {name} | {mean:.0} | {p50:.0} | {p99:.0} | {p999:.0} | {:.0} | {packets:.0} | {expansion:.2} | {:.1} % | {note} |",
            bytes / 1000.0,
            lost * 100.0,
        );
        let tables = documented.entry((work.clone(), pattern.clone())).or_default();
        if !tables.percents.contains(percent) {
            tables.percents.push(*percent);
        }
        let mut delays = format!("{mean:.0} / {p50:.0} / {p99:.0} / {p999:.0}");
        if cell.missing > 0 {
            delays += &format!(" ({} never came)", cell.missing);
        }
        let [first, second] = tables.rows.entry(*place).or_default();
        first.push(delays);
        // A contestant that is late has fewer bursts in the same time: per byte and per burst.
        let (cost, digits, each) = if work == "paced" {
            (bytes / 1000.0, 0, packets)
        } else {
            (expansion, 2, cell.packets / cell.delays.len().max(1) as f64)
        };
        second.push(format!("{cost:.digits$} / {each:.0} / {:.1} %", lost * 100.0));
        results.push(json!({
            "work": work, "pattern": pattern, "percent": percent, "peer": name, "seeds": cell.seeds,
            "failed": cell.failed, "count": cell.delays.len(), "missing": cell.missing, "mean_ms": mean,
            "p50_ms": p50, "p99_ms": p99, "p999_ms": p999, "bytes": bytes, "packets": packets,
            "wire_per_byte": expansion, "lost": lost,
        }));
        let x = f64::from(*percent);
        for (figure, y) in [("p99", p99), ("bytes", cost)] {
            let lines = plots.entry((work.clone(), pattern.clone(), figure)).or_default();
            if !lines.iter().any(|(other, _)| other == name) {
                lines.push((name.to_owned(), Vec::new()));
            }
            if let Some((_, points)) = lines.iter_mut().find(|(other, _)| other == name) {
                points.push((x, y));
            }
        }
    }
    for ((work, pattern), Tables { percents, rows }) in &documented {
        let Some(document) = document else { break };
        let table = |which: usize| {
            let mut text = table_head("", percents.iter().map(|percent| format!("{percent} %")));
            for (place, cells) in rows {
                text += &format!("| {} | {} |\n", names[*place], cells[which].join(" | "));
            }
            text
        };
        let second = if work == "paced" { "kB / packets" } else { "Wire bytes per byte / packets per burst" };
        let text = format!("{}\n{second} / realised loss:\n{}\n", table(0), table(1));
        into_document(document, &format!("{work} {pattern}"), &text)?;
    }
    let Some(out) = out else { return Ok(()) };
    fs::create_dir_all(out)?;
    fs::write(out.join("latency.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    for ((work, pattern, figure), lines) in plots {
        let what = if work == "paced" {
            format!("64 B every {} ms, echoed", EVERY.as_millis())
        } else {
            format!("64 KiB bursts, {} ms apart", PAUSE.as_millis())
        };
        let title = format!("{what}, round trip {} ms, loss {pattern}: {figure}", RTT.as_millis());
        let y = match (figure, work.as_str()) {
            ("bytes", "paced") => "kB on the wire",
            ("bytes", _) => "bytes on the wire per byte",
            _ => "ms",
        };
        let labels = Labels { title: &title, x: "packets lost in each direction, %", y };
        plot::lines(
            &out.join(format!("latency-{work}-{figure}-{pattern}.svg")),
            labels,
            [false, figure != "bytes"],
            &lines,
        )?;
    }
    Ok(())
}
