//! Churn over real loopback sockets: connect, transfer, abort, drop, move, restart of clients and of a server, for as long as
//! wanted (`.ci/soak SECONDS`). Memory stays flat, nothing fails that was not meant to, nothing is left.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kcp_tests::pattern;
use kcp_tokio::{KcpConfig, KcpEndpoint, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

/// Sockets that the clients share.
const ENDPOINTS: usize = 16;
/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(60);
/// Memory at the end against memory after the warm-up: the allocator's noise.
const NOISE_KIB: u64 = 48 * 1024;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn config() -> KcpConfig {
    KcpConfig::from(SessionConfig::turbo().send_window(64).recv_window(64)).socket_buffer(4 << 20)
}

/// Resident memory in KiB.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

#[derive(Default)]
struct Counts {
    connects: AtomicU64,
    bytes: AtomicU64,
    ends: [AtomicU64; 3],
    /// Errors of sessions whose client or server was restarted meanwhile.
    intended: AtomicU64,
    moves: AtomicU64,
    restarts: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// An endpoint that is replaced now and then, and how often it was.
struct Place {
    endpoint: Mutex<Arc<KcpEndpoint>>,
    generation: AtomicU64,
}

impl Place {
    async fn new(addr: SocketAddr) -> Self {
        let endpoint = KcpEndpoint::bind(addr, config()).await.unwrap();
        Self { endpoint: Mutex::new(Arc::new(endpoint)), generation: AtomicU64::new(0) }
    }

    fn now(&self) -> (Arc<KcpEndpoint>, u64) {
        (self.endpoint.lock().unwrap().clone(), self.generation.load(Ordering::SeqCst))
    }

    fn replace(&self, by: KcpEndpoint) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        *self.endpoint.lock().unwrap() = Arc::new(by);
    }
}

async fn echo(stream: KcpStream) {
    let (mut reader, mut writer) = stream.into_split();
    let mut buf = vec![0; 4096];
    while let Ok(n @ 1..) = reader.read(&mut buf).await {
        if writer.write_all(&buf[..n]).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

async fn serve(place: Arc<Place>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        let (endpoint, _) = place.now();
        match timeout(Duration::from_secs(1), endpoint.accept()).await {
            Ok(Ok((stream, _))) => drop(tokio::spawn(echo(stream))),
            Ok(Err(_)) => sleep(Duration::from_millis(5)).await,
            Err(_) => {}
        }
    }
}

/// One session, to one of its ends.
async fn session(client: &KcpEndpoint, server: SocketAddr, seed: u64, counts: &Counts) -> io::Result<()> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut stream = client.connect(server).await?;
    count(&counts.connects);
    let data = pattern(rng.usize(1..16_384), seed);
    for part in data.chunks(4096) {
        stream.write_all(part).await?;
        let mut back = vec![0; part.len()];
        stream.read_exact(&mut back).await?;
        assert!(back == part, "seed {seed}: other bytes came back");
        counts.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
        sleep(Duration::from_millis(rng.u64(0..300))).await;
    }
    let way = rng.usize(0..3);
    match way {
        0 => {
            stream.shutdown().await?;
            let n = stream.read(&mut [0; 16]).await?;
            assert_eq!(n, 0, "seed {seed}: more than was sent");
        }
        1 => drop(stream),
        _ => stream.abort(),
    }
    count(&counts.ends[way]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for .ci/soak"]
async fn soak() {
    let seconds = number("KCP_SOAK_SECONDS", 20);
    let slots = number("KCP_SOAK_SESSIONS", 2000);
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let over = Arc::new(AtomicBool::new(false));
    let counts = Arc::new(Counts::default());
    // The second server is restarted again and again.
    let servers = [Arc::new(Place::new(any).await), Arc::new(Place::new(any).await)];
    let addrs = servers.each_ref().map(|server| server.now().0.local_addr().unwrap());
    let mut clients = Vec::new();
    for _ in 0..ENDPOINTS {
        clients.push(Arc::new(Place::new(any).await));
    }
    let mut tasks = tokio::task::JoinSet::new();
    // They accept until the last client has gone.
    let empty = Arc::new(AtomicBool::new(false));
    let mut serving = tokio::task::JoinSet::new();
    for server in &servers {
        serving.spawn(serve(server.clone(), empty.clone()));
    }
    for slot in 0..slots {
        let (client, servers) = (clients[slot as usize % ENDPOINTS].clone(), servers.clone());
        let (over, counts) = (over.clone(), counts.clone());
        tasks.spawn(async move {
            let mut n = 0u64;
            sleep(Duration::from_millis(slot)).await;
            while !over.load(Ordering::Relaxed) {
                n += 1;
                let seed = slot << 32 | n;
                let which = usize::from(seed % 4 == 3);
                let ((endpoint, generation), (_, lives)) = (client.now(), servers[which].now());
                let result = timeout(LIMIT, session(&endpoint, addrs[which], seed, &counts)).await;
                let Err(error) = result.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) else {
                    continue;
                };
                // Odd while a server is being restarted: nobody is there.
                let down = which == 1 && lives % 2 == 1;
                let replaced = down || client.now().1 != generation || servers[which].now().1 != lives;
                assert!(replaced, "seed {seed}: {error}: {:?}", error.kind());
                count(&counts.intended);
                sleep(Duration::from_millis(100)).await;
            }
        });
    }
    let began = Instant::now();
    // Tombstones of two minutes are in the tables by then, and the tables have grown for them.
    let warm = Duration::from_secs((seconds / 2).min(300));
    let (mut after_warmup, mut round) = (0, 0usize);
    while began.elapsed() < Duration::from_secs(seconds) {
        sleep(Duration::from_millis(500)).await;
        assert!(tasks.try_join_next().is_none_or(|done| done.is_ok()), "a task has failed");
        if after_warmup == 0 && began.elapsed() >= warm {
            after_warmup = rss();
        }
        round += 1;
        let place = &clients[round % ENDPOINTS];
        if round % 3 == 0 {
            place.now().0.rebind(UdpSocket::bind(any).unwrap()).await.unwrap();
            count(&counts.moves);
        }
        if round % 10 == 0 {
            // A client's process ends, and another begins.
            place.replace(KcpEndpoint::bind(any, config()).await.unwrap());
            count(&counts.restarts);
        }
        if round % 12 == 0 {
            let (old, _) = servers[1].now();
            servers[1].generation.fetch_add(1, Ordering::SeqCst);
            old.close();
            old.wait_idle().await;
            drop(old);
            // Bound beside the old one until that is gone.
            let next = loop {
                *servers[1].endpoint.lock().unwrap() = servers[0].now().0;
                match KcpEndpoint::bind(addrs[1], config()).await {
                    Ok(next) => break next,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            };
            servers[1].replace(next);
            count(&counts.restarts);
        }
    }
    let at_end = rss();
    over.store(true, Ordering::Relaxed);
    while let Some(done) = timeout(LIMIT, tasks.join_next()).await.expect("a task goes on") {
        done.unwrap();
    }
    empty.store(true, Ordering::Relaxed);
    while let Some(done) = timeout(LIMIT, serving.join_next()).await.expect("a server goes on") {
        done.unwrap();
    }
    for place in clients.iter().chain(&servers) {
        let (endpoint, _) = place.now();
        endpoint.stop_accepting();
        timeout(LIMIT, endpoint.wait_idle()).await.expect("sessions are left");
        assert_eq!(endpoint.stats().sessions, 0);
    }
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{seconds} s, {slots} at once: {} sessions ({} shut down, {} dropped, {} aborted, {} cut by restarts), {} bytes \
         echoed, {} moves, {} restarts; {} KiB after {} s, {} KiB at the end",
        get(&counts.connects),
        get(&counts.ends[0]),
        get(&counts.ends[1]),
        get(&counts.ends[2]),
        get(&counts.intended),
        get(&counts.bytes),
        get(&counts.moves),
        get(&counts.restarts),
        after_warmup,
        warm.as_secs(),
        at_end,
    );
    assert!(get(&counts.connects) >= slots, "it moved");
    assert!(at_end <= after_warmup + after_warmup / 10 + NOISE_KIB, "memory grows");
}
