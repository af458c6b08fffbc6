//! An in-memory network of datagram sockets on tokio's clock: with paused time the whole async stack runs on virtual
//! time, deterministically.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kcp_tokio::{DatagramSocket, Route, Sink};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::LinkConfig;
use crate::link::{Link, LinkStats};

/// Datagrams that a socket holds before it drops new ones, as a kernel's receive buffer does.
const RECEIVE_QUEUE: usize = 4096;
/// Datagrams handed over per receive call.
const BATCH: usize = 32;

/// A network. Sockets bind addresses on it; every ordered pair of addresses is joined by a link of its own. Packets to
/// addresses that nobody has bound vanish. Stops when it and all its sockets are dropped.
#[derive(Clone)]
pub struct SimNet {
    inner: Arc<Inner>,
    _pump: Arc<Pump>,
}

struct Pump(JoinHandle<()>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Inner {
    state: Mutex<State>,
    /// A packet may be due before the pump wakes up.
    ready: Notify,
    epoch: Instant,
}

/// From, to.
type Pair = (SocketAddr, SocketAddr);

struct State {
    seed: u64,
    default: LinkConfig,
    configs: HashMap<Pair, LinkConfig>,
    /// In order of creation, so that the pump's order does not depend on hashing.
    links: Vec<(Pair, Link<Vec<u8>>)>,
    index: HashMap<Pair, usize>,
    inboxes: HashMap<SocketAddr, Inbox>,
    cut: HashSet<Pair>,
    /// Public address of a socket behind a NAT, by its own.
    public: HashMap<SocketAddr, SocketAddr>,
    /// Errors that the next receive of a socket returns.
    receive_errors: HashMap<SocketAddr, VecDeque<io::Error>>,
    /// Sends left before `WouldBlock`, where limited.
    send_budget: HashMap<SocketAddr, usize>,
    send_wakers: HashMap<SocketAddr, Waker>,
}

#[derive(Default)]
struct Inbox {
    queue: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
    overflowed: u64,
}

impl SimNet {
    /// A network whose links are `default` unless told otherwise. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(default: LinkConfig, seed: u64) -> Self {
        let state = State {
            seed,
            default,
            configs: HashMap::new(),
            links: Vec::new(),
            index: HashMap::new(),
            inboxes: HashMap::new(),
            cut: HashSet::new(),
            public: HashMap::new(),
            receive_errors: HashMap::new(),
            send_budget: HashMap::new(),
            send_wakers: HashMap::new(),
        };
        let inner = Arc::new(Inner { state: Mutex::new(state), ready: Notify::new(), epoch: Instant::now() });
        let pump = tokio::spawn(inner.clone().pump());
        Self { inner, _pump: Arc::new(Pump(pump)) }
    }

    /// A socket at `addr`.
    ///
    /// # Errors
    /// `AddrInUse` when there is one.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<Arc<SimSocket>> {
        let mut state = self.inner.lock();
        if state.inboxes.contains_key(&addr) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.inboxes.insert(addr, Inbox::default());
        drop(state);
        Ok(Arc::new(SimSocket { net: self.clone(), addr }))
    }

    /// Makes the link from `from` to `to` what `config` says, from now on.
    pub fn set_link(&self, from: SocketAddr, to: SocketAddr, config: LinkConfig) {
        let mut state = self.inner.lock();
        state.configs.insert((from, to), config.clone());
        if let Some(&i) = state.index.get(&(from, to)) {
            state.links[i].1.set_config(config);
        }
    }

    /// Makes every link what `config` says, from now on.
    pub fn set_all(&self, config: &LinkConfig) {
        let mut state = self.inner.lock();
        state.default = config.clone();
        state.configs.clear();
        for (_, link) in &mut state.links {
            link.set_config(config.clone());
        }
    }

    /// Cuts both directions between two addresses.
    pub fn partition(&self, a: SocketAddr, b: SocketAddr) {
        self.inner.lock().cut.extend([(a, b), (b, a)]);
    }

    /// Heals all partitions.
    pub fn heal(&self) {
        self.inner.lock().cut.clear();
    }

    /// From now on the socket at `addr` appears as `public`, as after a NAT has forgotten it: what it sends comes from
    /// there, and only what is sent there reaches it.
    pub fn rebind(&self, addr: SocketAddr, public: SocketAddr) {
        self.inner.lock().public.insert(addr, public);
    }

    /// The next receive of the socket at `addr` fails with `error`.
    pub fn inject_receive_error(&self, addr: SocketAddr, error: io::Error) {
        let mut state = self.inner.lock();
        state.receive_errors.entry(addr).or_default().push_back(error);
        let waker = state.inboxes.get_mut(&addr).and_then(|inbox| inbox.waker.take());
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The socket at `addr` takes so many more datagrams, then says `WouldBlock`; `None`: no limit.
    pub fn set_send_budget(&self, addr: SocketAddr, datagrams: Option<usize>) {
        let mut state = self.inner.lock();
        match datagrams {
            Some(n) => state.send_budget.insert(addr, n),
            None => state.send_budget.remove(&addr),
        };
        let waker = state.send_wakers.remove(&addr);
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Puts a datagram on the network as if `from` had sent it: what an attacker does.
    pub fn inject(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.inner.send(from, to, datagram);
    }

    /// What one direction of one path has carried; nothing if it never did.
    #[must_use]
    pub fn link_stats(&self, from: SocketAddr, to: SocketAddr) -> LinkStats {
        let state = self.inner.lock();
        let link = state.links.iter().find(|(pair, _)| *pair == (from, to));
        link.map(|(_, link)| link.stats()).unwrap_or_default()
    }

    /// All links together.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let state = self.inner.lock();
        state.links.iter().fold(LinkStats::default(), |mut sum, (_, link)| {
            sum.add(&link.stats());
            sum
        })
    }
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNet").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn send(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let mut state = self.lock();
        if state.cut.contains(&(from, to)) {
            return;
        }
        let key = (from, to);
        let i = match state.index.get(&key) {
            Some(&i) => i,
            None => {
                let config = state.configs.get(&key).unwrap_or(&state.default).clone();
                let i = state.links.len();
                let seed = state.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(i as u64);
                state.links.push((key, Link::new(config, seed)));
                state.index.insert(key, i);
                i
            }
        };
        state.links[i].1.send(self.now(), datagram.to_vec());
        drop(state);
        self.ready.notify_one();
    }

    async fn pump(self: Arc<Self>) {
        loop {
            let (next, wakers) = self.deliver();
            for waker in wakers {
                waker.wake();
            }
            match next {
                None => self.ready.notified().await,
                Some(due) => tokio::select! {
                    biased;
                    () = self.ready.notified() => {}
                    () = sleep_until(self.epoch + due) => {}
                },
            }
        }
    }

    /// Delivers what is due; when the next is, and who waits for what was delivered.
    fn deliver(&self) -> (Option<Duration>, Vec<Waker>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = self.now();
        let mut wakers = Vec::new();
        let mut next: Option<Duration> = None;
        for ((from, to), link) in &mut state.links {
            while let Some(packet) = link.poll(now) {
                let behind = state.public.iter().find(|(_, public)| *public == to).map(|(own, _)| *own);
                let own = behind.unwrap_or(*to);
                if behind.is_none() && state.public.contains_key(to) {
                    continue;
                }
                let Some(inbox) = state.inboxes.get_mut(&own) else { continue };
                if inbox.queue.len() >= RECEIVE_QUEUE {
                    inbox.overflowed += 1;
                    continue;
                }
                inbox.queue.push_back((*from, packet));
                wakers.extend(inbox.waker.take());
            }
            next = [next, link.next_due()].into_iter().flatten().min();
        }
        (next, wakers)
    }
}

/// A datagram socket on a [`SimNet`]; its address is free again when it is dropped.
#[derive(Debug)]
pub struct SimSocket {
    net: SimNet,
    addr: SocketAddr,
}

impl DatagramSocket for SimSocket {
    fn poll_recv(&self, cx: &mut Context<'_>, sink: Sink<'_>) -> Poll<io::Result<()>> {
        let batch: Vec<_> = {
            let mut state = self.net.inner.lock();
            if let Some(error) = state.receive_errors.get_mut(&self.addr).and_then(VecDeque::pop_front) {
                return Poll::Ready(Err(error));
            }
            let Some(inbox) = state.inboxes.get_mut(&self.addr) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            if inbox.queue.is_empty() {
                inbox.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let n = inbox.queue.len().min(BATCH);
            inbox.queue.drain(..n).collect()
        };
        for (from, mut datagram) in batch {
            let stride = datagram.len().max(1);
            sink(from.into(), &mut datagram, stride);
        }
        Poll::Ready(Ok(()))
    }

    fn try_send(&self, to: Route, run: &[u8], stride: usize) -> io::Result<usize> {
        let mut sent = 0;
        for datagram in run.chunks(stride.max(1)) {
            let from = {
                let mut state = self.net.inner.lock();
                match state.send_budget.get_mut(&self.addr) {
                    Some(0) if sent > 0 => return Ok(sent),
                    Some(0) => return Err(io::ErrorKind::WouldBlock.into()),
                    Some(left) => *left -= 1,
                    None => {}
                }
                state.public.get(&self.addr).copied().unwrap_or(self.addr)
            };
            self.net.inner.send(from, to.peer, datagram);
            sent += datagram.len();
        }
        Ok(sent)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.inner.lock();
        if state.send_budget.get(&self.addr) == Some(&0) {
            state.send_wakers.insert(self.addr, cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn max_run(&self) -> usize {
        16
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.net.inner.lock().inboxes.remove(&self.addr);
    }
}
