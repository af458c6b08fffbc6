//! What all sessions of a socket may hold together.

use kcp_core::Held;

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Beside one per session: how many parts the second half of the budget has.
const PARTS: usize = 16;

/// Payload held by the sessions of one socket. The first half of a direction's budget is whoever's comes first; of what is
/// left of the second, a session may hold one part in `sessions + PARTS`. So the whole stays within the budget (but for the
/// one segment per session without which nothing would move, and what threads that ask at the same moment take), and sessions that hold what they have for ever leave the n-th
/// newcomer more than a share that shrinks exponentially, as a fixed fraction of what is left would.
#[derive(Debug)]
pub(crate) struct Budget {
    received: Direction,
    sent: Direction,
}

#[derive(Debug)]
struct Direction {
    held: AtomicUsize,
    limit: usize,
}

impl Direction {
    fn new(limit: usize) -> Self {
        Self { held: AtomicUsize::new(0), limit }
    }

    fn share(&self, sessions: usize, own: usize) -> usize {
        let (half, held) = (self.limit / 2, self.held.load(Ordering::Relaxed));
        let left = self.limit.saturating_sub(held.max(half));
        own.saturating_add(half.saturating_sub(held)).max(left / (sessions + PARTS))
    }

    fn account(&self, before: usize, after: usize) {
        if after > before {
            self.held.fetch_add(after - before, Ordering::Relaxed);
        } else if after < before {
            self.held.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}

impl Budget {
    pub(crate) fn new(received: usize, sent: usize) -> Self {
        Self { received: Direction::new(received), sent: Direction::new(sent) }
    }

    /// What one of so many sessions may hold now, if it holds `own`.
    pub(crate) fn share(&self, sessions: usize, own: Held) -> Held {
        Held {
            received: self.received.share(sessions, own.received),
            sent: self.sent.share(sessions, own.sent),
        }
    }

    /// A session that held `before` now holds `after`.
    pub(crate) fn account(&self, before: Held, after: Held) {
        self.received.account(before.received, after.received);
        self.sent.account(before.sent, after.sent);
    }

    /// What all hold.
    pub(crate) fn held(&self) -> Held {
        Held {
            received: self.received.held.load(Ordering::Relaxed),
            sent: self.sent.held.load(Ordering::Relaxed),
        }
    }
}
