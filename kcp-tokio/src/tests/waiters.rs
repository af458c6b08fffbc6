//! Tasks that wait and give up: what they leave behind is bounded, and nobody who still waits is forgotten for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use crate::accept::AcceptQueue;
use crate::life::Life;
use crate::waiters::Waiters;

#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A thousand tasks of which each polls once and is dropped; how many of them are still held.
fn abandoned(mut poll: impl FnMut(&Waker)) -> usize {
    let tasks: Vec<Weak<Task>> = (0..1000)
        .map(|_| {
            let task = Arc::new(Task::default());
            poll(&Waker::from(task.clone()));
            Arc::downgrade(&task)
        })
        .collect();
    tasks.iter().filter(|task| task.strong_count() > 0).count()
}

#[test]
fn tasks_that_gave_up_leave_a_bounded_number_of_wakers() {
    let queue = AcceptQueue::<()>::new(true);
    let accept = |waker: &Waker| assert!(queue.poll(waker, || false).is_pending());
    let life = Life::new(1);
    let wait_idle = |waker: &Waker| assert!(life.poll_idle(waker, || false).is_pending());
    let mut waiters = Waiters::default();
    for held in [abandoned(accept), abandoned(wait_idle), abandoned(|waker| waiters.register(waker))] {
        assert!((1..=32).contains(&held), "{held}");
    }
}

#[test]
fn whoever_still_waits_is_woken_whoever_gave_up() {
    for live in [0, 1, 500, 999] {
        let mut waiters = Waiters::default();
        let task = Arc::new(Task::default());
        let waker = Waker::from(task.clone());
        let mut n = 0;
        abandoned(|other| {
            if n == live {
                waiters.register(&waker);
                // The same one again takes no second place.
                waiters.register(&waker);
            }
            n += 1;
            waiters.register(other);
        });
        waiters.wake();
        // At once, or when room was made: then it comes back.
        assert_eq!(task.0.load(Ordering::Relaxed), 1, "{live}");
    }
}
