//! Shared code of the workspace's tests.
