//! Workloads that the benchmarks share; each verifies what it moved.

pub mod engine;
pub mod fec;
pub mod lab;
pub mod loopback;
pub mod paced;
pub mod peers;
pub mod plot;
