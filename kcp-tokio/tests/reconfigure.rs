//! Sessions to come have other parameters and another key than those that live; datagrams with a class of service.
#![cfg(feature = "layers")]

use std::net::SocketAddr;
use std::time::Duration;

use kcp_netsim::{LinkConfig, SimNet};
use kcp_tokio::layers::{Cipher, Crypt, LayersConfig};
use kcp_tokio::{KcpConfig, KcpEndpoint, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn base() -> KcpConfig {
    KcpConfig::from(SessionConfig::turbo().mtu(1200))
}

fn keyed(cipher: Cipher, password: &str) -> KcpConfig {
    base().crypt(Crypt::from_password(cipher, password))
}

fn endpoint(net: &SimNet, port: u16, config: KcpConfig) -> KcpEndpoint {
    KcpEndpoint::from_socket(net.bind(at(port)).unwrap(), config).unwrap()
}

async fn pair(client: &KcpEndpoint, server: &KcpEndpoint) -> (KcpStream, KcpStream) {
    let near = timeout(LIMIT, client.connect(at(2))).await.unwrap().unwrap();
    let (far, _) = timeout(LIMIT, server.accept()).await.unwrap().unwrap();
    (near, far)
}

async fn talk(near: &mut KcpStream, far: &mut KcpStream, text: &[u8]) {
    let mut got = vec![0; text.len()];
    near.write_all(text).await.unwrap();
    timeout(LIMIT, far.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, text);
    far.write_all(text).await.unwrap();
    timeout(LIMIT, near.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, text);
}

#[tokio::test(start_paused = true)]
async fn each_session_keeps_the_key_that_it_began_with() {
    for cipher in [Cipher::Aes256, Cipher::Aes128Gcm, Cipher::Salsa20] {
        let net = SimNet::new(LinkConfig::lossy(0.05, Duration::from_millis(10)), 3);
        let server = endpoint(&net, 2, keyed(cipher, "first"));
        let clients = ["first", "second", "third"]
            .map(|key| (key, keyed(cipher, key).fec(3, 1)))
            .into_iter()
            .enumerate();
        let mut sessions = Vec::new();
        for (n, (key, config)) in clients {
            if n > 0 {
                server.reconfigure(&keyed(cipher, key).fec(3, 1)).unwrap();
            }
            let client = endpoint(&net, 10 + n as u16, config);
            sessions.push((pair(&client, &server).await, client));
            for ((near, far), _) in &mut sessions {
                talk(near, far, &[n as u8; 5000]).await;
            }
        }
        assert_eq!(server.stats().dropped_unsealed, 0, "{cipher}");
        // A key that was in force does not open a session any more.
        let late = endpoint(&net, 20, keyed(cipher, "first"));
        assert!(late.connect(at(2)).await.is_err(), "{cipher}");
        assert!(server.stats().accepted == 3 && server.sessions().len() == 3, "{cipher}");
        assert!(server.stats().dropped_unsealed > 0, "{cipher}");
        for ((near, far), _) in &mut sessions {
            talk(near, far, b"to the end").await;
        }
    }
}

/// Somebody who has another of the keys, even the current one, cannot speak for a session.
#[tokio::test(start_paused = true)]
async fn a_session_hears_its_own_key_only() {
    let net = SimNet::new(LinkConfig::ideal(), 3);
    let server = endpoint(&net, 2, keyed(Cipher::Aes128Gcm, "first"));
    let client = endpoint(&net, 1, keyed(Cipher::Aes128Gcm, "first"));
    let (mut near, mut far) = pair(&client, &server).await;
    talk(&mut near, &mut far, b"hello").await;
    server.reconfigure(&keyed(Cipher::Aes128Gcm, "second")).unwrap();
    // The client's endpoint takes the new key for what it opens from now on, so the same address has sessions of both.
    client.reconfigure(&keyed(Cipher::Aes128Gcm, "second")).unwrap();
    let (mut second_near, mut second_far) = pair(&client, &server).await;
    talk(&mut second_near, &mut second_far, b"second").await;
    talk(&mut near, &mut far, b"first").await;
    assert_eq!(server.stats().dropped_unsealed + client.stats().dropped_unsealed, 0);
}

#[tokio::test(start_paused = true)]
async fn parameters_of_sessions_to_come() {
    let net = SimNet::new(LinkConfig::ideal(), 3);
    let server = endpoint(&net, 2, base().layers(LayersConfig::new()));
    let client = endpoint(&net, 1, base().layers(LayersConfig::new()));
    let (near, far) = pair(&client, &server).await;
    server.reconfigure(&KcpConfig::from(SessionConfig::turbo().mtu(700)).fec(3, 1)).unwrap();
    let (mut second_near, mut second_far) = pair(&client, &server).await;
    assert_eq!((near.max_datagram(), far.max_datagram()), (1172, 1172));
    assert_eq!(second_far.max_datagram(), 700 - 16 - 28);
    talk(&mut second_near, &mut second_far, &[1; 3000]).await;
    assert!(second_far.layer_stats().unwrap().fec_data_sent > 0);
    assert_eq!(far.layer_stats().unwrap().fec_data_sent, 0);
}

#[tokio::test]
async fn what_cannot_change() {
    let net = SimNet::new(LinkConfig::ideal(), 3);
    let null = || Crypt::from_password(Cipher::Null, "");
    for (port, (before, after)) in [
        (base(), base().fec(3, 1)),
        (base().fec(3, 1), base()),
        (keyed(Cipher::Aes128, "x"), base().crypt(null())),
        (base().crypt(null()), keyed(Cipher::Aes128, "x")),
        (keyed(Cipher::Aes128, "x"), base().layers(LayersConfig::new())),
    ]
    .into_iter()
    .enumerate()
    {
        let endpoint = endpoint(&net, 100 + port as u16, before);
        let error = endpoint.reconfigure(&after).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::Unsupported, "{after:?}");
    }
    let endpoint = endpoint(&net, 200, base());
    let error = endpoint.reconfigure(&KcpConfig::from(SessionConfig::turbo().mtu(1))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

/// Every datagram says so, those that leave together as well.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_class_of_service() {
    use std::io::IoSliceMut;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};

    let there = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    setsockopt(&there, sockopt::IpRecvTos, &true).unwrap();
    there.set_read_timeout(Some(LIMIT)).unwrap();
    let config = KcpConfig::from(SessionConfig::turbo().mtu(600)).dscp(46);
    let mut stream = KcpStream::connect_lazy(there.local_addr().unwrap(), config).await.unwrap();
    stream.write_all(&[7; 5000]).await.unwrap();
    stream.flush().await.unwrap();
    let mut payload = 0;
    while payload < 5000 {
        let mut buf = [0; 2000];
        let mut parts = [IoSliceMut::new(&mut buf)];
        let mut control = nix::cmsg_space!(u8);
        let got =
            recvmsg::<SockaddrStorage>(there.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
        let got = got.unwrap();
        let classes: Vec<_> = got.cmsgs().unwrap().collect();
        assert_eq!(classes, [ControlMessageOwned::Ipv4Tos(46 << 2)]);
        assert!(got.bytes <= 600);
        payload += got.bytes.saturating_sub(24);
    }
    let error = KcpEndpoint::bind("127.0.0.1:0".parse().unwrap(), base().dscp(64)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
