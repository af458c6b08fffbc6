//! To an address that has proven nothing: how long segments are, what stands before them, what is left of the allowance.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::util::{output, quiet, segment, sent};
use crate::wire::Command::{self, Ack, Push, Wask, Wins};
use crate::wire::control::{Control, MAGIC, controls, pad};
use crate::{Framing, Seed, Session, SessionConfig, Timestamp};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn accepted(config: SessionConfig) -> Session {
    Session::accept(77, Arc::new(config), Seed::from_u64(1), at(0))
}

fn plain(config: SessionConfig) -> Session {
    accepted(config.extensions(false))
}

/// Every datagram that it wants to send now.
fn datagrams(end: &mut Session, now: Timestamp) -> Vec<Vec<u8>> {
    let mut all = vec![];
    let mut buf = vec![];
    while end.poll_transmit(now, Framing::default(), &mut buf).is_some() {
        all.push(core::mem::take(&mut buf));
    }
    all
}

#[test]
fn segments_leave_room_for_what_may_stand_before_them() {
    for (mtu, lead) in [(127, 25), (128, 44), (1400, 44)] {
        let mut end = plain(quiet().mtu(mtu));
        for sn in 0..4 {
            end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 0, &[0; 1376])).unwrap();
        }
        end.write(at(0), &[0; 5000]).unwrap();
        assert_eq!(sent(&mut end, at(0)), [(Push, 0, mtu - 24 - lead)]);
        // Proven: full ones.
        let ts = end.poll_timeout().map(|due| output(&mut end, due)[0][0].0.ts).unwrap();
        end.handle_datagram(at(300), &segment(Ack, 0, 128, ts, 0, 1, b"")).unwrap();
        assert!(end.is_validated());
        assert!(sent(&mut end, at(300)).contains(&(Push, 1, mtu - 24)));
    }
}

#[test]
fn a_segment_takes_a_third_of_what_is_allowed() {
    for (received, len) in [(600, 600), (24, 24), (1, 1), (0, 1)] {
        let mut end = plain(quiet());
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 0, 0, &vec![0; received])).unwrap();
        end.write(at(0), &[0; 5000]).unwrap();
        assert_eq!(sent(&mut end, at(0)), [(Push, 0, len)], "{received}");
    }
}

#[test]
fn what_is_asked_and_told_counts_as_well() {
    let mut end = plain(quiet());
    end.handle_datagram(at(0), &segment(Wask, 0, 128, 0, 0, 0, b"")).unwrap();
    end.write(at(0), b"xy").unwrap();
    end.probe_path();
    // 49 of 72 bytes: a third header would be one too many.
    assert_eq!(sent(&mut end, at(0)), [(Push, 0, 1), (Wask, 1, 0)]);
}

#[test]
fn only_so_many_strangers_are_answered() {
    let mut end = accepted(quiet());
    // 25 bytes, of which one does not count as a segment: 75 may be answered.
    end.handle_datagram(at(0), &[segment(Wins, 0, 128, 0, 0, 0, b""), vec![0]].concat()).unwrap();
    for n in 0..4u32 {
        let stranger = segment(Push, 0, 128, 5, n, 1, b"x");
        assert!(end.handle_datagram(at(0), &stranger).is_err());
        let answers = datagrams(&mut end, at(0));
        let una = n.wrapping_sub(65_535);
        let answer = segment(Wins, 0, 128, 5, n, una, &[MAGIC]);
        assert_eq!(answers, if n < 3 { vec![answer] } else { vec![] });
    }
}

#[test]
fn what_is_said_again_and_again_stays_within_the_allowance() {
    for length in 0..60 {
        let mut end = accepted(quiet().keepalive(Some(core::time::Duration::from_secs(1))));
        let mut hello = vec![MAGIC];
        Control::Hello { token: 5 }.encode(&mut hello);
        pad(&mut hello, length);
        let hello = segment(Wask, 0, 128, 0, 0, 0, &hello);
        end.handle_datagram(at(0), &hello).unwrap();
        end.shutdown();
        let (mut now, mut said) = (at(0), 0);
        while now < at(60_000) {
            end.handle_timeout(now);
            said += datagrams(&mut end, now).iter().map(Vec::len).sum::<usize>();
            now = end.poll_timeout().unwrap_or(at(60_000));
        }
        assert!((1..=hello.len() * 3).contains(&said), "{length}: {said}");
    }
}

/// One that knows this conversation from before learns that it is over: nothing is acknowledged, and its echo is the proof.
#[test]
fn data_that_opens_is_denied_by_those_that_speak_the_extensions() {
    let data = segment(Push, 0, 128, 9, 0, 0, b"x");
    let mut end = accepted(quiet());
    // Beside something that only one of ours says, and that means nothing here.
    end.handle_datagram(at(0), &[data.clone(), segment(Wins, 0, 128, 9, 4, 0, &[MAGIC])].concat()).unwrap();
    assert_eq!(end.poll_timeout(), Some(Timestamp::ZERO));
    let denial = &datagrams(&mut end, at(0))[0];
    let wnd = u16::from_le_bytes([denial[6], denial[7]]);
    assert_eq!(denial, &segment(Wins, 0, wnd, 9, 0, 0u32.wrapping_sub(65_535), &[MAGIC]));
    let mut end = plain(quiet());
    end.handle_datagram(at(0), &data).unwrap();
    assert_eq!(sent(&mut end, at(3)), [(Ack, 0, 0)]);
}

/// The 64 oldest transmissions are remembered, and no more.
#[test]
fn an_echo_of_one_of_the_first_is_the_proof() {
    for (nth, proof) in [(0, true), (63, true), (64, false)] {
        let config = quiet().dead_link(1000).user_timeout(None).extensions(false);
        let mut end = plain(config);
        for sn in 0..20 {
            end.handle_datagram(at(0), &segment(Push, 0, 128, 0, sn, 0, &[0; 1000])).unwrap();
        }
        end.write(at(0), b"x").unwrap();
        let mut echoes = vec![];
        let mut now = at(0);
        while echoes.len() < 65 {
            let all = output(&mut end, now).into_iter().flatten();
            echoes.extend(all.filter(|(header, _)| header.cmd == Push).map(|(header, _)| header.ts));
            now = end.poll_timeout().unwrap();
        }
        end.handle_datagram(now, &segment(Ack, 0, 128, echoes[nth], 0, 1, b"")).unwrap();
        assert_eq!(end.is_validated(), proof, "{nth}");
    }
}

/// Where datagrams are too short to begin with the answer to a hello, nothing else leaves until the token has come.
#[test]
fn short_datagrams_have_room_for_the_answer_alone() {
    for (mtu, mute) in [(50, true), (127, true), (128, false), (1400, false)] {
        let mut end = accepted(quiet().mtu(mtu));
        let mut hello = vec![MAGIC];
        Control::Hello { token: 5 }.encode(&mut hello);
        Control::Ping { nonce: 6 }.encode(&mut hello);
        pad(&mut hello, 1000);
        end.handle_datagram(at(0), &segment(Wask, 0, 128, 0, 0, 0, &hello)).unwrap();
        end.write(at(0), b"x").unwrap();
        let all = datagrams(&mut end, at(0));
        let mut kinds = vec![];
        for datagram in &all {
            assert!(datagram.len() <= mtu);
            for (header, payload) in crate::wire::Segments::parse(datagram, 77).unwrap() {
                let of = |control| match control {
                    Control::HelloAck { token, echo: 5 } => {
                        assert_eq!(token, end.epitaph().own);
                        "answer"
                    }
                    Control::Pong { nonce: 6 } => "pong",
                    _ => "",
                };
                match header.cmd {
                    Push => kinds.push("data"),
                    _ => kinds.extend(controls(payload).into_iter().flatten().map(of)),
                }
            }
        }
        assert_eq!(
            kinds,
            if mute { vec!["answer"] } else { vec!["answer", "pong", "answer", "data"] },
            "{mtu}"
        );
        let token = |token| {
            let mut payload = vec![MAGIC];
            Control::Token { token }.encode(&mut payload);
            segment(Command::Wins, 0, 128, 0, 1, 0, &payload)
        };
        end.handle_datagram(at(1), &token(end.epitaph().own)).unwrap();
        assert_eq!(sent(&mut end, at(1)).iter().any(|&(cmd, ..)| cmd == Push), mute);
    }
}

#[test]
fn a_denial_that_there_is_no_room_for_keeps_nothing_else_waiting() {
    // Found by fuzzing: what was due together with it was not sent before the next call.
    for received in 0..60 {
        let mut end = accepted(quiet());
        end.handle_datagram(at(0), &segment(Push, 0, 128, 0, 0, 0, &vec![0; received])).unwrap();
        end.write(at(0), b"x").unwrap();
        output(&mut end, at(0));
        for _ in 0..9 {
            let Some(now) = end.poll_timeout() else { break };
            // It speaks to somebody who was here before.
            assert!(end.handle_datagram(now, &segment(Push, 0, 128, 0, 1 << 20, 9, b"x")).is_err());
            end.handle_timeout(now);
            output(&mut end, now);
            assert!(end.poll_timeout().is_none_or(|next| next > now), "{received}");
        }
    }
}
