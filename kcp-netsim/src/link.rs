//! One direction of a path: packets in with the time, out when they are due.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::config::{LinkConfig, Loss};
use crate::rng::Dice;

/// What a link carries.
pub trait Payload: Clone {
    /// Its length in bytes, which the rate, the queue and the mtu go by.
    fn size(&self) -> usize;

    /// Its bytes, to be damaged.
    fn bytes_mut(&mut self) -> &mut Vec<u8>;
}

impl Payload for Vec<u8> {
    fn size(&self) -> usize {
        self.len()
    }

    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        self
    }
}

/// A packet with something that stays with it, such as its addresses.
impl<T: Clone> Payload for (T, Vec<u8>) {
    fn size(&self) -> usize {
        self.1.len()
    }

    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.1
    }
}

/// What has become of the packets.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Packets put in.
    pub sent: u64,
    /// Bytes put in.
    pub bytes: u64,
    /// Packets that came out, duplicates included.
    pub delivered: u64,
    /// Lost by the loss rule.
    pub lost: u64,
    /// Dropped because the queue of the rate limit was full.
    pub queue_dropped: u64,
    /// Dropped because they were longer than the mtu.
    pub too_long: u64,
    /// Dropped by a partition.
    pub cut: u64,
    /// Duplicated.
    pub duplicated: u64,
    /// Held back so that later ones pass.
    pub reordered: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Old ones that came again.
    pub replayed: u64,
}

impl LinkStats {
    /// Adds what another link has counted.
    pub const fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.bytes += other.bytes;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.queue_dropped += other.queue_dropped;
        self.too_long += other.too_long;
        self.cut += other.cut;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.replayed += other.replayed;
    }
}

/// How many packets may come again.
const REPLAYABLE: usize = 64;

/// One direction of an emulated path. Times are durations since any fixed start and must not go backwards.
#[derive(Debug)]
pub struct Link<P> {
    config: LinkConfig,
    dice: Dice,
    /// Gilbert-Elliott: the link is in its bad state.
    bad: bool,
    partitioned: bool,
    /// When the rate limit has sent everything that waits.
    busy_until: Duration,
    /// When the latest packet that was not reordered arrives: jitter keeps the order.
    last_arrival: Duration,
    /// (arrival, order of entry): the entry breaks ties.
    flying: BTreeMap<(Duration, u64), P>,
    entered: u64,
    /// What may come again; kept only where something does.
    passed: VecDeque<P>,
    stats: LinkStats,
}

impl<P: Payload> Link<P> {
    /// A link; `seed` decides the fate of every packet.
    #[must_use]
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            dice: Dice::new(seed),
            bad: false,
            partitioned: false,
            busy_until: Duration::ZERO,
            last_arrival: Duration::ZERO,
            flying: BTreeMap::new(),
            entered: 0,
            passed: VecDeque::new(),
            stats: LinkStats::default(),
        }
    }

    /// Changes what happens to packets from now on.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// While partitioned, everything put in is lost; what flies arrives.
    pub const fn set_partitioned(&mut self, partitioned: bool) {
        self.partitioned = partitioned;
    }

    /// What has become of the packets.
    #[must_use]
    pub const fn stats(&self) -> LinkStats {
        self.stats
    }

    /// Puts a packet in.
    pub fn send(&mut self, now: Duration, packet: P) {
        let size = packet.size();
        self.stats.sent += 1;
        self.stats.bytes += size as u64;
        if self.partitioned {
            self.stats.cut += 1;
            return;
        }
        if self.config.mtu.is_some_and(|mtu| size > mtu) {
            self.stats.too_long += 1;
            return;
        }
        let Some(sent_at) = self.through_the_queue(now, size) else {
            self.stats.queue_dropped += 1;
            return;
        };
        if self.is_lost() {
            self.stats.lost += 1;
            return;
        }
        if self.dice.chance(self.config.duplicate) {
            self.stats.duplicated += 1;
            self.fly(sent_at, packet.clone());
        }
        if self.config.replay > 0.0 {
            if !self.passed.is_empty() && self.dice.chance(self.config.replay) {
                let old = self.passed[self.dice.below(self.passed.len())].clone();
                self.stats.replayed += 1;
                self.fly(sent_at, old);
            }
            if self.passed.len() == REPLAYABLE {
                self.passed.pop_front();
            }
            self.passed.push_back(packet.clone());
        }
        self.fly(sent_at, packet);
    }

    /// When the rate limit lets the packet go; None when the queue is full.
    fn through_the_queue(&mut self, now: Duration, size: usize) -> Option<Duration> {
        let Some(rate) = self.config.rate else { return Some(now) };
        let per_byte = 1.0 / rate.max(1) as f64;
        let waiting = self.busy_until.saturating_sub(now).as_secs_f64() / per_byte;
        if waiting + size as f64 > self.config.queue as f64 {
            return None;
        }
        self.busy_until = self.busy_until.max(now) + Duration::from_secs_f64(size as f64 * per_byte);
        Some(self.busy_until)
    }

    fn is_lost(&mut self) -> bool {
        match self.config.loss {
            Loss::None => false,
            Loss::Uniform(p) => self.dice.chance(p),
            Loss::GilbertElliott { enter, leave, loss_bad, loss_good } => {
                let change = if self.bad { leave } else { enter };
                if self.dice.chance(change) {
                    self.bad = !self.bad;
                }
                self.dice.chance(if self.bad { loss_bad } else { loss_good })
            }
        }
    }

    fn fly(&mut self, sent_at: Duration, mut packet: P) {
        if self.dice.chance(self.config.corrupt) {
            self.stats.corrupted += 1;
            if self.config.checksum {
                return;
            }
            damage(&mut self.dice, packet.bytes_mut());
        }
        let mut arrival = sent_at + self.config.delay;
        if self.config.jitter > Duration::ZERO {
            arrival += self.config.jitter.mul_f64(self.dice.unit());
        }
        if self.dice.chance(self.config.reorder) {
            self.stats.reordered += 1;
            arrival += self.config.reorder_by;
        } else {
            arrival = arrival.max(self.last_arrival);
            self.last_arrival = arrival;
        }
        self.entered += 1;
        self.flying.insert((arrival, self.entered), packet);
    }

    /// Takes a packet that is due.
    pub fn poll(&mut self, now: Duration) -> Option<P> {
        let entry = self.flying.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        self.stats.delivered += 1;
        Some(entry.remove())
    }

    /// When the next packet is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.flying.first_key_value().map(|(&(due, _), _)| due)
    }

    /// When the last of the packets under way is due. Those that are put in now do not overtake it, whatever the configuration.
    #[must_use]
    pub fn last_due(&self) -> Option<Duration> {
        self.flying.last_key_value().map(|(&(due, _), _)| due)
    }

    /// Packets under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }
}

/// Flips up to three bits, cuts the end off, or appends something.
fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    if dice.chance(0.2) {
        bytes.truncate(dice.below(bytes.len()));
        return;
    }
    if dice.chance(0.1) {
        for _ in 0..=dice.below(48) {
            let copied = bytes[dice.below(bytes.len())];
            bytes.push(copied);
        }
        return;
    }
    for _ in 0..=dice.below(3) {
        let at = dice.below(bytes.len());
        bytes[at] ^= 1 << dice.below(8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn run(config: LinkConfig, seed: u64, packets: u32) -> (Vec<(Duration, u32)>, LinkStats) {
        let mut link = Link::new(config, seed);
        let mut out = Vec::new();
        let number = |packet: Vec<u8>| u32::from_le_bytes(packet[..4].try_into().unwrap());
        for i in 0..packets {
            let now = MS * i;
            while let Some(due) = link.next_due().filter(|&due| due <= now) {
                if let Some(before) = due.checked_sub(Duration::from_nanos(1)) {
                    assert_eq!(link.poll(before), None, "not before it is due");
                }
                out.push((due, number(link.poll(due).unwrap())));
            }
            let mut packet = i.to_le_bytes().to_vec();
            packet.resize(100, 0);
            link.send(now, packet);
        }
        while let Some(due) = link.next_due() {
            out.push((due, number(link.poll(due).unwrap())));
        }
        (out, link.stats())
    }

    #[test]
    fn an_ideal_link_changes_nothing() {
        let (out, stats) = run(LinkConfig::ideal(), 1, 100);
        assert_eq!(out, (0..100).map(|i| (MS * i, i)).collect::<Vec<_>>());
        assert_eq!((stats.sent, stats.delivered, stats.bytes), (100, 100, 10_000));
    }

    #[test]
    fn the_same_seed_gives_the_same_fates() {
        let config = LinkConfig { corrupt: 0.0, duplicate: 0.1, ..LinkConfig::mobile() };
        assert_eq!(run(config.clone(), 7, 2000), run(config.clone(), 7, 2000));
        assert_ne!(run(config.clone(), 7, 2000), run(config, 8, 2000));
    }

    #[test]
    fn loss_rates_are_as_told() {
        for (loss, expected) in [
            (Loss::Uniform(0.1), 0.1),
            (Loss::Uniform(0.5), 0.5),
            (Loss::bursty(0.05, 3.0), 0.05),
            (Loss::bursty(0.2, 5.0), 0.2),
            (Loss::Uniform(0.0), 0.0),
            (Loss::Uniform(1.0), 1.0),
        ] {
            let (_, stats) = run(LinkConfig { loss: loss.clone(), ..LinkConfig::ideal() }, 3, 50_000);
            let rate = stats.lost as f64 / stats.sent as f64;
            assert!((rate - expected).abs() < 0.02, "{loss:?}: {rate}");
            assert_eq!(stats.lost + stats.delivered, stats.sent);
        }
    }

    #[test]
    fn bursts_have_the_told_length() {
        let (out, stats) =
            run(LinkConfig { loss: Loss::bursty(0.1, 4.0), ..LinkConfig::ideal() }, 5, 100_000);
        let bursts = out.windows(2).filter(|pair| pair[1].1 - pair[0].1 > 1).count();
        let mean = stats.lost as f64 / bursts as f64;
        assert!((3.6..4.4).contains(&mean), "{mean}");
    }

    #[test]
    fn jitter_keeps_the_order_and_reordering_does_not() {
        let jitter = LinkConfig { delay: MS * 10, jitter: MS * 30, ..LinkConfig::ideal() };
        let (out, _) = run(jitter.clone(), 2, 5000);
        assert!(out.windows(2).all(|pair| pair[0].1 < pair[1].1));
        assert!(out.iter().all(|&(at, i)| at >= MS * (i + 10) && at <= MS * (i + 40) + MS * 30));
        let (out, stats) = run(LinkConfig { reorder: 0.1, ..jitter }, 2, 5000);
        assert!(out.windows(2).any(|pair| pair[0].1 > pair[1].1));
        assert!((400..600).contains(&stats.reordered), "{}", stats.reordered);
    }

    #[test]
    fn duplicates_and_damage_are_as_frequent_as_told() {
        let config = LinkConfig { duplicate: 0.2, corrupt: 0.1, ..LinkConfig::ideal() };
        let mut link = Link::new(config, 9);
        for i in 0..10_000 {
            link.send(MS * i, vec![0; 64]);
        }
        let (mut damaged, mut total) = (0u32, 0u32);
        while let Some(packet) = link.poll(Duration::MAX) {
            damaged += u32::from(packet != [0; 64]);
            total += 1;
        }
        assert!((11_800..12_200).contains(&total), "{total}");
        // Two flips of one bit undo each other, rarely.
        assert!((1000..1300).contains(&damaged), "{damaged}");
    }

    #[test]
    fn a_checksum_turns_damage_into_loss_and_old_packets_come_again() {
        let config = LinkConfig { corrupt: 0.1, checksum: true, replay: 0.2, ..LinkConfig::ideal() };
        let mut link = Link::new(config, 4);
        let mut seen = [0u32; 10_000];
        for i in 0..10_000u32 {
            link.send(MS * i, i.to_le_bytes().to_vec());
            while let Some(packet) = link.poll(MS * i) {
                let number = u32::from_le_bytes(packet.try_into().unwrap());
                assert!(number + 64 >= i, "one of the last 64");
                seen[number as usize] += 1;
            }
        }
        let stats = link.stats();
        assert_eq!(stats.delivered + stats.corrupted, 10_000 + stats.replayed);
        assert!((1000..1400).contains(&stats.corrupted), "{}", stats.corrupted);
        assert!((1800..2200).contains(&stats.replayed), "{}", stats.replayed);
        assert!(seen.contains(&2));
    }

    #[test]
    fn the_rate_limit_and_its_queue_are_exact() {
        // 100 bytes per ms; room for ten packets.
        let config = LinkConfig { rate: Some(100_000), queue: 1000, ..LinkConfig::ideal() };
        let mut link = Link::new(config, 1);
        for _ in 0..15 {
            link.send(Duration::ZERO, vec![0; 100]);
        }
        assert_eq!((link.stats().queue_dropped, link.in_flight()), (5, 10));
        let mut times = Vec::new();
        while let Some(due) = link.next_due() {
            times.push(due.as_millis());
            link.poll(due);
        }
        assert_eq!(times, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        link.send(MS * 20, vec![0; 100]);
        assert_eq!(link.next_due().map(|due| due.as_millis()), Some(21), "an idle link has no backlog");
    }

    #[test]
    fn partitions_and_the_mtu_drop() {
        let mut link = Link::new(LinkConfig { mtu: Some(100), ..LinkConfig::ideal() }, 1);
        link.send(MS, vec![0; 100]);
        link.send(MS, vec![0; 101]);
        link.set_partitioned(true);
        link.send(MS, vec![0; 10]);
        link.set_partitioned(false);
        link.send(MS, vec![0; 10]);
        let stats = link.stats();
        assert_eq!((stats.too_long, stats.cut, link.in_flight()), (1, 1, 2));
    }
}
