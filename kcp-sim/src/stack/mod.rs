//! The stack's world: a server, clients and a network, all tasks of one thread under paused time.

mod after;
mod limits;
mod socket;
mod talk;
mod woken;

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kcp_netsim::{LinkConfig, Loss, SimNet};
use kcp_tokio::layers::{Cipher, Crypt};
use kcp_tokio::{KcpConfig, KcpEndpoint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, advance, sleep, timeout};

use crate::dice::Dice;
use crate::draw::{self, Features, healed, mix, note};
use crate::trace::{Trace, command, word};
use limits::Limits;
use socket::{Faults, Watched, lock};
use talk::{Plan, Said, Whose, at_most, converse, kind};
use woken::woken;

/// After the healing, until every conversation has ended.
const CONVERGENCE: Duration = Duration::from_secs(240);
/// In segments.
const LONGEST_MESSAGE: u64 = 8;
/// After the last, until nothing lives.
const SILENCE: Duration = Duration::from_secs(180);

/// What all tasks share: the trace, the ledger, what broke first.
#[derive(Debug)]
pub(crate) struct Shared {
    trace: Mutex<Trace>,
    began: Instant,
    broken: Mutex<Option<String>>,
    /// Ends the world then: time may stand still for ever.
    alarm: Mutex<Option<Waker>>,
    /// Conversations, by number: to the server, from it.
    ledger: Mutex<BTreeMap<u64, [Said; 2]>>,
    healed: AtomicBool,
    /// Rings then. (`watch` wakes its receivers in an order that it draws by itself.)
    bell: Notify,
    over: AtomicBool,
    /// How often somebody may have come in the place of who was spoken to: restarts of the server, and new addresses, to which
    /// a tombstone does not follow.
    upheavals: AtomicU64,
    /// The server was started anew.
    restarted: AtomicBool,
    /// Conversations of which a server's end was dropped before it heard whose it was.
    unheard: Mutex<BTreeSet<u32>>,
    /// Streams that are in use, of each endpoint.
    streams: Mutex<BTreeMap<u32, usize>>,
    /// No new conversations.
    stopped: AtomicBool,
    /// Errors are not expected.
    calm: bool,
    /// Packets are not plain KCP.
    layered: bool,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn note(&self, who: u32, what: &'static str, numbers: [u64; 3]) {
        let now = self.now();
        lock(&self.trace).add(now, who, what, numbers);
    }

    fn packet(&self, who: u32, datagram: &[u8]) {
        let now = self.now();
        let mut trace = lock(&self.trace);
        trace.add_bytes(datagram);
        if self.layered {
            return trace.add(now, who, "packet", [datagram.len() as u64, 0, 0]);
        }
        trace.add(now, who, command(datagram), [word(datagram, 0), word(datagram, 12), word(datagram, 16)]);
    }

    fn failure(&self, who: u32, what: &'static str, error: &io::Error, excused: bool) {
        self.note(who, what, [0; 3]);
        self.note(who, kind(error), [0; 3]);
        if self.calm && !excused {
            self.broken(format!("{what} although nothing is wrong: {error}"));
        }
    }

    fn broken(&self, what: String) {
        self.note(0, "broken", [0; 3]);
        lock(&self.trace).tell(|| what.clone());
        lock(&self.broken).get_or_insert(what);
        if let Some(alarm) = lock(&self.alarm).take() {
            alarm.wake();
        }
    }

    /// What broke; whoever asks is woken when something does.
    fn is_broken(&self, cx: &Context<'_>) -> Option<String> {
        lock(&self.alarm).replace(cx.waker().clone());
        lock(&self.broken).take()
    }

    fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    async fn healed(&self) {
        let bell = self.bell.notified();
        if !self.is_healed() {
            bell.await;
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn upheavals(&self) -> u64 {
        self.upheavals.load(Ordering::Relaxed)
    }

    fn has_restarted(&self) -> bool {
        self.restarted.load(Ordering::Relaxed)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn streams(&self, who: u32) -> usize {
        lock(&self.streams).get(&who).copied().unwrap_or_default()
    }

    fn is_known(&self, id: u64) -> bool {
        lock(&self.ledger).contains_key(&id)
    }

    fn ledger<R>(&self, id: u64, to_server: bool, f: impl FnOnce(&mut Said) -> R) -> R {
        f(&mut lock(&self.ledger).entry(id).or_default()[usize::from(!to_server)])
    }
}

pub(crate) fn run(seed: u64, trace: &mut Trace, features: &mut Features) -> Result<u64, String> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    let mut lent = Trace::new(false);
    std::mem::swap(trace, &mut lent);
    let slot = Slot::default();
    let result = runtime.block_on(async {
        let mut world = pin!(world(seed, lent, features, &slot));
        poll_fn(|cx| {
            let polled = world.as_mut().poll(cx);
            let shared = lock(&slot).clone();
            let broken = shared.and_then(|shared| shared.is_broken(cx));
            broken.map_or(polled, |broken| Poll::Ready(Err(broken)))
        })
        .await
    });
    drop(runtime);
    if let Some(shared) = lock(&slot).take() {
        std::mem::swap(trace, &mut *lock(&shared.trace));
    }
    let panic = crate::panics::last();
    if panic.is_empty() { result } else { Err(format!("panic: {panic}")) }
}

type Slot = Mutex<Option<Arc<Shared>>>;

/// An endpoint and its socket; both are new after a restart.
#[derive(Clone, Debug)]
struct Process {
    endpoint: Arc<KcpEndpoint>,
    socket: Arc<Watched>,
}

/// Starts processes, again and again.
#[derive(Clone, Debug)]
struct Host {
    net: SimNet,
    who: u32,
    addr: SocketAddr,
    config: KcpConfig,
    limits: Limits,
    idle_is_eof: bool,
    probes: bool,
    mss: usize,
    mtu: usize,
    faults: Faults,
    shared: Arc<Shared>,
    process: Arc<Mutex<Option<Process>>>,
    seed: Arc<Mutex<u64>>,
}

impl Host {
    fn start(&self) -> Result<(), String> {
        let seed = {
            let mut seed = lock(&self.seed);
            *seed = mix(seed.wrapping_add(1));
            *seed
        };
        let socket =
            Watched::bind(&self.net, self.who, self.addr, self.mtu, self.faults, &self.shared, seed ^ 1)
                .map_err(|error| format!("cannot bind {}: {error}", self.addr))?;
        let config = self.config.clone().predictable(seed ^ 2);
        // Who only dials may have a driver of the other kind: nothing that it sends waits for others.
        let dials = self.who != 0 && seed & 4 == 0;
        let start = if dials { KcpEndpoint::client } else { KcpEndpoint::from_socket };
        let endpoint = start(socket.clone(), config)
            .map_err(|error| format!("cannot start an endpoint: {error}: {:?}", self.config))?;
        let endpoint = Arc::new(endpoint);
        socket.watch(&endpoint, self.limits);
        *lock(&self.process) = Some(Process { endpoint, socket });
        Ok(())
    }

    /// Its sessions move to another address.
    fn rebind(&self, addr: SocketAddr) -> Result<(), String> {
        self.shared.note(self.who, "rebind", [0; 3]);
        self.shared.upheavals.fetch_add(1, Ordering::Relaxed);
        let seed = mix(*lock(&self.seed) ^ u64::from(addr.port()));
        let socket = Watched::bind(&self.net, self.who, addr, self.mtu, self.faults, &self.shared, seed)
            .map_err(|error| format!("cannot bind {addr}: {error}"))?;
        if let Some(process) = lock(&self.process).as_mut() {
            process.endpoint.rebind_to(socket.clone());
            socket.watch(&process.endpoint, self.limits);
            process.socket = socket;
        }
        Ok(())
    }

    /// As kill -9, and the same again.
    fn restart(&self) -> Result<(), String> {
        self.shared.note(self.who, "restart", [0; 3]);
        if self.who == 0 {
            self.shared.restarted.store(true, Ordering::Relaxed);
            self.shared.upheavals.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(process) = lock(&self.process).take() {
            process.socket.kill();
        }
        self.start()
    }

    /// Its sessions, for people.
    fn alive(&self) -> String {
        let sessions = self.endpoint().map(|endpoint| endpoint.sessions()).unwrap_or_default();
        let one = |session: &kcp_tokio::SessionHandle| {
            let stats = session.stats();
            format!(
                " {} ({} in flight, {} unsent, {} unread, window {})",
                session.conv(),
                stats.in_flight,
                stats.unsent_bytes,
                stats.unread_bytes,
                stats.peer_window
            )
        };
        let all: String = sessions.iter().map(one).collect();
        format!("{}:{all}", self.who)
    }

    fn endpoint(&self) -> Option<Arc<KcpEndpoint>> {
        lock(&self.process).as_ref().map(|process| process.endpoint.clone())
    }
}

#[derive(Copy, Clone, Debug)]
enum Event {
    Partition(usize, u64),
    Nat(usize),
    /// To another socket, of another address.
    Rebind(usize),
    Path,
    ReceiveError(usize),
    Restart(usize),
    /// Nobody runs for so long.
    Stall(u64),
    Garbage(usize),
}

async fn world(seed: u64, trace: Trace, features: &mut Features, slot: &Slot) -> Result<u64, String> {
    let mut dice = Dice::new(mix(seed) ^ 0x57AC_4000);
    let calm = note(features, dice.chance(0.1), "calm");
    let chaos = dice.log(200_000, 30_000_000);
    let message = note(features, dice.chance(0.3), "message mode");
    let plain = note(features, dice.chance(0.15), "plain peers");
    let layers = Layering::draw(&mut dice, features);
    let shared = Arc::new(Shared {
        trace: Mutex::new(trace),
        began: Instant::now(),
        broken: Mutex::new(None),
        alarm: Mutex::new(None),
        ledger: Mutex::new(BTreeMap::new()),
        healed: AtomicBool::new(false),
        bell: Notify::new(),
        over: AtomicBool::new(false),
        upheavals: AtomicU64::new(0),
        restarted: AtomicBool::new(false),
        unheard: Mutex::default(),
        streams: Mutex::default(),
        stopped: AtomicBool::new(false),
        calm,
        layered: layers.fec.is_some() || layers.crypt.is_some(),
    });
    *lock(slot) = Some(shared.clone());
    let raw = layers.authenticates && !calm && dice.coin();
    let link = if calm {
        LinkConfig { delay: Duration::from_micros(dice.log(50, 50_000)), ..LinkConfig::ideal() }
    } else {
        draw::link(&mut dice, raw, features)
    };
    let net = SimNet::new(link.clone(), dice.u64());
    let clients = dice.pick(&[1, 1, 2, 3, 5]) as usize;
    note(features, clients > 1, "several clients");
    let faults = Faults {
        error: if !calm && note(features, dice.chance(0.2), "send errors") { dice.unit() * 0.3 } else { 0.0 },
        full: if !calm && note(features, dice.chance(0.2), "full sockets") { dice.unit() * 0.1 } else { 0.0 },
    };
    let mut bounds = Bounds { mss: u64::MAX, window: u64::MAX, interval: 0, buffer: u64::MAX };
    // What was thought of later has dice of its own: a seed of before, which has none of it, means what it meant.
    let mut later = Dice::new(mix(seed) ^ 0x57AC_0DD5);
    let mut hosts = Vec::new();
    for who in 0..=clients as u32 {
        let drawn = draw::session(&mut dice, !message, features);
        let drawn = Later::draw(&mut later, drawn, who, calm, message, features);
        let (idle_is_eof, probes) = (drawn.idle_is_eof, drawn.probes);
        let (config, mtu, limits) =
            bounds.endpoint(&mut dice, drawn, calm, plain, &layers, message, features);
        let mss = mtu - 24;
        let addr = if who == 0 {
            SocketAddr::from(([10, 0, 0, 1], 4000))
        } else {
            SocketAddr::from(([10, 0, 1, who as u8], 5000))
        };
        let host = Host {
            net: net.clone(),
            who,
            addr,
            config,
            limits,
            idle_is_eof,
            probes,
            mss,
            mtu,
            faults,
            shared: shared.clone(),
            process: Arc::default(),
            seed: Arc::new(Mutex::new(dice.u64())),
        };
        hosts.push(host);
    }
    let most = bounds.most();
    let segment = hosts.iter().map(|host| host.mss).max().unwrap_or_default();
    for host in &mut hosts {
        host.limits.segment = segment;
        host.limits.message = if message { bounds.mss as usize * LONGEST_MESSAGE as usize } else { 0 };
        host.start()?;
    }
    let mut tasks = JoinSet::new();
    let handlers = Arc::new(Mutex::new(Vec::new()));
    let talk = Talk { calm, plain, message, mss: bounds.mss, most };
    let accepting = tokio::spawn(accept(hosts[0].clone(), talk, dice.u64(), handlers.clone()));
    for host in &hosts[1..] {
        let sessions = dice.pick(&[1, 1, 2, 4]);
        tasks.spawn(dial(host.clone(), hosts[0].addr, sessions, chaos, talk, dice.u64()));
    }
    let events = if calm { Vec::new() } else { events(&mut dice, clients, chaos, features) };
    let restarts = events.iter().any(|(_, event)| matches!(event, Event::Restart(_)));
    let dark = !calm && note(features, dice.chance(0.15), "blackout");
    tasks.spawn(chaotic(hosts.clone(), events, chaos, dark, link, dice.u64()));
    let watched = tokio::spawn(watch_bounds(hosts.clone()));
    let limit = Duration::from_micros(chaos) + CONVERGENCE;
    let ended = timeout(limit, async {
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| error.to_string())??;
        }
        // Whoever was accepted ends, too.
        loop {
            let next = lock(&handlers).pop();
            let Some(next): Option<JoinHandle<()>> = next else { return Ok::<(), String>(()) };
            next.await.map_err(|error| error.to_string())?;
        }
    })
    .await;
    ended.map_err(|_| {
        let alive: Vec<String> = hosts.iter().map(Host::alive).collect();
        format!(
            "conversations go on {} s after the network has healed: {}",
            CONVERGENCE.as_secs(),
            alive.join("; ")
        )
    })??;
    shared.over.store(true, Ordering::Relaxed);
    shared.note(0, "over", [0; 3]);
    accepting.abort();
    watched.abort();
    if calm {
        idle(&hosts, &layers).await?;
    }
    silence(&hosts).await?;
    check_ledger(&shared, restarts)?;
    let lasted = shared.now();
    drop(hosts);
    drop(net);
    // Sockets may answer for their last session for a moment.
    sleep(Duration::from_secs(5)).await;
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    if alive > 0 {
        return Err(format!("{alive} tasks are left when all is over"));
    }
    Ok(lasted)
}

/// Encryption and error correction of a whole world.
#[derive(Debug, Default)]
struct Layering {
    fec: Option<(u8, u8)>,
    crypt: Option<Crypt>,
    authenticates: bool,
}

impl Layering {
    fn draw(dice: &mut Dice, features: &mut Features) -> Self {
        if !note(features, dice.chance(0.3), "layers") {
            return Self::default();
        }
        let fec = dice.maybe(0.7, |dice| (dice.range(1, 10) as u8, dice.range(1, 4) as u8));
        let cipher = dice.pick(&[Cipher::Aes128Gcm, Cipher::Aes256Gcm, Cipher::Aes128, Cipher::Salsa20]);
        let crypt = dice
            .maybe(0.7, |dice| {
                let key: Vec<u8> = (0..cipher.key_len()).map(|_| dice.u64() as u8).collect();
                Crypt::new(cipher, &key).ok()
            })
            .flatten();
        note(features, fec.is_some(), "error correction");
        note(features, crypt.is_some(), "encryption");
        let authenticates = crypt.is_some() && cipher.authenticates();
        Self { fec, crypt, authenticates }
    }

    fn apply(&self, mut config: KcpConfig) -> KcpConfig {
        if let Some((data, parity)) = self.fec {
            config = config.fec(data, parity);
        }
        if let Some(crypt) = &self.crypt {
            config = config.crypt(crypt.clone());
        }
        config
    }
}

/// What was thought of later, of an endpoint.
#[derive(Debug)]
struct Later {
    drawn: draw::Drawn,
    budgets: Option<(usize, usize)>,
    /// The receive buffer may be as small as it was drawn.
    tight: Option<usize>,
    idle_is_eof: bool,
    sessions: Option<usize>,
    per_ip: Option<usize>,
    probes: bool,
}

impl Later {
    fn draw(
        dice: &mut Dice,
        mut drawn: draw::Drawn,
        who: u32,
        calm: bool,
        message: bool,
        features: &mut Features,
    ) -> Self {
        let budgets =
            dice.maybe(0.5, |dice| (dice.log(1000, 300_000) as usize, dice.log(1000, 300_000) as usize));
        let tight = dice.maybe(0.3, |dice| dice.log(1, 65_536) as usize).filter(|_| !message);
        let (idle_is_eof, unpaced) = (dice.chance(0.3), dice.chance(0.3));
        let (server, limited) = (who == 0, who == 0 && !calm);
        let sessions = dice.maybe(0.15, |dice| dice.range(1, 5) as usize).filter(|_| limited);
        let per_ip = dice.maybe(0.15, |dice| dice.range(1, 2) as usize).filter(|_| limited);
        let probes = !dice.chance(0.15) || server;
        if note(features, unpaced, "no pacing") {
            drawn.config = drawn.config.pacing(false);
        }
        note(features, budgets.is_some(), "small budgets");
        note(features, tight.is_some(), "small receive buffer");
        note(features, idle_is_eof, "silence is an end");
        note(features, sessions.is_some(), "few sessions");
        note(features, per_ip.is_some(), "few sessions of an address");
        note(features, !probes, "no probe");
        drawn.config = drawn.config.idle_is_eof(idle_is_eof);
        Self { drawn, budgets, tight, idle_is_eof, sessions, per_ip, probes }
    }
}

/// Entries among the timers that a host's last sessions leave behind: less than one a second.
const STALE: u64 = 40;
/// Datagrams of keepalives in a minute: a question, and two answers to the peer's, in 9 to 10 s.
const KEEPALIVES: u64 = 21;

/// What the narrowest configuration lets through.
#[derive(Copy, Clone, Debug)]
struct Bounds {
    mss: u64,
    window: u64,
    interval: u64,
    buffer: u64,
}

impl Bounds {
    #[allow(clippy::too_many_arguments, reason = "everything is drawn")]
    fn endpoint(
        &mut self,
        dice: &mut Dice,
        later: Later,
        calm: bool,
        plain: bool,
        layers: &Layering,
        message: bool,
        features: &mut Features,
    ) -> (KcpConfig, usize, Limits) {
        let drawn = later.drawn;
        let mut config = drawn.config;
        let mtu =
            config.mtu_bytes().max(if layers.fec.is_some() || layers.crypt.is_some() { 150 } else { 50 });
        let window = config.recv_window_segments().max(if message { 32 } else { 4 });
        let send_window = drawn.send_window.max(4);
        let buffers = config.buffers();
        let recv = later.tight.unwrap_or(buffers.received.max(65_536));
        let send = buffers.sent.max(1024);
        // Everything ends some time; and nothing before the patience of who waits for the healing.
        let least = if calm { draw::ms(60_000) } else { Duration::ZERO };
        config = config
            .mtu(mtu)
            .recv_window(window)
            .send_window(send_window)
            .recv_buffer(recv)
            .send_buffer(send)
            .idle_timeout(Some(drawn.idle.unwrap_or(draw::ms(30_000)).max(least)))
            .user_timeout(Some(drawn.user.unwrap_or(draw::ms(60_000)).max(least)))
            .zero_window_timeout(Some(drawn.zero_window.unwrap_or(draw::ms(120_000)).max(least)))
            .extensions(!plain);
        if calm {
            config = config.keepalive(Some(draw::ms(10_000))).dead_link(1000).linger(draw::ms(60_000));
            config = config.connect_timeout(draw::ms(20_000));
        }
        self.mss = self.mss.min(config.mss() as u64 - if mtu >= 150 { 90 } else { 0 });
        self.window = self.window.min(u64::from(window.min(send_window)));
        self.interval = self.interval.max(drawn.interval.as_micros() as u64);
        self.buffer = self.buffer.min(send.min(recv) as u64);
        let mut limits = Limits::new(&config, send_window);
        (limits.sessions, limits.per_ip) = (later.sessions, later.per_ip);
        let mut config = KcpConfig::from(config)
            .max_sessions(later.sessions.unwrap_or(1_000_000))
            .max_sessions_per_ip(later.per_ip)
            .connect_probe(later.probes);
        if !message && note(features, dice.chance(0.15), "small budgets") {
            limits.budgets = (dice.log(20_000, 1_000_000) as usize, dice.log(20_000, 1_000_000) as usize);
        }
        if let Some(budgets) = later.budgets {
            limits.budgets = budgets;
            // A session's share, where many have theirs.
            self.buffer = self.buffer.min(budgets.0.min(budgets.1) as u64 / 64).max(1);
        }
        config = config.recv_budget(limits.budgets.0).send_budget(limits.budgets.1);
        if !calm && note(features, dice.chance(0.1), "small backlog") {
            config = config.backlog(dice.range(1, 3) as usize).half_open(dice.range(1, 10) as usize);
        }
        (layers.apply(config), mtu, limits)
    }

    /// Bytes that go through within half a minute.
    fn most(&self) -> u64 {
        let window = self.window.min(self.buffer / self.mss.max(1)).max(1);
        (self.mss.min(self.buffer) * window).saturating_mul((30_000_000 / (30_000 + self.interval)).max(1))
    }
}

/// How conversations are drawn.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Talk {
    calm: bool,
    plain: bool,
    message: bool,
    mss: u64,
    most: u64,
}

type Handlers = Arc<Mutex<Vec<JoinHandle<()>>>>;

async fn accept(server: Host, talk: Talk, seed: u64, handlers: Handlers) {
    let (mut dice, mut later) = (Dice::new(seed), Dice::new(mix(seed) ^ 0x0DD5));
    loop {
        let Some(endpoint) = server.endpoint() else {
            sleep(Duration::from_millis(1)).await;
            continue;
        };
        let polls = dice.maybe(0.2, |dice| dice.below(3));
        match at_most(polls, woken(endpoint.accept())).await {
            None => sleep(Duration::from_millis(dice.below(3))).await,
            Some(Ok((stream, _))) => {
                let plan = Plan::draw(&mut dice, &mut later, &talk, server.idle_is_eof);
                let whose = Whose { who: server.who, id: None, trusting: None };
                let task = converse(stream, whose, plan, server.shared.clone(), dice.u64());
                lock(&handlers).push(tokio::spawn(task));
            }
            // Killed: the next process has an endpoint of its own.
            Some(Err(_)) => sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn dial(
    client: Host,
    server: SocketAddr,
    sessions: u64,
    chaos: u64,
    talk: Talk,
    seed: u64,
) -> Result<(), String> {
    let (mut dice, mut later) = (Dice::new(seed), Dice::new(mix(seed) ^ 0x0DD5));
    let shared = client.shared.clone();
    let mut talks = JoinSet::new();
    for n in 0..sessions {
        sleep(Duration::from_micros(dice.below(chaos / sessions.max(1) + 1))).await;
        let id = mix(seed ^ n) | 1;
        let Some(endpoint) = client.endpoint().filter(|_| !shared.is_stopped()) else { continue };
        let plan = Plan::draw(&mut dice, &mut later, &talk, client.idle_is_eof);
        let (lazy, began) = (dice.chance(0.2), shared.upheavals());
        let connected = if lazy {
            Some(endpoint.connect_lazy(server))
        } else {
            let polls = dice.maybe(if talk.calm { 0.0 } else { 0.1 }, |dice| dice.below(4));
            at_most(polls, woken(endpoint.connect(server))).await
        };
        let stream = match connected {
            None => {
                shared.note(client.who, "connect dropped", [0; 3]);
                continue;
            }
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                shared.failure(client.who, "connect failed", &error, false);
                continue;
            }
        };
        shared.ledger(id, true, |_| ());
        // Without a hello, or before it, nobody can tell the server's next life from this one.
        let trusting = lazy || !client.probes || !stream.is_extended();
        let whose = Whose { who: client.who, id: Some(id), trusting: trusting.then_some(began) };
        let task = converse(stream, whose, plan, shared.clone(), dice.u64());
        if dice.coin() {
            task.await;
        } else {
            talks.spawn(task);
        }
    }
    while let Some(done) = talks.join_next().await {
        done.map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn events(dice: &mut Dice, clients: usize, chaos: u64, features: &mut Features) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    let mut some = |dice: &mut Dice, p: f64, name: &'static str, draw: &mut dyn FnMut(&mut Dice) -> Event| {
        if note(features, dice.chance(p), name) {
            for _ in 0..dice.range(1, 3) {
                events.push((dice.below(chaos), draw(dice)));
            }
        }
    };
    let client = |dice: &mut Dice| 1 + dice.below(clients as u64) as usize;
    some(dice, 0.3, "partitions", &mut |dice| Event::Partition(client(dice), dice.log(1000, 20_000_000)));
    some(dice, 0.3, "NAT rebinding", &mut |dice| Event::Nat(client(dice)));
    some(dice, 0.2, "rebind", &mut |dice| Event::Rebind(client(dice)));
    some(dice, 0.2, "path changes", &mut |_| Event::Path);
    some(dice, 0.2, "receive errors", &mut |dice| {
        Event::ReceiveError(dice.below(clients as u64 + 1) as usize)
    });
    some(dice, 0.12, "server restart", &mut |_| Event::Restart(0));
    some(dice, 0.12, "client restart", &mut |dice| Event::Restart(client(dice)));
    some(dice, 0.2, "stalls", &mut |dice| Event::Stall(dice.log(1000, 15_000_000)));
    some(dice, 0.2, "garbage", &mut |dice| Event::Garbage(dice.below(clients as u64 + 1) as usize));
    events.sort_by_key(|&(at, _)| at);
    events
}

/// Lets everything happen, then heals the network, or cuts it for good.
async fn chaotic(
    hosts: Vec<Host>,
    events: Vec<(u64, Event)>,
    chaos: u64,
    dark: bool,
    link: LinkConfig,
    seed: u64,
) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let (net, shared) = (hosts[0].net.clone(), hosts[0].shared.clone());
    let server = hosts[0].addr;
    let mut nats = 0u16;
    for (at, event) in events {
        sleep(Duration::from_micros(at.saturating_sub(shared.now()))).await;
        match event {
            Event::Partition(i, time) => {
                shared.note(i as u32, "partition", [time, 0, 0]);
                let (net, addr) = (net.clone(), hosts[i].addr);
                net.partition(addr, server);
                sleep(Duration::from_micros(time.min(chaos.saturating_sub(at)))).await;
                net.heal();
            }
            Event::Nat(i) => {
                nats += 1;
                shared.upheavals.fetch_add(1, Ordering::Relaxed);
                shared.note(i as u32, "new address", [u64::from(nats), 0, 0]);
                net.rebind(hosts[i].addr, SocketAddr::from(([10, 9, 0, i as u8], 20_000 + nats)));
            }
            Event::Rebind(i) => {
                nats += 1;
                hosts[i].rebind(SocketAddr::from(([10, 8, 0, i as u8], 30_000 + nats)))?;
            }
            Event::Path => {
                let mut link = link.clone();
                link.delay = Duration::from_micros(dice.log(50, 500_000));
                link.rate = dice.maybe(0.3, |dice| dice.log(8_000, 10_000_000));
                shared.note(0, "path change", [link.delay.as_micros() as u64, 0, 0]);
                net.set_all(&link);
            }
            Event::ReceiveError(i) => {
                shared.note(i as u32, "receive error", [0; 3]);
                net.inject_receive_error(hosts[i].addr, io::ErrorKind::ConnectionReset.into());
            }
            Event::Restart(i) => hosts[i].restart()?,
            Event::Stall(time) => {
                shared.note(0, "stall", [time, 0, 0]);
                advance(Duration::from_micros(time)).await;
            }
            Event::Garbage(i) => {
                let bytes: Vec<u8> = (0..dice.below(200)).map(|_| dice.u64() as u8).collect();
                shared.note(i as u32, "garbage", [bytes.len() as u64, 0, 0]);
                net.inject(SocketAddr::from(([10, 7, 7, 7], 7)), hosts[i].addr, &bytes);
            }
        }
    }
    sleep(Duration::from_micros(chaos.saturating_sub(shared.now()))).await;
    net.heal();
    if dark {
        shared.note(0, "blackout", [0; 3]);
        net.set_all(&LinkConfig { loss: Loss::Uniform(1.0), ..healed() });
        shared.stopped.store(true, Ordering::Relaxed);
    } else {
        shared.note(0, "heal", [0; 3]);
        net.set_all(&healed());
    }
    shared.healed.store(true, Ordering::Relaxed);
    shared.bell.notify_waiters();
    Ok(())
}

/// What endpoints hold stays within their limits, also while their drivers sleep.
async fn watch_bounds(hosts: Vec<Host>) {
    loop {
        sleep(Duration::from_millis(500)).await;
        for process in hosts.iter().filter_map(|host| lock(&host.process).clone()) {
            process.socket.check_limits();
        }
    }
}

/// What a process did in so many seconds in which its application did nothing.
async fn work_in(hosts: &[Host], seconds: u64) -> Vec<(u32, socket::Work)> {
    let sockets: Vec<_> =
        hosts.iter().filter_map(|host| Some((host.who, lock(&host.process).clone()?.socket))).collect();
    let before: Vec<_> = sockets.iter().map(|(_, socket)| socket.work()).collect();
    sleep(Duration::from_secs(seconds)).await;
    let since = |((who, socket), before): (&(u32, Arc<Watched>), &socket::Work)| {
        let now = socket.work();
        let (asked, received) = (now.asked - before.asked, now.received - before.received);
        (*who, socket::Work { asked, received, sent: now.sent - before.sent })
    };
    sockets.iter().zip(&before).map(since).collect()
}

/// A session in which nothing is said costs what keeps it alive.
async fn idle(hosts: &[Host], layers: &Layering) -> Result<(), String> {
    let [server, client, ..] = hosts else { return Ok(()) };
    let (Some(listening), Some(dialling)) = (server.endpoint(), client.endpoint()) else { return Ok(()) };
    for endpoint in hosts.iter().filter_map(Host::endpoint) {
        // What dropped streams have to say.
        timeout(SILENCE, woken(endpoint.wait_idle()))
            .await
            .map_err(|_| "sessions live on in a calm world".to_owned())?;
    }
    let open = async {
        let mut dialled = dialling.connect(server.addr).await?;
        dialled.write_all(b"idle").await?;
        let (mut accepted, _) = listening.accept().await?;
        accepted.read_exact(&mut [0; 4]).await?;
        Ok::<_, io::Error>((dialled, accepted))
    };
    let _streams = timeout(Duration::from_secs(30), woken(open))
        .await
        .map_err(|_| "an idle session does not open".to_owned())?
        .map_err(|error| format!("an idle session does not open: {error}"))?;
    // Last acknowledgements, and memory that is given back.
    sleep(Duration::from_secs(5)).await;
    for (who, work) in work_in(hosts, 60).await {
        let most = KEEPALIVES * (1 + u64::from(layers.fec.map_or(0, |(_, parity)| parity)));
        if work.sent > most || work.asked > 3 * work.received + 2 * work.sent + STALE {
            return Err(format!("the driver of {who} has nothing but an idle session, and works: {work:?}"));
        }
    }
    Ok(())
}

/// Nothing lives, and nothing is held.
async fn silence(hosts: &[Host]) -> Result<(), String> {
    for host in hosts {
        let Some(endpoint) = host.endpoint() else { continue };
        endpoint.stop_accepting();
        if timeout(SILENCE, woken(endpoint.wait_idle())).await.is_err() {
            return Err(format!(
                "sessions live on {} s after the last stream: {}",
                SILENCE.as_secs(),
                host.alive()
            ));
        }
    }
    // Entries of queues go with what they were for; last words wait for sockets that were full, 2 s at most.
    sleep(Duration::from_secs(3)).await;
    for (who, work) in work_in(hosts, 60).await {
        // What came late is looked at, and entries among the timers whose sessions have ended; nothing else is.
        if work.asked > 2 * work.received + STALE || work.sent > work.received {
            return Err(format!("the driver of {who} has no sessions, and works: {work:?}"));
        }
    }
    for host in hosts {
        let Some(endpoint) = host.endpoint() else { continue };
        let stats = endpoint.stats();
        if (stats.sessions, stats.half_open) != (0, 0) {
            return Err(format!("{} sessions, {} half open, of none", stats.sessions, stats.half_open));
        }
    }
    Ok(())
}

/// Who was told that everything was delivered was told the truth.
fn check_ledger(shared: &Shared, restarts: bool) -> Result<(), String> {
    for (id, both) in lock(&shared.ledger).iter() {
        // Two sessions of a server that one beginning has reached: whoever took the silence of the first for the end hears the other no more.
        let twice = both[0].readers > 1;
        for said in both {
            let natural = !said.read.is_empty() && said.read.iter().all(|&(_, natural)| natural);
            let all = said.read.iter().any(|&(read, _)| read == said.written);
            if said.shutdown_ok && natural && !all && !restarts && !twice {
                return Err(format!(
                    "shutdown of {id:x} was Ok at {} bytes, read were {:?}",
                    said.written, said.read
                ));
            }
            // Who does not read has said so.
            if shared.calm && !all && !said.deaf && !said.left {
                return Err(format!(
                    "nothing was wrong, but of {} bytes of {id:x} {:?} were read",
                    said.written, said.read
                ));
            }
        }
    }
    Ok(())
}
