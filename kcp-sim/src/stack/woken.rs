//! Polls what was woken, and nothing for company: a wakeup that gets lost is a wait that does not end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::socket::lock;

/// Stands before one operation. Whatever else wakes the task (a clock, another operation) does not pass.
#[derive(Debug)]
pub(super) struct Gate(Arc<Flag>);

#[derive(Debug)]
struct Flag {
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        let task = lock(&self.task).take();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Gate {
    /// Open once, as every future is polled once by itself.
    pub(super) fn new() -> Self {
        Self(Arc::new(Flag { woken: AtomicBool::new(true), task: Mutex::new(None) }))
    }

    pub(super) fn poll<T>(
        &self,
        cx: &Context<'_>,
        operation: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        *lock(&self.0.task) = Some(cx.waker().clone());
        if !self.0.woken.swap(false, Ordering::Relaxed) {
            return Poll::Pending;
        }
        operation(&mut Context::from_waker(&Waker::from(self.0.clone())))
    }
}

/// The future behind a gate of its own.
pub(super) async fn woken<F: Future>(future: F) -> F::Output {
    let (gate, mut future) = (Gate::new(), pin!(future));
    poll_fn(|cx| gate.poll(cx, |cx| future.as_mut().poll(cx))).await
}
