//! Control messages: what is owed at once, what is refused, and when both ends have finished.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use kcp_netsim::LinkConfig;

use super::extension::dialled;
use super::util::{Pair, lone, output, quiet, segment, sent};
use crate::seq::Seq;
use crate::wire::Command::{self, Ack, Push, Wask, Wins};
use crate::wire::control::{Control, MAGIC, controls};
use crate::{CloseReason, Event, InputError, ReadError, Seed, Session, SessionConfig, Timestamp};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn pair() -> Pair {
    dialled(&quiet(), &LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() }, 1)
}

/// The same, when all that the handshake says has been said.
fn settled() -> Pair {
    let mut pair = pair();
    pair.run_for(Duration::from_secs(1));
    pair
}

/// A datagram of one segment with these messages.
fn control(cmd: Command, messages: &[Control<'_>]) -> Vec<u8> {
    let mut payload = vec![MAGIC];
    messages.iter().for_each(|message| message.encode(&mut payload));
    segment(cmd, 0, 128, 0, 1, 0, &payload)
}

/// What of `wanted` an end says now.
fn says(end: &mut Session, now: Timestamp, wanted: impl Fn(Control<'_>) -> bool) -> bool {
    let all = output(end, now).into_iter().flatten().filter(|(header, _)| header.cmd != Push);
    all.flat_map(|(_, payload)| controls(&payload).into_iter().flatten().map(&wanted).collect::<Vec<_>>())
        .any(|yes| yes)
}

fn events(end: &mut Session) -> Vec<Event> {
    core::iter::from_fn(|| end.poll_event()).collect()
}

fn dial(config: SessionConfig, now: Timestamp) -> (Session, Vec<u8>) {
    let mut client = Session::connect(77, Arc::new(config), Seed::from_u64(2), now);
    let mut probe = vec![];
    client.poll_transmit(now, crate::Framing::default(), &mut probe).unwrap();
    (client, probe)
}

#[test]
fn a_session_tells_its_parameters() {
    let end = lone(quiet().mtu(1000));
    assert_eq!((end.conv(), end.config().mtu_bytes(), end.rto()), (77, 1000, Duration::from_millis(200)));
}

#[test]
fn two_things_owed_at_once_are_both_said() {
    let is_reset = |control: Control<'_>| matches!(control, Control::Reset { .. });
    let is_answer = |control: Control<'_>| matches!(control, Control::HelloAck { .. });
    // The token, and the end.
    let (mut client, probe) = dial(quiet(), at(0));
    let mut server = Session::accept(77, Arc::new(quiet()), Seed::from_u64(1), at(0));
    server.handle_datagram(at(0), &probe).unwrap();
    let (token, echo) = (server.epitaph().own, client.epitaph().own);
    client.handle_datagram(at(0), &control(Wins, &[Control::HelloAck { token, echo }])).unwrap();
    client.abort();
    assert!(says(&mut client, at(0), is_reset));
    // An answer that is repeated, and a hello that has come again.
    assert!(says(&mut server, at(0), is_answer));
    assert!(!says(&mut server, at(1), is_answer));
    server.handle_datagram(at(1), &probe).unwrap();
    assert!(says(&mut server, at(1), is_answer));
    // A question, and the end.
    let mut pair = settled();
    let now = pair.now;
    for end in &mut pair.ends {
        end.probe_path();
        end.abort();
        assert!(says(end, now, is_reset));
        assert_eq!(output(end, now).len(), 0);
    }
    let mut pair = dialled(&quiet().keepalive(Some(Duration::from_secs(5))), &LinkConfig::default(), 1);
    let later = pair.now + Duration::from_secs(5);
    pair.ends[0].handle_timeout(later);
    pair.ends[0].abort();
    assert!(says(&mut pair.ends[0], later, is_reset));
    // Nothing else is: an answer to a question.
    let mut pair = settled();
    let now = pair.now;
    for end in &mut pair.ends {
        end.handle_datagram(now, &control(Wask, &[Control::Ping { nonce: 3 }])).unwrap();
        assert!(says(end, now, |control| control == Control::Pong { nonce: 3 }));
    }
}

#[test]
fn whoever_was_reset_or_has_ended_says_nothing_more() {
    let mut pair = settled();
    let now = pair.now;
    let proof = pair.ends[0].epitaph().own;
    let both = control(Wask, &[Control::Ping { nonce: 3 }, Control::Reset { proof }]);
    assert_eq!(pair.ends[0].handle_datagram(now, &both), Err(InputError::Closed(CloseReason::Reset)));
    assert_eq!(output(&mut pair.ends[0], now).len(), 0);
    assert_eq!((pair.ends[0].poll_timeout(), pair.ends[0].has_lost_data()), (None, false));
    pair.ends[0].shutdown();
    assert!(!pair.ends[0].is_shutdown());
}

#[test]
fn whoever_is_refused_was_never_connected() {
    let (mut client, _) = dial(quiet(), at(0));
    let proof = client.epitaph().own;
    assert!(client.handle_datagram(at(0), &control(Wins, &[Control::Reset { proof }])).is_err());
    let refused = Event::Closed(CloseReason::Refused);
    assert_eq!(events(&mut client), [Event::Readable, Event::Writable, refused]);
    assert_eq!(output(&mut client, at(0)).len(), 0);
    let (mut client, _) = dial(quiet(), at(0));
    client.handle_datagram(at(0), &segment(Wins, 0, 128, 0, 0, 0, b"")).unwrap();
    client.abort();
    assert_eq!(events(&mut client)[0], Event::Connected, "it was, before it ended");
}

#[test]
fn without_extensions_no_hello_leaves() {
    let config = quiet().extensions(false);
    assert_eq!(dial(config.clone(), at(0)).1.len(), 24);
    let mut lazy = Session::connect_lazy(77, Arc::new(config), Seed::from_u64(2), at(0));
    lazy.write(at(0), b"x").unwrap();
    assert_eq!(sent(&mut lazy, at(0)), [(Push, 0, 1)]);
    assert_eq!(lazy.poll_timeout(), Some(at(200)), "the timeout of that");
    assert_eq!(sent(&mut lazy, at(200)), [(Push, 0, 1)]);
}

#[test]
fn a_hello_is_repeated_five_times_or_until_a_plain_peer_answers() {
    for answered in [false, true] {
        let mut lazy = Session::connect_lazy(77, Arc::new(quiet()), Seed::from_u64(2), at(0));
        let mut times = vec![];
        while let Some(due) = lazy.poll_timeout() {
            // Nobody is woken after the last.
            assert!(says(&mut lazy, due, |control| matches!(control, Control::Hello { .. })));
            times.push(due.as_millis());
            if answered && times.len() == 2 {
                lazy.handle_datagram(due, &segment(Wins, 0, 128, 0, 0, 0, b"")).unwrap();
            }
        }
        assert_eq!(times[..2], [200, 400]);
        assert_eq!(times[2..], if answered { vec![] } else { vec![600, 800, 1000] });
    }
}

#[test]
fn only_the_answer_to_our_own_hello_counts() {
    let mut server = Session::accept(77, Arc::new(quiet()), Seed::from_u64(1), at(0));
    let echo = server.epitaph().own;
    server.handle_datagram(at(0), &control(Wins, &[Control::HelloAck { token: 9, echo }])).unwrap();
    assert!(!server.is_extended());
    let (mut client, _) = dial(quiet(), at(0));
    let echo = client.epitaph().own;
    client.handle_datagram(at(0), &control(Wins, &[Control::HelloAck { token: 9, echo: echo ^ 1 }])).unwrap();
    assert!(!client.is_extended());
    client.handle_datagram(at(0), &control(Wins, &[Control::HelloAck { token: 9, echo }])).unwrap();
    assert!(client.is_extended());
}

/// What the application says may look like anything.
#[test]
fn data_that_looks_like_another_lifes_answer_is_data() {
    let (mut client, _) = dial(quiet(), at(0));
    let echo = client.epitaph().own;
    let answer = |token| control(Wins, &[Control::HelloAck { token, echo }]);
    client.handle_datagram(at(0), &answer(9)).unwrap();
    let payload = answer(10)[24..].to_vec();
    client.handle_datagram(at(1), &segment(Push, 0, 128, 0, 0, 0, &payload)).unwrap();
    let mut read = vec![0; 100];
    let len = client.read(at(1), &mut read).unwrap();
    assert_eq!(read[..len], payload);
    assert!(!client.is_closed());
    // Said by the protocol it is another life's, and the end of this one.
    let _ = client.handle_datagram(at(2), &answer(10));
    assert_eq!(client.close_reason(), Some(CloseReason::Reset));
}

#[test]
fn only_the_answer_to_the_question_ends_the_search() {
    let mut pair = settled();
    let now = pair.now;
    let end = &mut pair.ends[0];
    end.probe_path();
    let mut nonce = 0;
    says(end, now, |control| matches!(control, Control::Ping { .. }));
    let again = end.poll_timeout().unwrap();
    assert_eq!(again, now + end.rto());
    end.handle_datagram(now, &control(Wins, &[Control::Pong { nonce }])).unwrap();
    assert_eq!(end.poll_timeout(), Some(again));
    for (_, payload) in output(end, again).into_iter().flatten() {
        for control in controls(&payload).unwrap() {
            let Control::Ping { nonce: asked } = control else { panic!("{control:?}") };
            nonce = asked;
        }
    }
    end.handle_datagram(again, &control(Wins, &[Control::Pong { nonce }])).unwrap();
    assert_eq!(end.poll_timeout(), None);
}

#[test]
fn after_seven_wrong_resets_a_right_one_is_believed() {
    let mut pair = settled();
    let now = pair.now;
    let own = pair.ends[1].epitaph().own;
    for _ in 0..7 {
        pair.ends[1].handle_datagram(now, &control(Wins, &[Control::Reset { proof: own ^ 1 }])).unwrap();
    }
    assert!(pair.ends[1].handle_datagram(now, &control(Wins, &[Control::Reset { proof: own }])).is_err());
}

/// Eight make it deaf to resets for ten seconds.
#[test]
fn only_what_can_be_a_guess_makes_deaf_and_not_for_longer() {
    let right = |end: &mut Session, now| {
        let proof = end.epitaph().own;
        end.handle_datagram(now, &control(Wins, &[Control::Reset { proof }])).is_err()
    };
    let guess = |end: &mut Session, now| {
        let wrong = control(Wins, &[Control::Reset { proof: end.epitaph().own ^ 1 }]);
        for _ in 0..8 {
            end.handle_datagram(now, &wrong).unwrap();
        }
    };
    let mut pair = settled();
    let now = pair.now;
    guess(&mut pair.ends[1], now);
    assert!(!right(&mut pair.ends[1], now + Duration::from_millis(9_999)));
    guess(&mut pair.ends[1], now + Duration::from_millis(9_999));
    assert!(right(&mut pair.ends[1], now + Duration::from_secs(10)), "nobody listened to those");
    // What acknowledges more than was sent says nothing of a reset by itself.
    let mut pair = settled();
    for _ in 0..8 {
        let end = &mut pair.ends[1];
        let stray = segment(Ack, 0, 128, 0, 0, 1000, b"");
        assert_eq!(end.handle_datagram(now, &stray), Err(InputError::UnaBeyondSent));
    }
    assert!(right(&mut pair.ends[1], now));
    // What leads other segments spoils them, so it is no guess.
    let mut pair = settled();
    for _ in 0..8 {
        let end = &mut pair.ends[0];
        let leads = [segment(Wins, 0, 128, 0, 7, 0, &[MAGIC]), segment(Ack, 0, 128, 0, 0, 0, b"")].concat();
        assert_eq!(end.handle_datagram(now, &leads), Err(InputError::OtherLife));
    }
    assert!(right(&mut pair.ends[0], now));
}

#[test]
fn a_lone_denial_of_what_is_not_in_flight_is_a_wrong_reset_and_no_more() {
    let mut pair = settled();
    let now = pair.now;
    let end = &mut pair.ends[0];
    let denial = segment(Wins, 0, 128, 0, 7, 0, &[MAGIC]);
    assert_eq!(end.handle_datagram(now, &denial), Err(InputError::OtherLife));
    let ack = segment(Ack, 0, 128, 0, 0, 0, b"");
    assert_eq!(end.handle_datagram(now, &[denial, ack.clone()].concat()), Err(InputError::OtherLife));
    // A byte of data that looks like it, and a message of a later version, are neither.
    let data = segment(Push, 0, 128, 0, 0, 0, &[MAGIC]);
    assert_eq!(end.handle_datagram(now, &[data, ack.clone()].concat()), Ok(()));
    let later = segment(Wins, 0, 128, 0, 7, 0, &[MAGIC, 200, 0, 0]);
    assert_eq!(end.handle_datagram(now, &[later, ack].concat()), Ok(()));
    assert_eq!(end.read(now, &mut [0; 9]), Ok(1));
}

/// The hellos were exchanged before it left, however long ago.
#[test]
fn a_denial_is_believed_after_any_other_message() {
    let mut pair = settled();
    let now = pair.now;
    let end = &mut pair.ends[0];
    end.write(now, b"x").unwrap();
    let (push, _) = output(end, now)[0][0];
    let later = now + Duration::from_millis(30);
    end.handle_datagram(later, &control(Wask, &[Control::Ping { nonce: 1 }])).unwrap();
    let denial = segment(Wins, 0, 128, push.ts, push.sn.value(), 0, &[MAGIC]);
    assert_eq!(end.handle_datagram(later, &denial), Err(InputError::Closed(CloseReason::Reset)));
}

#[test]
fn data_is_not_read_as_a_message() {
    let mut pair = settled();
    let now = pair.now;
    let mut data = vec![MAGIC];
    Control::Datagram(b"data").encode(&mut data);
    let both =
        [control(Wins, &[Control::Datagram(b"message")]), segment(Push, 0, 128, 0, 0, 0, &data)].concat();
    pair.ends[1].handle_datagram(now, &both).unwrap();
    assert_eq!(pair.ends[1].recv_datagram(), Some(Bytes::from_static(b"message")));
    assert_eq!(pair.ends[1].recv_datagram(), None);
}

#[test]
fn datagrams_share_a_segment_as_long_as_they_fit() {
    for (len, segments) in [(669, 1), (670, 2)] {
        let mut pair = settled();
        let now = pair.now;
        // Magic byte, and type and length twice: 1376 with the first.
        for len in [700, len] {
            pair.ends[0].send_datagram(Bytes::from(vec![7; len])).unwrap();
        }
        assert_eq!(output(&mut pair.ends[0], now).len(), segments, "{len}");
    }
}

#[test]
fn what_does_not_fit_a_short_datagram_comes_with_the_next() {
    let mut pair = dialled(&quiet().mtu(50), &LinkConfig::default(), 1);
    pair.run_for(Duration::from_secs(1));
    let now = pair.now;
    let end = &mut pair.ends[1];
    let (token, una) = (end.epitaph().own, end.una());
    end.handle_datagram(now, &control(Wins, &[Control::Fin { sn: una, token }])).unwrap();
    end.shutdown();
    let all = output(end, now);
    let lengths: Vec<_> = all.iter().map(|segments| segments[0].1.len()).collect();
    assert_eq!((all.len(), lengths), (2, vec![20, 20]));
}

#[test]
fn each_address_is_asked_something_else() {
    let mut pair = settled();
    let mut seen = vec![];
    for path in 0..64 {
        let now = pair.now + Duration::from_secs(path);
        let ask = pair.ends[1].challenge_path(now, path).unwrap();
        assert!(!seen.contains(&ask[24..].to_vec()), "{path}");
        seen.push(ask[24..].to_vec());
    }
    assert_eq!(lone(quiet()).challenge_path(at(0), 1), None, "a plain peer would not answer");
    pair.ends[1].disconnect();
    assert_eq!(pair.ends[1].challenge_path(pair.now + Duration::from_secs(99), 1), None);
}

#[test]
fn the_end_is_answered_before_a_session_has_finished() {
    let mut pair = settled();
    let now = pair.now;
    let end = &mut pair.ends[0];
    let (token, una) = (end.epitaph().own, end.una());
    assert!(!end.is_read_closed());
    end.shutdown();
    output(end, now);
    end.handle_datagram(now, &control(Wins, &[Control::FinAck { sn: Seq::new(0), token }])).unwrap();
    assert_eq!(events(end), [Event::Drained]);
    end.handle_datagram(now, &control(Wins, &[Control::Fin { sn: una.next(), token }])).unwrap();
    assert!(says(end, now, |control| matches!(control, Control::FinAck { .. })));
    assert!(!end.is_closed() && !end.is_read_closed(), "a byte is missing");
    // It comes: nothing is left to be said, but that.
    end.handle_datagram(now, &segment(Push, 0, 128, 0, una.value(), 0, b"x")).unwrap();
    assert!(end.is_read_closed() && !end.is_closed());
    let due = end.poll_timeout().unwrap();
    assert_eq!(output(end, due).len(), 1);
    assert_eq!(end.close_reason(), Some(CloseReason::Finished));
    let mut pair = settled();
    let end = &mut pair.ends[0];
    let token = end.epitaph().own;
    end.shutdown();
    output(end, now);
    let fin = [Control::FinAck { sn: Seq::new(0), token }, Control::Fin { sn: una, token }];
    end.handle_datagram(now, &control(Wins, &fin)).unwrap();
    assert!(end.is_read_closed() && !end.is_closed(), "the peer does not know");
    assert!(says(end, now, |control| matches!(control, Control::FinAck { .. })));
    assert_eq!(end.close_reason(), Some(CloseReason::Finished));
}

#[test]
fn an_end_before_what_has_arrived_is_a_broken_peer() {
    let mut pair = settled();
    let now = pair.now;
    let end = &mut pair.ends[0];
    let (token, una) = (end.epitaph().own, end.una());
    end.handle_datagram(now, &segment(Push, 0, 128, 0, una.value(), 0, b"x")).unwrap();
    let fin = control(Wins, &[Control::Fin { sn: una, token }]);
    assert_eq!(end.handle_datagram(now, &fin), Err(InputError::Closed(CloseReason::ProtocolError)));
    assert_eq!(end.peek(&mut [0; 9]), Ok(1), "what came before");
    assert!(says(end, now, |control| matches!(control, Control::Reset { .. })));
}

#[test]
fn whoever_aborts_reads_no_end_although_there_was_one() {
    let mut pair = settled();
    let now = pair.now;
    let end = &mut pair.ends[0];
    let (token, una) = (end.epitaph().own, end.una());
    end.handle_datagram(now, &control(Wins, &[Control::Fin { sn: una, token }])).unwrap();
    assert_eq!(end.read(now, &mut [0; 9]), Err(ReadError::EndOfStream));
    end.abort();
    assert_eq!(end.read(now, &mut [0; 9]), Err(ReadError::Closed(CloseReason::Aborted)));
    assert!(!end.has_lost_data());
}

/// As with TCP: what nobody will read resets, at once where it lies here, else when it comes.
#[test]
fn an_orphan_resets_for_what_nobody_reads() {
    let push = |sn: Seq| segment(Push, 0, 128, 0, sn.value(), 0, b"x");
    for (arrived, resets) in [(None, false), (Some(0), true), (Some(1), true)] {
        let mut pair = settled();
        let now = pair.now;
        let end = &mut pair.ends[0];
        if let Some(n) = arrived {
            let sn = end.una().plus(n);
            end.handle_datagram(now, &push(sn)).unwrap();
        }
        end.orphan(now);
        assert_eq!(end.close_reason(), resets.then_some(CloseReason::Aborted), "{arrived:?}");
        if !resets {
            let una = end.una();
            end.handle_datagram(now, &push(una)).unwrap();
            assert_eq!(end.close_reason(), Some(CloseReason::Aborted));
        }
        assert!(says(end, now, |control| matches!(control, Control::Reset { .. })));
    }
    // A plain peer cannot be told: it may send on.
    let mut end = lone(quiet());
    end.handle_datagram(at(0), &push(Seq::new(0))).unwrap();
    end.orphan(at(0));
    end.handle_datagram(at(0), &push(Seq::new(1))).unwrap();
    assert_eq!(end.close_reason(), None);
}
