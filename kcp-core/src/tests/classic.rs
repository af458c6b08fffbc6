//! The classic face: ticks, `check`, ikcp's clamps, and transfers across every wrap.

use alloc::vec;
use alloc::vec::Vec;

use super::util::{Rng, pattern};
use crate::wire::{Command, Segments};
use crate::{Kcp, RecvError};

fn outputs(kcp: &mut Kcp) -> Vec<Vec<u8>> {
    core::iter::from_fn(|| kcp.poll_output()).collect()
}

#[test]
fn nothing_leaves_between_ticks() {
    let mut kcp = Kcp::new(1);
    kcp.nodelay(1, 20, 2, 1);
    kcp.update(100);
    kcp.send(b"a").unwrap();
    assert_eq!(outputs(&mut kcp).len(), 0);
    assert_eq!(kcp.check(100), 120);
    kcp.update(119);
    assert_eq!(outputs(&mut kcp).len(), 0);
    kcp.update(120);
    assert_eq!(outputs(&mut kcp).len(), 1);
    assert_eq!(kcp.waitsnd(), 1);
    assert_eq!(kcp.check(125), 140, "ticks do not drift");
    kcp.flush();
    assert_eq!(outputs(&mut kcp).len(), 0, "nothing is due twice");
}

#[test]
fn check_never_makes_a_caller_spin() {
    let mut kcp = Kcp::new(1);
    kcp.nodelay(1, 5000, 2, 1);
    kcp.set_min_rto(30);
    let mut now = u32::MAX - 3000;
    kcp.update(now);
    kcp.send(b"a").unwrap();
    kcp.flush();
    let mut transmissions = outputs(&mut kcp).len();
    for _ in 0..20 {
        let next = kcp.check(now);
        assert!(next.wrapping_sub(now).cast_signed() > 0, "{next} is not after {now}");
        now = next;
        kcp.update(now);
        transmissions += outputs(&mut kcp).len();
    }
    assert!(transmissions > 10, "a retransmission does not wait for the tick");
}

/// Once a panic at the first acknowledgement.
#[test]
fn a_minimal_rto_beyond_the_longest_is_the_longest() {
    let (mut kcp, mut peer) = (Kcp::new(1), Kcp::new(1));
    kcp.set_min_rto(u32::MAX);
    kcp.update(0);
    peer.update(0);
    kcp.send(b"a").unwrap();
    kcp.flush();
    for datagram in outputs(&mut kcp) {
        peer.input(&datagram).unwrap();
    }
    peer.flush();
    for datagram in outputs(&mut peer) {
        kcp.input(&datagram).unwrap();
    }
    assert_eq!(kcp.waitsnd(), 0);
}

#[test]
fn a_late_update_does_not_catch_up() {
    let mut kcp = Kcp::new(1);
    kcp.nodelay(0, 10, 0, 1);
    kcp.update(0);
    kcp.update(1_000_000);
    assert_eq!(kcp.check(1_000_000), 1_000_010);
    kcp.update(999_000);
    assert_eq!(kcp.check(1_000_000), 1_000_010, "a clock that steps back is ignored");
}

#[test]
fn recv_reports_what_it_needs() {
    let (mut a, mut b) = (Kcp::new(1), Kcp::new(1));
    assert_eq!(b.recv(&mut [0; 8]), Err(RecvError::Empty));
    a.update(0);
    b.update(0);
    a.nodelay(1, 10, 2, 1);
    a.send(&[7; 3000]).unwrap();
    a.update(200);
    for datagram in outputs(&mut a) {
        b.input(&datagram).unwrap();
    }
    assert_eq!(b.peeksize(), Some(3000));
    assert_eq!(b.recv(&mut [0; 2999]), Err(RecvError::BufferTooSmall { need: 3000 }));
    let mut buf = vec![0; 4000];
    assert_eq!(b.recv(&mut buf), Ok(3000));
    assert_eq!(buf[..3000], [7; 3000]);
}

#[test]
fn clamps_are_ikcps() {
    let mut kcp = Kcp::new(1);
    kcp.wndsize(0, 1);
    kcp.update(0);
    kcp.input(&super::util::segment(Command::Wask, 0, 1, 0, 0, 0, b"")).unwrap_err();
    let mut probe = super::util::segment(Command::Wask, 0, 1, 0, 0, 0, b"");
    probe[0] = 1;
    kcp.input(&probe).unwrap();
    kcp.flush();
    let datagram = outputs(&mut kcp).remove(0);
    let wnd = Segments::parse(&datagram, 1).unwrap().next().unwrap().0.wnd;
    assert_eq!(wnd, 128, "a receive window below 128 could not hold every message");
    assert!(kcp.set_mtu(49).is_err() && kcp.set_mtu(50).is_ok());
    kcp.wndsize(0, 1_000_000);
    kcp.input(&probe).unwrap();
    kcp.flush();
    let datagram = outputs(&mut kcp).remove(0);
    assert_eq!(
        Segments::parse(&datagram, 1).unwrap().next().unwrap().0.wnd,
        u16::MAX,
        "never truncated to 0"
    );
}

#[test]
fn a_dead_link_shows() {
    let mut kcp = Kcp::new(1);
    kcp.nodelay(1, 10, 0, 1);
    kcp.set_dead_link(3);
    kcp.update(0);
    kcp.send(b"x").unwrap();
    let mut now = 0;
    let mut transmissions = 0;
    while !kcp.is_dead_link() {
        now += 10;
        kcp.update(now);
        transmissions += outputs(&mut kcp).len();
    }
    assert_eq!(transmissions, 3);
}

#[test]
fn lossy_transfers_across_the_wrap_of_sn_and_clock() {
    for seed in 0..200u64 {
        let mut rng = Rng::new(seed);
        let (mut a, mut b) = (Kcp::new(3), Kcp::new(3));
        let start = 0u32.wrapping_sub(rng.below(50) as u32);
        a.set_initial_sn(start, 0);
        b.set_initial_sn(0, start);
        let stream = rng.chance(50);
        let (nodelay, resend, nc) = (rng.below(3) as i32, rng.below(3) as i32, rng.below(2) as i32);
        let mtu = 50 + rng.below(1400) as usize;
        for kcp in [&mut a, &mut b] {
            kcp.nodelay(nodelay, 10, resend, nc);
            kcp.wndsize(16 + rng.below(500) as u32, 128 + rng.below(500) as u32);
            kcp.set_mtu(mtu).unwrap();
            kcp.set_stream(stream);
        }
        let messages: Vec<Vec<u8>> =
            (0..40).map(|i| pattern(rng.below((mtu as u64 - 24) * 20) as usize, seed ^ i)).collect();
        let expected = if stream { vec![messages.concat()] } else { messages.clone() };
        let mut got: Vec<Vec<u8>> = if stream { vec![vec![]] } else { vec![] };
        let mut now = 0u32.wrapping_sub(300);
        let mut wire: Vec<(u32, bool, Vec<u8>)> = vec![];
        let (mut next, mut buf) = (0, vec![0; 65536]);
        for step in 0.. {
            assert!(step < 400_000, "seed {seed} does not converge");
            now = now.wrapping_add(1 + rng.below(10) as u32);
            while next < messages.len() && a.waitsnd() < 100 {
                a.send(&messages[next]).unwrap();
                next += 1;
            }
            a.update(now);
            b.update(now);
            for (to_b, datagrams) in [(true, outputs(&mut a)), (false, outputs(&mut b))] {
                for datagram in datagrams {
                    assert!(datagram.len() <= mtu);
                    if !rng.chance(15) {
                        wire.push((now.wrapping_add(20 + rng.below(20) as u32), to_b, datagram));
                    }
                }
            }
            let due = |at: u32| now.wrapping_sub(at).cast_signed() >= 0;
            let (arrived, later) = wire.into_iter().partition::<Vec<_>, _>(|(at, ..)| due(*at));
            wire = later;
            for (_, to_b, datagram) in arrived {
                if to_b { &mut b } else { &mut a }.input(&datagram).unwrap();
            }
            while let Ok(n) = b.recv(&mut buf) {
                if stream {
                    got[0].extend_from_slice(&buf[..n]);
                } else {
                    got.push(buf[..n].to_vec());
                }
            }
            if got == expected {
                break;
            }
        }
    }
}
