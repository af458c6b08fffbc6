//! Judges a datagram that belongs to no session: what may open one.

use alloc::vec;
use alloc::vec::Vec;

use crate::seq::Seq;
use crate::wire::control::{Control, MAGIC, controls};
use crate::wire::{Command, HEADER_LEN, Header, Segments};

/// How a session begins.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Opening {
    /// Data from the start of the sequence.
    Push,
    /// A probe (`WASK`) with sn 0 and una 0, as [`Session::connect`](crate::Session::connect) sends it.
    Probe,
}

/// The conversation id that a datagram claims: its first four bytes, if it is long enough to be one.
#[must_use]
pub fn conv_of(datagram: &[u8]) -> Option<u32> {
    if datagram.len() < HEADER_LEN {
        return None;
    }
    datagram.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Whether a datagram of an unknown conversation may open a session, and which.
///
/// Only a whole, valid datagram does, whose first segment is data inside the initial window (`sn` 0 may be lost or
/// late) or an opening probe, and which acknowledges nothing (`una` 0). An ACK or a window announcement never does:
/// those are leftovers of a session that has ended.
#[must_use]
pub fn first_segment(datagram: &[u8], recv_window: u32) -> Option<(u32, Opening)> {
    let conv = conv_of(datagram)?;
    let (header, _) = Segments::parse(datagram, conv).ok()?.next()?;
    opening_of(&header, recv_window).map(|opening| (conv, opening))
}

fn opening_of(header: &Header, recv_window: u32) -> Option<Opening> {
    if header.una != Seq::new(0) {
        return None;
    }
    match header.cmd {
        Command::Push if header.sn.value() < recv_window => Some(Opening::Push),
        Command::Wask if header.sn.value() == 0 => Some(Opening::Probe),
        _ => None,
    }
}

/// What an ended session leaves behind: enough to answer its peer's late segments.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Epitaph {
    /// Everything before has been received.
    pub una: Seq,
    pub(crate) own: u64,
    /// Of a peer that has shown that it means this session.
    pub(crate) peer: Option<u64>,
}

/// The answer to a datagram of a session that has ended (with what it left) or was never known: data that had arrived is
/// acknowledged again, an end of stream too; whatever else expects an answer is told that the session is gone. Never longer
/// than the datagram, and never an answer to an answer.
#[must_use]
pub fn answer_for(datagram: &[u8], epitaph: Option<&Epitaph>) -> Option<Vec<u8>> {
    let conv = conv_of(datagram)?;
    let answer = Segments::parse(datagram, conv).ok()?.find_map(|(header, payload)| {
        // Where no hellos were exchanged one of ours may mean who was here before: what that got is not ours to acknowledge.
        let greeted = epitaph.is_some_and(|epitaph| epitaph.peer.is_some());
        let (mut wnd, mut una) = (0, epitaph.map(|epitaph| epitaph.una));
        let (mut sn, mut ts) = (Seq::new(1), 0);
        let mut answer = vec![];
        match header.cmd {
            // Our last acknowledgement was lost. The window is 0: nothing more is taken.
            Command::Push if una.is_some_and(|una| header.sn.is_before(una)) => {
                if !greeted {
                    // To a plain peer it is the same.
                    answer.push(MAGIC);
                    (sn, ts) = (header.sn, header.ts);
                }
            }
            Command::Push => {
                // Proves itself by the echo; to a plain peer it acknowledges nothing and leaves the window open.
                answer.push(MAGIC);
                (sn, ts, wnd) = (header.sn, header.ts, 128);
                una = Some(sn.plus(NOTHING_ACKED));
            }
            Command::Ack => return None,
            Command::Wask | Command::Wins => {
                let control = controls(payload)?.find_map(|control| reply(&control, epitaph))?;
                answer.push(MAGIC);
                control.encode(&mut answer);
                una = una.filter(|_| greeted).or(Some(header.una.plus(NOTHING_ACKED)));
            }
        }
        let len = u32::try_from(answer.len()).ok()?;
        let header = Header { conv, cmd: Command::Wins, frg: 0, wnd, ts, sn, una: una?, len };
        Some([header.encode().as_slice(), &answer].concat())
    })?;
    (answer.len() <= datagram.len()).then_some(answer)
}

/// -65535: behind everything that can be in flight.
pub(crate) const NOTHING_ACKED: u32 = 0xFFFF_0001;

fn reply(control: &Control<'_>, epitaph: Option<&Epitaph>) -> Option<Control<'static>> {
    match (*control, epitaph) {
        (Control::Fin { sn, token }, Some(&Epitaph { own, peer: Some(peer), .. })) if token == own => {
            Some(Control::FinAck { sn, token: peer })
        }
        (Control::Hello { token }, _) => Some(Control::Reset { proof: token }),
        (Control::Ping { nonce }, _) => Some(Control::Reset { proof: nonce }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn datagram(cmd: Command, sn: u32, una: u32) -> Vec<u8> {
        let (sn, una) = (Seq::new(sn), Seq::new(una));
        Header { conv: 5, cmd, frg: 0, wnd: 1, ts: 3, sn, una, len: 0 }.encode().to_vec()
    }

    #[test]
    fn only_first_segments_open() {
        for (cmd, sn, una, expected) in [
            (Command::Push, 0, 0, Some(Opening::Push)),
            (Command::Push, 1, 0, Some(Opening::Push)),
            (Command::Push, 127, 0, Some(Opening::Push)),
            (Command::Push, 128, 0, None),
            (Command::Push, 7777, 0, None),
            (Command::Push, u32::MAX, 0, None),
            (Command::Push, 0, 5, None),
            (Command::Wask, 0, 0, Some(Opening::Probe)),
            (Command::Wask, 1, 0, None),
            (Command::Wask, 0, 5, None),
            (Command::Ack, 0, 0, None),
            (Command::Wins, 0, 0, None),
        ] {
            let found = first_segment(&datagram(cmd, sn, una), 128);
            assert_eq!(found, expected.map(|opening| (5, opening)), "{cmd:?} sn {sn} una {una}");
        }
    }

    #[test]
    fn a_damaged_datagram_opens_nothing() {
        let good = datagram(Command::Push, 0, 0);
        assert_eq!(first_segment(&good[..23], 128), None);
        let mut bad = good.clone();
        bad[4] = 80;
        assert_eq!(first_segment(&bad, 128), None);
        let mut tail = good.clone();
        tail.extend(datagram(Command::Push, 1, 0));
        tail[24] = 6;
        assert_eq!(first_segment(&tail, 128), None, "the second segment is of another conversation");
        assert_eq!((conv_of(&good), conv_of(&good[..23])), (Some(5), None));
    }
}
