//! Panics of a simulated life are its failure, and no noise on standard error.

use std::cell::{Cell, RefCell};
use std::panic;
use std::sync::Once;

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

static HOOK: Once = Once::new();

/// Runs `f`; panics on this thread meanwhile are remembered instead of printed.
pub(crate) fn caught<R>(f: impl FnOnce() -> R) -> R {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if CAUGHT.get() {
                LAST.set(info.to_string());
            } else {
                before(info);
            }
        }));
    });
    CAUGHT.set(true);
    let result = f();
    CAUGHT.set(false);
    result
}

/// What the latest one said, and where.
pub(crate) fn last() -> String {
    LAST.take()
}
