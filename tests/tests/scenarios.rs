//! The async stack on an in-memory network and paused time: each scenario is a failure that users of other
//! implementations meet.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use kcp_core::Seq;
use kcp_core::wire::{Command, Header};
use kcp_netsim::{LinkConfig, SimNet};
use kcp_tests::pattern;
use kcp_tokio::{CloseReason, KcpConfig, KcpEndpoint, KcpError, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

const SERVER: &str = "10.0.0.1:4000";
const CLIENT: &str = "10.0.0.2:5000";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoint(net: &SimNet, at: &str, config: &KcpConfig) -> KcpEndpoint {
    KcpEndpoint::from_socket(net.bind(addr(at)).unwrap(), config.clone()).unwrap()
}

/// A client and a server's stream over a link.
struct World {
    net: SimNet,
    server: KcpEndpoint,
    client: KcpEndpoint,
    ours: KcpStream,
    theirs: KcpStream,
}

async fn world(link: LinkConfig, config: KcpConfig) -> World {
    let net = SimNet::new(link, 1);
    let (server, client) = (endpoint(&net, SERVER, &config), endpoint(&net, CLIENT, &config));
    let ours = client.connect(addr(SERVER)).await.unwrap();
    let (theirs, peer) = server.accept().await.unwrap();
    assert_eq!(peer, addr(CLIENT));
    World { net, server, client, ours, theirs }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::test(start_paused = true)]
async fn every_byte_arrives_through_each_network() {
    for link in [
        LinkConfig::ideal(),
        LinkConfig::lan(),
        LinkConfig::wifi(),
        LinkConfig::home(),
        LinkConfig::mobile(),
        LinkConfig::satellite(),
        LinkConfig::lossy(0.3, ms(100)),
        LinkConfig { reorder: 0.3, duplicate: 0.3, ..LinkConfig::lossy(0.0, ms(20)) },
        LinkConfig { corrupt: 0.0, mtu: Some(1400), ..LinkConfig::lossy(0.1, ms(20)) },
    ] {
        let World { mut ours, mut theirs, .. } = world(link, KcpConfig::turbo()).await;
        let data = pattern(200_000, 7);
        let sent = data.clone();
        let (down, got) = tokio::join!(
            async {
                ours.write_all(&sent).await.unwrap();
                ours.shutdown().await
            },
            async {
                let mut got = vec![0; data.len()];
                theirs.read_exact(&mut got).await.unwrap();
                got
            }
        );
        down.unwrap();
        assert!(got == data);
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_thousand_bytes_then_drop_arrive_whole_at_20_percent_loss() {
    let World { mut ours, mut theirs, client, .. } =
        world(LinkConfig::lossy(0.2, ms(60)), KcpConfig::turbo()).await;
    let data = pattern(200_000, 8);
    ours.write_all(&data).await.unwrap();
    drop(ours);
    drop(client);
    let mut got = vec![0; data.len()];
    theirs.read_exact(&mut got).await.unwrap();
    assert!(got == data);
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_an_error_and_never_eof() {
    let World { net, mut ours, mut theirs, .. } =
        world(LinkConfig::lossy(0.0, ms(40)), KcpConfig::fast()).await;
    ours.write_all(b"before").await.unwrap();
    theirs.read_exact(&mut [0; 6]).await.unwrap();
    sleep(ms(1000)).await;
    net.partition(addr(SERVER), addr(CLIENT));
    let started = Instant::now();
    let error = theirs.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let source = error.get_ref().unwrap().downcast_ref::<KcpError>().copied();
    assert_eq!(source, Some(KcpError::Closed(CloseReason::IdleTimeout)));
    let waited = started.elapsed();
    assert!(waited >= ms(28_000) && waited <= ms(30_000), "{waited:?}");
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::TimedOut, "it stays an error");
}

#[tokio::test(start_paused = true)]
async fn idle_streams_stay_open() {
    let World { mut ours, mut theirs, .. } = world(LinkConfig::lossy(0.1, ms(40)), KcpConfig::fast()).await;
    sleep(Duration::from_secs(24 * 3600)).await;
    ours.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    theirs.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"still here");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_stalls_nobody_else_and_recovers_at_once() {
    let config: KcpConfig = SessionConfig::turbo().recv_window(64).send_buffer(64 * 1024).into();
    let World { server, client, mut ours, mut theirs, .. } =
        world(LinkConfig::lossy(0.0, ms(50)), config).await;
    let data = pattern(1_000_000, 3);
    let writing = data.clone();
    let writer = tokio::spawn(async move {
        ours.write_all(&writing).await.unwrap();
        ours
    });
    sleep(Duration::from_secs(100)).await;
    assert!(!writer.is_finished(), "the writer is blocked");
    // Another session on the same sockets is as fast as ever.
    let mut other = client.connect(addr(SERVER)).await.unwrap();
    let (mut far, _) = server.accept().await.unwrap();
    let started = Instant::now();
    other.write_all(b"quick").await.unwrap();
    far.read_exact(&mut [0; 5]).await.unwrap();
    assert!(started.elapsed() <= ms(30), "{:?}", started.elapsed());
    // The sleeper wakes up: what it had is there, the rest comes within a round trip and a bit.
    let mut got = vec![0; 64 * 1376];
    theirs.read_exact(&mut got).await.unwrap();
    let started = Instant::now();
    let mut more = [0; 1];
    theirs.read_exact(&mut more).await.unwrap();
    assert!(started.elapsed() <= ms(60), "{:?}", started.elapsed());
    got.extend_from_slice(&more);
    let mut rest = vec![0; data.len() - got.len()];
    theirs.read_exact(&mut rest).await.unwrap();
    got.extend_from_slice(&rest);
    assert!(got == data);
    writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_write_took_nothing() {
    let config: KcpConfig = SessionConfig::turbo().recv_window(4).send_window(4).send_buffer(4096).into();
    let World { mut ours, mut theirs, .. } = world(LinkConfig::lossy(0.0, ms(20)), config).await;
    let mut sent = Vec::new();
    // Fill everything, then cancel writes that cannot complete.
    while let Ok(n) = timeout(ms(500), ours.write(&[b'a'; 1000])).await {
        sent.extend_from_slice(&vec![b'a'; n.unwrap()]);
    }
    for _ in 0..10 {
        assert!(timeout(ms(1), ours.write(&[b'X'; 1000])).await.is_err());
    }
    let drain = tokio::spawn(async move {
        let mut got = Vec::new();
        let mut buf = [0; 512];
        while let Ok(Ok(n @ 1..)) = timeout(ms(5000), theirs.read(&mut buf)).await {
            got.extend_from_slice(&buf[..n]);
        }
        got
    });
    let n = ours.write(b"abc").await.unwrap();
    assert!((1..=3).contains(&n), "never more than the buffer that was given");
    sent.extend_from_slice(&b"abc"[..n]);
    ours.shutdown().await.unwrap();
    assert!(drain.await.unwrap() == sent, "no cancelled byte was sent");
}

#[tokio::test(start_paused = true)]
async fn strangers_change_nothing() {
    let World { net, server, mut ours, mut theirs, .. } =
        world(LinkConfig::lossy(0.0, ms(20)), KcpConfig::turbo()).await;
    let conv = ours.conv();
    let push = |conv: u32, sn: u32| {
        let (sn, una) = (Seq::new(sn), Seq::new(0));
        let header = Header { conv, cmd: Command::Push, frg: 0, wnd: 128, ts: 0, sn, una, len: 4 };
        [header.encode().as_slice(), b"evil"].concat()
    };
    let before = server.stats().sessions;
    // The client's conv from elsewhere; towards the client, from the server's port and from another.
    net.inject(addr("10.6.6.6:1"), addr(SERVER), &push(conv, 5));
    net.inject(addr("10.6.6.6:1"), addr(CLIENT), &push(conv, 0));
    net.inject(addr(SERVER), addr(CLIENT), &push(conv ^ 1, 0));
    // Another conv from the client's address opens another session and touches no other.
    net.inject(addr(CLIENT), addr(SERVER), &push(conv ^ 2, 0));
    // Bad commands, short datagrams, una beyond what was sent: the last would empty the send buffer elsewhere.
    net.inject(addr(CLIENT), addr(SERVER), &[0; 23]);
    net.inject(addr(CLIENT), addr(SERVER), &[0xFF; 40]);
    let forged = Header {
        conv,
        cmd: Command::Ack,
        frg: 0,
        wnd: 128,
        ts: 0,
        sn: Seq::new(0),
        una: Seq::new(1000),
        len: 0,
    };
    ours.write_all(b"important").await.unwrap();
    net.inject(addr(SERVER), addr(CLIENT), &forged.encode());
    net.inject(addr(CLIENT), addr(SERVER), &forged.encode());
    let mut got = [0; 9];
    theirs.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"important");
    theirs.write_all(b"answer").await.unwrap();
    let mut got = [0; 6];
    ours.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"answer");
    ours.shutdown().await.unwrap();
    assert_eq!(server.stats().sessions, before + 1, "a stranger opened a session of its own");
    assert_eq!((server.stats().path_challenges, server.stats().moved), (1, 0), "who may have moved is asked");
    assert_eq!(ours.stats().rejected_una + theirs.stats().rejected_una, 2);
}

#[tokio::test(start_paused = true)]
async fn receive_errors_end_nothing() {
    let World { net, server, client, mut ours, mut theirs } =
        world(LinkConfig::lossy(0.0, ms(20)), KcpConfig::turbo()).await;
    for kind in [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset, ErrorKind::Other] {
        for at in [SERVER, CLIENT] {
            net.inject_receive_error(addr(at), kind.into());
        }
    }
    ours.write_all(b"on we go").await.unwrap();
    let mut got = [0; 8];
    theirs.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"on we go");
    assert_eq!((server.stats().receive_errors, client.stats().receive_errors), (3, 3));
    client.connect(addr(SERVER)).await.unwrap();
    server.accept().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_fails_for_good_fails_everybody() {
    let World { net, server, mut theirs, .. } =
        world(LinkConfig::lossy(0.0, ms(20)), KcpConfig::turbo()).await;
    net.inject_receive_error(addr(SERVER), ErrorKind::NotConnected.into());
    assert_eq!(theirs.read(&mut [0; 4]).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(server.accept().await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test(start_paused = true)]
async fn a_full_socket_loses_nothing() {
    let World { net, client, mut ours, mut theirs, .. } =
        world(LinkConfig::lossy(0.0, ms(20)), KcpConfig::turbo()).await;
    net.set_send_budget(addr(CLIENT), Some(3));
    let data = pattern(20_000, 4);
    ours.write_all(&data).await.unwrap();
    assert!(client.stats().send_blocked > 0);
    let opener = tokio::spawn(async move {
        // Room for a few datagrams at a time.
        for _ in 0..20 {
            sleep(ms(5)).await;
            net.set_send_budget(addr(CLIENT), Some(2));
        }
        net.set_send_budget(addr(CLIENT), None);
        net
    });
    let mut got = vec![0; data.len()];
    theirs.read_exact(&mut got).await.unwrap();
    assert!(got == data);
    assert_eq!(theirs.stats().duplicates, 0, "kept, not lost and sent again");
    opener.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn empty_messages_are_messages() {
    let config: KcpConfig = SessionConfig::turbo().stream(false).into();
    let World { ours, theirs, .. } = world(LinkConfig::lossy(0.2, ms(20)), config).await;
    let messages =
        [Bytes::new(), Bytes::from("one"), Bytes::new(), Bytes::new(), Bytes::from("two"), Bytes::new()];
    for message in &messages {
        ours.send_msg(message.clone()).await.unwrap();
    }
    for message in &messages {
        assert_eq!(&theirs.recv_msg().await.unwrap(), message);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_restarts_on_its_port_gets_a_new_session() {
    let config = KcpConfig::turbo();
    let World { net, server, client, mut ours, theirs } =
        world(LinkConfig::lossy(0.0, ms(20)), config.clone()).await;
    ours.write_all(b"old").await.unwrap();
    let old_conv = ours.conv();
    // The process dies: nothing is drained, the port is taken again.
    ours.abort();
    drop((ours, client));
    sleep(ms(100)).await;
    let client = endpoint(&net, CLIENT, &config);
    let mut again = client.connect(addr(SERVER)).await.unwrap();
    assert_ne!(again.conv(), old_conv);
    let (mut fresh, peer) = server.accept().await.unwrap();
    assert_eq!(peer, addr(CLIENT));
    again.write_all(b"new").await.unwrap();
    let mut got = [0; 3];
    fresh.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"new");
    // The old session's end harms the new one in nothing.
    drop(theirs);
    sleep(Duration::from_secs(60)).await;
    fresh.write_all(b"ok").await.unwrap();
    again.read_exact(&mut [0; 2]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn late_segments_of_a_closed_session_open_no_ghost() {
    let World { net, server, mut ours, theirs, .. } =
        world(LinkConfig::lossy(0.0, ms(20)), KcpConfig::turbo()).await;
    ours.write_all(b"x").await.unwrap();
    let conv = ours.conv();
    sleep(ms(100)).await;
    theirs.abort();
    let header =
        Header { conv, cmd: Command::Push, frg: 0, wnd: 9, ts: 0, sn: Seq::new(0), una: Seq::new(0), len: 0 };
    net.inject(addr(CLIENT), addr(SERVER), &header.encode());
    sleep(ms(100)).await;
    assert_eq!(server.stats().sessions, 0);
    assert!(server.stats().dropped_tombstone >= 1);
}

#[tokio::test(start_paused = true)]
async fn the_backlog_is_bounded() {
    let net = SimNet::new(LinkConfig::lossy(0.0, ms(20)), 1);
    let server = endpoint(&net, SERVER, &KcpConfig::turbo().backlog(3));
    let mut clients = Vec::new();
    for i in 0..5u16 {
        let config: KcpConfig = SessionConfig::turbo().connect_timeout(ms(700)).into();
        let client =
            KcpEndpoint::from_socket(net.bind(([10, 0, 1, 1], 6000 + i).into()).unwrap(), config).unwrap();
        let connected = client.connect(addr(SERVER)).await;
        assert_eq!(connected.is_ok(), i < 3, "client {i}");
        // Its handshake completes at the server.
        sleep(ms(50)).await;
        clients.push((client, connected));
    }
    assert!(server.stats().dropped_backlog > 0);
    for _ in 0..3 {
        server.accept().await.unwrap();
    }
    assert!(timeout(ms(100), server.accept()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    async fn run() -> (Duration, kcp_tokio::Stats) {
        let started = Instant::now();
        let World { mut ours, mut theirs, .. } = world(LinkConfig::mobile(), KcpConfig::turbo()).await;
        let writer = tokio::spawn(async move {
            ours.write_all(&pattern(100_000, 1)).await.unwrap();
            ours
        });
        theirs.read_exact(&mut vec![0; 100_000]).await.unwrap();
        let ours = writer.await.unwrap();
        (started.elapsed(), ours.stats())
    }
    let (first, second) = (run().await, run().await);
    assert_eq!(first.0, second.0);
    assert_eq!((first.1.retransmits, first.1.bytes_sent), (second.1.retransmits, second.1.bytes_sent));
    assert!(first.1.retransmits > 0, "else there was nothing to differ in");
}

#[tokio::test(start_paused = true)]
async fn a_session_follows_its_client_to_another_address() {
    for lossy in [0.0, 0.1] {
        let World { net, server, client, mut ours, mut theirs } =
            world(LinkConfig::lossy(lossy, ms(20)), KcpConfig::turbo()).await;
        let data = pattern(400_000, 7);
        let expected = data.clone();
        let reader = tokio::spawn(async move {
            let mut got = vec![0; 400_000];
            theirs.read_exact(&mut got).await.unwrap();
            theirs.write_all(b"all of it").await.unwrap();
            (got, theirs)
        });
        ours.write_all(&data[..200_000]).await.unwrap();
        // The NAT between forgets its mapping.
        net.rebind(addr(CLIENT), addr("10.0.0.9:777"));
        ours.write_all(&data[200_000..]).await.unwrap();
        let mut answer = [0; 9];
        timeout(ms(20_000), ours.read_exact(&mut answer)).await.expect("the session moves").unwrap();
        assert_eq!(&answer, b"all of it");
        let (got, theirs) = reader.await.unwrap();
        assert!(got == expected);
        assert_eq!(theirs.peer_addr().unwrap(), addr("10.0.0.9:777"));
        assert_eq!(server.stats().moved, 1);
        drop(client);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_may_move_at_any_moment_of_its_beginning() {
    // 10 ms to and 10 ms fro: hello, answer, token and data, its echo.
    for (lost, at) in (0..60).map(|at| (0.0, at)).chain((0..200).map(|at| (0.2, at))) {
        let net = SimNet::new(LinkConfig::lossy(lost, ms(20)), at);
        // Who only waits for an answer learns nothing of the move; its sign of life tells the server.
        let sessions = SessionConfig::turbo().keepalive(Some(ms(1000)));
        let config = |seed| KcpConfig::from(sessions.clone()).predictable(seed);
        let server = endpoint(&net, SERVER, &config(at));
        let client = endpoint(&net, CLIENT, &config(!at));
        let nat = async {
            sleep(ms(at)).await;
            net.rebind(addr(CLIENT), addr("10.0.0.9:777"));
        };
        let echo = async {
            let (mut theirs, _) = server.accept().await.unwrap();
            let mut buf = [0; 5000];
            theirs.read_exact(&mut buf).await.unwrap();
            theirs.write_all(&buf).await.unwrap();
            // Of a client that has moved when it had everything, nothing may be heard any more.
            let _ = theirs.shutdown().await;
        };
        let all = async {
            let mut ours = client.connect(addr(SERVER)).await.unwrap();
            ours.write_all(&pattern(5000, at)).await.unwrap();
            ours.shutdown().await.unwrap();
            let mut back = vec![];
            ours.read_to_end(&mut back).await.unwrap();
            assert!(back == pattern(5000, at));
        };
        let (_, _, done) = tokio::join!(nat, timeout(ms(60_000), echo), timeout(ms(15_000), all));
        assert!(done.is_ok(), "moved at {at} ms, {lost} lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_spoofed_beginnings_change_nothing() {
    let World { net, server, client, mut ours, mut theirs } =
        world(LinkConfig::lossy(0.0, ms(20)), KcpConfig::turbo()).await;
    for i in 0..100_000u32 {
        let (sn, una) = (Seq::new(5), Seq::new(0));
        let header = Header { conv: i + 1, cmd: Command::Push, frg: 0, wnd: 128, ts: 0, sn, una, len: 4 };
        let datagram = [header.encode().as_slice(), b"junk"].concat();
        let [a, b, c, _] = i.wrapping_mul(0x9E37_79B1).to_be_bytes();
        net.inject(([a | 1, b, c, 7], 9).into(), addr(SERVER), &datagram);
        if i % 1000 == 0 {
            // The live session goes on meanwhile, without delay.
            let started = Instant::now();
            ours.write_all(b"ping").await.unwrap();
            theirs.read_exact(&mut [0; 4]).await.unwrap();
            assert!(started.elapsed() <= ms(30), "{:?}", started.elapsed());
            let stats = server.stats();
            assert!(stats.sessions <= 4096 + 2 && stats.half_open <= 4096, "{stats:?}");
        }
    }
    assert!(server.stats().half_open > 3000 && server.stats().half_open_expired > 90_000);
    let genuine = client.connect(addr(SERVER)).await.unwrap();
    let (accepted, _) = server.accept().await.unwrap();
    assert_eq!(accepted.conv(), genuine.conv());
    // Ten seconds later they are forgotten.
    sleep(ms(11_000)).await;
    assert_eq!((server.stats().half_open, server.stats().sessions), (0, 2));
}

/// A proxy has hundreds towards one server, which all ask at the same moment.
#[tokio::test(start_paused = true)]
async fn every_session_of_one_endpoint_hears_of_a_restart() {
    const SESSIONS: usize = 2000;
    let World { net, server, client, ours, theirs } =
        world(LinkConfig::lossy(0.0, ms(50)), KcpConfig::turbo()).await;
    let (mut streams, mut accepted) = (vec![ours], vec![theirs]);
    for _ in 1..SESSIONS {
        streams.push(client.connect(addr(SERVER)).await.unwrap());
        accepted.push(server.accept().await.unwrap().0);
    }
    for (ours, theirs) in streams.iter_mut().zip(&mut accepted) {
        // What follows is taken for something that has overtaken a beginning: it opens a session that nobody ever gets.
        ours.write_all(b"hello").await.unwrap();
        theirs.read_exact(&mut [0; 5]).await.unwrap();
    }
    net.partition(addr(CLIENT), addr(SERVER));
    drop((server, accepted));
    sleep(ms(11_000)).await;
    net.heal();
    let _server = endpoint(&net, SERVER, &KcpConfig::turbo());
    for stream in &mut streams {
        stream.write_all(b"are you still there?").await.unwrap();
    }
    let mut told = 0;
    for stream in &mut streams {
        let read = timeout(ms(60_000), stream.read(&mut [0; 10])).await.expect("not at all");
        told += usize::from(read.unwrap_err().kind() == ErrorKind::ConnectionReset);
    }
    assert_eq!(told, SESSIONS, "the others were left to time out");
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_restarted_server_hear_of_it_within_two_round_trips() {
    // What was said before: nothing, something, something that the server never acknowledged, an answer too.
    for before in 0..4 {
        let World { net, server, client, mut ours, mut theirs } =
            world(LinkConfig::lossy(0.0, ms(50)), KcpConfig::turbo()).await;
        if before > 0 {
            ours.write_all(b"hello").await.unwrap();
            theirs.read_exact(&mut [0; 5]).await.unwrap();
        }
        if before == 3 {
            theirs.write_all(b"welcome").await.unwrap();
            ours.read_exact(&mut [0; 7]).await.unwrap();
        }
        if before != 2 {
            sleep(ms(200)).await;
        }
        // Killed: it says nothing.
        net.partition(addr(CLIENT), addr(SERVER));
        drop((server, theirs));
        sleep(ms(11_000)).await;
        net.heal();
        let server = endpoint(&net, SERVER, &KcpConfig::turbo());
        let written = Instant::now();
        ours.write_all(b"are you still there?").await.unwrap();
        let read = timeout(ms(20_000), ours.read(&mut [0; 10])).await;
        let read = read.expect("not at all");
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(written.elapsed() <= ms(100), "{before}: {:?}", written.elapsed());
        let mut again = client.connect(addr(SERVER)).await.unwrap();
        again.write_all(b"again").await.unwrap();
        loop {
            // Plain KCP cannot tell what the old session sent from a beginning: it may be accepted as one.
            let (mut stream, _) = timeout(ms(20_000), server.accept()).await.unwrap().unwrap();
            if stream.conv() == again.conv() {
                let mut got = [0; 5];
                stream.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"again");
                break;
            }
        }
    }
}
