// The source files that are checked, over the `sync` of whoever includes this.

#[path = "../../src/accept.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod accept;
#[path = "../../src/agenda.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod agenda;
#[path = "../../src/budget.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod budget;
#[path = "../../src/halfopen.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod halfopen;
#[path = "../../src/life.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod life;
#[path = "../../src/logs.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod logs;
#[path = "../../src/registry.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod registry;
#[path = "../../src/timers.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod timers;
#[path = "../../src/waiters.rs"]
#[allow(dead_code, reason = "the rest is for the crate")]
mod waiters;
