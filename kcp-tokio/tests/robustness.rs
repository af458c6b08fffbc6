//! What an application may rely on: last bytes acknowledged after a drop, no lost wakeups, errors that end nothing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use kcp_tokio::{
    DatagramSocket, KcpConfig, KcpEndpoint, KcpListener, KcpStream, NoDelay, Route, SessionConfig, Sink,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Far beyond what any of these takes; a hang fails instead of blocking the run.
const LIMIT: Duration = Duration::from_secs(60);

async fn pair(config: KcpConfig) -> (KcpStream, KcpStream, KcpListener) {
    let listener = KcpListener::bind_with("127.0.0.1:0", config.clone()).await.unwrap();
    let client = KcpStream::connect_with(listener.local_addr().unwrap(), config).await.unwrap();
    let (server, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    (client, server, listener)
}

/// A socket whose every receive goes wrong in the same way.
#[derive(Debug)]
struct BrokenSocket {
    raw_error: i32,
    receives: AtomicUsize,
}

impl DatagramSocket for BrokenSocket {
    fn poll_recv(&self, _: &mut Context<'_>, _: Sink<'_>) -> Poll<io::Result<()>> {
        if self.receives.fetch_add(1, Ordering::Relaxed) > 100_000 {
            return Poll::Pending;
        }
        Poll::Ready(Err(io::Error::from_raw_os_error(self.raw_error)))
    }

    fn try_send(&self, _: Route, run: &[u8], _: usize) -> io::Result<usize> {
        Ok(run.len())
    }

    fn poll_send_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 1).into())
    }
}

/// One end of an in-memory wire without delay.
#[derive(Debug, Default)]
struct Wire {
    arrived: Mutex<(VecDeque<Vec<u8>>, Option<Waker>)>,
}

#[derive(Debug)]
struct WireSocket {
    addr: SocketAddr,
    peer: SocketAddr,
    here: Arc<Wire>,
    there: Arc<Wire>,
    /// What this end sends is lost while it is not 0.
    lose: Arc<AtomicUsize>,
}

impl DatagramSocket for WireSocket {
    fn poll_recv(&self, cx: &mut Context<'_>, sink: Sink<'_>) -> Poll<io::Result<()>> {
        let mut arrived = self.here.arrived.lock().unwrap();
        if arrived.0.is_empty() {
            arrived.1 = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut datagrams = std::mem::take(&mut arrived.0);
        drop(arrived);
        for datagram in &mut datagrams {
            let stride = datagram.len();
            sink(self.peer.into(), datagram, stride);
        }
        Poll::Ready(Ok(()))
    }

    fn try_send(&self, _: Route, run: &[u8], stride: usize) -> io::Result<usize> {
        if self.lose.load(Ordering::Relaxed) == 0 {
            let mut arrived = self.there.arrived.lock().unwrap();
            arrived.0.extend(run.chunks(stride).map(<[u8]>::to_vec));
            if let Some(waker) = arrived.1.take() {
                drop(arrived);
                waker.wake();
            }
        }
        Ok(run.len())
    }

    fn poll_send_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// Two endpoints on a wire, and the switch that loses what the second one sends.
fn wire(config: &KcpConfig) -> (KcpEndpoint, KcpEndpoint, Arc<AtomicUsize>) {
    let (a, b) = (Arc::new(Wire::default()), Arc::new(Wire::default()));
    let addr = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let lose = Arc::new(AtomicUsize::new(0));
    let client =
        WireSocket { addr: addr(1), peer: addr(2), here: a.clone(), there: b.clone(), lose: Arc::default() };
    let server = WireSocket { addr: addr(2), peer: addr(1), here: b, there: a, lose: lose.clone() };
    let start = |socket| KcpEndpoint::from_socket(Arc::new(socket), config.clone()).unwrap();
    (start(client), start(server), lose)
}

/// A peer's first datagram, as a client sends it that leaves the conv to the server.
fn push(conv: u32, sn: u32, payload: &[u8]) -> Vec<u8> {
    let mut datagram = conv.to_le_bytes().to_vec();
    datagram.extend([81, 0]);
    datagram.extend(256_u16.to_le_bytes());
    datagram.extend(7_u32.to_le_bytes());
    datagram.extend(sn.to_le_bytes());
    datagram.extend(0_u32.to_le_bytes());
    datagram.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
    datagram.extend(payload);
    datagram
}

#[tokio::test]
async fn conv_zero_gets_one_stable_conv() {
    let listener = KcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    peer.connect(listener.local_addr().unwrap()).await.unwrap();
    for _ in 0..5 {
        peer.send(&push(0, 0, b"first")).await.unwrap();
    }
    let (mut server, from) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    assert_eq!(from, peer.local_addr().unwrap());
    let mut got = [0; 5];
    timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(&got, b"first");
    let mut answer = [0; 1500];
    let n = timeout(LIMIT, peer.recv(&mut answer)).await.unwrap().unwrap();
    assert!(n >= 24);
    let conv = u32::from_le_bytes(answer[..4].try_into().unwrap());
    assert_eq!(conv, server.conv());
    assert_ne!(conv, 0);
    // Under the conv it was told, it is still the same session. The segments cut before keep conv 0, and may share a
    // datagram with newer ones.
    peer.send(&push(conv, 1, b"second")).await.unwrap();
    let mixed = [push(conv, 3, b"fourth"), push(0, 2, b"third")].concat();
    peer.send(&mixed).await.unwrap();
    let mut got = [0; 17];
    timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(&got, b"secondthirdfourth");
    let stats = listener.stats();
    assert_eq!((stats.accepted, stats.sessions), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_at_once_still_acknowledges() {
    // Acknowledgements wait up to this long, so the reader is gone before one is due.
    let config = KcpConfig::from(
        SessionConfig::fast().nodelay(NoDelay { interval: Duration::from_secs(1), ..NoDelay::FAST }),
    );
    let (a, b, _) = wire(&config);
    let (client, server) = tokio::join!(a.connect(b.local_addr().unwrap()), b.accept());
    let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
    client.write_all(b"the last request").await.unwrap();
    let mut got = [0; 16];
    server.read_exact(&mut got).await.unwrap();
    drop(server);
    // Every byte arrived, so it is no failure.
    client.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_last_acknowledgement_is_repeated_after_the_end() {
    let config = KcpConfig::from(SessionConfig::turbo().linger(Duration::from_secs(1)));
    let (a, b, lose) = wire(&config);
    let (client, server) = tokio::join!(a.connect(b.local_addr().unwrap()), b.accept());
    let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
    lose.store(1, Ordering::Relaxed);
    client.write_all(b"the last request").await.unwrap();
    let mut got = [0; 16];
    server.read_exact(&mut got).await.unwrap();
    drop(server);
    // Long enough for the server's session to be gone.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(b.stats().sessions, 0);
    lose.store(0, Ordering::Relaxed);
    client.shutdown().await.unwrap();
    assert_eq!(b.stats().accepted, 1, "no ghost");
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_fit_waits_without_spinning() {
    let session = SessionConfig::turbo().stream(false).send_buffer(3000).send_window(2);
    let (a, b, lose) = wire(&session.into());
    let (client, _server) = tokio::join!(a.connect(b.local_addr().unwrap()), b.accept());
    let client = client.unwrap();
    // No acknowledgement comes back: two segments are in flight, the third message stays in the buffer.
    lose.store(1, Ordering::Relaxed);
    for _ in 0..4 {
        client.send_msg(Bytes::from(vec![1; 1300])).await.unwrap();
    }
    let wakes = Arc::new(Wakes::default());
    let mut waiting = std::pin::pin!(client.send_msg(Bytes::from(vec![2; 1300])));
    for _ in 0..3 {
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&wakes.clone().into())).is_pending());
    }
    // There is room, but not for this one.
    assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    lose.store(0, Ordering::Relaxed);
    timeout(LIMIT, waiting).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn several_tasks_send_on_one_stream() {
    let session = SessionConfig::turbo().stream(false).send_buffer(3000).send_window(2).recv_window(2);
    let (a, b, _) = wire(&session.into());
    let (client, server) = tokio::join!(a.connect(b.local_addr().unwrap()), b.accept());
    let (client, (server, _)) = (Arc::new(client.unwrap()), server.unwrap());
    let senders: Vec<_> = (0..4_u8)
        .map(|sender| {
            let client = client.clone();
            tokio::spawn(async move {
                for i in 0..50_u8 {
                    client.send_msg(Bytes::from(vec![sender, i])).await.unwrap();
                    client.send_msg(Bytes::from(vec![sender; 1300])).await.unwrap();
                }
            })
        })
        .collect();
    let mut next = [0_u8; 4];
    for _ in 0..400 {
        let message = timeout(LIMIT, server.recv_msg()).await.expect("a sender was never woken").unwrap();
        if let [sender, i] = message[..] {
            assert_eq!(i, next[usize::from(sender)]);
            next[usize::from(sender)] += 1;
        }
    }
    assert_eq!(next, [50; 4]);
    for sender in senders {
        timeout(LIMIT, sender).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_receive_error_that_stays_does_not_spin() {
    // EIO: nothing that says that the socket is gone, but it comes back every time.
    let socket = Arc::new(BrokenSocket { raw_error: 5, receives: AtomicUsize::new(0) });
    let endpoint = KcpEndpoint::from_socket(socket.clone(), KcpConfig::default()).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let receives = socket.receives.load(Ordering::Relaxed);
    assert!((1..10_000).contains(&receives), "{receives} receives in a second");
    drop(endpoint);
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn a_socket_that_is_gone_ends_accept_and_streams() {
    // EBADF.
    let socket = Arc::new(BrokenSocket { raw_error: 9, receives: AtomicUsize::new(0) });
    let endpoint = KcpEndpoint::from_socket(socket, KcpConfig::default()).unwrap();
    let error = timeout(LIMIT, endpoint.accept()).await.expect("accept hangs").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    let error = endpoint.connect((Ipv4Addr::LOCALHOST, 9).into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
}

#[test]
fn what_arrived_before_the_runtime_went_is_delivered_before_the_error() {
    let outer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let inner = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (client, mut server, listener) = inner.block_on(async {
        let (mut client, server, listener) = pair(KcpConfig::turbo()).await;
        client.write_all(b"arrived").await.unwrap();
        server.readable().await.unwrap();
        (client, server, listener)
    });
    inner.shutdown_background();
    outer.block_on(async {
        let mut got = [0; 7];
        timeout(LIMIT, server.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(&got, b"arrived");
        let error = timeout(LIMIT, server.read(&mut got)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
    });
    drop((client, listener));
}
