//! The core alone: two ends, a link in memory, virtual time; ours, `ikcp.c`, and no protocol at all.
//!
//! - **burst**: per round offer up to a window of messages, 10 ms pass, flush one end, deliver, read everything, flush the
//!   other end, deliver back.
//! - **tick**: steps of 1 ms, 25 ms each way; a fiftieth of a window of messages and one flush per end and step.
//! - **event**: the window is spread over a round trip of 50 ms; in each step one message is offered, what has arrived is
//!   delivered, and an end is flushed after every datagram it gets.
//!
//! Message mode, a segment per message, nodelay(1, 10, 2, 1). Every datagram, data or acknowledgement, is dropped with the same
//! probability. Measured is the CPU time of the thread, the link included, per delivered segment.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cpu_time::ThreadTime;
use kcp_core::{Framing, NoDelay, Seed, Session, SessionConfig, Timestamp};
use serde::{Deserialize, Serialize};

/// Payload of a full segment at mtu 1400.
pub const MSS: usize = 1376;

/// A small message: with it, a window of 16384 segments fits the cache, and copies cost little.
pub const SMALL: usize = 64;

/// The windows that are measured.
pub const WINDOWS: [u32; 6] = [32, 128, 512, 1024, 4096, 16384];

/// How messages and time are interleaved.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// A window at once.
    Burst,
    /// What a millisecond brings.
    Tick,
    /// One message at a time.
    Event,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Burst => "burst",
            Self::Tick => "tick",
            Self::Event => "event",
        })
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Burst, Self::Tick, Self::Event]
            .into_iter()
            .find(|pattern| pattern.to_string() == name)
            .ok_or_else(|| format!("no pattern is called {name}"))
    }
}

/// What is measured.
#[derive(Copy, Clone, Debug, Deserialize, Serialize)]
pub struct Workload {
    /// How messages and time are interleaved.
    pub pattern: Pattern,
    /// Bytes of a message: [`MSS`] fills a segment, [`SMALL`] leaves the protocol's own cost.
    pub size: usize,
    /// Send and receive window, in segments.
    pub window: u32,
    /// Probability that a datagram is dropped.
    pub loss: f64,
}

/// Whose protocol is measured.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// `kcp_core::Session`.
    Ours,
    /// `ikcp.c`, through the crate kcp-io.
    C,
    /// A header and a queue: what the workload itself costs.
    Null,
}

/// The middle value; NaN of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A workload under way, its first three windows moved.
pub struct Driver(Box<dyn Drive>);

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl Driver {
    /// Two ends and three windows between them, or as much as `limit` of CPU time allows.
    ///
    /// # Panics
    /// When something else arrives than was sent.
    #[must_use]
    pub fn new(peer: Peer, workload: Workload, limit: Option<Duration>) -> Self {
        let window = workload.window;
        let mut driver = Self(match peer {
            Peer::Ours => Box::new(State::new([Ours::new(window), Ours::new(window)], workload)),
            Peer::C => Box::new(State::new([C::new(window), C::new(window)], workload)),
            Peer::Null => Box::new(State::new([Null::default(), Null::default()], workload)),
        });
        driver.run(u64::from(window) * 3, limit);
        driver
    }

    /// Delivers so many segments more, or as many as `limit` of CPU time allows; returns how many.
    ///
    /// # Panics
    /// When something else arrives than was sent.
    pub fn run(&mut self, segments: u64, limit: Option<Duration>) -> u64 {
        self.0.run(segments, limit)
    }
}

/// What a measurement has shown.
#[derive(Copy, Clone, Debug)]
pub struct Measured {
    /// Nanoseconds of CPU per delivered segment, both ends together.
    pub ns: f64,
    /// The segments that it rests on; fewer than were asked for when the limit came first.
    pub segments: u64,
    /// Datagrams of both ends per delivered segment, those that were dropped too.
    pub datagrams: f64,
}

/// Measures `segments` after three windows uncounted; for each of both at most `limit` of CPU time.
///
/// # Panics
/// When something else arrives than was sent.
#[must_use]
pub fn measure(peer: Peer, workload: Workload, segments: u64, limit: Option<Duration>) -> Measured {
    let mut driver = Driver::new(peer, workload, limit);
    let (since, before) = (ThreadTime::now(), driver.0.datagrams());
    let segments = driver.run(segments, limit);
    let each = |all: f64| all / segments.max(1) as f64;
    let datagrams = each((driver.0.datagrams() - before) as f64);
    Measured { ns: each(since.elapsed().as_nanos() as f64), segments, datagrams }
}

/// A row of the table: nanoseconds per segment.
#[derive(Copy, Clone, Debug, Deserialize, Serialize)]
pub struct Cell {
    /// Of what.
    #[serde(flatten)]
    pub workload: Workload,
    /// `kcp_core::Session`.
    pub ours: f64,
    /// `ikcp.c`.
    pub c: f64,
    /// The segments that the C figure rests on.
    pub c_segments: u64,
    /// The C figure rests on fewer segments than it should, since it took too long.
    pub c_cut: bool,
    /// No protocol, no loss.
    pub null: f64,
    /// Datagrams of both ends per segment: ours.
    pub ours_datagrams: f64,
    /// Those of `ikcp.c`.
    pub c_datagrams: f64,
}

impl Cell {
    /// How much longer `ikcp.c` takes than ours, the driver and its copies included.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.c / self.ours
    }

    /// The same without what the driver takes with no protocol in it.
    #[must_use]
    pub fn net(&self) -> f64 {
        (self.c - self.null) / (self.ours - self.null).max(1.0)
    }

    /// How much a segment's cost grows from a small window to a large one: as measured, and without what the driver grows.
    #[must_use]
    pub fn growth(small: &Self, large: &Self) -> [f64; 2] {
        [large.ours / small.ours, (large.ours - large.null + small.null) / small.ours]
    }
}

/// Datagrams of one length but the last, back to back.
#[derive(Default)]
struct Packet {
    bytes: Vec<u8>,
    stride: usize,
}

/// Packets on their way, and used ones.
#[derive(Default)]
struct Wire {
    flying: VecDeque<(u64, Packet)>,
    pool: Vec<Packet>,
    /// So many have been sent.
    datagrams: u64,
}

impl Wire {
    fn packet(&mut self) -> Packet {
        let mut packet = self.pool.pop().unwrap_or_default();
        packet.bytes.clear();
        packet
    }

    fn send(&mut self, due: u64, packet: Packet) {
        self.datagrams += packet.bytes.len().div_ceil(packet.stride.max(1)) as u64;
        self.flying.push_back((due, packet));
    }

    fn receive(&mut self, now: u64) -> Option<Packet> {
        self.flying.front().filter(|(due, _)| *due <= now)?;
        self.flying.pop_front().map(|(_, packet)| packet)
    }
}

/// One end, whoever made it.
trait End {
    fn send(&mut self, now: u64, message: &[u8]);
    fn input(&mut self, now: u64, datagram: &[u8]);
    fn recv(&mut self, now: u64, buf: &mut [u8]) -> bool;
    fn flush(&mut self, now: u64, due: u64, wire: &mut Wire);
    /// Whether to flush although nothing happened.
    fn is_due(&mut self, now: u64) -> bool;
}

struct Ours(Session);

impl Ours {
    fn new(window: u32) -> Self {
        let config = SessionConfig::fast()
            .nodelay(NoDelay { nc: true, ..NoDelay::TURBO })
            .stream(false)
            .send_window(window)
            .recv_window(window)
            .recv_buffer(usize::MAX)
            .send_buffer(usize::MAX)
            .dead_link(u32::MAX)
            .user_timeout(None)
            .idle_timeout(None)
            .keepalive(None);
        Self(Session::established(1, Arc::new(config), Seed::from_u64(1), Timestamp::ZERO))
    }
}

impl End for Ours {
    fn send(&mut self, now: u64, message: &[u8]) {
        self.0.write(Timestamp::from_micros(now), message).expect("room for a message");
    }

    fn input(&mut self, now: u64, datagram: &[u8]) {
        self.0.handle_datagram(Timestamp::from_micros(now), datagram).expect("an honest datagram");
    }

    fn recv(&mut self, now: u64, buf: &mut [u8]) -> bool {
        self.0.read(Timestamp::from_micros(now), buf).is_ok_and(|n| n == buf.len())
    }

    fn flush(&mut self, now: u64, due: u64, wire: &mut Wire) {
        let framing = Framing { max_datagrams: 46 };
        loop {
            let mut packet = wire.packet();
            match self.0.poll_transmit(Timestamp::from_micros(now), framing, &mut packet.bytes) {
                Some(run) => packet.stride = run.stride,
                None => return wire.pool.push(packet),
            }
            wire.send(due, packet);
        }
    }

    fn is_due(&mut self, now: u64) -> bool {
        self.0.poll_timeout().is_some_and(|at| at.as_micros() <= now)
    }
}

struct C {
    kcp: kcp_io::Kcp,
    /// What it has put out, and buffers for more.
    out: Rc<RefCell<(Vec<Packet>, Vec<Packet>)>>,
}

impl C {
    fn new(window: u32) -> Self {
        let out: Rc<RefCell<(Vec<Packet>, Vec<Packet>)>> = Rc::default();
        let sink = out.clone();
        let mut kcp = kcp_io::Kcp::new(1, move |datagram: &[u8]| {
            let (sent, spare) = &mut *sink.borrow_mut();
            let mut packet = spare.pop().unwrap_or_default();
            packet.bytes.clear();
            packet.bytes.extend_from_slice(datagram);
            packet.stride = datagram.len();
            sent.push(packet);
            Ok(datagram.len())
        })
        .expect("ikcp_create");
        kcp.set_nodelay(true, 10, 2, true);
        kcp.set_wndsize(window, window);
        kcp.set_mtu(1400).expect("a legal mtu");
        kcp.update(0);
        Self { kcp, out }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "milliseconds of a short run")]
fn millis(now: u64) -> u32 {
    (now / 1000) as u32
}

impl End for C {
    fn send(&mut self, _: u64, message: &[u8]) {
        self.kcp.send(message).expect("ikcp_send");
    }

    fn input(&mut self, _: u64, datagram: &[u8]) {
        self.kcp.input(datagram).expect("an honest datagram");
    }

    fn recv(&mut self, _: u64, buf: &mut [u8]) -> bool {
        self.kcp.recv(buf).is_ok_and(|n| n == buf.len())
    }

    fn flush(&mut self, now: u64, due: u64, wire: &mut Wire) {
        // Flushes by itself when its interval has passed; else it only takes note of the time.
        self.out.borrow_mut().1.append(&mut wire.pool);
        self.kcp.update(millis(now));
        self.kcp.flush();
        let (sent, spare) = &mut *self.out.borrow_mut();
        for packet in sent.drain(..) {
            wire.send(due, packet);
        }
        wire.pool.append(spare);
    }

    fn is_due(&mut self, now: u64) -> bool {
        self.kcp.check(millis(now)) == 0
    }
}

#[derive(Default)]
struct Null {
    queue: VecDeque<Vec<u8>>,
    arrived: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    acks: u32,
}

impl Null {
    fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        copy
    }
}

impl End for Null {
    fn send(&mut self, _: u64, message: &[u8]) {
        let copy = self.copy(message);
        self.queue.push_back(copy);
    }

    fn input(&mut self, _: u64, datagram: &[u8]) {
        if datagram.len() > 24 {
            let copy = self.copy(&datagram[24..]);
            self.arrived.push_back(copy);
            self.acks += 1;
        }
    }

    fn recv(&mut self, _: u64, buf: &mut [u8]) -> bool {
        let Some(message) = self.arrived.pop_front() else { return false };
        buf.copy_from_slice(&message);
        self.spare.push(message);
        true
    }

    fn flush(&mut self, _: u64, due: u64, wire: &mut Wire) {
        while let Some(message) = self.queue.pop_front() {
            let mut packet = wire.packet();
            packet.bytes.extend_from_slice(&[7; 24]);
            packet.bytes.extend_from_slice(&message);
            packet.stride = packet.bytes.len();
            self.spare.push(message);
            wire.send(due, packet);
        }
        if self.acks > 0 {
            self.acks = 0;
            let mut packet = wire.packet();
            packet.bytes.extend_from_slice(&[7; 24]);
            packet.stride = 24;
            wire.send(due, packet);
        }
    }

    fn is_due(&mut self, _: u64) -> bool {
        false
    }
}

/// Delivers what has arrived.
fn deliver(wire: &mut Wire, now: u64, drop: &mut dyn FnMut() -> bool, mut to: impl FnMut(&[u8])) {
    while let Some(packet) = wire.receive(now) {
        for datagram in packet.bytes.chunks(packet.stride.max(1)) {
            if !drop() {
                to(datagram);
            }
        }
        wire.pool.push(packet);
    }
}

/// Whatever the ends are.
trait Drive {
    fn run(&mut self, segments: u64, limit: Option<Duration>) -> u64;
    /// Of both ends so far.
    fn datagrams(&self) -> u64;
}

/// Offered messages and steps between two looks at the clock: a look is a system call.
const LOOK: u64 = 1024;

struct State<E> {
    workload: Workload,
    ends: [E; 2],
    there: Wire,
    back: Wire,
    rng: fastrand::Rng,
    message: Vec<u8>,
    buf: Vec<u8>,
    offered: u64,
    delivered: u64,
    step: u64,
}

impl<E: End> State<E> {
    fn new(ends: [E; 2], workload: Workload) -> Self {
        Self {
            workload,
            ends,
            there: Wire::default(),
            back: Wire::default(),
            rng: fastrand::Rng::with_seed(7),
            message: vec![0x5A; workload.size],
            buf: vec![0; workload.size],
            offered: 0,
            delivered: 0,
            step: 0,
        }
    }

    fn step(&mut self) {
        let Workload { pattern, window, loss, .. } = self.workload;
        let Self { ends: [a, b], there, back, rng, message, buf, offered, delivered, step, .. } = self;
        let wnd = u64::from(window);
        let mut drop = || loss > 0.0 && rng.f64() < loss;
        *step += 1;
        let (now, due) = match pattern {
            Pattern::Burst => (*step * 10_000, 0),
            Pattern::Tick => (*step * 1000, (*step + 25) * 1000),
            Pattern::Event => (*step * 50_000 / wnd, (*step + wnd / 2) * 50_000 / wnd),
        };
        let upto = match pattern {
            Pattern::Burst => *delivered + wnd,
            // Less than a window waits, besides what flies.
            Pattern::Tick => (*offered + wnd.div_ceil(50)).min(*delivered + wnd * 2),
            Pattern::Event => (*offered + 1).min(*delivered + wnd * 2),
        };
        while *offered < upto {
            message[..8].copy_from_slice(&offered.to_le_bytes());
            a.send(now, message);
            *offered += 1;
        }
        let mut read = |b: &mut E| {
            while b.recv(now, buf) {
                assert_eq!(buf[..8], delivered.to_le_bytes());
                *delivered += 1;
            }
        };
        a.flush(now, due, there);
        match pattern {
            Pattern::Burst | Pattern::Tick => {
                deliver(there, now, &mut drop, |datagram| b.input(now, datagram));
                read(b);
                b.flush(now, due, back);
                deliver(back, now, &mut drop, |datagram| a.input(now, datagram));
            }
            Pattern::Event => {
                deliver(there, now, &mut drop, |datagram| {
                    b.input(now, datagram);
                    read(b);
                    b.flush(now, due, back);
                });
                if b.is_due(now) {
                    b.flush(now, due, back);
                }
                deliver(back, now, &mut drop, |datagram| {
                    a.input(now, datagram);
                    a.flush(now, due, there);
                });
            }
        }
    }
}

impl<E: End> Drive for State<E> {
    fn run(&mut self, segments: u64, limit: Option<Duration>) -> u64 {
        let (before, since) = (self.delivered, limit.map(|limit| (limit, ThreadTime::now())));
        let mut looked = 0;
        while self.delivered - before < segments {
            self.step();
            if let Some((limit, since)) = since
                && self.step + self.offered >= looked + LOOK
            {
                looked = self.step + self.offered;
                if since.elapsed() > limit {
                    break;
                }
            }
        }
        self.delivered - before
    }

    fn datagrams(&self) -> u64 {
        self.there.datagrams + self.back.datagrams
    }
}
