//! One heap of deadlines per socket: sessions own no timer.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use kcp_core::Timestamp;

/// Deadlines of all sessions of a socket, cancelled lazily: a session is entered only when its deadline moves earlier
/// than the earliest it is entered for ([`Mark`]), and a firing that comes too early enters it again if need be.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    heap: BinaryHeap<Entry<T>>,
    /// The time the driver will wake up by itself: at once while it is awake. None: it sleeps until something happens.
    armed: Option<Timestamp>,
}

#[derive(Debug)]
struct Entry<T> {
    at: Timestamp,
    session: T,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), armed: None }
    }
}

impl<T> Timers<T> {
    /// Enters a deadline; true when the driver would sleep past it.
    pub(crate) fn insert(&mut self, at: Timestamp, session: T) -> bool {
        self.heap.push(Entry { at, session });
        let late = self.armed.is_none_or(|armed| at < armed);
        if late {
            // Further callers need not wake the driver for the same reason.
            self.armed = Some(at);
        }
        late
    }

    /// The driver is awake, and will [`arm`](Self::arm) before it sleeps.
    pub(crate) const fn wake(&mut self) {
        self.armed = Some(Timestamp::ZERO);
    }

    /// Takes a session whose deadline has passed, with that deadline.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, T)> {
        if self.heap.peek()?.at > now {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.session))
    }

    /// The next deadline, at which the driver promises to wake up.
    pub(crate) fn arm(&mut self) -> Option<Timestamp> {
        self.armed = self.heap.peek().map(|entry| entry.at);
        self.armed
    }
}

/// The entries that one session has in the heap, strictly earlier ones on top of later ones. A later entry is not
/// forgotten when an earlier one joins it, so a busy session keeps about one per kind of deadline (keepalive,
/// retransmission, acknowledgement) instead of leaving one behind per acknowledgement.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Mark {
    /// Latest first; places that are not taken hold `NEVER`.
    entries: [Timestamp; 4],
}

/// No time that a timer is entered for.
const NEVER: Timestamp = Timestamp::from_micros(u64::MAX);

impl Default for Mark {
    fn default() -> Self {
        Self { entries: [NEVER; 4] }
    }
}

impl Mark {
    fn len(&self) -> usize {
        self.entries.iter().take_while(|&&at| at != NEVER).count()
    }

    fn top(&self) -> Option<Timestamp> {
        self.entries.get(..self.len())?.last().copied()
    }

    /// Whether a deadline needs an entry of its own; it is taken for entered then.
    pub(crate) fn enter(&mut self, at: Timestamp) -> bool {
        if at == NEVER || self.top().is_some_and(|top| top <= at) {
            return false;
        }
        let mut len = self.len();
        if len == self.entries.len() {
            // The latest is forgotten; it is ignored when it comes out.
            self.entries.rotate_left(1);
            len -= 1;
        }
        if let Some(entry) = self.entries.get_mut(len) {
            *entry = at;
        }
        true
    }

    /// Notes that an entry came out of the heap; false if it is a forgotten one.
    pub(crate) fn fired(&mut self, at: Timestamp) -> bool {
        let (on_top, len) = (self.top() == Some(at), self.len());
        if on_top && let Some(entry) = self.entries.get_mut(..len).and_then(<[_]>::last_mut) {
            *entry = NEVER;
        }
        on_top
    }
}

/// Earliest first.
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn a_busy_session_leaves_no_entries_behind() {
        let (mut mark, mut heap) = (Mark::default(), BinaryHeap::new());
        let mut most = 0;
        // Data every 20 ms for a minute: an acknowledgement 10 ms later, a keepalive 10 s after the last.
        for now in (0..60_000).step_by(20) {
            for at in [ms(now + 10_000), ms(now + 10)] {
                if mark.enter(at) {
                    heap.push(std::cmp::Reverse(at));
                }
            }
            while heap.peek().is_some_and(|entry| entry.0 <= ms(now + 10)) {
                let at = heap.pop().unwrap().0;
                if mark.fired(at) && mark.enter(ms(now + 10_000)) {
                    heap.push(std::cmp::Reverse(ms(now + 10_000)));
                }
            }
            most = most.max(heap.len());
        }
        assert!(most <= 3, "{most} entries");
    }

    #[test]
    fn a_mark_enters_only_earlier_deadlines_and_forgets_the_latest() {
        let mut mark = Mark::default();
        for at in [50, 40, 30, 20, 10] {
            assert!(mark.enter(ms(at)));
            assert!(!mark.enter(ms(at)) && !mark.enter(ms(at + 1)));
        }
        assert!(!mark.fired(ms(20)), "not on top");
        for at in [10, 20, 30, 40] {
            assert!(mark.fired(ms(at)));
        }
        assert!(!mark.fired(ms(50)));
        assert!(mark.enter(ms(60)));
    }
}
