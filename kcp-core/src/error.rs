//! One small error enum per operation.

/// Why a datagram was refused. Nothing of a refused datagram was applied, and it does not count as a sign of life.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// Shorter than one header.
    #[error("datagram shorter than a segment header")]
    Short,
    /// A segment belongs to another conversation.
    #[error("segment of conversation {found:#010x}")]
    ConvMismatch {
        /// The conversation it belongs to.
        found: u32,
    },
    /// A segment claims more payload than the datagram has.
    #[error("segment claims {len} bytes, more than the datagram has")]
    Truncated {
        /// The length it claims.
        len: u32,
    },
    /// A command other than 81..=84.
    #[error("unknown command {0}")]
    UnknownCommand(u8),
    /// `una` acknowledges what was never sent: forged or damaged.
    #[error("una acknowledges segments that were never sent")]
    UnaBeyondSent,
    /// A message with more fragments than the receive window can hold: it could never be completed.
    #[error("fragment count {frg} does not fit the receive window")]
    FragmentTooLarge {
        /// The header's `frg`.
        frg: u8,
    },
    /// Fragment numbers of a message do not count down by one.
    #[error("fragment numbers do not count down")]
    BrokenMessage,
    /// It comes from a session that does not know the hello which this one was opened with: the peer was started anew, and took
    /// something that the network had kept for a beginning.
    #[error("of another session of the same conversation")]
    OtherLife,
    /// The session has ended.
    #[error("session closed: {0}")]
    Closed(CloseReason),
}

/// Why bytes were not taken. Nothing was kept.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The send buffer is full; [`Event::Writable`](crate::Event::Writable) tells when to try again.
    #[error("send buffer full")]
    Blocked,
    /// More than 127 fragments, of which an ikcp peer accepts no more. Whether the peer's receive window holds as many is not
    /// asked, since it never tells how large that is when empty: choose messages that fit it.
    #[error("message longer than {limit} bytes")]
    TooLarge {
        /// The longest message that can be sent, in bytes.
        limit: usize,
    },
    /// After [`shutdown`](crate::Session::shutdown).
    #[error("shut down for writing")]
    Shutdown,
    /// The session has ended.
    #[error("session closed: {0}")]
    Closed(CloseReason),
}

/// Why a message was not taken. All or nothing: no part of it was kept.
pub type SendError = WriteError;

/// Why nothing was read.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing has arrived; [`Event::Readable`](crate::Event::Readable) tells when to try again.
    #[error("nothing to read")]
    Empty,
    /// The peer has ended its stream, and all of it was read.
    #[error("end of stream")]
    EndOfStream,
    /// The session has ended, and everything that had arrived in order was read.
    #[error("session closed: {0}")]
    Closed(CloseReason),
}

/// Why an unreliable datagram was not taken.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// The peer is a plain KCP implementation, or has not answered the hello yet.
    #[error("the peer takes no unreliable datagrams")]
    Unsupported,
    /// It would not fit one datagram.
    #[error("longer than {limit} bytes")]
    TooLarge {
        /// The longest that can be sent, in bytes.
        limit: usize,
    },
    /// The session has ended, or was shut down.
    #[error("session closed")]
    Closed,
}

/// Why the classic face's `recv` returned nothing (`ikcp_recv` returns -1, -2, -3).
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
pub enum RecvError {
    /// No complete message has arrived.
    #[error("no complete message")]
    Empty,
    /// The next message does not fit; it stays.
    #[error("message of {need} bytes does not fit the buffer")]
    BufferTooSmall {
        /// Length of the message in bytes.
        need: usize,
    },
}

/// Why a session has ended.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// [`abort`](crate::Session::abort) was called here.
    #[error("aborted by this end")]
    Aborted,
    /// Both ends have shut down, and everything was delivered.
    #[error("finished")]
    Finished,
    /// The peer reset the session, or does not know it (any more).
    #[error("reset by the peer")]
    Reset,
    /// The peer refused to open a session.
    #[error("refused by the peer")]
    Refused,
    /// No peer answered within the connect timeout.
    #[error("peer did not answer the connect")]
    ConnectTimeout,
    /// One segment was sent `dead_link` times without an acknowledgement.
    #[error("dead link: a segment was sent too often without an acknowledgement")]
    DeadLink,
    /// Nothing acceptable was heard for the idle timeout.
    #[error("idle timeout: nothing heard from the peer")]
    IdleTimeout,
    /// Data stayed unacknowledged for the user timeout.
    #[error("user timeout: data stayed unacknowledged")]
    UserTimeout,
    /// The peer advertised a zero window for too long.
    #[error("peer's receive window stayed closed")]
    ZeroWindowTimeout,
    /// The peer broke the protocol in a way that leaves the byte stream undefined.
    #[error("peer broke the protocol")]
    ProtocolError,
}
