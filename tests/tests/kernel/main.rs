//! The real kernel: namespaces of our own, joined by emulated links. What a socket can be told or denied, interfaces and addresses
//! that change, NAT, mtu, and processes that are stopped or killed, each in the middle of a transfer whose every byte is compared.
//! Needs root, `ip` and partly `nft` and `tc`; skipped with the reason otherwise.
#![cfg(target_os = "linux")]

mod bench;
mod errors;
mod paths;
mod processes;
