//! Every interleaving (of up to three preemptions) of what threads share: the source files themselves, over loom's primitives.

#[path = "../src/accept.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod accept;
#[path = "../src/agenda.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod agenda;
#[path = "../src/budget.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod budget;
#[path = "../src/halfopen.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod halfopen;
#[path = "../src/life.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod life;
#[path = "../src/logs.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod logs;
mod models;
#[path = "../src/registry.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod registry;
#[path = "../src/timers.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod timers;
#[path = "../src/waiters.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod waiters;

mod sync {
    use std::task::Waker;

    pub(crate) use loom::future::block_on;
    pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
    pub(crate) use loom::thread;

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    /// What `futures::task::AtomicWaker` promises, by simpler means.
    #[derive(Debug, Default)]
    pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

    impl AtomicWaker {
        pub(crate) fn register(&self, waker: &Waker) {
            *lock(&self.0) = Some(waker.clone());
        }

        pub(crate) fn wake(&self) {
            let waker = lock(&self.0).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.max_branches = 10_000;
        builder.check(model);
    }

    /// Tasks beside the driver.
    pub(crate) const TASKS: u32 = 2;
    /// What each of them does.
    pub(crate) const STEPS: u32 = 1;
}
