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
        let (mut permitted, mut each) = (Vec::new(), HashMap::new());
        let mut now = 0;
        let pause = *rng.choice(&[3, 300, 30_000]).unwrap();
        for _ in 0..60_000 {
            now += rng.u64(0..pause);
            // Half of all ask from one address.
            let from = if rng.bool() { 0 } else { rng.u32(0..100_000) };
            let to = SocketAddr::from((Ipv4Addr::from_bits(from), 9));
            if limiter.permit(to, Timestamp::from_micros(now)) {
                permitted.push(now);
                let of_it: &mut Vec<u64> = each.entry(to).or_default();
                of_it.push(now);
                let begin = rng.usize(0..of_it.len());
                let (answers, micros) = (of_it.len() - begin, now - of_it[begin]);
                assert!(
                    answers as u64 <= 1001 + micros / 1000,
                    "seed {seed}: {to}: {answers} in {micros} us"
                );
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
