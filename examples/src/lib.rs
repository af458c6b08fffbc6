//! The README's snippets, compiled as tests.

#![doc = include_str!("../../README.md")]
