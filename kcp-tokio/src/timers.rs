//! One heap of deadlines per socket: sessions own no timer.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use kcp_core::Timestamp;

use crate::session::Session;

/// Deadlines of all sessions of a socket, cancelled lazily: a session is entered only when its deadline moves earlier
/// than the one it is entered for, and a firing that comes too early enters it again. So a session that sends all the
/// time has about one entry per RTO, and an idle one an entry per keepalive.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Entry>,
    /// The time the driver will wake up by itself. None: it sleeps until something happens.
    pub(crate) armed: Option<Timestamp>,
}

#[derive(Debug)]
struct Entry {
    at: Timestamp,
    session: Arc<Session>,
}

impl Timers {
    /// Enters a deadline; true when the driver would sleep past it.
    pub(crate) fn insert(&mut self, at: Timestamp, session: Arc<Session>) -> bool {
        self.heap.push(Entry { at, session });
        let late = self.armed.is_none_or(|armed| at < armed);
        if late {
            // Further callers need not wake the driver for the same reason.
            self.armed = Some(at);
        }
        late
    }

    /// Takes a session whose deadline has passed, with that deadline.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, Arc<Session>)> {
        if self.heap.peek()?.at > now {
            return None;
        }
        self.heap.pop().map(|entry| (entry.at, entry.session))
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|entry| entry.at)
    }

    pub(crate) fn clear(&mut self) {
        self.heap.clear();
    }
}

/// Earliest first.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}
