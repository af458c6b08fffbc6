//! The one task per socket: receives, looks after timers, finishes what writers left.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kcp_core::Timestamp;
use kcp_core::admission::conv_of;
use kcp_core::wire::HEADER_LEN;
use tokio::time::{Sleep, sleep_until};

use crate::agenda::unmarked;
use crate::layered::Front;
use crate::outbox::Outbox;
use crate::session::{DRIVER_RUNS, Session, State, Turn};
use crate::shard::Shard;
use crate::socket::{Route, crowd};
use crate::stats::count;

/// Receive calls per turn, lest a flood keep timers and other tasks waiting.
const RECEIVES: usize = 8;
/// Receive errors that are taken one after the other, as a burst of ICMP messages may bring them; after more the driver
/// waits 1 ms, then twice as long each time, up to the longest.
const ERRORS_IN_A_ROW: u32 = 16;
const LONGEST_DEAFNESS: Duration = Duration::from_millis(100);
/// Timers per turn.
const FIRINGS: usize = 4096;
/// Sleeps in a row that may be over at once: a deadline that stayed in the past would keep the thread for ever.
const SHORT_SLEEPS: u32 = 16;

/// A future that ends when nobody uses the socket any more, or the socket fails for good. Dropped with its runtime it
/// tells every session.
pub(crate) struct Driver {
    shard: Arc<Shard>,
    sleep: Pin<Box<Sleep>>,
    /// What `sleep` is set to.
    sleeps_until: Option<Timestamp>,
    touched: Vec<Arc<Session>>,
    work: Vec<Arc<Session>>,
    turn: Turn,
    /// The last turn ended when it had woken tasks.
    hurried: bool,
    /// Receive errors in a row.
    errors: u32,
    /// No receiving before: an error that stays must not keep the processor busy.
    deaf_until: Option<Timestamp>,
    #[cfg(feature = "metrics")]
    publisher: crate::metrics::Publisher,
}

impl Driver {
    /// Starts the driver of `shard` on the current runtime.
    pub(crate) fn spawn(shard: Arc<Shard>) {
        crowd::forget();
        let sleep = Box::pin(sleep_until(shard.hub.instant(shard.hub.now())));
        // A socket that dials only has one peer, and mostly one session.
        let outbox = (!shard.hub.dials_only).then(|| Outbox::new(shard.index));
        tokio::spawn(Self {
            shard,
            sleep,
            sleeps_until: None,
            touched: Vec::new(),
            work: Vec::new(),
            turn: Turn::with(outbox),
            hurried: false,
            errors: 0,
            deaf_until: None,
            #[cfg(feature = "metrics")]
            publisher: crate::metrics::Publisher::default(),
        });
    }

    /// Applies what has arrived, then one epilogue per session it was for. Tells whether there may be more, and whether
    /// tasks were woken that come before all else.
    fn receive(&mut self, cx: &mut Context<'_>, started: Timestamp) -> io::Result<(bool, bool)> {
        let mut more = true;
        if self.deaf_until.is_some_and(|until| started < until) {
            return Ok((false, false));
        }
        self.deaf_until = None;
        // Another driver receives where an endpoint of several sockets has moved to one.
        let Some(socket) = self.shard.own_socket() else { return Ok((false, false)) };
        self.shard.note_refused(socket.refused());
        // The clock is read once per call and not per session: at 100 000 datagrams a second it would show.
        let mut now = started;
        for round in 0..RECEIVES {
            let (shard, touched) = (&self.shard, &mut self.touched);
            let mut read = (round == 0).then_some(started);
            let mut sink = |from: Route, datagrams: &mut [u8], stride: usize| {
                let now = *read.get_or_insert_with(|| shard.hub.now());
                deliver(shard, now, from, datagrams, stride, touched);
            };
            let received = socket.poll_recv(cx, &mut sink);
            now = read.unwrap_or(now);
            match received {
                Poll::Ready(Ok(())) => self.errors = 0,
                Poll::Ready(Err(error)) if socket.is_fatal(&error) => return Err(error),
                Poll::Ready(Err(error)) => {
                    survive(shard, &error);
                    self.errors = self.errors.saturating_add(1);
                    if let Some(doublings) = self.errors.checked_sub(ERRORS_IN_A_ROW) {
                        let wait = LONGEST_DEAFNESS.min(Duration::from_millis(1 << doublings.min(10)));
                        self.deaf_until = Some(now + wait);
                        more = false;
                        break;
                    }
                }
                Poll::Pending => {
                    more = false;
                    break;
                }
            }
        }
        // Of several busy sockets each finishes its turn: another one for each message would be a tenth of what that costs.
        let tasks_first = self.turn.outbox.is_some() || crowd::is_latest(&*socket);
        (self.turn.defers, self.turn.hurries) = (true, tasks_first);
        if !self.touched.is_empty() {
            crowd::set_latest(&*socket);
        }
        for session in self.touched.drain(..) {
            let mut state = session.lock();
            state.touched = false;
            session.after(&mut state, now, DRIVER_RUNS, &mut self.turn);
            drop(state);
            self.turn.empty(&self.shard, now, false);
        }
        (self.turn.defers, self.turn.hurries) = (false, false);
        self.turn.empty(&self.shard, now, true);
        let woken = self.turn.wake();
        if woken > 1 && self.turn.outbox.is_some() {
            // Each will write, and this task comes after them: it sends for all.
            self.shard.gather(now);
        }
        Ok((more, tasks_first && woken > 0))
    }

    /// Sends what has waited for the tasks that were woken last time, and enters their sessions' deadlines, now that those have run. An
    /// acknowledgement that waited for
    /// an answer to ride with has mostly left: its deadline, earlier than all others, would have moved the runtime's timer with each
    /// message, and woken this task for nothing.
    fn end_deferrals(&mut self, now: Timestamp) {
        if self.turn.deferred.is_empty() {
            return;
        }
        let mut deferred = std::mem::take(&mut self.turn.deferred);
        for session in deferred.drain(..) {
            session.end_deferral(now, &mut self.turn);
            self.turn.empty(&self.shard, now, false);
        }
        self.turn.deferred = deferred;
        self.turn.end(&self.shard, now);
    }

    /// Sessions whose deadline has passed. True when there may be more.
    fn fire(&mut self, now: Timestamp) -> bool {
        for _ in 0..FIRINGS {
            let Some((at, session)) = self.shard.agenda.pop_timer(now) else {
                self.turn.end(&self.shard, now);
                return false;
            };
            session.on_timer(at, now, &mut self.turn);
            self.turn.empty(&self.shard, now, false);
        }
        self.turn.end(&self.shard, now);
        true
    }

    /// Sessions that have marked themselves.
    fn finish(&mut self) {
        self.shard.agenda.take_work(&mut self.work);
        if self.work.is_empty() {
            return;
        }
        let now = self.shard.hub.now();
        for session in unmarked(&mut self.work) {
            let mut state = session.lock();
            session.after(&mut state, now, DRIVER_RUNS, &mut self.turn);
            drop(state);
            self.turn.empty(&self.shard, now, false);
        }
        self.turn.end(&self.shard, now);
    }

    /// Sessions that wait for the socket to have room.
    fn unblock(&mut self, cx: &mut Context<'_>) {
        // Once per turn: a socket that has room for little each time must not keep the driver from receiving.
        if self.shard.agenda.has_blocked() && self.shard.socket().poll_send_ready(cx).is_ready() {
            let now = self.shard.hub.now();
            for session in self.shard.agenda.take_blocked() {
                session.resume(now, &mut self.turn);
                self.turn.empty(&self.shard, now, false);
            }
            self.turn.end(&self.shard, now);
            if self.shard.agenda.has_blocked() {
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.shard.register_driver(cx);
        if this.shard.hub.life.is_dead() {
            return Poll::Ready(());
        }
        this.shard.agenda.begin_turn();
        // First what tasks have left: they were woken by what was received last time.
        this.finish();
        let now = this.shard.hub.now();
        this.end_deferrals(now);
        let (more, tasks_first) = match this.receive(cx, now) {
            Ok(received) => received,
            Err(error) => {
                tracing::error!(%error, "socket failed for good");
                return Poll::Ready(());
            }
        };
        this.hurried = tasks_first && !this.hurried;
        if this.hurried {
            // Those tasks may have somebody to answer: all else comes after them, in a turn that looks after it whatever arrives.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let again = this.fire(now) || more || tasks_first;
        this.unblock(cx);
        #[cfg(feature = "metrics")]
        let publish_at = this.publisher.turn(&this.shard, this.shard.hub.now());
        #[cfg(not(feature = "metrics"))]
        let publish_at = None;
        let unused_at = this.shard.hub.unused_at();
        if unused_at.is_some_and(|at| at <= this.shard.hub.now()) {
            return Poll::Ready(());
        }
        if again {
            // The rest in another turn: other tasks run in between.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut sleeps = 0;
        while let Some(at) = this
            .shard
            .agenda
            .arm()
            .into_iter()
            .chain(this.deaf_until)
            .chain(unused_at)
            .chain(publish_at)
            .min()
        {
            if this.sleeps_until != Some(at) {
                this.sleep.as_mut().reset(this.shard.hub.instant(at));
                this.sleeps_until = Some(at);
            }
            if this.sleep.as_mut().poll(cx).is_pending() {
                break;
            }
            this.sleeps_until = None;
            sleeps += 1;
            if this.fire(this.shard.hub.now())
                || sleeps >= SHORT_SLEEPS
                || this.deaf_until.is_some()
                || unused_at.is_some()
                || publish_at.is_some()
            {
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
        #[cfg(feature = "metrics")]
        self.publisher.last(&self.shard);
    }
}

/// What arrived in one datagram of the socket.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) conv: Option<u32>,
    /// The KCP datagram in it, which may open a session. Parity has none.
    pub(crate) datagram: Option<&'a [u8]>,
    /// All of it, for the session's layers.
    pub(crate) whole: &'a [u8],
    /// Of the keys that the socket has had, which one opened it.
    pub(crate) key: u32,
}

/// Hands datagrams of one sender to their sessions: one lock per run of the same conversation.
fn deliver(
    shard: &Arc<Shard>,
    now: Timestamp,
    from: Route,
    datagrams: &mut [u8],
    stride: usize,
    touched: &mut Vec<Arc<Session>>,
) {
    let stride = stride.max(1);
    shard.count_received(datagrams.len().div_ceil(stride));
    match &shard.hub.front {
        None => {
            let packets = datagrams.chunks(stride).map(|datagram| Packet {
                conv: conv_of(datagram),
                datagram: Some(datagram),
                whole: datagram,
                key: 0,
            });
            dispatch(shard, now, from, packets, touched);
        }
        Some(front) => {
            let keys = front.keys();
            let packets = datagrams.chunks_mut(stride).filter_map(|packet| match keys.open(packet) {
                Ok((plain, key)) => Some(Front::route(plain, key)),
                Err(_) => {
                    count(&shard.hub.counters.dropped_unsealed);
                    None
                }
            });
            dispatch(shard, now, from, packets, touched);
        }
    }
}

fn dispatch<'a>(
    shard: &Arc<Shard>,
    now: Timestamp,
    from: Route,
    packets: impl Iterator<Item = Packet<'a>>,
    touched: &mut Vec<Arc<Session>>,
) {
    let mut rest = packets.peekable();
    while let Some(packet) = rest.next() {
        let Some(conv) = packet.conv else {
            count(&shard.hub.counters.dropped_unknown);
            continue;
        };
        let key = (from.peer, conv);
        let admit = || {
            packet
                .datagram
                .filter(|_| shard.hub.is_current_key(packet.key))
                .and_then(|datagram| shard.admit(from, conv, datagram, now))
        };
        let Some(session) = shard.hub.registry.get(&key).or_else(admit) else {
            if packet.datagram.is_none() {
                count(&shard.hub.counters.dropped_unknown);
            } else if !shard.hub.is_current_key(packet.key) {
                count(&shard.hub.counters.dropped_unsealed);
            }
            continue;
        };
        let mut state = session.lock();
        if state.layered.as_ref().is_some_and(|layered| layered.key() != packet.key) {
            // Who speaks for a session must have the key that it began with.
            count(&shard.hub.counters.dropped_unsealed);
            continue;
        }
        session.share(&mut state);
        let mut next = Some(packet);
        while let Some(packet) = next {
            let adopted = state.alias().is_some();
            let State { core, layered, .. } = &mut *state;
            let mut take = |datagram: &[u8]| {
                let result = if adopted {
                    core.handle_datagram(now, &adopt(datagram, session.conv))
                } else {
                    core.handle_datagram(now, datagram)
                };
                if let Err(error) = result
                    && let Some(more) = shard.hub.logs.refused.permit(now)
                {
                    tracing::debug!(peer = %from.peer, conv, %error, more, "datagrams refused");
                }
            };
            match layered {
                None => take(packet.whole),
                Some(layered) => layered.receive(now, packet.whole, take),
            }
            next = rest.next_if(|next| next.conv == Some(conv) && next.key == packet.key);
        }
        // Before the next session asks for its share; the epilogue comes after the whole batch.
        session.account(&mut state);
        session.let_roam(&mut state);
        if !std::mem::replace(&mut state.touched, true) {
            touched.push(session.clone());
        }
    }
}

/// A datagram of a peer that left the conv to us, under the conv that was chosen. Segments cut before the peer knew it keep
/// conv 0 for ever, and travel in one datagram with newer ones. Nothing is judged here: the core refuses what is wrong.
fn adopt(datagram: &[u8], conv: u32) -> Vec<u8> {
    let mut adopted = datagram.to_vec();
    let mut rest = adopted.as_mut_slice();
    while let Some((header, tail)) = rest.split_first_chunk_mut::<HEADER_LEN>() {
        let [c0, c1, c2, c3, .., l0, l1, l2, l3] = header;
        if [*c0, *c1, *c2, *c3] == [0; 4] {
            [*c0, *c1, *c2, *c3] = conv.to_le_bytes();
        }
        let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        rest = tail.get_mut(len..).unwrap_or_default();
    }
    adopted
}

/// A receive error ends nothing: most are a peer's ICMP message. Those that say "refused" tell a connect.
fn survive(shard: &Shard, error: &io::Error) {
    count(&shard.hub.counters.receive_errors);
    if let Some(more) = shard.hub.logs.receive.permit(shard.hub.now()) {
        tracing::debug!(%error, more, "receive errors");
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        // Only a socket connected to one peer knows whom it is about.
        if shard.hub.registry.len() == 1
            && let [session] = shard.hub.registry.all().as_slice()
        {
            session.on_refused();
        }
    }
}
