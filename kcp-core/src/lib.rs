//! KCP, the low-latency reliable protocol over UDP, as a state machine without IO.
//!
//! `no_std` + `alloc`, no clock, no socket, no callback, no `unsafe`: time and datagrams are arguments and results, so
//! everything here can be proven without an operating system. Wire-compatible with every KCP implementation
//! (`ikcp.c`, kcp-go, the `kcp` crate, ...).
//!
//! Two faces on one engine:
//! * [`Session`]: event-driven. Data leaves when it is written, acknowledgements when a batch was received,
//!   retransmissions at their exact time; an idle session has no deadline but its keepalive. Adds connect, liveness
//!   and an end with a reason.
//! * [`Kcp`]: the classic one that ticks, under the names of `ikcp.h`.
//!
//! The cost per segment does not grow with the window: see [`Stats`] for what is counted, and the crate's
//! `docs/ARCHITECTURE.md` for how.

#![no_std]
// Nothing that a peer or a caller says may panic: what could is not written. Tests may.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod ack;
pub mod admission;
mod classic;
mod config;
pub mod congestion;
mod engine;
mod error;
mod kept;
mod num;
mod rare;
mod recv;
mod rtt;
mod seed;
mod send;
mod seq;
mod session;
mod stats;
mod time;
pub mod wire;

#[cfg(test)]
mod tests;

pub use classic::Kcp;
pub use config::{ConfigError, NoDelay, SessionConfig};
pub use error::{CloseReason, DatagramError, InputError, ReadError, RecvError, SendError, WriteError};
pub use seed::{Seed, next_nonce};
pub use seq::Seq;
pub use session::{Event, Session};
pub use stats::{Held, Stats};
pub use time::Timestamp;
pub use wire::datagram::{Framing, Transmit};
