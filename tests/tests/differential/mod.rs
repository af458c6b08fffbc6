//! What the differential tests share: the same seeded script of sends, losses and ticks for ends of any make.

use std::collections::BTreeMap;
use std::time::Duration;

use kcp_core::wire::{Command, Segments};
use kcp_netsim::{Link, LinkConfig, Loss};
use kcp_tests::{pattern, seeds};

const CONV: u32 = 0x1234_5678;

/// One end, of either make.
pub(crate) trait End {
    fn send(&mut self, data: &[u8]);
    fn recv(&mut self) -> Option<Vec<u8>>;
    fn input(&mut self, datagram: &[u8]);
    fn update(&mut self, now_ms: u32);
    fn output(&mut self) -> Option<Vec<u8>>;
    fn waitsnd(&self) -> usize;
}

pub(crate) struct Settings {
    pub(crate) mtu: usize,
    pub(crate) snd_wnd: u32,
    pub(crate) rcv_wnd: u32,
    pub(crate) nodelay: bool,
    pub(crate) interval: i32,
    pub(crate) resend: i32,
    pub(crate) nc: bool,
    pub(crate) stream: bool,
}

/// The classic face.
pub(crate) struct Ours(kcp_core::Kcp);

impl Ours {
    pub(crate) fn boxed(settings: &Settings) -> Box<dyn End> {
        let mut kcp = kcp_core::Kcp::new(CONV);
        kcp.nodelay(settings.nodelay.into(), settings.interval, settings.resend, settings.nc.into());
        kcp.wndsize(settings.snd_wnd, settings.rcv_wnd);
        kcp.set_mtu(settings.mtu).unwrap();
        kcp.set_stream(settings.stream);
        Box::new(Self(kcp))
    }
}

impl End for Ours {
    fn send(&mut self, data: &[u8]) {
        self.0.send(data).unwrap();
    }
    fn recv(&mut self) -> Option<Vec<u8>> {
        let mut buf = vec![0; self.0.peeksize()?];
        self.0.recv(&mut buf).unwrap();
        Some(buf)
    }
    fn input(&mut self, datagram: &[u8]) {
        self.0.input(datagram).unwrap();
    }
    fn update(&mut self, now_ms: u32) {
        self.0.update(now_ms);
    }
    fn output(&mut self) -> Option<Vec<u8>> {
        self.0.poll_output()
    }
    fn waitsnd(&self) -> usize {
        self.0.waitsnd()
    }
}

/// Makes an end.
pub(crate) type Make = fn(&Settings) -> Box<dyn End>;

/// Settings, network and messages drawn from one seed, the same for every pairing.
fn script(seed: u64) -> (Settings, LinkConfig, [Vec<Vec<u8>>; 2]) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let settings = Settings {
        mtu: rng.usize(50..=1500),
        snd_wnd: rng.u32(4..=1024),
        rcv_wnd: rng.u32(128..=1024),
        nodelay: rng.bool(),
        interval: rng.i32(10..=40),
        resend: rng.i32(0..=3),
        nc: rng.bool(),
        stream: rng.bool(),
    };
    // Not more: ikcp's backoff has no bound, and in mode 0 it doubles: a segment lost ten times waits for minutes.
    let loss = f64::from(rng.u32(0..if settings.nodelay { 15 } else { 5 })) / 100.0;
    let link = LinkConfig {
        delay: Duration::from_millis(rng.u64(0..60)),
        jitter: Duration::from_millis(rng.u64(0..20)),
        loss: if rng.bool() { Loss::Uniform(loss) } else { Loss::bursty(loss, 3.0) },
        reorder: f64::from(rng.u32(0..10)) / 100.0,
        duplicate: f64::from(rng.u32(0..5)) / 100.0,
        ..LinkConfig::ideal()
    };
    let longest = ((settings.mtu - 24) * 100).min(30_000);
    let messages = [rng.u64(1..30), rng.u64(0..10)].map(|count| {
        // ikcp takes no empty sends in stream mode.
        (0..count).map(|i| pattern(rng.usize(1..=longest), seed * 1000 + i)).collect()
    });
    (settings, link, messages)
}

/// Virtual time that a script is given.
const LIMIT_MS: u32 = 10_000_000;

/// Runs a script on a clock that starts at `clock`: each end must receive what the other has sent.
pub(crate) fn run(seed: u64, clock: u32, make: [Make; 2]) -> Result<(), String> {
    let (settings, link, messages) = script(seed);
    let mut ends = make.map(|make| make(&settings));
    let mut links = [Link::new(link.clone(), seed), Link::new(link, !seed)];
    let mut next = [0usize; 2];
    let mut got: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    let bytes = |messages: &[Vec<u8>]| messages.iter().map(Vec::len).sum::<usize>();
    for ms in (0..LIMIT_MS).step_by(5) {
        let now = Duration::from_millis(u64::from(ms));
        for side in 0..2 {
            while next[side] < messages[side].len() && ends[side].waitsnd() < 200 {
                ends[side].send(&messages[side][next[side]]);
                next[side] += 1;
            }
            ends[side].update(clock.wrapping_add(ms));
            while let Some(datagram) = ends[side].output() {
                if datagram.len() > settings.mtu {
                    return Err(format!("a datagram of {} bytes", datagram.len()));
                }
                links[side].send(now, datagram);
            }
            while let Some(datagram) = links[1 - side].poll(now) {
                ends[side].input(&datagram);
            }
            while let Some(message) = ends[side].recv() {
                got[side].push(message);
            }
        }
        let done = (0..2).all(|side| bytes(&got[side]) >= bytes(&messages[1 - side]));
        if done && (0..2).all(|side| next[side] == messages[side].len()) {
            for side in 0..2 {
                let equal = if settings.stream {
                    got[side].concat() == messages[1 - side].concat()
                } else {
                    got[side] == messages[1 - side]
                };
                if !equal {
                    return Err(format!("end {side} received something else"));
                }
            }
            return Ok(());
        }
    }
    Err(format!("does not converge within {LIMIT_MS} ms"))
}

/// One PUSH on the wire: time, sn, una, frg, wnd, ts and payload.
type Push = (u32, u32, u32, u8, u16, u32, Vec<u8>);

/// What one end put on the wire.
#[derive(Default, PartialEq)]
struct Trace {
    /// In order.
    pushes: Vec<Push>,
    /// The datagrams of an end that only sends data.
    datagrams: Vec<(u32, Vec<u8>)>,
    /// By time: una and window as the last segment of any kind tells them.
    told: BTreeMap<u32, (u32, u16)>,
}

/// The strict subset: no loss, no reordering, no timeout, a reader that reads, nothing sent before the first flush (until when
/// ikcp's congestion window is 0). Then what is sent, and when, follows from the protocol alone. The traces of both ends.
fn lossless(seed: u64, clock: u32, make: [Make; 2]) -> [Trace; 2] {
    let mut rng = fastrand::Rng::with_seed(seed);
    let settings = Settings {
        mtu: rng.usize(50..=1500),
        snd_wnd: rng.u32(32..=256),
        rcv_wnd: rng.u32(128..=1024),
        nodelay: rng.bool(),
        interval: rng.i32(10..=40),
        resend: rng.i32(0..=3),
        nc: rng.bool(),
        stream: rng.bool(),
    };
    let delay = Duration::from_millis(rng.u64(1..20));
    let both = rng.bool();
    let mut ends = make.map(|make| make(&settings));
    let mut links = [0, 1].map(|seed| Link::new(LinkConfig { delay, ..LinkConfig::ideal() }, seed));
    let mut traces = [Trace::default(), Trace::default()];
    for ms in 0..60_000 {
        if ms >= 5000 && ends.iter().all(|end| end.waitsnd() == 0) {
            break;
        }
        let now = Duration::from_millis(ms.into());
        for side in 0..2 {
            if (1..2000).contains(&ms)
                && (side == 0 || both)
                && rng.u8(0..20) == 0
                && ends[side].waitsnd() < 500
            {
                ends[side].send(&pattern(rng.usize(1..=settings.mtu * 20), seed ^ u64::from(ms)));
            }
            ends[side].update(clock.wrapping_add(ms));
            while let Some(datagram) = ends[side].output() {
                let trace = &mut traces[side];
                for (header, payload) in Segments::parse(&datagram, CONV).expect("valid") {
                    trace.told.insert(ms, (header.una.value(), header.wnd));
                    if header.cmd == Command::Push {
                        let (sn, una) = (header.sn.value(), header.una.value());
                        trace.pushes.push((ms, sn, una, header.frg, header.wnd, header.ts, payload.to_vec()));
                    }
                }
                if side == 0 && !both {
                    trace.datagrams.push((ms, datagram.clone()));
                }
                links[side].send(now, datagram);
            }
            while let Some(datagram) = links[1 - side].poll(now) {
                ends[side].input(&datagram);
            }
            while ends[side].recv().is_some() {}
        }
    }
    assert!(ends.iter().all(|end| end.waitsnd() == 0), "seed {seed} does not end");
    traces
}

/// Every pairing of ours with another make delivers what was sent.
pub(crate) fn deliver_the_same(target: &str, clock: u32, default: u64, theirs: Make) {
    let pairings: [(&str, [Make; 2]); 4] = [
        ("ours to ours", [Ours::boxed, Ours::boxed]),
        ("theirs to theirs", [theirs, theirs]),
        ("ours to theirs", [Ours::boxed, theirs]),
        ("theirs to ours", [theirs, Ours::boxed]),
    ];
    for seed in seeds(default) {
        for (name, make) in pairings {
            if let Err(error) = run(seed, clock, make) {
                panic!("{name}: {error}\nKCP_SEED={seed} cargo test -p kcp-tests --test {target}");
            }
        }
    }
}

/// The earliest PUSH that differs, in words.
fn first_difference(ours: &[Trace; 2], theirs: &[Trace; 2]) -> Option<String> {
    let brief = |push: Option<&Push>| {
        push.map(|(ms, sn, una, frg, wnd, ts, data)| {
            format!("{ms} ms: sn {sn} una {una} frg {frg} wnd {wnd} ts {ts} len {}", data.len())
        })
    };
    let mut found = Vec::new();
    for side in 0..2 {
        let (a, b) = (&ours[side].pushes, &theirs[side].pushes);
        let i = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i));
        found.extend(i.map(|i| {
            let at = [a.get(i), b.get(i)].into_iter().flatten().map(|push| push.0).min();
            (at, format!("end {side} sends {:?}, expected {:?}", brief(a.get(i)), brief(b.get(i))))
        }));
        let told = ours[side].told.iter().zip(&theirs[side].told).find(|(a, b)| a != b);
        found.extend(
            told.map(|(a, b)| (Some(*a.0.min(b.0)), format!("end {side} tells {a:?}, expected {b:?}"))),
        );
    }
    found.into_iter().min().map(|(_, text)| text)
}

/// In the strict subset every pairing sends the same: data byte for byte and at the same millisecond, in equal datagrams where
/// nothing travels the other way, and what is acknowledged and which window is told at every tick. What is left
/// out, since it differs by intent (docs/WIRE.md): which ACKs `una` makes superfluous, and where in a datagram they stand.
pub(crate) fn emit_the_same(target: &str, clock: u32, default: u64, theirs: Make) {
    for seed in seeds(default) {
        let expected = lossless(seed, clock, [theirs, theirs]);
        for make in [[Ours::boxed as Make, Ours::boxed], [Ours::boxed, theirs], [theirs, Ours::boxed]] {
            let traces = lossless(seed, clock, make);
            let repro = || format!("KCP_SEED={seed} cargo test -p kcp-tests --test {target}");
            if let Some(first) = first_difference(&traces, &expected) {
                panic!("{first}\n{}", repro());
            }
            assert!(traces == expected, "{}", repro());
        }
    }
}
