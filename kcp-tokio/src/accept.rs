//! Sessions that have become somebody's and wait to be accepted.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

use crate::sync::{Mutex, lock};
use crate::waiters::Waiters;

#[derive(Debug)]
pub(crate) struct AcceptQueue<T>(Mutex<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    /// False: nobody will ever accept (again).
    open: bool,
    ready: VecDeque<T>,
    waiters: Waiters,
}

/// Why a session is not taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NotListening,
    Full,
}

/// Why no session will come.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    DriverGone,
    Closed,
}

impl<T> AcceptQueue<T> {
    pub(crate) fn new(open: bool) -> Self {
        Self(Mutex::new(Inner { open, ready: VecDeque::new(), waiters: Waiters::default() }))
    }

    /// How many wait; none if nobody accepts.
    pub(crate) fn waiting(&self) -> Option<usize> {
        let inner = lock(&self.0);
        inner.open.then(|| inner.ready.len())
    }

    /// One more, if at most `backlog` wait then.
    pub(crate) fn offer(&self, session: T, backlog: usize) -> Result<(), Refused> {
        let waiters = {
            let mut inner = lock(&self.0);
            if !inner.open {
                return Err(Refused::NotListening);
            }
            if inner.ready.len() >= backlog {
                return Err(Refused::Full);
            }
            inner.ready.push_back(session);
            std::mem::take(&mut inner.waiters)
        };
        waiters.wake();
        Ok(())
    }

    /// The next. Several tasks may wait at once.
    pub(crate) fn poll(&self, waker: &Waker, is_dead: impl FnOnce() -> bool) -> Poll<Result<T, Over>> {
        let mut inner = lock(&self.0);
        if let Some(session) = inner.ready.pop_front() {
            return Poll::Ready(Ok(session));
        }
        if is_dead() {
            return Poll::Ready(Err(Over::DriverGone));
        }
        if !inner.open {
            return Poll::Ready(Err(Over::Closed));
        }
        inner.waiters.register(waker);
        Poll::Pending
    }

    /// Takes no more; what nobody has accepted is the caller's.
    pub(crate) fn close(&self) -> VecDeque<T> {
        let (unaccepted, waiters) = {
            let mut inner = lock(&self.0);
            inner.open = false;
            (std::mem::take(&mut inner.ready), std::mem::take(&mut inner.waiters))
        };
        waiters.wake();
        unaccepted
    }

    /// The drivers are dead: who waits learns of it.
    pub(crate) fn wake_all(&self) {
        let waiters = std::mem::take(&mut lock(&self.0).waiters);
        waiters.wake();
    }
}
