//! A lab for the real kernel: network namespaces, joined by emulated links on TUN devices. The link's model (loss, delay, rate,
//! queue, mtu) is `kcp-netsim`'s. Linux only; needs root, `/dev/net/tun` and the command `ip`.
//!
//! ```no_run
//! use kcp_netlab::{LinkConfig, Namespace, Path};
//! # use std::time::Duration;
//! # fn main() -> std::io::Result<()> {
//! let (client, server) = (Namespace::new()?, Namespace::new()?);
//! let path = Path::new(&client, &server, LinkConfig::lossy(0.05, Duration::from_millis(50)), 7)?;
//! // A socket belongs to the namespace that it was made in, whoever uses it later.
//! let socket = client.run(|| std::net::UdpSocket::bind((path.left(), 0)))?;
//! # Ok(())
//! # }
//! ```
#![cfg(target_os = "linux")]

mod namespace;
mod path;

pub use kcp_netsim::{LinkConfig, LinkStats, Loss};
pub use namespace::{Namespace, available, have};
pub use path::{Path, PathStats};
