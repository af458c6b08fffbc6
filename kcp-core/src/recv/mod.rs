//! The receiving half: segments out of order, and data in order.

pub(crate) mod assembler;
pub(crate) mod reader;
pub(crate) mod store;
