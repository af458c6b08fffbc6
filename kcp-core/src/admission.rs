//! Judges a datagram that belongs to no session: what may open one.

use crate::seq::Seq;
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
