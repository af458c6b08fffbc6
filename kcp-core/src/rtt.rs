//! Round-trip time and RTO (`ikcp_update_ack`, RFC 6298 with KCP's floor).

/// KCP's estimator in microseconds.
///
/// `srtt` and `rttvar` follow RFC 6298 (gains 1/8 and 1/4); the RTO is `srtt + max(interval, 4 * rttvar)`, where
/// `interval` stands for the tick after which an ikcp peer sends its acknowledgements.
#[derive(Clone, Debug)]
pub(crate) struct RttEstimator {
    /// None until the first sample.
    srtt: Option<u64>,
    rttvar: u64,
    rto: u64,
}

/// `IKCP_RTO_DEF`.
const INITIAL_RTO: u64 = 200_000;
/// `IKCP_RTO_MAX`. Samples are clamped to it as well.
const MAX_RTO: u64 = 60_000_000;

impl RttEstimator {
    pub(crate) const fn new() -> Self {
        Self { srtt: None, rttvar: 0, rto: INITIAL_RTO }
    }

    pub(crate) fn sample(&mut self, rtt: u64, interval: u64, min_rto: u64) {
        let rtt = rtt.clamp(1, MAX_RTO);
        let srtt = match self.srtt {
            None => {
                self.rttvar = rtt / 2;
                rtt
            }
            Some(srtt) => {
                let delta = rtt.abs_diff(srtt);
                self.rttvar = self.rttvar.saturating_mul(3).saturating_add(delta) / 4;
                (srtt.saturating_mul(7).saturating_add(rtt) / 8).max(1)
            }
        };
        self.srtt = Some(srtt);
        let slack = interval.max(self.rttvar.saturating_mul(4));
        self.rto = srtt.saturating_add(slack).clamp(min_rto, MAX_RTO);
    }

    pub(crate) const fn srtt(&self) -> Option<u64> {
        self.srtt
    }

    pub(crate) const fn rttvar(&self) -> u64 {
        self.rttvar
    }

    pub(crate) const fn rto(&self) -> u64 {
        self.rto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sample_then_smoothing() {
        let mut rtt = RttEstimator::new();
        assert_eq!((rtt.srtt(), rtt.rto()), (None, 200_000));
        rtt.sample(80_000, 10_000, 30_000);
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(80_000), 40_000, 240_000));
        rtt.sample(40_000, 10_000, 30_000);
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(75_000), 40_000, 235_000));
    }

    #[test]
    fn floor_interval_and_ceiling() {
        let mut rtt = RttEstimator::new();
        for _ in 0..100 {
            rtt.sample(1_000, 10_000, 30_000);
        }
        assert_eq!(rtt.rto(), 30_000, "floor");
        for _ in 0..100 {
            rtt.sample(1_000, 40_000, 30_000);
        }
        assert_eq!(rtt.rto(), 41_000, "srtt + interval");
        rtt.sample(u64::MAX, 10_000, 30_000);
        assert_eq!(rtt.rto(), 60_000_000, "ceiling");
    }
}
