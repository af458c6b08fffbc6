//! Shared code of the workspace's benches.
