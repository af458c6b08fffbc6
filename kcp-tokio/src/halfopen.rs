//! Sessions that strangers have opened and that are nobody's yet: bounded, per network too, the oldest give way.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kcp_core::Timestamp;

/// When more than one in so many places is taken, the limits below hold; before, a thousand clients behind one address are
/// welcome.
const BUSY: usize = 4;
/// At most this many of one network (/24, /56): one stranger cannot fill the pool with a network of addresses.
const MAX_PER_NETWORK: usize = 64;
/// An address may open one session per `PAUSE`, and `BURST` at once.
const PAUSE: Duration = Duration::from_millis(50);
const BURST: u32 = 5;
/// Addresses whose pace is kept. More than these are a flood of forged ones, of which none comes twice: eviction is the answer.
const MAX_PACED: usize = 4096;

/// The pool. Its sessions live in the registry; what is here only bounds them.
#[derive(Debug)]
pub(crate) struct HalfOpen<T> {
    by_age: VecDeque<(IpAddr, Weak<T>)>,
    networks: HashMap<IpAddr, usize>,
    live: usize,
    pace: Pace,
}

/// When an address may open its next session (the generic cell rate algorithm).
#[derive(Debug, Default)]
struct Pace {
    next: HashMap<IpAddr, Timestamp>,
    forget_at: Timestamp,
}

impl Pace {
    fn permit(&mut self, from: IpAddr, now: Timestamp) -> bool {
        let next = self.next.get(&from).copied().unwrap_or_default().max(now);
        if next.saturating_since(now) > PAUSE * (BURST - 1) {
            return false;
        }
        if self.next.len() >= MAX_PACED && !self.next.contains_key(&from) {
            self.forget(now);
        }
        if self.next.len() < MAX_PACED || self.next.contains_key(&from) {
            self.next.insert(from, next + PAUSE);
        }
        true
    }

    /// Not more often than addresses can fall due again.
    fn forget(&mut self, now: Timestamp) {
        if now >= self.forget_at {
            self.next.retain(|_, next| *next > now);
            self.forget_at = now + PAUSE;
        }
    }
}

/// A session in the pool.
pub(crate) trait Stranger {
    /// It has neither proven anything nor ended.
    fn is_half_open(&self) -> bool;
}

impl<T> Default for HalfOpen<T> {
    fn default() -> Self {
        Self { by_age: VecDeque::new(), networks: HashMap::new(), live: 0, pace: Pace::default() }
    }
}

impl<T: Stranger> HalfOpen<T> {
    /// Whether one more from this address is taken, if there are at most `limit` in all.
    pub(crate) fn admits(&mut self, from: IpAddr, limit: usize, now: Timestamp) -> bool {
        if self.live <= limit / BUSY {
            return true;
        }
        let full = self.networks.get(&network(from)).is_some_and(|&count| count >= MAX_PER_NETWORK);
        !full && self.pace.permit(from, now)
    }

    /// Takes one more; returns the one that has to go for it.
    pub(crate) fn push(&mut self, from: IpAddr, session: &Arc<T>, limit: usize) -> Option<Arc<T>> {
        let network = network(from);
        *self.networks.entry(network).or_default() += 1;
        self.live += 1;
        self.by_age.push_back((network, Arc::downgrade(session)));
        let mut evicted = None;
        // Those that have left since are only names here.
        while self
            .by_age
            .front()
            .is_some_and(|(_, weak)| weak.upgrade().is_none_or(|held| !held.is_half_open()))
        {
            self.by_age.pop_front();
        }
        if self.live > limit {
            evicted = self.by_age.pop_front().and_then(|(_, weak)| weak.upgrade());
        }
        if self.by_age.len() > limit.saturating_mul(4) {
            self.by_age.retain(|(_, weak)| weak.upgrade().is_some_and(|held| held.is_half_open()));
        }
        evicted
    }

    /// One has become somebody's, or has ended.
    pub(crate) fn leave(&mut self, from: IpAddr) {
        let network = network(from);
        self.live = self.live.saturating_sub(1);
        if let Some(count) = self.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&network);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }
}

/// The network that an address belongs to.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 72)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Held(Cell<bool>);

    impl Stranger for Held {
        fn is_half_open(&self) -> bool {
            self.0.get()
        }
    }

    #[test]
    fn under_pressure_an_address_opens_five_at_once_and_twenty_a_second() {
        let mut pool = HalfOpen::<Held> { live: 25, ..HalfOpen::default() };
        let (ip, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 1, 1]));
        let at = Timestamp::from_millis;
        assert!((0..100).all(|_| pool.admits(ip, 100, at(1000))), "a quarter is no pressure");
        pool.live = 26;
        assert_eq!((0..100).filter(|_| pool.admits(ip, 100, at(1000))).count(), 5);
        assert!(pool.admits(other, 100, at(1000)), "another address has its own pace");
        assert!(!pool.admits(ip, 100, Timestamp::from_micros(1_049_999)));
        assert_eq!((0..100).filter(|_| pool.admits(ip, 100, at(1050))).count(), 1);
        let mut taken = 0;
        for ms in 1050..2050 {
            taken += usize::from(pool.admits(ip, 100, at(ms)));
        }
        assert_eq!(taken, 19, "the one at 1050 was taken already");
    }

    #[test]
    fn networks_are_24_and_56_bits() {
        let net = |ip: &str| network(ip.parse().unwrap()).to_string();
        assert_eq!(net("10.1.2.3"), "10.1.2.0");
        assert_eq!(net("::ffff:10.1.2.3"), "10.1.2.0");
        assert_eq!(net("2001:db8:1:22ff:1::1"), "2001:db8:1:2200::");
    }
}
