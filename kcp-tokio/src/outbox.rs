//! Datagrams that leave together at the end of a driver's turn: of sessions that share a peer's address in one train, to
//! several peers in one call.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use kcp_core::Timestamp;

use crate::agenda::Marked;
use crate::session::Session;
use crate::shard::{MAX_RUN_BYTES, Shard};
use crate::socket::{DatagramSocket, Route};
use crate::stats::count;

/// Bytes after which it is emptied in the middle of a turn.
const FULL: usize = 64 * 1024;
/// Datagrams that one call takes.
const MOST: usize = 64;

/// Runs of datagrams of one shard's sessions, in the order in which they are to leave. The lock of a session is free again when
/// they do.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Whose sessions' it is.
    pub(crate) shard: usize,
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    trains: Vec<Train>,
}

/// A run of one session.
#[derive(Debug)]
struct Piece {
    session: Arc<Session>,
    to: Route,
    start: usize,
    end: usize,
    stride: usize,
}

/// Pieces next to each other that are one run for the socket.
#[derive(Copy, Clone, Debug)]
struct Train {
    first: usize,
    pieces: usize,
    to: Route,
    start: usize,
    end: usize,
    stride: usize,
}

impl Train {
    const fn is_single(&self) -> bool {
        self.end - self.start <= self.stride
    }
}

impl Outbox {
    pub(crate) const fn new(shard: usize) -> Self {
        Self { shard, bytes: Vec::new(), pieces: Vec::new(), trains: Vec::new() }
    }

    pub(crate) fn push(&mut self, session: &Arc<Session>, run: &[u8], stride: usize) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(run);
        let (session, to) = (session.clone(), session.route());
        self.pieces.push(Piece { session, to, start, end: self.bytes.len(), stride });
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// Sends everything; what the socket has no room for waits with its session.
    pub(crate) fn flush(&mut self, shard: &Shard, now: Timestamp) {
        if self.pieces.is_empty() {
            return;
        }
        self.couple(shard.max_run());
        let unsent = self.send(shard, now);
        for piece in self.pieces.get(unsent.piece..).unwrap_or_default() {
            let from = piece.start.max(unsent.byte);
            piece.session.stash(self.bytes.get(from..piece.end).unwrap_or_default(), piece.stride);
        }
        for piece in self.pieces.drain(..) {
            piece.session.marks().unbox();
        }
        self.bytes.clear();
    }

    /// Joins pieces of one stride to one address: all full but the last.
    fn couple(&mut self, max_run: usize) {
        self.trains.clear();
        for (i, piece) in self.pieces.iter().enumerate() {
            if let Some(train) = self.trains.last_mut()
                && (train.to, train.stride) == (piece.to, piece.stride)
                && (train.end - train.start) % train.stride == 0
                && piece.end - train.start <= (max_run * train.stride).min(MAX_RUN_BYTES)
            {
                train.end = piece.end;
                train.pieces += 1;
                continue;
            }
            let &Piece { to, start, end, stride, .. } = piece;
            self.trains.push(Train { first: i, pieces: 1, to, start, end, stride: stride.max(1) });
        }
    }

    /// Up to the first that the socket has no room for.
    fn send(&self, shard: &Shard, now: Timestamp) -> Unsent {
        let (socket, counters) = (shard.socket(), &shard.hub.counters);
        let lost = |to: Route, error: &io::Error| {
            count(&counters.send_errors);
            if let Some(more) = shard.hub.logs.send.permit(now) {
                tracing::debug!(peer = %to.peer, %error, more, "datagrams lost on send");
            }
        };
        let mut rest = self.trains.as_slice();
        while let Some((train, behind)) = rest.split_first() {
            let singles = rest.iter().take(MOST).take_while(|train| train.is_single()).count();
            if singles > 1 {
                match self.send_each(&*socket, rest.get(..singles).unwrap_or_default()) {
                    Ok(sent) => rest = rest.get(sent.max(1)..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        count(&counters.send_blocked);
                        return Unsent { piece: train.first, byte: train.start };
                    }
                    // One peer's error is not the others'.
                    Err(error) => {
                        lost(train.to, &error);
                        rest = behind;
                    }
                }
                continue;
            }
            let mut from = train.start;
            while from < train.end {
                match socket.try_send(
                    train.to,
                    self.bytes.get(from..train.end).unwrap_or_default(),
                    train.stride,
                ) {
                    Ok(sent) => from += sent.max(1),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        count(&counters.send_blocked);
                        let pieces = self.pieces.get(train.first..).unwrap_or_default();
                        let gone = pieces.iter().take_while(|piece| piece.end <= from).count();
                        return Unsent { piece: train.first + gone, byte: from };
                    }
                    Err(error) => {
                        lost(train.to, &error);
                        break;
                    }
                }
            }
            rest = behind;
        }
        Unsent { piece: self.pieces.len(), byte: self.bytes.len() }
    }

    fn send_each(&self, socket: &dyn DatagramSocket, singles: &[Train]) -> io::Result<usize> {
        let mut datagrams = [(UNSET, &[][..]); MOST];
        for (datagram, train) in datagrams.iter_mut().zip(singles) {
            *datagram = (train.to, self.bytes.get(train.start..train.end).unwrap_or_default());
        }
        socket.try_send_each(datagrams.get(..singles.len()).unwrap_or_default())
    }
}

/// Fills places that are not used.
const UNSET: Route = Route { peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), local: None };

/// The first piece that was not sent whole, and the first byte.
struct Unsent {
    piece: usize,
    byte: usize,
}
