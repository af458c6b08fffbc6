//! Swarm simulation: whole lives of sessions in virtual time, every parameter of them and of the network drawn from one
//! seed, and checkers that know nothing of the workload.
//!
//! [`World::Core`] drives pairs of [`kcp_core::Session`] as a driver would, without threads or tasks. [`World::Stack`] is the
//! whole async stack on an in-memory network under paused time. [`live`] lives one seed; the same seed gives the same
//! [`Life::hash`], in every process. `kcp sim` lives many.
//!
//! ```
//! let life = kcp_sim::live(kcp_sim::World::Core, 7, false);
//! assert!(life.failure.is_none());
//! assert_eq!(life.hash, kcp_sim::live(kcp_sim::World::Core, 7, false).hash);
//! ```

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "numbers that were drawn are small"
)]

mod dice;
mod draw;
mod pairs;
mod panics;
mod stack;
mod trace;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::trace::Trace;

/// What is simulated.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum World {
    /// Pairs of sans-IO sessions, hostile peers and bystanders.
    Core,
    /// Endpoints, listeners and streams of `kcp-tokio` on an in-memory network.
    Stack,
}

/// What became of one seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Life {
    /// What was simulated.
    pub world: World,
    /// Decided everything.
    pub seed: u64,
    /// Of everything that happened, bytes on the network included.
    pub hash: u64,
    /// Things that happened.
    pub events: u64,
    /// How long it lasted in there.
    pub lasted: Duration,
    /// What the seed had of what a seed may have.
    pub features: Vec<&'static str>,
    /// What broke, if something did.
    pub failure: Option<Failure>,
}

impl Life {
    /// The command that lives it again, aloud.
    #[must_use]
    pub fn again(&self) -> String {
        let world = match self.world {
            World::Core => "core",
            World::Stack => "stack",
        };
        format!("cargo run -p kcp-cli -- sim --{world} --seeds 1 --from {} --trace", self.seed)
    }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Which.
    pub what: String,
    /// What happened before, the last 40 lines.
    pub tail: Vec<String>,
}

/// Lives one seed; `aloud` prints everything that happens to standard error.
#[must_use]
pub fn live(world: World, seed: u64, aloud: bool) -> Life {
    let mut trace = Trace::new(aloud);
    let mut features = Vec::new();
    let result = panics::caught(|| {
        catch_unwind(AssertUnwindSafe(|| match world {
            World::Core => pairs::run(seed, &mut trace, &mut features),
            World::Stack => stack::run(seed, &mut trace, &mut features),
        }))
    });
    let (lasted, broken) = match result {
        Ok(Ok(micros)) => (micros, None),
        Ok(Err(what)) => (0, Some(what)),
        Err(_) => (0, Some(format!("panic: {}", panics::last()))),
    };
    Life {
        world,
        seed,
        hash: trace.hash(),
        events: trace.entries(),
        lasted: Duration::from_micros(lasted),
        features,
        failure: broken.map(|what| Failure { what, tail: trace.tail() }),
    }
}
