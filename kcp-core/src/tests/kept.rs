//! Memory that is kept for what comes next, room in buffers, and what a session says of both.

use core::time::Duration;

use bytes::Bytes;

use super::util::{lone, output, quiet, segment, sent};
use crate::wire::Command::{Ack, Push, Wins};
use crate::{Event, Held, Session, Timestamp, WriteError};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// Everything in flight is acknowledged.
fn acknowledge(end: &mut Session, now: Timestamp) {
    let una = end.stats().segments_sent as u32;
    end.handle_datagram(now, &segment(Wins, 0, 128, 0, 0, una, b"")).unwrap();
}

#[test]
fn what_was_in_flight_is_kept_after_the_eighth_time_that_nothing_is() {
    let mut end = lone(quiet());
    // Datagrams that acknowledge nothing, or not all, do not count.
    for _ in 0..10 {
        end.handle_datagram(at(0), &segment(Wins, 0, 128, 0, 0, 0, b"")).unwrap();
    }
    for n in 1..=10u64 {
        let now = at(n * 1000);
        for _ in 0..2 {
            end.write(now, b"small").unwrap();
            output(&mut end, now);
        }
        assert_eq!(end.kept_since(), None, "in flight");
        let una = end.stats().segments_sent as u32 - 1;
        end.handle_datagram(now, &segment(Wins, 0, 128, 0, 0, una, b"")).unwrap();
        let last = now + Duration::from_millis(5);
        acknowledge(&mut end, last);
        assert_eq!(end.kept_since(), (n > 8).then_some(last), "{n}");
    }
    end.trim();
    assert_eq!(end.kept_since(), None);
    end.write(at(20_000), b"small").unwrap();
    output(&mut end, at(20_000));
    acknowledge(&mut end, at(20_001));
    assert_eq!(end.kept_since(), None, "it begins again");
}

#[test]
fn what_was_unread_is_kept_after_the_eighth_time_that_nothing_is() {
    let mut end = lone(quiet());
    for n in 0..10u32 {
        let now = at(u64::from(n) * 1000);
        end.handle_datagram(now, &segment(Push, 0, 128, 0, n, 0, b"x")).unwrap();
        assert_eq!(end.read(now, &mut [0; 9]), Ok(1));
        assert_eq!(end.kept_since(), (n >= 8).then_some(now), "{n}");
    }
}

/// Of holes both the segments behind them and their acknowledgements; many of the latter are given back at once.
#[test]
fn what_waited_behind_a_hole_is_kept() {
    let mut end = lone(quiet().recv_window(2000));
    for sn in 1..1000 {
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 0, b"x")).unwrap();
    }
    for _ in 0..2 {
        output(&mut end, at(0));
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 999, 0, b"x")).unwrap();
    }
    end.handle_datagram(at(9), &segment(Push, 0, 128, 0, 0, 0, b"x")).unwrap();
    for _ in 0..2 {
        output(&mut end, at(9));
    }
    assert_eq!(end.read(at(9), &mut [0; 2000]), Ok(1000));
    assert_eq!(end.kept_since(), Some(at(9)));
    end.trim();
    assert_eq!(end.kept_since(), None);
}

#[test]
fn a_stream_has_room_by_its_bytes_messages_by_what_they_cost() {
    // Two pieces wait: of a stream only their bytes count.
    let mut end = lone(quiet().send_buffer(200));
    end.write(at(0), &[0; 50]).unwrap();
    end.limit_buffers(Held { received: 9, sent: 100 });
    assert_eq!(end.write(at(0), &[0; 60]), Ok(50));
    assert_eq!(end.write(at(0), b"x"), Err(WriteError::Blocked));
    end.limit_buffers(Held { received: 9, sent: 100 });
    assert_eq!(end.poll_event(), None);
    end.limit_buffers(Held { received: 9, sent: 101 });
    assert_eq!(end.poll_event(), Some(Event::Writable));
    // A message that would fit is refused where there is no buffer at all.
    let mut end = lone(quiet().stream(false));
    end.write(at(0), &[0; 10]).unwrap();
    output(&mut end, at(0));
    end.limit_buffers(Held { received: 9, sent: 10 });
    assert_eq!(end.send_msg(at(0), Bytes::from_static(b"x")), Err(WriteError::Blocked));
    end.limit_buffers(Held { received: 9, sent: 11 });
    assert_eq!(end.send_msg(at(0), Bytes::from_static(b"xyz")), Ok(()));
}

#[test]
fn whoever_asks_is_told_of_room() {
    let mut end = lone(quiet().send_buffer(3));
    end.want_write();
    output(&mut end, at(0));
    end.write(at(0), b"abc").unwrap();
    assert_eq!(end.poll_event(), None);
    end.want_write();
    output(&mut end, at(0));
    assert_eq!(end.poll_event(), Some(Event::Writable));
}

#[test]
fn whoever_was_invited_to_send_what_there_is_no_room_for_is_told() {
    let push = |sn| segment(Push, 0, 128, 0, sn, 0, &[0; 100]);
    let refused = |end: &mut Session, sn| {
        let before = end.stats().beyond_window;
        end.handle_datagram(at(1), &push(sn)).unwrap();
        assert_eq!(end.stats().beyond_window, before + 1);
        sent(end, at(1)).contains(&(Wins, 1, 0))
    };
    let mut end = lone(quiet().recv_buffer(1000).recv_window(20));
    for sn in 0..10 {
        end.handle_datagram(at(0), &push(sn)).unwrap();
    }
    output(&mut end, at(1));
    assert!(refused(&mut end, 10));
    assert!(!refused(&mut end, 30), "nobody was");
    // What is missing would still be taken, so the window is open.
    let mut end = lone(quiet().recv_buffer(1000).recv_window(20));
    for sn in 1..11 {
        end.handle_datagram(at(0), &push(sn)).unwrap();
    }
    output(&mut end, at(1));
    assert!(!refused(&mut end, 11));
    end.handle_datagram(at(2), &push(0)).unwrap();
    assert_eq!(end.stats().unread_bytes, 1100);
}

/// The announcement is repeated at its time, whatever else there is to do.
#[test]
fn an_announcement_that_brings_nothing_is_repeated() {
    let mut end = lone(quiet().recv_window(1));
    end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 0, 0, b"x")).unwrap();
    assert_eq!(sent(&mut end, at(5)), [(Ack, 0, 0)]);
    end.read(at(10), &mut [0; 1]).unwrap();
    assert_eq!(sent(&mut end, at(10)), [(Wins, 1, 0)]);
    for due in [210, 610, 1410] {
        assert_eq!(sent(&mut end, at(due - 1)), []);
        assert_eq!(end.poll_timeout(), Some(at(due)));
        assert_eq!(sent(&mut end, at(due)), [(Wins, 1, 0)]);
    }
}
