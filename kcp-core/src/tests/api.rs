//! What the small calls of both faces say, pinned: mutation testing found them untested.

use core::time::Duration;

use super::util::{lone, output, quiet, segment, sent};
use crate::wire::Command::{Ack, Push};
use crate::{Kcp, NoDelay, ReadError, Seed, SessionConfig, Timestamp};

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
    assert_eq!(config.connect_timeout_after(), Duration::from_secs(10));
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
