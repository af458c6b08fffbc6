//! KCP's own rule (`ikcp_input`, `ikcp_flush` with `nocwnd` 0): slow start and avoidance by accepted datagrams.

use core::num::NonZeroU64;

use super::{AckInfo, Controller};
use crate::num::{at_least_one, wide};
use crate::time::Timestamp;

/// Classic KCP congestion control.
#[derive(Clone, Debug)]
pub struct Classic {
    cwnd: u32,
    ssthresh: u32,
    /// Bytes of window earned (`kcp->incr`).
    incr: u64,
    mss: NonZeroU64,
}

/// `IKCP_THRESH_MIN`, also the initial `ssthresh`.
const THRESH_MIN: u32 = 2;

impl Classic {
    /// Starts with a window of one segment of `mss` payload bytes.
    #[must_use]
    pub fn new(mss: usize) -> Self {
        let mss = at_least_one(wide(mss));
        Self { cwnd: 1, ssthresh: THRESH_MIN, incr: mss.get(), mss }
    }
}

impl Controller for Classic {
    fn on_ack(&mut self, _now: Timestamp, ack: &AckInfo) {
        if ack.segments == 0 || self.cwnd >= ack.peer_window {
            return;
        }
        let mss = self.mss.get();
        if self.cwnd < self.ssthresh {
            self.cwnd = self.cwnd.saturating_add(1);
            self.incr = self.incr.saturating_add(mss);
        } else {
            let incr = self.mss.max(at_least_one(self.incr));
            let gain = mss.saturating_mul(mss) / incr;
            self.incr = incr.get().saturating_add(gain).saturating_add(mss / 16);
            if u64::from(self.cwnd.saturating_add(1)).saturating_mul(mss) <= self.incr {
                let earned = self.incr.saturating_add(mss).saturating_sub(1) / self.mss;
                self.cwnd = u32::try_from(earned).unwrap_or(u32::MAX);
            }
        }
        if self.cwnd > ack.peer_window {
            self.cwnd = ack.peer_window;
            self.incr = u64::from(ack.peer_window).saturating_mul(mss);
        }
    }

    fn on_fast_retransmit(&mut self, _now: Timestamp, in_flight: u32, resend: u32) {
        self.ssthresh = (in_flight / 2).max(THRESH_MIN);
        self.cwnd = self.ssthresh.saturating_add(resend);
        self.incr = u64::from(self.cwnd).saturating_mul(self.mss.get());
    }

    fn on_timeout(&mut self, _now: Timestamp, _in_flight: u32) {
        self.ssthresh = (self.cwnd / 2).max(THRESH_MIN);
        self.cwnd = 1;
        self.incr = self.mss.get();
    }

    fn window(&self) -> u32 {
        self.cwnd.max(1)
    }

    fn on_mss(&mut self, mss: usize) {
        self.mss = at_least_one(wide(mss));
        if self.cwnd == 1 {
            // Nothing is earned yet.
            self.incr = self.mss.get();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(peer_window: u32) -> AckInfo {
        AckInfo { segments: 1, bytes: 100, in_flight: 1, peer_window, rtt: None }
    }

    #[test]
    fn nothing_is_earned_by_nothing_and_never_more_than_the_peer_takes() {
        let mut classic = Classic::new(1000);
        classic.on_ack(Timestamp::ZERO, &AckInfo { segments: 0, ..ack(128) });
        assert_eq!(classic.window(), 1);
        while classic.window() < 4 {
            classic.on_ack(Timestamp::ZERO, &ack(128));
        }
        // Bytes earned in long segments are many short ones.
        classic.on_mss(100);
        classic.on_ack(Timestamp::ZERO, &ack(20));
        assert_eq!(classic.window(), 20);
    }

    #[test]
    fn slow_start_then_avoidance_then_the_peer_window() {
        let mut cc = Classic::new(1376);
        let now = Timestamp::ZERO;
        cc.on_ack(now, &ack(64));
        assert_eq!(cc.window(), 2, "slow start");
        let mut acks = 0;
        while cc.window() == 2 {
            cc.on_ack(now, &ack(64));
            acks += 1;
        }
        // ikcp: incr grows by mss*mss/incr + mss/16 from 2752: 3526, 4148 = 3 segments (rounded up 4) at the second.
        assert_eq!((acks, cc.window()), (2, 4));
        for _ in 0..10_000 {
            cc.on_ack(now, &ack(64));
        }
        assert_eq!(cc.window(), 64);
    }

    #[test]
    fn another_mss_before_anything_is_earned_is_the_unit_from_the_start() {
        let mut cc = Classic::new(1376);
        cc.on_mss(100);
        let now = Timestamp::ZERO;
        let windows = core::iter::repeat_with(|| {
            cc.on_ack(now, &ack(64));
            cc.window()
        });
        // ikcp: incr 100, 200, 200 + 50 + 6 = 256, 256 + 39 + 6 = 301 = 4 segments, rounded up.
        assert_eq!(windows.take(3).collect::<alloc::vec::Vec<_>>(), [2, 2, 4]);
    }

    #[test]
    fn losses() {
        let mut cc = Classic::new(1376);
        let now = Timestamp::ZERO;
        for _ in 0..10_000 {
            cc.on_ack(now, &ack(64));
        }
        cc.on_fast_retransmit(now, 40, 2);
        assert_eq!(cc.window(), 22);
        cc.on_timeout(now, 40);
        assert_eq!((cc.window(), cc.ssthresh), (1, 11));
        cc.on_fast_retransmit(now, 1, 2);
        assert_eq!(cc.window(), 4, "ssthresh is at least 2");
    }
}
