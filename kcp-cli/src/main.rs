//! The `kcp` command line tool.
fn main() {}
