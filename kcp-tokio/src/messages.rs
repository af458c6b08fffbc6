//! A session as a `Sink` and a `Stream` of messages.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Sink, Stream};

use crate::error::KcpError;
use crate::stream::KcpStream;

/// Messages instead of bytes: [`KcpStream::into_messages`]. With `SessionConfig::stream(false)` at both ends their
/// boundaries are kept.
#[derive(Debug)]
pub struct KcpMessages {
    stream: KcpStream,
    /// Accepted by `start_send`, not taken by the session yet.
    pending: Option<Bytes>,
}

impl KcpMessages {
    pub(crate) const fn new(stream: KcpStream) -> Self {
        Self { stream, pending: None }
    }

    /// The stream.
    #[must_use]
    pub const fn get_ref(&self) -> &KcpStream {
        &self.stream
    }

    /// The stream again. A message that was not flushed is lost.
    #[must_use]
    pub fn into_inner(self) -> KcpStream {
        self.stream
    }

    fn poll_pending(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(message) = &self.pending {
            let sent = ready!(self.stream.session().poll_send_msg(cx, message));
            self.pending = None;
            sent?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for KcpMessages {
    type Item = io::Result<Bytes>;

    /// `None` at the end of the peer's stream.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.session().poll_recv_msg(cx).map(|message| match message {
            Ok(message) => Some(Ok(message)),
            Err(KcpError::EndOfStream) => None,
            Err(error) => Some(Err(error.into())),
        })
    }
}

impl Sink<Bytes> for KcpMessages {
    type Error = io::Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_pending(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Bytes) -> io::Result<()> {
        match self.stream.session().try_send_msg(&message) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.pending = Some(message);
                Ok(())
            }
            sent => sent,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        self.stream.session().poll_flush()
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pending(cx))?;
        self.stream.session().poll_shutdown(cx)
    }
}
