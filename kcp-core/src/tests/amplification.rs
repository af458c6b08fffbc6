//! Until a peer has proven its address, at most three times of what came from there goes there.

use alloc::sync::Arc;
use alloc::vec;
use core::time::Duration;

use kcp_netsim::{LinkConfig, Loss};

use super::util::{Pair, START, output, pattern, quiet, segment};
use crate::wire::Command;
use crate::{CloseReason, Framing, Seed, Session, SessionConfig, Timestamp};

/// What a silent victim gets after these datagrams, with a server that has a lot to say.
fn reflected(config: SessionConfig, datagrams: &[alloc::vec::Vec<u8>], stream: bool) -> (usize, usize) {
    let mut server = Session::accept(77, Arc::new(config.stream(stream)), Seed::from_u64(3), Timestamp::ZERO);
    let (mut sent, mut received) = (0, 0);
    let mut now = Timestamp::ZERO;
    for datagram in datagrams {
        received += datagram.len();
        let _ = server.handle_datagram(now, datagram);
        for _ in 0..20 {
            let _ = server.write(now, &[7; 20_000]);
        }
        // Three minutes of timers, as fast as they come.
        for _ in 0..500 {
            let mut out = vec![];
            while server.poll_transmit(now, Framing { max_datagrams: 10 }, &mut out).is_some() {}
            sent += out.len();
            assert!(sent <= 3 * received, "{sent} of {received}");
            let Some(next) = server.poll_timeout() else { break };
            assert!(next > now, "nothing is due that may not be sent");
            now = next;
            server.handle_timeout(now);
        }
    }
    (sent, received)
}

#[test]
fn a_victim_gets_no_more_than_three_times() {
    let push = |sn, data: &[u8]| segment(Command::Push, 0, 0xFFFF, 5, sn, 0, data);
    let wask = segment(Command::Wask, 0, 0xFFFF, 5, 0, 0, b"");
    for config in [quiet(), SessionConfig::normal(), SessionConfig::fast().mtu(50), quiet().mtu(9000)] {
        for stream in [true, false] {
            let (sent, received) = reflected(config.clone(), &[push(0, b"get")], stream);
            assert!(sent > received, "it is used: {sent} of {received}");
            reflected(config.clone(), &[wask.clone(), push(0, b""), push(1, &[1; 400])], stream);
            reflected(config.clone(), &vec![wask.clone(); 50], stream);
        }
    }
}

#[test]
fn a_plain_client_behind_a_bad_network_gets_its_answer() {
    for seed in 0..40u64 {
        let link = LinkConfig {
            delay: Duration::from_millis(25),
            loss: Loss::Uniform(0.3),
            ..LinkConfig::default()
        };
        let config = quiet().stream(seed % 2 == 0).extensions(false);
        let mut pair = Pair::symmetric(config.clone(), &link, seed);
        let config = Arc::new(config);
        pair.ends = [
            Session::established(77, config.clone(), Seed::from_u64(seed), START),
            Session::accept(77, config, Seed::from_u64(!seed), START),
        ];
        pair.ends[0].write(pair.now, b"?").unwrap();
        let answer = pattern(120_000, seed);
        let (mut offered, mut got) = (0, vec![]);
        let mut buf = [0; 70_000];
        pair.drive(Duration::from_secs(300), |pair| {
            if pair.ends[1].stats().payload_received > 0 && offered < answer.len() {
                let end = (offered + 60_000).min(answer.len());
                if let Ok(n) = pair.ends[1].write(pair.now, &answer[offered..end]) {
                    offered += n;
                }
            }
            while let Ok(n) = pair.ends[0].read(pair.now, &mut buf) {
                got.extend_from_slice(&buf[..n]);
            }
            got.len() == answer.len()
        });
        assert!(got == answer, "seed {seed}");
    }
}

#[test]
fn what_was_acknowledged_stays_so_while_answers_wait_for_the_proof() {
    // Found by simulation: a client took the silence about what it knew to be acknowledged for that of a restarted peer.
    let config = Arc::new(quiet().extensions(false));
    let mut server = Session::accept(77, config, Seed::from_u64(3), Timestamp::ZERO);
    let push = |sn| segment(Command::Push, 0, 128, 5, sn, 0, b"some");
    let told = |server: &mut Session, ms| {
        let all = output(server, Timestamp::from_millis(ms));
        all.into_iter().flatten().map(|(header, _)| header.una.value()).collect::<vec::Vec<_>>()
    };
    server.handle_datagram(Timestamp::ZERO, &push(0)).unwrap();
    assert_eq!(told(&mut server, 20), [1]);
    server.write(Timestamp::from_millis(20), &[7; 1000]).unwrap();
    assert_eq!(told(&mut server, 20), [1], "data, and nothing new");
    server.handle_datagram(Timestamp::from_millis(30), &push(1)).unwrap();
    let wask = segment(Command::Wask, 0, 128, 0, 1, 0, b"");
    server.handle_datagram(Timestamp::from_millis(30), &wask).unwrap();
    assert_eq!(
        told(&mut server, 30),
        [1],
        "the answer to the probe does not acknowledge what came meanwhile"
    );
}

#[test]
fn guessing_the_timestamp_ends_the_session() {
    let mut server = Session::accept(77, Arc::new(quiet()), Seed::from_u64(3), Timestamp::ZERO);
    let push = segment(Command::Push, 0, 128, 5, 0, 0, &[0; 600]);
    server.handle_datagram(Timestamp::ZERO, &push).unwrap();
    for i in 0..16u32 {
        assert!(!server.is_closed(), "after {i} guesses");
        server.write(Timestamp::ZERO, b"x").unwrap();
        let mut out = vec![];
        while server.poll_transmit(Timestamp::ZERO, Framing::default(), &mut out).is_some() {}
        let _ = server
            .handle_datagram(Timestamp::ZERO, &segment(Command::Ack, 0, 128, 0x7777_0000 + i, 0, 0, b""));
    }
    assert_eq!(server.close_reason(), Some(CloseReason::ProtocolError));
}
