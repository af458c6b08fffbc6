//! The timer heap and the marks of its sessions, against deadlines that are simply remembered.

use kcp_core::Timestamp;

use crate::timers::{Mark, Timers};

const SESSIONS: usize = 12;

#[derive(Default)]
struct Heap {
    timers: Timers<usize>,
    marks: [Mark; SESSIONS],
    entries: usize,
    /// When the driver would wake up; none while it does not sleep.
    sleeps: Option<Option<Timestamp>>,
}

impl Heap {
    /// As `Session::schedule`.
    fn schedule(&mut self, session: usize, at: Timestamp) {
        if !self.marks[session].enter(at) {
            return;
        }
        self.entries += 1;
        let woken = self.timers.insert(at, session);
        if let Some(until) = &mut self.sleeps
            && until.is_none_or(|until| at < until)
        {
            assert!(woken, "the driver sleeps past {at:?}");
            *until = Some(at);
        }
    }
}

/// Deadlines move, earlier, later and away; each is served in the first turn after it, and none before.
#[test]
fn same_as_remembered_deadlines() {
    for seed in 0..100 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut heap = Heap::default();
        let mut wanted = [None::<Timestamp>; SESSIONS];
        let mut now = Timestamp::from_millis(rng.u64(0..1000));
        // Some lives are crowded: many deadlines at the same instant.
        let spread = *rng.choice(&[5, 100, 10_000]).unwrap();
        for step in 0..2000 {
            let session = rng.usize(0..SESSIONS);
            match rng.u8(0..10) {
                0..=5 => {
                    let at = now + std::time::Duration::from_millis(rng.u64(0..spread));
                    wanted[session] = Some(at);
                    heap.schedule(session, at);
                }
                6 => wanted[session] = None,
                _ => {
                    now += std::time::Duration::from_millis(rng.u64(0..spread / 2 + 1));
                    heap.sleeps = None;
                    let mut last = Timestamp::ZERO;
                    while let Some((at, session)) = heap.timers.pop_due(now) {
                        heap.entries -= 1;
                        assert!(last <= at && at <= now, "seed {seed} step {step}: out of order");
                        last = at;
                        if !heap.marks[session].fired(at) {
                            continue;
                        }
                        if wanted[session].is_some_and(|at| at <= now) {
                            // Served; often there is a next one, which is not due at once.
                            wanted[session] = rng
                                .bool()
                                .then(|| now + std::time::Duration::from_millis(rng.u64(1..=spread)));
                        }
                        if let Some(at) = wanted[session] {
                            heap.schedule(session, at);
                            // Entered as due would be popped again in this turn.
                            assert!(at > now);
                        }
                        last = last.min(at);
                    }
                    assert!(wanted.iter().flatten().all(|&at| at > now), "seed {seed} step {step}: missed");
                    let armed = heap.timers.arm();
                    heap.sleeps = Some(armed);
                    let earliest = wanted.iter().flatten().min();
                    assert!(earliest.is_none_or(|&at| armed.is_some_and(|armed| armed <= at)));
                }
            }
        }
        // What lies in the heap for nothing goes with time.
        now += std::time::Duration::from_secs(20);
        while let Some((at, session)) = heap.timers.pop_due(now) {
            heap.entries -= 1;
            heap.marks[session].fired(at);
        }
        assert_eq!((heap.entries, heap.timers.arm()), (0, None));
    }
}
