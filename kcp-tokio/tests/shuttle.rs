//! Random interleavings of more threads and steps than loom can enumerate: the source files themselves, over shuttle's primitives.

mod models;

include!("models/sources.rs");

mod sync {
    pub(crate) use crate::models::AtomicWaker;
    pub(crate) use shuttle::future::block_on;
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
    pub(crate) use shuttle::thread;

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
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
