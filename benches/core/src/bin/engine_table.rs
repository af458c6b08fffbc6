//! Nanoseconds per segment of the core: ours, `ikcp.c` and no protocol in turn, over windows and loss. Medians of five.
//!
//! `cargo run --release -p kcp-benches-core --bin engine_table -- [--patterns a,b] [--sizes 1376,64] [--windows 32,16384] [--json FILE]`

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

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

fn cell(workload: Workload, quick: bool, alone: bool) -> Cell {
    let runs = if quick { 1 } else { 5 };
    let many = u64::from(workload.window) * 4 + if quick { 4_000 } else { 20_000 };
    let (mut ours, mut null, mut c) = (Vec::new(), Vec::new(), Vec::<Measured>::new());
    for _ in 0..runs {
        ours.push(measure(Peer::Ours, workload, many, None).ns);
        null.push(measure(Peer::Null, Workload { loss: 0.0, ..workload }, many, None).ns);
        // What takes seconds is not noise: once is enough.
        let slow = c.last().is_some_and(|c| c.segments < many || c.ns * many as f64 > 1e9);
        if !slow && !alone {
            c.push(measure(Peer::C, workload, many, Some(LIMIT)));
        }
    }
    let segments = c.iter().map(|c| c.segments).min().unwrap_or(if alone { many } else { 0 });
    Cell {
        workload,
        ours: median(ours),
        c: median(c.iter().map(|c| c.ns).collect()),
        c_segments: segments,
        c_cut: segments < many,
        null: median(null),
    }
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut json = args.json.map(File::create).transpose()?;
    for &size in &args.sizes {
        for &pattern in &args.patterns {
            println!("{pattern}: ns of CPU per segment of {size} bytes, both ends and the link together");
            println!(
                "{:>6} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8}",
                "loss", "window", "ours", "ikcp.c", "null", "ratio", "net"
            );
            for &loss in &args.losses {
                let mut cells = Vec::new();
                for &window in &args.windows {
                    let cell = cell(Workload { pattern, size, window, loss }, args.quick, args.alone);
                    println!(
                        "{:>5}% {window:>8} {:>8.0} {:>9.0} {:>8.0} {:>8.2} {:>8.2}{}",
                        loss * 100.0,
                        cell.ours,
                        cell.c,
                        cell.null,
                        cell.ratio(),
                        cell.net(),
                        if cell.c_cut {
                            format!("   ikcp.c cut short after {} segments", cell.c_segments)
                        } else {
                            String::new()
                        }
                    );
                    if let Some(json) = &mut json {
                        writeln!(json, "{}", serde_json::to_string(&cell)?)?;
                    }
                    cells.push(cell);
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
