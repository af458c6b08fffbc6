//! A network in a box: delay, jitter, loss, reordering, duplication, corruption, rate limits and partitions, all from
//! one seed.
//!
//! [`Link`] is one direction of a path as a sans-IO state machine: packets go in with the time, and come out when they
//! are due. The same seed and the same calls give the same fate to every packet. With the feature `tokio` there are also
//! `SimNet`, an in-memory network of datagram sockets on tokio's clock (virtual when paused), and `UdpRelay`, the
//! emulator between real sockets.
//!
//! ```
//! use kcp_netsim::{Link, LinkConfig};
//! use std::time::Duration;
//!
//! let mut link = Link::new(LinkConfig::lossy(0.1, Duration::from_millis(60)), 1);
//! link.send(Duration::ZERO, b"packet".to_vec());
//! let due = link.next_due().unwrap();
//! assert_eq!(due, Duration::from_millis(30), "half of the round trip");
//! assert_eq!(link.poll(due).unwrap(), b"packet");
//! ```

mod config;
mod link;
mod rng;

#[cfg(feature = "tokio")]
mod relay;
#[cfg(feature = "tokio")]
mod simnet;

pub use config::{LinkConfig, Loss};
pub use link::{Link, LinkStats, Payload};
#[cfg(feature = "tokio")]
pub use relay::{RelayStats, UdpRelay};
#[cfg(feature = "tokio")]
pub use simnet::{SimNet, SimSocket};
