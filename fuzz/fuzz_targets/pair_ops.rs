//! Any sequence of operations on two ends over a network that loses, doubles and reorders: what is read is a prefix of
//! what was written.
#![no_main]

use std::collections::VecDeque;
use std::sync::Arc;

use arbitrary::Arbitrary;
use kcp_core::{Framing, Seed, Session, SessionConfig, Timestamp};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Op {
    Write(bool, u8),
    Read(bool, u8),
    Wait(u16),
    Deliver(bool),
    DeliverLate(bool),
    Lose(bool),
    Double(bool),
    Flush(bool),
    Shutdown(bool),
}

fuzz_target!(|ops: Vec<Op>| {
    let config = Arc::new(SessionConfig::turbo().mtu(60).send_window(8).recv_window(8).idle_timeout(None).user_timeout(None));
    let mut ends = [1, 2].map(|seed| Session::established(9, config.clone(), Seed::from_u64(seed), Timestamp::ZERO));
    let mut wires: [VecDeque<Vec<u8>>; 2] = Default::default();
    let (mut written, mut read) = ([0u64; 2], [0u64; 2]);
    let mut now = Timestamp::ZERO;
    let mut buf = [0; 256];
    for op in ops {
        match op {
            Op::Write(side, len) => {
                let side = usize::from(side);
                // Byte i of a direction is i: what is read can be checked without keeping it.
                let data: Vec<u8> = (0..u64::from(len)).map(|i| (written[side] + i) as u8).collect();
                written[side] += ends[side].write(now, &data).unwrap_or(0) as u64;
            }
            Op::Read(side, len) => {
                let side = usize::from(side);
                if let Ok(n) = ends[side].read(now, &mut buf[..usize::from(len)]) {
                    for byte in &buf[..n] {
                        assert_eq!(*byte, read[side] as u8);
                        read[side] += 1;
                    }
                    assert!(read[side] <= written[1 - side]);
                }
            }
            Op::Wait(ms) => now += std::time::Duration::from_millis(u64::from(ms)),
            Op::Deliver(side) => {
                if let Some(datagram) = wires[usize::from(side)].pop_front() {
                    let _ = ends[1 - usize::from(side)].handle_datagram(now, &datagram);
                }
            }
            Op::DeliverLate(side) => {
                if let Some(datagram) = wires[usize::from(side)].pop_back() {
                    let _ = ends[1 - usize::from(side)].handle_datagram(now, &datagram);
                }
            }
            Op::Lose(side) => _ = wires[usize::from(side)].pop_front(),
            Op::Double(side) => {
                if let Some(datagram) = wires[usize::from(side)].front() {
                    let _ = ends[1 - usize::from(side)].handle_datagram(now, datagram);
                }
            }
            Op::Flush(side) => ends[usize::from(side)].flush(),
            Op::Shutdown(side) => ends[usize::from(side)].shutdown(),
        }
        for side in 0..2 {
            ends[side].handle_timeout(now);
            let mut out = Vec::new();
            while ends[side].poll_transmit(now, Framing::default(), &mut out).is_some() {
                assert!(out.len() <= 60);
                wires[side].push_back(std::mem::take(&mut out));
            }
            wires[side].truncate(1000);
            while ends[side].poll_event().is_some() {}
        }
    }
});
