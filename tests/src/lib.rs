//! What the tests share: seeded data, the seeds asked for by the environment, and how a test says that it was skipped.

use std::io::Write;

/// Bytes that depend on the seed alone.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Says that the test which calls it proves nothing here, and why not: seen also where the harness keeps what a passing test prints,
/// which it does for the macros only.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The seeds to run: `KCP_SEED=n` for one, `KCP_SEEDS=n` for 0..n, else 0..`default`.
#[must_use]
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("KCP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("KCP_SEEDS").unwrap_or(default),
    }
}
