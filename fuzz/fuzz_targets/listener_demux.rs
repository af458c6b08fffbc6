//! Any datagrams from many addresses into a listener of the async stack, between them honest clients: nothing panics, what is
//! held stays bounded, and an honest client is served whatever the strangers say.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use kcp_netsim::{LinkConfig, SimNet};
use kcp_tokio::{KcpConfig, KcpEndpoint, KcpStream, SessionConfig};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 4000);
const HONEST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 5000);
const BUDGET: usize = 64 << 10;

/// 16 addresses of 4 networks; none of them the honest client's.
fn stranger(n: u8) -> SocketAddr {
    (Ipv4Addr::new(10, 1, n >> 2 & 3, n & 3), u16::from(n >> 4)).into()
}

async fn run(mut rest: &[u8]) {
    let net = SimNet::new(LinkConfig::ideal(), 1);
    let session = SessionConfig::turbo().recv_buffer(16 << 10).send_buffer(16 << 10).mtu(200);
    let config =
        KcpConfig::turbo().session(session).backlog(4).max_sessions(12).half_open(6).recv_budget(BUDGET).send_budget(BUDGET);
    let start = |at| KcpEndpoint::from_socket(net.bind(at).expect("free"), config.clone()).expect("valid");
    let (server, client) = (start(SERVER), start(HONEST));
    let mut honest = client.connect(SERVER).await.expect("nobody is in the way yet");
    let (mut served, _) = server.accept().await.expect("it is there");
    let mut streams: Vec<KcpStream> = Vec::new();
    let mut count = 0;
    // Records: who (or what to do), how many bytes, the bytes.
    while let Some((&[who, len], tail)) = rest.split_first_chunk() {
        let (datagram, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;
        match who {
            0..=0xDF => net.inject(stranger(who), SERVER, datagram),
            0xE0..=0xE7 => {
                let accepted = timeout(Duration::from_millis(1), server.accept()).await;
                streams.extend(accepted.ok().and_then(Result::ok).map(|(stream, _)| stream));
            }
            0xE8..=0xEB if !streams.is_empty() => drop(streams.swap_remove(usize::from(len) % streams.len())),
            0xEC..=0xEF => {
                for stream in &mut streams {
                    let _ = stream.try_write(datagram);
                    let _ = stream.try_read(&mut [0; 64]);
                }
            }
            0xF0..=0xF3 => sleep(Duration::from_millis(u64::from(len) * 100)).await,
            // The honest client under another address, and back.
            0xF4 => net.rebind(HONEST, SocketAddr::new(HONEST.ip(), 5001)),
            0xF5 => net.rebind(HONEST, HONEST),
            // In the honest client's name: it can be disturbed, but not by whoever does not know its conv.
            0xF6..=0xF9 if datagram.get(..4).is_some_and(|conv| conv != honest.conv().to_le_bytes()) => {
                net.inject(HONEST, SERVER, datagram);
            }
            _ => tokio::task::yield_now().await,
        }
        count += 1;
        if count % 8 == 0 {
            sleep(Duration::from_millis(1)).await;
            let stats = server.stats();
            assert!(stats.sessions <= 12, "{stats:?}");
            assert!(stats.unread_bytes <= (BUDGET + 13 * 200) as u64 && stats.unacked_bytes <= (BUDGET + 13 * 200) as u64, "{stats:?}");
        }
    }
    net.rebind(HONEST, HONEST);
    let echo = async {
        honest.write_all(b"still there?").await.expect("the session lives");
        let mut buf = [0; 12];
        served.read_exact(&mut buf).await.expect("the session lives");
        assert_eq!(&buf, b"still there?");
    };
    timeout(Duration::from_secs(20), echo).await.expect("an honest client is served");
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(run(data));
});
