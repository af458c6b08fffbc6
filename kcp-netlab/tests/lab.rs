//! The lab itself: packets cross with the delay and the loss asked for, and nothing is left behind.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use kcp_netlab::{LinkConfig, Namespace, Path, available};

#[test]
fn datagrams_cross_and_namespaces_go() {
    if let Err(why) = available() {
        // Not by a macro, whose lines the harness keeps while the test passes.
        let _ = writeln!(std::io::stderr(), "skipped: datagrams_cross_and_namespaces_go: {why}");
        return;
    }
    let (left, right) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let names = [left.name().to_owned(), right.name().to_owned()];
    let delay = Duration::from_millis(20);
    let path = Path::new(&left, &right, LinkConfig { delay, ..LinkConfig::ideal() }, 1).unwrap();
    let here = left.run(|| UdpSocket::bind((path.left(), 0))).unwrap();
    let there = right.run(|| UdpSocket::bind((path.right(), 9))).unwrap();
    there.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let started = Instant::now();
    here.send_to(b"over", (path.right(), 9)).unwrap();
    let mut buf = [0; 64];
    let (n, from) = there.recv_from(&mut buf).unwrap();
    assert_eq!((&buf[..n], from), (&b"over"[..], here.local_addr().unwrap()));
    assert!(started.elapsed() >= delay, "{:?}", started.elapsed());

    path.set_config(&LinkConfig::lossy(1.0, Duration::ZERO));
    here.send_to(b"lost", (path.right(), 9)).unwrap();
    while path.stats().right.lost == 0 {
        std::thread::yield_now();
    }
    let stats = path.stats();
    assert_eq!((stats.right.sent, stats.right.delivered, stats.right.bytes), (2, 1, 2 * 32));
    assert_eq!(stats.left.sent, 0, "nothing but what was asked for is on the path");

    drop((path, left, right));
    for name in names {
        assert!(!std::fs::exists(format!("/run/netns/{name}")).unwrap(), "{name} is left");
    }
}
