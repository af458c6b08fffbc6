//! Attackers and greedy peers against the async stack on an in-memory network: what who is not on the path can do to a session, with its
//! conv and without, and what not; what all sessions hold together is bounded. docs/RELIABILITY.md says the same in words.

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

/// A session that stands: both addresses proven, one segment each way acknowledged.
struct Standing {
    net: SimNet,
    server: KcpEndpoint,
    client: KcpEndpoint,
    ours: KcpStream,
    theirs: KcpStream,
    conv: u32,
}

async fn standing(config: SessionConfig) -> Standing {
    let config = KcpConfig::from(config);
    let net = SimNet::new(LinkConfig::lossy(0.0, Duration::from_millis(20)), 7);
    let (server, client) = (endpoint(&net, SERVER, &config), endpoint(&net, CLIENT, &config));
    let mut ours = client.connect(addr(SERVER)).await.unwrap();
    let (mut theirs, _) = server.accept().await.unwrap();
    ours.write_all(b"hello").await.unwrap();
    theirs.read_exact(&mut [0; 5]).await.unwrap();
    theirs.write_all(b"there").await.unwrap();
    ours.read_exact(&mut [0; 5]).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let conv = theirs.conv();
    Standing { net, server, client, ours, theirs, conv }
}

impl Standing {
    /// What leaves the client is lost, or not any more.
    fn lose(&self, loss: f64) {
        self.net.set_link(addr(CLIENT), addr(SERVER), LinkConfig::lossy(loss, Duration::from_millis(20)));
    }

    fn to_client(&self, forged: &[u8]) {
        self.net.inject(addr(SERVER), addr(CLIENT), forged);
    }

    fn to_server(&self, forged: &[u8]) {
        self.net.inject(addr(CLIENT), addr(SERVER), forged);
    }
}

/// A segment with every field that a guess may fill.
fn forged(cmd: Command, conv: u32, frg: u8, wnd: u16, sn: u32, una: u32, payload: &[u8]) -> Vec<u8> {
    let (sn, una, len) = (Seq::new(sn), Seq::new(una), u32::try_from(payload.len()).unwrap());
    [Header { conv, cmd, frg, wnd, ts: 77, sn, una, len }.encode().as_slice(), payload].concat()
}

/// Everything that acts where the conv is right, of a session about which the attacker knows all but tokens and timestamps.
fn acting(conv: u32, sent: u32) -> Vec<Vec<u8>> {
    let mut all = vec![];
    for una in 1..=sent {
        all.push(forged(Command::Wins, conv, 0, 128, 0, una, b""));
        all.push(forged(Command::Wins, conv, 0, 0, 0, una, b""));
        all.push(forged(Command::Ack, conv, 0, 128, una, 0, &[0; 8]));
    }
    for frg in 0..4 {
        all.push(forged(Command::Push, conv, frg, 128, sent, 0, b"forged"));
    }
    all
}

/// How long a conversation takes, and what the client's timing comes to, in the presence of forgeries.
async fn conversation(stream: bool, forge: impl Fn(u32) -> Vec<Vec<u8>>) -> (Duration, Option<Duration>) {
    let mut all = standing(SessionConfig::turbo().stream(stream)).await;
    let began = tokio::time::Instant::now();
    for round in 1..50u8 {
        for datagram in forge(all.conv) {
            all.to_client(&datagram);
            all.to_server(&datagram);
        }
        all.ours.write_all(&[round; 1000]).await.unwrap();
        let mut got = [0; 1000];
        all.theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round; 1000]);
        all.theirs.write_all(&got).await.unwrap();
        all.ours.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [round; 1000]);
    }
    (began.elapsed(), all.ours.stats().srtt)
}

#[tokio::test(start_paused = true)]
async fn without_the_conv_forgeries_cost_nothing_at_all() {
    for stream in [true, false] {
        let alone = conversation(stream, |_| vec![]).await;
        let attacked = conversation(stream, |conv| {
            let others = [conv ^ 1, conv.swap_bytes(), 1, 0].into_iter().filter(|&other| other != conv);
            others.flat_map(|other| acting(other, 8)).collect()
        });
        assert_eq!(attacked.await, alone);
    }
}

/// With the conv: what is in flight counts as acknowledged, by `una` or by ACKs with invented timestamps. What the peer then lacks it
/// lacks for ever; both are told by an error, and neither of an end.
#[tokio::test(start_paused = true)]
async fn a_guessed_conv_acknowledges_what_has_not_arrived() {
    for by_una in [true, false] {
        let soon = Some(Duration::from_secs(5));
        let mut all = standing(SessionConfig::turbo().user_timeout(soon)).await;
        let before = all.ours.stats();
        all.lose(1.0);
        all.ours.write_all(&[7; 4000]).await.unwrap();
        let stats = all.ours.stats();
        let in_flight = stats.in_flight;
        assert!(in_flight > 1 && all.client.stats().unacked_bytes == 4000, "{stats:?}");
        // What was never sent is refused, and everything else in that datagram with it.
        all.to_client(&forged(Command::Wins, all.conv, 0, 128, 0, in_flight + 2, b""));
        all.to_client(&forged(Command::Ack, all.conv, 0, 128, in_flight + 1, 0, b""));
        sleep(Duration::from_millis(30)).await;
        let stats = all.ours.stats();
        assert_eq!(
            (stats.rejected_una, stats.ignored_acks),
            (before.rejected_una + 1, before.ignored_acks + 1)
        );
        assert_eq!(all.client.stats().unacked_bytes, 4000);
        if by_una {
            all.to_client(&forged(Command::Wins, all.conv, 0, 128, 0, in_flight + 1, b""));
        } else {
            for sn in 1..=in_flight {
                all.to_client(&forged(Command::Ack, all.conv, 0, 128, sn, 0, b""));
            }
        }
        sleep(Duration::from_millis(30)).await;
        assert_eq!(all.client.stats().unacked_bytes, 0, "it can");
        let stats = all.ours.stats();
        assert_eq!(
            (stats.srtt, stats.rttvar),
            (before.srtt, before.rttvar),
            "an invented timestamp measures nothing"
        );
        all.lose(0.0);
        let written = all.ours.write_all(b"more").await;
        written.unwrap();
        let read = tokio::spawn(async move {
            let mut got = [0; 8];
            (all.theirs.read(&mut got).await, got)
        });
        let error = timeout(Duration::from_secs(20), all.ours.read(&mut [0; 8])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
        let (read, got) = timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
        let error = read.expect_err("neither an end nor what comes after the hole");
        assert_eq!((error.kind(), got), (std::io::ErrorKind::ConnectionReset, [0; 8]), "{error}");
    }
}

/// With the conv: a window of 0 is believed until the next honest datagram, which a probe brings.
#[tokio::test(start_paused = true)]
async fn a_guessed_conv_closes_the_window_until_the_peer_is_heard() {
    let mut all = standing(SessionConfig::turbo()).await;
    // From before what has been acknowledged: not believed.
    all.to_client(&forged(Command::Wins, all.conv, 0, 0, 0, 0, b""));
    sleep(Duration::from_millis(30)).await;
    assert!(all.ours.stats().peer_window > 0);
    all.to_client(&forged(Command::Wins, all.conv, 0, 0, 0, 1, b""));
    sleep(Duration::from_millis(30)).await;
    assert_eq!(all.ours.stats().peer_window, 0, "it can");
    let began = tokio::time::Instant::now();
    all.ours.write_all(&[7; 30_000]).await.unwrap();
    let mut got = vec![0; 30_000];
    timeout(Duration::from_secs(2), all.theirs.read_exact(&mut got))
        .await
        .expect("a probe opens it")
        .unwrap();
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
    assert_eq!(got, [7; 30_000]);
}

/// With the conv: data of one segment per right sequence number, and unreliable datagrams. Where messages have fragments a wrong number
/// breaks the chain, which ends the session.
#[tokio::test(start_paused = true)]
async fn a_guessed_conv_puts_in_data_and_breaks_messages() {
    for stream in [true, false] {
        let mut all = standing(SessionConfig::turbo().stream(stream)).await;
        let mut payload = vec![0xE1, 9, 6, 0];
        payload.extend_from_slice(b"forged");
        all.to_server(&forged(Command::Wins, all.conv, 0, 128, 1, 0, &payload));
        assert_eq!(&all.theirs.recv_datagram().await.unwrap()[..], b"forged");
        all.to_server(&forged(Command::Push, all.conv, 0, 128, 1, 0, b"forged"));
        let mut got = [0; 6];
        all.theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"forged");
        // The real segment of that number is a duplicate now.
        all.ours.write_all(b"honest").await.unwrap();
        assert!(
            timeout(Duration::from_secs(2), all.theirs.read(&mut got)).await.is_err(),
            "it has been replaced"
        );
        all.to_server(&forged(Command::Push, all.conv, 2, 128, 2, 0, b"first of three"));
        sleep(Duration::from_millis(100)).await;
        all.ours.write_all(b"lost").await.unwrap();
        all.ours.write_all(b"whole").await.unwrap();
        let mut got = [0; 19];
        let read = timeout(Duration::from_secs(2), all.theirs.read_exact(&mut got)).await.unwrap();
        if stream {
            read.unwrap();
            assert_eq!(&got, b"first of threewhole", "a stream has no chains");
        } else {
            assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
            let told = all.ours.read(&mut got).await.unwrap_err();
            assert_eq!(told.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

/// With the conv: nothing is beyond the end that the peer has told, so whoever puts something there ends the session, but not the stream
/// as if that were all.
#[tokio::test(start_paused = true)]
async fn a_guessed_conv_contradicts_an_end_but_forges_none() {
    let mut all = standing(SessionConfig::turbo()).await;
    for token in 0..100 {
        for (kind, values) in [(FIN, vec![1, token]), (RST, vec![token]), (TOKEN, vec![token])] {
            all.to_server(&forged(Command::Wins, all.conv, 0, 128, 1, 0, &control(&[(kind, &values)])));
        }
    }
    assert!(timeout(Duration::from_secs(1), all.theirs.read(&mut [0; 8])).await.is_err(), "it cannot");
    all.ours.write_all(b"end").await.unwrap();
    all.ours.shutdown().await.unwrap();
    let mut got = [0; 3];
    all.theirs.read_exact(&mut got).await.unwrap();
    assert_eq!(all.theirs.read(&mut [0; 8]).await.unwrap(), 0);
    all.to_server(&forged(Command::Push, all.conv, 0, 128, 2, 0, b"beyond"));
    sleep(Duration::from_millis(100)).await;
    assert_eq!(all.theirs.write(b"answer").await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let told = all.ours.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(told.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!((all.server.stats().moved, all.client.stats().moved), (0, 0));
}

/// With the conv: eight wrong resets, and for ten seconds right ones are not believed either.
#[tokio::test(start_paused = true)]
async fn a_guessed_conv_delays_what_a_restart_tells() {
    let mut all = standing(SessionConfig::turbo()).await;
    // Killed: it says nothing, nor is there anybody to say it.
    all.net.partition(addr(CLIENT), addr(SERVER));
    drop((all.theirs, all.server));
    sleep(Duration::from_secs(11)).await;
    all.net.heal();
    let _server = endpoint(&all.net, SERVER, &KcpConfig::turbo());
    for guess in 0..8 {
        let guess = control(&[(RST, &[guess])]);
        all.net.inject(addr(SERVER), addr(CLIENT), &forged(Command::Wins, all.conv, 0, 128, 1, 1, &guess));
    }
    sleep(Duration::from_millis(30)).await;
    let began = tokio::time::Instant::now();
    all.ours.write_all(b"are you still there?").await.unwrap();
    let error = timeout(Duration::from_secs(30), all.ours.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
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

/// Whatever strangers send, from as many addresses as they like: sessions that have no beginning are the pool's, those that look whole
/// wait to be accepted, and both are bounded, as is what all of them hold together.
#[tokio::test(start_paused = true)]
async fn strangers_use_no_more_memory_than_the_pool_and_the_backlog() {
    const BUDGET: usize = 256 * 1024;
    const POOL: usize = 100;
    const BACKLOG: usize = 50;
    let config = KcpConfig::turbo().half_open(POOL).backlog(BACKLOG).recv_budget(BUDGET);
    let net = SimNet::new(LinkConfig::ideal(), 14);
    let server = endpoint(&net, SERVER, &config);
    let mut most = (0, 0, 0);
    for i in 0..5_000u32 {
        let [_, _, a, b] = i.to_be_bytes();
        // At first nobody sends a first segment: who may not wait to be accepted opens nothing any more.
        for sn in u32::from(i < 2_500)..8 {
            let datagram = segment(Command::Push, i + 1, sn, 0, &[7; 1300]);
            net.inject(([10, 1 + a, b, 7], 9).into(), addr(SERVER), &datagram);
        }
        if i % 10 == 0 {
            sleep(Duration::from_millis(1)).await;
            let stats = server.stats();
            let [half_open, sessions, held] =
                [stats.half_open, stats.sessions, stats.unread_bytes].map(|n| n as usize);
            assert!(half_open <= POOL && sessions <= POOL + BACKLOG, "{stats:?}");
            // One segment of each is let in whatever the budget.
            assert!(held <= BUDGET + sessions * 1376, "{stats:?}");
            most = (most.0.max(half_open), most.1.max(sessions - half_open), most.2.max(held));
        }
    }
    assert!(most.0 == POOL && most.1 == BACKLOG && most.2 >= BUDGET / 2, "the limits were reached: {most:?}");
    // The first are forgotten after 10 s, the others with their idle timeout, but for what they have left to read.
    sleep(Duration::from_secs(11)).await;
    assert_eq!(server.stats().half_open, 0);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(server.stats().sessions, 0);
    assert!(server.stats().unread_bytes as usize <= BACKLOG * 8 * 1300, "{:?}", server.stats());
    server.stop_accepting();
    assert_eq!(server.stats().unread_bytes, 0, "{:?}", server.stats());
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
        let mut take = |_: kcp_tokio::Route, run: &mut [u8], _: usize| received += run.len();
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

    fn try_send(&self, to: kcp_tokio::Route, run: &[u8], stride: usize) -> std::io::Result<usize> {
        if self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 5 == 4 {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        self.0.try_send(to, run, stride)
    }

    /// One at a time, as a system that stops at the first it refuses does: the refused one is first when it is asked again.
    fn try_send_each(&self, datagrams: &[(kcp_tokio::Route, &[u8])]) -> std::io::Result<usize> {
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
