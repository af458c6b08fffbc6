//! Bulk through the tunnel, next to Debian's kcptun in the same run:
//! `cargo build --release -p kcp-cli && cargo run --release -p kcp-benches --bin tunnel -- [--runs N] [--mib N] [--only NAME,…]`.
//!
//! A page over TCP through client and server of a tunnel on the loopback; each byte that arrives is compared. CPU is that of both
//! processes of the tunnel. The two take turns; medians.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

/// Bulk through the tunnel, next to kcptun.
#[derive(Debug, Parser)]
struct Args {
    /// Runs of each; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Bytes of a run, in MiB.
    #[arg(long, default_value_t = 192)]
    mib: usize,
    /// Only these, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Windows of both sides, in packets.
    #[arg(long, default_value_t = 1024)]
    window: u32,
    /// The tool of this build; by default beside this program.
    #[arg(long)]
    kcp: Option<PathBuf>,
    /// Leave kcptun out.
    #[arg(long)]
    ours_only: bool,
}

/// Name and flags.
const SETTINGS: [(&str, &[&str]); 6] = [
    ("aes", &["--crypt", "aes", "--nocomp", "--ds", "0", "--ps", "0"]),
    ("salsa20", &["--crypt", "salsa20", "--nocomp", "--ds", "0", "--ps", "0"]),
    ("none", &["--crypt", "none", "--nocomp", "--ds", "0", "--ps", "0"]),
    ("aes-fec", &["--crypt", "aes", "--nocomp", "--ds", "10", "--ps", "3"]),
    ("none-fec", &["--crypt", "none", "--nocomp", "--ds", "10", "--ps", "3"]),
    // kcptun's defaults; half of the page compresses.
    ("aes-fec-snappy", &["--crypt", "aes", "--ds", "10", "--ps", "3"]),
];
/// Before it counts: the session is dialled, windows are open.
const WARM_UP: usize = 8 << 20;
/// For anything to happen.
const LIMIT: Duration = Duration::from_secs(60);
/// What `/proc` counts in, per second.
const TICKS: f64 = 100.0;

#[derive(Copy, Clone, Debug, Default)]
struct Outcome {
    megabytes_per_second: f64,
    /// CPU seconds per GB.
    client: f64,
    server: f64,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }

    /// User and system time, in seconds.
    fn cpu(&self) -> io::Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
        let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        Ok(ticks.iter().sum::<f64>() / TICKS)
    }
}

/// Half of it compresses.
fn block() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut block = vec![b' '; 1 << 20];
    for (n, part) in block.chunks_mut(16 << 10).enumerate() {
        if n % 2 == 0 {
            rng.fill(part);
        }
    }
    block
}

/// Sends as many bytes as a client asks for.
fn source() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    Ok(addr)
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let block = block();
    loop {
        let mut asked = [0; 8];
        stream.read_exact(&mut asked)?;
        let mut left = u64::from_le_bytes(asked) as usize;
        while left > 0 {
            let n = left.min(block.len());
            stream.write_all(&block[..n])?;
            left -= n;
        }
    }
}

fn take(stream: &mut TcpStream, bytes: usize, block: &[u8]) -> io::Result<()> {
    stream.write_all(&(bytes as u64).to_le_bytes())?;
    let mut buf = vec![0; 256 << 10];
    let mut got = 0;
    while got < bytes {
        let n = stream.read(&mut buf)?;
        let at = got % block.len();
        // At most one wrap, since the buffer is shorter than the block.
        let first = n.min(block.len() - at);
        if n == 0 || buf[..first] != block[at..at + first] || buf[first..n] != block[..n - first] {
            return Err(io::Error::other(format!("another byte, or none, after {got}")));
        }
        got += n;
    }
    Ok(())
}

/// Below the ports that the system hands out.
fn free_port() -> io::Result<u16> {
    let mut rng = fastrand::Rng::new();
    for _ in 0..1000 {
        let port = rng.u16(10_000..30_000);
        let addr = (Ipv4Addr::LOCALHOST, port);
        if UdpSocket::bind(addr).is_ok() && TcpListener::bind(addr).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn run(args: &Args, ours: Option<&PathBuf>, flags: &[&str], target: SocketAddr) -> io::Result<Outcome> {
    let program = |side: &str| match ours {
        Some(path) => {
            let mut command = Command::new(path);
            command.args(["tunnel", side]);
            command
        }
        None => Command::new(format!("kcptun-{side}")),
    };
    let (udp, tcp) = (format!("127.0.0.1:{}", free_port()?), format!("127.0.0.1:{}", free_port()?));
    let window = args.window.to_string();
    let common = [
        "--mode",
        "fast3",
        "--smuxver",
        "2",
        "--sndwnd",
        &window,
        "--rcvwnd",
        &window,
        "--sockbuf",
        "16777216",
    ];
    let mut server = program("server");
    server.args(["-l", &udp, "-t", &target.to_string()]).args(common).args(flags);
    let server = Process::start(server)?;
    let mut client = program("client");
    client.args(["-l", &tcp, "-r", &udp]).args(common).args(flags);
    let client = Process::start(client)?;
    let begun = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(&tcp) {
            Ok(stream) => break stream,
            Err(error) if begun.elapsed() > LIMIT => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    };
    stream.set_read_timeout(Some(LIMIT))?;
    let block = block();
    take(&mut stream, WARM_UP, &block)?;
    let bytes = args.mib << 20;
    let (before, begun) = ([client.cpu()?, server.cpu()?], Instant::now());
    take(&mut stream, bytes, &block)?;
    let (after, seconds) = ([client.cpu()?, server.cpu()?], begun.elapsed().as_secs_f64());
    let gigabytes = bytes as f64 / 1e9;
    Ok(Outcome {
        megabytes_per_second: gigabytes * 1000.0 / seconds,
        client: (after[0] - before[0]) / gigabytes,
        server: (after[1] - before[1]) / gigabytes,
    })
}

fn median(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> f64 {
    let mut figures: Vec<f64> = outcomes.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let ours = match &args.kcp {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("kcp"),
    };
    if !ours.exists() {
        return Err(io::Error::other(format!(
            "{} is missing: cargo build --release -p kcp-cli",
            ours.display()
        )));
    }
    let target = source()?;
    println!("{} MiB through one stream, window {}, medians of {}", args.mib, args.window, args.runs);
    println!(
        "| | kcp: MB/s | CPU s/GB (client + server) | kcptun: MB/s | CPU s/GB | times as fast | of its CPU |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (name, flags) in SETTINGS {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
        for _ in 0..args.runs {
            of_ours.push(run(&args, Some(&ours), flags, target)?);
            if !args.ours_only {
                of_theirs.push(run(&args, None, flags, target)?);
            }
        }
        let speed = |all: &[Outcome]| median(all, |outcome| outcome.megabytes_per_second);
        let cpu = |all: &[Outcome]| median(all, |outcome| outcome.client + outcome.server);
        let both = |all: &[Outcome]| {
            format!(
                "{:.2} ({:.2} + {:.2})",
                cpu(all),
                median(all, |one| one.client),
                median(all, |one| one.server)
            )
        };
        println!(
            "| {name} | {:.0} | {} | {:.0} | {} | {:.1} | {:.2} |",
            speed(&of_ours),
            both(&of_ours),
            speed(&of_theirs),
            both(&of_theirs),
            speed(&of_ours) / speed(&of_theirs),
            cpu(&of_ours) / cpu(&of_theirs),
        );
    }
    Ok(())
}
