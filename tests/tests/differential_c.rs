//! The same seeded script of sends, losses and ticks through our classic face and `ikcp.c`, in every pairing: each must
//! deliver exactly what was sent.
//!
//! `KCP_SEEDS=5000` for more seeds, `KCP_SEED=17` for one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use kcp_netsim::{Link, LinkConfig, Loss};
use kcp_tests::{pattern, seeds};
use std::time::Duration;

/// One end, of either make.
trait End {
    fn send(&mut self, data: &[u8]);
    fn recv(&mut self) -> Option<Vec<u8>>;
    fn input(&mut self, datagram: &[u8]);
    fn update(&mut self, now_ms: u32);
    fn output(&mut self) -> Option<Vec<u8>>;
    fn waitsnd(&self) -> usize;
}

struct Settings {
    mtu: usize,
    snd_wnd: u32,
    rcv_wnd: u32,
    nodelay: bool,
    interval: i32,
    resend: i32,
    nc: bool,
    stream: bool,
}

struct Ours(kcp_core::Kcp);

impl Ours {
    fn boxed(settings: &Settings) -> Box<dyn End> {
        let mut kcp = kcp_core::Kcp::new(0x1234_5678);
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

struct C {
    kcp: kcp_io::Kcp,
    output: Rc<RefCell<VecDeque<Vec<u8>>>>,
}

impl C {
    fn boxed(settings: &Settings) -> Box<dyn End> {
        let output = Rc::new(RefCell::new(VecDeque::new()));
        let sink = output.clone();
        let mut kcp = kcp_io::Kcp::new(0x1234_5678, move |datagram: &[u8]| {
            sink.borrow_mut().push_back(datagram.to_vec());
            Ok(datagram.len())
        })
        .unwrap();
        kcp.set_nodelay(settings.nodelay, settings.interval as u32, settings.resend, settings.nc);
        kcp.set_wndsize(settings.snd_wnd, settings.rcv_wnd);
        kcp.set_mtu(settings.mtu as u32).unwrap();
        kcp.set_stream_mode(settings.stream);
        Box::new(Self { kcp, output })
    }
}

impl End for C {
    fn send(&mut self, data: &[u8]) {
        self.kcp.send(data).unwrap();
    }
    fn recv(&mut self) -> Option<Vec<u8>> {
        let mut buf = vec![0; self.kcp.peeksize().ok()?];
        let n = self.kcp.recv(&mut buf).ok()?;
        assert_eq!(n, buf.len());
        Some(buf)
    }
    fn input(&mut self, datagram: &[u8]) {
        self.kcp.input(datagram).unwrap();
    }
    fn update(&mut self, now_ms: u32) {
        self.kcp.update(now_ms);
    }
    fn output(&mut self) -> Option<Vec<u8>> {
        self.output.borrow_mut().pop_front()
    }
    fn waitsnd(&self) -> usize {
        self.kcp.waitsnd() as usize
    }
}

/// Makes an end.
type Make = fn(&Settings) -> Box<dyn End>;

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

/// Runs a script; the messages that each end received.
fn run(seed: u64, make: [Make; 2]) -> Result<(), String> {
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
            // The clock wraps during the transfer.
            ends[side].update(ms.wrapping_sub(1000));
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

#[test]
fn every_pairing_delivers_the_same() {
    let pairings: [(&str, [Make; 2]); 4] = [
        ("ours to ours", [Ours::boxed, Ours::boxed]),
        ("C to C", [C::boxed, C::boxed]),
        ("ours to C", [Ours::boxed, C::boxed]),
        ("C to ours", [C::boxed, Ours::boxed]),
    ];
    for seed in seeds(300) {
        for (name, make) in pairings {
            if let Err(error) = run(seed, make) {
                panic!("{name}: {error}\nKCP_SEED={seed} cargo test -p kcp-tests --test differential_c");
            }
        }
    }
}
