//! What can be wrong with a configuration, a frame, a session.

use std::io;
use std::sync::Arc;

/// A configuration that cannot work.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Frames without payload, or longer than the wire can say.
    #[error("frames of {0} bytes are outside 1..=65535")]
    Frame(usize),
    /// A zero, or more than 2^31 - 1.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// A stream could hold more than its session.
    #[error("stream_buffer is larger than receive_buffer")]
    StreamBuffer,
    /// The session would time out before its keepalive.
    #[error("keepalive is not shorter than timeout")]
    Keepalive,
}

/// What the peer did wrong.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Another version than ours, or no smux at all.
    #[error("version {0} is not ours")]
    Version(u8),
    /// A command that this version does not have.
    #[error("unknown command {0}")]
    Command(u8),
    /// A frame that has no payload, or 8 bytes of it, with another length.
    #[error("a frame of command {command} has {len} bytes")]
    Length {
        /// The command.
        command: u8,
        /// Bytes that it says follow.
        len: u16,
    },
    /// It opened a stream with a number that only we give.
    #[error("it opened stream {0}, whose number is ours to give")]
    StreamId(u32),
    /// It sent more on a stream than its window allows.
    #[error("it exceeded the window of stream {0}")]
    Window(u32),
    /// It says that it has read what was never sent.
    #[error("it consumed more of stream {0} than was sent")]
    Consumed(u32),
}

/// Why a session has ended, or a stream cannot be opened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer broke the protocol.
    #[error("protocol error of the peer: {0}")]
    Protocol(#[from] ProtocolError),
    /// Nothing was heard of the peer for [`Config::timeout`](crate::Config::timeout).
    #[error("nothing was heard of the peer")]
    Timeout,
    /// The connection failed.
    #[error("connection: {0}")]
    Transport(Arc<io::Error>),
    /// The peer ended the connection.
    #[error("the peer has ended the session")]
    Ended,
    /// This side closed the session.
    #[error("the session is closed")]
    Closed,
    /// [`Config::max_streams`](crate::Config::max_streams) are open.
    #[error("too many streams")]
    TooManyStreams,
    /// All 2^31 stream numbers of this side were used: it takes a new session.
    #[error("the session has used up its stream numbers")]
    GoAway,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Protocol(_) => io::ErrorKind::InvalidData,
            Error::Timeout => io::ErrorKind::TimedOut,
            Error::Transport(error) => error.kind(),
            // Not the end of a stream: that comes with FIN.
            Error::Ended => io::ErrorKind::ConnectionReset,
            Error::Closed => io::ErrorKind::ConnectionAborted,
            Error::TooManyStreams | Error::GoAway => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
