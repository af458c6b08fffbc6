//! Any sequence of operations on two of ours that exchange messages and unreliable datagrams over a network that loses, doubles
//! and reorders, with buffers that shrink and grow: messages arrive whole, in order, empty ones too; and once the network heals,
//! all of them.
#![no_main]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use kcp_core::{CloseReason, Framing, Held, InputError, Seed, Session, SessionConfig, Timestamp};
use libfuzzer_sys::fuzz_target;

const MTU: usize = 80;
const RECV_BUFFER: usize = 3000;

#[derive(Arbitrary, Debug)]
struct Setup {
    /// Read as bytes, which skips empty messages.
    bytes: [bool; 2],
    extensions: bool,
    write_delay: bool,
    redundancy: u8,
    wrap: bool,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Send(bool, u8),
    Datagram(bool, u8),
    Receive(bool, u8),
    Wait(u8),
    WaitLong(u8),
    Deliver(bool),
    DeliverLate(bool),
    Lose(bool),
    Double(bool),
    Limit(bool, u16, u16),
    Probe(bool),
    Flush(bool),
    Shutdown(bool),
}

/// One direction: what was written and not yet read.
#[derive(Default)]
struct Direction {
    messages: VecDeque<VecDeque<u8>>,
    /// Counts the bytes written: byte i is i.
    written: u8,
    datagrams: Vec<Vec<u8>>,
}

struct Pair {
    ends: [Session; 2],
    wires: [VecDeque<Vec<u8>>; 2],
    directions: [Direction; 2],
    bytes: [bool; 2],
    now: Timestamp,
}

impl Pair {
    fn new(setup: &Setup) -> Self {
        let config = SessionConfig::turbo().mtu(MTU).send_window(16).recv_window(16).stream(false);
        let config = config.recv_buffer(RECV_BUFFER).send_buffer(3000).extensions(setup.extensions);
        let config = config.write_delay(setup.write_delay).redundancy(setup.redundancy % 4).dead_link(u32::MAX);
        let config = config.idle_timeout(None).user_timeout(None).zero_window_timeout(None);
        let config = Arc::new(config.connect_timeout(Duration::from_secs(1 << 20)));
        let now = Timestamp::ZERO;
        let mut ends = [
            Session::connect(9, config.clone(), Seed::from_u64(1), now),
            Session::accept(9, config.clone(), Seed::from_u64(2), now),
        ];
        if setup.wrap {
            ends = [1, 2].map(|seed| Session::established(9, config.clone(), Seed::from_u64(seed), now));
            ends[0].set_initial_sn(u32::MAX - 2, u32::MAX - 5);
            ends[1].set_initial_sn(u32::MAX - 5, u32::MAX - 2);
        }
        Self { ends, wires: Default::default(), directions: Default::default(), bytes: setup.bytes, now }
    }

    fn deliver(&mut self, from: usize, datagram: Option<Vec<u8>>) {
        if let Some(datagram) = datagram {
            let taken = self.ends[1 - from].handle_datagram(self.now, &datagram);
            assert!(matches!(taken, Ok(()) | Err(InputError::Closed(CloseReason::Finished))), "{taken:?}");
        }
    }

    fn send(&mut self, side: usize, len: u8) {
        let direction = &mut self.directions[side];
        let message: Vec<u8> = (0..len).map(|i| direction.written.wrapping_add(i)).collect();
        if self.ends[side].send_msg(self.now, message.clone().into()).is_ok() {
            direction.written = direction.written.wrapping_add(len);
            direction.messages.push_back(message.into());
        }
    }

    /// True when there was something.
    fn receive(&mut self, side: usize, len: u8) -> bool {
        let (end, direction) = (&mut self.ends[side], &mut self.directions[1 - side]);
        while let Some(datagram) = end.recv_datagram() {
            assert!(direction.datagrams.iter().any(|sent| *sent == datagram), "a datagram that nobody sent");
        }
        if !self.bytes[side] {
            let Ok(message) = end.recv_msg(self.now) else { return false };
            let expected = direction.messages.pop_front().expect("a message that nobody sent");
            assert!(message.iter().eq(&expected), "{message:?} instead of {expected:?}");
            return true;
        }
        let mut buf = [0; 256];
        let Ok(n @ 1..) = end.read(self.now, &mut buf[..usize::from(len)]) else { return false };
        while direction.messages.front().is_some_and(VecDeque::is_empty) {
            direction.messages.pop_front();
        }
        let message = direction.messages.front_mut().expect("bytes that nobody sent");
        assert!(buf[..n].iter().copied().eq(message.drain(..n)), "other bytes");
        if message.is_empty() {
            direction.messages.pop_front();
        }
        true
    }

    /// What is due leaves.
    fn turn(&mut self) {
        for side in 0..2 {
            let end = &mut self.ends[side];
            end.handle_timeout(self.now);
            let mut out = Vec::new();
            while end.poll_transmit(self.now, Framing::default(), &mut out).is_some() {
                assert!(out.len() <= MTU);
                self.wires[side].push_back(std::mem::take(&mut out));
            }
            self.wires[side].truncate(1000);
            while end.poll_event().is_some() {}
            assert!(end.poll_timeout().is_none_or(|at| at > self.now), "drained, yet due");
            let held = end.held();
            assert!(held.received <= RECV_BUFFER + MTU && held.sent <= 6000, "{held:?}");
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Send(side, len) => self.send(side.into(), len),
            Op::Datagram(side, len) => {
                let data = vec![len; usize::from(len)];
                if self.ends[usize::from(side)].send_datagram(data.clone().into()).is_ok() {
                    self.directions[usize::from(side)].datagrams.push(data);
                }
            }
            Op::Receive(side, len) => _ = self.receive(side.into(), len),
            Op::Wait(ms) => self.now += Duration::from_millis(ms.into()),
            Op::WaitLong(seconds) => self.now += Duration::from_secs(seconds.into()),
            Op::Deliver(side) => {
                let datagram = self.wires[usize::from(side)].pop_front();
                self.deliver(side.into(), datagram);
            }
            Op::DeliverLate(side) => {
                let datagram = self.wires[usize::from(side)].pop_back();
                self.deliver(side.into(), datagram);
            }
            Op::Lose(side) => _ = self.wires[usize::from(side)].pop_front(),
            Op::Double(side) => {
                let datagram = self.wires[usize::from(side)].front().cloned();
                self.deliver(side.into(), datagram);
            }
            Op::Limit(side, received, sent) => {
                self.ends[usize::from(side)].limit_buffers(Held { received: received.into(), sent: sent.into() });
            }
            Op::Probe(side) => self.ends[usize::from(side)].probe_path(),
            Op::Flush(side) => self.ends[usize::from(side)].flush(),
            Op::Shutdown(side) => self.ends[usize::from(side)].shutdown(),
        }
    }

    /// Everything that was taken arrives.
    fn heal(&mut self) {
        for end in &mut self.ends {
            end.limit_buffers(Held { received: usize::MAX, sent: usize::MAX });
            end.flush();
        }
        for _ in 0..3000 {
            self.turn();
            for side in 0..2 {
                while let Some(datagram) = self.wires[side].pop_front() {
                    self.deliver(side, Some(datagram));
                    self.turn();
                }
            }
            for side in 0..2 {
                while self.receive(side, 255) {}
            }
            self.turn();
            // Empty messages are skipped where bytes are read.
            let all = (0..2).all(|side| {
                self.directions[1 - side].messages.iter().all(|message| self.bytes[side] && message.is_empty())
            });
            if all && self.wires.iter().all(VecDeque::is_empty) {
                return;
            }
            let next = self.ends.iter_mut().filter_map(Session::poll_timeout).min();
            if self.wires.iter().all(VecDeque::is_empty) {
                self.now = self.now.max(next.expect("nothing is under way, and nobody will ever speak again"));
            }
        }
        let missing: Vec<_> = self.directions.iter().map(|direction| direction.messages.len()).collect();
        panic!("not all has arrived: {missing:?}, {:?}", self.ends.each_ref().map(Session::close_reason));
    }
}

fuzz_target!(|input: (Setup, Vec<Op>)| {
    let (setup, ops) = input;
    let mut pair = Pair::new(&setup);
    for op in ops {
        pair.apply(op);
        pair.turn();
    }
    pair.heal();
});
