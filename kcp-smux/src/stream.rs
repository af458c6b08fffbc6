//! One stream of a session.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::session::Shared;

/// A stream of a [`Session`](crate::Session): bytes in both directions.
///
/// * A read gives `Ok(0)` after the peer's FIN, never because the session has ended: that is an error, after what was received has
///   been read.
/// * [`shutdown`](tokio::io::AsyncWriteExt::shutdown) sends FIN behind what was written, and returns at once; so does
///   [`flush`](tokio::io::AsyncWriteExt::flush), since what was written leaves by itself. Neither says that the peer has it:
///   [`Session::close`](crate::Session::close) waits until everything has left.
/// * Dropped, it sends what was written and FIN; what the peer still sends is thrown away.
///
/// Holds the session: it ends when all handles and streams are gone.
///
/// # Cancel safety
/// `read`, `write` and `shutdown` may be dropped at any point.
pub struct Stream {
    shared: Arc<Shared>,
    id: u32,
}

impl Stream {
    pub(crate) const fn new(shared: Arc<Shared>, id: u32) -> Self {
        Self { shared, id }
    }

    /// Its number on the wire.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// How many bytes the peer's application has read in all, modulo 2^32, as far as the peer has said (version 2; with version
    /// 1 always 0). As long as this grows, somebody still reads.
    #[must_use]
    pub fn peer_consumed(&self) -> u32 {
        self.shared.with(|mux| mux.peer_consumed(self.id))
    }

    /// Whether the peer's FIN has come. What it sent before may still be unread.
    #[must_use]
    pub fn peer_finished(&self) -> bool {
        self.shared.with(|mux| mux.peer_finished(self.id))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.shared.work(|mux| {
            let was_full = !mux.can_receive();
            let idle = !mux.has_output();
            let result = mux.poll_read(self.id, cx, buf);
            let wake = (was_full && mux.can_receive()) || (idle && mux.has_output());
            (result.map_err(io::Error::from), wake)
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.work(|mux| {
            let idle = !mux.has_output();
            let result = mux.poll_write(self.id, cx, buf);
            (result, idle && mux.has_output())
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.work(|mux| {
            let idle = !mux.has_output();
            let mut written = 0;
            let mut result = Poll::Ready(Ok(0));
            for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
                result = mux.poll_write(self.id, cx, buf);
                let Poll::Ready(Ok(n)) = result else { break };
                written += n;
                if n < buf.len() {
                    break;
                }
            }
            let result = if written > 0 { Poll::Ready(Ok(written)) } else { result };
            (result, idle && mux.has_output())
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = self.shared.work(|mux| (mux.shutdown(self.id), true));
        Poll::Ready(result.map_err(io::Error::from))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.work(|mux| (mux.detach(self.id), true));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).finish_non_exhaustive()
    }
}
