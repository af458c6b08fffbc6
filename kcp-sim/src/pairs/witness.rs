//! Stands between a session and its application, and compares what is read with what the peer has written. It does not know
//! what either means to do.

use kcp_core::{CloseReason, Session};

use super::app::datagram;
use crate::draw::differs;
use crate::pairs::Check;

/// What a reader may find: what its peer has done.
#[derive(Copy, Clone, Debug)]
pub(super) struct Peer<'a> {
    pub(super) stream: u64,
    pub(super) written: u64,
    pub(super) shut: bool,
    pub(super) lengths: &'a [u32],
    pub(super) datagrams: u32,
    /// Nobody meddles with bytes.
    pub(super) trusted: bool,
    /// An end of the stream at 0, by who has come in the place of who wrote.
    pub(super) replaced: bool,
    /// What the reader's own session takes for an end: the silence of a plain peer.
    pub(super) idle_is_eof: bool,
}

/// What was read so far.
#[derive(Copy, Clone, Debug, Default)]
pub(super) struct Witness {
    pub(super) read: u64,
    /// Whole ones, if nothing was read otherwise.
    messages: usize,
}

impl Witness {
    /// Bytes that a look showed, and that are still there.
    pub(super) fn peeked(&self, data: &[u8], peer: &Peer<'_>) -> Check {
        match differs(peer.stream, self.read, data).filter(|_| peer.trusted) {
            Some(at) => Err(format!("peeked byte {at} is wrong")),
            None => Ok(()),
        }
    }

    /// Bytes, or a whole message.
    pub(super) fn took(&mut self, data: &[u8], whole: bool, peer: &Peer<'_>) -> Check {
        if peer.trusted {
            if let Some(at) = differs(peer.stream, self.read, data) {
                return Err(format!("byte {at} was read wrong"));
            }
            let sent = peer.lengths.get(self.messages);
            if whole && sent.is_none_or(|&len| len as usize != data.len()) {
                let (message, len) = (self.messages, data.len());
                return Err(format!("message {message} has {len} bytes, {sent:?} were sent"));
            }
            if self.read + data.len() as u64 > peer.written {
                return Err(format!("{} bytes were read, {} written", self.read, peer.written));
            }
        }
        self.messages += 1;
        self.read += data.len() as u64;
        Ok(())
    }

    /// The stream is said to have ended.
    pub(super) fn ended(&self, session: &Session, peer: &Peer<'_>) -> Check {
        let whole = peer.shut && self.read == peer.written;
        let excused = silence_is_eof(session, peer) || (peer.replaced && self.read == 0);
        if peer.trusted && !whole && !excused {
            return Err(format!(
                "end of stream at {} of {} bytes, peer shut down: {}",
                self.read, peer.written, peer.shut
            ));
        }
        Ok(())
    }

    /// A read says that the session has ended.
    pub(super) fn failed(session: &Session, peer: &Peer<'_>) -> Check {
        if !session.is_closed() {
            return Err("a read says closed, the session does not".into());
        }
        if silence_is_eof(session, peer) {
            return Err("silence was to be the end of the stream".into());
        }
        Ok(())
    }

    /// An unreliable datagram.
    pub(super) fn heard(data: &[u8], peer: &Peer<'_>) -> Check {
        let id = data.first_chunk().map(|id| u32::from_le_bytes(*id));
        let known = id.is_some_and(|id| id < peer.datagrams && data[4..] == datagram(peer.stream, id)[4..]);
        if peer.trusted && !known {
            return Err(format!("an unreliable datagram of {} bytes that nobody sent", data.len()));
        }
        Ok(())
    }
}

/// Whether the session has ended in a silence that its reader was promised as an end of the stream.
fn silence_is_eof(session: &Session, peer: &Peer<'_>) -> bool {
    let silent = session.close_reason() == Some(CloseReason::IdleTimeout);
    peer.idle_is_eof && silent && !session.is_extended()
}
