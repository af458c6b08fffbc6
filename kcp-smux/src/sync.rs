//! What a session is built of. tests/shuttle.rs compiles the files that use it over a model checker's.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use tokio::spawn;
pub(crate) use tokio::time::{Instant, Sleep, sleep_until};

/// Nothing panics under this lock, so poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
