//! Workloads that the benchmarks share; each verifies what it moved.

pub mod fec;
pub mod lab;
pub mod loopback;
pub mod paced;
pub mod peers;
pub mod plot;
pub mod report;

/// The middle value; NaN of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
