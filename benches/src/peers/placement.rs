//! Where the hypervisor has put the two cores: near (one L3), far, or two threads of one core. It moves them, and what crosses
//! cores is then half as fast.

use std::fmt;
use std::hint::{black_box, spin_loop};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::process::{CLIENT_CPU, SERVER_CPU, pin};

/// Where the two cores are.
#[derive(Copy, Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// A cache line goes to and fro in less than 120 ns.
    Near,
    /// It takes longer.
    Far,
    /// Both slow each other down while they share nothing.
    Smt,
    /// Not the same before and after.
    Mixed,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Smt => "smt",
            Self::Mixed => "mixed",
        })
    }
}

impl Placement {
    /// This one before a run, that one after it.
    #[must_use]
    pub fn and(self, after: Self) -> Self {
        if self == after { self } else { Self::Mixed }
    }

    /// Takes some 50 ms.
    #[must_use]
    pub fn probe() -> Self {
        let alone = std::thread::scope(|scope| join(scope.spawn(|| work(SERVER_CPU, None))));
        let barrier = Barrier::new(2);
        let both = std::thread::scope(|scope| {
            let other = scope.spawn(|| work(CLIENT_CPU, Some(&barrier)));
            (join(scope.spawn(|| work(SERVER_CPU, Some(&barrier)))) + join(other)) / 2.0
        });
        if both < 0.85 * alone {
            Self::Smt
        } else if round_trip() < Duration::from_nanos(120) {
            Self::Near
        } else {
            Self::Far
        }
    }
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Rounds of integer work per nanosecond.
fn work(cpu: usize, barrier: Option<&Barrier>) -> f64 {
    pin(cpu);
    if let Some(barrier) = barrier {
        barrier.wait();
    }
    let (started, mut rounds, mut x) = (Instant::now(), 0u64, 1u64);
    while started.elapsed() < Duration::from_millis(15) {
        for _ in 0..1000 {
            x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17) ^ rounds);
        }
        rounds += 1;
    }
    rounds as f64 / started.elapsed().as_nanos() as f64
}

/// Mean time that a cache line takes to the other core and back.
fn round_trip() -> Duration {
    const TRIPS: u32 = 20_000;
    let line = AtomicU32::new(0);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            pin(CLIENT_CPU);
            for trip in 0..TRIPS {
                while line.load(Ordering::Acquire) != trip * 2 + 1 {
                    spin_loop();
                }
                line.store(trip * 2 + 2, Ordering::Release);
            }
        });
        let mine = scope.spawn(|| {
            pin(SERVER_CPU);
            let mut started = Instant::now();
            for trip in 0..TRIPS {
                if trip == TRIPS / 10 {
                    started = Instant::now();
                }
                line.store(trip * 2 + 1, Ordering::Release);
                while line.load(Ordering::Acquire) != trip * 2 + 2 {
                    spin_loop();
                }
            }
            started.elapsed() / (TRIPS - TRIPS / 10)
        });
        join(other);
        join(mine)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_that_has_changed_is_mixed() {
        assert_eq!(Placement::Near.and(Placement::Near), Placement::Near);
        assert_eq!(Placement::Near.and(Placement::Far), Placement::Mixed);
    }
}
