//! Tests of shared state that the models (tests/loom.rs) do not repeat: against naive oracles.

mod agenda;
mod budget;
mod halfopen;
mod limiter;
mod logs;
mod registry;
mod timers;
mod waiters;
