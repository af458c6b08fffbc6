//! How a session's end becomes an [`io::Error`].

use std::io;

use kcp_core::{CloseReason, DatagramError, WriteError};

/// The typed reason inside the [`io::Error`]s of this crate: `error.get_ref()`, downcast. Their kinds:
///
/// | what happened | kind |
/// |---|---|
/// | idle, user, zero-window and connect timeouts, dead link | `TimedOut` |
/// | the peer reset the session, or broke the protocol | `ConnectionReset`; of a write `BrokenPipe` |
/// | a closed port, or nobody who accepts, answered while connecting | `ConnectionRefused` |
/// | no way to the peer while connecting | the system's: `NetworkUnreachable`, `InvalidInput` … |
/// | aborted here, socket failed, runtime gone | `ConnectionAborted` |
/// | write after shutdown | `BrokenPipe` |
/// | no whole message before the end of the stream | `UnexpectedEof` |
/// | unreliable datagrams towards a plain peer | `Unsupported` |
/// | message too long | `InvalidInput` |
///
/// As with TCP a reset is told once, to whoever reads or writes first; afterwards reads end and writes are `BrokenPipe`.
///
/// With the default configuration a peer that was killed, or is cut off, is found after about 20 s by who writes (a dead link), and after 30 s
/// by who only reads (the idle timeout); a peer that was started anew on the same port tells at the next datagram that it gets.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KcpError {
    /// The session has ended.
    #[error("{0}")]
    Closed(CloseReason),
    /// The peer's system answered that nothing listens there.
    #[error("connection refused")]
    Refused,
    /// The system knows no way to the peer from this socket, while connecting: an address of another network, port 0.
    #[error("no way to the peer: {0}")]
    NoWay(io::ErrorKind),
    /// The socket failed for good, or the runtime that drove it is gone.
    #[error("the socket's driver has ended")]
    DriverGone,
    /// The listener takes no more sessions.
    #[error("listener closed")]
    ListenerClosed,
    /// The peer has ended its stream.
    #[error("end of stream")]
    EndOfStream,
    /// The unreliable datagram was refused.
    #[error("{0}")]
    Datagram(DatagramError),
    /// The write was refused.
    #[error("{0}")]
    Write(WriteError),
}

impl KcpError {
    fn kind(self) -> io::ErrorKind {
        match self {
            Self::Closed(CloseReason::Aborted) | Self::DriverGone | Self::ListenerClosed => {
                io::ErrorKind::ConnectionAborted
            }
            Self::Closed(CloseReason::ProtocolError | CloseReason::Reset) => io::ErrorKind::ConnectionReset,
            Self::Closed(CloseReason::Finished) | Self::Datagram(DatagramError::Closed) => {
                io::ErrorKind::NotConnected
            }
            Self::NoWay(kind) => kind,
            Self::EndOfStream => io::ErrorKind::UnexpectedEof,
            Self::Datagram(DatagramError::Unsupported) => io::ErrorKind::Unsupported,
            Self::Datagram(_) => io::ErrorKind::InvalidInput,
            Self::Refused | Self::Closed(CloseReason::Refused) => io::ErrorKind::ConnectionRefused,
            // Timeouts and the dead link: silence is an error, never EOF.
            Self::Closed(_) => io::ErrorKind::TimedOut,
            Self::Write(WriteError::Shutdown) => io::ErrorKind::BrokenPipe,
            Self::Write(WriteError::Blocked) => io::ErrorKind::WouldBlock,
            Self::Write(WriteError::Closed(
                CloseReason::ProtocolError | CloseReason::Reset | CloseReason::Finished,
            )) => io::ErrorKind::BrokenPipe,
            Self::Write(WriteError::Closed(reason)) => Self::Closed(reason).kind(),
            Self::Write(_) => io::ErrorKind::InvalidInput,
        }
    }
}

impl From<KcpError> for io::Error {
    fn from(error: KcpError) -> Self {
        Self::new(error.kind(), error)
    }
}
