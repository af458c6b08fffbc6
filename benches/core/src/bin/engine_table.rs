//! Nanoseconds per segment of the core: ours, `ikcp.c` and no protocol in turn, over windows and loss. Medians of five to fifty rounds.
//!
//! `cargo run --release -p kcp-benches-core --bin engine_table -- [--patterns a,b] [--sizes 1376,64] [--windows 32,16384] [--json FILE]`

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use kcp_benches_core::{Cell, MSS, Measured, Pattern, Peer, SMALL, WINDOWS, Workload, measure, median};

#[derive(Parser)]
struct Args {
    /// Only these, separated by commas: burst, tick, event
    #[arg(long, value_delimiter = ',', default_values_t = [Pattern::Burst, Pattern::Tick, Pattern::Event])]
    patterns: Vec<Pattern>,
    /// Bytes of a message
    #[arg(long, value_delimiter = ',', default_values_t = [MSS, SMALL])]
    sizes: Vec<usize>,
    /// Parts of the datagrams that are dropped
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.01, 0.1])]
    losses: Vec<f64>,
    /// Segments of the windows
    #[arg(long, value_delimiter = ',', default_values_t = WINDOWS)]
    windows: Vec<u32>,
    /// Without `ikcp.c`, which takes its time with large windows
    #[arg(long)]
    alone: bool,
    /// One run with a fifth of the segments: to see that everything works
    #[arg(long)]
    quick: bool,
    /// A line per row
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A run that takes longer than this, in CPU time, is cut short: flushing per event costs `ikcp.c` time in proportion to
/// its window.
const LIMIT: Duration = Duration::from_secs(8);

/// What is quick to measure is measured in at least so many rounds, and for so long.
const ROUNDS: usize = 5;
const MOST_ROUNDS: usize = 51;
const LONG_ENOUGH: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Samples {
    ours: Vec<Measured>,
    null: Vec<f64>,
    c: Vec<Measured>,
}

/// One row of the table: in each round everything is measured once, so that what the machine does meanwhile meets all of it.
fn row(workloads: &[Workload], quick: bool, alone: bool) -> Vec<Cell> {
    let many = |workload: &Workload| u64::from(workload.window) * 4 + if quick { 4_000 } else { 20_000 };
    let mut all: Vec<Samples> = workloads.iter().map(|_| Samples::default()).collect();
    let (rounds, long) = if quick { (1, Duration::ZERO) } else { (ROUNDS, LONG_ENOUGH) };
    let began = Instant::now();
    for round in 0..MOST_ROUNDS {
        if round >= rounds && began.elapsed() >= long {
            break;
        }
        for (&workload, samples) in workloads.iter().zip(&mut all) {
            let many = many(&workload);
            samples.ours.push(measure(Peer::Ours, workload, many, None));
            samples.null.push(measure(Peer::Null, Workload { loss: 0.0, ..workload }, many, None).ns);
            // What takes seconds is not noise: once is enough.
            let slow = samples.c.last().is_some_and(|c| c.segments < many || c.ns * many as f64 > 1e9);
            if !slow && !alone {
                samples.c.push(measure(Peer::C, workload, many, Some(LIMIT)));
            }
        }
    }
    let cell = |(&workload, samples): (&Workload, Samples)| {
        let many = many(&workload);
        let segments = samples.c.iter().map(|c| c.segments).min().unwrap_or(if alone { many } else { 0 });
        let of = |all: &[Measured], what: fn(&Measured) -> f64| median(all.iter().map(what).collect());
        Cell {
            workload,
            ours: of(&samples.ours, |it| it.ns),
            c: of(&samples.c, |it| it.ns),
            ours_datagrams: of(&samples.ours, |it| it.datagrams),
            c_datagrams: of(&samples.c, |it| it.datagrams),
            c_segments: segments,
            c_cut: segments < many,
            null: median(samples.null),
        }
    };
    workloads.iter().zip(all).map(cell).collect()
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut json = args.json.map(File::create).transpose()?;
    for &size in &args.sizes {
        for &pattern in &args.patterns {
            println!("{pattern}: ns of CPU per segment of {size} bytes, both ends and the link together");
            println!(
                "{:>6} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8}   datagrams",
                "loss", "window", "ours", "ikcp.c", "null", "ratio", "net"
            );
            for &loss in &args.losses {
                let workloads: Vec<_> =
                    args.windows.iter().map(|&window| Workload { pattern, size, window, loss }).collect();
                let cells = row(&workloads, args.quick, args.alone);
                for cell in &cells {
                    println!(
                        "{:>5}% {:>8} {:>8.0} {:>9.0} {:>8.0} {:>8.2} {:>8.2}   {:.2} {:.2}{}",
                        loss * 100.0,
                        cell.workload.window,
                        cell.ours,
                        cell.c,
                        cell.null,
                        cell.ratio(),
                        cell.net(),
                        cell.ours_datagrams,
                        cell.c_datagrams,
                        if cell.c_cut {
                            format!("   ikcp.c cut short after {} segments", cell.c_segments)
                        } else {
                            String::new()
                        }
                    );
                    if let Some(json) = &mut json {
                        writeln!(json, "{}", serde_json::to_string(cell)?)?;
                    }
                }
                let (Some(first), Some(last)) = (cells.first(), cells.last()) else { continue };
                let growth = Cell::growth(first, last);
                println!(
                    "       growth {} to {}: {:.2} raw, {:.2} net of what the link grows",
                    first.workload.window, last.workload.window, growth[0], growth[1]
                );
            }
        }
    }
    Ok(())
}
