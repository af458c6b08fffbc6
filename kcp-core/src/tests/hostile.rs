//! What a stranger or a broken peer may send: refused, counted, and without consequence.

use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;

use super::util::{Rng, lone, output, pattern, quiet, segment, sent};
use crate::wire::Command::{Ack, Push, Wask, Wins};
use crate::{CloseReason, InputError, ReadError, SessionConfig, Timestamp, WriteError};

const NOW: Timestamp = Timestamp::from_millis(50);

#[test]
fn una_beyond_what_was_sent_empties_nothing() {
    for forged in [2, 1000, (1 << 31) - 1] {
        for cmd in [Push, Ack, Wask, Wins] {
            let mut end = lone(quiet());
            end.write(NOW, b"x").unwrap();
            output(&mut end, NOW);
            let datagram = segment(cmd, 0, 128, 0, 0, forged, b"");
            assert_eq!(end.handle_datagram(NOW, &datagram), Err(InputError::UnaBeyondSent));
            assert_eq!((end.stats().in_flight, end.stats().rejected_una), (1, 1));
            assert_eq!(end.recv_msg(NOW), Err(ReadError::Empty));
        }
    }
    // Exactly what was sent is fine, and an old one is ignored.
    let mut end = lone(quiet());
    end.write(NOW, b"x").unwrap();
    output(&mut end, NOW);
    end.handle_datagram(NOW, &segment(Wins, 0, 128, 0, 0, u32::MAX, b"")).unwrap();
    assert_eq!(end.stats().in_flight, 1);
    end.handle_datagram(NOW, &segment(Wins, 0, 128, 0, 0, 1, b"")).unwrap();
    assert_eq!(end.stats().in_flight, 0);
}

#[test]
fn a_bad_segment_spoils_the_whole_datagram() {
    let good = segment(Push, 0, 128, 0, 0, 0, b"data");
    let mut other_conv = good.clone();
    other_conv[0] ^= 1;
    let mut bad_cmd = good.clone();
    bad_cmd[4] = 99;
    let mut long = good.clone();
    long[20] = 200;
    for (bad, error) in [
        (other_conv, InputError::ConvMismatch { found: 76 }),
        (bad_cmd, InputError::UnknownCommand(99)),
        (long, InputError::Truncated { len: 200 }),
        (segment(Push, 0, 128, 0, 1, 7, b""), InputError::UnaBeyondSent),
    ] {
        let mut end = lone(quiet());
        let datagram = [good.clone(), bad].concat();
        assert_eq!(end.handle_datagram(NOW, &datagram), Err(error));
        assert!(!end.is_readable() && end.stats().datagrams_received == 0);
        assert_eq!(sent(&mut end, NOW), []);
        end.handle_datagram(NOW, &good).unwrap();
        assert!(end.is_readable());
    }
}

#[test]
fn zero_length_segments_neither_stall_nor_end_anything() {
    let mut end = lone(quiet());
    for (sn, data) in [b"".as_slice(), b"ab", b"", b"", b"cd", b""].iter().enumerate() {
        end.handle_datagram(NOW, &segment(Push, 0, 128, 0, sn as u32, 0, data)).unwrap();
    }
    let mut buf = [0; 9];
    assert_eq!(end.read(NOW, &mut buf), Ok(4));
    assert_eq!(&buf[..4], b"abcd");
    assert_eq!(end.read(NOW, &mut buf), Err(ReadError::Empty));
    assert_eq!(end.stats().empty_segments, 4);
    assert_eq!(output(&mut end, NOW)[0][0].0.una.value(), 6);

    let mut end = lone(quiet().stream(false));
    for (sn, data) in [b"".as_slice(), b"ab", b""].iter().enumerate() {
        end.handle_datagram(NOW, &segment(Push, 0, 128, 0, sn as u32, 0, data)).unwrap();
    }
    for expected in [b"".as_slice(), b"ab", b""] {
        assert_eq!(end.recv_msg(NOW), Ok(Bytes::copy_from_slice(expected)));
    }
    assert_eq!(end.recv_msg(NOW), Err(ReadError::Empty));
}

#[test]
fn fragments_that_cannot_fit_are_refused() {
    for wnd in [32u32, 128, 256, 300] {
        for frg in [0u8, 31, 32, 127, 128, 254, 255] {
            let fits = u32::from(frg) < wnd;
            let mut end = lone(quiet().stream(false).recv_window(wnd));
            let result = end.handle_datagram(NOW, &segment(Push, frg, 128, 0, 0, 0, b"x"));
            assert_eq!(result.is_ok(), fits, "frg {frg} window {wnd}");
            assert_eq!(end.stats().rejected_fragment, u64::from(!fits));
            // A stream has no fragments; the number means nothing.
            let mut end = lone(quiet().recv_window(wnd));
            end.handle_datagram(NOW, &segment(Push, frg, 128, 0, 0, 0, b"x")).unwrap();
            assert!(end.is_readable());
        }
    }
}

#[test]
fn a_broken_chain_of_fragments_ends_the_session() {
    let mut end = lone(quiet().stream(false));
    end.handle_datagram(NOW, &segment(Push, 0, 128, 0, 0, 0, b"whole")).unwrap();
    end.handle_datagram(NOW, &segment(Push, 5, 128, 0, 1, 0, b"x")).unwrap();
    let broken = end.handle_datagram(NOW, &segment(Push, 200, 128, 0, 2, 0, b"x"));
    assert_eq!(broken, Err(InputError::BrokenMessage));
    assert_eq!(end.close_reason(), Some(CloseReason::ProtocolError));
    assert_eq!(end.recv_msg(NOW).unwrap(), "whole", "what was complete is delivered first");
    assert_eq!(end.recv_msg(NOW), Err(ReadError::Closed(CloseReason::ProtocolError)));
}

#[test]
fn the_window_is_pinned_from_both_sides() {
    let mut end = lone(quiet().recv_window(128));
    end.handle_datagram(NOW, &segment(Push, 0, 128, 0, 127, 0, b"x")).unwrap();
    assert_eq!((sent(&mut end, NOW), end.stats().beyond_window), (vec![(Ack, 127, 0)], 0));
    for sn in [128, 129, 1 << 30, (1 << 31) - 1] {
        end.handle_datagram(NOW, &segment(Push, 0, 128, 0, sn, 0, b"x")).unwrap();
        assert_eq!(sent(&mut end, NOW), [], "beyond the window: not acknowledged");
    }
    assert_eq!(end.stats().beyond_window, 4);
    // Behind rcv_nxt: acknowledged again, at any distance.
    for sn in [u32::MAX, 1 << 31] {
        end.handle_datagram(NOW, &segment(Push, 0, 128, 0, sn, 0, b"x")).unwrap();
        assert_eq!(sent(&mut end, NOW), [(Ack, sn, 0)]);
    }
}

#[test]
fn floods_draw_less_than_they_send() {
    let mut end = lone(quiet().recv_window(128));
    let mut received = 0;
    for round in 0..2000u32 {
        let old: Vec<u8> =
            (0..50).flat_map(|i| segment(Push, 0, 128, 0, u32::MAX - round * 50 - i, 0, b"")).collect();
        received += old.len();
        end.handle_datagram(NOW, &old).unwrap();
    }
    for sn in 0..2000u32 {
        let far = segment(Push, 0, 128, sn, 1 + sn % 127, 0, b"");
        received += far.len();
        end.handle_datagram(NOW, &far).unwrap();
    }
    let bytes: usize = output(&mut end, NOW).iter().flatten().map(|(_, d)| 24 + d.len()).sum();
    assert!(bytes <= 24 * 2 * 128, "{bytes} bytes for {received}");
}

#[test]
fn nothing_random_panics_or_corrupts() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let config = if rng.chance(50) { quiet() } else { quiet().stream(false) };
        let mut end =
            lone(config.recv_window(64 + rng.below(200) as u32).user_timeout(None).dead_link(1 << 20));
        let mut now = 0;
        for _ in 0..400 {
            now += rng.below(100);
            let at = Timestamp::from_millis(now);
            let edge = |rng: &mut Rng| match rng.below(6) {
                0 => rng.below(8) as u32,
                1 => (1u32 << 31).wrapping_add(rng.below(3) as u32).wrapping_sub(1),
                2 => u32::MAX - rng.below(3) as u32,
                _ => rng.below(200) as u32,
            };
            let cmd = [Push, Ack, Wask, Wins][rng.below(4) as usize];
            let len = rng.below(40) as usize;
            let mut datagram = Vec::new();
            for _ in 0..=rng.below(4) {
                let (ts, sn, una) = (edge(&mut rng), edge(&mut rng), edge(&mut rng));
                let data = pattern(len, seed);
                datagram.extend(segment(cmd, rng.below(4) as u8, rng.below(200) as u16, ts, sn, una, &data));
            }
            if rng.chance(20) {
                let i = rng.below(datagram.len() as u64) as usize;
                datagram[i] = rng.next() as u8;
            }
            if rng.chance(20) {
                datagram.truncate(rng.below(datagram.len() as u64 + 1) as usize);
            }
            let _ = end.handle_datagram(at, &datagram);
            let _ = end.write(at, &[0; 50]);
            let _ = end.recv_msg(at);
            output(&mut end, at);
            if let Some(next) = end.poll_timeout() {
                assert!(next > at, "seed {seed}: drained, yet due at {next:?} of {at:?}");
            }
            end.handle_timeout(at);
            let stats = end.stats();
            assert!(stats.in_flight <= 2048 && stats.unread_bytes <= 8 << 20);
        }
    }
}

#[test]
fn a_message_has_at_most_127_fragments() {
    let mut end = lone(SessionConfig::fast().stream(false).mtu(124));
    assert_eq!(end.send_msg(NOW, Bytes::from(vec![0; 12_701])), Err(WriteError::TooLarge { limit: 12_700 }));
    assert_eq!(end.write(NOW, &[0; 12_701]), Err(WriteError::TooLarge { limit: 12_700 }));
    assert_eq!(end.send_msg(NOW, Bytes::from(vec![0; 12_700])), Ok(()));
    assert_eq!(sent(&mut end, NOW).len(), 127);
}

#[test]
fn empty_messages_are_bounded_too() {
    let mut end = lone(SessionConfig::fast().stream(false).send_buffer(6400).send_window(1));
    let mut taken = 0;
    while end.send_msg(NOW, Bytes::new()).is_ok() {
        taken += 1;
        assert!(taken <= 1000);
    }
    assert_eq!(taken, 101);
}
