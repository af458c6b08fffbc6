//! The field in one run: `cargo run --release -p kcp-benches --bin peers -- [--runs N] [--quick] [--peers a,b] [--work a,b]`.
//! Peers take turns; medians. A JSON line per run goes to `--json FILE`.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use kcp_benches::median;
use kcp_benches::peers::Peer;
use kcp_benches::peers::placement::Placement;
use kcp_benches::peers::process::{CLIENT_CPU, SERVER_CPU, pin, raise_limits, server_main};
use kcp_benches::peers::workload::{Outcome, Workload, run};
use serde_json::json;

/// The field in one run.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Runs of each peer and workload; 5, and 3 of 10 000 idle connections and more
    #[arg(long)]
    runs: Option<usize>,
    /// A tenth of the work, once: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',')]
    work: Vec<String>,
    /// A line per run
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The server's side; not for users.
    #[command(hide = true)]
    Serve { peer: Peer, window: u16 },
}

/// Something to measure.
struct Item {
    name: &'static str,
    window: u16,
    workload: Workload,
    runs: usize,
}

fn items(quick: bool) -> Vec<Item> {
    let part = |full: u64| if quick { full / 10 } else { full };
    let many = |full: usize| if quick { full / 10 } else { full };
    let bulk =
        |connections| Workload::Bulk { connections, mib: part(if connections == 1 { 512 } else { 256 }) };
    let idle =
        |connections| Workload::Idle { connections: many(connections), seconds: if quick { 1 } else { 5 } };
    let item = |name, window, workload| Item { name, window, workload, runs: if quick { 1 } else { 5 } };
    let few = |item: Item| Item { runs: item.runs.min(3), ..item };
    vec![
        item("bulk-w256", 256, bulk(1)),
        item("bulk", 1024, bulk(1)),
        item("bulk-w4096", 4096, bulk(1)),
        item("bulk-100", 256, bulk(100)),
        item("pingpong", 1024, Workload::PingPong { trips: part(20_000) }),
        item(
            "pingpong-100",
            256,
            Workload::ManyPingPong { connections: 100, seconds: part(20).div_ceil(10) },
        ),
        item("idle-1k", 256, idle(1_000)),
        few(item("idle-10k", 256, idle(10_000))),
        few(item("idle-100k", 256, idle(100_000))),
        item("tick-1k", 256, Workload::Tick { connections: many(1_000), seconds: part(50).div_ceil(10) }),
        item("tick-5k", 256, Workload::Tick { connections: many(5_000), seconds: part(50).div_ceil(10) }),
        item("cycles", 256, Workload::Cycles { count: many(8_000) }),
    ]
}

/// A figure: its key in JSON, its column, and where it is found.
type Figure = (&'static str, &'static str, fn(&Outcome) -> f64);

fn figures(workload: Workload) -> Vec<Figure> {
    let trips: [Figure; 5] = [
        ("p50_us", "p50 us", |o| o.p50_us),
        ("p99_us", "p99 us", |o| o.p99_us),
        ("p999_us", "p99.9 us", |o| o.p999_us),
        ("per_s", "per s", |o| o.per_s),
        ("cpu_us_each", "CPU us each", |o| o.cpu_us_each),
    ];
    match workload {
        Workload::Bulk { .. } => vec![
            ("mb_per_s", "MB/s", |o| o.mb_per_s),
            ("client_s_per_gb", "client s/GB", |o| o.cpu_s_per_gb[0]),
            ("server_s_per_gb", "server s/GB", |o| o.cpu_s_per_gb[1]),
            ("cpu_s_per_gb", "both s/GB", |o| o.cpu_s_per_gb[0] + o.cpu_s_per_gb[1]),
            ("reverse_percent", "reverse %", |o| o.reverse_percent),
        ],
        Workload::Idle { .. } => vec![
            ("bytes_per_session", "bytes/session", |o| o.bytes_per_session),
            ("server_cpu_percent", "server CPU %", |o| o.server_cpu_percent),
            ("setup_s", "setup s", |o| o.setup_s),
        ],
        Workload::Cycles { .. } => trips[3..].to_vec(),
        Workload::PingPong { .. } | Workload::ManyPingPong { .. } => trips.to_vec(),
        Workload::Tick { .. } => {
            let mut figures = trips.to_vec();
            figures.push(("late_us", "own p99 us", |o| o.late_us));
            figures
        }
    }
}

/// The runs of one peer.
#[derive(Default)]
struct Row {
    outcomes: Vec<Outcome>,
    placement: Option<Placement>,
    failed: Option<String>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    raise_limits();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Some(Command::Serve { peer, window }) = args.command {
        if peer.has_threads() {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            return runtime.block_on(server_main(peer, window));
        }
        pin(SERVER_CPU);
        return runtime()?.block_on(server_main(peer, window));
    }
    pin(CLIENT_CPU);
    let mut json = args.json.map(File::create).transpose()?;
    for Item { name, window, workload, runs } in items(args.quick) {
        if !args.work.is_empty() && !args.work.iter().any(|wanted| wanted == name) {
            continue;
        }
        let runs = args.runs.unwrap_or(runs);
        let limits: &[Peer] = match workload {
            Workload::Bulk { connections: 1, .. } => &Peer::CEILINGS,
            Workload::Tick { .. } => &Peer::PLAIN,
            Workload::PingPong { .. } | Workload::ManyPingPong { .. } => &Peer::PLAIN[..1],
            _ => &[],
        };
        let peers: Vec<Peer> = if args.peers.is_empty() {
            Peer::ALL.iter().chain(limits).copied().collect()
        } else {
            args.peers.clone()
        };
        let figures = figures(workload);
        let mut rows: Vec<Row> = peers.iter().map(|_| Row::default()).collect();
        for round in 0..runs {
            for (peer, row) in peers.iter().zip(&mut rows) {
                // What has failed once takes its time to fail again.
                if row.failed.is_some() {
                    continue;
                }
                let before = Placement::probe();
                // Whose end takes what is left of the contestant with it: sockets and tasks that linger.
                let runtime = runtime()?;
                // In a task, as applications run: waking what `block_on` itself runs costs a system call.
                let done = runtime.block_on(runtime.spawn(run(*peer, window, workload)));
                drop(runtime);
                let placement = before.and(Placement::probe());
                let mut line = json!({
                    "workload": name, "window": window, "peer": peer.name(), "round": round, "quick": args.quick,
                    "placement": placement,
                });
                match done.map_err(io::Error::other).and_then(|done| done) {
                    Ok(outcome) => {
                        line["figures"] = figures.iter().map(|(key, _, of)| (*key, of(&outcome))).collect();
                        row.placement = Some(row.placement.map_or(placement, |past| past.and(placement)));
                        row.outcomes.push(outcome);
                    }
                    Err(error) => {
                        line["failed"] = error.to_string().into();
                        row.failed = Some(error.to_string());
                    }
                }
                if let Some(json) = &mut json {
                    writeln!(json, "{line}")?;
                }
            }
        }
        print!("\n{name:16}");
        for (_, column, _) in &figures {
            print!("{column:>14}");
        }
        println!("   (medians of {runs}, window {window})");
        for (peer, row) in peers.iter().zip(&rows) {
            print!("{:16}", peer.name());
            if let Some(reason) = &row.failed {
                println!("  FAILED: {reason}");
                continue;
            }
            for (_, _, figure) in &figures {
                print!("{:>14.2}", median(row.outcomes.iter().map(figure).collect()));
            }
            println!("   {}", row.placement.map(|placement| placement.to_string()).unwrap_or_default());
        }
    }
    Ok(())
}
