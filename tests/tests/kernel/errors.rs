//! What the kernel answers to a send or a receive: refused, forbidden, no room.

use std::io::ErrorKind;
use std::net::UdpSocket;

use kcp_netlab::LinkConfig;
use kcp_tokio::KcpEndpoint;
use nix::sys::socket::{setsockopt, sockopt};

use crate::bench::{GUARD, PORT, Pair, bind, config, ready, slow, transfer, until};
use tokio::time::timeout;

const LEN: usize = 4 << 20;

#[tokio::test]
async fn a_closed_port_refuses_the_connect() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(LinkConfig::ideal());
    let refused = timeout(GUARD, pair.connect(config())).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn unreachable_messages_end_no_session_that_stands() {
    if !ready(&["nft"]) {
        return;
    }
    let pair = Pair::new(slow());
    let (_server, mut client, mut accepted) = pair.session(config).await;
    let nft = |command: &str| pair.server.command("nft", &[command]).unwrap();
    let rejected = || {
        // Whoever is refused is told so by ICMP, as by a port that is closed.
        pair.server.command("nft", &["list table ip lab"]).unwrap().contains("packets 0 ")
    };
    let event = async {
        nft("add table ip lab; add chain ip lab in { type filter hook input priority 0; }");
        nft(&format!("add rule ip lab in udp dport {PORT} counter reject with icmp type port-unreachable"));
        until(|| !rejected()).await;
        let before = client_messages(&pair);
        until(|| client_messages(&pair) > before + 5).await;
        nft("delete table ip lab");
    };
    transfer(&mut client, &mut accepted, LEN, event).await;
}

/// Messages "destination unreachable" that the client's kernel has received.
fn client_messages(pair: &Pair) -> u64 {
    let text = pair.client.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split_whitespace().position(|name| name == "InDestUnreachs").unwrap();
    values.split_whitespace().nth(place).unwrap().parse().unwrap()
}

#[tokio::test]
async fn sends_that_are_forbidden_are_losses() {
    if !ready(&["nft"]) {
        return;
    }
    let pair = Pair::new(slow());
    let (server, dialler, mut client, mut accepted) = pair.endpoints(config).await;
    for side in [&pair.client, &pair.server] {
        let rules = "add table ip lab; add chain ip lab out { type filter hook output priority 0; }; \
                     add rule ip lab out udp length > 0 numgen random mod 100 < 20 drop";
        side.command("nft", &[rules]).unwrap();
    }
    transfer(&mut client, &mut accepted, LEN, async {}).await;
    transfer(&mut accepted, &mut client, LEN, async {}).await;
    for (side, stats) in [("client", dialler.stats()), ("server", server.stats())] {
        assert!(stats.send_errors > 0, "{side}: {stats:?}");
    }
}

/// Lets packets leave the client at 16 Mbit/s only; `limit` bytes may wait.
fn throttle(pair: &Pair, limit: &str) {
    let arguments = ["qdisc", "add", "dev", pair.path.interface(), "root"];
    let arguments = [&arguments[..], &["tbf", "rate", "16mbit", "burst", "3000", "limit", limit]].concat();
    pair.client.command("tc", &arguments).unwrap();
}

#[tokio::test]
async fn a_small_send_buffer_loses_nothing() {
    if !ready(&["tc"]) {
        return;
    }
    let pair = Pair::new(slow());
    let small = || config().socket_buffer(4096);
    // What waits is charged to the socket's buffer: the next send is EAGAIN.
    throttle(&pair, "10000000");
    let (_server, dialler, mut client, mut accepted) = pair.endpoints(small).await;
    transfer(&mut client, &mut accepted, LEN, async {}).await;
    let stats = dialler.stats();
    assert!(stats.send_blocked > 0, "the buffer was never full: {stats:?}");
}

/// Linux tells a socket of a full queue only if it has asked for errors (`IP_RECVERR`): without, the packet is silently gone.
#[tokio::test]
async fn a_full_queue_that_is_told_is_a_loss() {
    if !ready(&["tc"]) {
        return;
    }
    let pair = Pair::new(slow());
    // Four packets wait (a train of two counts as one, and has to fit): of a flight nearly all are refused.
    throttle(&pair, "6000");
    let server = pair.listen(config()).await;
    let socket = bind(&pair.client, pair.path.left());
    setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
    let dialler = KcpEndpoint::from_std(socket, config()).await.unwrap();
    let mut client = timeout(GUARD, dialler.connect(pair.server_addr())).await.unwrap().unwrap();
    let (mut accepted, _) = server.accept().await.unwrap();
    transfer(&mut client, &mut accepted, 1 << 20, async {}).await;
    let stats = dialler.stats();
    assert!(stats.send_errors > 0, "ENOBUFS never came: {stats:?}");
}

#[tokio::test]
async fn a_full_device_queue_is_a_loss() {
    if !ready(&["tc"]) {
        return;
    }
    let pair = Pair::new(slow());
    // Less than a window. A socket that has not asked for it is not told; the packets are gone.
    throttle(&pair, "60000");
    let (_server, _dialler, mut client, mut accepted) = pair.endpoints(config).await;
    transfer(&mut client, &mut accepted, LEN, async {}).await;
    let interface = pair.path.interface();
    let said = pair.client.command("tc", &["-s", "qdisc", "show", "dev", interface]).unwrap();
    assert!(said.contains("dropped") && !said.contains("dropped 0,"), "the queue was never full: {said}");
}

#[tokio::test]
async fn what_is_no_datagram_of_a_session_changes_nothing() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let (server, mut client, mut accepted) = pair.session(config).await;
    let stranger = pair.client.run(|| UdpSocket::bind((pair.path.left(), 0))).unwrap();
    let before = server.stats().dropped_unknown;
    let event = async {
        for len in [0, 1, 23, 24, 1400] {
            stranger.send_to(&vec![0xFF; len], pair.server_addr()).unwrap();
        }
        until(|| server.stats().dropped_unknown > before).await;
    };
    transfer(&mut client, &mut accepted, LEN, event).await;
}
