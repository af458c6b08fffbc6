//! Churn over real loopback sockets: connect, transfer, abort, drop, move, processes that are killed, a server that leaves in good
//! order, for as long as wanted (`.ci/soak SECONDS`). So many sessions begin each second whatever the machine could do, so that
//! memory is to stay flat; nothing fails that no restart explains, nothing is left.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use kcp_tests::pattern;
use kcp_tokio::{DatagramSocket, KcpConfig, KcpEndpoint, KcpStream, Route, SessionConfig, Sink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Counts what is in use: resident memory is that, and what the allocator keeps.
#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

/// Sockets that the clients share.
const ENDPOINTS: usize = 16;
/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at the memory.
const LOOK: u64 = 5;
/// Looks of which the middle one counts: the allocator breathes.
const LOOKS: usize = 6;
/// Tombstones of two minutes are in the tables by then, and the tables have grown for them.
const FULL: u64 = 300;
/// How far from what is in use then it may be later: percent and KiB.
const BAND: (u64, u64) = (5, 1024);
/// Before that: what each session may leave (two tombstones), and what else there may be, in bytes.
const LEFT: u64 = 2048;
const BUFFERS: u64 = 48 << 20;

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
    /// Sessions that were to begin.
    offered: AtomicU64,
    connects: AtomicU64,
    bytes: AtomicU64,
    ends: [AtomicU64; 3],
    /// Sessions cut by their client's end, by their server's.
    cut: [AtomicU64; 2],
    moves: AtomicU64,
    kills: AtomicU64,
    departures: AtomicU64,
    /// Sessions whose client fell silent, as the servers saw them.
    silent: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a process is to its sockets: an endpoint whose driver runs in a runtime of its own, and dies with it.
struct Process {
    endpoint: Arc<KcpEndpoint>,
    addr: SocketAddr,
    runtime: Option<Runtime>,
}

impl Process {
    async fn start(addr: SocketAddr) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let bound = runtime.spawn(KcpEndpoint::bind(addr, config())).await.unwrap();
        let (endpoint, runtime) = match bound {
            Ok(endpoint) => (Arc::new(endpoint), Some(runtime)),
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(Self { endpoint, addr, runtime })
    }
}

impl Drop for Process {
    /// Killed: from now on nothing arrives, and nothing leaves. Without its runtime alone an endpoint would still say goodbye.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            self.endpoint.rebind_to(Arc::new(Closed(self.addr)));
            runtime.shutdown_background();
        }
    }
}

/// What is left of a socket whose process has been killed.
#[derive(Debug)]
struct Closed(SocketAddr);

impl DatagramSocket for Closed {
    fn poll_recv(&self, _: &mut Context<'_>, _: Sink<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn try_send(&self, _: Route, run: &[u8], _: usize) -> io::Result<usize> {
        Ok(run.len())
    }

    fn poll_send_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

/// Where one process follows another.
struct Place {
    /// None between two.
    process: Mutex<Option<Process>>,
    /// Of processes that began or ended here.
    changes: AtomicU64,
}

impl Place {
    async fn new(addr: SocketAddr) -> Self {
        Self { process: Mutex::new(Some(Process::start(addr).await.unwrap())), changes: AtomicU64::new(0) }
    }

    fn endpoint(&self) -> Option<Arc<KcpEndpoint>> {
        self.process.lock().unwrap().as_ref().map(|process| process.endpoint.clone())
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn set(&self, process: Option<Process>) -> Option<Process> {
        let mut place = self.process.lock().unwrap();
        count(&self.changes);
        std::mem::replace(&mut *place, process)
    }

    /// Another socket for all its sessions.
    async fn rebind(&self, any: SocketAddr) {
        let moving = {
            let place = self.process.lock().unwrap();
            let process = place.as_ref().unwrap();
            let (endpoint, socket) = (process.endpoint.clone(), UdpSocket::bind(any).unwrap());
            process.runtime.as_ref().unwrap().spawn(async move { endpoint.rebind(socket).await })
        };
        moving.await.unwrap().unwrap();
    }

    /// Bound beside the old one until that is gone.
    async fn restart(&self, addr: SocketAddr) {
        let binding = async {
            loop {
                match Process::start(addr).await {
                    Ok(process) => break process,
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        self.set(Some(timeout(LIMIT, binding).await.expect("the dead process keeps its port")));
    }
}

async fn echo(stream: KcpStream, counts: Arc<Counts>) {
    let (mut reader, mut writer) = stream.into_split();
    let mut buf = vec![0; 4096];
    loop {
        match reader.read(&mut buf).await {
            Ok(0) => break,
            Ok(n) if writer.write_all(&buf[..n]).await.is_err() => return,
            Ok(_) => {}
            Err(error) => {
                if error.kind() == ErrorKind::TimedOut {
                    count(&counts.silent);
                }
                return;
            }
        }
    }
    let _ = writer.shutdown().await;
}

async fn serve(place: Arc<Place>, over: Arc<AtomicBool>, counts: Arc<Counts>) {
    while !over.load(Ordering::Relaxed) {
        let accepted = match place.endpoint() {
            Some(endpoint) => timeout(Duration::from_secs(1), endpoint.accept()).await,
            None => Ok(Err(ErrorKind::NotConnected.into())),
        };
        match accepted {
            Ok(Ok((stream, _))) => drop(tokio::spawn(echo(stream, counts.clone()))),
            Ok(Err(_)) => sleep(Duration::from_millis(5)).await,
            Err(_) => {}
        }
    }
}

/// One session, to one of its ends; it takes about so long.
async fn session(
    client: &KcpEndpoint,
    server: SocketAddr,
    seed: u64,
    lasts: Duration,
    counts: &Counts,
) -> io::Result<()> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut stream = client.connect(server).await?;
    count(&counts.connects);
    let data = pattern(rng.usize(1..16_384), seed);
    let pause = lasts.mul_f64(0.8 + 0.2 * rng.f64()) / data.len().div_ceil(4096) as u32;
    for part in data.chunks(4096) {
        stream.write_all(part).await?;
        let mut back = vec![0; part.len()];
        stream.read_exact(&mut back).await?;
        assert!(back == part, "seed {seed}: other bytes came back");
        counts.bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
        sleep(pause).await;
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

/// Which end cut a session: a client that is killed fails its own sessions, those of a server that is killed or leaves are reset, or
/// refused if they begin just then.
fn cut_by(error: &io::Error, client_changed: bool, server_changed: bool) -> Option<usize> {
    match error.kind() {
        ErrorKind::ConnectionAborted if client_changed => Some(0),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused if server_changed => Some(1),
        _ => None,
    }
}

fn median(looks: &[(u64, u64)]) -> u64 {
    let mut all: Vec<_> = looks.iter().map(|&(_, kib)| kib).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

/// Memory is flat once tombstones come and go at the same rate. `looks`: seconds and KiB. None: all were too early.
fn flat(looks: &[(u64, u64)]) -> Option<Result<(), String>> {
    let late: Vec<_> = looks.iter().copied().filter(|&(at, _)| at >= FULL).collect();
    let windows: Vec<_> = late.windows(LOOKS).map(|window| (window[0].0, median(window))).collect();
    let (&(_, first), later) = windows.split_first()?;
    if later.len() < LOOKS {
        return None;
    }
    let band = first * BAND.0 / 100 + BAND.1;
    let out = later.iter().find(|(_, kib)| kib.abs_diff(first) > band);
    Some(out.map_or(Ok(()), |(at, kib)| {
        Err(format!("{kib} KiB at {at} s, {first} KiB when tombstones had filled: more than {band} apart"))
    }))
}

#[test]
fn memory_is_flat_or_not() {
    let looks = |kib: fn(u64) -> u64| (0..240).map(|n| (n * LOOK, kib(n * LOOK))).collect::<Vec<_>>();
    let grows_until_full = looks(|at| 100_000 + at.min(FULL) * 1000);
    assert_eq!(flat(&grows_until_full), Some(Ok(())));
    assert_eq!(flat(&grows_until_full[..70]), None, "too short to say");
    assert_eq!(flat(&looks(|at| 100_000 + at % 10 * 4000)), Some(Ok(())), "it breathes");
    // Twenty bytes of each of 500 sessions a second.
    assert!(flat(&looks(|at| 100_000 + at * 10)).unwrap().is_err());
    assert!(flat(&looks(|at| 200_000 - at * 40)).unwrap().is_err(), "nor did it begin too high");
}

#[test]
fn only_a_restart_explains_an_error_and_only_its_own() {
    let cut = |kind: ErrorKind, client, server| cut_by(&kind.into(), client, server);
    assert_eq!(cut(ErrorKind::ConnectionAborted, true, false), Some(0));
    assert_eq!(cut(ErrorKind::ConnectionAborted, false, true), None);
    assert_eq!(cut(ErrorKind::ConnectionReset, false, true), Some(1));
    assert_eq!(cut(ErrorKind::ConnectionReset, true, false), None);
    for kind in [ErrorKind::TimedOut, ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe, ErrorKind::Other] {
        assert_eq!(cut(kind, true, true), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "for .ci/soak"]
async fn soak() {
    let seconds = number("KCP_SOAK_SECONDS", 20);
    let slots = number("KCP_SOAK_SESSIONS", 2000);
    let rate = number("KCP_SOAK_RATE", 500);
    // Each of the slots begins a session so often.
    let period = Duration::from_secs_f64(slots as f64 / rate as f64);
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let over = Arc::new(AtomicBool::new(false));
    let counts = Arc::new(Counts::default());
    // The second server is restarted again and again.
    let servers = [Arc::new(Place::new(any).await), Arc::new(Place::new(any).await)];
    let addrs = servers.each_ref().map(|server| server.endpoint().unwrap().local_addr().unwrap());
    let mut clients = Vec::new();
    for _ in 0..ENDPOINTS {
        clients.push(Arc::new(Place::new(any).await));
    }
    let mut tasks = tokio::task::JoinSet::new();
    // They accept until the last client has gone.
    let empty = Arc::new(AtomicBool::new(false));
    let mut serving = tokio::task::JoinSet::new();
    for server in &servers {
        serving.spawn(serve(server.clone(), empty.clone(), counts.clone()));
    }
    let began = Instant::now();
    for slot in 0..slots {
        let (place, servers) = (clients[slot as usize % ENDPOINTS].clone(), servers.clone());
        let (over, counts) = (over.clone(), counts.clone());
        tasks.spawn(async move {
            let mut due = began + period.mul_f64(slot as f64 / slots as f64);
            for n in 1.. {
                sleep_until(due).await;
                if over.load(Ordering::Relaxed) {
                    break;
                }
                count(&counts.offered);
                let seed = slot << 32 | n;
                // At each moment a quarter of all.
                let which = usize::from((slot / ENDPOINTS as u64 + n) % 4 == 3);
                let (client_was, server_was) = (place.changes(), servers[which].changes());
                let client = place.endpoint().expect("a client's place is never empty");
                let session = session(&client, addrs[which], seed, period.mul_f64(0.9), &counts);
                let result = timeout(LIMIT, session).await.unwrap_or_else(|_| Err(ErrorKind::Other.into()));
                drop(client);
                if let Err(error) = result {
                    // Odd between two servers: nobody is there.
                    let server_changed = server_was % 2 == 1 || servers[which].changes() != server_was;
                    let Some(end) = cut_by(&error, place.changes() != client_was, server_changed) else {
                        panic!("seed {seed}: {error}: {:?}", error.kind());
                    };
                    count(&counts.cut[end]);
                }
                // Whoever is late begins at once, but what was missed altogether is not made up for.
                due += period;
                while due + period < Instant::now() {
                    due += period;
                    count(&counts.offered);
                }
            }
        });
    }
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let sessions = |places: &[Arc<Place>]| {
        places.iter().filter_map(|place| Some(place.endpoint()?.stats().sessions)).sum::<u64>()
    };
    let (mut looks, mut heaps, mut round) = (Vec::new(), Vec::new(), 0usize);
    while began.elapsed() < Duration::from_secs(seconds) {
        round += 1;
        sleep_until(began + round as u32 * Duration::from_millis(500)).await;
        while let Some(done) = tasks.try_join_next() {
            done.expect("a task has failed");
        }
        let now = began.elapsed().as_secs();
        if looks.last().is_none_or(|&(at, _)| now >= at + LOOK) {
            looks.push((now / LOOK * LOOK, rss()));
            heaps.push((now / LOOK * LOOK, HEAP.allocated() as u64 / 1024));
            if looks.len() % LOOKS == 1 {
                let ((at, kib), (_, heap)) = (looks[looks.len() - 1], heaps[heaps.len() - 1]);
                let (dialled, accepted) = (sessions(&clients), sessions(&servers));
                println!(
                    "{at} s: {kib} KiB, of which {heap} are in use, {} sessions, {dialled} dialled and {accepted} accepted now",
                    get(&counts.connects)
                );
            }
        }
        let place = &clients[round % ENDPOINTS];
        if round % 3 == 0 {
            place.rebind(any).await;
            count(&counts.moves);
        }
        if round % 10 == 0 {
            // Killed, and another begins.
            drop(place.set(Some(Process::start(any).await.unwrap())));
            count(&counts.kills);
        }
        if round % 12 == 0 {
            let old = servers[1].set(None).unwrap();
            if round % 24 == 0 {
                old.endpoint.close();
                timeout(LIMIT, old.endpoint.wait_idle()).await.expect("it says goodbye");
                count(&counts.departures);
            } else {
                count(&counts.kills);
            }
            drop(old);
            servers[1].restart(addrs[1]).await;
        }
    }
    let (connects, lasted) = (get(&counts.connects), began.elapsed());
    over.store(true, Ordering::Relaxed);
    while let Some(done) = timeout(LIMIT, tasks.join_next()).await.expect("a task goes on") {
        done.unwrap();
    }
    for place in &clients {
        let endpoint = place.endpoint().unwrap();
        endpoint.stop_accepting();
        timeout(LIMIT, endpoint.wait_idle()).await.expect("sessions are left at a client");
        assert_eq!(endpoint.stats().sessions, 0);
    }
    empty.store(true, Ordering::Relaxed);
    while let Some(done) = timeout(LIMIT, serving.join_next()).await.expect("a server goes on") {
        done.unwrap();
    }
    // Those of clients that were killed end with their idle timeout.
    for place in &servers {
        let endpoint = place.endpoint().unwrap();
        endpoint.stop_accepting();
        timeout(LIMIT, endpoint.wait_idle()).await.expect("sessions are left at a server");
        assert_eq!(endpoint.stats().sessions, 0);
    }
    for (what, looks) in [("resident", &looks), ("in use", &heaps)] {
        let series: Vec<_> = looks.iter().map(|(at, kib)| format!("{at}:{kib}")).collect();
        println!("{what}, s:KiB: {}", series.join(" "));
    }
    println!(
        "{seconds} s, {slots} at once, {rate} a second: {} sessions of {} offered ({} shut down, {} dropped, {} aborted, {} cut with their \
         client, {} by their server's end; {} silent clients), {} bytes echoed, {} moves, {} kills, {} departures",
        get(&counts.connects),
        get(&counts.offered),
        get(&counts.ends[0]),
        get(&counts.ends[1]),
        get(&counts.ends[2]),
        get(&counts.cut[0]),
        get(&counts.cut[1]),
        get(&counts.silent),
        get(&counts.bytes),
        get(&counts.moves),
        get(&counts.kills),
        get(&counts.departures),
    );
    assert!(connects >= slots, "it moved");
    assert!(get(&counts.cut[0]) >= get(&counts.kills), "a client that is killed cuts its sessions");
    assert!(get(&counts.cut[1]) >= get(&counts.departures), "a server that goes cuts its sessions");
    assert!(get(&counts.silent) > 0, "a client that is killed says no goodbye");
    match flat(&heaps) {
        Some(flat) => {
            let kept = connects as f64 / (rate as f64 * lasted.as_secs_f64());
            assert!(kept > 0.95, "{kept:.2} of the rate was kept: memory says nothing, ask for less");
            flat.unwrap();
            println!("memory is flat");
        }
        None => {
            // Too short for the tombstones to fill: each session may leave that much and no more.
            let ((_, first), (_, last)) = (looks[looks.len().min(2) - 1], looks[looks.len() - 1]);
            let most = (connects * LEFT + BUFFERS) / 1024;
            assert!(last <= first + most, "{last} KiB, {first} KiB at the beginning: more than {most} apart");
            println!(
                "too short to say whether memory is flat: {first} KiB at the beginning, {last} KiB at the end"
            );
        }
    }
}
