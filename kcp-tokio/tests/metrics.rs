//! Counters through the `metrics` facade.
#![cfg(feature = "metrics")]

use std::net::SocketAddr;
use std::time::Duration;

use kcp_netsim::{LinkConfig, SimNet};
use kcp_tokio::{KcpConfig, KcpEndpoint};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::time::sleep;

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoint(net: &SimNet, at: &str) -> KcpEndpoint {
    KcpEndpoint::from_socket(net.bind(addr(at)).unwrap(), KcpConfig::default()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn counters_are_published_and_add_up() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let net = SimNet::new(LinkConfig::lan(), 1);
    let (server, client) = (endpoint(&net, "10.0.0.1:1"), endpoint(&net, "10.0.0.2:2"));
    let mut streams = vec![];
    let mut sums = std::collections::HashMap::new();
    for round in 1..=3u64 {
        streams.push((client.connect(addr("10.0.0.1:1")).await.unwrap(), server.accept().await.unwrap().0));
        sleep(Duration::from_millis(2100)).await;
        let mut sessions = None;
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let key = key.key();
            if key.labels().any(|label| (label.key(), label.value()) != ("socket", "10.0.0.1:1")) {
                continue;
            }
            match value {
                DebugValue::Counter(n) => *sums.entry(key.name().to_owned()).or_insert(0) += n,
                DebugValue::Gauge(n) if key.name() == "kcp_sessions" => sessions = Some(n.into_inner()),
                _ => {}
            }
        }
        assert_eq!(sessions, Some(round as f64));
        assert_eq!(sums["kcp_accepted_total"], round);
        assert_eq!(sums["kcp_datagrams_received_total"], server.stats().datagrams_received);
    }
}
