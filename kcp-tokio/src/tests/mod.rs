//! Tests of shared state that the models (tests/loom.rs) do not repeat.

mod budget;
