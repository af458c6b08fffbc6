//! Forward error correction and packet encryption for KCP, compatible with kcp-go and kcptun.
//!
//! Transforms of whole datagrams between the protocol and the socket, `encrypt(protect(kcp))`, sans-IO like
//! [`kcp_core`]: time, randomness and packets are arguments and results. [`Layers`] has both layers of one session in both
//! directions; [`Crypt`] and [`Frame`] are what a socket of many sessions needs to tell whose a packet is.
//!
//! # Forward error correction
//!
//! After some packets follow a few more, any of which replaces any that got lost: the receiver has them after one trip,
//! where a retransmission takes one and a half at best. That is worth its bandwidth where loss is random, delay long and
//! latency matters; it hurts where packets get lost because there are too many of them. [`FecConfig`] has the details, among
//! them what is done about groups that do not fill up.
//!
//! Recovery never guesses: until the shape of the peer's groups is beyond doubt, which takes a group and one packet,
//! nothing is recovered, for what comes of packets that are put together in a wrong way looks like data. What the decoder holds
//! is bounded by [`FecLimits`].
//!
//! # Encryption
//!
//! | | authenticates | hides |
//! |---|---|---|
//! | `aes-128-gcm`, `aes-256-gcm` | yes | yes |
//! | `aes`, `aes-192`, `aes-128`, `twofish`, `sm4`, `salsa20` | no | yes |
//! | `blowfish`, `cast5`, `3des`, `xtea` | no | for a few GB per key: blocks of 64 bits |
//! | `tea` (8 cycles), `xor` | no | no: broken |
//! | `none`, `null` | no | no |
//!
//! Take [`Cipher::Aes128Gcm`] unless the peer cannot. The others are malleable: who can change packets on the way can change
//! what they say, as their checksum has no key. No mode protects against replay, has keys of a session or of a
//! direction, or forward secrecy: whoever learns the key reads everything ever sent. Where that matters, speak TLS over the
//! stream.
//!
//! # Cost
//!
//! Nothing is allocated per packet: [`Sealed`] keeps its memory, received packets are decrypted in place, and buffers of shards
//! go round. Packets of a run are encrypted in step, and leave it as runs that the system takes in one call.

mod crypt;
mod error;
mod fec;
mod layers;
mod sealed;
mod stats;

pub use crypt::{Cipher, Crypt};
pub use error::{ConfigError, OpenError, PayloadTooLong, UnknownCipher};
pub use fec::{FecConfig, FecLimits, Frame, Shape};
pub use layers::{Layers, LayersConfig, Opened};
pub use sealed::{Run, Sealed};
pub use stats::LayerStats;
