//! What a stream says once it has ended: what TCP's says, at once, and never data.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use kcp_tokio::{CloseReason, KcpError, OwnedReadHalf, OwnedWriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::talk::End;

/// As the documentation of the errors has it.
const fn kind_of(reason: KcpError) -> ErrorKind {
    match reason {
        KcpError::DriverGone | KcpError::Closed(CloseReason::Aborted) => ErrorKind::ConnectionAborted,
        KcpError::Refused | KcpError::Closed(CloseReason::Refused) => ErrorKind::ConnectionRefused,
        KcpError::Closed(CloseReason::Reset | CloseReason::ProtocolError) => ErrorKind::ConnectionReset,
        KcpError::Closed(CloseReason::Finished) => ErrorKind::BrokenPipe,
        _ => ErrorKind::TimedOut,
    }
}

/// What an operation says without waiting; none if it would wait.
fn at_once<F: Future>(operation: F) -> Option<F::Output> {
    match pin!(operation).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn kinds<T>(result: io::Result<T>) -> Result<T, ErrorKind> {
    result.map_err(|error| error.kind())
}

impl End {
    fn reason(&self) -> Option<ErrorKind> {
        let reason = self.session.close_reason();
        if reason == Some(KcpError::Closed(CloseReason::Aborted)) {
            // No application here aborts a stream that it holds.
            self.wrong("a stream was aborted".to_owned());
        }
        reason.map(kind_of)
    }

    pub(super) fn wrong(&self, what: String) {
        let Self { shared, session, conv, whose, .. } = self;
        shared.broken(format!("{what} ({:?}, conv {conv}, {})", session.close_reason(), whose.who));
    }

    /// A read has failed.
    pub(super) fn check_read_error(&self, kind: ErrorKind) {
        let told = self.told.load(Ordering::Relaxed);
        let twice = kind == ErrorKind::ConnectionReset && told;
        if self.reason() != Some(kind) || kind == ErrorKind::BrokenPipe || twice {
            self.wrong(format!("a read fails with {kind:?}, told before: {told}"));
        }
    }

    /// A write has failed. A reset is told to who asks first, and only once.
    pub(super) fn check_write_error(&self, kind: ErrorKind) {
        let reset = self.reason() == Some(ErrorKind::ConnectionReset);
        let fits = if reset && kind == ErrorKind::ConnectionReset {
            !self.told.swap(true, Ordering::Relaxed)
        } else {
            kind == if reset { ErrorKind::BrokenPipe } else { self.reason().unwrap_or(ErrorKind::Other) }
        };
        if !fits {
            self.wrong(format!("a write fails with {kind:?}"));
        }
    }

    /// A flush or a shutdown has said something, of a session that has ended or was shut down.
    pub(super) fn check_ending(&self, what: &str, said: Option<Result<(), ErrorKind>>) {
        let fits = match (self.reason(), said) {
            (None | Some(ErrorKind::BrokenPipe), Some(Ok(()))) => true,
            // Nothing was lost.
            (Some(ErrorKind::ConnectionReset), Some(Ok(()))) => true,
            (Some(reason), Some(Err(kind))) => reason == kind && kind != ErrorKind::BrokenPipe,
            _ => false,
        };
        if !fits {
            self.wrong(format!("{what} after the end says {said:?}"));
        }
    }

    /// The writer has failed, or was shut down.
    pub(super) fn check_writer(&self, writer: &mut OwnedWriteHalf, shut: bool) {
        for _ in 0..2 {
            match at_once(writer.write(b"more")).map(kinds) {
                Some(Err(ErrorKind::BrokenPipe)) if shut && self.reason().is_none() => {}
                Some(Err(kind)) => self.check_write_error(kind),
                other => self.wrong(format!("a write after the end says {other:?}")),
            }
        }
        if shut {
            // What was delivered stays so.
            let again = at_once(writer.shutdown()).map(kinds);
            if again != Some(Ok(())) {
                self.wrong(format!("a shutdown after a shutdown says {again:?}"));
            }
        } else {
            self.check_ending("a flush", at_once(writer.flush()).map(kinds));
            self.check_ending("a shutdown", at_once(writer.shutdown()).map(kinds));
        }
    }

    /// The reader was told of an end, or of an error.
    pub(super) fn check_reader(&self, reader: &mut OwnedReadHalf) {
        let expected = match *super::socket::lock(&self.ended) {
            None => return,
            // Of the two lives of a socket that was killed it was the first that ended well.
            Some(Ok(())) if self.session.close_reason() == Some(KcpError::DriverGone) => return,
            // A reset is told once, and then it is an end.
            Some(Ok(()) | Err(ErrorKind::ConnectionReset)) => Ok(0),
            Some(Err(kind)) => Err(kind),
        };
        for _ in 0..2 {
            let mut buf = [0; 9];
            let peeked = at_once(reader.peek(&mut buf)).map(kinds);
            let read = at_once(reader.read(&mut buf)).map(kinds);
            if (peeked, read) != (Some(expected), Some(expected)) {
                self.wrong(format!(
                    "after an end that was {expected:?} a peek says {peeked:?}, a read {read:?}"
                ));
            }
        }
    }
}
