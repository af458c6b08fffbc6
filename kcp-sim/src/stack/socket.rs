//! A socket of the simulated network that is watched, that fails now and then, and that can be killed with its process.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kcp_netsim::{SimNet, SimSocket};
use kcp_tokio::{DatagramSocket, KcpEndpoint, Route, Sink};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::dice::Dice;
use crate::stack::Shared;
use crate::stack::limits::Limits;

/// Polls of one socket at one instant, beyond which its driver spins.
const POLLS: u32 = 500;

/// How a socket fails while the network is bad: probabilities per call.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Faults {
    /// The datagrams are lost: EPERM, ENOBUFS, ENETUNREACH.
    pub(super) error: f64,
    /// No room, for a while.
    pub(super) full: f64,
}

/// What a socket was asked for, and what came of it, in datagrams.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Work {
    /// Calls.
    pub(super) asked: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
}

#[derive(Debug)]
pub(super) struct Watched {
    who: u32,
    addr: SocketAddr,
    mtu: usize,
    faults: Faults,
    shared: Arc<Shared>,
    /// None: its process was killed.
    socket: Mutex<Option<Arc<SimSocket>>>,
    state: Mutex<State>,
    /// Whose it is.
    watched: Mutex<Option<(Weak<KcpEndpoint>, Limits)>>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    reader: Option<Waker>,
    full_until: Option<Pin<Box<Sleep>>>,
    polls: (Option<Instant>, u32),
    work: Work,
}

impl Watched {
    pub(super) fn bind(
        net: &SimNet,
        who: u32,
        addr: SocketAddr,
        mtu: usize,
        faults: Faults,
        shared: &Arc<Shared>,
        seed: u64,
    ) -> io::Result<Arc<Self>> {
        let state = State {
            dice: Dice::new(seed),
            reader: None,
            full_until: None,
            polls: (None, 0),
            work: Work::default(),
        };
        Ok(Arc::new(Self {
            who,
            addr,
            mtu,
            faults,
            shared: shared.clone(),
            socket: Mutex::new(Some(net.bind(addr)?)),
            state: Mutex::new(state),
            watched: Mutex::new(None),
        }))
    }

    pub(super) fn work(&self) -> Work {
        lock(&self.state).work
    }

    pub(super) fn watch(&self, endpoint: &Arc<KcpEndpoint>, limits: Limits) {
        *lock(&self.watched) = Some((Arc::downgrade(endpoint), limits));
    }

    pub(super) fn check_limits(&self) {
        let watched = lock(&self.watched).clone();
        if let Some((endpoint, limits)) = watched
            && let Some(endpoint) = endpoint.upgrade()
            && let Err(wrong) = limits.check(&endpoint, self.shared.streams(self.who))
        {
            self.shared.broken(format!("{}: {wrong}", self.who));
        }
    }

    /// As when the process dies: nothing leaves any more, and the address is free.
    pub(super) fn kill(&self) {
        lock(&self.socket).take();
        let reader = lock(&self.state).reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn socket(&self) -> io::Result<Arc<SimSocket>> {
        lock(&self.socket).clone().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl DatagramSocket for Watched {
    fn poll_recv(&self, cx: &mut Context<'_>, sink: Sink<'_>) -> Poll<io::Result<()>> {
        let socket = self.socket()?;
        {
            let mut state = lock(&self.state);
            state.reader = Some(cx.waker().clone());
            state.work.asked += 1;
            let now = Instant::now();
            state.polls =
                if state.polls.0 == Some(now) { (Some(now), state.polls.1 + 1) } else { (Some(now), 1) };
            if state.polls.1 > POLLS {
                drop(state);
                self.shared.broken(format!("the driver of socket {} spins", self.who));
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
        }
        // No session is locked here.
        self.check_limits();
        let mut datagrams = 0;
        let received = socket.poll_recv(cx, &mut |from, run, stride| {
            datagrams += run.len().div_ceil(stride.max(1)) as u64;
            sink(from, run, stride);
        });
        lock(&self.state).work.received += datagrams;
        received
    }

    fn try_send(&self, to: Route, run: &[u8], stride: usize) -> io::Result<usize> {
        let Ok(socket) = self.socket() else { return Ok(run.len()) };
        for datagram in run.chunks(stride.max(1)) {
            if datagram.len() > self.mtu {
                self.shared.broken(format!("a packet of {} bytes at mtu {}", datagram.len(), self.mtu));
            }
            self.shared.packet(self.who, datagram);
            lock(&self.state).work.sent += 1;
        }
        if !self.shared.is_healed() {
            let mut state = lock(&self.state);
            if state.full_until.is_some() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if state.dice.chance(self.faults.full) {
                let wait = Duration::from_micros(state.dice.log(1000, 2_000_000));
                state.full_until = Some(Box::pin(sleep_until(Instant::now() + wait)));
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if state.dice.chance(self.faults.error) {
                let errno = state.dice.pick(&[1, 105, 101]);
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        socket.try_send(to, run, stride)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.state);
        if let Some(sleep) = &mut state.full_until {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            state.full_until = None;
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
