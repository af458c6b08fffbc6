//! KCP under the libraries that people use: each test runs the real thing over real sockets, two of them over a path that
//! loses 5 % of the datagrams.

mod axum;
mod hyper;
mod tls;
mod tonic;
mod util;
mod websocket;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use kcp_netsim::{LinkConfig, UdpRelay};
use kcp_tokio::KcpListener;

/// Far beyond what any of these takes; a hang fails instead of blocking the run.
async fn bounded<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("within a minute")
}

async fn listener() -> (KcpListener, SocketAddr) {
    let listener = KcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// A way to `server` that loses 5 % each way.
async fn lossy(server: SocketAddr) -> UdpRelay {
    let link = LinkConfig::lossy(0.05, Duration::from_millis(5));
    UdpRelay::bind("127.0.0.1:0".parse().unwrap(), server, link.clone(), link, 5).await.unwrap()
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}
