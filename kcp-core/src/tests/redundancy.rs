//! Small messages under loss: copies that ride along, acknowledgements that wait for something to ride with.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use kcp_netsim::LinkConfig;

use super::extension::dialled;
use super::util::{Pair, lone, output, quiet, segment, sent};
use crate::wire::Command::{self, Ack, Push};
use crate::wire::Header;
use crate::{NoDelay, SessionConfig, Timestamp};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn config() -> SessionConfig {
    quiet().nodelay(NoDelay::TURBO)
}

fn pushes(datagrams: &[Vec<(Header, Vec<u8>)>]) -> Vec<Vec<u32>> {
    let of = |datagram: &Vec<(Header, Vec<u8>)>| {
        let pushes = datagram.iter().filter(|(header, _)| header.cmd == Push);
        pushes.map(|(header, _)| header.sn.value()).collect()
    };
    datagrams.iter().map(of).collect()
}

#[test]
fn the_newest_unacknowledged_ride_as_often_as_configured_and_no_datagram_is_sent_for_them() {
    let mut end = lone(config().redundancy(2));
    let mut seen = vec![];
    for n in 0..5 {
        end.write(at(n * 20), &[n as u8; 64]).unwrap();
        let datagrams = output(&mut end, at(n * 20));
        for (header, payload) in datagrams.iter().flatten() {
            assert_eq!(payload, &[header.sn.value() as u8; 64], "a copy is the segment");
        }
        seen.extend(pushes(&datagrams));
    }
    // The newest first, then the copies, oldest first; after two rides each goes no further.
    assert_eq!(seen, [vec![0], vec![1, 0], vec![2, 0, 1], vec![3, 1, 2], vec![4, 2, 3]]);
    assert_eq!((end.stats().copies_sent, end.stats().retransmits), (7, 0));
    // What is acknowledged stays at home.
    end.handle_datagram(at(85), &segment(Ack, 0, 128, 0, 0, 4, &[])).unwrap();
    end.write(at(100), &[5; 64]).unwrap();
    assert_eq!(pushes(&output(&mut end, at(100))), [vec![5, 4]]);
}

/// What is said several times is hardly ever missing: an acknowledgement beyond a hole, of a second segment or of one that has come
/// before waits for the next write too, and is no datagram of its own.
#[test]
fn where_copies_ride_acknowledgements_of_small_segments_hurry_for_nothing() {
    let link = LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() };
    // Longest segment, milliseconds between writes, when the acknowledgement leaves, in microseconds: with the write if that is near.
    for (redundancy, len, gap, nodelay, after) in [
        (1, 512, 15, false, 15_000),
        (0, 256, 15, false, 0),
        (1, 513, 15, false, 0),
        (1, 512, 17, false, 2_500),
        (1, 512, 15, true, 0),
    ] {
        let config = config().redundancy(redundancy).ack_nodelay(nodelay);
        for sns in [&[1][..], &[0, 1], &[0, 0]] {
            let mut pair = dialled(&config, &link, 4);
            pair.run_for(Duration::from_secs(1));
            let (end, mut now) = (&mut pair.ends[1], pair.now);
            for _ in 0..3 {
                now += Duration::from_millis(gap);
                end.write(now, b"x").unwrap();
                output(end, now);
            }
            let una = end.una().value();
            let acked = end.stats().segments_sent as u32;
            let came = now + Duration::from_millis(1);
            for sn in sns {
                let data = segment(Push, 0, 128, 0, una + sn, acked, &vec![7; len]);
                end.handle_datagram(came, &data).unwrap();
            }
            let written = now + Duration::from_millis(gap);
            let due = came + Duration::from_micros(after);
            assert_eq!(end.poll_timeout(), Some(due), "{redundancy} {len} {gap} {nodelay} {sns:?}");
            end.write(written, b"y").unwrap();
            let acknowledges =
                |datagram: &Vec<(Header, Vec<u8>)>| datagram.iter().any(|(header, _)| header.cmd == Ack);
            let all = output(end, written);
            // (Of what came in order `una` tells.)
            assert!(all.len() == 1 && (acknowledges(&all[0]) || sns[0] == 0), "{all:?}");
        }
    }
}

#[test]
fn large_segments_do_not_ride_and_full_datagrams_take_nobody() {
    let mut end = lone(config().redundancy(3));
    end.write(at(0), &[0; 257]).unwrap();
    sent(&mut end, at(0));
    end.write(at(20), &[1; 256]).unwrap();
    assert_eq!(pushes(&output(&mut end, at(20))), [vec![1]]);
    end.write(at(40), &[2; 64]).unwrap();
    assert_eq!(pushes(&output(&mut end, at(40))), [vec![2, 1]]);
    let mut full = lone(config().redundancy(3).mtu(152));
    for n in 0..3 {
        full.write(at(n * 20), &[n as u8; 64]).unwrap();
        // Room for 24 + 64 bytes once more, not twice; 152 - 88 is too little.
        assert_eq!(pushes(&output(&mut full, at(n * 20))), [vec![n as u32]]);
    }
}

#[test]
fn a_ride_puts_the_timeout_off_once() {
    let mut end = lone(config().redundancy(1));
    end.write(at(0), &[0; 64]).unwrap();
    sent(&mut end, at(0));
    end.write(at(150), &[1; 64]).unwrap();
    assert_eq!(pushes(&output(&mut end, at(150))), [vec![1, 0]]);
    // The initial RTO is 200 ms: from the ride, not from the first transmission.
    assert_eq!(sent(&mut end, at(349)), []);
    assert!(sent(&mut end, at(350)).contains(&(Push, 0, 64)));
}

/// The end of a burst waits for nothing but this one segment.
#[test]
fn what_was_lost_twice_and_is_too_long_to_ride_is_sent_twice_at_the_end_of_a_burst() {
    let transmissions = |len: usize, config: SessionConfig| {
        let mut end = lone(config);
        end.write(at(0), &vec![0; len]).unwrap();
        [0, 250, 700, 1700, 4000].map(|ms| sent(&mut end, at(ms)).len())
    };
    assert_eq!(transmissions(257, config()), [1, 1, 2, 2, 2]);
    assert_eq!(transmissions(256, config()), [1; 5], "rides along with what comes next");
    assert_eq!(transmissions(257, quiet().nodelay(NoDelay::NORMAL)), [1; 5]);
}

#[test]
fn what_is_sent_again_rides_once_with_the_next() {
    let mut end = lone(config());
    end.write(at(0), &[0; 64]).unwrap();
    sent(&mut end, at(0));
    assert_eq!(sent(&mut end, at(200)), [(Push, 0, 64)]);
    end.write(at(201), &[1; 64]).unwrap();
    assert_eq!(
        pushes(&output(&mut end, at(201))),
        [vec![1]],
        "too soon: what is lost is often lost together"
    );
    end.write(at(210), &[2; 64]).unwrap();
    assert_eq!(pushes(&output(&mut end, at(210))), [vec![2, 0]]);
    end.write(at(220), &[3; 64]).unwrap();
    assert_eq!(pushes(&output(&mut end, at(220))), [vec![3]]);
    assert_eq!((end.stats().retransmits, end.stats().copies_sent), (1, 1));
}

#[test]
fn a_copys_echo_is_an_exact_sample() {
    let mut end = lone(config().redundancy(1));
    end.write(at(0), &[0; 64]).unwrap();
    sent(&mut end, at(0));
    end.write(at(100), &[1; 64]).unwrap();
    let ride = output(&mut end, at(100))[0][1].0;
    assert_eq!(ride.sn.value(), 0);
    end.handle_datagram(at(140), &segment(Ack, 0, 128, ride.ts, 0, 1, &[])).unwrap();
    assert_eq!(end.rtt(), Some(Duration::from_millis(40)));
    assert_eq!(end.stats().mismatched_echoes, 0);
}

/// Echoes every message; the client writes one every 20 ms over a path of `rtt`.
fn echoing(config: &SessionConfig, plain: bool, rtt: u64, messages: usize) -> Pair {
    let mut link = LinkConfig::ideal();
    link.delay = Duration::from_millis(rtt) / 2;
    let mut pair = if plain { Pair::symmetric(config.clone(), &link, 3) } else { dialled(config, &link, 3) };
    let (mut got, mut sent) = (0, 0);
    let start = pair.now;
    let mut buf = [0; 1000];
    pair.drive(Duration::from_secs(60), |pair| {
        let now = pair.now;
        if sent < messages && now >= start + Duration::from_millis(20) * sent as u32 {
            pair.ends[0].write(now, &[1; 64]).unwrap();
            sent += 1;
        }
        while let Ok(n) = pair.ends[1].read(now, &mut buf) {
            pair.ends[1].write(now, &buf[..n]).unwrap();
        }
        while let Ok(n) = pair.ends[0].read(now, &mut buf) {
            got += n;
        }
        pair.drain_both();
        pair.alarm = (sent < messages).then(|| start + Duration::from_millis(20) * sent as u32);
        got == messages * 64
    });
    pair
}

#[test]
fn between_two_of_ours_acknowledgements_ride_or_are_implied() {
    let pair = echoing(&config(), false, 50, 200);
    let [client, server] = pair.ends.each_ref().map(|end| end.stats());
    // One datagram per message and way, but for the first few and the last.
    for stats in [client, server] {
        assert!(stats.datagrams_sent <= 200 + 20, "{stats:?}");
        assert_eq!((stats.retransmits, stats.copies_sent), (0, 0), "what is held is not taken for lost");
    }
    // Of the server's, which leave with the echo, una implies most; those that are sent keep the client's RTT.
    assert!(server.acks_sent < 120 && server.acks_elided >= 100, "{server:?}");
    assert_eq!(client.srtt, Some(Duration::from_millis(50)));
    // The client's wait up to 11 ms for its next message; the server knows, and its RTT does not suffer.
    let srtt = server.srtt.unwrap().as_millis();
    assert!((49..=52).contains(&srtt), "{server:?}");
    assert!(server.rto >= Duration::from_millis(60), "{server:?}");
}

/// Of a timeout that ends at 100 when the next write is likely at 107, say, a datagram is saved.
#[test]
fn between_two_of_ours_a_timeout_waits_for_a_write_that_comes_soon() {
    let short = Duration::from_millis(5);
    // A plain peer, how long it waits at most.
    for (nodelay, plain, most) in [
        (NoDelay::TURBO, false, None),
        (NoDelay { interval: short, ..NoDelay::TURBO }, false, Some(short)),
        (NoDelay::TURBO, true, Some(Duration::ZERO)),
        (NoDelay { nodelay: 0, ..NoDelay::TURBO }, false, Some(Duration::ZERO)),
    ] {
        for waits in [true, false] {
            let config = quiet().nodelay(nodelay);
            let mut pair = echoing(&config, plain, 50, 10);
            pair.run_for(Duration::from_secs(1));
            let (end, start) = (&mut pair.ends[0], pair.now);
            let rto = end.stats().rto;
            let rto = if nodelay.nodelay == 0 { rto * 9 / 8 } else { rto };
            let wait =
                most.unwrap_or(rto / 7) + if waits { Duration::ZERO } else { Duration::from_micros(1) };
            // The longer of the last two gaps comes once more, and a millisecond.
            let gap = Duration::from_millis(28);
            let other = rto + wait - 2 * gap - Duration::from_millis(1);
            for after in [Duration::ZERO, other, gap] {
                let now = pair.now + after;
                pair.now = now;
                end.write(now, b"x").unwrap();
                output(end, now);
            }
            let due = if waits { rto + wait } else { rto };
            assert_eq!(end.poll_timeout(), Some(start + due), "{nodelay:?} {plain} {waits} {rto:?}");
        }
    }
}

#[test]
fn ours_say_how_long_they_hold_acknowledgements_and_the_rto_adds_little() {
    for (interval, plain, slack) in [(8, false, 4), (10, false, 5), (20, false, 5), (20, true, 20)] {
        let nodelay = NoDelay { interval: Duration::from_millis(interval), ..NoDelay::FAST };
        let pair = echoing(&quiet().nodelay(nodelay), plain, 50, 1000);
        let stats = pair.ends[0].stats();
        let rto = stats.srtt.unwrap() + Duration::from_millis(slack);
        assert!((rto..rto + Duration::from_millis(1)).contains(&stats.rto), "{interval} {plain} {stats:?}");
    }
}

#[test]
fn a_plain_peer_gets_every_acknowledgement_at_its_time() {
    let pair = echoing(&config(), true, 50, 200);
    let [client, server] = pair.ends.each_ref().map(|end| end.stats());
    assert!(client.acks_sent >= 199 && server.acks_sent >= 199, "{client:?} {server:?}");
    let held = |side: usize| {
        pair.sent[side].iter().any(|(_, datagram)| {
            crate::wire::Segments::parse(datagram, 77)
                .unwrap()
                .any(|(header, _)| header.cmd == Command::Ack && header.frg > 0)
        })
    };
    assert!(!held(0) && !held(1), "nothing that a plain peer does not know");
}
