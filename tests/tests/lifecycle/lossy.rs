//! KCP alone: an ending that the network loses parts of.

use std::net::SocketAddr;
use std::time::Duration;

use kcp_netsim::{LinkConfig, UdpRelay};
use kcp_tests::pattern;
use tokio::io::AsyncWriteExt;

use crate::kcp_transport::Kcp;
use crate::transport::Transport;
use crate::{assert_end, limited, read_all};

async fn over_lossy_link(seed: u64) {
    let listener = Kcp::bind().await.unwrap();
    let link = LinkConfig::lossy(0.2, Duration::from_millis(10));
    let front = SocketAddr::from(([127, 0, 0, 1], 0));
    let upstream = Kcp::listener_addr(&listener).unwrap();
    let relay = UdpRelay::bind(front, upstream, link.clone(), link, seed).await.unwrap();
    let mut client = Kcp::connect(relay.local_addr().unwrap()).await.unwrap();
    let data = pattern(200_000, seed);
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
    });
    let (mut server, _) = Kcp::accept(&listener).await.unwrap();
    assert!(read_all(&mut server).await.unwrap() == data);
    assert_end(&mut server).await;
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_with_shutdown_and_drop_at_20_percent_loss() {
    for seed in 0..4 {
        limited(over_lossy_link(seed)).await;
    }
}
