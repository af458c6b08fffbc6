//! How many answers go to datagrams of no session: few in all, fewer to one address, since it may be a victim's.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use kcp_core::Timestamp;

/// Per second, and at once. No answer is longer than what provoked it, so who forges an address gains nothing; and ten
/// thousand clients of a server that was restarted hear of it within a second.
const RATE: u64 = 10_000;
/// Between answers to one address, in microseconds.
const PER_ADDRESS: u64 = 100_000;
const SLOTS: usize = 16_384;

/// A token bucket, and a table of addresses answered last; two that share a slot share its limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Secret, lest strangers choose whom they share a slot with.
    key: u64,
    /// Microseconds of credit: an answer costs `1_000_000 / RATE`.
    credit: u64,
    since: Timestamp,
    answered: Vec<Option<Timestamp>>,
}

impl Limiter {
    pub(crate) const fn new(key: u64) -> Self {
        Self { key, credit: 1_000_000, since: Timestamp::ZERO, answered: Vec::new() }
    }

    /// Whether an answer may go to this address now; it is taken for sent.
    pub(crate) fn permit(&mut self, to: SocketAddr, now: Timestamp) -> bool {
        let elapsed = u64::try_from(now.saturating_since(self.since).as_micros()).unwrap_or(u64::MAX);
        self.credit = self.credit.saturating_add(elapsed).min(1_000_000);
        self.since = now;
        if self.credit < 1_000_000 / RATE {
            return false;
        }
        if self.answered.is_empty() {
            self.answered = vec![None; SLOTS];
        }
        let mut hash = DefaultHasher::new();
        (self.key, to).hash(&mut hash);
        #[allow(clippy::cast_possible_truncation, reason = "a slot's number")]
        let index = hash.finish() as usize % SLOTS;
        let Some(slot) = self.answered.get_mut(index) else { return false };
        if slot.is_some_and(|last| now.saturating_since(last).as_micros() < u128::from(PER_ADDRESS)) {
            return false;
        }
        *slot = Some(now);
        self.credit -= 1_000_000 / RATE;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn ten_thousand_a_second_and_ten_per_address() {
        let mut limiter = Limiter::new(5);
        let ip = |n: u32| SocketAddr::from((Ipv4Addr::from_bits(n), 9));
        let at = Timestamp::from_micros;
        assert!(limiter.permit(ip(1), at(0)));
        assert!(!limiter.permit(ip(1), at(99_999)));
        assert!(limiter.permit(ip(1), at(100_000)));
        let granted = (0..1_000_000).filter(|&n| limiter.permit(ip(n), at(200_000))).count();
        assert!((9_000..=10_000).contains(&granted), "{granted}");
        assert!(!limiter.permit(ip(2_000_000), at(200_050)));
        let later = (0..1_000_000).filter(|&n| limiter.permit(ip(n), at(1_000_000_000))).count();
        assert!((9_000..=10_000).contains(&later), "credit does not pile up: {later}");
    }
}
