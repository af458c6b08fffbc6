//! Attackers and greedy peers against the async stack on an in-memory network: who is not on the path can neither move nor
//! kill a session, and what all sessions hold together is bounded.

use std::net::SocketAddr;
use std::time::Duration;

use kcp_core::Seq;
use kcp_core::wire::{Command, Header};
use kcp_netsim::{LinkConfig, SimNet};
use kcp_tests::pattern;
use kcp_tokio::{KcpConfig, KcpEndpoint, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

const SERVER: &str = "10.0.0.1:4000";
const CLIENT: &str = "10.0.0.2:5000";
const ATTACKER: &str = "203.0.113.9:666";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoint(net: &SimNet, at: &str, config: &KcpConfig) -> KcpEndpoint {
    KcpEndpoint::from_socket(net.bind(addr(at)).unwrap(), config.clone()).unwrap()
}

fn segment(cmd: Command, conv: u32, sn: u32, ts: u32, payload: &[u8]) -> Vec<u8> {
    let (sn, una, len) = (Seq::new(sn), Seq::new(0), u32::try_from(payload.len()).unwrap());
    let header = Header { conv, cmd, frg: 0, wnd: 128, ts, sn, una, len };
    [header.encode().as_slice(), payload].concat()
}

/// A control payload: records of type and value, as docs/WIRE.md has them.
fn control(records: &[(u8, &[u64])]) -> Vec<u8> {
    let mut payload = vec![0xE1];
    for (kind, values) in records {
        payload.push(*kind);
        payload.extend_from_slice(&u16::try_from(values.len() * 8).unwrap().to_le_bytes());
        for value in *values {
            payload.extend_from_slice(&value.to_le_bytes());
        }
    }
    payload
}

const HELLO: u8 = 1;
const HELLO_ACK: u8 = 2;
const TOKEN: u8 = 3;
const FIN: u8 = 4;
const FIN_ACK: u8 = 5;
const RST: u8 = 6;
const PING: u8 = 7;
const PATH_CHALLENGE: u8 = 10;
const PATH_RESPONSE: u8 = 11;

/// Everything short of a token that ends, moves or replaces a session, for whoever knows both addresses and the conv.
fn forgeries(conv: u32, guess: u64) -> Vec<Vec<u8>> {
    let mut all = vec![vec![], conv.to_le_bytes().to_vec()];
    for cmd in [Command::Wask, Command::Wins] {
        all.push(segment(cmd, conv, 0, 0, &[0xE1]));
        all.push(segment(cmd, conv, 1, guess as u32, &[0xE1]));
        for (kind, values) in [
            (HELLO, &[guess][..]),
            (HELLO_ACK, &[guess, guess]),
            (TOKEN, &[guess]),
            (FIN, &[1, guess]),
            (FIN_ACK, &[1, guess]),
            (RST, &[guess]),
            (PING, &[guess]),
            (PATH_CHALLENGE, &[guess]),
            (PATH_RESPONSE, &[guess, guess]),
        ] {
            all.push(segment(cmd, conv, 0, 0, &control(&[(kind, values)])));
        }
    }
    // A beginning under another name, and acknowledgements of what was never sent.
    all.push(segment(Command::Push, conv.wrapping_add(1), 0, 0, b"other conv"));
    all.push(segment(Command::Ack, conv, 77_777, guess as u32, b""));
    all
}

#[tokio::test(start_paused = true)]
async fn an_off_path_attacker_neither_moves_nor_kills_a_session() {
    let config = KcpConfig::turbo();
    let net = SimNet::new(LinkConfig::lossy(0.0, Duration::from_millis(20)), 7);
    let (server, client) = (endpoint(&net, SERVER, &config), endpoint(&net, CLIENT, &config));
    let mut ours = client.connect(addr(SERVER)).await.unwrap();
    let (mut theirs, _) = server.accept().await.unwrap();
    let data = pattern(300_000, 3);
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        for part in sent.chunks(3_000) {
            ours.write_all(part).await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
        ours.shutdown().await.unwrap();
        ours
    });
    let conv = theirs.conv();
    let attack = tokio::spawn(async move {
        for round in 0..100u64 {
            for forged in forgeries(conv, round.wrapping_mul(0x9E37_79B9_7F4A_7C15)) {
                for (from, to) in [(ATTACKER, SERVER), (CLIENT, SERVER), (ATTACKER, CLIENT), (SERVER, CLIENT)]
                {
                    net.inject(addr(from), addr(to), &forged);
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        net
    });
    let mut got = vec![];
    timeout(Duration::from_secs(60), theirs.read_to_end(&mut got)).await.expect("it goes on").unwrap();
    assert!(got == data);
    assert_eq!(theirs.peer_addr().unwrap(), addr(CLIENT));
    assert_eq!((server.stats().moved, client.stats().moved), (0, 0));
    theirs.write_all(b"thanks").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut answer = String::new();
    writer.await.unwrap().read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "thanks");
    drop(attack.await.unwrap());
}

/// Sessions whose readers sleep, each with more sent to it than all may hold.
async fn flood(
    server: &KcpEndpoint,
    client: &KcpEndpoint,
    sessions: usize,
) -> Vec<(KcpStream, tokio::task::JoinHandle<()>)> {
    let mut all = vec![];
    for i in 0..sessions {
        let mut ours = client.connect(server.local_addr().unwrap()).await.unwrap();
        let writer = tokio::spawn(async move {
            ours.write_all(&pattern(800_000, i as u64)).await.unwrap();
            ours.shutdown().await.unwrap();
        });
        all.push((server.accept().await.unwrap().0, writer));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn what_all_sessions_hold_unread_is_bounded_and_nothing_is_lost() {
    const BUDGET: usize = 1 << 20;
    const SESSIONS: usize = 20;
    let sessions = SessionConfig::turbo()
        .zero_window_timeout(None)
        .user_timeout(None)
        .recv_window(1024)
        .send_window(1024);
    let config = KcpConfig::from(sessions.clone());
    let net = SimNet::new(LinkConfig::lossy(0.05, Duration::from_millis(10)), 11);
    let server = endpoint(&net, SERVER, &config.clone().recv_budget(BUDGET));
    let client = endpoint(&net, CLIENT, &config);
    let mut all = flood(&server, &client, SESSIONS).await;
    for _ in 0..500 {
        sleep(Duration::from_millis(10)).await;
        // One segment each beyond it.
        let held = server.stats().unread_bytes as usize;
        assert!(held <= BUDGET + SESSIONS * 1376, "{held}");
    }
    assert!(server.stats().unread_bytes as usize >= BUDGET / 2, "the limit was reached");
    // One who reads gets everything, although the others sleep on.
    let (mut first, _) = all.swap_remove(0);
    let mut got = vec![];
    timeout(Duration::from_secs(60), first.read_to_end(&mut got)).await.expect("its share suffices").unwrap();
    assert!(got == pattern(800_000, 0));
    // And then all do.
    for (stream, writer) in &mut all {
        let mut got = vec![];
        timeout(Duration::from_secs(60), stream.read_to_end(&mut got)).await.unwrap().unwrap();
        assert_eq!(got.len(), 800_000);
        timeout(Duration::from_secs(60), writer).await.unwrap().unwrap();
    }
    assert_eq!(server.stats().unread_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn what_all_sessions_hold_unacknowledged_is_bounded() {
    const BUDGET: usize = 1 << 20;
    const SESSIONS: usize = 20;
    let config =
        KcpConfig::from(SessionConfig::turbo().user_timeout(None).idle_timeout(None).dead_link(1000));
    let net = SimNet::new(LinkConfig::lossy(0.0, Duration::from_millis(10)), 12);
    let (server, client) =
        (endpoint(&net, SERVER, &config), endpoint(&net, CLIENT, &config.send_budget(BUDGET)));
    let mut sessions = vec![];
    for _ in 0..SESSIONS {
        sessions.push((client.connect(addr(SERVER)).await.unwrap(), server.accept().await.unwrap().0));
    }
    net.partition(addr(CLIENT), addr(SERVER));
    for (ours, _) in &mut sessions {
        let write = timeout(Duration::from_secs(1), ours.write_all(&[7; 1_200_000])).await;
        assert!(write.is_err(), "it waits for room: {write:?}");
        let held = client.stats().unacked_bytes as usize;
        assert!(held <= BUDGET + SESSIONS * 1376, "{held}");
    }
    assert!(client.stats().unacked_bytes as usize >= BUDGET / 2, "the limit was reached");
    net.heal();
    for (ours, theirs) in &mut sessions {
        let mut sink = vec![0; 1 << 20];
        ours.write_all(b"!").await.unwrap();
        loop {
            let n = timeout(Duration::from_secs(60), theirs.read(&mut sink)).await.unwrap().unwrap();
            if sink[..n].contains(&b'!') {
                break;
            }
        }
    }
}

/// Every datagram that the socket of an address has been sent, summed: by the network's own count.
#[tokio::test(start_paused = true)]
async fn an_unproven_address_gets_no_more_than_three_times_what_it_sent() {
    for config in [KcpConfig::normal(), KcpConfig::fast(), KcpConfig::turbo()] {
        let net = SimNet::new(LinkConfig::ideal(), 13);
        let server = endpoint(&net, SERVER, &config);
        let victim = net.bind(addr(CLIENT)).unwrap();
        let forged = [
            segment(Command::Push, 99, 0, 0, b"GET / HTTP/1.0\r\n\r\n"),
            segment(Command::Wask, 98, 0, 0, &control(&[(HELLO, &[1])])),
            segment(Command::Wask, 97, 0, 0, b""),
            segment(Command::Push, 96, 5, 0, b"late"),
            segment(Command::Ack, 95, 5, 0, b""),
        ];
        let sent: usize = forged.iter().map(Vec::len).sum();
        for datagram in &forged {
            net.inject(addr(CLIENT), addr(SERVER), datagram);
        }
        // The application answers as much as it can.
        let answerer = tokio::spawn(async move {
            loop {
                let (mut stream, _) = server.accept().await.unwrap();
                tokio::spawn(async move { stream.write_all(&[1; 100_000]).await });
            }
        });
        let mut received = 0;
        let mut take = |_: SocketAddr, run: &mut [u8], _: usize| received += run.len();
        let all = std::future::poll_fn(|cx| {
            use kcp_tokio::DatagramSocket as _;
            while victim.poll_recv(cx, &mut take).is_ready() {}
            std::task::Poll::<()>::Pending
        });
        assert!(timeout(Duration::from_secs(120), all).await.is_err());
        assert!(received > 0 && received <= 3 * sent, "{received} for {sent}");
        answerer.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn only_beginnings_open_a_session_in_whatever_order_they_come() {
    let net = SimNet::new(LinkConfig::ideal(), 17);
    let server = endpoint(&net, SERVER, &KcpConfig::turbo());
    let window = SessionConfig::turbo().recv_window_segments();
    for stranger in [
        segment(Command::Ack, 1, 0, 0, b""),
        segment(Command::Wins, 2, 0, 0, b""),
        segment(Command::Push, 3, window, 0, b"beyond the first window"),
        segment(Command::Push, 4, u32::MAX, 0, b"from the past"),
        segment(Command::Push, 5, 0, 0, b"cut")[..26].to_vec(),
        vec![7; 23],
        vec![],
    ] {
        net.inject(addr(CLIENT), addr(SERVER), &stranger);
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(server.stats().sessions, 0, "{:?}", server.stats());
    // The last that may, then the first: what overtook is not lost, and what is lost is not skipped.
    net.inject(addr(CLIENT), addr(SERVER), &segment(Command::Push, 6, window - 1, 0, b"?"));
    net.inject(addr(CLIENT), addr(SERVER), &segment(Command::Push, 6, 1, 0, b"second"));
    assert!(
        timeout(Duration::from_secs(1), server.accept()).await.is_err(),
        "not before its beginning is there"
    );
    net.inject(addr(CLIENT), addr(SERVER), &segment(Command::Push, 6, 0, 0, b"first "));
    let (mut stream, _) = timeout(Duration::from_secs(1), server.accept()).await.unwrap().unwrap();
    let mut got = [0; 12];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"first second");
    assert_eq!(server.stats().accepted, 1);
}

/// A socket of which every fifth datagram is refused, as a full conntrack table or a firewall does.
#[derive(Debug)]
struct Refusing(std::sync::Arc<kcp_netsim::SimSocket>, std::sync::atomic::AtomicU32);

impl kcp_tokio::DatagramSocket for Refusing {
    fn poll_recv(
        &self,
        cx: &mut std::task::Context<'_>,
        sink: kcp_tokio::Sink<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        self.0.poll_recv(cx, sink)
    }

    fn try_send(&self, to: SocketAddr, run: &[u8], stride: usize) -> std::io::Result<usize> {
        if self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 5 == 4 {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        self.0.try_send(to, run, stride)
    }

    /// One at a time, as a system that stops at the first it refuses does: the refused one is first when it is asked again.
    fn try_send_each(&self, datagrams: &[(SocketAddr, &[u8])]) -> std::io::Result<usize> {
        match datagrams.first() {
            Some((to, datagram)) => self.try_send(*to, datagram, datagram.len()).map(|_| 1),
            None => Ok(0),
        }
    }

    fn poll_send_ready(&self, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        self.0.poll_send_ready(cx)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[tokio::test(start_paused = true)]
async fn a_datagram_that_may_not_be_sent_is_a_lost_one() {
    let net = SimNet::new(LinkConfig::lossy(0.0, Duration::from_millis(10)), 18);
    let config = KcpConfig::turbo();
    let server = endpoint(&net, SERVER, &config);
    let socket = Refusing(net.bind(addr(CLIENT)).unwrap(), 0.into());
    let client = KcpEndpoint::from_socket(std::sync::Arc::new(socket), config).unwrap();
    let mut ours = client.connect(addr(SERVER)).await.unwrap();
    let (mut theirs, _) = server.accept().await.unwrap();
    let data = pattern(300_000, 18);
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        ours.write_all(&sent).await.unwrap();
        ours.shutdown().await.unwrap();
    });
    let mut got = vec![];
    timeout(Duration::from_secs(60), theirs.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(got == data);
    writer.await.unwrap();
    assert!(client.stats().send_errors > 20, "{:?}", client.stats());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_late_leaves_its_successor_alone() {
    let net = SimNet::new(LinkConfig::lossy(0.0, Duration::from_millis(10)), 19);
    let config = KcpConfig::turbo();
    let (server, client) = (endpoint(&net, SERVER, &config), endpoint(&net, CLIENT, &config));
    let mut old = client.connect(addr(SERVER)).await.unwrap();
    let (old_theirs, _) = server.accept().await.unwrap();
    // It lingers: nobody acknowledges what it has written.
    net.partition(addr(CLIENT), addr(SERVER));
    old.write_all(b"never arrives").await.unwrap();
    drop(old);
    net.heal();
    net.set_all(&LinkConfig::lossy(0.0, Duration::from_millis(10)));
    let mut new = client.connect(addr(SERVER)).await.unwrap();
    let (mut new_theirs, _) = server.accept().await.unwrap();
    for round in 0..30u8 {
        new.write_all(&[round]).await.unwrap();
        assert_eq!(new_theirs.read_u8().await.unwrap(), round);
        sleep(Duration::from_secs(1)).await;
    }
    drop(old_theirs);
    new.write_all(b"!").await.unwrap();
    assert_eq!(new_theirs.read_u8().await.unwrap(), b'!');
}
