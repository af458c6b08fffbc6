//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use kcp_netsim::{LinkConfig, Loss};
use kcp_tokio::{KcpConfig, SessionConfig};

/// Reliable, low-latency transport over UDP: try it, measure it, move files with it.
#[derive(Debug, Parser)]
#[command(name = "kcp", version, about)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Listener, clients and a lossy network in one process: moves data, verifies it, shows latencies.
    Demo(DemoArgs),
    /// Echo what clients of any KCP implementation send.
    Echo(EchoArgs),
    /// Measure round trips to an echo server.
    Ping(PingArgs),
    /// Send a file to `kcp recv`.
    Send(SendArgs),
    /// Receive a file from `kcp send`; an interrupted transfer is continued.
    Recv(RecvArgs),
    /// Relay UDP through an emulated network.
    Relay(RelayArgs),
    /// Simulate whole lives of sessions in virtual time, each drawn from a seed, and check every promise.
    Sim(SimArgs),
    /// Carry TCP over KCP, as kcptun does and together with it.
    Tunnel {
        #[command(subcommand)]
        side: crate::tunnel::Side,
    },
}

/// Which numbers a session runs with.
#[derive(Copy, Clone, Debug, ValueEnum)]
pub(crate) enum Preset {
    /// nodelay 0, interval 40 ms, no fast retransmit, congestion control.
    Normal,
    /// nodelay 1, interval 20 ms, fast retransmit after 2, no congestion control.
    Fast,
    /// nodelay 1, interval 10 ms, fast retransmit after 2, no congestion control.
    Turbo,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SessionArgs {
    /// Numbers of the session.
    #[arg(long, value_enum, default_value = "fast")]
    pub(crate) preset: Preset,
    /// Longest datagram in bytes.
    #[arg(long, default_value_t = 1400)]
    pub(crate) mtu: usize,
    /// How long to wait for the peer to answer.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// How long a peer may be silent before it counts as gone.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) idle_timeout: Duration,
}

impl SessionArgs {
    pub(crate) fn config(&self) -> SessionConfig {
        let preset = match self.preset {
            Preset::Normal => SessionConfig::normal(),
            Preset::Fast => SessionConfig::fast(),
            Preset::Turbo => SessionConfig::turbo(),
        };
        let keepalive = self.idle_timeout / 3;
        preset
            .mtu(self.mtu)
            .connect_timeout(self.timeout)
            .idle_timeout(Some(self.idle_timeout))
            .keepalive(Some(keepalive.min(std::time::Duration::from_secs(10))))
    }

    pub(crate) fn endpoint_config(&self, stream: bool) -> KcpConfig {
        self.config().stream(stream).into()
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Clients at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) clients: u16,
    /// Loss in each direction, in percent.
    #[arg(long, default_value = "10", value_parser = percent)]
    pub(crate) loss: f64,
    /// Round-trip time of the emulated network.
    #[arg(long, default_value = "60ms", value_parser = humantime::parse_duration)]
    pub(crate) rtt: Duration,
    /// Decides the fate of every packet.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// One JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EchoArgs {
    /// Address to serve, such as 0.0.0.0:4000.
    pub(crate) addr: String,
    /// Message mode: every message comes back as one.
    #[arg(long)]
    pub(crate) message: bool,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PingArgs {
    /// Address of an echo server.
    pub(crate) addr: String,
    /// Round trips.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) count: u64,
    /// Time between them.
    #[arg(short, long, default_value = "200ms", value_parser = humantime::parse_duration)]
    pub(crate) interval: Duration,
    /// Bytes each way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=60_000))]
    pub(crate) size: u32,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
    /// One JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SendArgs {
    /// File to send.
    pub(crate) file: PathBuf,
    /// Address of `kcp recv`.
    pub(crate) addr: String,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
    /// One JSON object instead of text, and no progress bar.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecvArgs {
    /// Address to listen on.
    pub(crate) addr: String,
    /// Where to put the file: a directory, or the file's new name.
    #[arg(short, long, default_value = ".")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) session: SessionArgs,
    /// One JSON object instead of text, and no progress bar.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RelayArgs {
    /// Address that clients send to.
    pub(crate) listen: SocketAddr,
    /// Address of the server.
    pub(crate) upstream: SocketAddr,
    #[command(flatten)]
    pub(crate) link: LinkArgs,
    /// Decides the fate of every packet.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Stop after this time; otherwise at Ctrl-C.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) r#for: Option<Duration>,
    /// One JSON object at the end instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SimArgs {
    /// How many.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 0)]
    pub(crate) from: u64,
    /// The protocol core alone. Default: three of four seeds.
    #[arg(long)]
    pub(crate) core: bool,
    /// The async stack alone. Default: every fourth seed.
    #[arg(long)]
    pub(crate) stack: bool,
    /// Print everything that happens to standard error; one seed at a time.
    #[arg(long)]
    pub(crate) trace: bool,
    /// One JSON object instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the emulated network does in each direction.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LinkArgs {
    /// Loss in percent.
    #[arg(long, default_value = "0", value_parser = percent)]
    pub(crate) loss: f64,
    /// Mean length of loss bursts in packets; 1: independent losses.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) burst: f64,
    /// Delay of one direction (half of the round-trip time).
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration)]
    pub(crate) delay: Duration,
    /// Up to so much more delay.
    #[arg(long, default_value = "0ms", value_parser = humantime::parse_duration)]
    pub(crate) jitter: Duration,
    /// Packets that later ones pass, in percent.
    #[arg(long, default_value = "0", value_parser = percent)]
    pub(crate) reorder: f64,
    /// Packets that arrive twice, in percent.
    #[arg(long, default_value = "0", value_parser = percent)]
    pub(crate) duplicate: f64,
    /// Packets that are damaged, in percent.
    #[arg(long, default_value = "0", value_parser = percent)]
    pub(crate) corrupt: f64,
    /// Bytes per second; default: no limit.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// Bytes that may wait for the rate limit.
    #[arg(long, default_value_t = 256 * 1024)]
    pub(crate) queue: usize,
}

impl LinkArgs {
    pub(crate) fn config(&self) -> LinkConfig {
        LinkConfig {
            delay: self.delay,
            jitter: self.jitter,
            loss: if self.burst > 1.0 {
                Loss::bursty(self.loss, self.burst)
            } else {
                Loss::Uniform(self.loss)
            },
            reorder: self.reorder,
            duplicate: self.duplicate,
            corrupt: self.corrupt,
            rate: self.rate,
            queue: self.queue,
            ..LinkConfig::ideal()
        }
    }
}

/// `10` and `10%` are a probability of 0.1.
fn percent(text: &str) -> Result<f64, String> {
    let number: f64 =
        text.trim_end_matches('%').trim().parse().map_err(|_| format!("'{text}' is not a percentage"))?;
    if (0.0..=100.0).contains(&number) {
        Ok(number / 100.0)
    } else {
        Err(format!("{number} is not within 0..=100 percent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(percent("10"), Ok(0.1));
        assert_eq!(percent("2.5%"), Ok(0.025));
        assert_eq!((percent("0"), percent("100")), (Ok(0.0), Ok(1.0)));
        for bad in ["-1", "100.1", "ten", "", "NaN"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
