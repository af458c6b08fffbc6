//! [smux](https://github.com/xtaci/smux), versions 1 and 2, over any byte stream: many streams over one connection, as kcptun
//! has them; and the [compression](snappy) that kcptun puts below it.
//!
//! One task per session reads and writes the connection; streams have none, they copy to and from queues of their own.
//!
//! ```
//! use kcp_smux::{Config, Session};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (here, there) = tokio::io::duplex(4096);
//! let client = Session::client(here, Config::default())?;
//! let server = Session::server(there, Config::default())?;
//!
//! let mut stream = client.open()?;
//! stream.write_all(b"hello").await?;
//! stream.shutdown().await?;
//!
//! let mut accepted = server.accept().await?;
//! let mut text = String::new();
//! accepted.read_to_string(&mut text).await?;
//! assert_eq!(text, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # What smux can say, and what it cannot
//!
//! * **FIN** ends one direction, behind the data: [`shutdown`](tokio::io::AsyncWriteExt::shutdown) sends it, and reading goes on. The
//!   reader sees the end of the stream after the last byte.
//! * To older ones (such as that of Debian's kcptun) FIN means that the *whole* stream is closed: having received it they send
//!   nothing more on that stream, not even what waits for the window. A half-close that reaches an application behind such a peer
//!   loses the rest of the answer.
//! * There is no reset, and no way to say that nobody reads any more: a dropped [`Stream`] sends FIN, and whatever the peer still sends
//!   on it is thrown away here. A peer with version 2 stops by itself when its window is used up; with version 1 it never
//!   learns.
//! * There is no acknowledgement of FIN, nor a frame for going away: a session that is closed ends the connection.
//! * **Version 1** has one budget for all streams of a session ([`Config::receive_buffer`]): a stream that nobody reads uses it up, and
//!   then all wait. **Version 2** also has a window per stream ([`Config::stream_buffer`]); as long as the streams that nobody reads
//!   fit the budget together, others go on.
//!
//! # Bounds
//!
//! Received and unread: at most `receive_buffer` bytes per session, exactly. Written and not yet sent: at most
//! [`Config::send_buffer`] per stream. Streams: [`Config::max_streams`]; those beyond, and those beyond
//! [`Config::accept_backlog`], are answered with FIN. The task has two buffers of 64 KiB.
//!
//! Frames that break the protocol end the session with a [`ProtocolError`], which every stream then reports.

mod config;
mod error;
mod frame;
mod mux;
mod session;
pub mod snappy;
mod stream;
mod sync;

pub use config::{Config, Version};
pub use error::{ConfigError, Error, ProtocolError};
pub use frame::{Command, HEADER_LEN, Header};
pub use session::Session;
pub use stream::Stream;
