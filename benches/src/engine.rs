//! The core alone: two ends, a link in memory, virtual time; ours, `ikcp.c`, and no protocol at all.
//!
//! - **burst**: per round offer up to a window of messages, 10 ms pass, flush one end, deliver, read everything, flush the
//!   other end, deliver back.
//! - **event**: the window is spread over a round trip of 50 ms; in each step one message is offered, what has arrived is
//!   delivered, and an end is flushed after every datagram it gets.
//!
//! Message mode, a segment per message, nodelay(1, 10, 2, 1). Every datagram, data or acknowledgement, is dropped with the same
//! probability. Measured is the CPU time of the thread, the link included, per delivered segment.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cpu_time::ThreadTime;
use kcp_core::{Framing, NoDelay, Seed, Session, SessionConfig, Timestamp};

/// Payload of a full segment at mtu 1400.
pub const MSS: usize = 1376;

/// A small message: with it, a window of 16384 segments fits the cache, and copies cost little.
pub const SMALL: usize = 64;

/// The windows that are measured.
pub const WINDOWS: [u32; 6] = [32, 128, 512, 1024, 4096, 16384];

/// How messages and time are interleaved.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// A window at once.
    Burst,
    /// One message at a time.
    Event,
}

/// What is measured.
#[derive(Copy, Clone, Debug)]
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

/// Nanoseconds of CPU per delivered segment, both ends together.
///
/// # Panics
/// When something else arrives than was sent.
#[must_use]
pub fn measure(peer: Peer, workload: Workload, segments: u64) -> f64 {
    let window = workload.window;
    match peer {
        Peer::Ours => run([Ours::new(window), Ours::new(window)], workload, segments),
        Peer::C => run([C::new(window), C::new(window)], workload, segments),
        Peer::Null => run([Null::default(), Null::default()], workload, segments),
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
}

impl Wire {
    fn packet(&mut self) -> Packet {
        let mut packet = self.pool.pop().unwrap_or_default();
        packet.bytes.clear();
        packet
    }

    fn send(&mut self, due: u64, packet: Packet) {
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

/// Delivers what has arrived; true if something has.
fn deliver<E: End>(wire: &mut Wire, now: u64, drop: &mut dyn FnMut() -> bool, mut to: impl FnMut(&[u8])) {
    while let Some(packet) = wire.receive(now) {
        for datagram in packet.bytes.chunks(packet.stride.max(1)) {
            if !drop() {
                to(datagram);
            }
        }
        wire.pool.push(packet);
    }
}

fn run<E: End>(ends: [E; 2], workload: Workload, segments: u64) -> f64 {
    let Workload { pattern, size, window, loss } = workload;
    let [mut a, mut b] = ends;
    let (mut there, mut back) = (Wire::default(), Wire::default());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut drop = || loss > 0.0 && rng.f64() < loss;
    let mut message = vec![0x5A; size];
    let mut buf = vec![0; size];
    let wnd = u64::from(window);
    let (mut offered, mut delivered, mut step) = (0u64, 0u64, 0u64);
    let warmup = wnd * 3;
    let mut counted_from = None;
    while delivered < segments + warmup {
        if delivered >= warmup && counted_from.is_none() {
            counted_from = Some((ThreadTime::now(), delivered));
        }
        step += 1;
        let (now, due) = match pattern {
            Pattern::Burst => (step * 10_000, 0),
            Pattern::Event => (step * 50_000 / wnd, (step + wnd / 2) * 50_000 / wnd),
        };
        let upto = match pattern {
            Pattern::Burst => delivered + wnd,
            // Less than a window waits or flies.
            Pattern::Event => (offered + 1).min(delivered + wnd * 2),
        };
        while offered < upto {
            message[..8].copy_from_slice(&offered.to_le_bytes());
            a.send(now, &message);
            offered += 1;
        }
        let mut read = |b: &mut E, delivered: &mut u64| {
            while b.recv(now, &mut buf) {
                assert_eq!(buf[..8], delivered.to_le_bytes());
                *delivered += 1;
            }
        };
        match pattern {
            Pattern::Burst => {
                a.flush(now, due, &mut there);
                deliver::<E>(&mut there, now, &mut drop, |datagram| b.input(now, datagram));
                read(&mut b, &mut delivered);
                b.flush(now, due, &mut back);
                deliver::<E>(&mut back, now, &mut drop, |datagram| a.input(now, datagram));
            }
            Pattern::Event => {
                a.flush(now, due, &mut there);
                deliver::<E>(&mut there, now, &mut drop, |datagram| {
                    b.input(now, datagram);
                    read(&mut b, &mut delivered);
                    b.flush(now, due, &mut back);
                });
                if b.is_due(now) {
                    b.flush(now, due, &mut back);
                }
                deliver::<E>(&mut back, now, &mut drop, |datagram| {
                    a.input(now, datagram);
                    a.flush(now, due, &mut there);
                });
            }
        }
    }
    let (since, before) = counted_from.unwrap_or((ThreadTime::now(), 0));
    let cpu: Duration = since.elapsed();
    cpu.as_nanos() as f64 / (delivered - before) as f64
}
