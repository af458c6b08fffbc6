//! Any bytes as a control payload: read whole or not at all, and what is read says the same when it is written again. The
//! same bytes as what answers a datagram of no session: never more than it brought, and nothing that begs for an answer.
#![no_main]

use std::sync::Arc;

use kcp_core::admission::answer_for;
use kcp_core::wire::{Command, Control, Header, Segments, controls};
use kcp_core::{Seed, Seq, Session, SessionConfig, Timestamp};
use libfuzzer_sys::fuzz_target;

/// As docs/WIRE.md has it.
fn encode(control: &Control<'_>) -> Vec<u8> {
    let sn = |sn: Seq| u64::from(sn.value());
    let (kind, values): (u8, &[u64]) = match *control {
        Control::Datagram(data) => {
            let len = u16::try_from(data.len()).expect("it came in a record");
            return [&[9], &len.to_le_bytes()[..], data].concat();
        }
        Control::Hello { token } => (1, &[token]),
        Control::HelloAck { token, echo } => (2, &[token, echo]),
        Control::Token { token } => (3, &[token]),
        Control::Fin { sn: end, token } => (4, &[token, sn(end)]),
        Control::FinAck { sn: end, token } => (5, &[token, sn(end)]),
        Control::Reset { proof } => (6, &[proof]),
        Control::Ping { nonce } => (7, &[nonce]),
        Control::Pong { nonce } => (8, &[nonce]),
        Control::PathChallenge { nonce } => (10, &[nonce]),
        Control::PathResponse { nonce, token } => (11, &[token, nonce]),
        _ => unreachable!("a message that this target does not know"),
    };
    let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    [&[kind, values.len() as u8, 0], &values[..]].concat()
}

fuzz_target!(|data: &[u8]| {
    if let Some(messages) = controls(data) {
        let messages: Vec<_> = messages.collect();
        let mut again = vec![0xE1];
        again.extend(messages.iter().flat_map(encode));
        assert!(again.len() <= data.len());
        assert_eq!(controls(&again).expect("written here").collect::<Vec<_>>(), messages);
    }

    let Some((&[cmd, sn], payload)) = data.split_first_chunk() else { return };
    let cmd = [Command::Push, Command::Ack, Command::Wask, Command::Wins][usize::from(cmd % 4)];
    let (sn, una, len) = (Seq::new(sn.into()), Seq::new(0), payload.len() as u32);
    let datagram = [&Header { conv: 5, cmd, frg: 0, wnd: 9, ts: 7, sn, una, len }.encode()[..], payload].concat();
    let config = Arc::new(SessionConfig::fast());
    let dead = Session::established(5, config, Seed::from_u64(0), Timestamp::ZERO).epitaph();
    for epitaph in [None, Some(&dead)] {
        let Some(answer) = answer_for(&datagram, epitaph) else { continue };
        assert!(answer.len() <= datagram.len());
        assert_eq!(Segments::parse(&answer, 5).expect("ours").count(), 1);
        // Two ends that have both forgotten a session do not answer each other for ever.
        assert_eq!(answer_for(&answer, epitaph), None);
    }
});
