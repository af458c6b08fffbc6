//! What a link does to packets, and presets.

use std::time::Duration;

/// How packets are lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// None are.
    None,
    /// Each by itself, with this probability.
    Uniform(f64),
    /// Gilbert-Elliott: the link is good or bad, and changes before each packet with these probabilities.
    GilbertElliott {
        /// From good to bad.
        enter: f64,
        /// From bad to good; the mean length of a burst is its inverse.
        leave: f64,
        /// Probability of loss while bad.
        loss_bad: f64,
        /// Probability of loss while good.
        loss_good: f64,
    },
}

impl Loss {
    /// Bursts of `burst` packets in the mean (at least 1), so that `mean` of all packets are lost (below 1).
    #[must_use]
    pub fn bursty(mean: f64, burst: f64) -> Self {
        let leave = 1.0 / burst.max(1.0);
        let enter = leave * mean / (1.0 - mean).max(f64::EPSILON);
        Self::GilbertElliott { enter: enter.min(1.0), leave, loss_bad: 1.0, loss_good: 0.0 }
    }
}

/// One direction of a path. Probabilities are 0..=1 per packet.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkConfig {
    /// Time that every packet takes.
    pub delay: Duration,
    /// Up to so much more, uniformly. It keeps the order: a packet waits for the one before it.
    pub jitter: Duration,
    /// How packets are lost.
    pub loss: Loss,
    /// Probability that a packet is held back by [`reorder_by`](Self::reorder_by), so that later ones pass it.
    pub reorder: f64,
    /// How long a reordered packet is held back.
    pub reorder_by: Duration,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that a packet is damaged: a few bits flipped, its end cut off, or something appended.
    pub corrupt: f64,
    /// Whether damaged packets are dropped, as UDP's checksum has it. False: they arrive.
    pub checksum: bool,
    /// Probability that behind a packet an older one comes again: one of the last 64 that came through.
    pub replay: f64,
    /// Bytes per second that leave the queue; `None`: no limit.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate limit; what comes on top is dropped (tail drop). Default 256 KiB.
    pub queue: usize,
    /// Packets longer than this vanish.
    pub mtu: Option<usize>,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self::ideal()
    }
}

impl LinkConfig {
    /// Nothing happens, at once.
    #[must_use]
    pub const fn ideal() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::None,
            reorder: 0.0,
            reorder_by: Duration::from_millis(15),
            duplicate: 0.0,
            corrupt: 0.0,
            checksum: false,
            replay: 0.0,
            rate: None,
            queue: 256 * 1024,
            mtu: None,
        }
    }

    /// Uniform loss on one half of a round trip.
    #[must_use]
    pub const fn lossy(loss: f64, rtt: Duration) -> Self {
        let mut config = Self::ideal();
        config.loss = Loss::Uniform(loss);
        config.delay = Duration::from_nanos(rtt.as_nanos() as u64 / 2);
        config
    }

    /// A local network: 0.2 ms, 1 Gbit/s.
    #[must_use]
    pub const fn lan() -> Self {
        let mut config = Self::ideal();
        config.delay = Duration::from_micros(200);
        config.rate = Some(125_000_000);
        config
    }

    /// A busy wireless network: 3 ms with 10 ms of jitter, 1 % loss in bursts, 50 Mbit/s.
    #[must_use]
    pub fn wifi() -> Self {
        Self {
            delay: Duration::from_millis(3),
            jitter: Duration::from_millis(10),
            loss: Loss::bursty(0.01, 3.0),
            rate: Some(6_250_000),
            ..Self::ideal()
        }
    }

    /// A home connection: 15 ms, 0.1 % loss, 20 Mbit/s.
    #[must_use]
    pub fn home() -> Self {
        Self {
            delay: Duration::from_millis(15),
            jitter: Duration::from_millis(2),
            loss: Loss::Uniform(0.001),
            rate: Some(2_500_000),
            ..Self::ideal()
        }
    }

    /// A phone on the move: 40 ms with 40 ms of jitter, 3 % loss in bursts, some reordering, 10 Mbit/s.
    #[must_use]
    pub fn mobile() -> Self {
        Self {
            delay: Duration::from_millis(40),
            jitter: Duration::from_millis(40),
            loss: Loss::bursty(0.03, 4.0),
            reorder: 0.01,
            rate: Some(1_250_000),
            ..Self::ideal()
        }
    }

    /// A geostationary satellite: 300 ms, 1 % loss in bursts, 5 Mbit/s.
    #[must_use]
    pub fn satellite() -> Self {
        Self {
            delay: Duration::from_millis(300),
            loss: Loss::bursty(0.01, 5.0),
            rate: Some(625_000),
            ..Self::ideal()
        }
    }
}
