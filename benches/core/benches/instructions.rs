//! Instruction counts of the core under callgrind. `.ci/instructions` runs it and compares with `benches/instructions.json`.
//!
//! Nothing here depends on time or chance: a toolchain gives the same counts every time.

#![allow(missing_docs, reason = "the macros write modules without any")]

use std::hint::black_box;
use std::sync::Arc;

use gungraun::Callgrind;
use gungraun::prelude::*;
use kcp_benches_core::{Driver, MSS, Pattern, Peer, SMALL, Workload};
use kcp_core::wire::Segments;
use kcp_core::{Framing, NoDelay, Seed, Session, SessionConfig, Timestamp};

/// Segments delivered in each pattern: two of the largest windows.
const SEGMENTS: u64 = 32_768;

fn driver(pattern: Pattern, size: usize, window: u32, loss: f64) -> Driver {
    Driver::new(Peer::Ours, Workload { pattern, size, window, loss }, None)
}

fn burst(window: u32, loss: f64) -> Driver {
    driver(Pattern::Burst, MSS, window, loss)
}

fn tick(window: u32, loss: f64) -> Driver {
    driver(Pattern::Tick, MSS, window, loss)
}

fn event(window: u32, loss: f64) -> Driver {
    driver(Pattern::Event, MSS, window, loss)
}

fn small(pattern: Pattern, window: u32, loss: f64) -> Driver {
    driver(pattern, SMALL, window, loss)
}

/// What comes back is dropped outside of what is counted.
fn moved(mut driver: Driver) -> Driver {
    black_box(driver.run(SEGMENTS, None));
    driver
}

#[library_benchmark]
#[bench::w32(args = (32, 0.0), setup = burst)]
#[bench::w1024(args = (1024, 0.0), setup = burst)]
#[bench::w16384(args = (16384, 0.0), setup = burst)]
#[bench::w32_loss10(args = (32, 0.1), setup = burst)]
#[bench::w1024_loss10(args = (1024, 0.1), setup = burst)]
#[bench::w16384_loss10(args = (16384, 0.1), setup = burst)]
fn bursts(driver: Driver) -> Driver {
    moved(driver)
}

#[library_benchmark]
#[bench::w32(args = (32, 0.0), setup = tick)]
#[bench::w1024(args = (1024, 0.0), setup = tick)]
#[bench::w16384(args = (16384, 0.0), setup = tick)]
#[bench::w32_loss10(args = (32, 0.1), setup = tick)]
#[bench::w1024_loss10(args = (1024, 0.1), setup = tick)]
#[bench::w16384_loss10(args = (16384, 0.1), setup = tick)]
fn ticks(driver: Driver) -> Driver {
    moved(driver)
}

#[library_benchmark]
#[bench::w32(args = (32, 0.0), setup = event)]
#[bench::w1024(args = (1024, 0.0), setup = event)]
#[bench::w16384(args = (16384, 0.0), setup = event)]
#[bench::w32_loss10(args = (32, 0.1), setup = event)]
#[bench::w1024_loss10(args = (1024, 0.1), setup = event)]
#[bench::w16384_loss10(args = (16384, 0.1), setup = event)]
fn events(driver: Driver) -> Driver {
    moved(driver)
}

#[library_benchmark]
#[bench::burst_w32(args = (Pattern::Burst, 32, 0.0), setup = small)]
#[bench::burst_w1024(args = (Pattern::Burst, 1024, 0.0), setup = small)]
#[bench::burst_w32_loss10(args = (Pattern::Burst, 32, 0.1), setup = small)]
#[bench::tick_w32(args = (Pattern::Tick, 32, 0.0), setup = small)]
#[bench::event_w32(args = (Pattern::Event, 32, 0.0), setup = small)]
#[bench::event_w32_loss10(args = (Pattern::Event, 32, 0.1), setup = small)]
fn small_messages(driver: Driver) -> Driver {
    moved(driver)
}

/// A datagram of so many segments of so many bytes.
fn datagram(segments: u32, payload: usize) -> Vec<u8> {
    let mut datagram = Vec::new();
    for sn in 0..segments {
        datagram.extend_from_slice(&9u32.to_le_bytes());
        // PUSH, or ACK where there is no payload; a window of 1024.
        datagram.extend_from_slice(&[if payload > 0 { 81 } else { 82 }, 0, 0, 4]);
        for field in [1000, sn, 0, u32::try_from(payload).unwrap_or(0)] {
            datagram.extend_from_slice(&field.to_le_bytes());
        }
        datagram.resize(datagram.len() + payload, 7);
    }
    datagram
}

#[library_benchmark]
#[bench::one_full(datagram(1, MSS))]
#[bench::small(datagram(15, SMALL))]
#[bench::acks(datagram(58, 0))]
fn parse(datagram: Vec<u8>) -> Vec<u8> {
    for _ in 0..1000 {
        let mut bytes = 0;
        for (header, payload) in Segments::parse(black_box(&datagram), 9).expect("a legal datagram") {
            bytes += payload.len() + header.sn.value() as usize;
        }
        black_box(bytes);
    }
    datagram
}

const WINDOW: u32 = 1024;

/// A session with a window in flight, and the acknowledgements of it, where every so manieth datagram got lost.
fn acks(lost: usize) -> (Session, Vec<Vec<u8>>) {
    let config = Arc::new(
        SessionConfig::fast()
            .nodelay(NoDelay { nc: true, ..NoDelay::TURBO })
            .stream(false)
            .send_window(WINDOW)
            .recv_window(WINDOW)
            .send_buffer(usize::MAX)
            .idle_timeout(None)
            .keepalive(None),
    );
    let now = Timestamp::from_millis(1);
    let mut sender = Session::established(9, config.clone(), Seed::from_u64(1), now);
    let mut receiver = Session::established(9, config, Seed::from_u64(2), now);
    for _ in 0..WINDOW {
        sender.write(now, &[7; MSS]).expect("room for a message");
    }
    let datagrams = |session: &mut Session| {
        let (mut all, mut run) = (Vec::new(), Vec::new());
        while let Some(transmit) = session.poll_transmit(now, Framing { max_datagrams: 46 }, &mut run) {
            all.extend(run.chunks(transmit.stride).map(<[u8]>::to_vec));
            run.clear();
        }
        all
    };
    let mut answers = Vec::new();
    for (i, datagram) in datagrams(&mut sender).into_iter().enumerate() {
        if (i + 1) % lost != 0 {
            receiver.handle_datagram(now, &datagram).expect("an honest datagram");
            answers.extend(datagrams(&mut receiver));
        }
    }
    assert!(!answers.is_empty());
    (sender, answers)
}

#[library_benchmark]
#[bench::all(acks(usize::MAX))]
#[bench::holes(acks(10))]
fn acknowledgements((mut sender, answers): (Session, Vec<Vec<u8>>)) -> (Session, Vec<Vec<u8>>) {
    let now = Timestamp::from_millis(50);
    for answer in &answers {
        sender.handle_datagram(now, answer).expect("an honest datagram");
    }
    (sender, answers)
}

library_benchmark_group!(
    name = core,
    benchmarks = [bursts, ticks, events, small_messages, parse, acknowledgements]
);

main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = core
);
