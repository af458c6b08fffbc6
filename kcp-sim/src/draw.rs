//! What core and stack draw alike: session parameters, networks, contents.

use std::time::Duration;

use kcp_core::{NoDelay, SessionConfig};
use kcp_netsim::{LinkConfig, Loss};

use crate::dice::Dice;

/// Names of what a seed has, for the summary.
pub(crate) type Features = Vec<&'static str>;

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Notes a feature when it is there.
pub(crate) fn note(features: &mut Features, there: bool, name: &'static str) -> bool {
    if there && !features.contains(&name) {
        features.push(name);
    }
    there
}

/// The parameters of a session, and what checkers have to know of them.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    pub(crate) config: SessionConfig,
    pub(crate) idle: Option<Duration>,
    pub(crate) user: Option<Duration>,
    pub(crate) zero_window: Option<Duration>,
    /// The longest of the limits that end a session in which nothing goes forward; none: it may wait for ever.
    pub(crate) patience: Option<Duration>,
    pub(crate) send_window: u32,
    pub(crate) interval: Duration,
    /// Nothing that ends a session by itself is as usual.
    pub(crate) odd_timeouts: bool,
    /// Mode 0: the wait for the next repetition doubles up to a minute.
    pub(crate) doubles: bool,
    pub(crate) keepalive: Option<Duration>,
    /// Congestion control is off: only windows and pacing limit what is on its way.
    pub(crate) nc: bool,
    pub(crate) pacing: bool,
    pub(crate) idle_is_eof: bool,
}

impl Drawn {
    /// Parameters that were thought of after those of [`session`].
    pub(crate) fn more(&mut self, dice: &mut Dice, features: &mut Features) {
        self.pacing = !note(features, dice.chance(0.3), "no pacing");
        self.idle_is_eof = note(features, dice.chance(0.3), "idle is an end");
        self.config = self.config.clone().pacing(self.pacing).idle_is_eof(self.idle_is_eof);
    }

    /// For more data than the rest has.
    pub(crate) fn bulk(&mut self, window: u32, nc: bool) {
        (self.send_window, self.nc, self.doubles, self.interval) = (window, nc, false, ms(20));
        let config = self.config.clone().mtu(1400).send_window(window).recv_window(window);
        let config = config.nodelay(NoDelay { nc, ..NoDelay::FAST });
        self.config = config.send_buffer(2 << 20).recv_buffer(8 << 20);
    }
}

/// Every parameter of a session, each left at its preset half of the time.
pub(crate) fn session(dice: &mut Dice, stream: bool, features: &mut Features) -> Drawn {
    let mut send_window = 2048;
    let (mut idle, mut user, mut zero) = (Some(ms(30_000)), Some(ms(60_000)), Some(ms(120_000)));
    let mut odd_timeouts = false;
    let mut drawn_interval = ms(40);
    let preset = dice.below(4);
    let mut doubles = preset == 0;
    let mut nc = preset != 0;
    let mut keepalive = Some(ms(10_000));
    let mut config = match preset {
        0 => SessionConfig::normal(),
        1 => SessionConfig::fast(),
        2 => SessionConfig::turbo(),
        _ => SessionConfig::realtime(),
    };
    config = config.stream(stream);
    if dice.coin() {
        let odd = dice.range(50, 2000);
        config = config.mtu(dice.pick(&[50, 64, 100, 256, 548, 576, 1200, 1472, 9000, odd]) as usize);
    }
    if dice.coin() {
        send_window = dice.log(1, 4096) as u32;
        config = config.send_window(send_window);
    }
    if dice.coin() {
        config = config.recv_window(dice.log(1, 4096) as u32);
    }
    if dice.chance(0.3) {
        let longest = dice.pick(&[200, 200, 200, 200, 200, 200, 200, 200, 200, 5000]);
        let interval = dice.log(1, longest);
        drawn_interval = ms(interval);
        let nodelay = dice.below(3) as u8;
        doubles = nodelay == 0;
        let resend = dice.below(6) as u32;
        nc = dice.coin();
        config = config.nodelay(NoDelay { nodelay, interval: ms(interval), resend, nc });
        note(features, true, "odd nodelay numbers");
    }
    if dice.chance(0.3) {
        config = config.redundancy(dice.range(1, 8) as u8);
    }
    if note(features, dice.chance(0.3), "early retransmit") {
        config = config.early_retransmit(true);
    }
    if note(features, dice.chance(0.3), "ack nodelay") {
        config = config.ack_nodelay(true);
    }
    if note(features, dice.chance(0.3), "write delay") {
        config = config.write_delay(true);
    }
    if dice.chance(0.3) {
        config = config.fast_limit(dice.below(10) as u32);
    }
    if dice.chance(0.2) {
        config = config.dead_link(dice.range(2, 40) as u32);
        odd_timeouts = true;
    }
    if note(features, dice.chance(0.3), "small buffers") {
        config = config.send_buffer(dice.log(1, 200_000) as usize);
    }
    if dice.chance(0.3) {
        config = config.recv_buffer(dice.log(1, 400_000) as usize);
    }
    if dice.coin() {
        keepalive = dice.maybe(0.6, |dice| ms(dice.log(500, 20_000)));
        config = config.keepalive(keepalive);
        idle = dice.maybe(0.6, |dice| ms(dice.log(3_000, 60_000)));
        user = dice.maybe(0.6, |dice| ms(dice.log(3_000, 60_000)));
        zero = dice.maybe(0.6, |dice| ms(dice.log(5_000, 120_000)));
        config = config.idle_timeout(idle).user_timeout(user).zero_window_timeout(zero);
        config = config.connect_timeout(ms(dice.log(1_000, 20_000)));
        config = config.linger(ms(dice.log(1, 20_000) - 1));
        odd_timeouts = note(features, true, "odd timeouts");
    }
    // A shorter idle timeout asks more often.
    keepalive = keepalive.map(|period| idle.map_or(period, |idle| period.min(idle / 3)));
    let patience =
        [idle, user, zero].into_iter().try_fold(Duration::ZERO, |most, limit| Some(most.max(limit?)));
    Drawn {
        config,
        idle,
        user,
        zero_window: zero,
        patience,
        send_window,
        interval: drawn_interval,
        odd_timeouts,
        doubles,
        keepalive,
        nc,
        pacing: true,
        idle_is_eof: false,
    }
}

/// One direction of a path, and whether it can be trusted to leave payloads alone.
pub(crate) fn link(dice: &mut Dice, raw: bool, features: &mut Features) -> LinkConfig {
    let mut link = LinkConfig { delay: Duration::from_micros(50), ..LinkConfig::ideal() };
    if note(features, dice.coin(), "delay") {
        link.delay = Duration::from_micros(dice.log(50, 750_000));
    }
    if note(features, dice.coin(), "jitter") {
        link.jitter = Duration::from_micros(dice.log(50, 300_000));
    }
    if dice.coin() {
        let mean = dice.unit() * 0.5;
        link.loss = if note(features, dice.coin(), "bursty loss") {
            Loss::bursty(mean, 1.0 + dice.unit() * 19.0)
        } else {
            note(features, true, "uniform loss");
            Loss::Uniform(mean)
        };
    }
    if note(features, dice.coin(), "reordering") {
        link.reorder = dice.unit() * 0.5;
        link.reorder_by = Duration::from_micros(dice.log(100, 500_000));
    }
    if note(features, dice.coin(), "duplication") {
        link.duplicate = dice.unit() * 0.5;
    }
    if note(features, dice.coin(), "replay") {
        link.replay = dice.unit() * 0.5;
    }
    if note(features, raw, "raw corruption") || note(features, dice.coin(), "corruption") {
        link.corrupt = dice.unit() * 0.3;
        link.checksum = !raw;
    }
    if note(features, dice.coin(), "rate and queue") {
        link.rate = Some(dice.log(8_000, 100_000_000));
        link.queue = dice.log(3_000, 1_000_000) as usize;
    }
    if note(features, dice.chance(0.1), "path mtu") {
        link.mtu = Some(dice.range(100, 1500) as usize);
    }
    link
}

/// The network after it has healed: a little delay, nothing else.
pub(crate) fn healed() -> LinkConfig {
    LinkConfig { delay: ms(10), ..LinkConfig::ideal() }
}

/// Byte `at` of a stream: whatever was drawn for `stream` stays so.
pub(crate) fn fill(stream: u64, at: u64, buf: &mut [u8]) {
    let mut at = at;
    let mut buf = buf;
    while !buf.is_empty() {
        let word = mix(stream ^ (at / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
        let from = &word[(at % 8) as usize..];
        let n = from.len().min(buf.len());
        let (head, rest) = buf.split_at_mut(n);
        head.copy_from_slice(&from[..n]);
        buf = rest;
        at += n as u64;
    }
}

/// Where `data`, which should stand at `at` of a stream, differs from it.
pub(crate) fn differs(stream: u64, at: u64, data: &[u8]) -> Option<u64> {
    let mut expected = [0; 512];
    let mut done = 0;
    for chunk in data.chunks(expected.len()) {
        let expected = &mut expected[..chunk.len()];
        fill(stream, at + done, expected);
        if expected != chunk {
            let first = expected.iter().zip(chunk).position(|(a, b)| a != b).unwrap_or(0);
            return Some(at + done + first as u64);
        }
        done += chunk.len() as u64;
    }
    None
}

/// The finaliser of splitmix64.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_do_not_depend_on_how_they_are_cut() {
        let mut whole = vec![0; 1000];
        fill(7, 5, &mut whole);
        for cut in [0, 1, 3, 8, 511, 512, 513, 999] {
            assert_eq!(differs(7, 5, &whole[..cut]), None);
            assert_eq!(differs(7, 5 + cut as u64, &whole[cut..]), None);
        }
        whole[600] ^= 1;
        assert_eq!(differs(7, 5, &whole), Some(605));
        assert_ne!(differs(8, 5, &whole), None);
    }
}
