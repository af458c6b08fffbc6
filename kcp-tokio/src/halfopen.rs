//! Sessions that strangers have opened and that are nobody's yet: bounded, per network too, the oldest give way.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Weak};

use crate::session::Session;

/// At most this many of one network (/24, /56): one stranger cannot fill the pool with a network of addresses.
const MAX_PER_NETWORK: usize = 64;

/// The pool. Its sessions live in the registry; what is here only bounds them.
#[derive(Debug, Default)]
pub(crate) struct HalfOpen {
    by_age: VecDeque<(IpAddr, Weak<Session>)>,
    networks: HashMap<IpAddr, usize>,
    live: usize,
}

impl HalfOpen {
    /// Whether one more from this address is taken.
    pub(crate) fn admits(&self, from: IpAddr) -> bool {
        self.networks.get(&network(from)).is_none_or(|&count| count < MAX_PER_NETWORK)
    }

    /// Takes one more; returns the one that has to go for it.
    pub(crate) fn push(
        &mut self,
        from: IpAddr,
        session: &Arc<Session>,
        limit: usize,
    ) -> Option<Arc<Session>> {
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

    #[test]
    fn networks_are_24_and_56_bits() {
        let net = |ip: &str| network(ip.parse().unwrap()).to_string();
        assert_eq!(net("10.1.2.3"), "10.1.2.0");
        assert_eq!(net("::ffff:10.1.2.3"), "10.1.2.0");
        assert_eq!(net("2001:db8:1:22ff:1::1"), "2001:db8:1:2200::");
    }
}
