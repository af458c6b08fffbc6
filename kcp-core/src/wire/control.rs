//! Control messages between two of ours, in the payload of `WASK` and `WINS`, which every other implementation skips.
//!
//! Payload: one magic byte (0xE1), then records of type (u8), length (u16, little endian) and value. Unknown types are skipped.
//! A payload of the magic alone resets a session that the sender does not know; the header's `sn` and `ts` echo the
//! segment that provoked it.

use alloc::vec::Vec;

use crate::seq::Seq;

/// Begins every control payload, and is its version.
pub(crate) const MAGIC: u8 = 0xE1;

const HELLO: u8 = 1;
const HELLO_ACK: u8 = 2;
const TOKEN: u8 = 3;
const FIN: u8 = 4;
const FIN_ACK: u8 = 5;
const RST: u8 = 6;
const PING: u8 = 7;
const PONG: u8 = 8;
const DATAGRAM: u8 = 9;
const PATH_CHALLENGE: u8 = 10;
const PATH_RESPONSE: u8 = 11;
const PADDING: u8 = 0;

/// One control message. A `token` is the one that its receiver has issued: whoever did not see the handshake cannot know
/// it.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
#[non_exhaustive]
pub enum Control<'a> {
    /// The connecting side's offer, with the token that it issues.
    Hello {
        /// Issued by the sender.
        token: u64,
    },
    /// The answer: the extensions are on.
    HelloAck {
        /// Issued by the sender.
        token: u64,
        /// The token of the offer.
        echo: u64,
    },
    /// The connecting side has got the answer, so its address is its own.
    Token {
        /// Issued by the receiver.
        token: u64,
    },
    /// Everything before `sn` is the whole stream.
    Fin {
        /// One past the last segment.
        sn: Seq,
        /// Issued by the receiver.
        token: u64,
    },
    /// The `Fin` has arrived.
    FinAck {
        /// Its `sn`.
        sn: Seq,
        /// Issued by the receiver.
        token: u64,
    },
    /// The session has ended.
    Reset {
        /// The token that the receiver has issued, or the nonce of its `Ping`.
        proof: u64,
    },
    /// Asks for a sign of life.
    Ping {
        /// Comes back.
        nonce: u64,
    },
    /// The answer.
    Pong {
        /// Of the `Ping`.
        nonce: u64,
    },
    /// Unreliable application data.
    Datagram(&'a [u8]),
    /// Sent to an address that the session's peer may have moved to.
    PathChallenge {
        /// Comes back.
        nonce: u64,
    },
    /// Sent from the address that was challenged.
    PathResponse {
        /// Of the challenge.
        nonce: u64,
        /// Issued by the receiver.
        token: u64,
    },
}

/// Bytes of a datagram's payload beside the data: magic, type and length.
pub(crate) const DATAGRAM_OVERHEAD: usize = 4;

/// A record's type and length.
const RECORD: usize = 3;

impl Control<'_> {
    /// Appends it; the payload has begun with the magic byte.
    pub(crate) fn encode(&self, payload: &mut Vec<u8>) {
        let sn_of = |sn: Seq| u64::from(sn.value());
        let (kind, first, second) = match *self {
            Self::Datagram(data) => {
                payload.push(DATAGRAM);
                payload.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_le_bytes());
                return payload.extend_from_slice(data);
            }
            Self::Hello { token } => (HELLO, token, None),
            Self::HelloAck { token, echo } => (HELLO_ACK, token, Some(echo)),
            Self::Token { token } => (TOKEN, token, None),
            Self::Fin { sn, token } => (FIN, token, Some(sn_of(sn))),
            Self::FinAck { sn, token } => (FIN_ACK, token, Some(sn_of(sn))),
            Self::Reset { proof } => (RST, proof, None),
            Self::Ping { nonce } => (PING, nonce, None),
            Self::Pong { nonce } => (PONG, nonce, None),
            Self::PathChallenge { nonce } => (PATH_CHALLENGE, nonce, None),
            Self::PathResponse { nonce, token } => (PATH_RESPONSE, token, Some(nonce)),
        };
        payload.push(kind);
        payload.extend_from_slice(&[if second.is_some() { 16 } else { 8 }, 0]);
        payload.extend_from_slice(&first.to_le_bytes());
        if let Some(second) = second {
            payload.extend_from_slice(&second.to_le_bytes());
        }
    }

    fn decode(kind: u8, value: &[u8]) -> Option<Control<'_>> {
        if kind == DATAGRAM {
            return Some(Control::Datagram(value));
        }
        let (first, rest) = value.split_first_chunk::<8>()?;
        let first = u64::from_le_bytes(*first);
        let second = rest.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        let sn = || second.and_then(|sn| u32::try_from(sn).ok()).map(Seq::new);
        Some(match kind {
            HELLO => Control::Hello { token: first },
            HELLO_ACK => Control::HelloAck { token: first, echo: second? },
            TOKEN => Control::Token { token: first },
            FIN => Control::Fin { sn: sn()?, token: first },
            FIN_ACK => Control::FinAck { sn: sn()?, token: first },
            RST => Control::Reset { proof: first },
            PING => Control::Ping { nonce: first },
            PONG => Control::Pong { nonce: first },
            PATH_CHALLENGE => Control::PathChallenge { nonce: first },
            PATH_RESPONSE => Control::PathResponse { nonce: second?, token: first },
            _ => return None,
        })
    }
}

/// Pads a payload to `len` bytes with a record that every version skips.
pub(crate) fn pad(payload: &mut Vec<u8>, len: usize) {
    let Some(missing) = len.checked_sub(payload.len()).and_then(|n| n.checked_sub(RECORD)) else { return };
    payload.push(PADDING);
    payload.extend_from_slice(&u16::try_from(missing).unwrap_or(0).to_le_bytes());
    payload.resize(len, 0);
}

/// The control messages of a payload; `None` when it is not one, or a record does not end within it. Unknown records are
/// skipped.
pub fn controls(payload: &[u8]) -> Option<impl Iterator<Item = Control<'_>>> {
    let (magic, records) = payload.split_first()?;
    if *magic != MAGIC {
        return None;
    }
    let mut rest = records;
    while !rest.is_empty() {
        rest = record(rest)?.2;
    }
    let mut rest = records;
    let all = core::iter::from_fn(move || {
        let (kind, value, tail) = record(rest)?;
        rest = tail;
        Some(Control::decode(kind, value))
    });
    Some(all.flatten())
}

/// Splits the first record off: type, value, rest.
fn record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([kind, l0, l1], rest) = bytes.split_first_chunk::<RECORD>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([*l0, *l1])))?;
    Some((*kind, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn every_message_survives_a_round_trip_beside_unknown_ones() {
        let sn = Seq::new(u32::MAX);
        let all = [
            Control::Hello { token: 1 },
            Control::HelloAck { token: 2, echo: u64::MAX },
            Control::Token { token: 3 },
            Control::Fin { sn, token: 4 },
            Control::FinAck { sn, token: 5 },
            Control::Reset { proof: 6 },
            Control::Ping { nonce: 7 },
            Control::Pong { nonce: 8 },
            Control::Datagram(b"data"),
            Control::Datagram(b""),
            Control::PathChallenge { nonce: 9 },
            Control::PathResponse { nonce: 10, token: 11 },
        ];
        let mut payload = vec![MAGIC];
        for control in &all {
            control.encode(&mut payload);
            payload.extend_from_slice(&[200, 2, 0, 9, 9]);
        }
        let len = payload.len();
        pad(&mut payload, len + 20);
        assert_eq!(payload.len(), len + 20);
        assert_eq!(controls(&payload).unwrap().collect::<Vec<_>>(), all);
        // Cut anywhere but between records, nothing of it is read.
        let mut ends = vec![];
        for cut in 1..payload.len() {
            if controls(&payload[..cut]).is_some() {
                ends.push(cut);
            }
        }
        assert_eq!(ends.len(), 2 * all.len() + 1, "{ends:?}");
    }

    #[test]
    fn golden_bytes() {
        let mut payload = vec![MAGIC];
        Control::Fin { sn: Seq::new(5), token: 0x0807_0605_0403_0201 }.encode(&mut payload);
        assert_eq!(payload, [0xE1, 4, 16, 0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_control_payload() {
        for bytes in [&[][..], &[0xE0], &[0xE1, 1], &[0xE1, 1, 8, 0, 1]] {
            assert!(controls(bytes).is_none(), "{bytes:?}");
        }
        assert_eq!(controls(&[MAGIC]).unwrap().count(), 0, "a bare reset");
        assert_eq!(controls(&[MAGIC, HELLO, 1, 0, 7]).unwrap().count(), 0, "a hello too short is unknown");
    }
}
