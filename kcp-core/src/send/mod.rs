//! The sending half: bytes not yet cut, and segments in flight.

pub(crate) mod inflight;
pub(crate) mod queue;
