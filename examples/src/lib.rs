//! The README's snippets, compiled as tests.

/// Only seen by rustdoc's test runner.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
