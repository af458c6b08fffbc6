//! Acknowledgements of consecutive segments: one segment between two of ours, one each for everybody else.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use kcp_netsim::LinkConfig;

use super::extension::dialled;
use super::util::{Pair, lone, output, quiet, segment, sent};
use crate::wire::Command::{Ack, Push, Wins};
use crate::wire::control::{Control, MAGIC};
use crate::wire::{Header, Segments};
use crate::{Session, Timestamp};

/// Two ends that have said all there is to say.
fn pair(extended: bool) -> Pair {
    let link = LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() };
    let config = quiet().pacing(false);
    let mut pair = if extended {
        dialled(&config, &link, 1)
    } else {
        Pair::symmetric(config.extensions(false), &link, 0)
    };
    pair.run_for(Duration::from_secs(1));
    pair
}

/// Full segments written so many milliseconds after each other.
fn segments(end: &mut Session, now: &mut Timestamp, gaps: &[u64]) -> Vec<Vec<u8>> {
    let mut all = vec![];
    for &gap in gaps {
        *now += Duration::from_millis(gap);
        end.write(*now, &[7; 1376]).unwrap();
        let mut buf = vec![];
        while end.poll_transmit(*now, crate::Framing::default(), &mut buf).is_some() {
            let (first, _) = Segments::parse(&buf, 77).unwrap().next().unwrap();
            let data = core::mem::take(&mut buf);
            if first.cmd == Push {
                all.push(data);
            }
        }
    }
    assert_eq!(all.len(), gaps.len());
    all
}

/// sn and ts since the first segment's, payload.
type Said = (u32, u32, Vec<u8>);

/// The acknowledgements that an end sends now, and the datagrams.
fn acks(end: &mut Session, now: Timestamp, first: &Header) -> (Vec<Said>, Vec<Vec<u8>>) {
    let (mut acks, mut datagrams) = (vec![], vec![]);
    for all in output(end, now) {
        let mut datagram = vec![];
        for (header, payload) in all {
            datagram.extend([&header.encode()[..], &payload].concat());
            if header.cmd == Ack {
                let sn = u32::try_from(header.sn.since(first.sn)).unwrap();
                acks.push((sn, header.ts.wrapping_sub(first.ts), payload));
            }
        }
        datagrams.push(datagram);
    }
    (acks, datagrams)
}

#[test]
fn between_two_of_ours_consecutive_acknowledgements_are_one_segment() {
    let mut pair = pair(true);
    let mut now = pair.now;
    let data = segments(&mut pair.ends[0], &mut now, &[0, 1, 0, 9, 2, 0, 0]);
    let (first, _) = Segments::parse(&data[0], 77).unwrap().next().unwrap();
    for datagram in &data[1..5] {
        pair.ends[1].handle_datagram(now, datagram).unwrap();
    }
    let before = pair.ends[1].stats();
    let (said, datagrams) = acks(&mut pair.ends[1], now, &first);
    assert_eq!(said, [(1, 1, vec![0, 9, 2])]);
    let after = pair.ends[1].stats();
    assert_eq!((after.acks_sent - before.acks_sent, after.acks_repeated), (4, 0));
    pair.ends[0].handle_datagram(now, &datagrams[0]).unwrap();
    let stats = pair.ends[0].stats();
    assert_eq!((stats.in_flight, stats.mismatched_echoes), (7, 0), "beyond the hole");
    assert_eq!(pair.ends[0].held().sent, 3 * 1376, "each was acknowledged");
    assert_eq!(sent(&mut pair.ends[0], now)[0], (Push, first.sn.value(), 1376), "so the first was lost");
    // Said again with what follows.
    pair.ends[1].handle_datagram(now, &data[6]).unwrap();
    pair.ends[1].handle_datagram(now, &data[5]).unwrap();
    let (said, datagrams) = acks(&mut pair.ends[1], now, &first);
    assert_eq!(said, [(6, 12, vec![]), (1, 1, vec![0, 9, 2, 0])], "in order of arrival");
    let after = pair.ends[1].stats();
    assert_eq!((after.acks_sent - before.acks_sent, after.acks_repeated), (6, 4));
    pair.ends[0].handle_datagram(now, &datagrams[0]).unwrap();
    assert_eq!(pair.ends[0].held().sent, 1376);
    assert_eq!(pair.ends[0].stats().mismatched_echoes, 0);
}

/// Beyond a hole the first three are acknowledged at once, which is enough to find the loss; then so many together as come within a
/// millisecond, sixteen at most. Whatever tells of something else is acknowledged at once, and so is everything to a plain peer.
#[test]
fn beyond_a_hole_acknowledgements_are_gathered_once_the_loss_is_told() {
    for (extended, len, gathers) in [(true, 257, true), (true, 256, false), (false, 257, false)] {
        let mut pair = pair(extended);
        let now = pair.now;
        let end = &mut pair.ends[1];
        let (una, acked) = (end.una().value(), end.stats().segments_sent as u32);
        let mut come = |sn: u32| {
            let data = segment(Push, 0, 128, 0, una + sn, acked, &vec![7; len]);
            end.handle_datagram(now, &data).unwrap();
            let due = end.poll_timeout().unwrap();
            if due <= now {
                output(end, now);
            }
            due
        };
        let later = if gathers { now + Duration::from_millis(1) } else { now };
        let at_once = |due: Timestamp| due <= now;
        for sn in 1..=3 {
            assert!(at_once(come(sn)), "{sn}");
        }
        for sn in 4..19 {
            assert_eq!(come(sn).max(now), later, "{sn}");
        }
        assert!(at_once(come(19)), "sixteen wait");
        assert_eq!(come(20).max(now), later);
        assert!(at_once(come(20)), "it has come before");
        assert_eq!(come(21).max(now), later);
        assert!(at_once(come(23)), "another hole");
        for sn in 24..=25 {
            assert!(at_once(come(sn)), "{sn}");
        }
        assert_eq!(come(26).max(now), later);
        assert!(at_once(come(22)), "a hole filled");
        assert!(at_once(come(27)), "and what follows");
        assert!(at_once(come(0)), "all filled");
        assert!(come(28) > now, "nothing is missing");
    }
    // Who wants it at once gets it.
    let link = LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() };
    let mut pair = dialled(&quiet().ack_nodelay(true), &link, 1);
    pair.run_for(Duration::from_secs(1));
    let (end, now) = (&mut pair.ends[1], pair.now);
    for sn in 1..9 {
        let data =
            segment(Push, 0, 128, 0, end.una().value() + sn, end.stats().segments_sent as u32, &[7; 300]);
        end.handle_datagram(now, &data).unwrap();
        assert!(end.poll_timeout().unwrap() <= now && !output(end, now).is_empty(), "{sn}");
    }
}

/// A flight that nothing follows is acknowledged at once, and the loss of that datagram would cost all of it again.
#[test]
fn many_acknowledgements_come_once_more_if_nothing_else_carries_them() {
    for (extended, many, twice) in [(true, 32, true), (true, 31, false), (false, 32, false)] {
        let mut pair = pair(extended);
        let mut now = pair.now;
        let data = segments(&mut pair.ends[0], &mut now, &vec![0; many + 3]);
        let (first, _) = Segments::parse(&data[0], 77).unwrap().next().unwrap();
        let end = &mut pair.ends[1];
        data[2..many + 2].iter().for_each(|datagram| end.handle_datagram(now, datagram).unwrap());
        let (once, _) = acks(end, now, &first);
        assert_eq!(once.iter().map(|(_, _, later)| 1 + later.len()).sum::<usize>(), many);
        assert!(output(end, now).is_empty());
        let later = now + Duration::from_millis(1);
        assert_eq!(end.poll_timeout() == Some(later), twice, "{many}");
        let (again, _) = acks(end, later, &first);
        let repeated = end.stats().acks_repeated;
        assert_eq!((again, repeated), if twice { (once, many as u64) } else { (vec![], 0) });
        assert_ne!(end.poll_timeout(), Some(later), "and not again");
        assert!(output(end, later + Duration::from_millis(1)).is_empty());
    }
    // Small segments come again for less, and nobody is woken for nothing.
    for (len, twice) in [(257, true), (256, false)] {
        let mut pair = pair(true);
        let (end, now) = (&mut pair.ends[1], pair.now);
        let (una, acked) = (end.una().value(), end.stats().segments_sent as u32);
        for sn in 1..=32 {
            end.handle_datagram(now, &segment(Push, 0, 128, 0, una + sn, acked, &vec![7; len])).unwrap();
        }
        assert!(!output(end, now).is_empty());
        assert_eq!(end.poll_timeout() == Some(now + Duration::from_millis(1)), twice, "{len}");
    }
    // Without a hole `una` says it all, and with what comes next it has been said.
    for next in [1, 0] {
        let mut pair = pair(true);
        let mut now = pair.now;
        let data = segments(&mut pair.ends[0], &mut now, &[0; 40]);
        let (first, _) = Segments::parse(&data[0], 77).unwrap().next().unwrap();
        let end = &mut pair.ends[1];
        data[2..39].iter().for_each(|datagram| end.handle_datagram(now, datagram).unwrap());
        acks(end, now, &first);
        for datagram in [&data[39], &data[next]] {
            end.handle_datagram(now, datagram).unwrap();
        }
        assert_eq!(acks(end, now, &first).1.len(), 1);
        assert!(output(end, now + Duration::from_millis(1)).is_empty());
    }
    let mut pair = pair(true);
    let mut now = pair.now;
    let data = segments(&mut pair.ends[0], &mut now, &[0; 40]);
    let (first, _) = Segments::parse(&data[0], 77).unwrap().next().unwrap();
    let end = &mut pair.ends[1];
    data.iter().for_each(|datagram| end.handle_datagram(now, datagram).unwrap());
    assert_eq!(acks(end, now, &first).0.len(), 1);
    assert!(output(end, now + Duration::from_millis(1)).is_empty());
}

#[test]
fn a_plain_peer_gets_one_segment_each_and_its_payloads_are_skipped() {
    let mut pair = pair(false);
    let mut now = pair.now;
    let data = segments(&mut pair.ends[0], &mut now, &[0, 1, 0, 2]);
    let (first, _) = Segments::parse(&data[0], 77).unwrap().next().unwrap();
    for datagram in &data[1..] {
        pair.ends[1].handle_datagram(now, datagram).unwrap();
    }
    let (said, _) = acks(&mut pair.ends[1], now, &first);
    assert_eq!(said, [(1, 1, vec![]), (2, 1, vec![]), (3, 3, vec![])]);
    let run = segment(Ack, 0, 128, first.ts.wrapping_add(1), first.sn.value() + 1, first.sn.value(), &[0, 2]);
    pair.ends[0].handle_datagram(now, &run).unwrap();
    assert_eq!(pair.ends[0].held().sent, 3 * 1376);
    // Nor does one that acknowledges nothing that was sent.
    let mut end = lone(quiet());
    end.handle_datagram(now, &segment(Ack, 0, 128, 0, 5, 0, &[0; 9])).unwrap();
    assert_eq!(end.stats().ignored_acks, 1);
}

#[test]
fn a_run_ends_with_what_was_never_sent() {
    let mut pair = pair(true);
    let mut now = pair.now;
    let data = segments(&mut pair.ends[0], &mut now, &[0, 0, 0]);
    let (first, _) = Segments::parse(&data[0], 77).unwrap().next().unwrap();
    let (sn, una) = (first.sn.value().wrapping_sub(2), first.sn.value());
    pair.ends[0].handle_datagram(now, &segment(Ack, 0, 128, first.ts, sn, una, &[0; 1000])).unwrap();
    assert_eq!((pair.ends[0].held().sent, pair.ends[0].stats().ignored_acks), (0, 1));
}

/// Only `WASK` and `WINS` carry control messages: a run may begin with any byte.
#[test]
fn what_looks_like_a_control_message_in_an_acknowledgement_is_none() {
    for cmd in [Ack, Push, Wins] {
        let mut pair = pair(true);
        let now = pair.now;
        let end = &mut pair.ends[0];
        let mut payload = vec![MAGIC];
        Control::Reset { proof: end.epitaph().own }.encode(&mut payload);
        Control::Ping { nonce: 1 }.encode(&mut payload);
        let (sn, una) = (u32::from(cmd != Ack), 0);
        let _ = end.handle_datagram(now, &segment(cmd, 0, 128, 0, sn, una, &payload));
        assert_eq!(end.is_closed(), cmd == Wins, "{cmd:?}");
        let answer = crate::admission::answer_for(&segment(cmd, 0, 128, 0, sn, una, &payload), None);
        // (To data it is a denial.)
        assert_eq!(answer.is_some(), cmd != Ack, "{cmd:?}");
        let denial = segment(cmd, 0, 128, 0, 7, 0, &[MAGIC]);
        let refused = pair.ends[0].handle_datagram(now, &denial).is_err();
        assert_eq!(refused, cmd == Wins, "{cmd:?}");
    }
}
