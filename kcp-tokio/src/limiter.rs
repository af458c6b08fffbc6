//! How many answers go to datagrams of no session: few in all, fewer to one address, since it may be a victim's.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use kcp_core::Timestamp;

/// Per second, and at once. No answer is longer than what provoked it, so who forges an address gains nothing; and ten
/// thousand clients of a server that was restarted hear of it within a second.
const RATE: u64 = 10_000;
/// The same for one address, behind whose socket there may be a thousand sessions that all ask at the same moment.
const RATE_PER_ADDRESS: u64 = 1_000;
const SECOND: u64 = 1_000_000;
const SLOTS: usize = 16_384;

/// A token bucket, and a table of what addresses have used up; two that share a slot share its limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Secret, lest strangers choose whom they share a slot with.
    key: u64,
    /// Microseconds of credit: an answer costs `SECOND / RATE`.
    credit: u64,
    since: Timestamp,
    /// Until when each has used its share; a second ahead of now at most (the generic cell rate algorithm).
    used_until: Vec<Timestamp>,
}

impl Limiter {
    pub(crate) const fn new(key: u64) -> Self {
        Self { key, credit: SECOND, since: Timestamp::ZERO, used_until: Vec::new() }
    }

    /// Whether an answer may go to this address now; it is taken for sent.
    pub(crate) fn permit(&mut self, to: SocketAddr, now: Timestamp) -> bool {
        let elapsed = u64::try_from(now.saturating_since(self.since).as_micros()).unwrap_or(u64::MAX);
        self.credit = self.credit.saturating_add(elapsed).min(SECOND);
        self.since = now;
        if self.credit < SECOND / RATE {
            return false;
        }
        if self.used_until.is_empty() {
            self.used_until = vec![Timestamp::ZERO; SLOTS];
        }
        let mut hash = DefaultHasher::new();
        (self.key, to).hash(&mut hash);
        #[allow(clippy::cast_possible_truncation, reason = "a slot's number")]
        let index = hash.finish() as usize % SLOTS;
        let Some(slot) = self.used_until.get_mut(index) else { return false };
        let used_until = (*slot).max(now) + Duration::from_micros(SECOND / RATE_PER_ADDRESS);
        if used_until > now + Duration::from_micros(SECOND) {
            return false;
        }
        *slot = used_until;
        self.credit -= SECOND / RATE;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn ten_thousand_a_second_and_a_thousand_per_address() {
        let mut limiter = Limiter::new(5);
        let ip = |n: u32| SocketAddr::from((Ipv4Addr::from_bits(n), 9));
        let at = Timestamp::from_micros;
        assert_eq!((0..5000).filter(|_| limiter.permit(ip(1), at(0))).count(), 1000);
        assert!(!limiter.permit(ip(1), at(999)));
        assert!(limiter.permit(ip(1), at(1000)));
        assert!(!limiter.permit(ip(1), at(1000)));
        assert!(limiter.permit(ip(2), at(1000)), "another address has its own share");
        let granted = (0..1_000_000).filter(|&n| limiter.permit(ip(n), at(200_000))).count();
        assert!((9_000..=10_000).contains(&granted), "{granted}");
        assert!(!limiter.permit(ip(2_000_000), at(200_050)));
        let later = (0..1_000_000).filter(|&n| limiter.permit(ip(n), at(1_000_000_000))).count();
        assert!((9_000..=10_000).contains(&later), "credit does not pile up: {later}");
    }
}
