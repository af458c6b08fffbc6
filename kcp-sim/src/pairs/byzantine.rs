//! A peer that knows the conversation and keeps no promise.

use kcp_core::Seq;
use kcp_core::wire::{Command, Control, HEADER_LEN, Header, Segments, controls};

use crate::dice::Dice;

#[derive(Debug)]
pub(super) struct Byzantine {
    dice: Dice,
    conv: u32,
    /// What its victim says.
    last: Option<Header>,
    token: u64,
    nonce: u64,
    /// Answers like an honest one, so often.
    honesty: f64,
    pub(super) next: u64,
    pace: u64,
    pub(super) until: u64,
}

impl Byzantine {
    pub(super) fn new(conv: u32, dice: &mut Dice, until: u64) -> Self {
        Self {
            conv,
            last: None,
            token: 0,
            nonce: 0,
            honesty: dice.pick(&[0.0, 0.5, 0.9]),
            next: 0,
            pace: dice.log(200, 200_000).max(until / 2000),
            until,
            dice: Dice::new(dice.u64()),
        }
    }

    pub(super) fn hear(&mut self, datagram: &[u8], out: &mut Vec<Vec<u8>>) {
        let Ok(segments) = Segments::parse(datagram, self.conv) else { return };
        for (header, payload) in segments {
            self.last = Some(header);
            for control in controls(payload).into_iter().flatten() {
                match control {
                    Control::Hello { token } | Control::HelloAck { token, .. } => self.token = token,
                    Control::Ping { nonce } | Control::PathChallenge { nonce } => self.nonce = nonce,
                    _ => {}
                }
            }
            if self.dice.chance(self.honesty) && out.len() < 64 {
                let answer = match header.cmd {
                    Command::Push => Header { cmd: Command::Ack, una: header.sn.next(), ..header },
                    Command::Wask => Header { cmd: Command::Wins, ..header },
                    _ => continue,
                };
                let wnd = if self.dice.chance(0.1) { 0 } else { 1000 };
                out.push(self.segment(Header { wnd, len: 0, ..answer }, &[]));
            }
        }
    }

    /// By somebody who knows nothing but the conversation: a reset, or an acknowledgement of what was never sent.
    pub(super) fn forge(&mut self) -> Vec<u8> {
        let ts = self.dice.u64() as u32;
        let header = Header {
            conv: self.conv,
            cmd: Command::Wins,
            frg: 0,
            wnd: 128,
            ts,
            sn: Seq::new(self.dice.below(4) as u32),
            una: Seq::new(0xFFFF_0001),
            len: 0,
        };
        if self.dice.coin() {
            let una = Seq::new(self.dice.range(1 << 24, (1 << 31) - 1) as u32);
            return self.segment(Header { una, ..header }, &[]);
        }
        let mut payload = vec![0xE1];
        if self.dice.coin() {
            payload.extend([6, 8, 0]);
            payload.extend(self.dice.u64().to_le_bytes());
        }
        self.segment(Header { len: payload.len() as u32, ..header }, &payload)
    }

    /// A datagram of its own accord.
    pub(super) fn say(&mut self, now: u64) -> Vec<u8> {
        self.next = now + self.dice.range(1, self.pace * 2);
        let mut datagram = Vec::new();
        for _ in 0..self.dice.pick(&[1, 1, 1, 2, 5, 40]) {
            datagram.extend(self.lie());
        }
        if self.dice.chance(0.1) {
            datagram.truncate(self.dice.below(datagram.len() as u64 + 1) as usize);
        }
        if self.dice.chance(0.1) && !datagram.is_empty() {
            let at = self.dice.below(datagram.len() as u64) as usize;
            datagram[at] ^= 1 << self.dice.below(8);
        }
        datagram.truncate(65_507);
        datagram
    }

    fn lie(&mut self) -> Vec<u8> {
        let (base_sn, base_una, base_ts) =
            self.last.map_or((0, 0, 0), |last| (last.una.value(), last.sn.value(), last.ts));
        let odd = [0u32, 1, 2, 31, 127, 128, 255, 4096, 65_535, 1 << 31, u32::MAX, u32::MAX - 1, 1 << 30];
        let near = |dice: &mut Dice, base: u32| match dice.below(4) {
            0 => dice.pick(&odd),
            1 => base.wrapping_add(dice.below(8) as u32),
            2 => base.wrapping_add(dice.pick(&odd)),
            _ => base,
        };
        let cmd = self.dice.pick(&[Command::Push, Command::Push, Command::Ack, Command::Wask, Command::Wins]);
        let (sn, una) = if cmd == Command::Push { (base_sn, base_una) } else { (base_una, base_una) };
        let payload = match cmd {
            Command::Push => vec![7; self.dice.pick(&[0, 0, 1, 20, 300, 1376, 9000])],
            Command::Wask | Command::Wins if self.dice.coin() => self.control(),
            _ => Vec::new(),
        };
        let header = Header {
            conv: self.conv,
            cmd,
            frg: if self.dice.coin() { 0 } else { self.dice.below(256) as u8 },
            wnd: self.dice.pick(&[0, 1, 128, 1000, 65_535]),
            ts: near(&mut self.dice, base_ts),
            sn: Seq::new(near(&mut self.dice, sn)),
            una: Seq::new(near(&mut self.dice, una)),
            len: payload.len() as u32,
        };
        self.segment(header, &payload)
    }

    fn control(&mut self) -> Vec<u8> {
        let mut payload = vec![0xE1];
        for _ in 0..self.dice.below(4) {
            let kind = self.dice.below(14) as u8;
            let mut value = Vec::new();
            for _ in 0..self.dice.below(4) {
                let sn = u64::from(self.last.map_or(0, |last| last.una.value())) + self.dice.below(3);
                let word = self.dice.u64();
                value.extend(self.dice.pick(&[self.token, self.nonce, word, sn, 0]).to_le_bytes());
            }
            payload.push(kind);
            payload.extend((value.len() as u16).to_le_bytes());
            payload.extend(value);
        }
        payload
    }

    fn segment(&self, header: Header, payload: &[u8]) -> Vec<u8> {
        debug_assert_eq!(header.len as usize, payload.len());
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(payload);
        bytes
    }
}

/// What somebody on the path knows of an end.
#[derive(Copy, Clone, Debug)]
pub(super) struct Seen {
    pub(super) conv: u32,
    /// What was acknowledged to it, and what it sends next.
    pub(super) una: Seq,
    pub(super) next: Seq,
    /// What it has received.
    pub(super) received: Seq,
}

/// Somebody who reads everything says something in the peer's name that fits.
pub(super) fn meddle(dice: &mut Dice, seen: &Seen) -> Vec<u8> {
    let in_flight = u64::from(seen.next.value().wrapping_sub(seen.una.value()));
    let sent = |dice: &mut Dice, most| seen.una.plus(dice.below(most) as u32);
    let una = if dice.coin() { seen.una } else { sent(dice, in_flight + 1) };
    let wnd = dice.pick(&[0, 0, 1, 128, 65_535]);
    let mut datagram = Vec::new();
    for _ in 0..dice.pick(&[1, 1, 2, 8]) {
        let ts = dice.u64() as u32;
        let header =
            Header { conv: seen.conv, cmd: Command::Wins, frg: 0, wnd, ts, sn: Seq::new(1), una, len: 0 };
        let (header, payload) = match dice.below(6) {
            // A window, and what has arrived: true or not.
            0 => (header, Vec::new()),
            1 => (Header { cmd: Command::Wask, ..header }, Vec::new()),
            // What is in flight has arrived, the echo is wrong; alone or in a run, as ours are.
            2 | 3 => {
                let run = if dice.coin() { 0 } else { dice.range(1, 64) as usize };
                let sn = sent(dice, in_flight.max(1));
                (
                    Header { cmd: Command::Ack, sn, frg: dice.u64() as u8, ..header },
                    vec![dice.u64() as u8; run],
                )
            }
            // Data within the window, of a message that may never end.
            _ => {
                let sn = seen.received.plus(dice.pick(&[0, 0, 1, 2, 30, 127]));
                let frg = if dice.coin() { 0 } else { dice.pick(&[1, 2, 127, 255]) };
                (Header { cmd: Command::Push, sn, frg, ..header }, vec![9; dice.pick(&[0, 1, 100, 1376])])
            }
        };
        datagram.extend(Header { len: payload.len() as u32, ..header }.encode());
        datagram.extend(payload);
    }
    datagram
}
