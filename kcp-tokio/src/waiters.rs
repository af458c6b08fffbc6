//! Tasks that wait for the same thing.

use std::task::Waker;

/// Wakers kept per cause: cancelled polls leave theirs behind.
const MAX_WAITERS: usize = 32;

/// Tasks that wait for the same thing: `send_msg(&self)` and `recv_msg(&self)` invite several. All are woken, and those that
/// come too late wait again.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// Nearly always the only one.
    first: Option<Waker>,
    #[allow(clippy::box_collection, reason = "a word instead of three in every session")]
    more: Option<Box<Vec<Waker>>>,
}

impl Waiters {
    pub(crate) fn register(&mut self, waker: &Waker) {
        let Some(first) = &mut self.first else {
            self.first = Some(waker.clone());
            return;
        };
        let more = self.more.as_deref().map_or(&[][..], Vec::as_slice);
        if first.will_wake(waker) || more.iter().any(|held| held.will_wake(waker)) {
            return;
        }
        let more = self.more.get_or_insert_default();
        if more.len() + 1 >= MAX_WAITERS {
            // Most belong to futures that were dropped: those that do not will come back.
            more.drain(..).for_each(Waker::wake);
        }
        more.push(waker.clone());
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.first.is_none() && self.more.is_none()
    }

    /// Takes them, to be woken when no lock is held.
    pub(crate) fn take_into(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.first.take());
        if let Some(mut more) = self.more.take() {
            wakers.append(&mut more);
        }
    }

    pub(crate) fn wake(self) {
        self.first.into_iter().chain(self.more.into_iter().flat_map(|more| *more)).for_each(Waker::wake);
    }
}
