//! The field in one run: ours, other KCP crates, QUIC and kernel TCP, each as a server process and a client process on a core
//! of its own, under the same workloads.

pub mod ceiling;
pub mod placement;
pub mod plain;
pub mod process;
pub mod transport;
pub mod workload;

use std::fmt;
use std::str::FromStr;

use ceiling::Ceiling;

/// Which implementation.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Peer {
    /// This one, a socket per connection.
    Ours,
    /// This one, all connections of the client over one socket.
    OursShared,
    /// This one, shared as well, and the server on a runtime of two threads with one socket. Only when asked for.
    OursThreads,
    /// The same with two sockets. Only when asked for.
    OursShards,
    /// This one with the preset `fast`; the others of ours are `turbo`.
    OursFast,
    /// The same with the preset `normal`.
    OursNormal,
    /// The same with the preset `turbo`, and acknowledgements that wait for nothing.
    OursPrompt,
    /// This one with the preset `realtime`.
    OursRealtime,
    /// `tokio_kcp` 0.9.8.
    TokioKcp,
    /// `kcp-rs` 0.2.6.
    KcpRs,
    /// The registry's `kcp-tokio` 0.7.0.
    RustKcp,
    /// `quinn` 0.11 with TLS, all connections of the client over one socket.
    Quinn,
    /// Kernel TCP, `TCP_NODELAY`.
    Tcp,
    /// Plain UDP sockets, a system call per datagram: what round trips and ticks cost without a protocol.
    Udp {
        /// Each datagram is acknowledged by one of its own, as a protocol must where nothing comes that it could ride on.
        acked: bool,
    },
    /// No protocol, or the least that could be one: what the machine allows.
    Ceiling(Ceiling),
}

impl Peer {
    /// All that are protocols, in one preset each.
    pub const ALL: [Self; 7] =
        [Self::Ours, Self::OursShared, Self::TokioKcp, Self::KcpRs, Self::RustKcp, Self::Quinn, Self::Tcp];

    /// Others of ours. Only when asked for.
    pub const VARIANTS: [Self; 6] = [
        Self::OursThreads,
        Self::OursShards,
        Self::OursNormal,
        Self::OursFast,
        Self::OursPrompt,
        Self::OursRealtime,
    ];

    /// What the machine allows; for round trips and ticks.
    pub const PLAIN: [Self; 2] = [Self::Udp { acked: false }, Self::Udp { acked: true }];

    /// What the machine allows; for bulk through one connection.
    pub const CEILINGS: [Self; 5] = [
        Self::Ceiling(Ceiling::UDP),
        Self::Ceiling(Ceiling::GSO),
        Self::Ceiling(Ceiling::GSO_GRO),
        Self::Ceiling(Ceiling::IDEAL_SINGLE),
        Self::Ceiling(Ceiling::IDEAL),
    ];

    /// All that are measured unless others are asked for, in the order of tables.
    pub fn measured() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Self::PLAIN).chain(Self::CEILINGS)
    }

    /// Whether its server has a runtime of two threads, on both cores.
    #[must_use]
    pub const fn has_threads(self) -> bool {
        matches!(self, Self::OursThreads | Self::OursShards)
    }

    /// As on the command line and in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursShared => "ours-shared",
            Self::OursThreads => "ours-threads",
            Self::OursShards => "ours-shards",
            Self::OursFast => "ours-fast",
            Self::OursNormal => "ours-normal",
            Self::OursPrompt => "ours-prompt",
            Self::OursRealtime => "ours-realtime",
            Self::TokioKcp => "tokio_kcp",
            Self::KcpRs => "kcp-rs",
            Self::RustKcp => "rust-kcp",
            Self::Quinn => "quinn",
            Self::Tcp => "tcp",
            Self::Udp { acked: false } => "udp-echo",
            Self::Udp { acked: true } => "udp-echo-acked",
            Self::Ceiling(Ceiling::UDP) => "udp",
            Self::Ceiling(Ceiling { ideal: false, gro: false, .. }) => "udp-gso",
            Self::Ceiling(Ceiling { ideal: false, .. }) => "udp-gso-gro",
            Self::Ceiling(Ceiling { train: 1, .. }) => "ideal-kcp-single",
            Self::Ceiling(_) => "ideal-kcp",
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::measured()
            .chain(Self::VARIANTS)
            .find(|peer| peer.name() == name)
            .ok_or_else(|| format!("no peer is called {name}"))
    }
}
