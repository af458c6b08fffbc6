//! Every byte arrives, once and in order, whatever the network does.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use kcp_netsim::{LinkConfig, Loss};

use super::util::{Pair, Rng, pattern, quiet};
use crate::{NoDelay, ReadError, SessionConfig, WriteError};

/// A network and a configuration drawn from one seed.
fn draw(seed: u64) -> (LinkConfig, SessionConfig) {
    let mut rng = Rng::new(seed);
    let mut link = LinkConfig::ideal();
    link.delay = Duration::from_millis(rng.below(60));
    link.jitter = Duration::from_millis(if rng.chance(50) { rng.below(30) } else { 0 });
    let loss = rng.below(35) as f64 / 100.0;
    link.loss = match rng.below(3) {
        0 => Loss::None,
        1 => Loss::Uniform(loss),
        _ => Loss::bursty(loss, 3.0),
    };
    link.reorder = if rng.chance(50) { rng.below(20) as f64 / 100.0 } else { 0.0 };
    link.duplicate = if rng.chance(50) { rng.below(10) as f64 / 100.0 } else { 0.0 };
    let numbers = NoDelay {
        nodelay: rng.below(3) as u8,
        interval: Duration::from_millis(10 + rng.below(40)),
        resend: rng.below(4) as u32,
        nc: rng.chance(70),
    };
    let config = quiet()
        .nodelay(numbers)
        .mtu(50 + rng.below(1450) as usize)
        .send_window(1 + rng.below(300) as u32)
        .recv_window(if rng.chance(30) { 1 + rng.below(8) } else { 128 + rng.below(300) } as u32)
        .early_retransmit(rng.chance(30))
        .ack_nodelay(rng.chance(30))
        .write_delay(rng.chance(20))
        .fast_limit(rng.below(8) as u32)
        .dead_link(10_000)
        .user_timeout(None)
        .send_buffer(1 + rng.below(200_000) as usize);
    (link, config)
}

fn seeds() -> core::ops::Range<u64> {
    0..300
}

#[test]
fn streams_both_ways() {
    for seed in seeds() {
        let (link, config) = draw(seed);
        let mut pair = Pair::symmetric(config, &link, seed);
        let mut rng = Rng::new(!seed);
        let data =
            [pattern(rng.below(60_000) as usize + 1, seed), pattern(rng.below(20_000) as usize, seed + 1)];
        let mut written = [0usize; 2];
        let mut got = [vec![], vec![]];
        let mut buf = vec![0; 1 + rng.below(5000) as usize];
        pair.drive(Duration::from_secs(36_000), |pair| {
            for side in 0..2 {
                let now = pair.now;
                while written[side] < data[side].len() {
                    let end = (written[side] + 1 + rng.below(4000) as usize).min(data[side].len());
                    match pair.ends[side].write(now, &data[side][written[side]..end]) {
                        Ok(n) => written[side] += n,
                        Err(WriteError::Blocked) => break,
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
                pair.drain(side);
                loop {
                    match pair.ends[side].read(now, &mut buf) {
                        Ok(n) => got[side].extend_from_slice(&buf[..n]),
                        Err(ReadError::Empty) => break,
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                }
                assert!(data[1 - side].starts_with(&got[side]), "seed {seed}: not a prefix");
                pair.drain(side);
            }
            got[0].len() == data[1].len() && got[1].len() == data[0].len()
        });
        // Nothing is left behind: both ends come to rest.
        pair.run_for(Duration::from_secs(6000));
        for end in &mut pair.ends {
            assert!(end.is_drained(), "seed {seed}");
            assert_eq!(end.poll_timeout(), None, "seed {seed}: idle means no deadline");
            end.trim();
            assert_eq!(end.kept_since(), None, "seed {seed}: idle means no buffer");
        }
    }
}

#[test]
fn messages_keep_their_boundaries() {
    for seed in seeds() {
        let (link, config) = draw(seed);
        let mut rng = Rng::new(!seed);
        let config =
            config.stream(false).recv_window(128 + rng.below(200) as u32).mtu(100 + rng.below(1300) as usize);
        let limit = (config.mss() * 100).min(20_000) as u64;
        let mut pair = Pair::symmetric(config, &link, seed);
        let messages: Vec<Vec<u8>> = (0..20)
            .map(|i| pattern(if rng.chance(20) { 0 } else { rng.below(limit) as usize }, seed * 100 + i))
            .collect();
        let (mut next, mut got) = (0, vec![]);
        pair.drive(Duration::from_secs(36_000), |pair| {
            let now = pair.now;
            while next < messages.len()
                && pair.ends[0].send_msg(now, Bytes::from(messages[next].clone())).is_ok()
            {
                next += 1;
            }
            while let Ok(message) = pair.ends[1].recv_msg(now) {
                assert_eq!(message, messages[got.len()], "seed {seed}");
                got.push(message);
            }
            pair.drain_both();
            got.len() == messages.len()
        });
    }
}

#[test]
fn without_loss_every_segment_is_sent_once() {
    let mut link = LinkConfig::ideal();
    link.delay = Duration::from_millis(20);
    let mut pair = Pair::symmetric(quiet(), &link, 3);
    let data = pattern(1_000_000, 3);
    let (mut written, mut got) = (0, vec![]);
    let mut buf = vec![0; 65536];
    pair.drive(Duration::from_secs(60), |pair| {
        let now = pair.now;
        written += pair.ends[0].write(now, &data[written..]).unwrap_or(0);
        while let Ok(n) = pair.ends[1].read(now, &mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        pair.drain_both();
        got.len() == data.len()
    });
    pair.run_for(Duration::from_secs(1));
    let (a, b) = (pair.ends[0].stats(), pair.ends[1].stats());
    assert_eq!(a.segments_sent, 1_000_000u64.div_ceil(1376));
    assert_eq!(a.retransmits, 0);
    assert!(b.acks_sent * 10 < a.segments_sent, "{} acks for {} segments", b.acks_sent, a.segments_sent);
    assert!(b.acks_elided + b.acks_sent == a.segments_sent);
    assert_eq!((b.duplicates, b.beyond_window), (0, 0));
    assert!(b.bytes_sent * 100 < 3 * a.bytes_sent, "the reverse path stays below 3 %");
    assert_eq!(a.srtt, Some(Duration::from_millis(40)));
}
