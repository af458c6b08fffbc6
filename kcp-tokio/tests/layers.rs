//! Forward error correction and encryption under streams: every combination carries every byte in packets of the MTU, and
//! nothing else gets in.
#![cfg(feature = "layers")]

use std::net::SocketAddr;
use std::time::Duration;

use kcp_netsim::{LinkConfig, SimNet};
use kcp_tokio::layers::{Cipher, Crypt, FecConfig, LayersConfig};
use kcp_tokio::{KcpConfig, KcpEndpoint, KcpListener, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

const LIMIT: Duration = Duration::from_secs(60);
const MTU: usize = 1200;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn base() -> KcpConfig {
    KcpConfig::from(SessionConfig::turbo().mtu(MTU))
}

fn key(cipher: Cipher) -> Crypt {
    Crypt::from_password(cipher, "correct horse battery staple")
}

fn endpoint(net: &SimNet, port: u16, config: KcpConfig) -> KcpEndpoint {
    KcpEndpoint::from_socket(net.bind(at(port)).unwrap(), config).unwrap()
}

async fn pair(
    net: &SimNet,
    client: KcpConfig,
    server: KcpConfig,
) -> (KcpStream, KcpStream, KcpEndpoint, KcpEndpoint) {
    let (client, server) = (endpoint(net, 1, client), endpoint(net, 2, server));
    let near = timeout(LIMIT, client.connect(at(2))).await.unwrap().unwrap();
    let (far, _) = timeout(LIMIT, server.accept()).await.unwrap().unwrap();
    (near, far, client, server)
}

fn bytes(len: usize) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| dice.u8(..)).take(len).collect()
}

/// Sends `len` bytes each way at once and compares them; then both ends finish, and hear of it.
async fn both_ways(near: KcpStream, far: KcpStream, len: usize) {
    let sent = bytes(len);
    let one = async |stream: KcpStream| {
        let (mut read, mut write) = stream.into_split();
        let mut got = Vec::new();
        let (written, read) = tokio::join!(
            async {
                write.write_all(&sent).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut got)
        );
        written.unwrap();
        read.unwrap();
        assert!(got == sent, "{} of {} bytes, or others", got.len(), sent.len());
    };
    timeout(LIMIT * 10, async { tokio::join!(one(near), one(far)) }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_combination_carries_every_byte_in_packets_of_the_mtu() {
    let shapes = [None, Some((10, 3)), Some((1, 1)), Some((3, 2))];
    let ciphers =
        [None, Some(Cipher::None), Some(Cipher::Aes256), Some(Cipher::Aes128Gcm), Some(Cipher::Salsa20)];
    for (seed, shape) in shapes.into_iter().enumerate() {
        for cipher in ciphers {
            for loss in [0.0, 0.1] {
                let config = || {
                    let config = shape.map_or_else(base, |(data, parity)| base().fec(data, parity));
                    cipher.map_or_else(|| config.clone(), |cipher| config.clone().crypt(key(cipher)))
                };
                // A packet that is one byte longer vanishes, and full segments would never arrive.
                let link = LinkConfig { mtu: Some(MTU), ..LinkConfig::lossy(loss, ms(20)) };
                let net = SimNet::new(link, seed as u64);
                let (near, far, client, server) = pair(&net, config(), config()).await;
                let what = format!("{shape:?} {cipher:?} {loss}");
                near.set_nodelay(true).unwrap();
                let handle = server.sessions().pop().unwrap();
                both_ways(near, far, 300_000).await;
                assert_eq!(net.stats().too_long, 0, "{what}");
                assert_eq!(server.stats().dropped_unsealed + client.stats().dropped_unsealed, 0, "{what}");
                let layers = handle.layer_stats();
                assert_eq!(layers.is_some(), shape.is_some() || cipher.is_some(), "{what}");
                if shape.is_some() {
                    let layers = layers.unwrap();
                    assert!(layers.fec_parity_sent > 0 && layers.fec_parity_received > 0, "{what}");
                    assert_eq!(layers.fec_recovered > 0, loss > 0.0, "{what}: {layers:?}");
                    assert_eq!(layers.fec_corrupt, 0, "{what}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn full_segments_leave_no_room_unused() {
    for (config, overhead) in [
        (base().crypt(key(Cipher::Aes128Gcm)), 28),
        (base().crypt(key(Cipher::Aes256)), 20),
        (base().layers(LayersConfig::new().fec(FecConfig::new(10, 3).unwrap().flush_after(None))), 8),
    ] {
        let net = SimNet::new(LinkConfig { mtu: Some(MTU), ..LinkConfig::default() }, 1);
        let (near, _far, ..) = pair(&net, config.clone(), config).await;
        assert_eq!(near.max_datagram(), MTU - overhead - 28);
        // One byte less of a path, and what fills a packet does not come through.
        net.set_all(&LinkConfig { mtu: Some(MTU - 1), ..LinkConfig::default() });
        near.send_datagram(vec![1; near.max_datagram()].into()).unwrap();
        tokio::time::sleep(ms(1000)).await;
        assert_eq!(net.stats().too_long, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_comes_without_waiting_for_its_retransmission() {
    // One message every 20 ms, a round trip of 100 ms, every tenth packet lost: what 19 of 20 messages take.
    async fn slowest(config: KcpConfig) -> Duration {
        let net = SimNet::new(LinkConfig::lossy(0.1, ms(100)), 3);
        let (mut near, mut far, ..) = pair(&net, config.clone(), config).await;
        near.set_nodelay(true).unwrap();
        let started = Instant::now();
        let send = async move {
            for _ in 0..400u32 {
                near.write_all(&(started.elapsed().as_micros() as u64).to_le_bytes()).await.unwrap();
                tokio::time::sleep(ms(20)).await;
            }
            near.shutdown().await.unwrap();
        };
        let receive = async move {
            let mut delays = Vec::new();
            let mut message = [0; 8];
            while far.read_exact(&mut message).await.is_ok() {
                let sent = Duration::from_micros(u64::from_le_bytes(message));
                delays.push(started.elapsed().checked_sub(sent).unwrap());
            }
            delays.sort();
            delays
        };
        let (delays, ()) = timeout(LIMIT, async { tokio::join!(receive, send) }).await.unwrap();
        assert_eq!(delays.len(), 400);
        delays[380]
    }
    let plain = slowest(base()).await;
    let fec = slowest(base().fec(2, 2)).await;
    assert!(plain >= ms(150), "{plain:?}: a retransmission takes a round trip");
    assert!(fec <= ms(80), "{fec:?}: parity comes with the next message, or 10 ms later");
}

#[tokio::test(start_paused = true)]
async fn another_key_opens_nothing() {
    let wrong = Crypt::from_password(Cipher::Aes128Gcm, "wrong horse");
    for wrong in [Some(wrong), Some(key(Cipher::Aes256)), None] {
        let net = SimNet::new(LinkConfig::default(), 1);
        let server = endpoint(&net, 2, base().crypt(key(Cipher::Aes128Gcm)));
        let other = wrong.map_or_else(base, |crypt| base().crypt(crypt));
        let client = endpoint(&net, 1, other);
        let error = timeout(LIMIT, client.connect(at(2))).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        let stats = server.stats();
        assert!(
            stats.dropped_unsealed >= 2 && stats.dropped_unsealed == stats.datagrams_received,
            "{stats:?}"
        );
        assert_eq!((stats.sessions, stats.resets_sent), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_repeated_and_late_packets_change_nothing() {
    for cipher in [Cipher::Aes128Gcm, Cipher::Aes256, Cipher::Xor] {
        let link =
            LinkConfig { corrupt: 0.05, duplicate: 0.1, reorder: 0.1, ..LinkConfig::lossy(0.05, ms(20)) };
        let net = SimNet::new(link, 11);
        let config = base().crypt(key(cipher)).fec(5, 2);
        let (near, far, _client, server) = pair(&net, config.clone(), config).await;
        let handle = server.sessions().pop().unwrap();
        let noise = async {
            let mut dice = fastrand::Rng::with_seed(13);
            for _ in 0..2000 {
                let len = dice.usize(..1300);
                let packet: Vec<u8> = std::iter::repeat_with(|| dice.u8(..)).take(len).collect();
                net.inject(at(1), at(2), &packet);
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        };
        tokio::join!(noise, both_ways(near, far, 500_000));
        let layers = handle.layer_stats().unwrap();
        assert!(server.stats().dropped_unsealed > 1900, "{:?}", server.stats());
        assert!(
            layers.fec_recovered > 0 && layers.fec_duplicates > 0 && layers.fec_corrupt == 0,
            "{layers:?}"
        );
        assert_eq!(server.stats().accepted, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn sealed_answers_for_sessions_that_are_gone() {
    for config in
        [base().crypt(key(Cipher::Aes128Gcm)), base().fec(4, 2), base().crypt(key(Cipher::Aes256)).fec(1, 1)]
    {
        let net = SimNet::new(LinkConfig::lossy(0.0, ms(10)), 1);
        let (mut near, far, _client, server) = pair(&net, config.clone(), config.clone()).await;
        near.write_all(b"known").await.unwrap();
        tokio::time::sleep(ms(100)).await;
        // The server's process dies and comes back, and has forgotten everything.
        net.partition(at(1), at(2));
        drop((far, server));
        tokio::time::sleep(ms(15_000)).await;
        net.heal();
        let _server = endpoint(&net, 2, config);
        let started = Instant::now();
        near.write_all(b"anybody?").await.unwrap();
        let error = timeout(LIMIT, near.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(started.elapsed() < ms(1000), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_follows_its_client_under_layers() {
    for config in
        [base().crypt(key(Cipher::Aes128Gcm)), base().fec(4, 2), base().crypt(key(Cipher::Aes256)).fec(3, 1)]
    {
        let net = SimNet::new(LinkConfig { rate: Some(2 << 20), ..LinkConfig::lossy(0.05, ms(10)) }, 5);
        let (near, far, _client, server) = pair(&net, config.clone(), config).await;
        let moves = async {
            for port in 5001..5004 {
                tokio::time::sleep(ms(40)).await;
                net.rebind(at(1), at(port));
            }
        };
        tokio::join!(moves, both_ways(near, far, 400_000));
        assert!(server.stats().moved >= 1);
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_are_told_three_times_what_they_sent_at_most() {
    let configs = [
        base().fec(1, 3),
        base().fec(3, 3),
        base().crypt(key(Cipher::None)),
        base().crypt(key(Cipher::None)).fec(1, 2),
    ];
    for config in configs {
        // A client speaks, and never hears an answer: as if another one's address were forged.
        let net = SimNet::new(LinkConfig::lossy(0.0, ms(10)), 1);
        let server = endpoint(&net, 2, config.clone());
        net.set_link(at(2), at(1), LinkConfig::lossy(1.0, ms(10)));
        let client = endpoint(&net, 1, config.clone());
        let mut near = client.connect_lazy(at(2)).unwrap();
        near.write_all(&bytes(700)).await.unwrap();
        let (mut far, _) = timeout(LIMIT, server.accept()).await.unwrap().unwrap();
        far.write_all(&bytes(100_000)).await.unwrap();
        tokio::time::sleep(ms(20_000)).await;
        let (to_server, to_client) = (net.link_stats(at(1), at(2)).bytes, net.link_stats(at(2), at(1)).bytes);
        assert!(to_client > 0 && to_client <= 3 * to_server, "{to_client} for {to_server}: {config:?}");
    }
}

#[tokio::test]
async fn bulk_over_real_sockets() {
    for config in [
        KcpConfig::turbo().crypt(key(Cipher::Aes128Gcm)),
        KcpConfig::turbo().fec(10, 3),
        KcpConfig::turbo().fec(10, 3).crypt(key(Cipher::Aes256)),
    ] {
        let listener = KcpListener::bind_with("127.0.0.1:0", config.clone()).await.unwrap();
        let near = KcpStream::connect_with(listener.local_addr().unwrap(), config).await.unwrap();
        let (far, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        both_ways(near, far, 4 << 20).await;
    }
}

#[tokio::test]
async fn configurations_that_cannot_be_are_refused() {
    for config in [
        base().fec(0, 1),
        base().fec(200, 100),
        KcpConfig::from(SessionConfig::turbo().mtu(76)).fec(10, 3).crypt(key(Cipher::Aes128Gcm)),
    ] {
        let error = KcpListener::bind_with("127.0.0.1:0", config).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}
