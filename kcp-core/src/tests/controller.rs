//! What a controller hears and when.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::format;
use std::sync::Mutex;

use super::util::{lone, output, quiet, segment, sent};
use crate::congestion::{AckInfo, Controller, PacingBudget};
use crate::wire::Command::{Ack, Push, Wins};
use crate::{Session, SessionConfig, Timestamp};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

/// Writes down what it hears, but for ticks.
#[derive(Debug)]
struct Recorder {
    heard: Arc<Mutex<Vec<String>>>,
    window: u32,
    budget: PacingBudget,
}

impl Recorder {
    fn note(&self, what: String) {
        self.heard.lock().unwrap().push(what);
    }
}

impl Controller for Recorder {
    fn on_ack(&mut self, _: Timestamp, ack: &AckInfo) {
        let rtt = ack.rtt.map(|rtt| rtt.as_millis());
        self.note(format!("ack {} {} {} {rtt:?}", ack.segments, ack.bytes, ack.in_flight));
    }

    fn on_fast_retransmit(&mut self, _: Timestamp, in_flight: u32, resend: u32) {
        self.note(format!("fast {in_flight} {resend}"));
    }

    fn on_timeout(&mut self, _: Timestamp, in_flight: u32) {
        self.note(format!("timeout {in_flight}"));
    }

    fn on_pkt_sent(&mut self, _: Timestamp, bytes: usize) {
        self.note(format!("sent {bytes}"));
    }

    fn on_app_limited(&mut self, _: Timestamp) {
        self.note("limited".into());
    }

    fn window(&self) -> u32 {
        self.window
    }

    fn pacing_budget(&mut self, _: Timestamp) -> PacingBudget {
        self.budget
    }
}

fn recorded(config: SessionConfig, window: u32, budget: PacingBudget) -> (Session, impl Fn() -> Vec<String>) {
    let heard = Arc::new(Mutex::new(vec![]));
    let mut end = lone(config);
    end.set_controller(Box::new(Recorder { heard: heard.clone(), window, budget }));
    (end, move || core::mem::take(&mut *heard.lock().unwrap()))
}

#[test]
fn acknowledgements_losses_and_timeouts_are_told_once() {
    let (mut end, heard) = recorded(quiet(), 10, PacingBudget::UNLIMITED);
    for n in 0..4 {
        end.write(at(0), &[0; 1376]).unwrap();
        assert_eq!(sent(&mut end, at(0)), [(Push, n, 1376)]);
    }
    assert!(heard().iter().all(|what| ["sent 1400", "limited"].contains(&what.as_str())));
    end.handle_datagram(at(30), &segment(Ack, 0, 128, 0, 1, 1, b"")).unwrap();
    assert_eq!(heard(), ["ack 1 2752 3 Some(30)"]);
    end.handle_datagram(at(40), &segment(Wins, 0, 128, 0, 1, 1, b"")).unwrap();
    assert_eq!(heard(), [""; 0]);
    let acks = [segment(Ack, 0, 128, 0, 3, 1, b""), segment(Push, 0, 128, 0, 0, 1, b"")].concat();
    end.handle_datagram(at(45), &acks).unwrap();
    assert_eq!(heard(), ["ack 0 1376 3 Some(45)"], "one overtook it, not two");
    end.write(at(50), &[0; 1376]).unwrap();
    output(&mut end, at(50));
    heard();
    end.handle_datagram(at(90), &segment(Ack, 0, 128, 50, 4, 1, b"")).unwrap();
    assert_eq!(heard(), ["ack 0 1376 4 Some(40)", "fast 4 2"]);
    assert_eq!(sent(&mut end, at(90)), [(Push, 2, 1376)]);
    heard();
    let due = end.poll_timeout().unwrap();
    assert_eq!(sent(&mut end, due), [(Push, 2, 1376)]);
    assert_eq!(heard(), ["timeout 4", "limited", "sent 1400", "limited"]);
}

#[test]
fn an_application_that_offers_less_than_the_window_takes_is_told_of() {
    let (mut end, heard) = recorded(quiet(), 2, PacingBudget::UNLIMITED);
    output(&mut end, at(0));
    assert_eq!(heard(), ["limited"], "nothing to send");
    end.write(at(0), &[0; 3 * 1376]).unwrap();
    assert_eq!(sent(&mut end, at(0)).len(), 2);
    output(&mut end, at(0));
    assert_eq!(heard(), ["sent 1400", "sent 1400"], "the window is full");
    end.handle_datagram(at(1), &segment(Ack, 0, 128, 0, 1, 2, b"")).unwrap();
    heard();
    assert_eq!(sent(&mut end, at(1)), [(Push, 2, 1376)]);
    assert_eq!(heard().last().map(String::as_str), Some("limited"));
    // What is held is the application's to offer.
    end.set_write_delay(true);
    end.write(at(2), b"x").unwrap();
    assert_eq!(sent(&mut end, at(2)), []);
    assert_eq!(heard(), [""; 0]);
    assert_eq!(sent(&mut end, at(12)), [(Push, 3, 1)]);
    assert_eq!(heard(), ["sent 25"]);
    output(&mut end, at(12));
    assert_eq!(heard(), [""; 0]);
}

#[test]
fn a_budget_that_is_spent_is_waited_for() {
    let next = Some(at(7));
    let (mut end, _) = recorded(quiet(), 10, PacingBudget { bytes: 2 * 1400, next });
    end.write(at(0), &[0; 3 * 1376]).unwrap();
    let run = end.poll_transmit(at(0), crate::Framing { max_datagrams: 9 }, &mut vec![]).unwrap();
    assert_eq!((run.datagrams, run.len), (2, 2 * 1400));
    assert_eq!(end.poll_timeout(), next);
    let (mut end, _) = recorded(quiet(), 10, PacingBudget { bytes: 1399, next });
    end.write(at(0), &[0; 1376]).unwrap();
    assert_eq!(sent(&mut end, at(0)), []);
    assert_eq!(end.poll_timeout(), next);
}
