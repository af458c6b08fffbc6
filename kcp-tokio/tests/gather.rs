//! What many sessions have to send at the same moment, or one has to answer, leaves in few calls and datagrams; nothing is lost
//! or reordered when they are refused.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use kcp_netsim::{LinkConfig, SimNet, SimSocket};
use kcp_tokio::{DatagramSocket, KcpConfig, KcpEndpoint, KcpStream, Route, Sink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 1);

const DELAY: Duration = Duration::from_millis(10);

/// A socket of the emulator that counts calls.
#[derive(Debug)]
struct Counting {
    socket: Arc<SimSocket>,
    /// Of what arrives.
    looks: AtomicUsize,
    calls: AtomicUsize,
    datagrams: AtomicUsize,
}

impl DatagramSocket for Counting {
    fn poll_recv(&self, cx: &mut Context<'_>, sink: Sink<'_>) -> Poll<io::Result<()>> {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.socket.poll_recv(cx, sink)
    }

    fn try_send(&self, to: Route, run: &[u8], stride: usize) -> io::Result<usize> {
        let sent = self.socket.try_send(to, run, stride)?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.datagrams.fetch_add(sent.div_ceil(stride), Ordering::Relaxed);
        Ok(sent)
    }

    fn try_send_each(&self, datagrams: &[(Route, &[u8])]) -> io::Result<usize> {
        let sent = self.socket.try_send_each(datagrams)?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.datagrams.fetch_add(sent, Ordering::Relaxed);
        Ok(sent)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_send_ready(cx)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_run(&self) -> usize {
        self.socket.max_run()
    }
}

fn count(net: &SimNet, at: SocketAddr) -> Arc<Counting> {
    let socket = net.bind(at).unwrap();
    Arc::new(Counting { socket, looks: 0.into(), calls: 0.into(), datagrams: 0.into() })
}

/// Many streams to an echo server, of so many endpoints.
async fn world(
    delay: Duration,
    endpoints: u16,
    streams: usize,
) -> (SimNet, Arc<Counting>, Vec<KcpStream>, Vec<KcpEndpoint>) {
    let net = SimNet::new(LinkConfig { delay, ..LinkConfig::default() }, 1);
    let counting = count(&net, SERVER);
    let server = KcpEndpoint::from_socket(counting.clone(), KcpConfig::turbo()).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                let mut buf = [0; 256];
                while let Ok(n @ 1..) = stream.read(&mut buf).await {
                    stream.write_all(&buf[..n]).await.unwrap();
                }
            });
        }
    });
    let clients: Vec<_> = (0..endpoints)
        .map(|i| {
            let socket = net.bind(([10, 0, 0, 2], 100 + i).into()).unwrap();
            KcpEndpoint::from_socket(socket, KcpConfig::turbo()).unwrap()
        })
        .collect();
    let mut connected = Vec::new();
    for endpoint in clients.iter().cycle().take(streams) {
        connected.push(endpoint.connect(SERVER).await.unwrap());
    }
    // Everybody is accepted once it has said something.
    let connected = trips(connected, 1).await;
    (net, counting, connected, clients)
}

/// All at once, so many times; every byte is compared.
async fn trips(streams: Vec<KcpStream>, trips: u64) -> Vec<KcpStream> {
    let mut all = tokio::task::JoinSet::new();
    for (i, mut stream) in streams.into_iter().enumerate() {
        all.spawn(async move {
            for n in 0..trips {
                let sent: Vec<u8> = (0..64).map(|at| (at * n + i as u64) as u8).collect();
                stream.write_all(&sent).await.unwrap();
                let mut got = [0; 64];
                stream.read_exact(&mut got).await.unwrap();
                assert_eq!(got[..], sent);
            }
            (i, stream)
        });
    }
    let mut streams = all.join_all().await;
    streams.sort_by_key(|(i, _)| *i);
    streams.into_iter().map(|(_, stream)| stream).collect()
}

async fn few_calls(endpoints: u16) {
    let (_net, counting, streams, _clients) = world(DELAY, endpoints, 64).await;
    let before = (counting.calls.load(Ordering::Relaxed), counting.datagrams.load(Ordering::Relaxed));
    trips(streams, 20).await;
    let calls = counting.calls.load(Ordering::Relaxed) - before.0;
    let datagrams = counting.datagrams.load(Ordering::Relaxed) - before.1;
    assert!(datagrams >= 64 * 20, "{datagrams}");
    assert!(calls * 4 < datagrams, "{calls} calls for {datagrams} datagrams");
}

#[tokio::test(start_paused = true)]
async fn sessions_of_one_address_leave_in_trains() {
    few_calls(1).await;
}

#[tokio::test(start_paused = true)]
async fn datagrams_to_many_addresses_leave_in_batches() {
    few_calls(64).await;
}

/// A server that reads 256 bytes at a time and answers each, of which four are there.
#[tokio::test(start_paused = true)]
async fn answers_to_what_arrived_together_leave_in_one_datagram() {
    let (_net, counting, mut streams, _clients) = world(DELAY, 1, 1).await;
    let before = counting.datagrams.load(Ordering::Relaxed);
    let sent: Vec<u8> = (0..1024).map(|at| (at % 251) as u8).collect();
    streams[0].write_all(&sent).await.unwrap();
    let mut got = vec![0; 1024];
    streams[0].read_exact(&mut got).await.unwrap();
    assert_eq!(got, sent);
    assert_eq!(counting.datagrams.load(Ordering::Relaxed) - before, 1);
}

/// Client: hello, token and request, end, acknowledged end. Server: hello, answer, acknowledged end and its own.
#[tokio::test(start_paused = true)]
async fn a_life_of_one_exchange_takes_seven_datagrams() {
    for start in [KcpEndpoint::from_socket, KcpEndpoint::client] {
        let (net, counting, streams, _clients) = world(DELAY, 1, 1).await;
        trips(streams, 1).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let client = count(&net, ([10, 0, 0, 3], 1).into());
        let endpoint = start(client.clone(), KcpConfig::turbo()).unwrap();
        let before = counting.datagrams.load(Ordering::Relaxed);
        // A task like any other: the first one's turn comes late.
        let life = tokio::spawn(async move {
            let mut stream = endpoint.connect(SERVER).await.unwrap();
            stream.write_all(b"request").await.unwrap();
            let mut got = [0; 7];
            stream.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"request");
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut got).await.unwrap(), 0);
            drop(stream);
            endpoint
        });
        let _endpoint = life.await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let datagrams =
            (client.datagrams.load(Ordering::Relaxed), counting.datagrams.load(Ordering::Relaxed) - before);
        assert_eq!(datagrams, (4, 3));
    }
}

/// One of several sockets on a thread, that reads: a turn for a message, which looks twice, and no other until an acknowledgement is due.
#[tokio::test(start_paused = true)]
async fn a_client_among_others_takes_one_turn_for_a_message() {
    let (net, _counting, _streams, _clients) = world(DELAY, 1, 1).await;
    let client = count(&net, ([10, 0, 0, 3], 1).into());
    let endpoint = KcpEndpoint::client(client.clone(), KcpConfig::turbo()).unwrap();
    let (mut read, mut write) = endpoint.connect(SERVER).await.unwrap().into_split();
    let reader = tokio::spawn(async move {
        let mut got = [0; 100 * 64];
        read.read_exact(&mut got).await.unwrap();
        assert!(got.chunks(64).zip(0..).all(|(message, n)| message == [n; 64]));
    });
    let before = client.looks.load(Ordering::Relaxed);
    for n in 0..100 {
        write.write_all(&[n; 64]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reader.await.unwrap();
    let looks = client.looks.load(Ordering::Relaxed) - before;
    // 350 if what follows a message had a turn of its own.
    assert!(looks <= 260, "{looks}");
}

/// A server that speaks first is not kept waiting by a client that has nothing to say.
#[tokio::test(start_paused = true)]
async fn a_silent_client_is_proven_within_a_round_trip() {
    let net = SimNet::new(LinkConfig { delay: DELAY, ..LinkConfig::default() }, 1);
    let server = KcpEndpoint::from_socket(net.bind(SERVER).unwrap(), KcpConfig::turbo()).unwrap();
    let client =
        KcpEndpoint::from_socket(net.bind(([10, 0, 0, 2], 1).into()).unwrap(), KcpConfig::turbo()).unwrap();
    let accepted = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let at = tokio::time::Instant::now();
        stream.write_all(b"welcome").await.unwrap();
        (at, stream)
    });
    let begun = tokio::time::Instant::now();
    let mut stream = client.connect(SERVER).await.unwrap();
    let mut got = [0; 7];
    stream.read_exact(&mut got).await.unwrap();
    let (at, _stream) = accepted.await.unwrap();
    assert_eq!((at - begun, begun.elapsed()), (DELAY * 3, DELAY * 4));
}

/// Its acknowledgement could wait for 2.5 ms, but rides at once.
#[tokio::test(start_paused = true)]
async fn who_answers_leaves_no_deadline_behind() {
    let (_net, counting, streams, _clients) = world(Duration::from_millis(3), 1, 1).await;
    let before = counting.looks.load(Ordering::Relaxed);
    trips(streams, 100).await;
    let looks = counting.looks.load(Ordering::Relaxed) - before;
    // It, nothing more, and nothing more when the answer has left; and a timeout of 30 ms now and then.
    assert!(looks <= 100 * 3 + 100 * 6 / 20, "{looks}");
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_full_in_the_middle_of_a_train_loses_nothing() {
    for endpoints in [1, 16] {
        let (net, counting, streams, clients) = world(DELAY, endpoints, 48).await;
        let sent = |clients: &[KcpEndpoint]| -> u64 {
            let sessions = clients.iter().flat_map(KcpEndpoint::sessions);
            sessions.map(|session| session.stats().retransmits).sum()
        };
        let retransmits = sent(&clients);
        let budgets = tokio::spawn(async move {
            for room in (1..40).cycle() {
                net.set_send_budget(SERVER, Some(room));
                tokio::time::sleep(Duration::from_micros(700)).await;
            }
        });
        trips(streams, 30).await;
        budgets.abort();
        assert_eq!(sent(&clients), retransmits, "nothing was dropped, so nothing was sent again");
        assert!(counting.datagrams.load(Ordering::Relaxed) >= 48 * 30);
    }
}
