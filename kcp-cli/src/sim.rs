//! `kcp sim`: a swarm of simulated lives, each from one seed, on all cores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};
use kcp_sim::{Life, World, live};
use serde::Serialize;

use crate::args::SimArgs;
use crate::report;

/// Failures shown in full; the rest are counted.
const SHOWN: usize = 10;

#[derive(Serialize)]
struct Report {
    from: u64,
    core_seeds: u64,
    stack_seeds: u64,
    failures: Vec<Failed>,
    events: u64,
    simulated_seconds: f64,
    seconds: f64,
    /// Of all hashes: equal seeds and an equal program give an equal one.
    hash: String,
    features: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Failed {
    seed: u64,
    world: &'static str,
    what: String,
    again: String,
    tail: Vec<String>,
}

#[derive(Default)]
struct Sum {
    seeds: [u64; 2],
    events: u64,
    simulated: f64,
    hash: u64,
    features: BTreeMap<String, u64>,
    failures: Vec<Failed>,
    failed: u64,
}

impl Sum {
    fn add(&mut self, life: Life) {
        let (index, world) = match life.world {
            World::Core => (0, "core"),
            World::Stack => (1, "stack"),
        };
        self.seeds[index] += 1;
        self.events += life.events;
        self.simulated += life.lasted.as_secs_f64();
        // Whatever the order in which they end.
        self.hash = self.hash.wrapping_add(life.hash ^ life.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (again, seed) = (life.again(), life.seed);
        for feature in life.features {
            *self.features.entry(format!("{world}: {feature}")).or_default() += 1;
        }
        if let Some(failure) = life.failure {
            self.failed += 1;
            self.failures.push(Failed { seed, world, what: failure.what, again, tail: failure.tail });
        }
    }
}

pub(crate) fn run(args: &SimArgs) -> Result<()> {
    let worlds = match (args.core, args.stack) {
        (true, false) => vec![World::Core],
        (false, true) => vec![World::Stack],
        _ => vec![World::Core, World::Stack],
    };
    // Without a choice three of four seeds are the core's, which are cheaper.
    let world_of = |seed: u64| match worlds.as_slice() {
        [world] => *world,
        _ if seed.is_multiple_of(4) => World::Stack,
        _ => World::Core,
    };
    let started = Instant::now();
    let bar = report::counter(args.seeds, args.json || args.trace);
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    let threads = if args.trace { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= args.seeds {
                        break;
                    }
                    let seed = args.from.wrapping_add(n);
                    let life = live(world_of(seed), seed, args.trace);
                    bar.inc(1);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.add(life);
                    // More of the same helps nobody.
                    if sum.failed >= 100 {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.failures.sort_by_key(|failure| failure.seed);
    let failed = sum.failed;
    let report = Report {
        from: args.from,
        core_seeds: sum.seeds[0],
        stack_seeds: sum.seeds[1],
        failures: sum.failures,
        events: sum.events,
        simulated_seconds: sum.simulated,
        seconds: started.elapsed().as_secs_f64(),
        hash: format!("{:016x}", sum.hash),
        features: sum.features,
    };
    if args.json {
        report::json(&report)?
    } else {
        print(&report)?
    }
    if failed > 0 {
        bail!("{failed} of {} seeds failed", report.core_seeds + report.stack_seeds);
    }
    Ok(())
}

fn print(report: &Report) -> Result<()> {
    for failure in report.failures.iter().take(SHOWN) {
        report::line(&format!("seed {} ({}): {}", failure.seed, failure.world, failure.what))?;
        for line in &failure.tail {
            report::line(&format!("    {line}"))?;
        }
        report::line(&format!("again: {}", failure.again))?;
        report::line("")?;
    }
    for (feature, count) in &report.features {
        report::line(&format!("{count:>9}  {feature}"))?;
    }
    report::line("")?;
    report::line(&format!(
        "{} seeds of the core, {} of the stack, from {}: {} failed",
        report.core_seeds,
        report.stack_seeds,
        report.from,
        report.failures.len()
    ))?;
    report::line(&format!(
        "{} events in {:.1} simulated hours, {:.1} s; hash {}",
        report.events,
        report.simulated_seconds / 3600.0,
        report.seconds,
        report.hash
    ))
}
