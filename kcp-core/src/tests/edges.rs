//! Bounds from both sides, of what nothing else pins: timers, held writes, forged control messages, moves while connecting.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use kcp_netsim::LinkConfig;

use super::extension::dialled;
use super::util::{Pair, START, lone, output, quiet, segment, sent};
use crate::seq::Seq;
use crate::wire::Command::{self, Ack, Push, Wask, Wins};
use crate::wire::control::{Control, MAGIC, controls};
use crate::{CloseReason, Event, Kcp, ReadError, Seed, Session, SessionConfig, Timestamp, WriteError};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn link() -> LinkConfig {
    LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() }
}

/// A datagram of one control segment.
fn control(cmd: Command, message: &Control<'_>) -> Vec<u8> {
    let mut payload = vec![MAGIC];
    message.encode(&mut payload);
    segment(cmd, 0, 128, 0, 1, 0, &payload)
}

/// The kinds of control messages that an end wants to send now.
fn said(end: &mut Session, now: Timestamp) -> Vec<Vec<u8>> {
    let all = output(end, now).into_iter().flatten();
    all.filter(|(header, payload)| header.cmd != Push && !payload.is_empty()).map(|(_, data)| data).collect()
}

#[test]
fn an_unanswered_keepalive_is_repeated_every_quarter_and_an_answer_ends_that() {
    let mut end = lone(quiet().keepalive(Some(Duration::from_secs(8))));
    assert_eq!(end.poll_timeout(), Some(at(8_000)));
    for now in [8_000, 10_000, 12_000, 14_000] {
        end.handle_timeout(at(now - 1));
        assert_eq!(sent(&mut end, at(now - 1)), []);
        assert_eq!(end.poll_timeout(), Some(at(now)));
        end.handle_timeout(at(now));
        assert_eq!(sent(&mut end, at(now)), [(Wask, 1, 0)]);
    }
    end.handle_datagram(at(14_030), &segment(Wins, 0, 128, 0, 0, 0, b"")).unwrap();
    assert_eq!(end.poll_timeout(), Some(at(22_030)));
    assert_eq!(end.stats().probes_sent, 4);
}

#[test]
fn write_delay_holds_less_than_a_segment_for_one_interval() {
    let mss = 1376;
    for (len, waits) in [(1, true), (mss - 1, true), (mss, false), (mss + 1, false)] {
        let mut end = lone(quiet());
        end.set_write_delay(true);
        end.write(at(100), &vec![0; len]).unwrap();
        if waits {
            let due = end.poll_timeout().unwrap();
            assert!(due > at(100) && end.is_holding(), "{len}");
            assert_eq!(sent(&mut end, Timestamp::from_micros(due.as_micros() - 1)), [], "{len}");
            assert_eq!(sent(&mut end, due), [(Push, 0, len)]);
            // What comes next waits as long again.
            end.write(due, b"y").unwrap();
            assert_eq!(sent(&mut end, due), []);
            assert_eq!(end.poll_timeout(), Some(due + due.saturating_since(at(100))));
        } else {
            assert_eq!(sent(&mut end, at(100))[0], (Push, 0, mss), "{len}");
        }
    }
    let mut end = lone(quiet());
    end.write(at(100), b"x").unwrap();
    assert!(!end.is_holding());
    assert_eq!(sent(&mut end, at(100)), [(Push, 0, 1)], "nothing is held unless asked for");
}

#[test]
fn an_end_of_stream_that_nobody_acknowledges_ends_at_the_user_timeout() {
    let limit = Duration::from_secs(5);
    let mut pair = dialled(&quiet().user_timeout(Some(limit)), &link(), 1);
    pair.run_for(Duration::from_secs(7));
    let since = pair.now;
    pair.links.iter_mut().for_each(|link| link.set_partitioned(true));
    pair.ends[0].shutdown();
    pair.run_for(limit - Duration::from_micros(1));
    assert_eq!(pair.ends[0].close_reason(), None);
    pair.run_for(Duration::from_micros(1));
    assert_eq!(pair.now, since + limit);
    assert_eq!(pair.ends[0].close_reason(), Some(CloseReason::UserTimeout));
}

/// Who has not seen the handshake ends, proves and answers nothing.
#[test]
fn a_wrong_token_is_as_good_as_none() {
    let mut pair = dialled(&quiet(), &link(), 2);
    pair.run_for(Duration::from_secs(1));
    let now = pair.now;
    let (own, una) = (pair.ends[1].epitaph().own, pair.ends[1].una());
    let wrong = own ^ 1;
    pair.ends[1].handle_datagram(now, &control(Wins, &Control::Fin { sn: una, token: wrong })).unwrap();
    assert_eq!(pair.ends[1].read(now, &mut [0; 8]), Err(ReadError::Empty), "no end of stream");
    assert_eq!(said(&mut pair.ends[1], now), Vec::<Vec<u8>>::new());
    pair.ends[1].shutdown();
    let fins = said(&mut pair.ends[1], now);
    let Some(Control::Fin { sn, .. }) = controls(&fins[0]).unwrap().next() else { panic!("{fins:?}") };
    for (sn, token) in [(sn, wrong), (sn.next(), own)] {
        pair.ends[1].handle_datagram(now, &control(Wins, &Control::FinAck { sn, token })).unwrap();
        assert!(!pair.ends[1].is_drained(), "not this end, or not by this peer");
    }
    pair.ends[1].handle_datagram(now, &control(Wins, &Control::FinAck { sn, token: own })).unwrap();
    assert!(pair.ends[1].is_drained());
    // An acknowledgement of an end that was not sent.
    pair.ends[0]
        .handle_datagram(
            now,
            &control(Wins, &Control::FinAck { sn: Seq::new(0), token: pair.ends[0].epitaph().own }),
        )
        .unwrap();
    pair.ends[0].shutdown();
    assert!(!pair.ends[0].is_drained());
}

/// A server that a client's hello has come to, and that datagram.
fn greeted() -> (Session, Vec<u8>) {
    let config = Arc::new(quiet());
    let mut server = Session::accept(77, config.clone(), Seed::from_u64(1), at(0));
    let mut client = Session::connect(77, config, Seed::from_u64(2), at(0));
    let mut probe = vec![];
    client.poll_transmit(at(0), crate::Framing::default(), &mut probe).unwrap();
    server.handle_datagram(at(0), &probe).unwrap();
    (server, probe)
}

#[test]
fn a_token_proves_an_address_and_another_does_not() {
    let (mut server, _) = greeted();
    let own = server.epitaph().own;
    server.handle_datagram(at(0), &control(Wins, &Control::Token { token: own ^ 1 })).unwrap();
    assert!(!server.is_validated());
    // Not ours to answer: who was dialled does not ask whoever dialled where it is.
    said(&mut server, at(0));
    server.handle_datagram(at(0), &control(Wins, &Control::PathChallenge { nonce: 7 })).unwrap();
    assert_eq!(said(&mut server, at(0)), Vec::<Vec<u8>>::new());
    server.handle_datagram(at(0), &control(Wins, &Control::Token { token: own })).unwrap();
    assert!(server.is_validated());
}

#[test]
fn the_answer_to_a_hello_is_repeated_until_the_right_token_comes() {
    for wrong in [1, 0] {
        let (mut server, _) = greeted();
        said(&mut server, at(0));
        let token = server.epitaph().own ^ wrong;
        server.handle_datagram(at(0), &control(Wins, &Control::Token { token })).unwrap();
        let again = said(&mut server, at(1_000)).iter().any(|payload| {
            controls(payload).unwrap().any(|control| matches!(control, Control::HelloAck { .. }))
        });
        assert_eq!(again, wrong == 1);
    }
}

#[test]
fn the_hello_of_an_unproven_peer_from_elsewhere_moves_it_and_nothing_else_does() {
    let config = Arc::new(quiet());
    let start = || {
        let mut server = Session::accept(77, config.clone(), Seed::from_u64(1), at(0));
        let mut client = Session::connect(77, config.clone(), Seed::from_u64(2), at(0));
        let mut probe = vec![];
        client.poll_transmit(at(0), crate::Framing::default(), &mut probe).unwrap();
        assert!(!server.begins_elsewhere(&probe), "no hello has come from anywhere");
        server.handle_datagram(at(0), &probe).unwrap();
        (server, client, probe)
    };
    let (mut server, client, probe) = start();
    let token = client.epitaph().own;
    assert!(!server.begins_elsewhere(&control(Wask, &Control::Hello { token: token ^ 1 })), "another's");
    assert!(!server.begins_elsewhere(&control(Wins, &Control::Hello { token })), "no probe");
    assert!(!server.begins_elsewhere(&control(Wask, &Control::Ping { nonce: token })));
    assert!(!server.begins_elsewhere(b"junk"));
    output(&mut server, at(0));
    assert!(server.begins_elsewhere(&probe));
    // Three times what comes from there: nothing, so far.
    server.write(at(1), b"x").unwrap();
    assert_eq!(sent(&mut server, at(1)), []);
    server.handle_datagram(at(1), &probe).unwrap();
    assert!(sent(&mut server, at(1)).contains(&(Push, 0, 1)));
    let own = server.epitaph().own;
    server.handle_datagram(at(2), &control(Wins, &Control::Token { token: own })).unwrap();
    assert!(!server.begins_elsewhere(&probe), "proven: it has to answer a challenge");
    let (mut closed, _, probe) = start();
    closed.abort();
    assert!(!closed.begins_elsewhere(&probe), "ended");
}

/// The last of a flight is sent again two round trips after it, and once only; what comes back tells of those before.
#[test]
fn the_end_of_a_flight_is_probed_for_between_two_of_ours() {
    let near = LinkConfig { delay: Duration::from_millis(2), ..LinkConfig::default() };
    let mut pair = dialled(&SessionConfig::fast().keepalive(None).idle_timeout(None), &near, 3);
    for _ in 0..40 {
        pair.ends[0].write(pair.now, &[0; 400]).unwrap();
        pair.run_for(Duration::from_millis(100));
    }
    let rtt = pair.ends[0].stats().srtt.unwrap();
    assert_eq!(rtt, Duration::from_millis(4));
    pair.links[0].set_partitioned(true);
    pair.ends[0].write(pair.now, &[1; 400]).unwrap();
    pair.run_for(Duration::from_millis(1));
    pair.ends[0].write(pair.now, &[2; 300]).unwrap();
    pair.run_for(rtt * 2);
    let stats = pair.ends[0].stats();
    assert_eq!(
        (stats.tail_probes, stats.in_flight, stats.retransmits),
        (0, 2, 0),
        "not before two round trips"
    );
    pair.run_for(Duration::from_millis(3));
    assert_eq!((pair.ends[0].stats().tail_probes, pair.ends[0].stats().retransmits), (1, 1));
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.ends[0].stats().tail_probes, 1, "nothing was acknowledged since");
    // A lone one is left to its timeout.
    pair.links[0].set_partitioned(false);
    pair.run_for(Duration::from_secs(3));
    assert_eq!(pair.ends[0].stats().in_flight, 0);
    pair.links[0].set_partitioned(true);
    pair.ends[0].write(pair.now, &[3; 400]).unwrap();
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.ends[0].stats().tail_probes, 1);
}

#[test]
fn a_plain_peer_is_not_probed_for_the_end_of_a_flight() {
    let near = LinkConfig { delay: Duration::from_millis(2), ..LinkConfig::default() };
    let mut pair = Pair::symmetric(SessionConfig::fast().keepalive(None).idle_timeout(None), &near, 3);
    for _ in 0..20 {
        pair.ends[0].write(pair.now, &[0; 400]).unwrap();
        pair.run_for(Duration::from_millis(100));
    }
    pair.links[0].set_partitioned(true);
    for n in 1..3 {
        pair.ends[0].write(pair.now, &[n; 400]).unwrap();
        pair.run_for(Duration::from_millis(1));
    }
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.ends[0].stats().tail_probes, 0);
    assert!(pair.now > START && pair.ends[0].stats().timeout_retransmits > 0);
}

#[test]
fn what_has_room_is_taken_and_a_byte_more_is_not() {
    let mut end = lone(quiet().stream(false).send_buffer(1000));
    assert!(end.send_msg(at(0), Bytes::from(vec![0; 5000])).is_ok(), "an empty queue takes any");
    assert_eq!(end.write(at(0), b"x"), Err(WriteError::Blocked));
}

#[test]
fn windows_of_the_classic_face_keep_their_value_where_told_0() {
    let mut kcp = Kcp::new(77);
    kcp.wndsize(40, 300);
    kcp.wndsize(0, 0);
    kcp.nodelay(1, 10, 2, 1);
    kcp.update(0);
    kcp.input(&segment(Wask, 0, 128, 0, 1, 0, b"")).unwrap();
    for n in 0..50u8 {
        kcp.send(&[n]).unwrap();
    }
    kcp.update(10);
    kcp.flush();
    let all: Vec<_> = core::iter::from_fn(|| kcp.poll_output()).collect();
    let segments: Vec<_> =
        all.iter().flat_map(|datagram| crate::wire::Segments::parse(datagram, 77).unwrap()).collect();
    assert_eq!(segments[0].0.wnd, 300);
    assert_eq!(segments.iter().filter(|(header, _)| header.cmd == Push).count(), 40);
    assert!(segments.iter().all(|(header, _)| header.cmd != Ack));
}

#[test]
fn held_data_waits_its_interval_although_the_window_opens_before() {
    let mut end = lone(quiet().send_window(1));
    end.set_write_delay(true);
    end.write(at(0), &[0; 1376]).unwrap();
    assert_eq!(sent(&mut end, at(0)), [(Push, 0, 1376)]);
    end.write(at(2), b"x").unwrap();
    assert_eq!(sent(&mut end, at(2)), []);
    end.handle_datagram(at(3), &segment(Ack, 0, 128, 0, 0, 1, b"")).unwrap();
    assert_eq!(sent(&mut end, at(3)), []);
    let due = end.poll_timeout().unwrap();
    assert!(due > at(3));
    assert_eq!(sent(&mut end, due), [(Push, 1, 1)]);
}

#[test]
fn a_datagram_is_told_when_there_was_none() {
    let mut pair = dialled(&quiet(), &link(), 4);
    let now = pair.now;
    let arrives = |end: &mut Session| {
        end.handle_datagram(now, &control(Wins, &Control::Datagram(b"d"))).unwrap();
        core::iter::from_fn(|| end.poll_event()).filter(|event| *event == Event::Datagram).count()
    };
    let end = &mut pair.ends[1];
    assert_eq!([arrives(end), arrives(end)], [1, 0]);
    assert_eq!([(); 3].map(|()| end.recv_datagram().is_some()), [true, true, false]);
    assert_eq!(arrives(end), 1);
}

/// A bare `WINS` beside it might arrive alone, and look like a plain peer's.
#[test]
fn a_hello_is_answered_by_one_segment() {
    let (mut server, probe) = greeted();
    let all: Vec<_> = output(&mut server, at(0)).into_iter().flatten().collect();
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(matches!(controls(&all[0].1).unwrap().next(), Some(Control::HelloAck { .. })));
    let stats = server.stats();
    assert_eq!((stats.datagrams_received, stats.bytes_received), (1, probe.len() as u64));
    assert_eq!((stats.datagrams_sent, stats.bytes_sent), (1, 24 + all[0].1.len() as u64));
}

#[test]
fn what_is_refused_or_repeated_is_counted() {
    let mut end = lone(quiet());
    let good = segment(Wins, 0, 128, 0, 0, 0, b"");
    let mut other = good.clone();
    other[0] ^= 1;
    assert!(end.handle_datagram(at(0), &other).is_err());
    assert!(end.handle_datagram(at(0), &good[..23]).is_err());
    let push = segment(Push, 0, 128, 0, 0, 0, b"abc");
    assert!(end.handle_datagram(at(0), &push[..26]).is_err());
    let mut unknown = good.clone();
    unknown[4] = 99;
    assert!(end.handle_datagram(at(0), &unknown).is_err());
    assert!(end.handle_datagram(at(0), &segment(Wins, 0, 128, 0, 0, 9, b"")).is_err());
    let stats = end.stats();
    let refused = [
        stats.rejected_conv,
        stats.rejected_short,
        stats.rejected_truncated,
        stats.rejected_command,
        stats.rejected_una,
    ];
    assert_eq!(refused, [1; 5]);
    // Beyond a hole, an acknowledgement is said twice where the peer's segments are not small.
    for (ms, sn, len, acks) in [(10, 1, 256, vec![1]), (100, 2, 256, vec![2]), (200, 3, 257, vec![3, 2])] {
        end.handle_datagram(at(ms), &segment(Push, 0, 128, 50 + sn, sn, 0, &vec![b'x'; len])).unwrap();
        let expected: Vec<_> = acks.into_iter().map(|sn| (Ack, sn, 50 + sn)).collect();
        let said = output(&mut end, at(ms + 50)).into_iter().flatten();
        assert_eq!(said.map(|(h, _)| (h.cmd, h.sn.value(), h.ts)).collect::<Vec<_>>(), expected);
    }
    let stats = end.stats();
    assert_eq!((stats.acks_sent, stats.acks_repeated, stats.segments_received), (3, 1, 3));
    end.handle_datagram(at(300), &segment(Push, 0, 128, 0, 2, 0, b"x")).unwrap();
    assert_eq!((stats.duplicates, end.stats().duplicates), (0, 1));
}

#[test]
fn an_idle_end_gives_back_what_it_keeps() {
    let mut end = lone(quiet());
    // It keeps nothing at first, until it has had several bursts.
    for n in 0..100u32 {
        let now = at(u64::from(n) * 100);
        end.write(now, &[0; 5000]).unwrap();
        output(&mut end, now);
        let una = end.stats().segments_sent as u32;
        end.handle_datagram(now + Duration::from_millis(40), &segment(Ack, 0, 128, 0, una - 1, una, b""))
            .unwrap();
    }
    assert_eq!((end.stats().in_flight, end.stats().payload_sent), (0, 500_000));
    assert_eq!(end.kept_since(), Some(at(9_940)));
    end.trim();
    assert_eq!(end.kept_since(), None);
}

#[test]
fn a_hello_counts_in_a_probe_to_who_was_dialled() {
    let config = Arc::new(quiet());
    let hello = Control::Hello { token: 5 };
    for (dialled, cmd, extended) in [(false, Wask, true), (false, Wins, false), (true, Wask, false)] {
        let mut end = if dialled {
            Session::connect(77, config.clone(), Seed::from_u64(1), at(0))
        } else {
            Session::accept(77, config.clone(), Seed::from_u64(1), at(0))
        };
        end.handle_datagram(at(0), &control(cmd, &hello)).unwrap();
        assert_eq!(end.is_extended(), extended, "{dialled} {cmd:?}");
    }
}

/// What redundancy asks for is paid for anyway: however many copies there were, what is sent again rides.
#[test]
fn copies_of_what_is_sent_again_are_bounded_unless_redundancy_is_asked_for() {
    let copies = |redundancy, lost, good| {
        let mut end = lone(quiet().redundancy(redundancy));
        let (mut now, mut una) = (at(0), 0);
        for _ in 0..40 {
            for _ in 0..lost {
                end.write(now, &[0; 64]).unwrap();
                output(&mut end, now);
            }
            now += Duration::from_secs(3);
            assert!(sent(&mut end, now).contains(&(Push, una, 64)));
            for _ in 0..good {
                now += Duration::from_millis(20);
                end.write(now, &[0; 64]).unwrap();
                output(&mut end, now);
            }
            una += lost + good;
            end.handle_datagram(now, &segment(Wins, 0, 128, 0, 0, una, b"")).unwrap();
        }
        end.stats().copies_sent
    };
    // Of 40: eight, and three for each sixteen of the segments before, 78 or 117.
    assert_eq!([copies(0, 1, 1), copies(0, 1, 2), copies(1, 1, 1), copies(1, 2, 1)], [20, 29, 40, 80]);
}

#[test]
fn a_window_that_opens_lets_the_first_go_at_once() {
    let mut end = lone(quiet());
    end.write(at(0), &[0; 1000]).unwrap();
    output(&mut end, at(0));
    assert_eq!(sent(&mut end, at(200)), [(Push, 0, 1000)]);
    end.handle_datagram(at(250), &segment(Wins, 0, 0, 0, 0, 0, b"")).unwrap();
    let again = |end: &mut Session, ms| sent(end, at(ms)).contains(&(Push, 0, 1000));
    end.handle_datagram(at(450), &segment(Wins, 0, 0, 0, 0, 0, b"")).unwrap();
    assert!(!again(&mut end, 450), "closed");
    end.handle_datagram(at(451), &segment(Wins, 0, 9, 0, 0, 0, b"")).unwrap();
    assert!(again(&mut end, 451));
    end.handle_datagram(at(452), &segment(Wins, 0, 9, 0, 0, 0, b"")).unwrap();
    assert!(!again(&mut end, 452), "it was open before");
}

#[test]
fn an_answer_is_in_the_first_run_whatever_is_queued() {
    for (asks, answer) in
        [(segment(Wask, 0, 128, 0, 1, 0, b""), Wins), (segment(Push, 0, 128, 0, 0, 0, b"x"), Ack)]
    {
        let mut end = lone(quiet());
        end.write(at(0), &[0; 20_000]).unwrap();
        end.handle_datagram(at(0), &asks).unwrap();
        let mut buf = vec![];
        let run = end.poll_transmit(at(0), crate::Framing { max_datagrams: 2 }, &mut buf).unwrap();
        let datagrams: Vec<_> = buf.chunks(run.stride).collect();
        assert_eq!(datagrams.len(), 2);
        let segments =
            datagrams.into_iter().flat_map(|datagram| crate::wire::Segments::parse(datagram, 77).unwrap());
        assert_eq!(segments.map(|(header, _)| header.cmd).collect::<Vec<_>>(), [Push, answer]);
    }
}

#[test]
fn after_a_transport_failed_what_arrived_can_be_read() {
    let mut end = lone(quiet());
    end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 0, 0, b"abc")).unwrap();
    end.write(at(0), b"x").unwrap();
    end.disconnect();
    assert_eq!((end.close_reason(), end.has_lost_data()), (Some(CloseReason::Aborted), true));
    assert_eq!(end.read(at(0), &mut [0; 8]), Ok(3));
    assert_eq!(end.read(at(0), &mut [0; 8]), Err(ReadError::Closed(CloseReason::Aborted)));
}

#[test]
fn before_a_hello_nothing_else_is_heard() {
    let mut end = Session::accept(77, Arc::new(quiet()), Seed::from_u64(1), at(0));
    end.handle_datagram(at(0), &control(Wins, &Control::Datagram(b"d"))).unwrap();
    end.handle_datagram(at(0), &control(Wins, &Control::Ping { nonce: 1 })).unwrap();
    assert_eq!(end.recv_datagram(), None);
    assert_eq!(sent(&mut end, at(0)), []);
    assert_eq!(end.poll_timeout(), None);
}

/// The window for what comes from `ikcp` is its tick, for one of ours half of that.
#[test]
fn the_timeout_allows_for_the_peers_tick() {
    let mut pair = dialled(&quiet(), &link(), 4);
    pair.run_for(Duration::from_secs(1));
    for (end, tick) in [(&mut pair.ends[0], 5), (&mut lone(quiet()), 10)] {
        let mut now = pair.now;
        for n in 0..100u32 {
            now += Duration::from_secs(1);
            end.write(now, b"x").unwrap();
            let (push, _) = output(end, now)[0][0];
            now += Duration::from_millis(40);
            end.handle_datagram(now, &segment(Ack, 0, 128, push.ts, n, n + 1, b"")).unwrap();
        }
        assert_eq!(end.rto(), Duration::from_millis(40 + tick));
    }
}

#[test]
fn the_floor_of_the_timeout_follows_the_mode() {
    for (mode, floor) in [(0, 100), (1, 30), (2, 30)] {
        let mut kcp = Kcp::new(77);
        kcp.nodelay(mode, 10, 0, 1);
        kcp.update(0);
        kcp.send(b"x").unwrap();
        kcp.flush();
        kcp.input(&segment(Ack, 0, 128, 0, 0, 1, b"")).unwrap();
        assert_eq!(kcp.stats().rto, Duration::from_millis(floor));
    }
}

#[test]
fn whatever_is_acknowledged_is_progress() {
    // Out of order; in order what was acknowledged before.
    for told in [&[(3_000, 1, 0)][..], &[(1_000, 0, 0), (3_000, 0, 1)]] {
        let mut end = lone(quiet().user_timeout(Some(Duration::from_secs(5))));
        for _ in 0..2 {
            end.write(at(0), &[0; 1376]).unwrap();
            output(&mut end, at(0));
        }
        for &(ms, sn, una) in told {
            end.handle_datagram(at(ms), &segment(Ack, 0, 128, 0, sn, una, b"")).unwrap();
        }
        end.handle_timeout(at(7_999));
        assert_eq!(end.close_reason(), None);
        end.handle_timeout(at(8_000));
        assert_eq!(end.close_reason(), Some(CloseReason::UserTimeout));
    }
}

#[test]
fn fragments_that_came_out_of_order_must_count_down_too() {
    let mut end = lone(quiet().stream(false));
    end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 1, 0, b"b")).unwrap();
    let first = segment(Push, 5, 128, 0, 0, 0, b"a");
    assert!(end.handle_datagram(at(0), &first).is_err());
    assert_eq!(end.close_reason(), Some(CloseReason::ProtocolError));
}

/// Written every 15 ms, which is the longest rhythm that is waited for.
#[test]
fn what_is_owed_to_one_of_ours_waits_for_the_next_write() {
    let ms = |n| Duration::from_micros(n);
    // After the last write: when data came, and when it is acknowledged.
    for (came, due) in [(1_000, 16_000), (900, 3_400), (15_999, 16_000), (16_000, 18_500), (17_000, 19_500)] {
        let mut pair = dialled(&quiet(), &link(), 4);
        pair.run_for(Duration::from_secs(1));
        let mut now = pair.now;
        let plain = &mut lone(quiet());
        for (end, due) in [(&mut pair.ends[1], due), (plain, came + 2_500)] {
            now = pair.now;
            for _ in 0..3 {
                now += ms(15_000);
                end.write(now, b"x").unwrap();
                output(end, now);
            }
            let una = end.una().value();
            let acked = end.stats().segments_sent as u32;
            end.handle_datagram(now + ms(came), &segment(Push, 0, 128, 0, una, acked, b"y")).unwrap();
            assert_eq!(end.poll_timeout(), Some(now + ms(due)), "{came}");
        }
        assert!(now > pair.now);
    }
}

/// The peer needs one in a round trip, or in four where that is steady.
#[test]
fn one_of_ours_gets_a_sample_when_it_needs_one() {
    for (samples, gap) in [(6, 40), (11, 160)] {
        for (after, acks) in [(gap - 1, 0), (gap, 1)] {
            let mut pair = dialled(&quiet(), &link(), 4);
            pair.run_for(Duration::from_secs(1));
            let end = &mut pair.ends[1];
            let mut now = pair.now;
            let mut sn = end.una().value();
            for n in 0..samples {
                now += Duration::from_secs(1);
                end.write(now, b"x").unwrap();
                let (push, _) = output(end, now)[0][0];
                now += Duration::from_millis(40);
                end.handle_datagram(now, &segment(Ack, 0, 128, push.ts, n, n + 1, b"")).unwrap();
            }
            let mut answered = |now, una| {
                end.handle_datagram(now, &segment(Push, 0, 128, 0, sn, una, b"y")).unwrap();
                end.write(now, b"z").unwrap();
                sn += 1;
                sent(end, now).iter().filter(|&&(cmd, ..)| cmd == Ack).count()
            };
            assert_eq!(answered(now, samples), 1, "the first");
            let later = now + Duration::from_millis(after);
            assert_eq!(answered(later, samples + 1), acks, "{samples} {after}");
        }
    }
}

/// What was lost may be the answer to what is late: a small one behind a repaired hole rides once more.
#[test]
fn behind_a_repaired_hole_a_small_segment_rides_once_more() {
    for (len, after, rides) in [(256, 9, true), (257, 9, false), (256, 10, false)] {
        let mut end = lone(quiet());
        end.write(at(0), b"x").unwrap();
        output(&mut end, at(0));
        for sn in [1, 0] {
            end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 1, b"x")).unwrap();
        }
        output(&mut end, at(0));
        end.write(at(after), &vec![0; len]).unwrap();
        assert_eq!(sent(&mut end, at(after)), [(Push, 1, len)]);
        end.write(at(after + 20), &[0; 300]).unwrap();
        let next = sent(&mut end, at(after + 20));
        assert_eq!(next.contains(&(Push, 1, len)), rides, "{len} {after}: {next:?}");
    }
}

#[test]
fn copies_ride_with_data_alone_and_in_no_slow_mode() {
    for (mode, rides) in [(0, false), (1, true)] {
        let numbers = crate::NoDelay { nodelay: mode, ..crate::NoDelay::TURBO };
        let mut end = lone(quiet().nodelay(numbers).redundancy(2));
        end.write(at(0), b"x").unwrap();
        output(&mut end, at(0));
        end.handle_datagram(at(20), &segment(Push, 0, 128, 0, 0, 0, b"y")).unwrap();
        end.handle_datagram(at(20), &segment(Push, 0, 128, 0, 1, 0, b"y")).unwrap();
        assert_eq!(sent(&mut end, at(20)), [(Ack, 1, 0)]);
        end.write(at(21), b"z").unwrap();
        assert_eq!(sent(&mut end, at(21)).contains(&(Push, 0, 1)), rides);
    }
}

/// Cut short while the mtu was small.
#[test]
fn copies_of_fragments_keep_their_numbers() {
    let mut kcp = Kcp::new(77);
    kcp.set_mtu(50).unwrap();
    kcp.nodelay(1, 10, 0, 1);
    kcp.update(0);
    let numbers = |kcp: &mut Kcp, now| {
        kcp.update(now);
        kcp.flush();
        let all: Vec<_> = core::iter::from_fn(|| kcp.poll_output()).collect();
        let all = all.iter().flat_map(|datagram| crate::wire::Segments::parse(datagram, 77).unwrap());
        all.map(|(header, _)| (header.sn.value(), header.frg)).collect::<Vec<_>>()
    };
    kcp.send(&[0; 60]).unwrap();
    assert_eq!(numbers(&mut kcp, 10), [(0, 2), (1, 1), (2, 0)]);
    kcp.set_mtu(1400).unwrap();
    assert_eq!(numbers(&mut kcp, 210), [(0, 2), (1, 1), (2, 0)]);
    kcp.send(b"x").unwrap();
    assert_eq!(numbers(&mut kcp, 220), [(3, 0), (0, 2), (1, 1), (2, 0)]);
}

/// The classic face is called in time for a timeout, whenever its next tick is.
#[test]
fn a_timeout_does_not_wait_for_the_tick() {
    let mut kcp = Kcp::new(77);
    kcp.nodelay(1, 5000, 0, 1);
    kcp.update(0);
    kcp.send(b"x").unwrap();
    kcp.flush();
    assert_eq!(kcp.check(0), 200);
    kcp.update(199);
    assert_eq!(kcp.stats().retransmits, 0);
    kcp.update(200);
    assert_eq!(kcp.stats().retransmits, 1);
}

#[test]
fn owed_acknowledgements_wait_although_data_is_held() {
    let mut end = lone(quiet());
    end.set_write_delay(true);
    end.write(at(0), b"x").unwrap();
    end.handle_datagram(at(1), &segment(Push, 0, 128, 0, 0, 0, b"y")).unwrap();
    assert_eq!(sent(&mut end, at(1)), []);
    end.set_write_delay(true);
    assert!(end.is_holding());
    end.set_write_delay(false);
    assert!(!end.is_holding());
}

#[test]
fn an_empty_buffer_reads_nothing_where_there_is_nothing() {
    let mut end = lone(quiet().send_buffer(3));
    assert_eq!(end.read(at(0), &mut []), Err(ReadError::Empty));
    end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 0, 0, b"x")).unwrap();
    assert_eq!(end.read(at(0), &mut []), Ok(0));
    end.write(at(0), b"abc").unwrap();
    assert!(!end.is_write_ready());
    end.shutdown();
    assert!(end.is_write_ready(), "the error comes without waiting");
}

#[test]
fn what_was_found_lost_is_due_at_once() {
    let mut end = lone(quiet());
    for _ in 0..3 {
        end.write(at(0), &[0; 1376]).unwrap();
        output(&mut end, at(0));
    }
    let acks = [1, 2].map(|sn| segment(Ack, 0, 128, 0, sn, 0, b"")).concat();
    end.handle_datagram(at(40), &acks).unwrap();
    assert_eq!(end.poll_timeout(), Some(Timestamp::ZERO));
    assert_eq!(sent(&mut end, at(40)), [(Push, 0, 1376)]);
    assert!(end.poll_timeout() > Some(at(40)));
}

/// More could be sent than the window lets through, for want of its first.
#[test]
fn what_holds_the_window_is_sent_twice_as_it_is() {
    let mut end = lone(quiet().stream(false));
    end.handle_datagram(at(0), &segment(Wins, 0, 1000, 0, 0, 0, b"")).unwrap();
    for n in 0..100 {
        end.write(at(0), &[n; 2 * 1376]).unwrap();
    }
    assert_eq!(output(&mut end, at(0)).len(), 128, "until it is known what the path takes");
    let acks: Vec<_> = (3..=120).map(|sn| segment(Ack, 0, 126, 0, sn, 2, b"")).collect();
    end.handle_datagram(at(40), &acks.concat()).unwrap();
    let mut buf = vec![];
    let run = end.poll_transmit(at(40), crate::Framing { max_datagrams: 7 }, &mut buf).unwrap();
    assert_eq!((run.datagrams, run.stride, end.stats().copies_sent), (2, 1400, 1));
    assert_eq!(buf[..1400], segment(Push, 1, 2048, 40, 2, 0, &[1; 1376]));
    assert!(buf[..1400] == buf[1400..]);
    assert_eq!(sent(&mut end, at(40)), []);
}
