//! The pool of half-open sessions, against a list of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kcp_core::Timestamp;

use crate::halfopen::{HalfOpen, Stranger};

struct Session {
    from: IpAddr,
    half_open: AtomicBool,
}

impl Stranger for Session {
    fn is_half_open(&self) -> bool {
        self.half_open.load(Ordering::Relaxed)
    }
}

fn network(ip: IpAddr) -> [u8; 3] {
    let IpAddr::V4(ip) = ip else { unreachable!() };
    let [a, b, c, _] = ip.octets();
    [a, b, c]
}

/// Opened in order, those that are still half-open.
#[derive(Default)]
struct List {
    open: Vec<Arc<Session>>,
    next: HashMap<IpAddr, Timestamp>,
}

impl List {
    fn admits(&mut self, from: IpAddr, limit: usize, now: Timestamp) -> bool {
        if self.open.len() <= limit / 4 {
            return true;
        }
        if self.open.iter().filter(|held| network(held.from) == network(from)).count() >= 64 {
            return false;
        }
        let next = self.next.get(&from).copied().unwrap_or_default().max(now);
        let permitted = next.saturating_since(now) <= Duration::from_millis(200);
        if permitted {
            self.next.insert(from, next + Duration::from_millis(50));
        }
        permitted
    }
}

#[test]
fn same_as_a_list() {
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut pool, mut list) = (HalfOpen::<Session>::default(), List::default());
        let (mut now, mut lives_on) = (Timestamp::ZERO, Vec::new());
        let limit = *rng.choice(&[1, 7, 40, 300]).unwrap();
        let (networks, leaving) = (rng.u8(1..5), rng.u8(1..60));
        for step in 0..3000 {
            now += Duration::from_millis(rng.u64(0..20));
            if rng.u8(0..100) < leaving {
                // It has proven something, or has ended.
                if !list.open.is_empty() {
                    let session = list.open.remove(rng.usize(0..list.open.len()));
                    session.half_open.store(false, Ordering::Relaxed);
                    pool.leave(session.from);
                    // It may live on, somebody's.
                    lives_on.extend(rng.bool().then_some(session));
                }
                continue;
            }
            let from = IpAddr::from([10, 0, rng.u8(0..networks), rng.u8(0..60)]);
            let admitted = pool.admits(from, limit, now);
            assert_eq!(admitted, list.admits(from, limit, now), "seed {seed} step {step}");
            if !admitted {
                continue;
            }
            let session = Arc::new(Session { from, half_open: AtomicBool::new(true) });
            let evicted = pool.push(from, &session, limit);
            list.open.push(session);
            let expected = (list.open.len() > limit).then(|| list.open.remove(0));
            match (&evicted, &expected) {
                (Some(evicted), Some(expected)) => {
                    assert!(Arc::ptr_eq(evicted, expected), "seed {seed} step {step}")
                }
                _ => assert!(evicted.is_none() && expected.is_none(), "seed {seed} step {step}"),
            }
            if let Some(evicted) = evicted {
                evicted.half_open.store(false, Ordering::Relaxed);
                pool.leave(evicted.from);
            }
            assert_eq!(pool.len(), list.open.len());
        }
    }
}
