//! One small message every 20 ms, echoed, over a lossy path: how late it comes back, and what it costs. Virtual time, so the
//! figures depend on the seed alone. Applications and timers are up to a millisecond late, as a runtime's are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kcp_core::wire::Command;
use kcp_core::{Framing, Seed, Session, SessionConfig, Timestamp};
use kcp_netsim::{Link, LinkConfig};

/// Bytes of a message; the first eight are its number.
const MESSAGE: usize = 64;
const EVERY: Duration = Duration::from_millis(20);
/// IPv4 and UDP headers.
const OVERHEAD: u64 = 28;

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct Paced {
    /// From the scheduled send time to the answer, in microseconds, sorted.
    pub latencies: Vec<u64>,
    /// Both directions, with IP and UDP headers.
    pub bytes: u64,
    /// Datagrams of both directions.
    pub datagrams: u64,
    /// Of those, datagrams without data.
    pub alone: u64,
    /// Segments sent again, and copies that rode along.
    pub again: [u64; 2],
    /// Part of the datagrams that the network lost.
    pub lost: f64,
}

impl Paced {
    /// The latency that this part of the messages does not exceed, in milliseconds.
    #[must_use]
    pub fn percentile(&self, part: f64) -> f64 {
        let index = (self.latencies.len() as f64 * part).ceil() as usize;
        self.latencies.get(index.saturating_sub(1)).map_or(f64::NAN, |&us| us as f64 / 1000.0)
    }

    /// Adds another run.
    pub fn merge(&mut self, other: Self, runs_before: u32) {
        let runs = f64::from(runs_before);
        self.lost = (self.lost * runs + other.lost) / (runs + 1.0);
        self.bytes += other.bytes;
        self.datagrams += other.datagrams;
        self.alone += other.alone;
        self.again = [self.again[0] + other.again[0], self.again[1] + other.again[1]];
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }
}

/// Data stands before acknowledgements.
fn carries_data(datagram: &[u8]) -> bool {
    datagram.get(4) == Some(&(Command::Push as u8))
}

/// Runtimes count in milliseconds, and wake up after the one that was asked for.
fn next_millisecond(due: Timestamp) -> Timestamp {
    Timestamp::from_millis(due.as_micros().div_ceil(1000))
}

/// How late the application is with its message `n`: less than a millisecond.
fn lateness(seed: u64, n: u64) -> Duration {
    let mixed = (seed ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    Duration::from_micros((mixed >> 32) % 1000)
}

/// Sends `messages` and waits until all are back.
///
/// # Panics
/// If one does not come back within a minute after the last was sent: then the protocol is broken.
#[must_use]
pub fn run(config: &SessionConfig, link: &LinkConfig, messages: u64, seed: u64) -> Paced {
    let config = Arc::new(config.clone());
    let start = Timestamp::from_millis(1000);
    let mut ends = [
        Session::connect(9, config.clone(), Seed::from_u64(seed * 2), start),
        Session::accept(9, config, Seed::from_u64(seed * 2 + 1), start),
    ];
    let mut links: [Link<Vec<u8>>; 2] = [Link::new(link.clone(), seed), Link::new(link.clone(), !seed)];
    let mut now = start;
    let mut result = Paced::default();
    let mut sent = 0;
    // Bytes of a message of which a part is here.
    let mut partial: VecDeque<u8> = VecDeque::new();
    let mut buf = vec![0; 65_536];
    // The first message leaves when the connection stands.
    let mut begin = None;
    while result.latencies.len() < messages as usize {
        let arrivals =
            links.each_ref().map(|link| link.next_due().map(|due| start + (due + Duration::from_nanos(999))));
        let timers = ends.each_mut().map(|end| end.poll_timeout().map(|due| next_millisecond(due).max(now)));
        if begin.is_none() && ends[0].is_extended() && ends[1].is_validated() {
            (begin, result) = (Some(now + EVERY), Paced::default());
        }
        let first = begin.unwrap_or(now);
        let at = |n: u64| first + EVERY * u32::try_from(n).unwrap_or(u32::MAX);
        let tick = (begin.is_some() && sent < messages).then(|| at(sent) + lateness(seed, sent));
        now = now.max(
            arrivals.into_iter().chain(timers).flatten().chain(tick).min().expect("something is pending"),
        );
        assert!(begin.is_none() || now < at(messages) + Duration::from_secs(60), "a message is lost");
        let elapsed = now.saturating_since(start);
        if tick.is_some_and(|tick| tick <= now) {
            let mut message = [0; MESSAGE];
            message[..8].copy_from_slice(&sent.to_le_bytes());
            ends[0].write(now, &message).expect("the send buffer has room");
            sent += 1;
        }
        for side in [0, 1] {
            while let Some(datagram) = links[1 - side].poll(elapsed) {
                ends[side].handle_datagram(now, &datagram).expect("nobody forges here");
            }
            if timers[side].is_some_and(|due| due <= now) {
                ends[side].handle_timeout(now);
            }
            while let Ok(n) = ends[side].read(now, &mut buf) {
                if side == 1 {
                    // The server's whole business.
                    ends[1].write(now, &buf[..n]).expect("the send buffer has room");
                    continue;
                }
                partial.extend(&buf[..n]);
                while partial.len() >= MESSAGE {
                    let message: Vec<u8> = partial.drain(..MESSAGE).collect();
                    let number = u64::from_le_bytes(message[..8].try_into().expect("eight bytes"));
                    assert_eq!(number, result.latencies.len() as u64, "out of order");
                    result.latencies.push(now.saturating_since(at(number)).as_micros() as u64);
                }
            }
            let mut out = Vec::new();
            while let Some(run) = ends[side].poll_transmit(now, Framing { max_datagrams: 8 }, &mut out) {
                for datagram in out.chunks(run.stride) {
                    links[side].send(elapsed, datagram.to_vec());
                    result.bytes += datagram.len() as u64 + OVERHEAD;
                    result.datagrams += 1;
                    result.alone += u64::from(!carries_data(datagram));
                }
                out.clear();
            }
            while ends[side].poll_event().is_some() {}
        }
    }
    let stats = links.each_ref().map(Link::stats);
    for end in &ends {
        let stats = end.stats();
        result.again = [result.again[0] + stats.retransmits, result.again[1] + stats.copies_sent];
    }
    let total: u64 = stats.iter().map(|stats| stats.sent).sum();
    result.lost = stats.iter().map(|stats| stats.lost).sum::<u64>() as f64 / total.max(1) as f64;
    result.latencies.sort_unstable();
    result
}
