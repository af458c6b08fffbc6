//! When things leave: exact deadlines, and none when idle.

use alloc::sync::Arc;
use alloc::vec;
use core::time::Duration;

use kcp_netsim::LinkConfig;

use super::util::{lone, output, quiet, segment, sent};
use crate::wire::Command::{Ack, Push, Wins};
use crate::{NoDelay, Seed, Session, Timestamp};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn before(ms: u64) -> Timestamp {
    Timestamp::from_micros(ms * 1000 - 1)
}

#[test]
fn a_written_byte_leaves_at_once_and_again_after_its_rto() {
    let mut end = lone(quiet());
    assert_eq!(end.poll_timeout(), None);
    assert_eq!(end.write(at(0), b"x"), Ok(1));
    assert_eq!(sent(&mut end, at(0)), [(Push, 0, 1)]);
    assert_eq!(end.poll_timeout(), Some(at(200)), "initial RTO");
    assert_eq!(sent(&mut end, before(200)), []);
    assert_eq!(sent(&mut end, at(200)), [(Push, 0, 1)]);
    // A small segment once more after the same time, then x 1.5 per timeout in mode 1.
    assert_eq!(end.poll_timeout(), Some(at(400)));
    assert_eq!(sent(&mut end, at(400)), [(Push, 0, 1)]);
    assert_eq!(end.poll_timeout(), Some(at(700)));
    assert_eq!((end.stats().timeout_retransmits, end.stats().fast_retransmits), (2, 0));
}

#[test]
fn the_first_data_waits_for_as_long_as_connecting_lets_expect() {
    for (delay, rto) in [(1, 30), (10, 50), (150, 610)] {
        let link = LinkConfig { delay: Duration::from_millis(delay), ..LinkConfig::default() };
        let mut pair = super::extension::dialled(&quiet(), &link, 1);
        assert_eq!(pair.ends[0].rto().as_millis(), rto, "twice, and a tick");
        pair.run_for(Duration::from_millis(delay * 2));
        assert_eq!(pair.ends[1].rto().as_millis(), rto);
        let now = pair.now;
        for end in &mut pair.ends {
            end.write(now, &vec![7; 20 * 1376]).unwrap();
        }
        pair.run_for(Duration::from_secs(2));
        for end in &pair.ends {
            let stats = end.stats();
            assert_eq!((stats.segments_sent, stats.retransmits, stats.in_flight), (20, 0, 0));
        }
    }
}

#[test]
fn a_plain_peer_acknowledges_at_its_tick_however_soon_it_answers() {
    for (ms, rto) in [(20, 200), (300, 610), (900, 1_000)] {
        let mut client = Session::connect(77, Arc::new(quiet()), Seed::from_u64(2), at(0));
        output(&mut client, at(0));
        client.handle_datagram(at(ms), &segment(Wins, 0, 128, 0, 0, 0, b"")).unwrap();
        assert_eq!(client.rto().as_millis(), rto);
        // A sample knows better.
        client.write(at(ms), b"x").unwrap();
        let (push, _) = output(&mut client, at(ms))[0][0];
        client.handle_datagram(at(ms + 20), &segment(Ack, 0, 128, push.ts, push.sn.value(), 1, b"")).unwrap();
        assert_eq!(client.rto().as_millis(), 60);
    }
}

#[test]
fn a_large_segment_backs_off_from_the_first_timeout() {
    let mut end = lone(quiet());
    end.write(at(0), &[7; 257]).unwrap();
    sent(&mut end, at(0));
    assert_eq!(sent(&mut end, at(200)), [(Push, 0, 257)]);
    assert_eq!(end.poll_timeout(), Some(at(500)));
    assert_eq!(sent(&mut end, at(500)), [(Push, 0, 257); 2], "lost twice, and nothing else waits");
    assert_eq!(end.poll_timeout(), Some(at(950)));
}

#[test]
fn mode_0_doubles_and_gives_the_first_timeout_slack() {
    let mut end = lone(quiet().nodelay(NoDelay { nc: true, ..NoDelay::NORMAL }));
    end.write(at(0), b"x").unwrap();
    assert_eq!(sent(&mut end, at(0)).len(), 1);
    assert_eq!(end.poll_timeout(), Some(at(225)));
    assert_eq!(sent(&mut end, at(225)).len(), 1);
    assert_eq!(end.poll_timeout(), Some(at(625)));
}

#[test]
fn an_exact_echo_gives_a_sample_and_a_forged_one_does_not() {
    let mut end = lone(quiet());
    end.write(at(1000), b"x").unwrap();
    let ts = output(&mut end, at(1000))[0][0].0.ts;
    for forged in [ts.wrapping_add(1), ts.wrapping_sub(600_000), ts ^ (1 << 31)] {
        let mut end = lone(quiet());
        end.write(at(1000), b"x").unwrap();
        output(&mut end, at(1000));
        end.handle_datagram(at(1070), &segment(Ack, 0, 128, forged, 0, 0, b"")).unwrap();
        assert_eq!((end.rtt(), end.stats().mismatched_echoes), (None, 1));
    }
    // The ACK's own una covers it, as honest peers send it.
    end.handle_datagram(at(1070), &segment(Ack, 0, 128, ts, 0, 1, b"")).unwrap();
    assert_eq!(end.rtt(), Some(Duration::from_millis(70)));
    // An ACK of what was never sent moves nothing, though it counts.
    end.handle_datagram(at(5000), &segment(Ack, 0, 128, ts, 9, 1, b"")).unwrap();
    assert_eq!((end.rtt(), end.stats().ignored_acks), (Some(Duration::from_millis(70)), 1));
    assert_eq!(end.poll_timeout(), None);
}

#[test]
fn a_lone_ack_waits_a_moment_two_do_not() {
    let mut end = lone(quiet());
    end.handle_datagram(at(10), &segment(Push, 0, 128, 5, 0, 0, b"a")).unwrap();
    // turbo: interval 10 ms, a quarter of it.
    assert_eq!(end.poll_timeout(), Some(Timestamp::from_micros(12_500)));
    assert_eq!(sent(&mut end, at(10)), []);
    assert_eq!(sent(&mut end, Timestamp::from_micros(12_500)), [(Ack, 0, 0)]);
    assert_eq!(end.poll_timeout(), None);
    for sn in 1..3 {
        end.handle_datagram(at(20), &segment(Push, 0, 128, 5, sn, 0, b"a")).unwrap();
    }
    assert_eq!(sent(&mut end, at(20)), [(Ack, 2, 0)], "una covers the other");
    // Out of order: at once, each one by itself.
    end.handle_datagram(at(30), &segment(Push, 0, 128, 5, 5, 0, b"a")).unwrap();
    assert_eq!(sent(&mut end, at(30)), [(Ack, 5, 0)]);
    end.handle_datagram(at(30), &segment(Push, 0, 128, 5, 5, 0, b"a")).unwrap();
    assert_eq!(sent(&mut end, at(30)), [(Ack, 5, 0)], "a duplicate: our ACK was lost");
    // With data to ride on: at once, in the same datagram.
    end.handle_datagram(at(40), &segment(Push, 0, 128, 5, 3, 0, b"a")).unwrap();
    end.write(at(40), b"reply").unwrap();
    let datagrams = output(&mut end, at(40));
    assert_eq!(datagrams.len(), 1);
    assert_eq!(datagrams[0].iter().map(|(h, _)| h.cmd).collect::<vec::Vec<_>>(), [Push, Ack]);
}

#[test]
fn ack_nodelay_acknowledges_at_once() {
    let mut end = lone(quiet().ack_nodelay(true));
    end.handle_datagram(at(10), &segment(Push, 0, 128, 5, 0, 0, b"a")).unwrap();
    assert_eq!(sent(&mut end, at(10)), [(Ack, 0, 0)]);
}

#[test]
fn write_delay_waits_for_a_full_segment_the_interval_or_a_flush() {
    let config = || quiet().write_delay(true).mtu(124);
    let mut end = lone(config());
    end.write(at(0), &[1; 60]).unwrap();
    assert_eq!(sent(&mut end, at(0)), []);
    assert_eq!(end.poll_timeout(), Some(at(10)));
    end.write(at(5), &[2; 60]).unwrap();
    assert_eq!(sent(&mut end, at(5)), [(Push, 0, 100)], "the full one goes");
    assert_eq!(sent(&mut end, before(10)), []);
    assert_eq!(sent(&mut end, at(10)), [(Push, 1, 20)], "the rest when the interval ends");
    end.write(at(20), &[3; 10]).unwrap();
    assert_eq!(sent(&mut end, at(20)), []);
    end.flush();
    assert_eq!(sent(&mut end, at(20)), [(Push, 2, 10)]);
    end.write(at(30), &[3; 10]).unwrap();
    end.shutdown();
    assert_eq!(sent(&mut end, at(30)), [(Push, 3, 10)]);
}

#[test]
fn write_delay_holds_nothing_that_a_writer_waits_for() {
    // Found by simulation: one buffer per interval, since nothing could join what was held.
    for stream in [true, false] {
        let mut end = lone(quiet().write_delay(true).stream(stream).mtu(124).send_buffer(90));
        end.write(at(0), &[1; 80]).unwrap();
        assert_eq!(sent(&mut end, at(0)), []);
        let more = end.write(at(1), &[2; 80]);
        assert_eq!(more, if stream { Ok(10) } else { Err(crate::WriteError::Blocked) });
        if stream {
            assert_eq!(end.write(at(1), &[2; 70]), Err(crate::WriteError::Blocked));
        }
        assert_eq!(sent(&mut end, at(1)), [(Push, 0, if stream { 90 } else { 80 })]);
        assert_eq!(end.poll_event(), Some(crate::Event::Writable));
    }
}

#[test]
fn a_probe_is_answered_once_per_flush() {
    let mut end = lone(quiet());
    for _ in 0..50 {
        end.handle_datagram(at(0), &segment(crate::wire::Command::Wask, 0, 128, 5, 0, 0, b"")).unwrap();
    }
    assert_eq!(end.poll_timeout(), Some(Timestamp::ZERO));
    let datagrams = output(&mut end, at(0));
    assert_eq!(datagrams.len(), 1);
    let (header, data) = &datagrams[0][0];
    assert_eq!((header.cmd, header.wnd, data.len(), datagrams[0].len()), (Wins, 2048, 0, 1));
    assert_ne!(header.sn.value(), 0, "sn 0 would open a session elsewhere");
}

#[test]
fn what_acknowledges_a_whole_first_flight_leaves_little_doubt() {
    for (segments, doubt) in [(1, 24_000), (2, 12_000), (6, 4_000), (12, 3_000)] {
        let mut end = lone(quiet().mtu(50));
        for _ in 0..segments {
            end.write(at(0), b"x").unwrap();
            assert_eq!(sent(&mut end, at(0)).len(), 1, "one at a time, or the stream would join them");
        }
        let ack = segment(Ack, 0, 128, 0, segments - 1, segments, b"");
        end.handle_datagram(at(48), &ack).unwrap();
        let (stats, doubt) = (end.stats(), Duration::from_micros(doubt));
        assert_eq!((stats.srtt, stats.rttvar), (Some(Duration::from_millis(48)), doubt), "{segments}");
        assert_eq!(stats.rto, Duration::from_millis(48) + (doubt * 4).max(Duration::from_millis(10)));
    }
}
