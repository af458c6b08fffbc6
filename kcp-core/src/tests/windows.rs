//! Flow control: zero windows, slow readers, lost announcements.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use kcp_netsim::LinkConfig;

use super::util::{Pair, lone, output, pattern, quiet, segment, sent};
use crate::wire::Command::{Ack, Push, Wask, Wins};
use crate::{CloseReason, Held, ReadError, Timestamp, WriteError};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn link(delay: u64) -> LinkConfig {
    let mut link = LinkConfig::ideal();
    link.delay = Duration::from_millis(delay);
    link
}

#[test]
fn a_sleeping_reader_closes_the_window_and_nothing_is_lost() {
    for lost_announcements in [0, 1, 2, 3] {
        let config =
            quiet().recv_window(32).send_window(64).mtu(524).send_buffer(1 << 20).zero_window_timeout(None);
        let mut pair = Pair::symmetric(config, &link(25), 5);
        let data = pattern(200_000, 5);
        let now = pair.now;
        assert_eq!(pair.ends[0].write(now, &data), Ok(data.len()));
        pair.run_for(Duration::from_secs(300));
        assert_eq!(pair.ends[1].stats().unread_bytes, 32 * 500, "a full window and no more");
        assert_eq!(pair.ends[1].stats().beyond_window, 0);
        // The reader wakes up; its first announcements are lost.
        let woke = pair.now;
        let mut got = vec![];
        let mut buf = vec![0; 100_000];
        let mut first = None;
        let mut lost = 0;
        pair.links[1].set_partitioned(lost_announcements > 0);
        pair.drive(Duration::from_secs(100), |pair| {
            let now = pair.now;
            if pair.ends[1].stats().announcements_sent >= lost_announcements && lost == 0 {
                lost = 1;
                pair.links[1].set_partitioned(false);
            }
            while let Ok(n) = pair.ends[1].read(now, &mut buf) {
                if now > woke && first.is_none() {
                    first = Some(now.saturating_since(woke));
                }
                got.extend_from_slice(&buf[..n]);
            }
            pair.drain_both();
            got.len() == data.len()
        });
        assert_eq!(got, data);
        // One round trip; each lost announcement doubles the wait, which starts at the RTO (here 60 to 200 ms).
        let limit = [60, 300, 700, 1500][lost_announcements as usize];
        assert!(first.unwrap() <= Duration::from_millis(limit), "{lost_announcements} lost: {first:?}");
    }
}

#[test]
fn probes_follow_a_closed_window_and_time_out() {
    let mut end = lone(quiet().zero_window_timeout(Some(Duration::from_secs(3))));
    end.handle_datagram(at(0), &segment(Wins, 0, 0, 0, 0, 0, b"")).unwrap();
    assert_eq!(end.poll_timeout(), None, "nothing waits, so nothing is asked");
    end.write(at(100), b"x").unwrap();
    assert_eq!(sent(&mut end, at(100)), []);
    assert_eq!(end.poll_timeout(), Some(at(600)));
    assert_eq!(sent(&mut end, at(600)), [(Wask, 1, 0)]);
    assert_eq!(end.poll_timeout(), Some(at(1350)));
    // The answer says it is still closed.
    end.handle_datagram(at(650), &segment(Wins, 0, 0, 0, 0, 0, b"")).unwrap();
    assert_eq!(end.poll_timeout(), Some(at(1350)));
    assert_eq!(sent(&mut end, at(1350)), [(Wask, 1, 0)]);
    end.handle_timeout(Timestamp::from_micros(3_099_999));
    assert_eq!(end.close_reason(), None);
    end.handle_timeout(at(3100));
    assert_eq!(end.close_reason(), Some(CloseReason::ZeroWindowTimeout));
}

#[test]
fn an_open_window_lets_data_go() {
    let mut end = lone(quiet());
    end.handle_datagram(at(0), &segment(Wins, 0, 0, 0, 0, 0, b"")).unwrap();
    end.write(at(0), b"x").unwrap();
    assert_eq!(sent(&mut end, at(0)), []);
    end.handle_datagram(at(10), &segment(Wins, 0, 1, 0, 0, 0, b"")).unwrap();
    assert_eq!(sent(&mut end, at(10)), [(Push, 0, 1)]);
}

#[test]
fn a_reordered_old_window_is_not_believed() {
    let mut end = lone(quiet());
    end.write(at(0), b"x").unwrap();
    output(&mut end, at(0));
    end.handle_datagram(at(10), &segment(Wins, 0, 64, 0, 0, 1, b"")).unwrap();
    end.handle_datagram(at(11), &segment(Wins, 0, 0, 0, 0, 0, b"")).unwrap();
    assert_eq!(end.stats().peer_window, 64);
}

#[test]
fn writes_block_at_the_send_buffer_and_wake_when_it_drains() {
    let mut pair = Pair::symmetric(quiet().send_buffer(10_000).send_window(4), &link(10), 0);
    let now = pair.now;
    assert_eq!(pair.ends[0].write(now, &[1; 30_000]), Ok(10_000));
    assert_eq!(pair.ends[0].write(now, b"more"), Err(WriteError::Blocked));
    assert!(!pair.ends[0].is_writable());
    pair.drain(0);
    assert_eq!(pair.events[0], [crate::Event::Writable], "four segments left the buffer");
    assert_eq!(pair.ends[0].write(now, &[2; 30_000]), Ok(4 * 1376));
}

#[test]
fn the_byte_budget_holds() {
    let mut end = lone(quiet().recv_buffer(1000).recv_window(100));
    for sn in 0..50u32 {
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 0, &[1; 100])).unwrap();
    }
    let stats = end.stats();
    assert_eq!((stats.unread_bytes, stats.beyond_window), (1000, 40));
    let wnd = output(&mut end, at(0))[0][0].0.wnd;
    assert_eq!(wnd, 0);
    let mut buf = [0; 5000];
    assert_eq!(end.read(at(1), &mut buf), Ok(1000));
    assert_eq!(end.read(at(1), &mut buf), Err(ReadError::Empty));
    assert_eq!(sent(&mut end, at(1)), [(Wins, 1, 0)], "room again");
}

#[test]
fn what_is_held_beyond_a_hole_takes_no_second_place_in_the_window() {
    // The window begins at the hole, so what is held is within it.
    let push = |sn: u32| segment(Push, 0, 128, 0, sn, 0, &[1; 100]);
    let told = |end: &mut crate::Session| output(end, at(100))[0][0].0.wnd;
    let mut end = lone(quiet().mtu(124).recv_buffer(1000).recv_window(100));
    for sn in 1..=6 {
        end.handle_datagram(at(0), &push(sn)).unwrap();
    }
    assert_eq!(told(&mut end), 10);
    for sn in [7, 8, 9, 0] {
        end.handle_datagram(at(0), &push(sn)).unwrap();
    }
    assert_eq!((end.stats().unread_bytes, end.stats().beyond_window), (1000, 0), "all that was invited fits");
    // So does what is missing before the last that is held, and not one more.
    let mut end = lone(quiet().mtu(124).recv_buffer(1000).recv_window(100));
    for sn in [1, 2, 3, 4, 5, 11] {
        end.handle_datagram(at(0), &push(sn)).unwrap();
    }
    assert_eq!(told(&mut end), 4, "six are missing before sn 11, there is room for four");
    let mut end = lone(quiet().mtu(124).recv_buffer(1000).recv_window(100));
    for sn in [1, 2, 3, 4, 5, 9] {
        end.handle_datagram(at(0), &push(sn)).unwrap();
    }
    assert_eq!(told(&mut end), 10);
}

#[test]
fn a_message_larger_than_the_budget_still_completes() {
    let mut end = lone(quiet().stream(false).recv_buffer(1000));
    for frg in (0..20u8).rev() {
        let sn = u32::from(19 - frg);
        end.handle_datagram(at(0), &segment(Push, frg, 128, 0, sn, 0, &[frg; 100])).unwrap();
    }
    assert_eq!(end.recv_msg(at(0)).unwrap().len(), 2000);
}

#[test]
fn lowered_buffers_hold_both_directions_and_nothing_is_lost() {
    let config = quiet().stream(true).recv_window(512).send_window(512).mtu(524).send_buffer(1 << 20);
    let mut pair = Pair::symmetric(config.zero_window_timeout(None), &link(10), 9);
    let data = pattern(400_000, 9);
    pair.ends[1].limit_buffers(Held { received: 10_000, sent: 1 << 30 });
    pair.ends[0].limit_buffers(Held { received: 1 << 30, sent: 50_000 });
    let now = pair.now;
    assert_eq!(pair.ends[0].write(now, &data), Ok(50_000), "the sender's limit, exactly");
    assert_eq!(pair.ends[0].write(now, &data), Err(WriteError::Blocked));
    pair.run_for(Duration::from_secs(20));
    let held = pair.ends[1].held();
    assert!((9_500..=10_000).contains(&held.received), "{held:?}");
    assert_eq!(
        pair.ends[0].held().sent,
        50_000 - held.received,
        "nothing is discarded that was acknowledged"
    );
    // What is in flight counts.
    pair.ends[0].limit_buffers(Held { received: 1 << 30, sent: 1_000 });
    assert!(!pair.ends[0].is_writable());
    assert_eq!(pair.ends[0].write(now, &data[50_000..]), Err(WriteError::Blocked));
    assert_eq!(pair.ends.each_ref().map(|end| end.close_reason()), [None, None]);
    for end in &mut pair.ends {
        end.limit_buffers(Held { received: usize::MAX, sent: usize::MAX });
    }
    let mut written = 50_000;
    let (mut got, mut buf) = (vec![], vec![0; 100_000]);
    pair.drive(Duration::from_secs(60), |pair| {
        let now = pair.now;
        if let Ok(n) = pair.ends[0].write(now, &data[written..]) {
            written += n;
        }
        while let Ok(n) = pair.ends[1].read(now, &mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        pair.drain_both();
        got.len() == data.len()
    });
    assert_eq!(got, data);
}

#[test]
fn the_window_counts_in_the_peers_segments_where_those_are_longer() {
    // Found by simulation: a peer with a larger mtu was invited to send twenty times what there was room for, and sent it
    // again and again with ever longer timeouts.
    let mut end = lone(quiet().mtu(100).recv_buffer(10_000));
    end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 0, 0, &[1; 1000])).unwrap();
    let ack = output(&mut end, at(10)).remove(0).remove(0).0;
    assert_eq!((ack.wnd, ack.una.value()), (9, 1), "of 1000 bytes each");
}

#[test]
fn a_read_that_skips_empty_messages_finds_what_their_room_let_in() {
    // Found by simulation: the reader was told nothing of what came in order when the empty ones had gone.
    let mut end = lone(quiet().stream(false).recv_window(2));
    for sn in 0..2 {
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 0, b"")).unwrap();
    }
    end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 2, 0, b"x")).unwrap();
    end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 3, 0, b"y")).unwrap();
    assert_eq!(end.una().value(), 2);
    let mut buf = [0; 5];
    assert_eq!(end.read(at(1), &mut buf), Ok(1));
    assert_eq!((buf[0], end.una().value()), (b'x', 4));
    assert_eq!(end.read(at(1), &mut buf), Ok(1));
    assert_eq!(end.read(at(1), &mut buf), Err(ReadError::Empty));
}

#[test]
fn after_an_abort_nothing_is_read_from_behind_what_was_thrown_away() {
    // Found by simulation: the room of what was thrown away let in what had waited for it.
    let mut end = lone(quiet().recv_window(2));
    for sn in 0..4 {
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 0, b"x")).unwrap();
    }
    assert_eq!(end.una().value(), 2);
    end.abort();
    assert_eq!(end.read(at(1), &mut [0; 9]), Err(ReadError::Closed(CloseReason::Aborted)));
    assert_eq!(end.held().received, 0);
    // What arrived in order before another end is still there, all of it.
    let mut end = lone(quiet().recv_window(2));
    for sn in 0..4 {
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 0, b"x")).unwrap();
    }
    end.disconnect();
    let mut total = 0;
    while let Ok(n) = end.read(at(1), &mut [0; 9]) {
        total += n;
    }
    assert_eq!(total, 4);
}

#[test]
fn an_ended_session_whose_reader_is_gone_holds_nothing() {
    // Found by simulation: what nobody could have read yet stayed as long as something knew of the session.
    for stream in [true, false] {
        let mut end = lone(quiet().stream(stream));
        // In order, the beginning of a message where there are such, and behind a hole.
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 0, 0, b"x")).unwrap();
        end.handle_datagram(at(0), &segment(Push, 1, 128, 0, 1, 0, b"y")).unwrap();
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 3, 0, b"z")).unwrap();
        end.disconnect();
        assert_eq!(end.held().received, 3, "a reader may still want it");
        end.orphan(at(1));
        assert_eq!((end.held().received, end.close_reason()), (0, Some(CloseReason::Aborted)));
        assert_eq!(end.read(at(1), &mut [0; 9]), Err(ReadError::Closed(CloseReason::Aborted)));
    }
}

#[test]
fn repetitions_into_a_closed_window_do_not_make_a_dead_link() {
    let mut end = lone(quiet().dead_link(5).user_timeout(None).zero_window_timeout(None));
    end.write(at(0), b"there is no room").unwrap();
    assert_eq!(sent(&mut end, at(0)), [(Push, 0, 16)]);
    let mut now = at(1);
    end.handle_datagram(now, &segment(Wins, 0, 0, 0, 1, 0, b"")).unwrap();
    let (mut repeated, mut last, mut gap) = (0, now, Duration::ZERO);
    while repeated < 50 {
        now = end.poll_timeout().unwrap();
        end.handle_timeout(now);
        for _ in sent(&mut end, now).iter().filter(|(cmd, ..)| *cmd == Push) {
            (repeated, last, gap) = (repeated + 1, now, now.saturating_since(last));
        }
        assert_eq!(end.close_reason(), None, "after {repeated}");
    }
    assert_eq!(gap, Duration::from_secs(2), "nothing hurries");
    // With room, silence is what it is.
    end.handle_datagram(now, &segment(Wins, 0, 9, 0, 1, 0, b"")).unwrap();
    repeated = 0;
    while end.close_reason().is_none() {
        repeated += sent(&mut end, now).iter().filter(|(cmd, ..)| *cmd == Push).count();
        now = end.poll_timeout().unwrap_or(now);
        end.handle_timeout(now);
    }
    // Three count: at once, and when two timeouts of two seconds have ended. Within either it asks three times.
    assert_eq!((repeated, end.close_reason()), (3 + 2 * 3, Some(CloseReason::DeadLink)));
}

#[test]
fn timeouts_into_a_closed_window_wake_nobody() {
    for window in [0, 1, 2] {
        let mut end = lone(quiet().user_timeout(None).zero_window_timeout(None));
        for i in 0..20u32 {
            let now = at(i.into());
            end.write(now, b"x").unwrap();
            assert_eq!(sent(&mut end, now), [(Push, i, 1)]);
        }
        end.handle_datagram(at(20), &segment(Wins, 0, window, 0, 1, 0, b"")).unwrap();
        let (mut now, mut for_nothing) = (at(20), 0);
        while now < at(10_000) {
            now = end.poll_timeout().unwrap();
            end.handle_timeout(now);
            let all = sent(&mut end, now);
            for_nothing += u32::from(all.is_empty());
            assert!(all.iter().all(|&(cmd, sn, _)| cmd == Wask || sn < u32::from(window.max(1))), "{all:?}");
        }
        assert_eq!(for_nothing, 1, "the first that finds no room, window {window}");
        // With room all of them leave, in order.
        end.handle_datagram(now, &segment(Wins, 0, 64, 0, 1, 0, b"")).unwrap();
        let sns: Vec<_> = sent(&mut end, now).into_iter().map(|(_, sn, _)| sn).collect();
        let first = u32::from(window.max(1));
        assert!(sns.ends_with(&(first..20).collect::<Vec<_>>()), "{sns:?}");
    }
}

#[test]
fn whoever_finds_the_window_closed_asks_although_nothing_else_is_due() {
    // All that arrived is acknowledged one by one by a peer whose reader sleeps: the first segment waits for nothing.
    for lost in [1, 2] {
        let mut end = lone(quiet().keepalive(None).user_timeout(None).zero_window_timeout(None));
        for i in 0..4u32 {
            end.write(at(i.into()), b"x").unwrap();
            assert_eq!(sent(&mut end, at(i.into())), [(Push, i, 1)]);
        }
        for sn in 0..4 - lost {
            end.handle_datagram(at(10), &segment(Ack, 0, 0, sn, sn, 0, b"")).unwrap();
        }
        let mut asked = None;
        while let Some(now) = end.poll_timeout().filter(|&now| now < at(2_000)) {
            end.handle_timeout(now);
            let all = sent(&mut end, now);
            assert!(all.iter().all(|&(cmd, ..)| cmd == Wask), "{all:?}");
            asked = asked.or(Some(now).filter(|_| !all.is_empty()));
        }
        let asked = asked.expect("nobody asks");
        assert!(asked < at(1_000), "{asked:?}");
        // There is room again, and the answer says so.
        end.handle_datagram(asked, &segment(Wins, 0, 9, 0, 1, 0, b"")).unwrap();
        assert_eq!(sent(&mut end, asked).len(), lost as usize);
    }
}
