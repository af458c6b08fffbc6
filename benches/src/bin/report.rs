//! All workloads, piece by piece: runs the other programs, merges what they print into one JSON file, draws plots, and judges.
//!
//! `benches/report [--quick] [PIECE…]` builds and runs it.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use clap::Parser;
use kcp_benches::paced::{Paced, SMALL, run};
use kcp_benches::report::{PacedRow, Results, into_document, table};
use kcp_core::SessionConfig;
use kcp_netsim::{LinkConfig, Loss};

#[derive(Parser)]
struct Args {
    /// What to measure, most of them less than 300 s each; all if none is named. `none` only draws and judges what there is
    #[arg(value_parser = ["none"].into_iter().chain(PIECES).collect::<Vec<_>>())]
    pieces: Vec<String>,
    /// A tenth of the work, once, into `target/performance`: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Runs of each peer and workload, instead of the workload's own number
    #[arg(long)]
    runs: Option<u32>,
    /// Only these peers, separated by commas; what is known of others stays
    #[arg(long)]
    peers: Option<String>,
    /// Directory for the JSON result and the plots
    #[arg(long)]
    out: Option<PathBuf>,
    /// Puts the table of bars between the marks of this document
    #[arg(long)]
    document: Option<PathBuf>,
}

const PIECES: [&str; 19] = [
    "bulk-w256",
    "bulk",
    "bulk-w4096",
    "bulk-100",
    "pingpong",
    "pingpong-100",
    "idle-1k",
    "idle-10k",
    "idle-100k",
    "tick-1k",
    "tick-5k",
    "cycles",
    "core-burst-1376",
    "core-tick-1376",
    "core-event-1376",
    "core-burst-64",
    "core-tick-64",
    "core-event-64",
    "paced",
];

/// A program beside this one.
fn program(name: &str) -> Result<Command, Box<dyn Error>> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        return Err(format!("{} is not built", path.display()).into());
    }
    Ok(Command::new(path))
}

/// Runs it with `--json`, and returns what it has written there.
fn json_of(mut command: Command, scratch: &Path) -> Result<String, Box<dyn Error>> {
    let file = scratch.join("lines.jsonl");
    let status = command.arg("--json").arg(&file).status()?;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    Ok(fs::read_to_string(file)?)
}

fn measure(piece: &str, args: &Args, scratch: &Path, results: &mut Results) -> Result<(), Box<dyn Error>> {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    if piece == "paced" {
        paced(args.quick, results);
        return Ok(());
    }
    if let Some((pattern, size)) = piece.strip_prefix("core-").and_then(|rest| rest.split_once('-')) {
        let mut command = program("engine_table")?;
        command.args(["--patterns", pattern, "--sizes", size]).args(args.quick.then_some("--quick"));
        return results.take_core(&json_of(command, scratch)?);
    }
    let mut command = program("peers")?;
    command.args(["--work", piece]).args(args.quick.then_some("--quick"));
    if let Some(runs) = args.runs {
        command.args(["--runs", &runs.to_string()]);
    }
    if let Some(peers) = &args.peers {
        command.args(["--peers", peers]);
    }
    results.take_peers(&json_of(command, scratch)?, at)
}

/// Virtual time: the same everywhere.
fn paced(quick: bool, results: &mut Results) {
    let (seeds, messages) = if quick { (2, 300) } else { (100, 1500) };
    results.paced.clear();
    for (preset, config) in [
        ("fast", SessionConfig::fast()),
        ("turbo", SessionConfig::turbo()),
        ("realtime", SessionConfig::realtime()),
    ] {
        for loss in [0u32, 1, 5, 10, 20] {
            let mut link = LinkConfig::ideal();
            link.delay = Duration::from_millis(25);
            link.loss = Loss::Uniform(f64::from(loss) / 100.0);
            let mut all = Paced::default();
            for seed in 0..seeds {
                all.merge(run(SMALL, &config, &link, messages, u64::from(seed)), seed);
            }
            let per = 1500.0 / (f64::from(seeds) * messages as f64);
            results.paced.push(PacedRow {
                preset: preset.to_owned(),
                loss,
                p50_ms: all.percentile(0.5),
                p99_ms: all.percentile(0.99),
                kb: all.bytes as f64 / 1000.0 * per,
                datagrams: all.datagrams as f64 * per,
            });
        }
    }
}

fn machine() -> String {
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = text("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("")
        .trim_start_matches([' ', '\t', ':']);
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let rustc = Command::new("rustc")
        .arg("-V")
        .output()
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned());
    let kernel = text("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {model}, Linux {}, {}", kernel.trim(), rustc.unwrap_or_default())
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let default = if args.quick { "target/performance" } else { "docs/performance" };
    let out = args.out.clone().unwrap_or_else(|| default.into());
    fs::create_dir_all(&out)?;
    let file = out.join("results.json");
    let mut results: Results = match fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Results::default(),
    };
    let pieces: Vec<&str> = match &args.pieces[..] {
        [] => PIECES.to_vec(),
        named => named.iter().map(String::as_str).filter(|piece| *piece != "none").collect(),
    };
    let scratch = out.join("scratch");
    fs::create_dir_all(&scratch)?;
    let mut broken = Vec::new();
    for piece in pieces {
        // What is whole is kept, whatever comes after it.
        match measure(piece, &args, &scratch, &mut results) {
            Ok(()) => {
                results.machine = machine();
                fs::write(&file, serde_json::to_string_pretty(&results)? + "\n")?;
            }
            Err(error) => broken.push(format!("{piece}: {error}")),
        }
    }
    fs::remove_dir_all(&scratch)?;
    results.take_lab(&out)?;
    results.plots(&out)?;
    let text = format!("{}.\n\n{}", results.machine, table(&results.bars()));
    println!("\n{text}");
    if let Some(document) = &args.document {
        into_document(document, "workloads", &results.tables())?;
        into_document(document, "report", &text)?;
    }
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n").into()) }
}
