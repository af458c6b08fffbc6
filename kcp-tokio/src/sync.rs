//! What the shared state is built of. tests/loom.rs and tests/shuttle.rs compile the files that use it over a model checker's.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError, atomic};

pub(crate) use futures::task::AtomicWaker;

/// Nothing panics under these locks, so poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
