//! Whether a thread serves several sockets by turns. Then whoever is woken waits for others anyway, and it pays to finish a turn in one go;
//! else tasks come first.

use std::cell::Cell;
use std::ptr::from_ref;

thread_local! {
    /// Address of the socket that received last on this thread.
    static LATEST: Cell<usize> = const { Cell::new(0) };
}

/// Whether `socket` was the last that received something here.
pub(crate) fn is_latest<T: ?Sized>(socket: &T) -> bool {
    LATEST.get() == from_ref(socket).addr()
}

/// From now on it is.
pub(crate) fn set_latest<T: ?Sized>(socket: &T) {
    LATEST.set(from_ref(socket).addr());
}

/// There is a new socket, which may lie where one did that is gone. On other threads it may be taken for that one once, which does no harm.
pub(crate) fn forget() {
    LATEST.set(0);
}
