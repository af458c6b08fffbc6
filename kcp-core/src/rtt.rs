//! Round-trip time and RTO (`ikcp_update_ack`, RFC 6298 with KCP's floor).

/// KCP's estimator in microseconds.
///
/// `srtt` and `rttvar` follow RFC 6298 (gains 1/8 and 1/4); the RTO is `srtt + max(interval, 4 * rttvar)`, where
/// `interval` stands for the tick after which an ikcp peer sends its acknowledgements.
#[derive(Clone, Debug)]
pub(crate) struct RttEstimator {
    /// 0 until the first sample. All four fit: nothing exceeds [`MAX_RTO`].
    srtt: u32,
    rttvar: u32,
    /// How long the peer holds its acknowledgements at most: the longest seen, forgotten slowly.
    hold: u32,
    rto: u32,
}

/// What a peer says of its acknowledgements is believed up to here.
const MAX_HOLD: u64 = 64_000;
/// `IKCP_RTO_DEF`.
pub(crate) const INITIAL_RTO: u32 = 200_000;
/// An exchange that took longer had something lost in it; the RTO of RFC 6298 before the first sample.
const MAX_EXPECTED: u64 = 1_000_000;
/// `IKCP_RTO_MAX`. Samples are clamped to it as well.
const MAX_RTO: u64 = 60_000_000;

impl RttEstimator {
    pub(crate) const fn new() -> Self {
        Self { srtt: 0, rttvar: 0, hold: 0, rto: INITIAL_RTO }
    }

    /// `held`: the part of `rtt` for which the peer held the acknowledgement.
    pub(crate) fn sample(&mut self, rtt: u64, held: u64, interval: u64, min_rto: u64) {
        let held = held.min(MAX_HOLD);
        let hold = held.max(Self::forget(u64::from(self.hold)));
        let rtt = rtt.saturating_sub(held).clamp(1, MAX_RTO);
        let (srtt, rttvar) = match self.srtt() {
            None => (rtt, rtt / 2),
            Some(srtt) => {
                let delta = rtt.abs_diff(srtt);
                let rttvar = self.rttvar().saturating_mul(3).saturating_add(delta) / 4;
                ((srtt.saturating_mul(7).saturating_add(rtt) / 8).max(1), rttvar)
            }
        };
        let slack = interval.max(rttvar.saturating_mul(4));
        // A floor above the ceiling, which the classic face takes as ikcp does, gives the ceiling.
        let rto = srtt.saturating_add(slack).saturating_add(hold).max(min_rto).min(MAX_RTO);
        let fits = |micros: u64| u32::try_from(micros).unwrap_or(u32::MAX);
        (self.srtt, self.rttvar, self.hold, self.rto) = (fits(srtt), fits(rttvar), fits(hold), fits(rto));
    }

    /// Before the first sample: an exchange without data took so long, with what was lost or waited in it. The first data is neither sent again
    /// before its acknowledgement can be here, nor for long not.
    pub(crate) fn expect(&mut self, took: u64, interval: u64, least: u64) {
        if self.srtt().is_none() {
            let rto = took.saturating_mul(2).saturating_add(interval).min(MAX_EXPECTED).max(least);
            self.rto = u32::try_from(rto).unwrap_or(u32::MAX);
        }
    }

    /// What is left of a peer's longest hold after a sample with a shorter one. The peer reckons the same way, so that it
    /// knows when to tell again.
    pub(crate) const fn forget(hold: u64) -> u64 {
        hold.saturating_mul(15) / 16
    }

    pub(crate) fn srtt(&self) -> Option<u64> {
        (self.srtt > 0).then_some(u64::from(self.srtt))
    }

    pub(crate) fn rttvar(&self) -> u64 {
        u64::from(self.rttvar)
    }

    pub(crate) fn rto(&self) -> u64 {
        u64::from(self.rto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sample_then_smoothing() {
        let mut rtt = RttEstimator::new();
        assert_eq!((rtt.srtt(), rtt.rto()), (None, 200_000));
        rtt.sample(80_000, 0, 10_000, 30_000);
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(80_000), 40_000, 240_000));
        rtt.sample(40_000, 0, 10_000, 30_000);
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(75_000), 40_000, 235_000));
    }

    #[test]
    fn floor_interval_and_ceiling() {
        let mut rtt = RttEstimator::new();
        for _ in 0..100 {
            rtt.sample(1_000, 0, 10_000, 30_000);
        }
        assert_eq!(rtt.rto(), 30_000, "floor");
        for _ in 0..100 {
            rtt.sample(1_000, 0, 40_000, 30_000);
        }
        assert_eq!(rtt.rto(), 41_000, "srtt + interval");
        rtt.sample(u64::MAX, 0, 10_000, 30_000);
        assert_eq!(rtt.rto(), 60_000_000, "ceiling");
        rtt.sample(1_000, 0, 10_000, 70_000_000);
        assert_eq!(rtt.rto(), 60_000_000, "a floor above it");
    }

    /// RFC 6298 with KCP's floor, in wide integers and without a thought for overflow.
    #[test]
    fn same_as_the_formulas() {
        let mut rng = crate::tests::Rng::new(2);
        for _ in 0..crate::tests::rounds(200) {
            let mut rtt = RttEstimator::new();
            let (mut srtt, mut var, mut hold) = (None::<u128>, 0u128, 0u128);
            for _ in 0..100 {
                let pick = |rng: &mut crate::tests::Rng| match rng.below(8) {
                    0 => rng.next(),
                    1 => 0,
                    n => rng.below(10u64.pow(n as u32)),
                };
                let (sample, held, interval) = (pick(&mut rng), pick(&mut rng), 1000 + rng.below(5_000_000));
                let floor = [30_000, 100_000][rng.below(2) as usize];
                rtt.sample(sample, held, interval, floor);
                let held = u128::from(held.min(64_000));
                hold = held.max(hold * 15 / 16);
                let net = u128::from(sample).saturating_sub(held).clamp(1, 60_000_000);
                (srtt, var) = match srtt {
                    None => (Some(net), net / 2),
                    Some(old) => (Some(((7 * old + net) / 8).max(1)), (3 * var + net.abs_diff(old)) / 4),
                };
                let rto = srtt.unwrap() + u128::from(interval).max(4 * var) + hold;
                assert_eq!(rtt.srtt().map(u128::from), srtt);
                assert_eq!(u128::from(rtt.rttvar()), var);
                assert_eq!(u128::from(rtt.rto()), rto.clamp(floor.into(), 60_000_000));
            }
        }
        assert_eq!(RttEstimator::forget(16_000), 15_000);
    }
}
