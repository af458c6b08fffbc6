//! The one task per socket: receives, looks after timers, finishes what writers left.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use kcp_core::Timestamp;
use kcp_core::admission::conv_of;
use tokio::time::{Sleep, sleep_until};

use crate::session::{DRIVER_RUNS, Session, Wakeups};
use crate::shard::Shard;
use crate::stats::count;

/// Receive calls per turn, lest a flood keep timers and other tasks waiting.
const RECEIVES: usize = 8;
/// Timers per turn.
const FIRINGS: usize = 4096;

/// A future that ends when nobody uses the socket any more, or the socket fails for good. Dropped with its runtime it
/// tells every session.
pub(crate) struct Driver {
    shard: Arc<Shard>,
    sleep: Pin<Box<Sleep>>,
    /// What `sleep` is set to.
    sleeps_until: Option<Timestamp>,
    touched: Vec<Arc<Session>>,
    work: Vec<Arc<Session>>,
    wakeups: Wakeups,
}

impl Driver {
    /// Starts the driver of `shard` on the current runtime.
    pub(crate) fn spawn(shard: Arc<Shard>) {
        let sleep = Box::pin(sleep_until(shard.instant(shard.now())));
        tokio::spawn(Self {
            shard,
            sleep,
            sleeps_until: None,
            touched: Vec::new(),
            work: Vec::new(),
            wakeups: Wakeups::default(),
        });
    }

    /// Applies what has arrived, then one epilogue per session it was for. True when there may be more.
    fn receive(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut more = true;
        for _ in 0..RECEIVES {
            let (shard, touched) = (&self.shard, &mut self.touched);
            let now = shard.now();
            let mut sink = |from: SocketAddr, datagrams: &[u8], stride: usize| {
                deliver(shard, now, from, datagrams, stride, touched);
            };
            match shard.socket.poll_recv(cx, &mut sink) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if shard.socket.is_fatal(&error) => return Err(error),
                Poll::Ready(Err(error)) => survive(shard, &error),
                Poll::Pending => {
                    more = false;
                    break;
                }
            }
        }
        let now = self.shard.now();
        for session in self.touched.drain(..) {
            let mut state = session.lock();
            state.touched = false;
            session.after(&mut state, now, DRIVER_RUNS, &mut self.wakeups);
        }
        self.wakeups.wake();
        Ok(more)
    }

    /// Sessions whose deadline has passed. True when there may be more.
    fn fire(&mut self) -> bool {
        let now = self.shard.now();
        for _ in 0..FIRINGS {
            let Some((at, session)) = self.shard.pop_timer(now) else {
                self.wakeups.wake();
                return false;
            };
            session.on_timer(at, now, &mut self.wakeups);
        }
        self.wakeups.wake();
        true
    }

    /// Sessions that have marked themselves.
    fn finish(&mut self) {
        self.shard.take_work(&mut self.work);
        let now = self.shard.now();
        for session in self.work.drain(..) {
            // Before the lock: a mark made while we work must not be lost.
            session.unmark();
            let mut state = session.lock();
            session.after(&mut state, now, DRIVER_RUNS, &mut self.wakeups);
        }
        self.wakeups.wake();
    }

    /// Sessions that wait for the socket to have room.
    fn unblock(&mut self, cx: &mut Context<'_>) {
        while self.shard.has_blocked() && self.shard.socket.poll_send_ready(cx).is_ready() {
            let now = self.shard.now();
            for session in self.shard.take_blocked() {
                session.resume(now, &mut self.wakeups);
            }
            self.wakeups.wake();
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shard.register_driver(cx);
        let mut again = match this.receive(cx) {
            Ok(more) => more,
            Err(error) => {
                tracing::error!(%error, "socket failed for good");
                return Poll::Ready(());
            }
        };
        this.finish();
        again |= this.fire();
        this.unblock(cx);
        if this.shard.is_unused() {
            return Poll::Ready(());
        }
        if again {
            // The rest in another turn: other tasks run in between.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while let Some(at) = this.shard.arm() {
            if this.sleeps_until != Some(at) {
                this.sleep.as_mut().reset(this.shard.instant(at));
                this.sleeps_until = Some(at);
            }
            if this.sleep.as_mut().poll(cx).is_pending() {
                break;
            }
            this.sleeps_until = None;
            if this.fire() {
                cx.waker().wake_by_ref();
                break;
            }
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shard.die();
    }
}

/// Hands datagrams of one sender to their sessions: one lock per run of the same conversation.
fn deliver(
    shard: &Arc<Shard>,
    now: Timestamp,
    from: SocketAddr,
    datagrams: &[u8],
    stride: usize,
    touched: &mut Vec<Arc<Session>>,
) {
    let mut rest = datagrams.chunks(stride.max(1)).peekable();
    while let Some(datagram) = rest.next() {
        count(&shard.counters.datagrams_received);
        let Some(conv) = conv_of(datagram) else {
            count(&shard.counters.dropped_unknown);
            continue;
        };
        let key = (from, conv);
        let Some(session) = shard.registry.get(&key).or_else(|| shard.admit(key, datagram, now)) else {
            continue;
        };
        let mut state = session.lock();
        let mut next = Some(datagram);
        while let Some(datagram) = next {
            let result = if conv == session.conv {
                state.core.handle_datagram(now, datagram)
            } else {
                state.core.handle_datagram(now, &adopt(datagram, session.conv))
            };
            if let Err(error) = result {
                tracing::trace!(peer = %from, conv, %error, "datagram refused");
            }
            next = rest.next_if(|datagram| conv_of(datagram) == Some(conv));
            if next.is_some() {
                count(&shard.counters.datagrams_received);
            }
        }
        if !std::mem::replace(&mut state.touched, true) {
            touched.push(session.clone());
        }
    }
}

/// A datagram of conv 0, under the conv that was chosen for its sender.
fn adopt(datagram: &[u8], conv: u32) -> Vec<u8> {
    let mut adopted = Vec::with_capacity(datagram.len());
    if let Ok(segments) = kcp_core::wire::Segments::parse(datagram, 0) {
        for (header, payload) in segments {
            adopted.extend_from_slice(&kcp_core::wire::Header { conv, ..header }.encode());
            adopted.extend_from_slice(payload);
        }
    }
    adopted
}

/// A receive error ends nothing: most are a peer's ICMP message. Those that say "refused" tell a connect.
fn survive(shard: &Shard, error: &io::Error) {
    count(&shard.counters.receive_errors);
    tracing::trace!(%error, "receive error");
    if error.kind() == io::ErrorKind::ConnectionRefused {
        let sessions = shard.registry.all();
        // Only a socket connected to one peer knows whom it is about.
        if let [session] = sessions.as_slice() {
            session.on_refused();
        }
    }
}
