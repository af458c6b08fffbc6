//! What the small calls of both faces say, pinned: mutation testing found them untested.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::util::{lone, output, quiet, segment, sent};
use crate::wire::Command::{self, Ack, Push};
use crate::wire::Segments;
use crate::{Held, Kcp, NoDelay, ReadError, RecvError, Seed, SessionConfig, Timestamp, WriteError};

const NOW: Timestamp = Timestamp::from_millis(50);

#[test]
fn the_classic_face_says_what_it_was_told() {
    let mut kcp = Kcp::new(0xABCD);
    assert_eq!(kcp.conv(), 0xABCD);
    kcp.set_mtu(50).unwrap();
    kcp.nodelay(1, 10, 2, 1);
    kcp.wndsize(3, 0);
    kcp.send(&[1; 26 * 10]).unwrap();
    kcp.update(0);
    assert_eq!((kcp.stats().in_flight, kcp.waitsnd()), (3, 10), "the send window");
    let first = kcp.poll_output().unwrap();
    assert_eq!(first[6..8], [128, 0], "0 keeps the receive window");
    kcp.wndsize(0, 300);
    kcp.wndsize(0, 0);
    kcp.flush();
    let mut told = Kcp::new(0xABCD);
    told.wndsize(0, 300);
    told.send(b"x").unwrap();
    told.update(0);
    assert_eq!(told.poll_output().unwrap()[6..8], 300u16.to_le_bytes());
    assert_eq!(kcp.stats().segments_sent, 3, "0 keeps the send window");
}

#[test]
fn a_fast_limit_leaves_the_rest_to_the_timeout() {
    for (limit, fast) in [(0, 6), (1, 1), (5, 5)] {
        let mut kcp = Kcp::new(77);
        kcp.nodelay(1, 10, 1, 1);
        kcp.set_min_rto(50_000);
        kcp.wndsize(128, 128);
        kcp.set_fast_limit(limit);
        kcp.update(0);
        kcp.send(b"lost").unwrap();
        kcp.flush();
        for sn in 1..=6 {
            let now = sn * 10;
            kcp.update(now);
            kcp.send(b"arrives").unwrap();
            kcp.flush();
            // Sent after the latest transmission of the lost one, acknowledged before it.
            kcp.input(&segment(Ack, 0, 128, now, sn, 0, b"")).unwrap();
            kcp.flush();
        }
        assert_eq!(kcp.stats().fast_retransmits, fast, "limit {limit}");
    }
}

#[test]
fn presets_and_what_a_configuration_tells() {
    let config = SessionConfig::realtime();
    assert_eq!((config.redundancy, config.nodelay), (3, NoDelay::TURBO));
    assert_eq!((config.mtu_bytes(), config.mss()), (1400, 1376));
    let config = SessionConfig::fast().mtu(1000).recv_window(9).stream(false).linger(Duration::from_secs(3));
    assert_eq!((config.mtu_bytes(), config.mss(), config.recv_window_segments()), (1000, 976, 9));
    assert!(!config.is_stream() && SessionConfig::fast().is_stream());
    assert_eq!(config.linger_time(), Duration::from_secs(3));
    let config = SessionConfig::normal().fast_limit(3).pacing(false);
    assert_eq!((config.fast_limit, config.pacing, config.nodelay.nodelay), (3, false, 0));
    assert_eq!(config.recv_buffer(7).send_buffer(8).buffers(), Held { received: 7, sent: 8 });
    assert_eq!(SessionConfig::fast().connect_timeout_after(), Duration::from_secs(10));
}

/// All that the classic face wants to send now: (cmd, frg, payload length).
fn classic(kcp: &mut Kcp) -> Vec<(Command, u8, usize)> {
    kcp.flush();
    let all: Vec<_> = core::iter::from_fn(|| kcp.poll_output()).collect();
    let segments = all.iter().flat_map(|datagram| Segments::parse(datagram, 77).unwrap());
    segments.map(|(header, payload)| (header.cmd, header.frg, payload.len())).collect()
}

#[test]
fn the_classic_face_joins_bytes_in_stream_mode_and_keeps_messages_without() {
    for stream in [false, true] {
        let mut kcp = Kcp::new(77);
        kcp.set_stream(stream);
        kcp.update(0);
        for n in [1000, 400] {
            kcp.send(&vec![0; n]).unwrap();
        }
        // A window of one segment, for the first round trip.
        let first = if stream { 1376 } else { 1000 };
        assert_eq!(classic(&mut kcp), [(Push, 0, first)]);
        assert_eq!(kcp.send(&[0; 1376 * 127]), Ok(1376 * 127));
        let longer = kcp.send(&[0; 1376 * 127 + 1]);
        let limit = 1376 * 127;
        assert_eq!(longer, if stream { Ok(limit + 1) } else { Err(WriteError::TooLarge { limit }) });
    }
}

#[test]
fn the_classic_face_takes_an_empty_message_once() {
    let mut kcp = Kcp::new(77);
    for (sn, payload) in [b"".as_slice(), b"ab"].into_iter().enumerate() {
        kcp.input(&segment(Push, 0, 128, 0, sn as u32, 0, payload)).unwrap();
    }
    let mut buf = [0; 2];
    assert_eq!(kcp.recv(&mut buf), Ok(0));
    assert_eq!(kcp.recv(&mut buf[..1]), Err(RecvError::BufferTooSmall { need: 2 }));
    assert_eq!((kcp.recv(&mut buf), &buf), (Ok(2), b"ab"));
    assert_eq!(kcp.recv(&mut buf), Err(RecvError::Empty));
}

#[test]
fn the_classic_face_has_a_floor_of_its_own_under_the_timeout() {
    let mut kcp = Kcp::new(77);
    kcp.nodelay(1, 10, 0, 1);
    kcp.set_min_rto(300);
    kcp.update(0);
    kcp.send(b"x").unwrap();
    kcp.flush();
    kcp.input(&segment(Ack, 0, 128, 0, 0, 1, b"")).unwrap();
    assert_eq!(kcp.stats().rto, Duration::from_millis(300));
}

/// With nothing queued behind them, one skipped ACK is enough.
#[test]
fn the_classic_face_sends_again_early_if_told() {
    for (early, again) in [(false, 0), (true, 1)] {
        let mut kcp = Kcp::new(77);
        kcp.nodelay(1, 10, 2, 1);
        kcp.set_early_retransmit(early);
        kcp.update(0);
        for _ in 0..2 {
            kcp.send(b"x").unwrap();
        }
        assert_eq!(classic(&mut kcp).len(), 2);
        kcp.input(&segment(Ack, 0, 128, 0, 1, 0, b"")).unwrap();
        assert_eq!(classic(&mut kcp).len(), again);
    }
}

/// As `ikcp_update`: a tick follows the one before, unless it has passed as well.
#[test]
fn ticks_that_were_missed_are_not_made_up_for() {
    for (late, next) in [(100, 200), (150, 200), (199, 200), (200, 300), (350, 450)] {
        let mut kcp = Kcp::new(77);
        kcp.update(0);
        assert_eq!(kcp.check(0), 100);
        kcp.update(late);
        assert_eq!(kcp.check(late), next, "{late}");
    }
}

/// A seed stored with a failure must give the same run for ever.
#[test]
fn seeds_are_what_they_were() {
    let seed = Seed::from_u64(0x0123_4567_89AB_CDEF);
    assert_eq!((seed.ts_offset, seed.jitter), (0x89AB_CDEF, 0x0123_4567));
    // splitmix64's published finaliser: the first three outputs of its generator for the seed 0.
    let mut state = 0;
    let outputs = core::array::from_fn(|_| crate::seed::next_nonce(&mut state));
    assert_eq!(outputs, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F]);
    assert_eq!((seed.ping, seed.path), (0x066B_B9DD_A109_F353, 0x2887_71B5_0520_A675));
    assert_ne!(seed.token, seed.ping);
    assert_ne!(seed.ping, seed.path);
    assert_ne!(seed.token, Seed::from_u64(0x0123_4567_89AB_CDEE).token);
}

#[test]
fn write_delay_can_be_switched() {
    let mut end = lone(quiet());
    end.set_write_delay(true);
    end.write(NOW, b"waits").unwrap();
    assert_eq!(sent(&mut end, NOW), []);
    end.set_write_delay(false);
    end.write(NOW, b" no longer").unwrap();
    assert_eq!(sent(&mut end, NOW), [(Push, 0, 15)]);
}

#[test]
fn reading_ahead_and_readiness() {
    let mut end = lone(quiet());
    assert_eq!(end.peek(&mut []), Err(ReadError::Empty));
    assert_eq!(end.peek_len(), None);
    assert!(!end.is_readable() && !end.is_read_ready());
    end.handle_datagram(NOW, &segment(Push, 0, 128, 0, 0, 0, b"abc")).unwrap();
    assert_eq!(end.peek(&mut []), Ok(0));
    assert_eq!(end.peek(&mut [0; 2]), Ok(2));
    assert_eq!(end.peek_len(), Some(3));
    assert!(end.is_readable() && end.is_read_ready());

    let mut end = lone(quiet().send_buffer(3).send_window(1));
    assert!(end.is_writable() && end.is_write_ready() && !end.is_shutdown());
    end.write(NOW, b"abc").unwrap();
    assert!(!end.is_writable() && !end.is_write_ready(), "full");
    output(&mut end, NOW);
    assert!(end.is_writable() && end.is_write_ready(), "in flight does not count");
    end.shutdown();
    assert!(end.is_shutdown() && !end.is_writable());
    assert!(end.is_write_ready(), "the error comes without waiting");
}

/// Nothing to do: delivered, acknowledged, and nobody there.
#[test]
fn done_is_all_of_it() {
    let mut end = lone(quiet());
    assert!(!end.is_done(), "somebody is there");
    end.write(NOW, b"x").unwrap();
    end.orphan(NOW);
    output(&mut end, NOW);
    assert!(!end.is_done(), "not acknowledged");
    end.handle_datagram(NOW, &segment(Push, 0, 128, 0, 0, 1, b"y")).unwrap();
    assert!(!end.is_done() && end.owes_acks(), "nor have we");
    let later = NOW + Duration::from_millis(10);
    output(&mut end, later);
    assert!(end.is_done() && !end.owes_acks());
}

/// Two lone segments, each with an ACK's delay of its own; a third that makes it two at once.
#[test]
fn a_lone_segment_is_acknowledged_later_two_are_at_once() {
    let mut end = lone(quiet().nodelay(NoDelay { interval: Duration::from_millis(20), ..NoDelay::TURBO }));
    end.handle_datagram(NOW, &segment(Push, 0, 128, 7, 0, 0, b"a")).unwrap();
    assert_eq!(sent(&mut end, NOW), []);
    let due = NOW + Duration::from_millis(5);
    assert_eq!(end.poll_timeout(), Some(due));
    assert_eq!(sent(&mut end, due), [(Ack, 0, 0)]);
    end.handle_datagram(due, &segment(Push, 0, 128, 7, 1, 0, b"b")).unwrap();
    assert_eq!(sent(&mut end, due), []);
    end.handle_datagram(due, &segment(Push, 0, 128, 7, 2, 0, b"c")).unwrap();
    assert_eq!(sent(&mut end, due), [(Ack, 2, 0)]);
    // A copy beside something new is no reason to hurry, alone it is.
    let both = [segment(Push, 0, 128, 7, 2, 0, b"c"), segment(Push, 0, 128, 7, 3, 0, b"d")].concat();
    end.handle_datagram(due, &both).unwrap();
    assert_eq!(sent(&mut end, due), []);
    end.handle_datagram(due, &segment(Push, 0, 128, 7, 3, 0, b"d")).unwrap();
    assert!(!sent(&mut end, due).is_empty());
}

/// The newest of the transmissions that one datagram acknowledges gives the sample.
#[test]
fn the_latest_transmission_gives_the_sample() {
    let at = Timestamp::from_millis;
    let mut end = lone(quiet());
    for ms in [0, 40] {
        end.write(at(ms), b"x").unwrap();
        output(&mut end, at(ms));
    }
    let acks = [(40, 1), (0, 0)].map(|(ts, sn)| segment(Ack, 0, 128, ts, sn, 2, b""));
    end.handle_datagram(at(100), &acks.concat()).unwrap();
    assert_eq!(end.rtt(), Some(Duration::from_millis(60)));
}
