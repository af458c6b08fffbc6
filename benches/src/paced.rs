//! Requests and answers over a lossy path, a small one every 20 ms or a burst and a pause: how late the answer comes, and what it
//! costs. Virtual time, so the figures depend on the seed alone. Applications and timers are up to a millisecond late, as a
//! runtime's are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kcp_core::wire::Command;
use kcp_core::{Framing, Seed, Session, SessionConfig, Timestamp};
use kcp_netsim::{Link, LinkConfig};

/// What is asked, and when.
#[derive(Copy, Clone, Debug)]
pub struct Work {
    /// Bytes of a request; the first eight are its number.
    pub request: usize,
    /// The first bytes of the request, this many, are the answer.
    pub answer: usize,
    /// From request to request.
    pub every: Duration,
    /// A request waits for the answer to the one before, and then so long.
    pub waits: bool,
}

/// One message of 64 bytes every 20 ms, echoed.
pub const SMALL: Work = Work { request: 64, answer: 64, every: Duration::from_millis(20), waits: false };
/// A burst of 64 KiB, its answer, a pause of 200 ms, the next.
pub const BURSTS: Work = Work { request: 65_536, answer: 64, every: Duration::from_millis(200), waits: true };

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

/// Sends so many requests and waits until all are answered.
///
/// # Panics
/// If nothing is answered for an hour: then the protocol is broken.
#[must_use]
pub fn run(work: Work, config: &SessionConfig, link: &LinkConfig, requests: u64, seed: u64) -> Paced {
    // A burst of losses may last for as many probes as there are in ten seconds.
    let config = Arc::new(config.clone().connect_timeout(Duration::from_secs(60)));
    let start = Timestamp::from_millis(1000);
    let mut ends = [
        Session::connect(9, config.clone(), Seed::from_u64(seed * 2), start),
        Session::accept(9, config, Seed::from_u64(seed * 2 + 1), start),
    ];
    let mut links: [Link<Vec<u8>>; 2] = [Link::new(link.clone(), seed), Link::new(link.clone(), !seed)];
    let mut now = start;
    let mut result = Paced::default();
    // When each request was due, and when the next is.
    let (mut asked, mut next) = (Vec::new(), None);
    let mut began = false;
    // What is on its way into either end's send queue, and what has come out of the other of which a part is missing.
    let mut outgoing: [VecDeque<u8>; 2] = Default::default();
    let mut incoming: [Vec<u8>; 2] = Default::default();
    let mut buf = vec![0; 65_536];
    while result.latencies.len() < requests as usize {
        let arrivals =
            links.each_ref().map(|link| link.next_due().map(|due| start + (due + Duration::from_nanos(999))));
        let timers = ends.each_mut().map(|end| end.poll_timeout().map(|due| next_millisecond(due).max(now)));
        if !began && ends[0].is_extended() && ends[1].is_validated() {
            // The first request leaves when the connection stands.
            (began, next, result) = (true, Some(now + work.every), Paced::default());
        }
        let number = asked.len() as u64;
        let tick = next.filter(|_| number < requests).map(|due| due + lateness(seed, number));
        let soonest = arrivals.into_iter().chain(timers).flatten().chain(tick).min();
        let ended = ends.each_ref().map(Session::close_reason);
        now = now.max(soonest.unwrap_or_else(|| {
            panic!("seed {seed}: ended by {ended:?}, {} answers", result.latencies.len())
        }));
        let last = asked.last().copied().unwrap_or(start);
        assert!(now.saturating_since(last) < Duration::from_secs(3600), "a request is lost");
        let elapsed = now.saturating_since(start);
        if let Some(due) = next.filter(|_| tick.is_some_and(|tick| tick <= now)) {
            let mut request = vec![0; work.request];
            request[..8].copy_from_slice(&number.to_le_bytes());
            outgoing[0].extend(request);
            asked.push(due);
            next = (!work.waits).then(|| due + work.every);
        }
        for side in [0, 1] {
            while let Some(datagram) = links[1 - side].poll(elapsed) {
                ends[side].handle_datagram(now, &datagram).expect("nobody forges here");
            }
            if timers[side].is_some_and(|due| due <= now) {
                ends[side].handle_timeout(now);
            }
            while let Ok(n) = ends[side].read(now, &mut buf) {
                incoming[side].extend(&buf[..n]);
            }
            let whole = if side == 1 { work.request } else { work.answer };
            while incoming[side].len() >= whole {
                let message: Vec<u8> = incoming[side].drain(..whole).collect();
                if side == 1 {
                    // The server's whole business.
                    outgoing[1].extend(&message[..work.answer]);
                    continue;
                }
                let number = u64::from_le_bytes(message[..8].try_into().expect("eight bytes"));
                assert_eq!(number, result.latencies.len() as u64, "out of order");
                result.latencies.push(now.saturating_since(asked[number as usize]).as_micros() as u64);
                if work.waits {
                    next = Some(now + work.every);
                }
            }
            while !outgoing[side].is_empty()
                && let Ok(n) = ends[side].write(now, outgoing[side].make_contiguous())
            {
                outgoing[side].drain(..n);
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
