//! KCP streams and listeners for tokio: [`KcpStream::connect`] stands where `TcpStream::connect` stood.
//!
//! Speaks with every KCP implementation. One driver task per socket receives, runs all timers and tells sessions apart
//! by (peer address, conv); readers and writers work on their session directly under its lock, and what a write makes
//! due leaves from the writer's own task. Sessions have no task, channel, timer or buffer of their own.
//!
//! ```
//! use kcp_tokio::{KcpListener, KcpStream};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let listener = KcpListener::bind("127.0.0.1:0").await?;
//! let mut client = KcpStream::connect(listener.local_addr()?).await?;
//! client.write_all(b"ping").await?;
//!
//! let (mut server, _peer) = listener.accept().await?;
//! let mut buf = [0; 4];
//! server.read_exact(&mut buf).await?;
//! assert_eq!(&buf, b"ping");
//! # Ok(())
//! # }
//! ```

mod accept;
mod agenda;
mod budget;
mod config;
mod connect;
mod driver;
mod endpoint;
mod entropy;
mod error;
mod halfopen;
mod halves;
mod handle;
mod hub;
mod io;
#[cfg(feature = "layers")]
mod layered;
#[cfg(not(feature = "layers"))]
#[path = "layered_off.rs"]
mod layered;
mod life;
mod limiter;
mod listener;
mod logs;
mod messages;
#[cfg(feature = "metrics")]
mod metrics;
mod outbox;
mod registry;
mod session;
mod shard;
mod socket;
mod stats;
mod steer;
mod stream;
mod sync;
#[cfg(test)]
mod tests;
mod timers;
mod waiters;

pub use config::KcpConfig;
pub use endpoint::KcpEndpoint;
pub use error::KcpError;
pub use halves::{OwnedReadHalf, OwnedWriteHalf, ReadHalf, ReuniteError, WriteHalf};
pub use handle::{Broadcast, SessionHandle};
pub use kcp_core::{CloseReason, ConfigError, DatagramError, NoDelay, SessionConfig, Stats, WriteError};
#[cfg(feature = "layers")]
pub use kcp_layers as layers;
pub use listener::{Incoming, KcpListener};
pub use messages::KcpMessages;
pub use socket::{DatagramSocket, Route, Sink};
pub use stats::EndpointStats;
pub use stream::KcpStream;
