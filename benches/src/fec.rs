//! Delivery delay of small messages with error correction, redundancy and neither: the whole stack in virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use kcp_netsim::{LinkConfig, SimNet};
use kcp_tokio::{KcpConfig, KcpEndpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

/// Bytes of a message: a game's input or a voice frame.
pub const MESSAGE: usize = 100;
/// Between two messages.
pub const TICK: Duration = Duration::from_millis(20);

/// What became of the messages.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the write to the read of the last byte, in microseconds.
    pub delay: Histogram<u64>,
    /// UDP payload of both directions.
    pub bytes: u64,
    /// Datagrams of both directions.
    pub datagrams: u64,
}

/// Sends `messages`, one a tick, through `link` (each way), and verifies what arrives.
///
/// # Panics
/// When anything else arrives than was sent.
#[must_use]
pub fn run(config: &KcpConfig, link: &LinkConfig, messages: u64, seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without IO");
    runtime.block_on(paced(config, link, messages, seed))
}

async fn paced(config: &KcpConfig, link: &LinkConfig, messages: u64, seed: u64) -> Outcome {
    let net = SimNet::new(link.clone(), seed);
    let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
    let open =
        |port| KcpEndpoint::from_socket(net.bind(at(port)).expect("free"), config.clone()).expect("valid");
    let (client, server) = (open(1), open(2));
    let mut near = client.connect(at(2)).await.expect("answered");
    near.set_nodelay(true).expect("alive");
    let (mut far, _) = server.accept().await.expect("accepted");
    let before = net.stats();
    let start = Instant::now();
    let due = |i: u64| start + TICK * u32::try_from(i).unwrap_or(u32::MAX);
    let mut delay = Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds");
    let send = async {
        for i in 0..messages {
            sleep_until(due(i)).await;
            near.write_all(&message(i)).await.expect("alive");
        }
        near.shutdown().await.expect("acknowledged");
    };
    let receive = async {
        let mut got = [0; MESSAGE];
        for i in 0..messages {
            far.read_exact(&mut got).await.expect("all of it");
            assert!(got == message(i), "message {i} is another one");
            let took = Instant::now() - due(i);
            delay.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)).expect("within bounds");
        }
    };
    tokio::join!(send, receive);
    let after = net.stats();
    Outcome { delay, bytes: after.bytes - before.bytes, datagrams: after.sent - before.sent }
}

fn message(i: u64) -> [u8; MESSAGE] {
    let mut dice = fastrand::Rng::with_seed(i);
    std::array::from_fn(|_| dice.u8(..))
}

impl Outcome {
    /// Both as one.
    pub fn merge(&mut self, other: &Self) {
        self.delay.add(&other.delay).expect("the same bounds");
        self.bytes += other.bytes;
        self.datagrams += other.datagrams;
    }
}
