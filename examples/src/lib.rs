//! Shared code of the workspace's examples.
