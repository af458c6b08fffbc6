//! What somebody who reads the path, but for tokens, can do to a session, since KCP is not authenticated; and that it is no more.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use kcp_netsim::LinkConfig;

use super::util::{Pair, START, pattern};
use crate::CloseReason::{Finished, IdleTimeout, ProtocolError, Reset, UserTimeout};
use crate::seq::Seq;
use crate::wire::Command::{Ack, Push, Wins};
use crate::wire::{Command, Header};
use crate::{CloseReason, InputError, ReadError, Seed, Session, SessionConfig};

const LIMIT: Duration = Duration::from_secs(300);

/// Two of ours; 8 segments of the first end are lost, and the forger speaks before they come again.
struct Scene {
    pair: Pair,
    /// The first that was lost.
    lost: Seq,
    data: Vec<u8>,
}

impl Scene {
    fn new(stream: bool) -> Self {
        let link = LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() };
        let config = Arc::new(SessionConfig::turbo().stream(stream));
        let mut pair = Pair::symmetric(SessionConfig::turbo(), &link, 1);
        pair.ends = [
            Session::connect(77, config.clone(), Seed::from_u64(1), START),
            Session::accept(77, config, Seed::from_u64(2), START),
        ];
        pair.drive(LIMIT, |pair| pair.ends.iter().all(|end| end.is_extended() && end.is_validated()));
        let data = pattern(20_000, 1);
        pair.ends[0].write(pair.now, &data[..10_000]).unwrap();
        pair.run_for(Duration::from_millis(500));
        let lost = pair.ends[1].una();
        pair.ends[0].write(pair.now, &data[10_000..]).unwrap();
        pair.links[0].set_partitioned(true);
        pair.drain(0);
        pair.links[0].set_partitioned(false);
        assert_eq!(pair.ends[0].stats().in_flight, 8);
        Self { pair, lost, data }
    }

    fn say(
        &mut self,
        cmd: Command,
        frg: u8,
        wnd: u16,
        sn: Seq,
        una: Seq,
        data: &[u8],
    ) -> Result<(), InputError> {
        let header = Header { conv: 77, cmd, frg, wnd, ts: 5, sn, una, len: data.len() as u32 };
        self.pair.ends[0].handle_datagram(self.pair.now, &[header.encode().as_slice(), data].concat())
    }

    /// Both have said all: what the second end reads, what ends that, and how the sessions end. Nothing spins, nothing else is read.
    fn end(mut self) -> (usize, ReadError, [CloseReason; 2]) {
        self.pair.ends.iter_mut().for_each(Session::shutdown);
        let (mut got, mut end, mut buf) = (vec![], ReadError::Empty, [0; 4096]);
        self.pair.drive(LIMIT, |pair| {
            end = loop {
                match pair.ends[1].read(pair.now, &mut buf) {
                    Ok(n) => got.extend_from_slice(&buf[..n]),
                    Err(error) => break error,
                }
            };
            pair.ends.iter().all(Session::is_closed)
        });
        assert!(self.data.starts_with(&got));
        (got.len(), end, self.pair.ends.map(|end| end.close_reason().unwrap()))
    }
}

#[test]
fn a_forged_window_holds_until_the_next_honest_datagram() {
    for wnd in [0, 65_535] {
        let mut scene = Scene::new(true);
        let lost = scene.lost;
        scene.say(Wins, 0, wnd, Seq::new(1), lost, b"").unwrap();
        assert_eq!(scene.pair.ends[0].stats().peer_window, u32::from(wnd));
        assert_eq!(scene.end(), (20_000, ReadError::EndOfStream, [Finished; 2]));
    }
}

#[test]
fn a_forged_una_lets_the_sender_believe_and_the_reader_gets_an_error() {
    // All of it: the sender has no reason to doubt.
    let mut scene = Scene::new(true);
    let nxt = scene.lost.plus(8);
    scene.say(Wins, 0, 128, Seq::new(1), nxt, b"").unwrap();
    assert_eq!(scene.pair.ends[0].stats().in_flight, 0);
    assert_eq!(scene.end(), (10_000, ReadError::Closed(IdleTimeout), [Finished, IdleTimeout]));
    // A part: what the peer says then is older than what was heard, and proves nothing of its life.
    let mut scene = Scene::new(true);
    let part = scene.lost.plus(3);
    scene.say(Wins, 0, 128, Seq::new(1), part, b"").unwrap();
    assert_eq!(scene.end(), (10_000, ReadError::Closed(Reset), [IdleTimeout, Reset]));
}

#[test]
fn forged_acks_are_found_out_by_the_user_timeout() {
    let mut scene = Scene::new(true);
    let lost = scene.lost;
    for n in 0..8 {
        scene.say(Ack, 0, 128, lost.plus(n), lost, b"").unwrap();
    }
    let stats = scene.pair.ends[0].stats();
    assert_eq!((stats.mismatched_echoes, stats.in_flight), (8, 8), "no sample of a round trip");
    assert_eq!(scene.end(), (10_000, ReadError::Closed(Reset), [UserTimeout, Reset]));
}

#[test]
fn forged_data_is_read_and_a_forged_chain_ends_the_session() {
    let mut scene = Scene::new(true);
    let (next, lost) = (scene.pair.ends[0].una(), scene.lost);
    scene.say(Push, 0, 128, next, lost, b"forged").unwrap();
    let mut buf = [0; 9];
    assert_eq!(scene.pair.ends[0].read(scene.pair.now, &mut buf), Ok(6));
    // In message mode fragments that do not count down.
    let mut scene = Scene::new(false);
    let (next, lost) = (scene.pair.ends[0].una(), scene.lost);
    scene.say(Push, 3, 128, next, lost, b"forged").unwrap();
    assert_eq!(scene.say(Push, 3, 128, next.next(), lost, b"forged"), Err(InputError::BrokenMessage));
    assert_eq!(scene.pair.ends[0].close_reason(), Some(ProtocolError));
}
