//! The composed layers, through the public interface: sizes, runs, loss, time.

use std::collections::BTreeSet;
use std::time::Duration;

use kcp_core::Timestamp;
use kcp_layers::{
    Cipher, Crypt, FecConfig, FecLimits, Frame, Layers, LayersConfig, OpenError, Opened, Sealed,
};

const CONV: u32 = 0x1122_3344;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn crypt(cipher: Cipher) -> Crypt {
    Crypt::new(cipher, &[5; 32][..cipher.key_len()]).unwrap()
}

fn fec(data: u8, parity: u8) -> FecConfig {
    FecConfig::new(data, parity).unwrap()
}

/// Every cipher and none, with and without error correction, with and without a time limit.
fn combinations() -> Vec<LayersConfig> {
    let mut all = Vec::new();
    for crypt in std::iter::once(None).chain(Cipher::ALL.map(|cipher| Some(crypt(cipher)))) {
        let base = crypt.into_iter().fold(LayersConfig::new(), LayersConfig::crypt);
        all.push(base.clone());
        all.push(base.clone().fec(fec(4, 2).flush_after(None)));
        all.push(base.fec(fec(4, 2)));
    }
    all
}

/// Begins as KCP's do: the conversation, PUSH, no fragments to follow.
fn datagram(n: u32, len: usize) -> Vec<u8> {
    let mut datagram = CONV.to_le_bytes().to_vec();
    datagram.extend_from_slice(&[81, 0, 0, 0]);
    datagram.extend_from_slice(&n.to_le_bytes());
    datagram.resize(len, n as u8);
    datagram
}

fn take(out: &mut Sealed) -> Vec<Vec<u8>> {
    let packets = out.packets().map(<[u8]>::to_vec).collect();
    out.clear();
    packets
}

/// All datagrams that come of a packet.
fn open(layers: &mut Layers, now: Timestamp, packet: &[u8]) -> Result<Vec<Vec<u8>>, OpenError> {
    let mut datagrams = Vec::new();
    layers.open(now, &mut packet.to_vec(), |opened| match opened {
        Opened::Datagram(datagram) | Opened::Recovered(datagram) => datagrams.push(datagram.to_vec()),
        other => panic!("{other:?}"),
    })?;
    Ok(datagrams)
}

#[test]
fn the_mtu_of_kcp_go() {
    let like_kcp_go = |cipher| LayersConfig::new().crypt(crypt(cipher)).fec(fec(10, 3).flush_after(None));
    assert_eq!(like_kcp_go(Cipher::Aes256).kcp_mtu(1350), Some(1322));
    assert_eq!(like_kcp_go(Cipher::Aes128Gcm).kcp_mtu(1350), Some(1314));
    assert_eq!(like_kcp_go(Cipher::None).kcp_mtu(1350), Some(1322));
    assert_eq!(like_kcp_go(Cipher::Null).kcp_mtu(1350), Some(1342));
    assert_eq!(LayersConfig::new().kcp_mtu(1350), Some(1350));
    assert_eq!(like_kcp_go(Cipher::Aes256).kcp_mtu(28), None);
    assert_eq!(like_kcp_go(Cipher::Aes256).kcp_mtu(29), Some(1));
}

/// No packet is longer than promised, and one is as long.
#[test]
fn overhead_is_exact() {
    for config in combinations() {
        let mtu = config.kcp_mtu(1350).unwrap();
        let mut layers = Layers::new(&config, [0; 32]);
        let mut out = Sealed::default();
        // A full group, then one that is cut short.
        for n in 0..6 {
            layers.seal(at(0), &datagram(n, mtu), mtu, &mut out);
        }
        if let Some(due) = layers.poll_timeout() {
            layers.handle_timeout(due, &mut out);
        }
        assert_eq!(out.packets().map(<[u8]>::len).max(), Some(1350), "{config:?}");
        let mut peer = Layers::new(&config, [1; 32]);
        let received: Vec<_> =
            out.packets().flat_map(|packet| open(&mut peer, at(0), packet).unwrap()).collect();
        assert_eq!(received, (0..6).map(|n| datagram(n, mtu)).collect::<Vec<_>>());
    }
}

/// What a core hands out as one run leaves as one run, parity included, as long as lengths allow.
#[test]
fn a_run_stays_a_run() {
    for cipher in [Cipher::Null, Cipher::Aes256, Cipher::Aes128Gcm] {
        let config = LayersConfig::new().crypt(crypt(cipher)).fec(fec(10, 3));
        let mut layers = Layers::new(&config, [0; 32]);
        let mut out = Sealed::default();
        let run: Vec<u8> = (0..30).flat_map(|n| datagram(n, 1000)).collect();
        layers.seal(at(0), &run, 1000, &mut out);
        let runs: Vec<_> = out.runs().map(|run| (run.bytes.len() / run.stride, run.stride)).collect();
        assert_eq!(runs, [(39, 1000 + crypt(cipher).overhead() + 8)]);
        // A shorter one ends it, and parity as long as the longest follows.
        let capacity = out.clone();
        out.clear();
        let run: Vec<u8> = (0..9).flat_map(|n| datagram(n, 1000)).chain(datagram(9, 50)).collect();
        layers.seal(at(0), &run, 1000, &mut out);
        assert_eq!(out.runs().map(|run| run.packets().count()).collect::<Vec<_>>(), [10, 3]);
        assert_eq!(capacity.packets().count(), 39);
    }
}

#[test]
fn the_conversation_can_be_told_of_every_packet() {
    for config in combinations() {
        let mut layers = Layers::new(&config, [0; 32]);
        let mut out = Sealed::default();
        for n in 0..7 {
            layers.seal(at(0), &datagram(n, 40 + n as usize), 2000, &mut out);
        }
        layers.handle_timeout(at(1000), &mut out);
        layers.seal_out_of_band(CONV, b"beside", &mut out).unwrap();
        for mut packet in take(&mut out) {
            let plain = match config.encryption() {
                Some(crypt) => crypt.open(&mut packet).unwrap(),
                None => &mut packet,
            };
            assert_eq!(Frame::parse(plain).conv(), Some(CONV), "{config:?}");
        }
    }
}

#[test]
fn out_of_band_packets() {
    for config in combinations() {
        let (mut here, mut there) = (Layers::new(&config, [0; 32]), Layers::new(&config, [1; 32]));
        let mut out = Sealed::default();
        for payload in [&b""[..], b"x", &[7; 1000]] {
            here.seal_out_of_band(CONV, payload, &mut out).unwrap();
            let mut packet = take(&mut out).remove(0);
            assert_eq!(packet.len(), config.encryption().map_or(0, Crypt::overhead) + 12 + payload.len());
            let mut got = Vec::new();
            there
                .open(at(0), &mut packet, |opened| {
                    let Opened::OutOfBand { conv, payload } = opened else { panic!("{opened:?}") };
                    got.push((conv, payload.to_vec()));
                })
                .unwrap();
            assert_eq!(got, [(CONV, payload.to_vec())]);
        }
        assert!(here.seal_out_of_band(CONV, &[0; 65_530], &mut out).is_err() && out.is_empty());
        assert_eq!((here.stats().out_of_band_sent, there.stats().out_of_band_received), (3, 3));
    }
}

/// Lossy in every combination: what comes out was put in, once recovered at most, and fewer are missing than were lost.
#[test]
fn every_combination_over_a_lossy_path() {
    for (seed, config) in combinations().into_iter().enumerate() {
        let (mut here, mut there) = (Layers::new(&config, [0; 32]), Layers::new(&config, [1; 32]));
        let mut rng = fastrand::Rng::with_seed(seed as u64);
        let mut out = Sealed::default();
        let (mut sent, mut got, mut lost) = (BTreeSet::new(), BTreeSet::new(), 0);
        let mut now = at(0);
        for n in 0..1000 {
            let len = rng.usize(12..200);
            here.seal(now, &datagram(n, len), len, &mut out);
            sent.insert(datagram(n, len));
            now += Duration::from_millis(rng.u64(0..8));
            if here.poll_timeout().is_some_and(|due| due <= now) {
                here.handle_timeout(now, &mut out);
            }
            for packet in take(&mut out) {
                if rng.u8(..100) < 5 {
                    lost += 1;
                } else {
                    got.extend(open(&mut there, now, &packet).unwrap());
                }
            }
        }
        assert!(got.is_subset(&sent));
        let missing = sent.len() - got.len();
        let protected = here.stats().fec_parity_sent > 0;
        assert!(
            lost > 30 && if protected { missing < 12 } else { missing == lost },
            "{missing} {lost} {config:?}"
        );
        assert_eq!(there.stats().fec_recovered > 20, protected);
    }
}

#[test]
fn each_direction_has_its_own_protection() {
    let protected = LayersConfig::new().fec(fec(3, 1));
    let (mut here, mut there) =
        (Layers::new(&protected, [0; 32]), Layers::new(&LayersConfig::new(), [1; 32]));
    let mut out = Sealed::default();
    for n in 0..9 {
        here.seal(at(0), &datagram(n, 50), 50, &mut out);
    }
    let mut packets = take(&mut out);
    packets.remove(8);
    let got: Vec<_> = packets.iter().flat_map(|packet| open(&mut there, at(0), packet).unwrap()).collect();
    assert_eq!(got.last(), Some(&datagram(6, 50)));
    there.seal(at(0), &datagram(9, 50), 50, &mut out);
    assert_eq!(take(&mut out), [datagram(9, 50)]);
    assert_eq!(open(&mut here, at(0), &datagram(9, 50)), Ok(vec![datagram(9, 50)]));
    assert_eq!(there.stats().fec_peer_shape.map(|shape| (shape.data(), shape.parity())), Some((3, 1)));
}

#[test]
fn refused_packets_are_counted_and_change_nothing() {
    let config = LayersConfig::new().crypt(crypt(Cipher::Aes128Gcm)).fec(fec(3, 1));
    let (mut here, mut there) = (Layers::new(&config, [0; 32]), Layers::new(&config, [1; 32]));
    let mut out = Sealed::default();
    here.seal(at(0), &datagram(0, 50), 50, &mut out);
    let packet = take(&mut out).remove(0);
    let mut broken = packet.clone();
    broken[20] ^= 1;
    assert_eq!(open(&mut there, at(0), &broken), Err(OpenError::Unsealed));
    assert_eq!(open(&mut there, at(0), &packet[..27]), Err(OpenError::Short));
    assert_eq!(open(&mut there, at(0), &[]), Err(OpenError::Short));
    assert_eq!(there.receive(at(0), &[0, 0, 0, 0, 0xF1, 0, 9, 9], |_| {}), Err(OpenError::Malformed));
    let stats = there.stats();
    assert_eq!((stats.unsealed, stats.short, stats.malformed, stats.fec_data_received), (1, 2, 1, 0));
    assert_eq!(there.poll_timeout(), None);
    assert_eq!(open(&mut there, at(0), &packet), Ok(vec![datagram(0, 50)]));
    // Again: KCP sees the duplicate too, the group does not.
    assert_eq!(open(&mut there, at(0), &packet), Ok(vec![datagram(0, 50)]));
    assert_eq!(there.stats().fec_data_received, 2);
}

#[test]
fn deadlines() {
    let config = LayersConfig::new().fec(fec(4, 2).flush_after(Some(Duration::from_millis(7))));
    let (mut here, mut there) = (Layers::new(&config, [0; 32]), Layers::new(&config, [1; 32]));
    let mut out = Sealed::default();
    assert_eq!(here.poll_timeout(), None);
    here.seal(at(100), &datagram(0, 50), 50, &mut out);
    assert_eq!(here.poll_timeout(), Some(at(107)));
    here.seal(at(105), &datagram(1, 50), 50, &mut out);
    assert_eq!(here.poll_timeout(), Some(at(107)), "that of the first");
    let before = out.packets().count();
    here.handle_timeout(at(106), &mut out);
    assert_eq!(out.packets().count(), before);
    here.handle_timeout(at(107), &mut out);
    assert_eq!((out.packets().count(), here.poll_timeout()), (before + 1, None));
    // A receiver gives its memory back after a while, and then wants nothing more.
    for packet in take(&mut out) {
        open(&mut there, at(110), &packet).unwrap();
    }
    let idle = there.poll_timeout().unwrap();
    assert_eq!(idle, at(10_110));
    there.handle_timeout(idle, &mut out);
    assert!(there.poll_timeout().is_none() && out.is_empty() && there.stats().fec_held == 0);
}

/// One side of an adaptive pair, sending in virtual time over a path that loses `loss` percent one way.
fn adapt(loss: u8, both: bool) -> (u8, Option<f64>) {
    let config = LayersConfig::new().fec(fec(10, 5).adaptive(1));
    let other = if both { config.clone() } else { LayersConfig::new().fec(fec(10, 5)) };
    let (mut here, mut there) = (Layers::new(&config, [0; 32]), Layers::new(&other, [1; 32]));
    let mut rng = fastrand::Rng::with_seed(loss.into());
    let mut out = Sealed::default();
    assert_eq!(here.stats().fec_rows, 5);
    for n in 0..8000u64 {
        let now = at(n);
        here.seal(now, &datagram(n as u32, 100), 100, &mut out);
        if here.poll_timeout().is_some_and(|due| due <= now) {
            here.handle_timeout(now, &mut out);
        }
        for packet in take(&mut out) {
            if rng.u8(..100) >= loss {
                open(&mut there, now, &packet).unwrap();
            }
        }
        // The way back loses nothing.
        there.seal(now, &datagram(n as u32, 100), 100, &mut out);
        if there.poll_timeout().is_some_and(|due| due <= now) {
            there.handle_timeout(now, &mut out);
        }
        for packet in take(&mut out) {
            open(&mut here, now, &packet).unwrap();
        }
    }
    if both {
        assert!(here.stats().out_of_band_received >= 6);
    }
    (here.stats().fec_rows, here.stats().fec_loss)
}

#[test]
fn parity_follows_the_loss_that_the_peer_reports() {
    assert_eq!(adapt(0, true), (1, Some(0.0)));
    let (rows, loss) = adapt(2, true);
    assert!((2..=3).contains(&rows) && (0.01..0.03).contains(&loss.unwrap()), "{rows} {loss:?}");
    let (rows, loss) = adapt(15, true);
    assert!(rows == 5 && (0.12..0.18).contains(&loss.unwrap()), "{rows} {loss:?}");
}

#[test]
fn without_reports_what_comes_back_must_do() {
    // The way back loses nothing, and the peer tells nothing.
    assert_eq!(adapt(15, false), (1, Some(0.0)));
}

#[test]
fn an_idle_adaptive_pair_is_silent() {
    let config = LayersConfig::new().fec(fec(4, 2).adaptive(0));
    let mut layers = Layers::new(&config, [0; 32]);
    let mut out = Sealed::default();
    layers.seal(at(0), &datagram(0, 50), 50, &mut out);
    let mut wakeups = 0;
    while let Some(due) = layers.poll_timeout() {
        layers.handle_timeout(due, &mut out);
        wakeups += 1;
        assert!(wakeups < 5);
    }
    assert_eq!(wakeups, 2, "the group's time limit and one look");
}

/// Sequence numbers, groups and notes as an enemy would choose them, where nothing keeps him out: counted and dropped, and held
/// no more than allowed. The honest peer beside him gets everything that was not lost.
#[test]
fn whatever_comes_nothing_grows_past_its_bound() {
    let limits = FecLimits { max_shards: 40, max_bytes: 10_000 };
    let mut rng = fastrand::Rng::with_seed(11);
    let mut here = Layers::new(&LayersConfig::new().fec(fec(3, 2)), [1; 32]);
    let mut there = Layers::new(&LayersConfig::new().fec(fec(3, 2)).fec_limits(limits), [2; 32]);
    let (mut offered, mut honest) = (0u64, 0u64);
    for n in 0..20_000u32 {
        let now = at(u64::from(n));
        let mut packet = match rng.u8(..4) {
            // Anywhere near, at the end of the sequence, or far away; any kind; any length.
            0 | 1 => {
                let seqid = match rng.u8(..4) {
                    0 => rng.u32(..),
                    1 => u32::MAX - rng.u32(..600),
                    _ => n.wrapping_add(rng.u32(..600)),
                };
                let mut packet = seqid.to_le_bytes().to_vec();
                packet.extend([rng.u8(0xF0..=0xF4), 0, rng.u8(..), rng.u8(..8), 1, 2, 3, 4]);
                let len = rng.usize(..1400);
                packet.extend(std::iter::repeat_with(|| rng.u8(..)).take(len));
                packet
            }
            // Parity with a note of a shape that cannot be, or that is enormous, and a checksum that is right.
            2 => {
                let mut packet = n.wrapping_add(rng.u32(..20)).to_le_bytes().to_vec();
                packet.extend([0xF2, 0]);
                let len = rng.usize(..200);
                packet.extend(std::iter::repeat_with(|| rng.u8(..)).take(len));
                packet.extend([0xE1, rng.u8(..), rng.u8(..), rng.u8(..)]);
                let mut summed = packet[..4].to_vec();
                summed.extend_from_slice(&packet[6..]);
                packet.extend(crc32fast::hash(&summed).to_le_bytes());
                packet
            }
            // What honest peers send, whole, cut short or with a bit that has flipped.
            _ => {
                let mut out = Sealed::default();
                here.seal(now, &datagram(n, 100), 100, &mut out);
                let mut packet = out.packets().next().unwrap().to_vec();
                match rng.u8(..3) {
                    0 => packet.truncate(rng.usize(..packet.len())),
                    1 => {
                        let at = rng.usize(..packet.len());
                        packet[at] ^= 1 << rng.u8(..8);
                    }
                    _ => {
                        let mut got = Vec::new();
                        let taken = there.receive(now, &packet, |opened| {
                            got.push(matches!(opened, Opened::Datagram(bytes) if bytes == datagram(n, 100)));
                        });
                        assert!(taken.is_ok() && got.contains(&true));
                        honest += 1;
                        continue;
                    }
                }
                packet
            }
        };
        offered += 1;
        let mut delivered = 0;
        let _ = there.open(now, &mut packet, |_| delivered += 1);
        // One packet completes one group at most.
        assert!(delivered <= 41, "{delivered}");
        assert!(there.stats().fec_held <= limits.max_bytes, "{}", there.stats().fec_held);
    }
    let stats = there.stats();
    let counted =
        stats.fec_data_received + stats.fec_parity_received + stats.out_of_band_received + stats.malformed;
    assert!(counted > 0 && counted <= offered + honest);
    for (count, what) in [
        (stats.malformed, "malformed"),
        (stats.fec_stray, "stray"),
        (stats.fec_contradictions, "contradictions"),
        (stats.out_of_band_received, "out of band"),
    ] {
        assert!(count > 0, "{what}: {stats:?}");
    }
}
