//! Interfaces, addresses, NAT and mtu that change under a transfer.

use std::net::SocketAddr;
use std::time::Duration;

use kcp_netlab::{LinkConfig, Namespace, Path};
use kcp_tokio::{KcpEndpoint, KcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::bench::{GUARD, PORT, Pair, bind, config, endpoint, ready, session, slow, transfer, until};

const LEN: usize = 8 << 20;

#[tokio::test]
async fn an_interface_that_goes_down_and_up_again_loses_nothing() {
    if !ready(&[]) {
        return;
    }
    for down in ["client", "server"] {
        let pair = Pair::new(slow());
        let (server, dialler, mut client, mut accepted) = pair.endpoints(config).await;
        let (namespace, endpoint) =
            if down == "client" { (&pair.client, &dialler) } else { (&pair.server, &server) };
        let interface = pair.path.interface();
        let event = async {
            namespace.ip(&["link", "set", interface, "down"]).unwrap();
            if down == "client" {
                // The network is unreachable: each of these is an error of its own.
                until(|| endpoint.stats().send_errors > 3).await;
            } else {
                let before = pair.path.stats().right.delivered;
                until(|| pair.path.stats().right.delivered > before + 20).await;
            }
            namespace.ip(&["link", "set", interface, "up"]).unwrap();
        };
        transfer(&mut client, &mut accepted, LEN, event).await;
    }
}

/// A second path between the same namespaces; the server keeps its address on the first.
fn second(pair: &Pair, delay: Duration) -> Path {
    let path = Path::new(&pair.client, &pair.server, LinkConfig { delay, ..slow() }, 8).unwrap();
    for namespace in [&pair.client, &pair.server] {
        namespace.sysctl(&format!("net/ipv4/conf/{}/rp_filter", path.interface()), "0").unwrap();
    }
    path
}

fn route(pair: &Pair, by: &Path) {
    let to = pair.path.right().to_string();
    pair.client.ip(&["route", "replace", &to, "dev", by.interface()]).unwrap();
}

#[tokio::test]
async fn a_client_that_changes_networks_keeps_its_session() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let other = second(&pair, Duration::from_millis(15));
    let server = pair.listen(config()).await;
    let mut client = pair.connect(config()).await.unwrap();
    let (mut accepted, from) = server.accept().await.unwrap();
    assert_eq!(from.ip(), pair.path.left());
    let data = kcp_tests::pattern(LEN, 3);
    let write = async {
        // What was written and has not arrived moves along.
        client.write_all(&data[..LEN / 2]).await.unwrap();
        pair.client.ip(&["link", "set", pair.path.interface(), "down"]).unwrap();
        route(&pair, &other);
        client.rebind(bind(&pair.client, other.left())).await.unwrap();
        client.write_all(&data[LEN / 2..]).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let read = async {
        let mut got = Vec::new();
        accepted.read_to_end(&mut got).await.unwrap();
        assert!(got == data, "{} of {LEN} bytes", got.len());
    };
    timeout(GUARD, async { tokio::join!(write, read) }).await.expect("the transfer ends");
    assert_eq!(accepted.peer_addr().unwrap().ip(), other.left());
    assert_eq!(server.stats().moved, 1);
}

#[tokio::test]
async fn hopping_between_two_paths_of_different_delay_loses_nothing() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let long = second(&pair, Duration::from_millis(60));
    let (server, dialler, mut client, mut accepted) = pair.endpoints(config).await;
    let event = async {
        for hop in 1..=4 {
            let by = if hop % 2 == 1 { &long } else { &pair.path };
            route(&pair, by);
            dialler.rebind(bind(&pair.client, by.left())).await.unwrap();
            until(|| server.stats().moved >= hop).await;
        }
    };
    transfer(&mut client, &mut accepted, LEN, event).await;
    assert_eq!(accepted.peer_addr().unwrap().ip(), pair.path.left());
}

/// Client, router, server: the addresses of the server's side are unknown to the client's but for a route.
struct Routed {
    near: Path,
    far: Path,
    client: Namespace,
    router: Namespace,
    server: Namespace,
}

impl Routed {
    fn new() -> Self {
        let [client, router, server] = [(); 3].map(|()| Namespace::new().unwrap());
        router.sysctl("net/ipv4/ip_forward", "1").unwrap();
        let near = Path::new(&client, &router, slow(), 1).unwrap();
        let far = Path::new(&router, &server, slow(), 2).unwrap();
        let via = near.right().to_string();
        client.ip(&["route", "add", "default", "via", &via]).unwrap();
        let via = far.left().to_string();
        server.ip(&["route", "add", "default", "via", &via]).unwrap();
        Self { near, far, client, router, server }
    }

    fn server_addr(&self) -> SocketAddr {
        (self.far.right(), PORT).into()
    }

    /// A session between two endpoints: server, dialler, the client's end, the server's end.
    async fn session(&self) -> (KcpEndpoint, KcpEndpoint, KcpStream, KcpStream) {
        let server = endpoint(&self.server, self.server_addr(), config()).await;
        let dialler = endpoint(&self.client, (self.near.left(), 0).into(), config()).await;
        let client = dialler.connect(self.server_addr()).await.unwrap();
        let (accepted, _) = server.accept().await.unwrap();
        (server, dialler, client, accepted)
    }
}

#[tokio::test]
async fn a_nat_that_forgets_and_maps_anew_keeps_the_session() {
    if !ready(&["nft"]) {
        return;
    }
    let net = Routed::new();
    let rules = format!(
        "add table ip lab; add chain ip lab out {{ type nat hook postrouting priority 100; }}; \
         add rule ip lab out oif {} masquerade random",
        net.far.interface()
    );
    net.router.command("nft", &[&rules]).unwrap();
    let remember = |seconds| {
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            net.router.sysctl(&format!("net/netfilter/{timeout}"), seconds).unwrap();
        }
    };
    remember("1");
    let (server, _dialler, mut client, mut accepted) = net.session().await;
    let before = accepted.peer_addr().unwrap();
    assert_eq!(before.ip(), net.far.left(), "the client is behind the NAT");
    let event = async {
        // Nothing passes until the router has forgotten.
        net.near.set_partitioned(true);
        net.far.set_partitioned(true);
        until(|| {
            // Looking at the table clears what has expired out of it.
            let table = "/proc/thread-self/net/nf_conntrack";
            net.router.run(|| std::fs::read_to_string(table)).unwrap().is_empty()
        })
        .await;
        remember("30");
        net.near.set_partitioned(false);
        net.far.set_partitioned(false);
    };
    transfer(&mut client, &mut accepted, LEN, event).await;
    let after = accepted.peer_addr().unwrap();
    assert_eq!(after.ip(), before.ip());
    assert_ne!(after.port(), before.port(), "the NAT has not mapped anew: nothing was tested");
    assert!(server.stats().moved >= 1);
}

#[tokio::test]
async fn an_interface_whose_mtu_shrinks_still_carries_everything() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let (_server, mut client, mut accepted) = pair.session(config).await;
    let event = async {
        for namespace in [&pair.client, &pair.server] {
            namespace.ip(&["link", "set", pair.path.interface(), "mtu", "1280"]).unwrap();
        }
    };
    transfer(&mut client, &mut accepted, LEN, event).await;
    transfer(&mut accepted, &mut client, LEN, async {}).await;
}

#[tokio::test]
async fn a_path_whose_mtu_shrinks_still_carries_everything() {
    if !ready(&[]) {
        return;
    }
    let net = Routed::new();
    let (_server, _dialler, mut client, mut accepted) = net.session().await;
    // The router says "fragmentation needed"; the ends see nothing of it but that.
    let event = async {
        for namespace in [&net.router, &net.server] {
            namespace.ip(&["link", "set", net.far.interface(), "mtu", "1280"]).unwrap();
        }
    };
    transfer(&mut client, &mut accepted, LEN, event).await;
    transfer(&mut accepted, &mut client, LEN, async {}).await;
}

#[tokio::test]
async fn a_path_that_swallows_what_is_too_long_for_a_while_loses_nothing() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let (_server, mut client, mut accepted) = pair.session(config).await;
    let event = async {
        pair.path.set_config(&LinkConfig { mtu: Some(1300), ..slow() });
        until(|| pair.path.stats().right.too_long > 20).await;
        pair.path.set_config(&slow());
    };
    transfer(&mut client, &mut accepted, LEN, event).await;
}

#[tokio::test]
async fn a_small_mtu_of_the_session_passes_where_a_large_one_is_swallowed() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(LinkConfig { mtu: Some(1300), ..slow() });
    let small = || config().session(session().mtu(1300 - 28));
    let (_server, mut client, mut accepted) = pair.session(small).await;
    transfer(&mut client, &mut accepted, LEN, async {}).await;
    assert_eq!(pair.path.stats().right.too_long, 0);
}
