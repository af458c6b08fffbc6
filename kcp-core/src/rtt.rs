//! Round-trip time and RTO (`ikcp_update_ack`, RFC 6298 with KCP's floor).

use crate::num::fits;

/// KCP's estimator in microseconds.
///
/// `srtt` and `rttvar` follow RFC 6298 (gains 1/8 and 1/4, but plain means as long as there are fewer samples than that: what
/// one knows of a path after a few round trips is worth more than the guess that was made of the first); the RTO is `srtt + max(interval, 4 * rttvar)`, where
/// `interval` stands for the tick after which an ikcp peer sends its acknowledgements.
#[derive(Clone, Debug)]
pub(crate) struct RttEstimator {
    /// 0 until the first sample. All four fit: nothing exceeds [`MAX_RTO`].
    srtt: u32,
    rttvar: u32,
    /// Samples so far, up to [`MANY`].
    samples: u8,
    /// How long the peer holds its acknowledgements at most: the longest seen, forgotten slowly.
    hold: u32,
    rto: u32,
}

/// From so many samples on the gains are those of RFC 6298.
const MANY: u8 = 8;
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
        Self { srtt: 0, rttvar: 0, samples: 0, hold: 0, rto: INITIAL_RTO }
    }

    /// `held`: the part of `rtt` for which the peer held the acknowledgement; `stands_for`: how many segments that tells of, each of
    /// which ikcp would take for a sample. That counts only as long as there are few.
    pub(crate) fn sample(&mut self, rtt: u64, held: u64, stands_for: u32, interval: u64, min_rto: u64) {
        let held = held.min(MAX_HOLD);
        let hold = held.max(Self::forget(u64::from(self.hold)));
        let rtt = rtt.saturating_sub(held).clamp(1, MAX_RTO);
        self.learn(rtt, u64::from(stands_for.clamp(1, u32::from(MANY))));
        let slack = interval.max(self.rttvar().saturating_mul(4));
        // A floor above the ceiling, which the classic face takes as ikcp does, gives the ceiling.
        let srtt = u64::from(self.srtt);
        let rto = srtt.saturating_add(slack).saturating_add(hold).max(min_rto).min(MAX_RTO);
        (self.hold, self.rto) = (fits(hold), fits(rto));
    }

    fn learn(&mut self, rtt: u64, times: u64) {
        let (srtt, rttvar) = match self.srtt() {
            None => (rtt, rtt.checked_div(times.saturating_mul(2)).unwrap_or(rtt)),
            Some(srtt) => {
                let rttvar = mean(self.rttvar(), rtt.abs_diff(srtt), self.samples.min(3));
                (mean(srtt, rtt, self.samples.min(7)).max(1), rttvar)
            }
        };
        self.samples = self.samples.saturating_add(1).min(MANY);
        (self.srtt, self.rttvar) = (fits(srtt), fits(rttvar));
    }

    /// Before the first sample: an exchange without data took so long, with what was lost or waited in it. The first data is neither sent again
    /// before its acknowledgement can be here, nor for long not.
    pub(crate) fn expect(&mut self, took: u64, interval: u64, least: u64) {
        if self.srtt().is_none() {
            let rto = took.saturating_mul(2).saturating_add(interval).min(MAX_EXPECTED).max(least);
            self.rto = fits(rto);
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

/// The mean of `before`, which counts `weight` times, and of one more.
fn mean(before: u64, one: u64, weight: u8) -> u64 {
    let all = u64::from(weight).saturating_add(1);
    before.saturating_mul(u64::from(weight)).saturating_add(one).checked_div(all).unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sample_then_smoothing() {
        let mut rtt = RttEstimator::new();
        assert_eq!((rtt.srtt(), rtt.rto()), (None, 200_000));
        rtt.sample(80_000, 0, 1, 10_000, 30_000);
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(80_000), 40_000, 240_000));
        rtt.sample(40_000, 0, 1, 10_000, 30_000);
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(60_000), 40_000, 220_000), "means of two");
    }

    #[test]
    fn means_until_there_are_so_many_samples_that_the_gains_are_smaller() {
        let mut rtt = RttEstimator::new();
        let mut after = |sample| {
            rtt.sample(sample, 0, 1, 1, 1);
            (rtt.srtt().unwrap(), rtt.rttvar())
        };
        assert_eq!(after(48_000), (48_000, 24_000));
        assert_eq!(after(48_000), (48_000, 12_000));
        assert_eq!(after(48_000), (48_000, 8_000));
        assert_eq!(after(48_000), (48_000, 6_000));
        assert_eq!(after(48_000), (48_000, 4_500), "a quarter less from here on");
        assert_eq!(after(55_000), (49_166, 5_125), "one of six");
        assert_eq!(after(49_166), (49_166, 3_843));
        assert_eq!(after(57_166), (50_166, 4_882), "one of eight");
        assert_eq!(after(58_166), (51_166, 5_661), "an eighth");
    }

    #[test]
    fn an_acknowledgement_of_a_whole_flight_is_more_than_a_guess() {
        let after = |stands_for| {
            let mut rtt = RttEstimator::new();
            rtt.sample(48_000, 0, stands_for, 1, 1);
            (rtt.srtt().unwrap(), rtt.rttvar())
        };
        assert_eq!(after(0), (48_000, 24_000), "of nothing new");
        assert_eq!(after(1), (48_000, 24_000));
        assert_eq!(after(2), (48_000, 12_000));
        assert_eq!(after(8), (48_000, 3_000));
        assert_eq!(after(9), (48_000, 3_000));
        let mut rtt = RttEstimator::new();
        rtt.sample(48_000, 0, 1, 1, 1);
        rtt.sample(48_000, 0, 9, 1, 1);
        assert_eq!(rtt.rttvar(), 12_000, "only at first");
    }

    #[test]
    fn floor_interval_and_ceiling() {
        let mut rtt = RttEstimator::new();
        for _ in 0..100 {
            rtt.sample(1_000, 0, 1, 10_000, 30_000);
        }
        assert_eq!(rtt.rto(), 30_000, "floor");
        for _ in 0..100 {
            rtt.sample(1_000, 0, 1, 40_000, 30_000);
        }
        assert_eq!(rtt.rto(), 41_000, "srtt + interval");
        rtt.sample(u64::MAX, 0, 1, 10_000, 30_000);
        assert_eq!(rtt.rto(), 60_000_000, "ceiling");
        rtt.sample(1_000, 0, 1, 10_000, 70_000_000);
        assert_eq!(rtt.rto(), 60_000_000, "a floor above it");
    }

    /// RFC 6298 with KCP's floor and a quicker start, in wide integers and without a thought for overflow.
    #[test]
    fn same_as_the_formulas() {
        let mut rng = crate::tests::Rng::new(2);
        for _ in 0..crate::tests::rounds(200) {
            let mut rtt = RttEstimator::new();
            let (mut srtt, mut var, mut hold) = (None::<u128>, 0u128, 0u128);
            for n in 0..100u128 {
                let pick = |rng: &mut crate::tests::Rng| match rng.below(8) {
                    0 => rng.next(),
                    1 => 0,
                    n => rng.below(10u64.pow(n as u32)),
                };
                let stands_for = rng.below(12) as u32;
                let (sample, held, interval) = (pick(&mut rng), pick(&mut rng), 1000 + rng.below(5_000_000));
                let floor = [30_000, 100_000][rng.below(2) as usize];
                rtt.sample(sample, held, stands_for, interval, floor);
                let held = u128::from(held.min(64_000));
                hold = held.max(hold * 15 / 16);
                let net = u128::from(sample).saturating_sub(held).clamp(1, 60_000_000);
                (srtt, var) = match srtt {
                    None => (Some(net), net / (2 * u128::from(stands_for.clamp(1, 8)))),
                    Some(old) => {
                        let (many, few) = (n.min(7), n.min(3));
                        let mean = ((many * old + net) / (many + 1)).max(1);
                        (Some(mean), (few * var + net.abs_diff(old)) / (few + 1))
                    }
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
