//! Whether anybody still uses an endpoint's sockets, and how their drivers are woken.

use std::task::{Poll, Waker};

use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{AtomicWaker, Mutex, lock};
use crate::waiters::Waiters;

/// What the endpoint knows of one driver: in cache lines of its own, since each driver writes it all the time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct DriverSlot {
    waker: AtomicWaker,
    /// Datagrams that it has received.
    pub(crate) received: AtomicU64,
    /// Offloads that its socket does without, as of its last turn.
    pub(crate) refused: AtomicU64,
}

/// Everybody first changes what the drivers look at, then wakes them; a driver first registers, then looks.
#[derive(Debug)]
pub(crate) struct Life {
    /// One per socket.
    pub(crate) drivers: Vec<DriverSlot>,
    /// Endpoints, listeners and streams; with none of them and no session the drivers end.
    handles: AtomicUsize,
    /// In microseconds: until then the driver answers for sessions that have ended, although nobody uses the socket.
    stay_until: AtomicU64,
    dead: AtomicBool,
    /// Wait until there is no session.
    idle: Mutex<Waiters>,
}

impl Life {
    pub(crate) fn new(sockets: usize) -> Self {
        Self {
            drivers: std::iter::repeat_with(DriverSlot::default).take(sockets).collect(),
            handles: AtomicUsize::new(0),
            stay_until: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            idle: Mutex::default(),
        }
    }

    /// At the beginning of a driver's turn.
    pub(crate) fn register(&self, driver: usize, waker: &Waker) {
        if let Some(driver) = self.drivers.get(driver) {
            driver.waker.register(waker);
        }
    }

    pub(crate) fn wake_driver(&self, driver: usize) {
        if let Some(driver) = self.drivers.get(driver) {
            driver.waker.wake();
        }
    }

    pub(crate) fn wake_drivers(&self) {
        for driver in &self.drivers {
            driver.waker.wake();
        }
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn drop_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_drivers();
        }
    }

    pub(crate) fn stay_until(&self, at: u64) {
        self.stay_until.fetch_max(at, Ordering::AcqRel);
    }

    /// When nobody needs the sockets any more, if nobody uses them now and no session lives.
    pub(crate) fn unused_at(&self, no_session: impl FnOnce() -> bool) -> Option<u64> {
        let unused = self.handles.load(Ordering::Acquire) == 0 && no_session();
        unused.then(|| self.stay_until.load(Ordering::Acquire))
    }

    /// The last session is gone: it may have been the last thing that the drivers lived for.
    pub(crate) fn on_empty(&self) {
        self.wake_drivers();
        self.wake_idle();
    }

    pub(crate) fn poll_idle(&self, waker: &Waker, no_session: impl FnOnce() -> bool) -> Poll<()> {
        let mut idle = lock(&self.idle);
        if no_session() {
            return Poll::Ready(());
        }
        idle.register(waker);
        Poll::Pending
    }

    pub(crate) fn wake_idle(&self) {
        let waiters = std::mem::take(&mut *lock(&self.idle));
        waiters.wake();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// From now on nothing is left to a driver any more.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
    }
}
