//! Every interleaving (of up to three preemptions) of what threads share: the source files themselves, over loom's primitives.

mod models;

include!("models/sources.rs");

mod sync {
    pub(crate) use crate::models::AtomicWaker;
    pub(crate) use loom::future::block_on;
    pub(crate) use loom::sync::{Mutex, MutexGuard, atomic};
    pub(crate) use loom::thread;

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
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
