//! What must hold however threads interleave. Lost wakeups show as deadlocks.

use std::future::poll_fn;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Poll, Waker};

use kcp_core::{Held, Seed, SessionConfig, Timestamp};

use crate::accept::{AcceptQueue, Over, Refused};
use crate::agenda::{Agenda, Marked, Marks, unmarked};
use crate::budget::Budget;
use crate::halfopen::{HalfOpen, Stranger};
use crate::life::Life;
use crate::logs::LogLimit;
use crate::registry::{Filed, Key, Named, Registry};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, STEPS, TASKS, block_on, check, lock, thread};
use crate::waiters::Waiters;

/// What `futures::task::AtomicWaker` promises, by simpler means.
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(crate) fn register(&self, waker: &Waker) {
        *lock(&self.0) = Some(waker.clone());
    }

    pub(crate) fn wake(&self) {
        let waker = lock(&self.0).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// As much of a session as the shared parts know.
struct Session {
    state: Mutex<State>,
    marks: Marks,
    half_open: AtomicBool,
    peer: Mutex<SocketAddr>,
}

#[derive(Default)]
struct State {
    written: u32,
    /// Has left the session.
    taken: u32,
    stash: Vec<u32>,
    reader: Waiters,
    ended: bool,
    /// Its stream is dropped.
    detached: bool,
}

#[derive(Clone)]
struct Handle(Arc<Session>);

impl Marked for Handle {
    fn marks(&self) -> &Marks {
        &self.0.marks
    }
}

impl Named for Session {
    fn key(&self) -> Key {
        (*lock(&self.peer), 7)
    }

    fn conv(&self) -> u32 {
        7
    }

    fn set_peer(&self, peer: SocketAddr) {
        *lock(&self.peer) = peer;
    }
}

impl Stranger for Session {
    fn is_half_open(&self) -> bool {
        self.half_open.load(Ordering::Acquire)
    }
}

fn at(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

const fn ms(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn session() -> Arc<Session> {
    Arc::new(Session {
        state: Mutex::default(),
        marks: Marks::default(),
        half_open: AtomicBool::new(true),
        peer: Mutex::new(at(1)),
    })
}

struct Shard {
    life: Life,
    agenda: Agenda<Handle>,
    wire: Mutex<Vec<u32>>,
    registry: Registry<Session, BuildHasherDefault<DefaultHasher>>,
    half_open: Mutex<HalfOpen<Session>>,
}

fn shard() -> Arc<Shard> {
    Arc::new(Shard {
        life: Life::new(1),
        agenda: Agenda::new(0),
        wire: Mutex::default(),
        registry: Registry::default(),
        half_open: Mutex::default(),
    })
}

impl Shard {
    /// As `Session::retire`.
    fn retire(&self, session: &Arc<Session>, state: &mut State) {
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        self.leave_half_open(session);
        let (config, seed) = (Arc::new(SessionConfig::fast()), Seed::from_u64(1));
        let epitaph = kcp_core::Session::established(7, config, seed, Timestamp::ZERO).epitaph();
        self.registry.remove(session, None, Timestamp::ZERO, epitaph);
        if self.registry.is_empty() {
            self.life.on_empty();
        }
    }

    fn leave_half_open(&self, session: &Session) {
        if session.half_open.swap(false, Ordering::AcqRel) {
            lock(&self.half_open).leave(lock(&session.peer).ip());
        }
    }

    /// As `Session::transmit` of a task.
    fn transmit(&self, session: &Handle, state: &mut State) {
        if !state.stash.is_empty() {
            return;
        }
        if session.0.marks.is_boxed() || self.agenda.gathers(ms(0)) {
            self.agenda.mark(&self.life, session);
            return;
        }
        lock(&self.wire).extend(state.taken..state.written);
        state.taken = state.written;
        // Only the model's driver wants to know.
        self.life.wake_driver(0);
    }
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn work_that_is_marked_is_done() {
    check(|| {
        let (shard, session) = (shard(), Handle(session()));
        let mut tasks = Vec::new();
        for _ in 0..TASKS {
            let (shard, session) = (shard.clone(), session.clone());
            tasks.push(thread::spawn(move || {
                for _ in 0..STEPS {
                    let mut state = lock(&session.0.state);
                    state.written += 1;
                    shard.agenda.mark(&shard.life, &session);
                }
            }));
        }
        let mut work = Vec::new();
        block_on(poll_fn(|cx| {
            shard.life.register(0, cx.waker());
            shard.agenda.take_work(&mut work);
            for session in unmarked(&mut work) {
                let mut state = lock(&session.0.state);
                state.taken = state.written;
            }
            if lock(&session.0.state).taken == TASKS * STEPS { Poll::Ready(()) } else { Poll::Pending }
        }));
        join(tasks);
    });
}

/// A task writes while the driver holds what was written before in its outbox, or has a full socket.
#[test]
fn nothing_overtakes_the_outbox_or_the_stash() {
    for full in [false, true] {
        check(move || {
            let (shard, session) = (shard(), Handle(session()));
            shard.agenda.gather(ms(1));
            let mut full = full;
            let task = {
                let (shard, session) = (shard.clone(), session);
                thread::spawn(move || {
                    for _ in 0..=STEPS {
                        let mut state = lock(&session.0.state);
                        state.written += 1;
                        shard.transmit(&session, &mut state);
                    }
                })
            };
            let mut work = Vec::new();
            block_on(poll_fn(|cx| {
                shard.life.register(0, cx.waker());
                shard.agenda.begin_turn();
                shard.agenda.take_work(&mut work);
                for session in unmarked(&mut work) {
                    let mut outbox = Vec::new();
                    {
                        let mut state = lock(&session.0.state);
                        if !state.stash.is_empty() {
                            continue;
                        }
                        session.0.marks.set_boxed();
                        outbox.extend(state.taken..state.written);
                        state.taken = state.written;
                    }
                    // The session is free while the outbox is emptied.
                    if !outbox.is_empty() && std::mem::take(&mut full) {
                        let mut state = lock(&session.0.state);
                        shard.agenda.wait_for_room(&shard.life, session.clone());
                        state.stash.append(&mut outbox);
                    }
                    lock(&shard.wire).append(&mut outbox);
                    session.0.marks.unbox();
                }
                if shard.agenda.has_blocked() {
                    for session in shard.agenda.take_blocked() {
                        let mut state = lock(&session.0.state);
                        lock(&shard.wire).append(&mut state.stash);
                        shard.transmit(&session, &mut state);
                    }
                }
                if lock(&shard.wire).len() as u32 == STEPS + 1 { Poll::Ready(()) } else { Poll::Pending }
            }));
            task.join().unwrap();
            assert!(lock(&shard.wire).iter().copied().eq(0..=STEPS), "{:?}", lock(&shard.wire));
        });
    }
}

#[test]
fn the_driver_sleeps_past_no_deadline() {
    check(|| {
        let (shard, session) = (shard(), Handle(session()));
        let mut tasks = Vec::new();
        for n in 1..=TASKS {
            let (shard, session) = (shard.clone(), session.clone());
            tasks.push(thread::spawn(move || {
                for step in 0..STEPS {
                    let at = ms(u64::from(n * 10 - step));
                    shard.agenda.insert_timer(&shard.life, at, session.clone());
                }
            }));
        }
        let earliest = ms(u64::from(10 - (STEPS - 1)));
        block_on(poll_fn(|cx| {
            shard.life.register(0, cx.waker());
            shard.agenda.begin_turn();
            if shard.agenda.arm() == Some(earliest) { Poll::Ready(()) } else { Poll::Pending }
        }));
        join(tasks);
        assert_eq!(shard.agenda.pop_timer(earliest).map(|(at, _)| at), Some(earliest));
    });
}

#[test]
fn a_driver_that_has_ended_is_left_nothing() {
    check(|| {
        let (shard, session) = (shard(), Handle(session()));
        let task = {
            let (shard, session) = (shard.clone(), session.clone());
            thread::spawn(move || {
                shard.agenda.mark(&shard.life, &session);
                shard.agenda.insert_timer(&shard.life, ms(1), session.clone());
                shard.agenda.wait_for_room(&shard.life, session);
            })
        };
        shard.life.kill();
        shard.agenda.clear();
        task.join().unwrap();
        assert_eq!(Arc::strong_count(&session.0), 1);
    });
}

#[test]
fn whoever_is_offered_is_accepted_by_one_of_several() {
    check(|| {
        let queue = Arc::new(AcceptQueue::new(true));
        let mut tasks = Vec::new();
        for n in 0..TASKS {
            let queue = queue.clone();
            tasks.push(thread::spawn(move || {
                if n % 2 == 0 {
                    assert_eq!(queue.offer(n, 10), Ok(()));
                } else {
                    block_on(poll_fn(|cx| queue.poll(cx.waker(), || false))).unwrap();
                }
            }));
        }
        if TASKS % 2 == 1 {
            block_on(poll_fn(|cx| queue.poll(cx.waker(), || false))).unwrap();
        }
        join(tasks);
        assert_eq!(queue.waiting(), Some(0));
    });
}

/// A listener is dropped while sessions arrive and a task waits for them: each is accepted, given back or refused.
#[test]
fn a_listener_that_closes_loses_no_session_and_leaves_nobody_waiting() {
    check(|| {
        let queue = Arc::new(AcceptQueue::new(true));
        let offers = {
            let queue = queue.clone();
            thread::spawn(move || {
                (0..STEPS).filter(|_| queue.offer((), 10) == Err(Refused::NotListening)).count()
            })
        };
        let accepts = {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut accepted = 0;
                while block_on(poll_fn(|cx| queue.poll(cx.waker(), || false))) != Err(Over::Closed) {
                    accepted += 1;
                }
                accepted
            })
        };
        let unaccepted = queue.close().len();
        let (refused, accepted) = (offers.join().unwrap(), accepts.join().unwrap());
        assert_eq!(unaccepted + refused + accepted, STEPS as usize);
        assert_eq!(queue.waiting(), None);
    });
}

#[test]
fn drivers_that_die_leave_nobody_waiting() {
    check(|| {
        let shard = shard();
        let queue = Arc::new(AcceptQueue::<()>::new(true));
        let accepts = {
            let (queue, shard) = (queue.clone(), shard.clone());
            thread::spawn(move || block_on(poll_fn(|cx| queue.poll(cx.waker(), || shard.life.is_dead()))))
        };
        shard.life.kill();
        queue.wake_all();
        assert_eq!(accepts.join().unwrap(), Err(Over::DriverGone));
    });
}

/// The last session ends while the last handle is dropped: the driver hears of it, and whoever waits for that.
#[test]
fn the_last_one_out_ends_the_driver() {
    check(|| {
        let (shard, session) = (shard(), session());
        assert_eq!(shard.registry.insert(&session, 1), Filed::Yes);
        shard.life.add_handle();
        let waits = {
            let shard = shard.clone();
            thread::spawn(move || {
                shard.life.drop_handle();
                block_on(poll_fn(|cx| shard.life.poll_idle(cx.waker(), || shard.registry.is_empty())));
            })
        };
        let ends = {
            let shard = shard.clone();
            thread::spawn(move || shard.retire(&session, &mut lock(&session.state)))
        };
        block_on(poll_fn(|cx| {
            shard.life.register(0, cx.waker());
            match shard.life.unused_at(|| shard.registry.is_empty()) {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
        }));
        waits.join().unwrap();
        ends.join().unwrap();
    });
}

/// Who dials files its session and then asks whether the driver lives; a driver that dies says so and then tells all sessions.
#[test]
fn a_session_dialled_while_the_driver_dies_is_told() {
    check(|| {
        let (shard, session) = (shard(), session());
        let dials = {
            let (shard, session) = (shard.clone(), session.clone());
            thread::spawn(move || {
                assert_eq!(shard.registry.insert(&session, 1), Filed::Yes);
                if shard.life.is_dead() {
                    shard.retire(&session, &mut lock(&session.state));
                }
            })
        };
        shard.life.kill();
        for session in shard.registry.all() {
            shard.retire(&session, &mut lock(&session.state));
        }
        dials.join().unwrap();
        assert!(lock(&session.state).ended && shard.registry.is_empty());
    });
}

/// One socket lets a stranger in while another hears that it has ended.
#[test]
fn a_stranger_who_ends_while_it_is_let_in_is_counted_once() {
    check(|| {
        let (shard, session) = (shard(), session());
        let elsewhere = {
            let shard = shard.clone();
            thread::spawn(move || {
                if let Some(session) = shard.registry.get(&(at(1), 7)) {
                    shard.retire(&session, &mut lock(&session.state));
                }
            })
        };
        {
            let _state = lock(&session.state);
            assert_eq!(shard.registry.insert(&session, 1), Filed::Yes);
            lock(&shard.half_open).push(at(1).ip(), &session, 4);
        }
        elsewhere.join().unwrap();
        let ended = lock(&session.state).ended;
        assert_eq!(lock(&shard.half_open).len(), usize::from(!ended));
        assert_eq!(shard.registry.len(), usize::from(!ended));
    });
}

/// A session follows its peer on one socket while it ends on another: it is gone for good, under either name.
#[test]
fn a_session_that_moves_while_it_ends_is_gone() {
    check(|| {
        let (shard, session) = (shard(), session());
        assert_eq!(shard.registry.insert(&session, 1), Filed::Yes);
        shard.registry.may_roam(&session);
        let moves = {
            let shard = shard.clone();
            thread::spawn(move || {
                if let Some(session) = shard.registry.roamer(7) {
                    let _state = lock(&session.state);
                    shard.registry.rename(&session, at(2));
                }
            })
        };
        if let Some(session) = shard.registry.get(&(at(1), 7)) {
            shard.retire(&session, &mut lock(&session.state));
        }
        moves.join().unwrap();
        // Found, unless it had moved already.
        shard.retire(&session, &mut lock(&session.state));
        assert!(shard.registry.is_empty() && shard.registry.all().is_empty());
        assert!([1, 2].iter().all(|&port| shard.registry.get(&(at(port), 7)).is_none()));
        assert!(shard.registry.roamer(7).is_none());
    });
}

#[test]
fn only_so_many_are_let_in() {
    check(|| {
        let shard = shard();
        let mut sockets = Vec::new();
        for n in 0..TASKS as u16 {
            let shard = shard.clone();
            sockets.push(thread::spawn(move || {
                let session = session();
                session.set_peer(at(n));
                shard.registry.insert(&session, 1);
            }));
        }
        join(sockets);
        assert_eq!((shard.registry.len(), shard.registry.all().len()), (1, 1));
    });
}

/// Data arrives while its reader begins to wait, and another that was cancelled has left its waker behind.
#[test]
fn a_reader_hears_of_data() {
    check(|| {
        let session = session();
        lock(&session.state).reader.register(std::task::Waker::noop());
        let reads = {
            let session = session.clone();
            thread::spawn(move || {
                block_on(poll_fn(|cx| {
                    let mut state = lock(&session.state);
                    if state.written == STEPS {
                        return Poll::Ready(());
                    }
                    state.reader.register(cx.waker());
                    Poll::Pending
                }));
            })
        };
        for _ in 0..STEPS {
            let mut wakers = Vec::new();
            {
                let mut state = lock(&session.state);
                state.written += 1;
                state.reader.take_into(&mut wakers);
            }
            wakers.into_iter().for_each(std::task::Waker::wake);
        }
        reads.join().unwrap();
    });
}

/// A stream is dropped, the last handle, while the driver works for it: both are gone afterwards.
#[test]
fn a_stream_dropped_while_its_driver_works_leaves_nothing() {
    check(|| {
        let (shard, session) = (shard(), Handle(session()));
        assert_eq!(shard.registry.insert(&session.0, 1), Filed::Yes);
        shard.life.add_handle();
        let stream = {
            let (shard, session) = (shard.clone(), session.clone());
            thread::spawn(move || {
                for n in 0..=STEPS {
                    let mut state = lock(&session.0.state);
                    state.written += 1;
                    state.detached = n == STEPS;
                    shard.agenda.mark(&shard.life, &session);
                }
                shard.life.drop_handle();
            })
        };
        let mut work = Vec::new();
        block_on(poll_fn(|cx| {
            shard.life.register(0, cx.waker());
            shard.agenda.take_work(&mut work);
            for session in unmarked(&mut work) {
                let mut state = lock(&session.0.state);
                state.taken = state.written;
                if state.detached {
                    shard.retire(&session.0, &mut state);
                }
            }
            match shard.life.unused_at(|| shard.registry.is_empty()) {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
        }));
        shard.life.kill();
        shard.agenda.clear();
        stream.join().unwrap();
        assert_eq!(lock(&session.0.state).taken, STEPS + 1);
        assert_eq!(Arc::strong_count(&session.0), 1);
    });
}

/// One of those who log at the same time does; what the others left out is counted.
#[test]
fn one_line_a_second_and_none_forgotten() {
    check(|| {
        let limit = Arc::new(LogLimit::default());
        let mut tasks = Vec::new();
        let said = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..TASKS {
            let (limit, said) = (limit.clone(), said.clone());
            tasks.push(thread::spawn(move || {
                for _ in 0..STEPS {
                    let more = limit.permit(ms(0));
                    lock(&said).extend(more);
                }
            }));
        }
        join(tasks);
        assert_eq!(lock(&said).len(), 1);
        let told = lock(&said).iter().sum::<u64>() + limit.permit(ms(1000)).unwrap();
        assert_eq!(told + 1, u64::from(TASKS * STEPS));
    });
}

/// What all hold is the sum of what each holds, and never wraps.
#[test]
fn a_budget_is_the_sum_of_its_sessions() {
    const fn held(received: usize) -> Held {
        Held { received, sent: 0 }
    }
    check(|| {
        let budget = Arc::new(Budget::new(100, 100));
        let mut sessions = Vec::new();
        for _ in 0..TASKS {
            let budget = budget.clone();
            sessions.push(thread::spawn(move || {
                let mut own = 0;
                for _ in 0..STEPS {
                    let share = budget.share(2, held(own)).received;
                    assert!(share <= 100, "wrapped: {share}");
                    budget.account(held(own), held(share));
                    own = share;
                }
                budget.account(held(own), held(0));
            }));
        }
        join(sessions);
        assert_eq!(budget.held(), held(0));
    });
}
