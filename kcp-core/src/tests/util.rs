//! What the scenarios share: a seeded generator, and `Pair`.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use kcp_netsim::{Link, LinkConfig};

use crate::seq::Seq;
use crate::wire::{Command, Header};
use crate::{Event, Framing, Seed, Session, SessionConfig, Timestamp};

/// How often a random test is repeated: under miri, which takes ten thousand times as long, twice.
pub(crate) const fn rounds(usually: u64) -> u64 {
    if cfg!(miri) { 2 } else { usually }
}

/// splitmix64: all a test needs of randomness.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in 0..n.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Virtual time starts so that the wire's milliseconds wrap within the first second.
pub(crate) const START: Timestamp = Timestamp::from_millis((1 << 32) - 700);

/// Two sessions joined by two emulated links, on a clock that jumps to the next deadline.
pub(crate) struct Pair {
    pub(crate) now: Timestamp,
    pub(crate) ends: [Session; 2],
    /// `links[i]` carries what `ends[i]` sends.
    pub(crate) links: [Link<Vec<u8>>; 2],
    pub(crate) events: [Vec<Event>; 2],
    /// Datagrams that each end has sent, oldest first, with the time.
    pub(crate) sent: [VecDeque<(Timestamp, Vec<u8>)>; 2],
    pub(crate) wakeups: u64,
    /// The application does something then.
    pub(crate) alarm: Option<Timestamp>,
}

impl Pair {
    pub(crate) fn new(configs: [SessionConfig; 2], link: &LinkConfig, seed: u64) -> Self {
        let [a, b] = configs.map(Arc::new);
        for config in [&a, &b] {
            config.validate().unwrap();
        }
        let mut ends = [
            Session::established(77, a, Seed::from_u64(seed), START),
            Session::established(77, b, Seed::from_u64(!seed), START),
        ];
        // Sequence numbers wrap within the first segments of most transfers.
        let (s0, s1) = (0u32.wrapping_sub(seed as u32 % 40), 0u32.wrapping_sub(seed as u32 % 7));
        ends[0].set_initial_sn(s0, s1);
        ends[1].set_initial_sn(s1, s0);
        assert_eq!(ends[1].una(), Seq::new(s0));
        Self {
            now: START,
            ends,
            links: [Link::new(link.clone(), seed), Link::new(link.clone(), seed ^ 0xABCD)],
            events: [vec![], vec![]],
            sent: [VecDeque::new(), VecDeque::new()],
            wakeups: 0,
            alarm: None,
        }
    }

    pub(crate) fn symmetric(config: SessionConfig, link: &LinkConfig, seed: u64) -> Self {
        Self::new([config.clone(), config], link, seed)
    }

    /// When the next datagram arrives on either link, rounded up to the sessions' microseconds.
    fn arrivals(&self) -> [Option<Timestamp>; 2] {
        let due =
            |side: usize| self.links[side].next_due().map(|due| START + (due + Duration::from_nanos(999)));
        [due(0), due(1)]
    }

    fn elapsed(now: Timestamp) -> Duration {
        now.saturating_since(START)
    }

    /// The driving contract: transmit until None, then events until None.
    pub(crate) fn drain(&mut self, side: usize) {
        let framing = Framing { max_datagrams: 7 };
        let mut buf = Vec::new();
        while let Some(run) = self.ends[side].poll_transmit(self.now, framing, &mut buf) {
            assert_eq!(run.len, buf.len());
            assert!(run.datagrams >= 1 && run.datagrams <= 7);
            let datagrams: Vec<&[u8]> = buf.chunks(run.stride).collect();
            assert_eq!(datagrams.len(), run.datagrams);
            for datagram in datagrams {
                self.links[side].send(Self::elapsed(self.now), datagram.to_vec());
                self.sent[side].push_back((self.now, datagram.to_vec()));
            }
            if self.sent[side].len() > 10_000 {
                self.sent[side].drain(..5_000);
            }
            buf.clear();
        }
        while let Some(event) = self.ends[side].poll_event() {
            self.events[side].push(event);
        }
    }

    pub(crate) fn drain_both(&mut self) {
        self.drain(0);
        self.drain(1);
    }

    /// Jumps to the next deadline and handles it; false when nothing is pending anywhere.
    pub(crate) fn step(&mut self) -> bool {
        let timers = [self.ends[0].poll_timeout(), self.ends[1].poll_timeout()];
        let arrivals = self.arrivals();
        let alarm = self.alarm.take();
        let Some(next) = timers.into_iter().chain(arrivals).flatten().chain(alarm).min() else {
            return false;
        };
        if next > self.now {
            self.wakeups += 1;
        }
        self.now = self.now.max(next);
        for (side, timer) in timers.into_iter().enumerate() {
            while let Some(datagram) = self.links[1 - side].poll(Self::elapsed(self.now)) {
                let _ = self.ends[side].handle_datagram(self.now, &datagram);
            }
            if timer.is_some_and(|at| at <= self.now) {
                self.ends[side].handle_timeout(self.now);
            }
            self.drain(side);
        }
        true
    }

    /// Steps until `done`; panics after `limit` of virtual time, or when nothing is left to do.
    #[track_caller]
    pub(crate) fn drive(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = self.now + limit;
        let mut spins = 0;
        self.drain_both();
        while !done(self) {
            let before = self.now;
            assert!(self.step(), "idle at {:?} without being done", Self::elapsed(self.now));
            assert!(self.now <= deadline, "not done after {limit:?}");
            spins = if self.now == before { spins + 1 } else { 0 };
            assert!(spins < 1000, "spins at {:?}", Self::elapsed(self.now));
            self.drain_both();
        }
    }

    /// Steps for so long, or until nothing is pending.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        self.drain_both();
        loop {
            let timers = [self.ends[0].poll_timeout(), self.ends[1].poll_timeout()];
            let arrivals = self.arrivals();
            match timers.into_iter().chain(arrivals).flatten().min() {
                Some(next) if next <= end => _ = self.step(),
                _ => break,
            }
        }
        self.now = end;
    }
}

/// A session configuration that is silent when idle, so that tests see only what they provoke.
pub(crate) fn quiet() -> SessionConfig {
    SessionConfig::turbo().keepalive(None).idle_timeout(None)
}

pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next() as u8).collect()
}

/// A segment as it stands on the wire.
pub(crate) fn segment(cmd: Command, frg: u8, wnd: u16, ts: u32, sn: u32, una: u32, data: &[u8]) -> Vec<u8> {
    let (sn, una) = (Seq::new(sn), Seq::new(una));
    let header = Header { conv: 77, cmd, frg, wnd, ts, sn, una, len: data.len() as u32 };
    [header.encode().as_slice(), data].concat()
}

/// One end alone, its sequence numbers starting at 0.
pub(crate) fn lone(config: SessionConfig) -> Session {
    Session::established(77, Arc::new(config), Seed::from_u64(0), Timestamp::ZERO)
}

/// Everything that an end wants to send now, datagram by datagram, parsed.
pub(crate) fn output(end: &mut Session, now: Timestamp) -> Vec<Vec<(Header, Vec<u8>)>> {
    let mut out = vec![];
    let mut buf = vec![];
    while end.poll_transmit(now, Framing::default(), &mut buf).is_some() {
        let segments = crate::wire::Segments::parse(&buf, 77).unwrap();
        out.push(segments.map(|(header, data)| (header, data.to_vec())).collect());
        buf.clear();
    }
    out
}

/// (command, sn, payload length) of everything that an end wants to send now.
pub(crate) fn sent(end: &mut Session, now: Timestamp) -> Vec<(Command, u32, usize)> {
    let flat = output(end, now).into_iter().flatten();
    flat.map(|(header, data)| (header.cmd, header.sn.value(), data.len())).collect()
}
