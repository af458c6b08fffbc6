//! Answers to datagrams of no session: what may leave in any stretch of time, and to one address.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use kcp_core::Timestamp;

use crate::limiter::Limiter;

#[test]
fn no_stretch_of_time_has_more_than_its_share() {
    for seed in 0..6 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut limiter = Limiter::new(rng.u64(..));
        let (mut permitted, mut last) = (Vec::new(), HashMap::new());
        let mut now = 0;
        let pause = *rng.choice(&[3, 300, 30_000]).unwrap();
        for _ in 0..60_000 {
            now += rng.u64(0..pause);
            let to = SocketAddr::from((Ipv4Addr::from_bits(rng.u32(0..100_000)), 9));
            if limiter.permit(to, Timestamp::from_micros(now)) {
                permitted.push(now);
                if let Some(before) = last.insert(to, now) {
                    assert!(now - before >= 100_000, "seed {seed}: {to} twice within {} us", now - before);
                }
            }
        }
        assert!(permitted.len() > 9000);
        for _ in 0..1000 {
            let (from, to) = (rng.usize(0..permitted.len()), rng.usize(0..permitted.len()));
            let (from, to) = (from.min(to), from.max(to));
            let micros = permitted[to] - permitted[from];
            assert!((to - from) as u64 <= 10_000 + micros / 100, "seed {seed}: {} in {micros} us", to - from);
        }
    }
}
