//! Random interleavings of more threads and steps than loom can enumerate: the source files themselves, over shuttle's primitives.

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

    pub(crate) use shuttle::future::block_on;
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
    pub(crate) use shuttle::thread;

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
        let schedules = std::env::var("KCP_SCHEDULES").map_or(1000, |n| n.parse().unwrap());
        let model = std::sync::Arc::new(model);
        let again = model.clone();
        shuttle::check_random(move || model(), schedules);
        // Few preemptions in unlikely places.
        shuttle::check_pct(move || again(), schedules, 3);
    }

    /// Tasks beside the driver.
    pub(crate) const TASKS: u32 = 4;
    /// What each of them does.
    pub(crate) const STEPS: u32 = 3;
}
