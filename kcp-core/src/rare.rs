//! State that a session seldom has: a pointer until it is needed, so that an idle session costs little.

use alloc::boxed::Box;

/// A `T` that is allocated when it is first needed, and given back by [`clear`](Self::clear).
#[derive(Debug)]
pub(crate) struct Rare<T>(Option<Box<T>>);

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self::none()
    }
}

impl<T> Rare<T> {
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    pub(crate) const fn get(&self) -> Option<&T> {
        match &self.0 {
            Some(it) => Some(it),
            None => None,
        }
    }

    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// Gives it back.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

impl<T: Default> Rare<T> {
    /// Allocates it if need be.
    pub(crate) fn make(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}
