//! Zero windows: the sender probes, the receiver announces that it has room again until data flows.

use alloc::boxed::Box;

use crate::time::Timestamp;

/// First probe after 500 ms (kcp-go; ikcp waits 5 to 7 s), then 1.5 times later each, at most 30 s apart.
const FIRST_PROBE: u64 = 500_000;
const MAX_PROBE: u64 = 30_000_000;

/// The sender's side: asks for the window while the peer's is closed and data waits.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    /// (closed since, next probe, wait after it). None while the window is open or nothing waits.
    state: Option<Box<(Timestamp, Timestamp, u64)>>,
}

impl Prober {
    /// Follows the window; true when a probe is due.
    pub(crate) fn update(&mut self, now: Timestamp, closed: bool) -> bool {
        if !closed {
            self.state = None;
            return false;
        }
        let first = || Box::new((now, now.plus_micros(FIRST_PROBE), FIRST_PROBE));
        let (_, next, wait) = &mut **self.state.get_or_insert_with(first);
        let due = *next <= now;
        if due {
            *wait = (wait.saturating_mul(3) / 2).min(MAX_PROBE);
            *next = now.plus_micros(*wait);
        }
        due
    }

    pub(crate) fn since(&self) -> Option<Timestamp> {
        self.state.as_ref().map(|state| state.0)
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.state.as_ref().map(|state| state.1)
    }
}

/// A single announcement may be lost (`ikcp_recv` sends one and can stall for seconds), a peer with nothing to send
/// never answers one: so it is repeated, but not for ever.
const ANNOUNCEMENTS: u32 = 8;

/// The receiver's side: repeats `WINS` after the window was closed and has opened again.
#[derive(Debug)]
pub(crate) struct Announcer {
    /// The window as the peer last heard it.
    told: u32,
    /// (next announcement, wait after it, how many are left).
    state: Option<Box<(Timestamp, u64, u32)>>,
}

impl Announcer {
    pub(crate) const fn new(window: u32) -> Self {
        Self { told: window, state: None }
    }

    /// A segment with this window has left.
    pub(crate) const fn told(&mut self, window: u32) {
        self.told = window;
    }

    /// The peer was told that there is no room, and nothing has been announced since.
    pub(crate) const fn is_closed(&self) -> bool {
        self.told == 0 && self.state.is_none()
    }

    /// The reader made room; true when the peer must be told now. One eighth of the window has to be free, lest every
    /// segment read costs an announcement.
    pub(crate) fn on_room(&mut self, now: Timestamp, free: u32, total: u32, rto: u64) -> bool {
        if !self.is_closed() || free < (total / 8).max(1) {
            return false;
        }
        self.state = Some(Box::new((now.plus_micros(rto), rto, ANNOUNCEMENTS)));
        true
    }

    /// New data has arrived: the peer knows.
    pub(crate) fn on_data(&mut self) {
        self.state = None;
    }

    /// True when the announcement is to be repeated.
    pub(crate) fn update(&mut self, now: Timestamp) -> bool {
        let Some((next, wait, left)) = self.state.as_deref_mut() else { return false };
        if *next > now {
            return false;
        }
        *wait = wait.saturating_mul(2);
        *next = now.plus_micros(*wait);
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.state = None;
        }
        true
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.state.as_ref().map(|state| state.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn probes_start_at_500_ms_and_back_off_to_30_s() {
        let mut prober = Prober::default();
        assert!(!prober.update(Timestamp::ZERO, true));
        assert!(!prober.update(Timestamp::from_micros(499_999), true));
        assert!(prober.update(Timestamp::from_millis(500), true));
        assert_eq!(prober.next(), Some(Timestamp::from_millis(1250)));
        for _ in 0..30 {
            let next = prober.next().unwrap();
            assert!(prober.update(next, true));
        }
        let last = prober.next().unwrap();
        assert!(prober.update(last, true));
        assert_eq!(prober.next().unwrap().saturating_since(last).as_secs(), 30);
        assert_eq!(prober.since(), Some(Timestamp::ZERO));
        assert!(!prober.update(last, false));
        assert_eq!((prober.next(), prober.since()), (None, None));
    }

    #[test]
    fn announcements_repeat_until_data_or_the_bound() {
        let mut announcer = Announcer::new(32);
        assert!(!announcer.on_room(Timestamp::ZERO, 32, 32, 100), "it was never closed");
        announcer.told(0);
        assert!(!announcer.on_room(Timestamp::ZERO, 3, 32, 100), "too little room");
        assert!(announcer.on_room(Timestamp::ZERO, 4, 32, 100));
        announcer.told(4);
        let mut times = Vec::new();
        while let Some(next) = announcer.next() {
            assert!(!announcer.update(Timestamp::from_micros(next.as_micros() - 1)));
            assert!(announcer.update(next));
            times.push(next.as_micros());
        }
        assert_eq!(times, [100, 300, 700, 1500, 3100, 6300, 12700, 25500]);
        announcer.told(0);
        assert!(announcer.on_room(Timestamp::ZERO, 4, 32, 100));
        announcer.on_data();
        assert_eq!(announcer.next(), None);
    }
}
