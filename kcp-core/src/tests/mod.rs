//! Scenarios of two ends over an emulated link, in virtual time; sequence numbers and the wire's clock start just
//! below 2^32.

mod api;
mod classic;
mod controller;
mod forger;
mod hostile;
mod liveness;
mod loss;
mod redundancy;
mod timing;
mod transfer;
mod util;
mod windows;

pub(crate) use util::{Rng, rounds};
mod amplification;
mod edges;
mod extension;
mod flight;
mod kept;
mod runs;
mod said;
mod unproven;
