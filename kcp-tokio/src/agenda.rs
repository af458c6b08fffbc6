//! What tasks leave to the driver of a socket: sessions with work, sessions that wait for room, deadlines.

use kcp_core::Timestamp;

use crate::life::Life;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, lock};
use crate::timers::Timers;

/// What a session knows of its driver's queues.
#[derive(Debug)]
pub(crate) struct Marks {
    /// Waits in the work queue; set once however often the session is marked.
    queued: AtomicBool,
    /// Something of it waits in its driver's outbox; nothing may overtake that.
    boxed: AtomicBool,
}

impl Default for Marks {
    fn default() -> Self {
        Self { queued: AtomicBool::new(false), boxed: AtomicBool::new(false) }
    }
}

impl Marks {
    pub(crate) fn is_boxed(&self) -> bool {
        self.boxed.load(Ordering::Acquire)
    }

    /// Under the session's lock.
    pub(crate) fn set_boxed(&self) {
        self.boxed.store(true, Ordering::Release);
    }

    /// The outbox holds nothing of it any more: all was sent, or waits in the session.
    pub(crate) fn unbox(&self) {
        self.boxed.store(false, Ordering::Release);
    }
}

pub(crate) trait Marked {
    fn marks(&self) -> &Marks;
}

/// The queues of one driver. Lock order: session, then any of these; never two of these at once.
#[derive(Debug)]
pub(crate) struct Agenda<T> {
    driver: usize,
    /// Sessions with work for the driver.
    work: Mutex<Vec<T>>,
    /// Sessions that wait for the socket to have room.
    blocked: Mutex<Vec<T>>,
    timers: Mutex<Timers<T>>,
    /// In microseconds: until then tasks leave what they write to the driver, which has woken several of them, or since they write
    /// again soon.
    gather_until: AtomicU64,
}

impl<T: Marked + Clone> Agenda<T> {
    pub(crate) fn new(driver: usize) -> Self {
        Self {
            driver,
            work: Mutex::default(),
            blocked: Mutex::default(),
            timers: Mutex::default(),
            gather_until: AtomicU64::new(0),
        }
    }

    /// From now on what tasks write waits for the driver's next turn, unless that lets them wait for long.
    pub(crate) fn gather(&self, until: Timestamp) {
        self.gather_until.store(until.as_micros(), Ordering::Release);
    }

    /// The same, unless that was said since the driver's last turn: else who writes again and again would put off what he wrote
    /// first.
    pub(crate) fn gather_once(&self, until: Timestamp) {
        let _ = self.gather_until.compare_exchange(0, until.as_micros(), Ordering::AcqRel, Ordering::Acquire);
    }

    pub(crate) fn gathers(&self, now: Timestamp) -> bool {
        now.as_micros() < self.gather_until.load(Ordering::Acquire)
    }

    /// The driver's turn has come: nobody need wait for it any more, nor wake it for a deadline.
    pub(crate) fn begin_turn(&self) {
        self.gather_until.store(0, Ordering::Release);
        lock(&self.timers).wake();
    }

    /// Adds to a queue that the driver empties, unless it has ended.
    fn push(&self, queue: &Mutex<Vec<T>>, life: &Life, item: T) {
        let mut queue = lock(queue);
        // Under the lock: a driver that ends empties the queues after it has said so.
        if !life.is_dead() {
            queue.push(item);
            drop(queue);
            life.wake_driver(self.driver);
        }
    }

    /// Leaves the rest of a session's work to the driver. Under the session's lock.
    pub(crate) fn mark(&self, life: &Life, session: &T) {
        if !session.marks().queued.swap(true, Ordering::AcqRel) {
            self.push(&self.work, life, session.clone());
        }
    }

    /// Swaps the work queue with an empty one, so that marks made meanwhile wait for the next turn.
    pub(crate) fn take_work(&self, into: &mut Vec<T>) {
        std::mem::swap(&mut *lock(&self.work), into);
    }

    pub(crate) fn wait_for_room(&self, life: &Life, session: T) {
        self.push(&self.blocked, life, session);
    }

    pub(crate) fn has_blocked(&self) -> bool {
        !lock(&self.blocked).is_empty()
    }

    pub(crate) fn take_blocked(&self) -> Vec<T> {
        std::mem::take(&mut *lock(&self.blocked))
    }

    pub(crate) fn insert_timer(&self, life: &Life, at: Timestamp, session: T) {
        let mut timers = lock(&self.timers);
        if !life.is_dead() && timers.insert(at, session) {
            drop(timers);
            life.wake_driver(self.driver);
        }
    }

    pub(crate) fn pop_timer(&self, now: Timestamp) -> Option<(Timestamp, T)> {
        lock(&self.timers).pop_due(now)
    }

    /// The next deadline; the driver promises to wake up then.
    pub(crate) fn arm(&self) -> Option<Timestamp> {
        lock(&self.timers).arm()
    }

    /// The driver has ended, and has said so.
    pub(crate) fn clear(&self) {
        // What is dropped may be the last of its session, whose end is nothing to do under a lock.
        drop(std::mem::take(&mut *lock(&self.timers)));
        drop(std::mem::take(&mut *lock(&self.work)));
        drop(std::mem::take(&mut *lock(&self.blocked)));
    }
}

/// Sessions taken from the work queue.
pub(crate) fn unmarked<T: Marked>(work: &mut Vec<T>) -> impl Iterator<Item = T> {
    // Before the session is locked: a mark made while we work must not be lost.
    work.drain(..).inspect(|session| session.marks().queued.store(false, Ordering::Release))
}
