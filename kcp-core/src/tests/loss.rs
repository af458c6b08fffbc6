//! How losses are found: by later acknowledgements, by timeout; and what a pacing budget holds back.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::util::{lone, quiet, segment, sent};
use crate::congestion::{AckInfo, Controller, PacingBudget};
use crate::wire::Command::{Ack, Push};
use crate::{CloseReason, Event, NoDelay, Session, SessionConfig, Timestamp};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// An end that has sent one-byte segments 0..n at time 0, and their wire timestamps.
fn with_in_flight(config: SessionConfig, n: u32) -> (Session, Vec<u32>) {
    let mut end = lone(config.mtu(50));
    for _ in 0..n {
        end.write(at(0), b"x").unwrap();
        // One at a time, or the stream would join them.
        assert_eq!(sent(&mut end, at(0)).len(), 1);
    }
    (end, vec![0; n as usize])
}

fn ack(end: &mut Session, now: Timestamp, sn: u32) {
    end.handle_datagram(now, &segment(Ack, 0, 128, 0, sn, 0, b"")).unwrap();
}

#[test]
fn fast_retransmit_after_exactly_resend_later_acks() {
    for resend in 1..4 {
        let (mut end, _) = with_in_flight(quiet().nodelay(NoDelay { resend, ..NoDelay::TURBO }), 6);
        for sn in 1..=resend {
            assert_eq!(sent(&mut end, at(40)), [], "after {} of {resend}", sn - 1);
            ack(&mut end, at(40), sn);
        }
        assert_eq!(sent(&mut end, at(40)), [(Push, 0, 1)]);
        assert_eq!(end.stats().fast_retransmits, 1);
        assert_eq!(sent(&mut end, at(40)), [], "once");
    }
}

#[test]
fn resend_0_leaves_it_to_the_timeout() {
    let (mut end, _) = with_in_flight(quiet().nodelay(NoDelay { resend: 0, ..NoDelay::TURBO }), 6);
    for sn in 1..6 {
        ack(&mut end, at(40), sn);
    }
    assert_eq!(sent(&mut end, at(40)), []);
    assert_eq!(end.poll_timeout(), Some(at(0) + end.stats().rto));
}

/// When which segments leave of two that nothing comes back for, until the link counts as dead.
fn in_silence(nodelay: u8) -> (Vec<u64>, Vec<u64>) {
    let config = quiet().nodelay(NoDelay { nodelay, ..NoDelay::TURBO }).user_timeout(None);
    let (mut end, _) = with_in_flight(config, 2);
    let mut times = (vec![], vec![]);
    while end.close_reason().is_none() {
        let now = end.poll_timeout().unwrap();
        end.handle_timeout(now);
        for (cmd, sn, _) in sent(&mut end, now) {
            assert_eq!(cmd, Push);
            let times = if sn == 0 { &mut times.0 } else { &mut times.1 };
            times.push(now.as_micros() / 1000);
        }
    }
    assert_eq!(end.close_reason(), Some(CloseReason::DeadLink));
    times
}

#[test]
fn the_first_in_flight_asks_twice_a_second_whether_the_path_is_back() {
    let gaps = |times: &[u64]| times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
    for (nodelay, longest) in [(1, 2000), (2, 1900)] {
        let (first, second) = in_silence(nodelay);
        assert_eq!(gaps(&first).iter().max(), Some(&500), "mode {nodelay}");
        assert_eq!(gaps(&second).iter().max(), Some(&longest), "mode {nodelay}: all others wait");
        // Twenty transmissions make a dead link, and what asks in between is none of them.
        assert!(first.len() > 25, "{first:?}");
        assert!(second.len() <= 20, "{second:?}");
        let ends: Vec<_> = second.iter().filter(|time| first.contains(time)).collect();
        assert_eq!(ends.len(), second.len(), "when its timeout ends, so does that of the first");
    }
    let (first, _) = in_silence(0);
    assert!(*gaps(&first).iter().max().unwrap() > 50_000, "{first:?}");
}

#[test]
fn early_retransmit_needs_one_ack_when_nothing_new_waits() {
    let (mut end, _) = with_in_flight(quiet().early_retransmit(true), 3);
    ack(&mut end, at(40), 1);
    assert_eq!(sent(&mut end, at(40)), [(Push, 0, 1)]);
    // With new data waiting (the window is full), it takes two.
    let (mut end, _) = with_in_flight(quiet().early_retransmit(true).send_window(3), 3);
    end.write(at(30), b"new").unwrap();
    ack(&mut end, at(40), 1);
    assert_eq!(sent(&mut end, at(40)), []);
    ack(&mut end, at(40), 2);
    assert_eq!(sent(&mut end, at(40)), [(Push, 0, 1)]);
}

#[test]
fn repeated_acks_provoke_nothing() {
    let (mut end, _) = with_in_flight(quiet(), 3);
    for _ in 0..1000 {
        ack(&mut end, at(40), 1);
    }
    assert_eq!(sent(&mut end, at(40)), []);
}

#[test]
fn acked_segments_are_not_sent_again() {
    let (mut end, _) = with_in_flight(quiet(), 3);
    ack(&mut end, at(40), 1);
    assert_eq!(end.stats().in_flight, 3, "they hold their place until una");
    // First RTO: 200 ms by default, but a sample has been taken: 40 + max(10, 4 * 20) = 120 ms.
    assert_eq!(end.poll_timeout(), Some(at(120)));
    assert_eq!(sent(&mut end, at(120)), [(Push, 0, 1), (Push, 2, 1)]);
}

/// A segment that is lost time after time on a path that lets others through has not met a dead link.
#[test]
fn a_link_that_acknowledges_something_is_not_dead() {
    let mut end = lone(quiet().dead_link(4).user_timeout(None));
    let mut repeated = 0;
    for round in 0..8u64 {
        end.write(at(round * 3_000), b"x").unwrap();
        for (_, sn, _) in sent(&mut end, at(round * 3_000)) {
            repeated += u32::from(sn == 0);
        }
        if round > 0 {
            ack(&mut end, at(round * 3_000 + 1), round as u32);
        }
        for (_, sn, _) in sent(&mut end, at(round * 3_000 + 2)) {
            repeated += u32::from(sn == 0);
        }
    }
    assert!(repeated > 4, "{repeated} transmissions of the first");
    assert_eq!(end.close_reason(), None);
}

#[test]
fn dead_link_is_reported() {
    let mut end = lone(quiet().dead_link(4).user_timeout(None));
    end.write(at(0), b"x").unwrap();
    let mut transmissions = 0;
    let mut now = at(0);
    while end.close_reason().is_none() {
        transmissions += sent(&mut end, now).len();
        now = end.poll_timeout().unwrap_or(now);
    }
    assert_eq!((transmissions, end.close_reason()), (4, Some(CloseReason::DeadLink)));
    let events: Vec<Event> = core::iter::from_fn(|| end.poll_event()).collect();
    assert_eq!(events.last(), Some(&Event::Closed(CloseReason::DeadLink)));
}

/// Lets `bytes` leave, the rest one millisecond later.
#[derive(Debug)]
struct Paced {
    bytes: u64,
    next: Timestamp,
}

impl Controller for Paced {
    fn on_ack(&mut self, _: Timestamp, _: &AckInfo) {}
    fn on_fast_retransmit(&mut self, _: Timestamp, _: u32, _: u32) {}
    fn on_timeout(&mut self, _: Timestamp, _: u32) {}
    fn window(&self) -> u32 {
        u32::MAX
    }
    fn on_tick(&mut self, now: Timestamp) {
        if now >= self.next {
            self.bytes = 250;
            self.next = now.plus_micros(1000);
        }
    }
    fn on_pkt_sent(&mut self, _: Timestamp, bytes: usize) {
        self.bytes -= bytes as u64;
    }
    fn pacing_budget(&mut self, _: Timestamp) -> PacingBudget {
        PacingBudget { bytes: self.bytes, next: Some(self.next) }
    }
}

#[test]
fn an_exhausted_budget_books_nothing() {
    let mut end = lone(quiet().mtu(124));
    end.set_controller(Box::new(Paced { bytes: 250, next: at(1) }));
    end.write(at(0), &[7; 500]).unwrap();
    // 124 bytes each with their header: two fit into 250, a third does not.
    assert_eq!(sent(&mut end, at(0)), [(Push, 0, 100), (Push, 1, 100)]);
    let stats = end.stats();
    assert_eq!((stats.segments_sent, stats.in_flight, stats.unsent_bytes), (2, 2, 300));
    assert_eq!(end.poll_timeout(), Some(at(1)));
    assert_eq!(sent(&mut end, at(1)), [(Push, 2, 100), (Push, 3, 100)]);
    assert_eq!(sent(&mut end, at(2)), [(Push, 4, 100)]);
    assert_eq!(end.stats().retransmits, 0);
    // Retransmissions are paced by the same budget.
    let timeout = at(200);
    assert_eq!(sent(&mut end, timeout).len(), 2);
    assert_eq!(end.stats().timeout_retransmits, 2);
    assert_eq!(end.poll_timeout(), Some(at(201)));
}

#[test]
fn classic_congestion_control_limits_what_is_in_flight() {
    let mut end = lone(quiet().nodelay(NoDelay { nc: false, ..NoDelay::TURBO }).mtu(124));
    end.write(at(0), &[7; 5000]).unwrap();
    assert_eq!(sent(&mut end, at(0)).len(), 1);
    end.handle_datagram(at(10), &segment(Ack, 0, 128, 0, 0, 1, b"")).unwrap();
    assert_eq!(sent(&mut end, at(10)).len(), 2);
    assert_eq!(end.stats().cwnd, 2);
}

#[test]
fn datagrams_shrink_with_the_mtu() {
    let mut end = crate::Kcp::new(77);
    end.nodelay(1, 10, 2, 1);
    end.set_stream(true);
    end.update(0);
    end.send(&vec![1; 5000]).unwrap();
    end.set_mtu(100).unwrap();
    end.update(10);
    let lens: Vec<usize> = core::iter::from_fn(|| end.poll_output()).map(|d| d.len()).collect();
    assert!(lens.iter().all(|&len| len <= 100), "{lens:?}");
    assert_eq!(lens.len(), 32, "a window of them");
}
