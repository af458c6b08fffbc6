//! Scenarios of two ends over a simulated link, in virtual time.

mod util;

pub(crate) use util::Rng;
