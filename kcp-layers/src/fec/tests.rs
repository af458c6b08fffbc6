//! Encoder against decoder, against kcptun's packets, against a decoder that follows kcp-go's rules.

use std::collections::{BTreeMap, BTreeSet};

use kcp_core::Timestamp;
use proptest::prelude::*;
use reed_solomon_erasure::galois_8::ReedSolomon;

use super::*;
use crate::sealed::Sealed;

const CONV: u32 = 0x0BB8_3143;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn plain(data: u8, parity: u8) -> FecConfig {
    FecConfig::new(data, parity).unwrap().flush_after(None)
}

/// A datagram like KCP's: the conversation first.
fn datagram(n: u32, len: usize) -> Vec<u8> {
    let mut datagram = CONV.to_le_bytes().to_vec();
    datagram.extend_from_slice(&n.to_le_bytes());
    datagram.extend((8..len).map(|i| (i as u32 ^ n.wrapping_mul(31)) as u8));
    datagram
}

fn packets(out: &mut Sealed) -> Vec<Vec<u8>> {
    let packets = out.packets().map(<[u8]>::to_vec).collect();
    out.clear();
    packets
}

fn encode(encoder: &mut Encoder, now: Timestamp, datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Sealed::default();
    encoder.data(now, datagram, &mut out.batch(0, 0));
    packets(&mut out)
}

fn flush(encoder: &mut Encoder, now: Timestamp) -> Vec<Vec<u8>> {
    let mut out = Sealed::default();
    encoder.handle_timeout(now, &mut out.batch(0, 0));
    packets(&mut out)
}

/// What comes of a packet: the datagram in it, then those recovered.
fn decode(decoder: &mut Decoder, packet: &[u8]) -> (Option<Vec<u8>>, Vec<Vec<u8>>) {
    let mut recovered = Vec::new();
    let mut keep = |datagram: &[u8]| recovered.push(datagram.to_vec());
    let direct = match Frame::parse(packet) {
        Frame::Data { seqid, datagram, shard } => {
            decoder.data(at(0), seqid, shard, &mut keep);
            Some(datagram.to_vec())
        }
        Frame::Parity { seqid, shard } => {
            decoder.parity(at(0), seqid, shard, &mut keep);
            None
        }
        other => panic!("{other:?}"),
    };
    (direct, recovered)
}

fn recovered(decoder: &mut Decoder, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    packets.iter().flat_map(|packet| decode(decoder, packet).1).collect()
}

/// An encoder, and a decoder that has seen enough of it to know its shape. Both stand at the beginning of a group.
fn pair(config: FecConfig) -> (Encoder, Decoder) {
    let mut encoder = Encoder::new(config);
    let mut decoder = Decoder::new(FecLimits { max_shards: 255, ..FecLimits::default() }, None);
    let mut n = 0;
    while decoder.shape().is_none() || !encoder.next().is_multiple_of(config.shape.total().into()) {
        for packet in encode(&mut encoder, at(0), &datagram(n, 30)) {
            decode(&mut decoder, &packet);
        }
        n += 1;
    }
    assert_eq!(decoder.shape(), Some(config.shape));
    decoder.received = Default::default();
    encoder.sent = Default::default();
    (encoder, decoder)
}

/// A full group, data and parity.
fn group(encoder: &mut Encoder, first: u32, lens: impl Fn(u32) -> usize) -> Vec<Vec<u8>> {
    let data = u32::from(encoder.code().shape().data());
    (first..first + data).flat_map(|n| encode(encoder, at(0), &datagram(n, lens(n)))).collect()
}

/// What it protects.
fn datagrams(group: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let datagram = |packet: &Vec<u8>| match Frame::parse(packet) {
        Frame::Data { datagram, .. } => Some(datagram.to_vec()),
        _ => None,
    };
    group.iter().filter_map(datagram).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter_map(|c| char::from(c).to_digit(16).map(|d| d as u8)).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Sent by Debian's `kcptun-client` 20210922 with `--datashard 3 --parityshard 2 --crypt none --nocomp`, without the first
/// 20 bytes.
const KCPTUN: [&str; 5] = [
    "00000000f10022004331b80b51000002600000000000000000000000080000000100000003000000",
    "01000000f10027004331b80b510000026000000001000000000000000d000000010205000300000068656c6c6f",
    "02000000f10047004331b80b510000022801000000000000000000000800000001000000030000004331b80b\
     510000022801000001000000000000000d000000010205000300000068656c6c6f",
    "03000000f20042004331b80b510000022801000001000000000000000d00000001020500030000002b54d4673e\
     0000022801000001000000000000000d000000010205000300000068656c6c6f",
    "04000000f20049004331b80b51000002cd0600000800000000000000200000000110280003000000f0a9f07d\
     a400000cf006000006000000000000002e000000060c1e000a0000006d4375757f",
];

#[test]
fn we_send_what_kcptun_sends() {
    let golden = KCPTUN.map(hex);
    let mut encoder = Encoder::new(plain(3, 2));
    let sent: Vec<Vec<u8>> =
        datagrams(&golden).iter().flat_map(|datagram| encode(&mut encoder, at(0), datagram)).collect();
    assert_eq!(sent, golden);
    assert!(golden.iter().all(|packet| Frame::parse(packet).conv() == Some(CONV)), "parity too");
}

#[test]
fn we_recover_what_kcptun_sends() {
    let golden = KCPTUN.map(hex);
    for lost in [vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2]] {
        let mut decoder = pair(plain(3, 2)).1;
        decoder.forget_position();
        let arrived: Vec<_> = (0..5).filter(|i| !lost.contains(i)).map(|i| golden[i].clone()).collect();
        let expected: Vec<_> = lost.iter().map(|&i| datagrams(&golden)[i].clone()).collect();
        assert_eq!(recovered(&mut decoder, &arrived), expected, "lost {lost:?}");
    }
}

/// Every set of packets that can get lost of a group: as many as there is parity are restored, and never anything else.
#[test]
fn every_erasure_pattern() {
    for (data, parity) in [(1, 1), (1, 2), (2, 1), (3, 2), (4, 3), (5, 5)] {
        let (mut encoder, fresh) = pair(plain(data, parity));
        let group = group(&mut encoder, 100, |n| 24 + (n as usize * 7) % 40);
        let total = usize::from(data + parity);
        assert_eq!(group.len(), total);
        let all = datagrams(&group);
        for arrived in 0u32..1 << total {
            let here = |i: &usize| arrived & (1 << i) != 0;
            let packets: Vec<_> = (0..total).filter(here).map(|i| group[i].clone()).collect();
            let missing: Vec<_> = (0..all.len()).filter(|i| !here(i)).map(|i| all[i].clone()).collect();
            let parity_here = packets.len() - (all.len() - missing.len());
            let enough = missing.len() <= parity_here;
            let expected = if enough { missing.clone() } else { Vec::new() };
            let mut decoder = fresh.clone();
            assert_eq!(recovered(&mut decoder, &packets), expected, "{data}/{parity}, arrived {arrived:#b}");
            let (received, _) = decoder.finished();
            let useless = if enough { parity_here - missing.len() } else { 0 };
            assert_eq!((received.recovered, received.useless), (expected.len() as u64, useless as u64));
            if !enough && parity_here > 0 {
                assert_eq!((received.lost_groups, received.lost), (1, missing.len() as u64));
            }
        }
    }
}

#[test]
fn in_any_order() {
    let (mut encoder, fresh) = pair(plain(10, 3));
    let mut rng = fastrand::Rng::with_seed(7);
    for round in 0..50 {
        let mut group = group(&mut encoder, round * 100, |n| 20 + n as usize % 9);
        let all = datagrams(&group);
        rng.shuffle(&mut group);
        let (late, on_time) = group.split_at(3);
        let mut decoder = fresh.clone();
        decoder.forget_position();
        let mut got: BTreeSet<_> = recovered(&mut decoder, on_time).into_iter().collect();
        got.extend(datagrams(on_time));
        assert_eq!(got, all.iter().cloned().collect(), "any ten of thirteen");
        assert_eq!(recovered(&mut decoder, late), Vec::<Vec<u8>>::new(), "nothing twice");
        assert_eq!(recovered(&mut decoder, on_time), Vec::<Vec<u8>>::new());
        let (received, _) = decoder.finished();
        assert_eq!(received.duplicates, 10);
        assert_eq!(received.lost_groups, 0);
    }
}

#[test]
fn groups_interleaved_as_far_as_the_window_goes() {
    let (mut encoder, mut decoder) = pair(plain(4, 1));
    // One packet of each is missing, and the parity of all comes in the end: 60 packets later.
    let groups: Vec<_> = (0..12).map(|n| group(&mut encoder, n * 4, |_| 40)).collect();
    let data: Vec<_> = groups.iter().flat_map(|group| group[1..4].to_vec()).collect();
    let parity: Vec<_> = groups.iter().map(|group| group[4].clone()).collect();
    assert!(recovered(&mut decoder, &data).is_empty());
    let expected: Vec<_> = (0..12).map(|n| datagram(n * 4, 40)).collect();
    assert_eq!(recovered(&mut decoder, &parity), expected);
}

#[test]
fn what_is_older_than_the_window_is_late() {
    let (mut encoder, mut decoder) = pair(plain(4, 1));
    let groups: Vec<_> = (0..16).map(|n| group(&mut encoder, n * 4, |_| 40)).collect();
    assert!(recovered(&mut decoder, &groups[0][1..4]).is_empty());
    for group in &groups[1..] {
        recovered(&mut decoder, group);
    }
    assert!(recovered(&mut decoder, &groups[0][4..]).is_empty());
    let (received, tally) = decoder.finished();
    assert_eq!((received.late + received.stray, received.lost_groups, received.lost), (1, 1, 1));
    assert_eq!(tally.lost, 1);
}

#[test]
fn sequence_numbers_wrap_at_the_end_of_a_group() {
    for (data, parity) in [(10, 3), (1, 1), (3, 2), (128, 127)] {
        let config = plain(data, parity);
        let (mut encoder, mut decoder) = pair(config);
        decoder.forget_position();
        let total = u32::from(config.shape.total());
        encoder.skip_to(config.shape.paws() - total);
        for n in 0..3 {
            let group = group(&mut encoder, n * 300, |_| 30);
            let Frame::Data { seqid, .. } = Frame::parse(&group[0]) else { panic!() };
            assert_eq!(seqid, [config.shape.paws() - total, 0, total][n as usize]);
            assert_eq!(
                recovered(&mut decoder, &group[1..]),
                [datagram(n * 300, 30)],
                "{data}/{parity} group {n}"
            );
        }
        let (received, _) = decoder.finished();
        assert_eq!(
            (received.stray, received.late, received.contradictions, received.lost_groups),
            (0, 0, 0, 0)
        );
    }
}

#[test]
fn a_slow_group_gets_no_parity_as_with_kcp_go() {
    for (gap, parity) in [(499, 3), (500, 0)] {
        let mut encoder = Encoder::new(plain(10, 3));
        let mut sent = 0;
        for n in 0..10 {
            // It is the last packet's delay that counts.
            let time = if n < 9 { u64::from(n) * 1000 } else { 8000 + gap };
            sent += encode(&mut encoder, at(time), &datagram(n, 30)).len();
        }
        assert_eq!(sent, 10 + parity, "{gap} ms");
        assert_eq!(encoder.next(), 13);
        assert_eq!(encoder.deadline(), None);
        assert_eq!(encoder.sent.unprotected, u64::from(parity == 0));
    }
    // The first packet ever has none before it.
    let mut encoder = Encoder::new(plain(1, 1));
    assert_eq!(encode(&mut encoder, at(0), &datagram(0, 30)).len(), 1);
    assert_eq!(encode(&mut encoder, at(1), &datagram(1, 30)).len(), 2);
}

#[test]
fn a_lone_packet_is_repeated() {
    let (mut encoder, mut decoder) = pair(FecConfig::new(10, 3).unwrap());
    let start = encoder.next();
    let first = encode(&mut encoder, at(1000), &datagram(1, 40));
    assert_eq!(encoder.deadline(), Some(at(1020)));
    assert!(flush(&mut encoder, at(1019)).is_empty());
    let second = flush(&mut encoder, at(1020));
    assert_eq!((encoder.deadline(), encoder.next()), (None, start + 13));
    assert!(flush(&mut encoder, at(9999)).is_empty());
    let Frame::Data { seqid, datagram: again, .. } = Frame::parse(&second[0]) else { panic!() };
    assert_eq!((second.len(), seqid, again), (1, start + 1, &datagram(1, 40)[..]));
    assert_eq!(decode(&mut decoder, &second[0]), (Some(datagram(1, 40)), vec![]));
    assert_eq!(decode(&mut decoder, &first[0]).1.len(), 0);
    assert_eq!(encoder.sent.repeated, 1);
}

/// Of a group cut short, its share of the parity restores as many packets.
#[test]
fn a_group_cut_short_is_protected() {
    for covered in 2..10u32 {
        let (mut encoder, fresh) = pair(FecConfig::new(10, 4).unwrap());
        let (start, rows) = (encoder.next(), (covered as usize * 4).div_ceil(10));
        let mut group: Vec<_> =
            (0..covered).flat_map(|n| encode(&mut encoder, at(5), &datagram(n, 30 + n as usize))).collect();
        let parity = flush(&mut encoder, at(25));
        assert_eq!((parity.len(), encoder.next()), (rows, start + 14), "{covered} of 10");
        let longest = group.iter().map(Vec::len).max().unwrap();
        for (n, packet) in parity.iter().enumerate() {
            assert_eq!(packet.len(), longest + NOTE, "as long as overhead() promises");
            let Frame::Parity { seqid, .. } = Frame::parse(packet) else { panic!() };
            assert_eq!((seqid, Frame::parse(packet).conv()), (start + 10 + n as u32, Some(CONV)));
        }
        let all = datagrams(&group);
        group.extend(parity);
        for arrived in 0u32..1 << group.len() {
            let here = |i: &usize| arrived & (1 << i) != 0;
            let lost: Vec<_> = (0..all.len()).filter(|i| !here(i)).map(|i| all[i].clone()).collect();
            let packets: Vec<_> = (0..group.len()).filter(here).map(|i| group[i].clone()).collect();
            let parity_here = packets.len() - (all.len() - lost.len());
            let expected = if lost.len() <= parity_here { lost.clone() } else { vec![] };
            let mut decoder = fresh.clone();
            assert_eq!(recovered(&mut decoder, &packets), expected, "{covered} of 10, arrived {arrived:#b}");
            if parity_here > 0 {
                let before = fresh.tally();
                let (received, tally) = decoder.finished();
                assert_eq!(tally.lost - before.lost, lost.len() as u32, "those that never were are not lost");
                assert_eq!(received.lost_groups, u64::from(expected.len() < lost.len()));
            }
        }
    }
}

#[test]
fn a_note_tells_the_shape() {
    let mut encoder = Encoder::new(FecConfig::new(20, 5).unwrap());
    let mut decoder = Decoder::new(FecLimits::default(), None);
    let data: Vec<_> = (0..3).flat_map(|n| encode(&mut encoder, at(0), &datagram(n, 30))).collect();
    let parity = flush(&mut encoder, at(20));
    assert!(recovered(&mut decoder, &data[..2]).is_empty());
    assert_eq!(decoder.shape(), None);
    // The packets before it were in no group, as there was no shape.
    assert!(recovered(&mut decoder, &parity).is_empty());
    assert_eq!(decoder.shape(), Some(encoder.code().shape()));
    let data: Vec<_> = (3..6).flat_map(|n| encode(&mut encoder, at(50), &datagram(n, 30))).collect();
    let parity = flush(&mut encoder, at(70));
    assert!(recovered(&mut decoder, &data[1..]).is_empty());
    assert_eq!(recovered(&mut decoder, &parity), [datagram(3, 30)]);
}

#[test]
fn a_conversation_that_changes_within_a_group_is_not_cut_short() {
    let mut encoder = Encoder::new(FecConfig::new(10, 3).unwrap());
    encode(&mut encoder, at(0), &datagram(0, 30));
    encode(&mut encoder, at(0), &[9; 30]);
    assert!(flush(&mut encoder, at(20)).is_empty(), "its parity could not carry the conversation");
    assert_eq!((encoder.sent.unprotected, encoder.next()), (1, 13));
}

#[test]
fn held_back_nothing_is_added() {
    let mut encoder = Encoder::new(FecConfig::new(3, 2).unwrap());
    encoder.hold(true);
    for n in 0..7 {
        assert_eq!(encode(&mut encoder, at(0), &datagram(n, 30)).len(), 1);
    }
    assert!(flush(&mut encoder, at(100)).is_empty());
    assert_eq!(encoder.next(), 15);
    encoder.hold(false);
    assert_eq!(group(&mut encoder, 0, |_| 30).len(), 5);
}

#[test]
fn fewer_parity_packets_from_the_next_group_on() {
    let (mut encoder, mut decoder) = pair(plain(4, 3));
    encode(&mut encoder, at(0), &datagram(0, 30));
    encoder.set_rows(1);
    let rest: Vec<_> = (1..4).flat_map(|n| encode(&mut encoder, at(0), &datagram(n, 30))).collect();
    assert_eq!(rest.len(), 3 + 3);
    let next = group(&mut encoder, 10, |_| 30);
    assert_eq!(next.len(), 4 + 1);
    assert_eq!(recovered(&mut decoder, &next[1..]), [datagram(10, 30)]);
    encoder.set_rows(0);
    assert_eq!(group(&mut encoder, 20, |_| 30).len(), 4);
    encoder.set_rows(200);
    let last = group(&mut encoder, 30, |_| 30);
    assert_eq!(last.len(), 4 + 3);
    assert_eq!(recovered(&mut decoder, &last[3..]), (30..33).map(|n| datagram(n, 30)).collect::<Vec<_>>());
}

/// kcp-go's receiver as its rules are written down: the reference crate where at least as many shards of a group are there as
/// it has data, whatever a shard's length.
struct GoDecoder {
    shape: Shape,
    groups: BTreeMap<u32, Vec<Option<Vec<u8>>>>,
}

impl GoDecoder {
    fn receive(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let seqid = u32::from_le_bytes(packet[..4].try_into().unwrap());
        let (data, total) = (usize::from(self.shape.data()), u32::from(self.shape.total()));
        let is_data = packet[4] == 0xF1;
        assert_eq!(is_data, (seqid % total) < data as u32, "kcp-go would look for another shape");
        let shards = self.groups.entry(seqid / total).or_insert(vec![None; total as usize]);
        if shards[(seqid % total) as usize].is_some() {
            return vec![];
        }
        shards[(seqid % total) as usize] = Some(packet[6..].to_vec());
        if shards.iter().flatten().count() != data || shards[..data].iter().all(Option::is_some) {
            return vec![];
        }
        let longest = shards.iter().flatten().map(Vec::len).max().unwrap();
        let mut all = shards.clone();
        all.iter_mut().flatten().for_each(|shard| shard.resize(longest, 0));
        ReedSolomon::new(data, total as usize - data).unwrap().reconstruct(&mut all).unwrap();
        let missing = (0..data).filter(|&i| shards[i].is_none()).map(|i| all[i].as_ref().unwrap());
        let valid = missing.filter_map(|shard| {
            let size = usize::from(u16::from_le_bytes([shard[0], shard[1]]));
            (2..=shard.len()).contains(&size).then(|| shard[2..size].to_vec())
        });
        valid.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Our packets, groups cut short among them, at a receiver that follows kcp-go: it gets what was sent, or nothing.
    #[test]
    fn kcp_go_never_gets_rubbish_from_us(
        data in 1u8..6,
        parity in 1u8..6,
        gaps in proptest::collection::vec((0u64..30, 8usize..60), 1..80),
        loss in 0u8..50,
        seed in any::<u64>(),
    ) {
        let config = FecConfig::new(data, parity).unwrap().flush_after(Some(Duration::from_millis(15)));
        let mut encoder = Encoder::new(config);
        let mut go = GoDecoder { shape: config.shape, groups: BTreeMap::new() };
        let mut ours = pair(config).1;
        ours.forget_position();
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut time, mut sent) = (0, BTreeSet::new());
        for (n, (gap, len)) in gaps.into_iter().enumerate() {
            let mut packets = flush(&mut encoder, at(time + gap));
            time += gap;
            sent.insert(datagram(n as u32, len));
            packets.extend(encode(&mut encoder, at(time), &datagram(n as u32, len)));
            packets.retain(|_| rng.u8(..100) >= loss);
            let at_go: Vec<_> = packets.iter().flat_map(|packet| go.receive(packet)).collect();
            prop_assert!(at_go.iter().all(|datagram| sent.contains(datagram)));
            let here = recovered(&mut ours, &packets);
            prop_assert!(here.iter().all(|datagram| sent.contains(datagram)));
            let (go_real, here): (BTreeSet<_>, BTreeSet<_>) = (at_go.into_iter().collect(), here.into_iter().collect());
            prop_assert!(here.is_superset(&go_real), "whatever kcp-go restores we do too");
        }
    }

    /// Whatever shape the receiver assumes, and whatever is lost: what it restores was sent.
    #[test]
    fn a_wrong_assumption_never_makes_rubbish(
        ours in (1u8..12, 1u8..6),
        theirs in (1u8..12, 1u8..6),
        start in 0u32..40,
        loss in 0u8..40,
        seed in any::<u64>(),
    ) {
        let mut encoder = Encoder::new(plain(theirs.0, theirs.1));
        encoder.skip_to(start * u32::from(theirs.0 + theirs.1));
        let assumed = Encoder::new(plain(ours.0, ours.1));
        let mut decoder = Decoder::new(FecLimits::default(), Some(assumed.code().clone()));
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut sent, mut restored) = (BTreeSet::new(), 0);
        for n in 0..1500 {
            sent.insert(datagram(n, 40));
            let mut packets = encode(&mut encoder, at(0), &datagram(n, 40));
            packets.retain(|_| rng.u8(..100) >= loss);
            for datagram in recovered(&mut decoder, &packets) {
                restored += 1;
                prop_assert!(sent.contains(&datagram), "{theirs:?} taken for {ours:?}");
            }
        }
        prop_assert_eq!(decoder.shape(), Some(encoder.code().shape()));
        // Of groups of 12 that lose a third hardly any loses just one.
        if (10..=20).contains(&loss) {
            prop_assert!(restored > 0);
        }
    }

    /// A peer that sends anything: bounded memory, no panic.
    #[test]
    fn hostile_packets(
        max_bytes in 0usize..5000,
        max_shards in 0u8..=255,
        base in prop_oneof![Just(0u32), any::<u32>(), Just(u32::MAX - 300)],
        packets in proptest::collection::vec(
            (0u32..600, any::<bool>(), 2usize..300, any::<u8>(), proptest::option::of((0u8..20, 1u8..20, 1u8..20))),
            1..400,
        ),
    ) {
        let mut decoder = Decoder::new(FecLimits { max_shards, max_bytes }, Some(Encoder::new(plain(5, 3)).code().clone()));
        for (offset, is_data, len, fill, note) in packets {
            let seqid = base.wrapping_add(offset);
            let mut shard = vec![fill; len];
            if let Some((covered, data, parity)) = note {
                let note = Note { covered, shape: Shape::new(data, parity).unwrap() };
                let tail = note.encode(seqid, &shard);
                shard.extend_from_slice(&tail);
            }
            if is_data {
                decoder.data(at(0), seqid, &shard, &mut |_| {});
            } else {
                decoder.parity(at(0), seqid, &shard, &mut |_| {});
            }
            prop_assert!(decoder.held() <= max_bytes);
        }
    }
}

#[test]
fn memory_is_given_back_and_counted_once() {
    let (mut encoder, fresh) = pair(plain(10, 3));
    let limits = FecLimits { max_shards: 13, max_bytes: 1000 };
    let mut decoder = fresh.with_limits(limits);
    // The second group makes the first give up; both are short of two packets.
    let (a, b) = (group(&mut encoder, 0, |_| 98), group(&mut encoder, 10, |_| 98));
    recovered(&mut decoder, &a[2..8]);
    assert_eq!(decoder.held(), 600);
    recovered(&mut decoder, &b[2..8]);
    assert!(decoder.held() <= 1000);
    assert_eq!(decoder.received.over_limit, 1);
    assert!(recovered(&mut decoder, &a[8..]).is_empty());
    assert_eq!(recovered(&mut decoder, &b[8..12]), [datagram(10, 98), datagram(11, 98)]);
    assert_eq!(decoder.held(), 1000);
    let idle = decoder.deadline().unwrap();
    assert_eq!(idle, at(10_000));
    decoder.handle_timeout(at(9_999));
    assert_eq!(decoder.held(), 1000);
    decoder.handle_timeout(idle);
    assert_eq!((decoder.held(), decoder.deadline()), (0, None));
    // And goes on.
    let c = group(&mut encoder, 20, |_| 20);
    assert_eq!(recovered(&mut decoder, &c[1..]), [datagram(20, 20)]);
}

#[test]
fn in_steady_state_nothing_is_allocated() {
    let (mut encoder, mut decoder) = pair(plain(10, 3));
    let mut held = 0;
    for n in 0..200 {
        let mut group = group(&mut encoder, n * 10, |n| if n % 3 == 0 { 24 } else { 1300 });
        group.remove(n as usize % 10);
        assert_eq!(recovered(&mut decoder, &group).len(), 1);
        if n == 50 {
            held = decoder.held();
        }
    }
    assert_eq!(decoder.held(), held);
    assert!(held < 14 * 1400);
}

/// Somebody who does not see our packets, and one who does.
#[test]
fn forged_packets_stop_recovery_for_a_moment_at_most() {
    let (mut encoder, mut decoder) = pair(plain(10, 3));
    let forge = |seqid: u32, kind: u8| {
        let mut packet = seqid.to_le_bytes().to_vec();
        packet.extend_from_slice(&[kind, 0, 6, 0, 1, 2, 3, 4]);
        packet
    };
    let mut rng = fastrand::Rng::with_seed(5);
    for n in 0..30 {
        let group = group(&mut encoder, n * 10, |_| 30);
        for packet in &group[1..] {
            decode(&mut decoder, &forge(rng.u32(..) | 1 << 30, if rng.bool() { 0xF1 } else { 0xF2 }));
            for datagram in decode(&mut decoder, packet).1 {
                assert_eq!(datagram, self::datagram(n * 10, 30));
            }
        }
    }
    assert_eq!((decoder.received.recovered, decoder.received.contradictions), (30, 0), "blind: no effect");
    // With the right number and the wrong type: the shape has to be proven again.
    let next = encoder.next();
    decode(&mut decoder, &forge(next + 1, 0xF2));
    assert_eq!((decoder.shape(), decoder.received.contradictions), (None, 1));
    let lossy: Vec<_> = (0..6).map(|n| group(&mut encoder, 1000 + n * 10, |_| 30)[1..].to_vec()).collect();
    let restored: Vec<_> = lossy.iter().map(|group| recovered(&mut decoder, group).len()).collect();
    assert_eq!(restored.iter().sum::<usize>(), 5, "all but the one of that group: {restored:?}");
    assert_eq!(restored[4..], [1, 1]);
}

#[test]
fn the_sequence_may_jump() {
    let (mut encoder, mut decoder) = pair(plain(10, 3));
    let total = 13;
    for start in [1_000_000 * total, 5 * total, 300_000_000 * total] {
        encoder.skip_to(start);
        let first = group(&mut encoder, 0, |_| 30);
        recovered(&mut decoder, &first);
        let second = group(&mut encoder, 10, |_| 30);
        assert_eq!(recovered(&mut decoder, &second[1..]), [datagram(10, 30)], "to {start}");
    }
    assert_eq!(decoder.received.stray, 3 * 7);
}

#[test]
fn the_peer_may_change_its_shape() {
    let (mut encoder, mut decoder) = pair(plain(10, 3));
    recovered(&mut decoder, &group(&mut encoder, 0, |_| 30));
    let mut other = Encoder::new(plain(3, 1));
    other.skip_to(encoder.next().next_multiple_of(4));
    let restored: usize =
        (0..20).map(|n| recovered(&mut decoder, &group(&mut other, n * 3, |_| 30)[1..]).len()).sum();
    assert_eq!(decoder.shape(), Some(other.code().shape()));
    assert_eq!(decoder.received.retuned, 1);
    assert!((10..20).contains(&restored), "{restored} of 20 groups");
}

#[test]
fn longer_groups_than_allowed_are_not_decoded() {
    let limits = FecLimits { max_shards: 12, ..FecLimits::default() };
    let mut encoder = Encoder::new(plain(10, 3));
    let mut decoder = Decoder::new(limits, None);
    for n in 0..20 {
        assert!(recovered(&mut decoder, &group(&mut encoder, n * 10, |_| 30)[1..]).is_empty());
    }
    assert_eq!((decoder.shape(), decoder.held()), (None, 0));
    let own = Encoder::new(plain(10, 3));
    let mut decoder = Decoder::new(limits, Some(own.code().clone()));
    for n in 0..3 {
        recovered(&mut decoder, &group(&mut encoder, n * 10, |_| 30)[1..]);
    }
    assert_eq!(decoder.received.recovered, 3, "our own shape is allowed");
}

#[test]
fn the_first_loss_of_all_is_restored_as_soon_as_the_shape_is_certain() {
    let mut encoder = Encoder::new(plain(10, 3));
    let mut decoder = Decoder::new(FecLimits::default(), Some(encoder.code().clone()));
    let first = group(&mut encoder, 0, |_| 30);
    assert!(recovered(&mut decoder, &first[1..]).is_empty());
    let next = encode(&mut encoder, at(0), &datagram(10, 30));
    assert_eq!(recovered(&mut decoder, &next), [datagram(0, 30)]);
}

#[test]
fn damaged_shards_are_not_delivered_where_it_shows() {
    let (mut encoder, mut decoder) = pair(plain(4, 2));
    let mut group = group(&mut encoder, 0, |n| if n == 0 { 20 } else { 60 });
    // What is lost is short, so damage beyond its end shows.
    *group[5].last_mut().unwrap() ^= 1;
    group.remove(4);
    assert!(recovered(&mut decoder, &group[1..]).is_empty());
    assert_eq!((decoder.received.corrupt, decoder.received.recovered), (1, 0));
}
