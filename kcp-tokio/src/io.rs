//! What the faces do on a session: reads, writes, readiness. A stream and its halves share it.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use kcp_core::{CloseReason, ReadError, Timestamp, WriteError};
use tokio::io::{Interest, ReadBuf, Ready};

use crate::error::KcpError;
use crate::session::{INLINE_RUNS, Session, State, Turn};

type Core = kcp_core::Session;

impl Session {
    /// A read; `Err(EndOfStream)` when nothing will ever come.
    fn poll_take<T>(
        self: &Arc<Self>,
        cx: &Context<'_>,
        read: impl FnOnce(&mut Core, Timestamp) -> Result<T, ReadError>,
    ) -> Poll<Result<T, KcpError>> {
        self.take_with(read, |state| {
            state.reader.register(cx.waker());
        })
        .map_or(Poll::Pending, Poll::Ready)
    }

    /// A read that does not wait: `None` when nothing is there, after `wait`.
    fn take_with<T>(
        self: &Arc<Self>,
        read: impl FnOnce(&mut Core, Timestamp) -> Result<T, ReadError>,
        wait: impl FnOnce(&mut State),
    ) -> Option<Result<T, KcpError>> {
        let mut turn = Turn::default();
        let now = self.hub().now();
        let mut state = self.lock();
        match read(&mut state.core, now) {
            Ok(value) => {
                self.settle(&mut state);
                // Only a reader that made room in a closed window, or took the last of a stream, has something to send.
                if state.core.poll_timeout().is_some_and(|at| at <= now) {
                    self.after(&mut state, now, INLINE_RUNS, &mut turn);
                }
                drop(state);
                turn.wake();
                Some(Ok(value))
            }
            Err(ReadError::Closed(reason)) => Some(Err(state.closed(reason))),
            Err(ReadError::EndOfStream) => Some(Err(KcpError::EndOfStream)),
            Err(_) => {
                wait(&mut state);
                None
            }
        }
    }

    fn poll_give<T>(
        self: &Arc<Self>,
        cx: &Context<'_>,
        write: impl FnOnce(&mut Core, Timestamp) -> Result<T, WriteError>,
    ) -> Poll<io::Result<T>> {
        self.give_with(write, |state| state.extra().writer.register(cx.waker()))
            .map_or(Poll::Pending, Poll::Ready)
    }

    fn give_with<T>(
        self: &Arc<Self>,
        write: impl FnOnce(&mut Core, Timestamp) -> Result<T, WriteError>,
        wait: impl FnOnce(&mut State),
    ) -> Option<io::Result<T>> {
        self.with(|state, now| match write(&mut state.core, now) {
            Ok(value) => {
                if state.core.is_readable() {
                    // Answers to what is not read yet will follow, and may leave in the same datagram.
                    self.shard.gather_once(now);
                }
                Some(Ok(value))
            }
            Err(WriteError::Blocked) => {
                wait(state);
                None
            }
            Err(WriteError::Closed(reason)) => Some(Err(state.unwritable(reason).into())),
            Err(error) => Some(Err(KcpError::Write(error).into())),
        })
    }

    pub(crate) fn poll_read(
        self: &Arc<Self>,
        cx: &Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            // Waits for something to read, as TCP does.
            return self.poll_ready(cx, Interest::READABLE).map(|_| Ok(()));
        }
        let read = self.poll_take(cx, |core, now| core.read(now, buf.initialize_unfilled()));
        read.map(|read| end_is_zero(read).map(|n| buf.advance(n)))
    }

    pub(crate) fn poll_peek(self: &Arc<Self>, cx: &Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_take(cx, |core, _| core.peek(buf)).map(end_is_zero)
    }

    pub(crate) fn try_read(self: &Arc<Self>, buf: &mut [u8]) -> io::Result<usize> {
        end_is_zero(self.take_with(|core, now| core.read(now, buf), |_| ()).ok_or(io::ErrorKind::WouldBlock)?)
    }

    pub(crate) fn try_read_vectored(self: &Arc<Self>, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut total = 0;
        for buf in bufs.iter_mut().filter(|buf| !buf.is_empty()) {
            match self.try_read(buf) {
                Ok(n) => {
                    total += n;
                    if n < buf.len() {
                        break;
                    }
                }
                Err(error) if total == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(total)
    }

    pub(crate) fn poll_write(self: &Arc<Self>, cx: &Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_give(cx, |core, now| match buf {
            // Waits for room, as TCP does.
            [] if !core.is_write_ready() => {
                core.want_write();
                Err(WriteError::Blocked)
            }
            buf => core.write(now, buf),
        })
    }

    pub(crate) fn try_write(self: &Arc<Self>, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = self.give_with(|core, now| write_vectored(core, now, bufs), |_| ());
        written.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }

    pub(crate) fn poll_write_vectored(
        self: &Arc<Self>,
        cx: &Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_give(cx, |core, now| write_vectored(core, now, bufs))
    }

    pub(crate) fn poll_flush(self: &Arc<Self>) -> Poll<io::Result<()>> {
        {
            // What was written has left, or is the driver's to send.
            let state = self.lock();
            if !state.core.is_holding() {
                return Poll::Ready(state.ending());
            }
        }
        Poll::Ready(self.with(|state, _| {
            state.core.flush();
            state.ending()
        }))
    }

    pub(crate) fn poll_shutdown(self: &Arc<Self>, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.with(|state, _| {
            if state.drained {
                return Poll::Ready(Ok(()));
            }
            state.core.shutdown();
            if state.end().is_some() {
                return Poll::Ready(state.ending());
            }
            if state.core.is_drained() {
                return Poll::Ready(Ok(()));
            }
            state.extra().waiter.register(cx.waker());
            Poll::Pending
        })
    }

    pub(crate) fn poll_send_msg(self: &Arc<Self>, cx: &Context<'_>, msg: &Bytes) -> Poll<io::Result<()>> {
        self.poll_give(cx, |core, now| core.send_msg(now, msg.clone()))
    }

    pub(crate) fn try_send_msg(self: &Arc<Self>, msg: &Bytes) -> io::Result<()> {
        let sent = self.give_with(|core, now| core.send_msg(now, msg.clone()), |_| ());
        sent.unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
    }

    pub(crate) fn poll_recv_msg(self: &Arc<Self>, cx: &Context<'_>) -> Poll<Result<Bytes, KcpError>> {
        self.poll_take(cx, |core, now| core.recv_msg(now))
    }

    pub(crate) fn send_datagram(self: &Arc<Self>, data: Bytes) -> io::Result<()> {
        self.with(|state, _| state.core.send_datagram(data)).map_err(|error| KcpError::Datagram(error).into())
    }

    pub(crate) fn poll_recv_datagram(self: &Arc<Self>, cx: &Context<'_>) -> Poll<io::Result<Bytes>> {
        let mut state = self.lock();
        if let Some(data) = state.core.recv_datagram() {
            return Poll::Ready(Ok(data));
        }
        if let Some(error) = state.end() {
            return Poll::Ready(Err(error.into()));
        }
        state.extra().datagram.register(cx.waker());
        Poll::Pending
    }

    pub(crate) async fn ready(self: &Arc<Self>, interest: Interest) -> Ready {
        poll_fn(|cx| self.poll_ready(cx, interest)).await
    }

    fn poll_ready(self: &Arc<Self>, cx: &Context<'_>, interest: Interest) -> Poll<Ready> {
        let mut state = self.lock();
        let mut ready = Ready::EMPTY;
        if interest.is_readable() {
            if state.core.is_read_ready() {
                ready |= Ready::READABLE;
            }
            if state.core.is_read_closed() || state.core.is_closed() {
                ready |= Ready::READ_CLOSED;
            }
        }
        if interest.is_writable() {
            if state.core.is_write_ready() {
                ready |= Ready::WRITABLE;
            }
            if state.core.is_shutdown() || state.core.is_closed() {
                ready |= Ready::WRITE_CLOSED;
            }
        }
        if !ready.is_empty() {
            return Poll::Ready(ready);
        }
        if interest.is_readable() {
            state.reader.register(cx.waker());
        }
        if interest.is_writable() {
            state.core.want_write();
            state.extra().writer.register(cx.waker());
        }
        Poll::Pending
    }

    pub(crate) fn abort(self: &Arc<Self>) {
        self.with(|state, _| state.core.abort());
    }

    pub(crate) async fn closed(self: &Arc<Self>) -> KcpError {
        poll_fn(|cx| {
            let mut state = self.lock();
            if let Some(reason) = state.end() {
                return Poll::Ready(reason);
            }
            state.extra().waiter.register(cx.waker());
            Poll::Pending
        })
        .await
    }
}

impl State {
    /// What `flush` and `shutdown` say of a session that has ended: nothing, unless something was lost.
    fn ending(&self) -> io::Result<()> {
        match self.end() {
            Some(KcpError::Closed(CloseReason::Finished)) | None => Ok(()),
            Some(KcpError::Closed(CloseReason::Reset | CloseReason::ProtocolError))
                if !self.core.has_lost_data() =>
            {
                Ok(())
            }
            Some(error) => Err(error.into()),
        }
    }
}

fn end_is_zero(read: Result<usize, KcpError>) -> io::Result<usize> {
    match read {
        Err(KcpError::EndOfStream) => Ok(0),
        read => Ok(read?),
    }
}

fn write_vectored(core: &mut Core, now: Timestamp, bufs: &[IoSlice<'_>]) -> Result<usize, WriteError> {
    if let [buf] = bufs {
        return core.write(now, buf);
    }
    if !core.config().is_stream() {
        // All slices together are one message.
        let message: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        return core.write(now, &message);
    }
    let mut taken = 0;
    for buf in bufs.iter().filter(|buf| !buf.is_empty()) {
        match core.write(now, buf) {
            Ok(n) => {
                taken += n;
                if n < buf.len() {
                    break;
                }
            }
            Err(error) if taken == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(taken)
}
