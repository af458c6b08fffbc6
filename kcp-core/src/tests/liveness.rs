//! Connecting, keepalive, and the limits that end a session, pinned from both sides.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use kcp_netsim::LinkConfig;

use super::util::{Pair, lone, output, quiet, segment, sent};
use crate::wire::Command::{Ack, Push, Wask, Wins};
use crate::{
    CloseReason, Event, Framing, InputError, ReadError, Seed, Session, SessionConfig, Timestamp, WriteError,
    admission,
};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn events(end: &mut Session) -> Vec<Event> {
    core::iter::from_fn(|| end.poll_event()).collect()
}

#[test]
fn connect_probes_until_answered() {
    let config = Arc::new(quiet());
    let mut client = Session::connect(77, config.clone(), Seed::from_u64(9), at(0));
    assert!(client.is_connecting());
    client.write(at(0), b"early").unwrap();
    let mut probe = Vec::new();
    assert!(client.poll_transmit(at(0), Framing::default(), &mut probe).is_some());
    assert!(client.poll_transmit(at(0), Framing::default(), &mut probe).is_none(), "one, and no data yet");
    assert_eq!(admission::first_segment(&probe, 128), Some((77, admission::Opening::Probe)));
    assert_eq!(client.poll_timeout(), Some(at(200)));
    // A hello of 512 bytes, which plain peers skip.
    assert_eq!(sent(&mut client, at(200)), [(Wask, 0, 488)]);
    assert_eq!(client.poll_timeout(), Some(at(500)));

    let mut server = Session::established(77, config, Seed::from_u64(1), at(30));
    server.handle_datagram(at(30), &probe).unwrap();
    let mut answer = Vec::new();
    server.poll_transmit(at(30), Framing::default(), &mut answer).unwrap();
    client.handle_datagram(at(260), &answer).unwrap();
    assert!(!client.is_connecting());
    assert_eq!(events(&mut client), [Event::Connected]);
    // And the proof that the hello's answer has come.
    assert_eq!(sent(&mut client, at(260)), [(Wins, 1, 12), (Push, 0, 5)]);
}

#[test]
fn connect_times_out_and_junk_does_not_complete_it() {
    let config = Arc::new(quiet().connect_timeout(Duration::from_secs(2)));
    let mut client = Session::connect(77, config, Seed::from_u64(9), at(0));
    assert!(client.handle_datagram(at(1), b"not a segment").is_err());
    assert!(client.handle_datagram(at(1), &segment(Wins, 0, 128, 0, 0, 9, b"")).is_err(), "una beyond");
    assert!(client.is_connecting());
    client.handle_timeout(Timestamp::from_micros(1_999_999));
    assert_eq!(client.close_reason(), None);
    client.handle_timeout(at(2000));
    assert_eq!(client.close_reason(), Some(CloseReason::ConnectTimeout));
    assert_eq!(client.read(at(2000), &mut [0; 4]), Err(ReadError::Closed(CloseReason::ConnectTimeout)));
    assert_eq!(client.write(at(2000), b"x"), Err(WriteError::Closed(CloseReason::ConnectTimeout)));
    assert_eq!(sent(&mut client, at(2000)), []);
    assert_eq!(client.poll_timeout(), None);
}

#[test]
fn silence_ends_a_session_exactly_at_the_idle_timeout() {
    let mut end = lone(SessionConfig::fast().keepalive(None));
    end.handle_datagram(at(5_000), &segment(Push, 0, 128, 0, 0, 0, b"last words")).unwrap();
    output(&mut end, at(5_100));
    assert_eq!(end.poll_timeout(), Some(at(35_000)));
    // Refused datagrams are no sign of life, nor is an announcement from before our una.
    let _ = end.handle_datagram(at(20_000), &segment(Wins, 0, 128, 0, 0, 5, b""));
    end.handle_timeout(Timestamp::from_micros(34_999_999));
    assert!(!end.is_closed());
    end.handle_timeout(at(35_000));
    assert_eq!(end.close_reason(), Some(CloseReason::IdleTimeout));
    // What had arrived is delivered before the error, and silence is never EOF.
    let mut buf = [0; 32];
    assert_eq!(end.read(at(35_000), &mut buf), Ok(10));
    assert_eq!(end.read(at(35_000), &mut buf), Err(ReadError::Closed(CloseReason::IdleTimeout)));
    assert_eq!(
        end.handle_datagram(at(35_001), &segment(Wins, 0, 128, 0, 0, 0, b"")),
        Err(InputError::Closed(CloseReason::IdleTimeout))
    );
}

#[test]
fn a_restarted_peer_is_no_sign_of_life() {
    let mut end = lone(SessionConfig::fast().keepalive(None));
    end.write(at(0), b"x").unwrap();
    output(&mut end, at(0));
    end.handle_datagram(at(1_000), &segment(Wins, 0, 128, 0, 0, 1, b"")).unwrap();
    end.handle_datagram(at(20_000), &segment(Wins, 0, 128, 0, 0, 0, b"")).unwrap();
    end.handle_timeout(at(31_000));
    assert_eq!(end.close_reason(), Some(CloseReason::IdleTimeout));
}

#[test]
fn keepalive_keeps_two_idle_ends_alive_and_costs_little() {
    let mut link = LinkConfig::ideal();
    link.delay = Duration::from_millis(30);
    let mut pair = Pair::symmetric(SessionConfig::fast(), &link, 1);
    pair.run_for(Duration::from_secs(3600));
    assert!(pair.ends.iter().all(|end| !end.is_closed()));
    // Either end's probe and its answer restart both timers: 360 to 400 exchanges an hour, 4 wakeups each.
    assert!(pair.wakeups <= 400 * 6, "{} wakeups", pair.wakeups);
    let datagrams: u64 = pair.ends.iter().map(|end| end.stats().datagrams_sent).sum();
    assert!((700..=1700).contains(&datagrams), "{datagrams} datagrams");
}

#[test]
fn an_idle_timeout_alone_asks_often_enough_for_a_peer_that_is_only_quiet() {
    let mut link = LinkConfig::ideal();
    link.delay = Duration::from_millis(30);
    let config = |idle| SessionConfig::fast().idle_timeout(Some(Duration::from_secs(idle)));
    // The peer's own keepalive, at most every 9 s, is too late for it.
    let mut pair = Pair::new([config(3), config(30)], &link, 1);
    pair.run_for(Duration::from_secs(600));
    assert!(pair.ends.iter().all(|end| !end.is_closed()));
    let datagrams: u64 = pair.ends.iter().map(|end| end.stats().datagrams_sent).sum();
    // A question 0.9 to 1 s after the last answer, and its answer.
    assert!((1100..=1300).contains(&datagrams), "{datagrams} datagrams");
    let mut end = lone(config(3).keepalive(None));
    end.handle_timeout(at(3_000));
    assert_eq!(end.close_reason(), Some(CloseReason::IdleTimeout), "none is none");
}

#[test]
fn a_dead_peer_is_found_by_the_idle_timeout() {
    let mut pair = Pair::symmetric(SessionConfig::fast(), &LinkConfig::ideal(), 1);
    pair.run_for(Duration::from_secs(60));
    pair.links[0].set_partitioned(true);
    pair.links[1].set_partitioned(true);
    pair.run_for(Duration::from_secs(31));
    for end in &pair.ends {
        assert_eq!(end.close_reason(), Some(CloseReason::IdleTimeout));
    }
}

#[test]
fn unacknowledged_data_ends_at_the_user_timeout() {
    let mut end = lone(quiet().user_timeout(Some(Duration::from_secs(5))));
    end.write(at(1_000), b"a").unwrap();
    output(&mut end, at(1_000));
    // Signs of life without progress do not count.
    let mut now = at(1_000);
    while now < at(5_900) {
        now = end.poll_timeout().unwrap().min(now + Duration::from_millis(100));
        end.handle_datagram(now, &segment(Wins, 0, 128, 0, 0, 0, b"")).unwrap();
        end.handle_timeout(now);
        output(&mut end, now);
    }
    end.handle_timeout(Timestamp::from_micros(5_999_999));
    assert!(!end.is_closed());
    end.handle_timeout(at(6_000));
    assert_eq!(end.close_reason(), Some(CloseReason::UserTimeout));
}

#[test]
fn shutdown_drains_and_then_says_so() {
    let mut end = lone(quiet());
    end.write(at(0), b"bye").unwrap();
    end.shutdown();
    assert_eq!(end.write(at(0), b"more"), Err(WriteError::Shutdown));
    let ts = output(&mut end, at(0))[0][0].0.ts;
    assert_eq!(events(&mut end), []);
    end.handle_datagram(at(30), &segment(Ack, 0, 128, ts, 0, 1, b"")).unwrap();
    assert_eq!(events(&mut end), [Event::Drained]);
    // Reading goes on.
    end.handle_datagram(at(40), &segment(Push, 0, 128, 0, 0, 1, b"reply")).unwrap();
    assert_eq!(events(&mut end), [Event::Readable]);
    assert_eq!(end.read(at(40), &mut [0; 9]), Ok(5));
    end.shutdown();
    assert_eq!(events(&mut end), [], "once");

    let mut idle = lone(quiet());
    idle.shutdown();
    assert_eq!(events(&mut idle), [Event::Drained], "nothing to drain");
}

#[test]
fn abort_is_immediate() {
    let mut end = lone(quiet());
    end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 0, 0, b"unread")).unwrap();
    end.write(at(0), b"unsent").unwrap();
    end.abort();
    assert_eq!(sent(&mut end, at(1)), []);
    assert_eq!(end.read(at(1), &mut [0; 9]), Err(ReadError::Closed(CloseReason::Aborted)));
    assert_eq!(events(&mut end).last(), Some(&Event::Closed(CloseReason::Aborted)));
    assert_eq!(end.poll_timeout(), None);
}

#[test]
fn discarded_input_is_acknowledged() {
    let mut end = lone(quiet().recv_window(4));
    end.orphan(at(0));
    for sn in 0..100 {
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 0, &[0; 500])).unwrap();
    }
    assert_eq!(end.stats().unread_bytes, 0);
    let header = output(&mut end, at(0))[0][0].0;
    assert_eq!((header.cmd, header.una.value(), header.wnd), (Ack, 100, 4));
}

#[test]
fn a_peer_that_has_fallen_behind_what_it_acknowledged_has_no_closed_window() {
    // Found by simulation: the first life of a server had no room, the second never had what the first had acknowledged.
    use crate::wire::Command::Ack;
    let at = Timestamp::from_millis;
    for (again, expected) in [(None, Some(CloseReason::UserTimeout)), (Some(1), None)] {
        let config = quiet().user_timeout(Some(Duration::from_secs(5))).zero_window_timeout(None);
        let mut end = super::util::lone(config);
        for byte in [b"x", b"y"] {
            end.write(at(0), byte).unwrap();
            super::util::output(&mut end, at(0));
        }
        let ack = |sn, una, wnd| super::util::segment(Ack, 0, wnd, 0, sn, una, b"");
        end.handle_datagram(at(10), &ack(0, 1, 0)).unwrap();
        end.handle_datagram(at(20), &ack(1, 0, 100)).unwrap();
        super::util::output(&mut end, at(20));
        if let Some(una) = again {
            // One that was late: whoever has not fallen behind says so again, and is waited for.
            end.handle_datagram(at(4_000), &ack(1, una, 0)).unwrap();
            end.handle_timeout(at(5_020));
            end.handle_datagram(at(6_000), &ack(1, 0, 100)).unwrap();
            end.handle_timeout(at(10_999));
            end.handle_datagram(at(10_999), &ack(1, una, 0)).unwrap();
            end.handle_timeout(at(20_000));
        } else {
            end.handle_datagram(at(5_000), &ack(1, 0, 100)).unwrap();
            end.handle_timeout(at(5_019));
            assert_eq!(end.close_reason(), None);
            end.handle_timeout(at(5_020));
        }
        assert_eq!(end.close_reason(), expected);
    }
}

#[test]
fn acknowledged_and_never_delivered_is_no_progress_while_the_peer_has_room() {
    // Found by simulation: a peer that was restarted acknowledged what it could not deliver, for ever.
    for (wnd, expected) in [(100, Some(CloseReason::UserTimeout)), (0, None)] {
        let config = quiet().user_timeout(Some(Duration::from_secs(5))).zero_window_timeout(None);
        let mut end = super::util::lone(config);
        let at = Timestamp::from_millis;
        end.write(at(0), b"x").unwrap();
        super::util::output(&mut end, at(0));
        let ack = super::util::segment(crate::wire::Command::Ack, 0, wnd, 0, 0, 0, b"");
        end.handle_datagram(at(10), &ack).unwrap();
        super::util::output(&mut end, at(10));
        end.handle_timeout(at(5009));
        assert_eq!(end.close_reason(), None);
        end.handle_timeout(at(5010));
        assert_eq!(end.close_reason(), expected, "window {wnd}");
    }
}
