//! How often the network may make us log: what strangers send must not fill a disk.

use std::time::Duration;

use kcp_core::Timestamp;

use crate::sync::atomic::{AtomicU64, Ordering};

/// Between two lines of one class.
const PAUSE: Duration = Duration::from_secs(1);

/// One class of lines that the network causes: at most one a second.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    /// In microseconds.
    next: AtomicU64,
    suppressed: AtomicU64,
}

/// The classes.
#[derive(Debug, Default)]
pub(crate) struct LogLimits {
    pub(crate) refused: LogLimit,
    pub(crate) turned_away: LogLimit,
    pub(crate) receive: LogLimit,
    pub(crate) send: LogLimit,
    pub(crate) moved: LogLimit,
}

impl LogLimit {
    /// Whether to log now, and how many lines were left out since the last.
    pub(crate) fn permit(&self, now: Timestamp) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        let after = (now + PAUSE).as_micros();
        let ours = now.as_micros() >= next
            && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !ours {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}
