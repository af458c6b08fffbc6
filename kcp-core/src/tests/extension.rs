//! What two of ours tell each other beyond KCP: end of stream, reset, moves, datagrams; and what plain peers see of it.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use kcp_netsim::LinkConfig;

use super::util::{Pair, START, output, pattern, quiet, segment};
use crate::admission::{Epitaph, Opening, answer_for, first_segment};
use crate::seq::Seq;
use crate::wire::control::{Control, MAGIC, controls};
use crate::wire::{Command, Header};
use crate::{
    CloseReason, DatagramError, Event, ReadError, Seed, Session, SessionConfig, Timestamp, WriteError,
};

const LIMIT: Duration = Duration::from_secs(120);

/// A dialled pair: the hello has crossed.
pub(super) fn dialled(config: &SessionConfig, link: &LinkConfig, seed: u64) -> Pair {
    let mut pair = Pair::symmetric(config.clone(), link, seed);
    let config = Arc::new(config.clone());
    pair.ends = [
        Session::connect(77, config.clone(), Seed::from_u64(seed), START),
        Session::accept(77, config, Seed::from_u64(!seed), START),
    ];
    pair.drive(LIMIT, |pair| pair.ends.iter().all(Session::is_extended));
    pair
}

fn lossy(percent: u8) -> LinkConfig {
    let loss = kcp_netsim::Loss::Uniform(f64::from(percent) / 100.0);
    LinkConfig { delay: Duration::from_millis(20), loss, ..LinkConfig::default() }
}

/// Reads until nothing is there; what ended it.
fn read_all(pair: &mut Pair, side: usize, into: &mut Vec<u8>) -> ReadError {
    let mut buf = [0; 4096];
    loop {
        match pair.ends[side].read(pair.now, &mut buf) {
            Ok(n) => into.extend_from_slice(&buf[..n]),
            Err(error) => return error,
        }
    }
}

fn write_all(pair: &mut Pair, side: usize, data: &[u8]) {
    let mut sent = 0;
    while sent < data.len() {
        match pair.ends[side].write(pair.now, &data[sent..]) {
            Ok(n) => sent += n,
            Err(WriteError::Blocked) => assert!(pair.step()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The control messages of everything that an end wants to send now.
fn said(end: &mut Session, now: Timestamp) -> Vec<(Header, Vec<u8>)> {
    output(end, now).into_iter().flatten().filter(|(header, _)| header.cmd != Command::Push).collect()
}

#[test]
fn request_shutdown_response_and_both_ends_finish() {
    for seed in 0..30 {
        let mut pair = dialled(&quiet(), &lossy(if seed < 15 { 0 } else { 20 }), seed);
        let request = pattern(20_000, seed);
        write_all(&mut pair, 0, &request);
        pair.ends[0].shutdown();
        let (mut got, mut end) = (vec![], ReadError::Empty);
        pair.drive(LIMIT, |pair| {
            end = read_all(pair, 1, &mut got);
            end != ReadError::Empty
        });
        assert_eq!((end, got == request), (ReadError::EndOfStream, true), "seed {seed}");
        // The other half still works.
        let response = pattern(30_000, seed + 1);
        write_all(&mut pair, 1, &response);
        pair.ends[1].shutdown();
        let (mut got, mut end) = (vec![], ReadError::Empty);
        pair.drive(LIMIT, |pair| {
            end = read_all(pair, 0, &mut got);
            end != ReadError::Empty
        });
        assert_eq!((end, got == response), (ReadError::EndOfStream, true), "seed {seed}");
        pair.drive(LIMIT, |pair| pair.ends.iter().any(|end| end.is_closed()));
        for side in 0..2 {
            assert_eq!(read_all(&mut pair, side, &mut vec![]), ReadError::EndOfStream, "it stays");
            // The last acknowledgement of the other end may be lost: it is answered from the grave, which is not here.
            assert!(pair.ends[side].is_drained() || !pair.ends[side].is_closed());
        }
    }
}

#[test]
fn the_answer_to_a_hello_is_repeated_until_it_is_known_to_have_come() {
    let mut server = Session::accept(77, Arc::new(quiet()), Seed::from_u64(1), Timestamp::ZERO);
    let mut client = Session::connect(77, Arc::new(quiet()), Seed::from_u64(2), Timestamp::ZERO);
    let mut probe = vec![];
    client.poll_transmit(Timestamp::ZERO, crate::Framing::default(), &mut probe).unwrap();
    server.handle_datagram(Timestamp::ZERO, &probe).unwrap();
    let mut now = Timestamp::ZERO;
    let mut times = vec![];
    while times.len() < 6 {
        let answers = said(&mut server, now);
        assert!(matches!(controls(&answers[0].1).unwrap().next(), Some(Control::HelloAck { .. })));
        times.push(now.as_millis());
        now = server.poll_timeout().unwrap();
    }
    assert_eq!(times, [0, 200, 500, 950, 1625, 2637]);
    let answers = said(&mut server, now);
    let (header, payload) = &answers[0];
    let answer = [header.encode().as_slice(), payload].concat();
    client.handle_datagram(now, &answer).unwrap();
    for (header, payload) in said(&mut client, now) {
        server.handle_datagram(now, &[header.encode().as_slice(), &payload].concat()).unwrap();
    }
    assert!(server.is_validated());
    assert_eq!(server.poll_timeout(), None, "and no longer");
}

#[test]
fn the_end_comes_after_every_byte_and_only_then() {
    let mut pair = dialled(&quiet(), &lossy(0), 1);
    // The data is lost, its end arrives.
    pair.ends[0].write(pair.now, b"last words").unwrap();
    pair.ends[0].shutdown();
    let now = pair.now;
    let all = output(&mut pair.ends[0], now);
    let fins: Vec<_> = all.iter().flatten().filter(|(header, _)| header.cmd == Command::Wins).collect();
    let [(header, payload)] = fins[..] else { panic!("one control segment, not {fins:?}") };
    let wire = [header.encode().as_slice(), payload].concat();
    pair.ends[1].handle_datagram(now, &wire).unwrap();
    assert_eq!(pair.ends[1].read(now, &mut [0; 64]), Err(ReadError::Empty), "a hole is no end");
    let (mut got, mut end) = (vec![], ReadError::Empty);
    pair.drive(LIMIT, |pair| {
        end = read_all(pair, 1, &mut got);
        end != ReadError::Empty
    });
    assert_eq!((end, got.as_slice()), (ReadError::EndOfStream, b"last words".as_slice()));
}

/// The last data of end 1 was overtaken by its end, and by that of end 0: what end 1 sends at last.
fn overtaken(pair: &mut Pair) -> Vec<u8> {
    pair.ends[0].shutdown();
    pair.run_for(Duration::from_secs(1));
    let now = pair.now;
    pair.ends[1].write(now, b"last words").unwrap();
    pair.ends[1].shutdown();
    let [data, fin] = &datagrams(&mut pair.ends[1], now)[..] else { panic!("data, then its end") };
    pair.ends[0].handle_datagram(now, fin).unwrap();
    for answer in datagrams(&mut pair.ends[0], now) {
        pair.ends[1].handle_datagram(now, &answer).unwrap();
    }
    data.clone()
}

#[test]
fn whoever_has_heard_everything_says_so_before_it_is_finished() {
    let mut pair = dialled(&quiet(), &lossy(0), 1);
    let data = overtaken(&mut pair);
    let now = pair.now;
    pair.ends[0].handle_datagram(now, &data).unwrap();
    let acks = datagrams(&mut pair.ends[0], now + Duration::from_millis(10));
    assert_eq!(pair.ends[0].close_reason(), Some(CloseReason::Finished));
    for ack in acks {
        let _ = pair.ends[1].handle_datagram(now, &ack);
    }
    assert_eq!(pair.ends[1].close_reason(), Some(CloseReason::Finished));
}

#[test]
fn where_all_was_said_and_heard_a_reset_from_the_grave_is_a_good_end() {
    let mut pair = dialled(&quiet().keepalive(Some(Duration::from_secs(1))), &lossy(0), 1);
    let data = overtaken(&mut pair);
    let now = pair.now;
    pair.ends[0].handle_datagram(now, &data).unwrap();
    // The last acknowledgement is lost, and the next thing to be sent is a sign of life.
    let _ = datagrams(&mut pair.ends[0], now + Duration::from_millis(10));
    let epitaph = pair.ends[0].epitaph();
    let mut answer = None;
    while answer.is_none() {
        pair.now = pair.ends[1].poll_timeout().unwrap();
        pair.ends[1].handle_timeout(pair.now);
        let pings =
            datagrams(&mut pair.ends[1], pair.now).into_iter().filter(|ping| ping[4] == Command::Wask as u8);
        answer = pings.filter_map(|ping| answer_for(&ping, Some(&epitaph))).next();
    }
    let _ = pair.ends[1].handle_datagram(pair.now, &answer.unwrap());
    assert_eq!(pair.ends[1].close_reason(), Some(CloseReason::Finished));
    assert!(!pair.ends[1].has_lost_data());
}

#[test]
fn another_end_or_data_beyond_it_is_a_broken_peer() {
    for beyond in [false, true] {
        let mut pair = dialled(&quiet(), &lossy(0), 2);
        let now = pair.now;
        let (token, una) = (pair.ends[1].epitaph().own, pair.ends[1].una());
        let fin = |sn: Seq| {
            let mut payload = vec![MAGIC];
            Control::Fin { sn, token }.encode(&mut payload);
            segment(Command::Wins, 0, 128, 0, 1, 0, &payload)
        };
        pair.ends[1].handle_datagram(now, &fin(una.plus(1))).unwrap();
        let bad = if beyond {
            segment(Command::Push, 0, 128, 0, una.plus(1).value(), 0, b"x")
        } else {
            fin(una.plus(2))
        };
        assert!(pair.ends[1].handle_datagram(now, &bad).is_err());
        assert_eq!(pair.ends[1].close_reason(), Some(CloseReason::ProtocolError));
    }
}

#[test]
fn abort_and_unread_data_reset_the_peer() {
    for unread in [false, true] {
        let mut pair = dialled(&quiet(), &lossy(0), 3);
        if unread {
            pair.ends[1].write(pair.now, b"nobody reads this").unwrap();
            pair.drive(LIMIT, |pair| pair.ends[0].is_readable());
            let now = pair.now;
            pair.ends[0].orphan(now);
        } else {
            pair.ends[0].abort();
        }
        pair.drive(LIMIT, |pair| pair.ends[1].is_closed());
        assert_eq!(pair.ends[1].close_reason(), Some(CloseReason::Reset));
        assert!(pair.now.saturating_since(START) < Duration::from_millis(200));
        assert_eq!(pair.ends[1].read(pair.now, &mut [0; 8]), Err(ReadError::Closed(CloseReason::Reset)));
    }
}

#[test]
fn a_forged_reset_ends_nothing_and_guessing_is_bounded() {
    for side in 0..2 {
        let mut pair = dialled(&quiet(), &lossy(0), 4);
        pair.drive(LIMIT, |pair| pair.ends[side].is_validated());
        pair.ends[side].write(pair.now, b"in flight").unwrap();
        let now = pair.now;
        let sent = output(&mut pair.ends[side], now);
        let (push, _) = sent[0][0];
        assert_eq!(push.cmd, Command::Push);
        let own = pair.ends[side].epitaph().own;
        let reset = |proof: u64| {
            let mut payload = vec![MAGIC];
            Control::Reset { proof }.encode(&mut payload);
            segment(Command::Wins, 0, 128, 0, 1, 0, &payload)
        };
        let bare = |sn: u32, ts: u32| segment(Command::Wins, 0, 128, ts, sn, 0, &[MAGIC]);
        // Wrong token, wrong ts, wrong sn, nothing of it.
        for forged in [reset(own ^ 1), bare(push.sn.value(), push.ts ^ 1), bare(push.sn.value() + 1, push.ts)]
        {
            pair.ends[side].handle_datagram(now, &forged).ok();
        }
        for _ in 3..8 {
            pair.ends[side].handle_datagram(now, &reset(own ^ 2)).unwrap();
        }
        // Eight wrong ones: now even a right one is not believed, for 10 s.
        let (almost, later) = (now.plus_micros(9_999_999), now.plus_micros(10_000_000));
        pair.ends[side].handle_datagram(almost, &bare(push.sn.value(), push.ts)).ok();
        assert!(!pair.ends[side].is_closed());
        assert!(pair.ends[side].handle_datagram(later, &bare(push.sn.value(), push.ts)).is_err());
        assert_eq!(pair.ends[side].close_reason(), Some(CloseReason::Reset));
    }
}

#[test]
fn a_server_that_lost_its_memory_says_so() {
    let mut pair = dialled(&quiet().keepalive(Some(Duration::from_secs(5))), &lossy(0), 5);
    let now = pair.now;
    // Its answer to data.
    pair.ends[0].write(now, b"x").unwrap();
    let sent = output(&mut pair.ends[0], now);
    let (header, data) = &sent[0][0];
    let datagram = [header.encode().as_slice(), data].concat();
    let answer = answer_for(&datagram, None).unwrap();
    assert!(answer.len() <= datagram.len(), "a one-byte segment is answered with no more");
    // A plain peer would learn nothing from it: nothing acknowledged, window open, payload skipped.
    let parsed: Vec<_> = crate::wire::Segments::parse(&answer, 77).unwrap().collect();
    assert!(parsed[0].0.una.is_before(Seq::new(0)) && parsed[0].0.wnd > 0);
    assert!(answer_for(&answer, None).is_none(), "an answer is not answered");
    assert!(pair.ends[0].handle_datagram(now, &answer).is_err());
    assert_eq!(pair.ends[0].close_reason(), Some(CloseReason::Reset));
    // And to a keepalive of an idle client.
    let mut pair = dialled(&quiet().keepalive(Some(Duration::from_secs(5))), &lossy(0), 6);
    let later = pair.now + Duration::from_secs(6);
    pair.ends[0].handle_timeout(later);
    let said = said(&mut pair.ends[0], later);
    let (header, payload) = &said[0];
    let ping = [header.encode().as_slice(), payload].concat();
    let answer = answer_for(&ping, None).unwrap();
    assert!(answer.len() <= ping.len());
    assert!(pair.ends[0].handle_datagram(later, &answer).is_err());
    assert_eq!(pair.ends[0].close_reason(), Some(CloseReason::Reset));
}

#[test]
fn whoever_has_only_listened_hears_of_a_restart() {
    let mut pair = dialled(&quiet().keepalive(Some(Duration::from_secs(5))), &lossy(0), 5);
    pair.run_for(Duration::from_secs(1));
    // A hundred megabytes have come, nothing was sent: of what it sends it tells nothing in its ping.
    pair.ends[0].set_initial_sn(0, 100_000);
    let mut answer = None;
    while answer.is_none() {
        pair.now = pair.ends[0].poll_timeout().unwrap();
        pair.ends[0].handle_timeout(pair.now);
        let sent = datagrams(&mut pair.ends[0], pair.now);
        answer = sent.iter().find_map(|ping| answer_for(ping, None));
    }
    let _ = pair.ends[0].handle_datagram(pair.now, &answer.unwrap());
    assert_eq!(pair.ends[0].close_reason(), Some(CloseReason::Reset));
}

#[test]
fn a_lazy_client_that_has_nothing_to_say_yet_is_let_in() {
    // Found by simulation: its hello was none that opens a session, and it believed the reset that answered it.
    let mut client = Session::connect_lazy(77, Arc::new(quiet()), Seed::from_u64(1), Timestamp::ZERO);
    assert!(datagrams(&mut client, Timestamp::ZERO).is_empty());
    let now = client.poll_timeout().unwrap();
    let [hello] = &datagrams(&mut client, now)[..] else { panic!("a hello") };
    assert_eq!(first_segment(hello, 128), Some((77, Opening::Probe)));
    let mut server = Session::accept(77, Arc::new(quiet()), Seed::from_u64(2), now);
    server.handle_datagram(now, hello).unwrap();
    for answer in datagrams(&mut server, now) {
        client.handle_datagram(now, &answer).unwrap();
    }
    assert!(client.is_extended() && server.is_extended());
}

#[test]
fn a_hello_to_nobody_is_refused() {
    let mut client = Session::connect(77, Arc::new(quiet()), Seed::from_u64(1), Timestamp::ZERO);
    let mut probe = vec![];
    client.poll_transmit(Timestamp::ZERO, crate::Framing::default(), &mut probe).unwrap();
    let answer = answer_for(&probe, None).unwrap();
    assert!(client.handle_datagram(Timestamp::ZERO, &answer).is_err());
    assert_eq!(client.close_reason(), Some(CloseReason::Refused));
    // A plain probe gets no answer.
    assert_eq!(answer_for(&segment(Command::Wask, 0, 128, 0, 0, 0, b""), None), None);
}

#[test]
fn a_tombstone_acknowledges_data_and_the_end_again() {
    let grave = Epitaph { una: Seq::new(5), own: 11, peer: Some(22) };
    let late = answer_for(&segment(Command::Push, 0, 128, 9, 4, 0, b"late"), Some(&grave)).unwrap();
    assert_eq!(late, segment(Command::Wins, 0, 0, 0, 1, 5, b""));
    let fin = |token| {
        let mut payload = vec![MAGIC];
        Control::Fin { sn: Seq::new(5), token }.encode(&mut payload);
        segment(Command::Wins, 0, 128, 0, 1, 0, &payload)
    };
    let mut ack = vec![MAGIC];
    Control::FinAck { sn: Seq::new(5), token: 22 }.encode(&mut ack);
    assert_eq!(answer_for(&fin(11), Some(&grave)).unwrap(), segment(Command::Wins, 0, 0, 0, 1, 5, &ack));
    assert_eq!(answer_for(&fin(12), Some(&grave)), None, "not from who has seen the handshake");
    let new = answer_for(&segment(Command::Push, 0, 128, 9, 5, 0, b"new"), Some(&grave)).unwrap();
    assert_eq!(new, segment(Command::Wins, 0, 128, 9, 5, 5u32.wrapping_sub(65_535), &[MAGIC]));
    for quiet in [Command::Ack, Command::Wins, Command::Wask] {
        assert_eq!(answer_for(&segment(quiet, 0, 128, 9, 5, 0, b""), Some(&grave)), None);
    }
}

#[test]
fn the_tombstone_of_another_life_acknowledges_nothing_of_ours() {
    // Found by simulation: of a session that the network's copy of our beginning had opened in a restarted server.
    for in_flight in [true, false] {
        let mut pair = dialled(&quiet(), &lossy(0), 21);
        let now = pair.now;
        pair.ends[0].write(now, b"first").unwrap();
        let beginning = datagrams(&mut pair.ends[0], now).remove(0);
        let mut server = Session::accept(77, Arc::new(quiet()), Seed::from_u64(99), now);
        server.handle_datagram(now, &beginning).unwrap();
        server.abort();
        let answer = answer_for(&beginning, Some(&server.epitaph())).unwrap();
        assert_eq!(
            (answer[4], answer[16], answer.len()),
            (84, 1, 25),
            "a plain peer has an acknowledgement of it"
        );
        if !in_flight {
            pair.ends[1].handle_datagram(now, &beginning).unwrap();
            pair.drive(LIMIT, |pair| pair.ends[0].is_drained());
            let now = pair.now;
            pair.ends[0].write(now, b"second").unwrap();
            datagrams(&mut pair.ends[0], now);
        }
        let mut ping = vec![MAGIC];
        Control::Ping { nonce: 5 }.encode(&mut ping);
        let answer_to_ping =
            answer_for(&segment(Command::Wask, 0, 128, 0, 1, 0, &ping), Some(&server.epitaph())).unwrap();
        assert_eq!(answer_to_ping[16..20], 0xFFFF_0001u32.to_le_bytes(), "it acknowledges nothing");
        let held = pair.ends[0].held();
        assert!(pair.ends[0].handle_datagram(pair.now, &answer).is_err());
        assert_eq!(pair.ends[0].close_reason(), in_flight.then_some(CloseReason::Reset));
        assert!(pair.ends[0].has_lost_data() == in_flight && (in_flight || pair.ends[0].held() == held));
    }
    // As one that had answered a hello, and was never shown that the answer came.
    let hello = |seed| {
        let mut client = Session::connect(77, Arc::new(quiet()), Seed::from_u64(seed), Timestamp::ZERO);
        datagrams(&mut client, Timestamp::ZERO).remove(0)
    };
    let mut server = Session::accept(77, Arc::new(quiet()), Seed::from_u64(99), Timestamp::ZERO);
    let data = segment(Command::Push, 0, 128, 9, 0, 0, b"data");
    for datagram in [hello(1), data.clone()] {
        server.handle_datagram(Timestamp::ZERO, &datagram).unwrap();
    }
    assert!(server.is_extended() && !server.is_validated());
    let answer = answer_for(&data, Some(&server.epitaph())).unwrap();
    assert_eq!(answer, segment(Command::Wins, 0, 0, 9, 0, 1, &[MAGIC]));
}

#[test]
fn plain_peers_hear_a_hello_and_nothing_else() {
    let plain = quiet().extensions(false);
    let mut pair = Pair::symmetric(quiet(), &lossy(0), 7);
    pair.ends = [
        Session::connect(77, Arc::new(quiet()), Seed::from_u64(1), START),
        Session::accept(77, Arc::new(plain), Seed::from_u64(2), START),
    ];
    pair.drive(LIMIT, |pair| !pair.ends[0].is_connecting());
    write_all(&mut pair, 0, &pattern(5000, 1));
    pair.ends[0].shutdown();
    pair.drive(LIMIT, |pair| {
        read_all(pair, 1, &mut vec![]);
        pair.events[0].contains(&Event::Drained)
    });
    assert!(!pair.ends[0].is_extended() && !pair.ends[1].is_extended());
    let spoken: Vec<Vec<u8>> = pair.sent[0]
        .iter()
        .chain(&pair.sent[1])
        .flat_map(|(_, datagram)| crate::wire::Segments::parse(datagram, 77).unwrap())
        .filter(|(header, payload)| header.cmd != Command::Push && !payload.is_empty())
        .map(|(_, payload)| payload.to_vec())
        .collect();
    assert!(!spoken.is_empty() && spoken.len() <= 5);
    for payload in spoken {
        assert!(controls(&payload).unwrap().all(|control| matches!(control, Control::Hello { .. })));
    }
    assert_eq!(
        pair.ends[0].send_datagram(Bytes::from_static(b"x")),
        Err(DatagramError::Closed),
        "after shutdown"
    );
}

#[test]
fn datagrams_are_bounded_and_keep_the_newest() {
    let mut pair = dialled(&quiet(), &lossy(0), 8);
    let limit = pair.ends[0].max_datagram();
    let whole = Bytes::from(pattern(limit, 1));
    pair.ends[0].send_datagram(whole.clone()).unwrap();
    assert_eq!(
        pair.ends[0].send_datagram(Bytes::from(vec![0; limit + 1])),
        Err(DatagramError::TooLarge { limit })
    );
    pair.ends[0].send_datagram(Bytes::new()).unwrap();
    pair.drive(LIMIT, |pair| pair.events[1].contains(&Event::Datagram));
    assert_eq!(pair.ends[1].recv_datagram(), Some(whole));
    assert_eq!(pair.ends[1].recv_datagram(), Some(Bytes::new()));
    assert_eq!(pair.ends[1].recv_datagram(), None);
    for i in 0..2000u32 {
        pair.ends[0].send_datagram(Bytes::copy_from_slice(&i.to_le_bytes())).unwrap();
    }
    assert_eq!(pair.ends[0].stats().datagrams_dropped, 2000 - 1024);
    pair.run_for(Duration::from_secs(1));
    let got: Vec<u32> = core::iter::from_fn(|| pair.ends[1].recv_datagram())
        .map(|data| u32::from_le_bytes(data[..].try_into().unwrap()))
        .collect();
    assert_eq!(got, (2000 - 1024..2000).collect::<Vec<_>>());
    assert!(pair.sent[0].iter().all(|(_, datagram)| datagram.len() <= 1400));
}

#[test]
fn a_path_is_proven_by_token_and_nonce_together() {
    let mut pair = dialled(&quiet(), &lossy(0), 9);
    let now = pair.now;
    let challenge = pair.ends[1].challenge_path(now, 5).unwrap();
    assert!(pair.ends[1].challenge_path(now.plus_micros(99_999), 5).is_none(), "not too many to a victim");
    // The client answers what it is asked by its server.
    pair.ends[0].handle_datagram(now, &challenge).unwrap();
    let answers = said(&mut pair.ends[0], now);
    let (header, payload) = &answers[0];
    let answer = [header.encode().as_slice(), payload].concat();
    let own = pair.ends[1].epitaph().own;
    let Some(Control::PathResponse { nonce, .. }) = controls(payload).unwrap().next() else { panic!() };
    let forged = |nonce, token| {
        let mut payload = vec![MAGIC];
        Control::PathResponse { nonce, token }.encode(&mut payload);
        segment(Command::Wins, 0, 128, 0, 1, 0, &payload)
    };
    assert!(!pair.ends[1].proves_path(&forged(nonce, own ^ 1), 5));
    assert!(!pair.ends[1].proves_path(&forged(nonce ^ 1, own), 5));
    // Asked again on a path with a longer round trip than that, it is the same question: either answer will do.
    assert_eq!(
        pair.ends[1].challenge_path(now.plus_micros(100_000), 5).map(|ask| ask.len()),
        Some(challenge.len())
    );
    assert!(!pair.ends[1].proves_path(&answer, 6), "of another address");
    assert!(pair.ends[1].proves_path(&answer, 5));
    assert!(!pair.ends[1].proves_path(&answer, 5), "once");
}

#[test]
fn the_proof_of_a_path_is_not_behind_a_flight() {
    let mut pair = dialled(&quiet(), &lossy(0), 9);
    let now = pair.now;
    let challenge = pair.ends[1].challenge_path(now, 5).unwrap();
    pair.ends[0].write(now, &[7; 100_000]).unwrap();
    pair.ends[0].handle_datagram(now, &challenge).unwrap();
    let segments: Vec<_> = output(&mut pair.ends[0], now).into_iter().flatten().collect();
    assert!(segments.len() > 50);
    let answer = controls(&segments[0].1).and_then(|mut all| all.next());
    assert!(matches!(answer, Some(Control::PathResponse { .. })), "{answer:?}");
}

#[test]
fn however_late_an_answer_comes_both_ends_know_what_they_speak() {
    let config = Arc::new(quiet().connect_timeout(Duration::from_secs(60)));
    let mut client = Session::connect(77, config.clone(), Seed::from_u64(1), START);
    let mut server = Session::accept(77, config, Seed::from_u64(2), START);
    let mut now = START;
    let mut probes = vec![];
    while probes.len() < 20 {
        probes.extend(output(&mut client, now));
        now = client.poll_timeout().unwrap();
        client.handle_timeout(now);
    }
    let hello =
        |segments: &Vec<(Header, Vec<u8>)>| segments[0].0.cmd == Command::Wask && segments[0].1.len() > 1;
    assert!(probes.iter().all(hello), "every probe has the hello, and so the one that arrives");
    let (header, payload) = &probes[19][0];
    server.handle_datagram(now, &[header.encode().as_slice(), payload].concat()).unwrap();
    assert!(server.is_extended());
    // The answer is lost; what comes first is another thing that only one of ours says.
    output(&mut server, now);
    let ask = server.challenge_path(now, 1).unwrap();
    client.handle_datagram(now, &ask).unwrap();
    assert!(client.is_connecting() && !client.is_extended(), "that may be of somebody who was here before");
    for datagram in datagrams(&mut server, now + Duration::from_millis(200)) {
        client.handle_datagram(now, &datagram).unwrap();
    }
    assert!(!client.is_connecting() && client.is_extended());
}

#[test]
fn whoever_hears_of_extensions_before_the_answer_to_its_hello_repeats_it() {
    let config = Arc::new(quiet());
    let mut client = Session::connect_lazy(77, config.clone(), Seed::from_u64(1), START);
    let mut server = Session::accept(77, config, Seed::from_u64(2), START);
    let hello =
        |segments: &Vec<(Header, Vec<u8>)>| segments[0].0.cmd == Command::Wask && segments[0].1.len() > 1;
    client.write(START, b"x").unwrap();
    server.write(START, b"y").unwrap();
    // All hellos are lost, and what the network has kept of one comes when an echo has proven the address.
    let mut now = START;
    let mut last = None;
    while now < START + Duration::from_secs(5) {
        for segments in output(&mut client, now) {
            let datagram: Vec<u8> = segments
                .iter()
                .flat_map(|(header, payload)| [&header.encode()[..], payload].concat())
                .collect();
            if hello(&segments) {
                last = Some(datagram);
            } else {
                let _ = server.handle_datagram(now, &datagram);
            }
        }
        for datagram in datagrams(&mut server, now) {
            let _ = client.handle_datagram(now, &datagram);
        }
        now += Duration::from_millis(10);
        client.handle_timeout(now);
    }
    assert!(server.is_validated() && !server.is_extended());
    server.handle_datagram(now, &last.unwrap()).unwrap();
    assert!(server.is_extended());
    // The answer is lost; what comes first is another thing that only one of ours says.
    output(&mut server, now);
    let ask = server.challenge_path(now, 1).unwrap();
    client.handle_datagram(now, &ask).unwrap();
    assert!(!client.is_extended());
    let again = output(&mut client, now + Duration::from_millis(200));
    assert!(again.iter().any(hello), "{again:?}");
}

#[test]
fn a_new_path_is_searched_until_there_is_an_answer() {
    let mut pair = dialled(&quiet(), &lossy(0), 9);
    let pings = |pair: &mut Pair| {
        let sent = core::mem::take(&mut pair.sent[0]);
        let control = |(_, datagram): &(Timestamp, Vec<u8>)| {
            let segments = crate::wire::Segments::parse(datagram, 77).unwrap();
            let all = segments.filter_map(|(_, payload)| controls(payload)).flatten();
            all.filter(|control| matches!(control, Control::Ping { .. })).count()
        };
        sent.iter().map(control).sum::<usize>()
    };
    pair.ends[0].probe_path();
    pair.run_for(Duration::from_secs(30));
    assert_eq!(pings(&mut pair), 1, "one that is answered is enough");
    pair.links[1].set_partitioned(true);
    pair.ends[0].probe_path();
    pair.run_for(Duration::from_secs(2));
    assert!((4..=10).contains(&pings(&mut pair)));
    pair.links[1].set_partitioned(false);
    pair.run_for(Duration::from_secs(3));
    pings(&mut pair);
    pair.run_for(Duration::from_secs(60));
    assert_eq!(pings(&mut pair), 0);
    pair.links[1].set_partitioned(true);
    pair.ends[0].probe_path();
    pair.run_for(Duration::from_secs(600));
    assert_eq!(pings(&mut pair), 10, "not for ever");
}

#[test]
fn on_another_path_nothing_waits_for_the_backoff_of_the_old_one() {
    let mut pair = dialled(&quiet(), &lossy(0), 9);
    pair.links[0].set_partitioned(true);
    pair.ends[0].write(pair.now, b"lost, and again").unwrap();
    pair.run_for(Duration::from_secs(9));
    let rto = pair.ends[0].rto();
    while pair.ends[0].poll_timeout().unwrap() <= pair.now + rto * 2 {
        // It has backed off, but the first in flight asks now and then.
        pair.run_for(Duration::from_millis(10));
    }
    pair.links[0].set_partitioned(false);
    pair.ends[0].probe_path();
    pair.ends[1].handle_timeout(pair.now);
    pair.drive(rto + Duration::from_millis(50), |pair| pair.ends[1].is_readable());
}

#[test]
fn silence_of_a_plain_peer_is_an_end_only_where_configured() {
    for (eof, expected) in
        [(true, ReadError::EndOfStream), (false, ReadError::Closed(CloseReason::IdleTimeout))]
    {
        let config = SessionConfig::turbo().idle_is_eof(eof).extensions(false);
        let mut end = Session::established(77, Arc::new(config), Seed::from_u64(1), Timestamp::ZERO);
        end.handle_timeout(Timestamp::from_millis(30_000));
        assert_eq!(end.read(Timestamp::from_millis(30_000), &mut [0; 4]), Err(expected));
    }
}

#[test]
fn data_that_opens_a_session_is_denied_to_who_has_had_one() {
    let config = Arc::new(quiet());
    let now = START;
    let fresh = || Session::accept(77, config.clone(), Seed::from_u64(9), now);
    // An extended client whose server forgets it.
    let mut pair = dialled(&quiet(), &lossy(0), 21);
    let now = pair.now.max(now);
    pair.ends[0].write(now, b"x").unwrap();
    let data: Vec<u8> = output(&mut pair.ends[0], now)
        .iter()
        .flatten()
        .flat_map(|(header, payload)| [header.encode().as_slice(), payload].concat())
        .collect();
    let mut server = fresh();
    server.handle_datagram(now, &data).unwrap();
    let mut buf = vec![];
    let run = server.poll_transmit(now, crate::Framing { max_datagrams: 1 }, &mut buf).unwrap();
    assert!(run.len == 25 && run.len <= data.len(), "first, alone, and no longer than what came");
    // A client that has never had a session there does not believe it: its data has begun this one.
    let mut lazy = Session::connect_lazy(77, config.clone(), Seed::from_u64(4), now);
    lazy.write(now, b"x").unwrap();
    let sent = output(&mut lazy, now);
    let (header, payload) = sent.iter().flatten().find(|(header, _)| header.cmd == Command::Push).unwrap();
    let first = [header.encode().as_slice(), payload].concat();
    let mut other = fresh();
    other.handle_datagram(now, &first).unwrap();
    let mut denial = vec![];
    other.poll_transmit(now, crate::Framing { max_datagrams: 1 }, &mut denial).unwrap();
    lazy.handle_datagram(now, &denial).unwrap();
    assert!(!lazy.is_closed());
    // Nor later, when the hello has been answered and the denial comes by a detour.
    lazy.handle_datagram(now, &denial).unwrap();
    assert!(!lazy.is_closed());
    // The one that has does.
    assert!(pair.ends[0].handle_datagram(now, &buf).is_err());
    assert_eq!(pair.ends[0].close_reason(), Some(CloseReason::Reset));
    // Whoever begins with a hello is not denied.
    let mut greeted = fresh();
    let mut probe = Session::connect(77, config.clone(), Seed::from_u64(5), now);
    let mut hello = vec![];
    probe.poll_transmit(now, crate::Framing { max_datagrams: 1 }, &mut hello).unwrap();
    greeted.handle_datagram(now, &hello).unwrap();
    let mut answer = vec![];
    greeted.poll_transmit(now, crate::Framing { max_datagrams: 1 }, &mut answer).unwrap();
    assert_ne!(answer.len(), 25);
}

#[test]
fn a_session_that_is_aborted_after_its_shutdown_claims_no_end_of_stream() {
    // Found by simulation: what was forgotten looked like all sent, and the peer read a clean end too early.
    let mut pair = dialled(&quiet().send_window(4), &lossy(0), 3);
    write_all(&mut pair, 0, &pattern(100_000, 3));
    pair.ends[0].shutdown();
    pair.drain(0);
    pair.ends[0].abort();
    let (mut got, mut end) = (vec![], ReadError::Empty);
    pair.drive(LIMIT, |pair| {
        end = read_all(pair, 1, &mut got);
        end != ReadError::Empty
    });
    assert_eq!(end, ReadError::Closed(CloseReason::Reset));
    assert!(got.len() < 100_000);
}

#[test]
fn an_ended_session_has_made_no_progress_whatever_is_done_to_it() {
    // Found by simulation: forgotten data counted as delivered as soon as somebody touched the limits.
    let mut end = super::util::lone(quiet());
    end.write(Timestamp::ZERO, &[1; 5000]).unwrap();
    end.shutdown();
    output(&mut end, Timestamp::ZERO);
    end.abort();
    end.limit_buffers(crate::Held { received: 1 << 20, sent: 1 << 20 });
    let events: Vec<Event> = core::iter::from_fn(|| end.poll_event()).collect();
    assert!(!events.contains(&Event::Drained), "{events:?}");
    end.limit_buffers(crate::Held { received: 1, sent: 1 });
    assert_eq!(end.poll_event(), None, "nothing after Closed");
}

#[test]
fn control_messages_keep_the_mtu() {
    // Found by simulation: all that was owed went into one datagram, 55 bytes at an mtu of 50.
    let config = Arc::new(quiet().mtu(50));
    let mut server = Session::accept(77, config.clone(), Seed::from_u64(1), Timestamp::ZERO);
    let mut client = Session::connect(77, config, Seed::from_u64(2), Timestamp::ZERO);
    let now = Timestamp::ZERO;
    client.shutdown();
    server.shutdown();
    let mut kinds = 0;
    for round in 0..6 {
        let (from, to) = if round % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        from.probe_path();
        let mut buf = vec![];
        while from.poll_transmit(now, crate::Framing::default(), &mut buf).is_some() {
            assert!(buf.len() <= 50, "{} bytes", buf.len());
            let _ = to.handle_datagram(now, &buf);
            kinds += 1;
            buf.clear();
        }
    }
    assert!(kinds > 6, "what did not fit came with the next: {kinds}");
    assert_eq!([client.close_reason(), server.close_reason()], [Some(CloseReason::Finished); 2]);
}

#[test]
fn the_answer_to_a_hello_is_repeated_although_data_has_proven_the_address() {
    // Found by simulation: every answer was lost, an echo of data came, and no further answer went. One end spoke the
    // extensions and waited for an acknowledgement of its end of stream, the other did not.
    let config = Arc::new(quiet());
    let mut server = Session::accept(77, config.clone(), Seed::from_u64(1), START);
    let mut client = Session::connect_lazy(77, config, Seed::from_u64(2), START);
    let mut now = START;
    client.write(now, b"x").unwrap();
    server.write(now, b"y").unwrap();
    let exchange = |from: &mut Session, to: &mut Session, now, answers: &mut bool| {
        let mut buf = vec![];
        while from.poll_transmit(now, crate::Framing::default(), &mut buf).is_some() {
            let mut answer = false;
            for (_, payload) in crate::wire::Segments::parse(&buf, 77).unwrap() {
                let mut all = controls(payload).into_iter().flatten();
                answer |= all.any(|control| matches!(control, Control::HelloAck { .. }));
            }
            if !answer || *answers {
                let _ = to.handle_datagram(now, &buf);
            }
            buf.clear();
        }
    };
    for round in 0..40 {
        let mut answers = round >= 20;
        exchange(&mut client, &mut server, now, &mut answers);
        exchange(&mut server, &mut client, now, &mut answers);
        // The echo of data comes before the hello.
        now += Duration::from_millis(if round < 2 { 20 } else { 200 });
        for end in [&mut client, &mut server] {
            end.handle_timeout(now);
        }
        if round == 19 {
            assert!(server.is_extended() && server.is_validated() && !client.is_extended());
        }
    }
    assert!(client.is_extended());
    let quiet_now = server.poll_timeout();
    assert_eq!(quiet_now, None, "and nothing is repeated any more");
}

#[test]
fn two_answers_to_one_hello_are_of_two_peers_and_the_first_is_gone() {
    // Found by simulation: a repeated hello reached the restarted peer, whose signs of life kept a session that could go
    // nowhere.
    let config = Arc::new(quiet());
    let mut client = Session::connect(77, config.clone(), Seed::from_u64(2), START);
    let mut probe = vec![];
    client.poll_transmit(START, crate::Framing::default(), &mut probe).unwrap();
    let answer = |seed| {
        let mut server = Session::accept(77, config.clone(), Seed::from_u64(seed), START);
        server.handle_datagram(START, &probe).unwrap();
        let mut answer = vec![];
        server.poll_transmit(START, crate::Framing::default(), &mut answer).unwrap();
        answer
    };
    client.handle_datagram(START, &answer(1)).unwrap();
    client.handle_datagram(START, &answer(1)).unwrap();
    assert!(client.is_extended() && !client.is_closed(), "the same again is nothing new");
    assert!(client.handle_datagram(START, &answer(9)).is_err());
    assert_eq!(client.close_reason(), Some(CloseReason::Reset));
}

#[test]
fn what_may_not_be_said_yet_does_not_keep_the_processor_busy() {
    // Found by simulation: with a small mtu more was owed than fits a datagram, and none was allowed.
    let mut server = Session::accept(77, Arc::new(quiet().mtu(50)), Seed::from_u64(1), START);
    let mut hello = vec![MAGIC];
    Control::Hello { token: 5 }.encode(&mut hello);
    Control::Ping { nonce: 6 }.encode(&mut hello);
    server.handle_datagram(START, &segment(Command::Wask, 0, 128, 0, 0, 0, &hello)).unwrap();
    let mut now = START;
    for _ in 0..20 {
        server.probe_path();
        let mut buf = vec![];
        while server.poll_transmit(now, crate::Framing::default(), &mut buf).is_some() {}
        let Some(next) = server.poll_timeout() else { break };
        assert!(next > now, "due, and not sent");
        now = next;
    }
}

/// Every datagram that an end wants to send now, as it stands on the wire.
fn datagrams(end: &mut Session, now: Timestamp) -> Vec<Vec<u8>> {
    let (mut all, mut buf) = (vec![], vec![]);
    while end.poll_transmit(now, crate::Framing { max_datagrams: 1 }, &mut buf).is_some() {
        all.push(core::mem::take(&mut buf));
    }
    all
}

#[test]
fn nothing_of_another_life_counts_although_the_denial_of_ours_was_lost() {
    // Found by simulation: a server that was started anew answered what the network had kept of our beginning. Its first denial
    // was lost, and we read the end of another stream behind the beginning of ours.
    for in_flight in [true, false] {
        let config = Arc::new(quiet());
        let mut pair = dialled(&quiet(), &lossy(0), 21);
        pair.ends[0].write(pair.now, b"first").unwrap();
        let now = pair.now;
        let beginning = datagrams(&mut pair.ends[0], now).remove(0);
        if !in_flight {
            pair.ends[1].handle_datagram(now, &beginning).unwrap();
            pair.drive(LIMIT, |pair| pair.ends[0].is_drained());
        }
        let now = pair.now;
        let mut server = Session::accept(77, config, Seed::from_u64(99), now);
        server.handle_datagram(now, &beginning).unwrap();
        assert_eq!(server.una().value(), 1);
        server.write(now, b"another").unwrap();
        server.shutdown();
        let sent = datagrams(&mut server, now + Duration::from_millis(50));
        assert!(sent.len() >= 2, "a denial, and data or an acknowledgement");
        for datagram in &sent[1..] {
            assert_eq!((datagram[4], datagram[20], datagram[24]), (84, 1, MAGIC), "each begins with it");
            let _ = pair.ends[0].handle_datagram(now, datagram);
            assert_eq!(pair.ends[0].read(now, &mut [0; 9]).ok(), None);
            assert_eq!(pair.ends[0].una().value(), 0);
        }
        let reason = pair.ends[0].close_reason();
        assert_eq!(reason, in_flight.then_some(CloseReason::Reset), "what is in flight is the proof");
        if in_flight {
            assert!(pair.ends[0].has_lost_data(), "the other life has acknowledged it, ours has not");
        } else {
            assert_eq!(pair.ends[0].handle_datagram(now, &sent[1]), Err(crate::InputError::OtherLife));
            // Data of ours that acknowledges what the new one has never sent is answered: then there is the proof.
            pair.ends[1].write(now, b"y").unwrap();
            pair.drive(LIMIT, |pair| pair.ends[0].una().value() == 1);
            let now = pair.now;
            pair.ends[0].write(now, b"second").unwrap();
            let mut fresh = Session::accept(77, Arc::new(quiet()), Seed::from_u64(98), now);
            fresh.handle_datagram(now, &beginning).unwrap();
            datagrams(&mut fresh, now);
            let data = datagrams(&mut pair.ends[0], now);
            assert!(data.iter().any(|data| fresh.handle_datagram(now, data).is_err()));
            for answer in datagrams(&mut fresh, now) {
                let _ = pair.ends[0].handle_datagram(now, &answer);
            }
            assert_eq!(pair.ends[0].close_reason(), Some(CloseReason::Reset));
        }
    }
}

/// A client that is silent when idle, two lives of its server that have both heard its hello, of which the first has answered it, and
/// its first data, which has come to the second.
fn two_lives(config: SessionConfig) -> (Session, [Session; 2], Vec<Vec<u8>>) {
    let client = Arc::new(config.clone().keepalive(None));
    let config = Arc::new(config);
    let mut client = Session::connect(77, client, Seed::from_u64(2), START);
    let hello = datagrams(&mut client, START).remove(0);
    let [mut first, mut second] =
        [1, 9].map(|seed| Session::accept(77, config.clone(), Seed::from_u64(seed), START));
    first.handle_datagram(START, &hello).unwrap();
    for answer in datagrams(&mut first, START) {
        client.handle_datagram(START, &answer).unwrap();
    }
    client.write(START, b"data").unwrap();
    let data = datagrams(&mut client, START);
    second.handle_datagram(START, &hello).unwrap();
    datagrams(&mut second, START);
    for datagram in &data {
        let _ = second.handle_datagram(START, datagram);
    }
    (client, [first, second], data)
}

#[test]
fn whoever_greets_is_answered_in_every_datagram_until_it_shows_the_token() {
    // The same where the network has kept the hello as well: then only the token tells one life from another.
    for mtu in [50, 1400] {
        let (mut client, [mut first, mut second], data) = two_lives(quiet().mtu(mtu));
        second.write(START, b"another").unwrap();
        second.shutdown();
        let now = START + Duration::from_millis(50);
        let sent = datagrams(&mut second, now);
        assert!(!sent.is_empty());
        for datagram in sent {
            let mut controls = controls(&datagram[24..44]).unwrap();
            assert!(matches!(controls.next(), Some(Control::HelloAck { .. })), "{datagram:?}");
            assert!(client.handle_datagram(now, &datagram).is_err());
        }
        assert_eq!((client.close_reason(), client.una().value()), (Some(CloseReason::Reset), 0));
        assert!(client.has_lost_data());
        // To the right one the token is shown with the data: then nothing is in the way.
        for datagram in &data {
            first.handle_datagram(START, datagram).unwrap();
        }
        assert!(first.is_validated());
        first.write(now, b"answer").unwrap();
        assert_eq!(datagrams(&mut first, now)[0][4], 81);
    }
}

#[test]
fn nothing_that_another_life_says_acknowledges_what_ours_was_sent() {
    // Found by simulation: the answer to the hello stood in a ping, which is no `WINS`; and a reset had no room beside it.
    for mtu in [50, 1400] {
        for said in ["ping", "reset", "challenge"] {
            let config = quiet().mtu(mtu).keepalive(Some(Duration::from_secs(1)));
            let (mut client, [_, mut second], _) = two_lives(config);
            assert_eq!(second.una().value(), 1);
            let now = START + Duration::from_millis(1300);
            // What comes first is lost.
            datagrams(&mut second, START + Duration::from_millis(900));
            let sent = match said {
                "challenge" => second.challenge_path(now, 1).into_iter().collect(),
                _ => {
                    if said == "reset" {
                        second.abort();
                    }
                    second.handle_timeout(now);
                    datagrams(&mut second, now)
                }
            };
            assert!(!sent.is_empty(), "{said}");
            for datagram in sent {
                assert!(datagram.len() <= mtu);
                let _ = client.handle_datagram(now, &datagram);
                assert!(client.stats().in_flight == 1 || client.has_lost_data(), "{said} at {mtu}");
            }
            let reset = (said != "challenge").then_some(CloseReason::Reset);
            assert_eq!(client.close_reason(), reset, "{said} at {mtu}");
        }
    }
}

/// What the segments of each datagram are that an end wants to send now.
fn layout(end: &mut Session, now: Timestamp) -> Vec<Vec<(Command, bool)>> {
    let all = output(end, now);
    all.iter()
        .map(|segments| segments.iter().map(|(header, data)| (header.cmd, !data.is_empty())).collect())
        .collect()
}

#[test]
fn control_and_data_that_are_due_together_leave_together() {
    let mut pair = dialled(&quiet(), &lossy(0), 6);
    pair.drive(LIMIT, |pair| pair.ends[1].is_validated());
    let now = pair.now;
    pair.ends[0].write(now, b"the last words").unwrap();
    pair.ends[0].shutdown();
    let before = pair.ends[0].stats();
    let mut run = vec![];
    assert_eq!(layout(&mut pair.ends[0], now), [vec![(Command::Push, true)], vec![(Command::Wins, true)]]);
    // Nothing was unsent any more when the end was told; an answer to it takes data along.
    let after = pair.ends[0].stats();
    assert_eq!(after.datagrams_sent - before.datagrams_sent, 2);
    pair.drive(LIMIT, |pair| pair.ends[1].is_readable());
    let now = pair.now;
    pair.ends[1].write(now, &[7; 5000]).unwrap();
    let before = pair.ends[1].stats();
    while let Some(transmit) = pair.ends[1].poll_transmit(now, crate::Framing::default(), &mut run) {
        assert!(transmit.len <= 1400, "{transmit:?}");
    }
    let after = pair.ends[1].stats();
    assert_eq!(after.bytes_sent - before.bytes_sent, run.len() as u64, "every byte is counted once");
}

#[test]
fn held_answers_ride_with_what_is_written_or_wait_to_be_released() {
    for answered in [false, true] {
        let mut pair = Pair::symmetric(quiet(), &lossy(0), 7);
        let config = Arc::new(quiet());
        pair.ends = [
            Session::connect(77, config.clone(), Seed::from_u64(7), START),
            Session::accept(77, config, Seed::from_u64(8), START),
        ];
        let now = START;
        let hello = datagrams(&mut pair.ends[0], now).remove(0);
        pair.ends[1].handle_datagram(now, &hello).unwrap();
        let answer = datagrams(&mut pair.ends[1], now).remove(0);
        pair.ends[0].handle_datagram(now, &answer).unwrap();
        pair.ends[0].hold_answers();
        assert_eq!(layout(&mut pair.ends[0], now), Vec::<Vec<_>>::new());
        assert!(pair.ends[0].poll_timeout().is_none_or(|at| at > now), "nothing is owed before");
        if answered {
            pair.ends[0].write(now, b"at once").unwrap();
        } else {
            assert!(pair.ends[0].release_answers());
        }
        let token = datagrams(&mut pair.ends[0], now);
        assert_eq!(token.len(), 1);
        assert!(!pair.ends[0].release_answers(), "said already");
        pair.ends[1].handle_datagram(now, &token[0]).unwrap();
        assert!(pair.ends[1].is_validated());
        assert_eq!(pair.ends[1].is_readable(), answered);
        if !answered {
            continue;
        }
        // The same with the end of a stream: acknowledged beside the own one, and not forgotten.
        assert_eq!(pair.ends[1].read(now, &mut [0; 99]), Ok(7));
        pair.ends[1].orphan(now);
        for fin in datagrams(&mut pair.ends[1], now) {
            pair.ends[0].handle_datagram(now, &fin).unwrap();
        }
        pair.ends[0].hold_answers();
        assert_eq!(layout(&mut pair.ends[0], now), Vec::<Vec<_>>::new());
        assert!(pair.ends[0].is_read_closed() && pair.ends[0].owes_acks());
        pair.ends[0].shutdown();
        let both = datagrams(&mut pair.ends[0], now);
        assert_eq!(both.len(), 1);
        pair.ends[1].handle_datagram(now, &both[0]).unwrap();
        assert!(!pair.ends[1].is_done(), "it owes an acknowledgement of the end");
        let last = datagrams(&mut pair.ends[1], now);
        assert_eq!((last.len(), pair.ends[1].close_reason()), (1, Some(CloseReason::Finished)));
        pair.ends[0].handle_datagram(now, &last[0]).unwrap();
        assert_eq!(pair.ends[0].close_reason(), Some(CloseReason::Finished));
    }
}

#[test]
fn what_comes_with_the_proof_of_an_address_counts() {
    let config = Arc::new(quiet());
    let mut client = Session::connect(77, config.clone(), Seed::from_u64(7), START);
    let mut server = Session::accept(77, config, Seed::from_u64(8), START);
    server.write(START, b"welcome").unwrap();
    let hello = datagrams(&mut client, START).remove(0);
    server.handle_datagram(START, &hello).unwrap();
    for greeting in datagrams(&mut server, START) {
        client.handle_datagram(START, &greeting).unwrap();
    }
    assert_eq!((client.read(START, &mut [0; 9]), server.stats().in_flight), (Ok(7), 1));
    let answer = datagrams(&mut client, START);
    assert_eq!(answer.len(), 1, "token and acknowledgement");
    server.handle_datagram(START, &answer[0]).unwrap();
    assert_eq!((server.is_validated(), server.stats().in_flight), (true, 0));
}
