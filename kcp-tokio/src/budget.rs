//! What all sessions of a socket may hold together.

use std::sync::atomic::{AtomicUsize, Ordering};

use kcp_core::Held;

/// Beside one per session: how many parts the second half of the budget has.
const PARTS: usize = 16;

/// Payload held by the sessions of one socket. The first half of a direction's budget is whoever's comes first; of what is
/// left of the second, a session may hold one part in `sessions + PARTS`. So the whole stays within the budget (but for the
/// one segment per session without which nothing would move), and sessions that hold what they have for ever leave the n-th
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
    const fn new(limit: usize) -> Self {
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
    pub(crate) const fn new(received: usize, sent: usize) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn held(received: usize, sent: usize) -> Held {
        Held { received, sent }
    }

    #[test]
    fn the_first_half_is_free_and_the_second_is_shared() {
        let budget = Budget::new(1000, 400);
        assert_eq!(budget.share(4, held(0, 0)), held(500, 200));
        budget.account(held(0, 0), held(400, 100));
        assert_eq!(budget.share(4, held(400, 100)), held(500, 200), "what is left of it, on top of its own");
        budget.account(held(400, 100), held(490, 195));
        assert_eq!(budget.share(4, held(0, 0)), held(25, 10), "a part of the second half: one in 4 + 16");
        budget.account(held(0, 0), held(110, 105));
        assert_eq!(budget.share(4, held(110, 105)), held(110, 105), "what it has stays");
        assert_eq!(budget.share(4, held(0, 0)), held(20, 5));
        budget.account(held(0, 0), held(400, 100));
        assert_eq!(budget.share(4, held(0, 0)), held(0, 0));
        budget.account(held(1000, 400), held(0, 0));
        assert_eq!(budget.held(), held(0, 0));
    }

    #[test]
    fn a_thousand_that_never_read_leave_something_for_the_next() {
        let budget = Budget::new(1 << 30, 0);
        for n in 1..=1000 {
            let share = budget.share(n, held(0, 0)).received.min(8 << 20);
            budget.account(held(0, 0), held(share, 0));
        }
        assert!(budget.held().received < 1 << 30);
        assert!(budget.share(1001, held(0, 0)).received > 20 * 1376, "{:?}", budget.share(1001, held(0, 0)));
    }
}
