//! The field in one run: `cargo run --release -p kcp-benches --bin peers -- [--runs N] [--quick] [--peers a,b] [--work a,b]`.
//! Peers take turns; medians. A JSON line per run goes to `--json FILE`.

use std::io::{self, Write};

use clap::{Parser, Subcommand};
use kcp_benches::peers::Peer;
use kcp_benches::peers::process::{CLIENT_CPU, SERVER_CPU, pin, raise_limits, server_main};
use kcp_benches::peers::workload::{Outcome, Workload, run};

/// The field in one run.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Runs of each peer and workload.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// A tenth of the work: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    work: Vec<String>,
    /// A line per run.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The server's side; not for users.
    #[command(hide = true)]
    Serve { peer: Peer, window: u16 },
}

/// Name, window, what it is.
fn workloads(quick: bool) -> Vec<(&'static str, u16, Workload)> {
    let part = |full: u64| if quick { full / 10 } else { full };
    let many = |full: usize| if quick { full / 10 } else { full };
    vec![
        ("bulk", 1024, Workload::Bulk { connections: 1, mib: part(512) }),
        ("bulk-100", 256, Workload::Bulk { connections: 100, mib: part(256) }),
        ("pingpong", 1024, Workload::PingPong { trips: part(20_000) }),
        ("pingpong-100", 256, Workload::ManyPingPong { connections: 100, seconds: part(20) / 10 }),
        ("idle-10k", 256, Workload::Idle { connections: many(10_000), seconds: part(80).div_ceil(10) }),
        ("idle-100k", 256, Workload::Idle { connections: many(100_000), seconds: part(80).div_ceil(10) }),
        ("tick-5k", 256, Workload::Tick { connections: many(5_000), seconds: part(50).div_ceil(10) }),
        ("cycles", 256, Workload::Cycles { count: many(8_000) }),
    ]
}

/// A figure of the table: its column, and where it is found.
type Figure = (&'static str, fn(&Outcome) -> f64);

fn figures(workload: Workload) -> Vec<Figure> {
    match workload {
        Workload::Bulk { .. } => vec![
            ("MB/s", |o| o.mb_per_s),
            ("client s/GB", |o| o.cpu_s_per_gb[0]),
            ("server s/GB", |o| o.cpu_s_per_gb[1]),
            ("both s/GB", |o| o.cpu_s_per_gb[0] + o.cpu_s_per_gb[1]),
        ],
        Workload::Idle { .. } => vec![
            ("bytes/session", |o| o.bytes_per_session),
            ("server CPU %", |o| o.server_cpu_percent),
            ("setup s", |o| o.setup_s),
        ],
        Workload::Cycles { .. } => vec![("per s", |o| o.per_s), ("CPU us each", |o| o.cpu_us_each)],
        Workload::PingPong { .. } | Workload::ManyPingPong { .. } | Workload::Tick { .. } => vec![
            ("p50 us", |o| o.p50_us),
            ("p99 us", |o| o.p99_us),
            ("p99.9 us", |o| o.p999_us),
            ("per s", |o| o.per_s),
            ("CPU us each", |o| o.cpu_us_each),
        ],
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    raise_limits();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(Command::Serve { peer, window }) = args.command {
        if peer.has_threads() {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            return runtime.block_on(server_main(peer, window));
        }
        pin(SERVER_CPU);
        return runtime.block_on(server_main(peer, window));
    }
    pin(CLIENT_CPU);
    let peers = if args.peers.is_empty() { Peer::ALL.to_vec() } else { args.peers };
    let mut json = args.json.map(std::fs::File::create).transpose()?;
    for (name, window, workload) in workloads(args.quick) {
        if !args.work.is_empty() && !args.work.iter().any(|wanted| wanted == name) {
            continue;
        }
        let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); peers.len()];
        for round in 0..args.runs {
            for (peer, outcomes) in peers.iter().zip(&mut outcomes) {
                // In a task, as applications run: waking what `block_on` itself runs costs a system call.
                let task = runtime.spawn(run(*peer, window, workload));
                match runtime.block_on(task).map_err(io::Error::other)? {
                    Ok(outcome) => {
                        if let Some(json) = &mut json {
                            let line = serde_json::json!({
                                "workload": name, "peer": peer.name(), "round": round, "outcome": outcome,
                            });
                            writeln!(json, "{line}")?;
                        }
                        outcomes.push(outcome);
                    }
                    Err(error) => eprintln!("{name} {}: FAILED: {error}", peer.name()),
                }
            }
        }
        let figures = figures(workload);
        print!("\n{name:14}");
        for (column, _) in &figures {
            print!("{column:>15}");
        }
        println!("   (medians of {}, window {window})", args.runs);
        for (peer, outcomes) in peers.iter().zip(&outcomes) {
            print!("{:14}", peer.name());
            for (_, figure) in &figures {
                print!("{:>15.2}", median(outcomes.iter().map(figure).collect()));
            }
            println!();
        }
    }
    Ok(())
}
