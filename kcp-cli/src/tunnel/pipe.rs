//! A TCP connection and a stream of the multiplexer, joined: bytes both ways, ends one by one.
//!
//! FIN in smux ends one direction, but old peers take it for the end of both, and nothing tells a peer that nobody reads any more. So
//! * the end of the local side is told at once only where the peer keeps reading then for sure: one of ours, with version 2.
//!   Otherwise when nothing has come from the peer for a moment;
//! * once one direction has ended the other may be quiet only for so long. With version 2 what the peer's reader takes is a
//!   sign of life; with version 1 nothing is, and the time is all that there is.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use kcp_smux::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::address::Connection;

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// Chunks before other tasks have their turn.
const ROUNDS: usize = 16;
/// Silence of a peer that would take FIN for the end of everything, before it is told.
const FIN_DELAY: Duration = Duration::from_secs(2);
/// Such a peer has ended the stream: what may still leave.
const LONGEST_REMAINDER: Duration = Duration::from_secs(30);

thread_local! {
    /// Borrowed for one read and one write, so that quiet connections own no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// How ends are treated.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Manners {
    /// The peer's FIN ends one direction only, and so does ours.
    pub(crate) half_close: bool,
    /// This is the side that TCP was accepted on.
    pub(crate) client: bool,
    /// The stream tells what the peer's reader takes: version 2.
    pub(crate) tells: bool,
    /// Quiet time of the last direction.
    pub(crate) wait: Duration,
}

/// Bytes in both directions, and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) up: u64,
    pub(crate) down: u64,
    pub(crate) result: io::Result<()>,
}

/// For the log.
pub(crate) fn told(outcome: &Outcome) -> String {
    let Outcome { up, down, result } = outcome;
    match result {
        Ok(()) => format!("{up} bytes in, {down} out"),
        Err(error) => format!("{up} bytes in, {down} out, then {error}"),
    }
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// Read and not yet written: from `written` on.
    rest: Vec<u8>,
    written: usize,
    bytes: u64,
    /// Everything was written, and the end was read.
    done: bool,
    /// The end was told.
    told: bool,
}

/// Until both directions have ended, or one fails. A failed connection is reset, so that what is missing is noticed.
pub(crate) async fn join(mut local: Connection, mut stream: Stream, manners: Manners) -> Outcome {
    let (mut up, mut down) = (Flow::default(), Flow::default());
    let result = run(&mut local, &mut stream, manners, &mut up, &mut down).await;
    if result.is_err() {
        local.abort();
    }
    Outcome { up: up.bytes, down: down.bytes, result }
}

async fn run(
    local: &mut Connection,
    stream: &mut Stream,
    manners: Manners,
    up: &mut Flow,
    down: &mut Flow,
) -> io::Result<()> {
    poll_fn(|cx| {
        let up_now = up.poll(cx, local, stream)?.is_ready();
        let down_now = down.poll(cx, stream, local)?.is_ready();
        if up_now || down_now { Poll::Ready(Ok::<_, io::Error>(())) } else { Poll::Pending }
    })
    .await?;
    let mut clock = std::pin::pin!(sleep_until(Instant::now()));
    let mut last = Instant::now();
    let mut seen = None;
    poll_fn(|cx| {
        loop {
            let _ = up.poll(cx, local, stream)?;
            let _ = down.poll(cx, stream, local)?;
            let now = Instant::now();
            let signs =
                (up.done, down.done, down.bytes, if manners.tells { stream.peer_consumed() } else { 0 });
            if seen.replace(signs) != Some(signs) {
                last = now;
            }
            if down.done && !down.told {
                ready!(Pin::new(&mut *local).poll_shutdown(cx))?;
                down.told = true;
            }
            let at_once = manners.half_close || !manners.client || down.done;
            if up.done && !up.told && (at_once || now >= last + FIN_DELAY) {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                up.told = true;
            }
            if up.told && down.told {
                return Poll::Ready(Ok(()));
            }
            let ended_for_both = down.done && !manners.half_close;
            let wait = if ended_for_both { manners.wait.min(LONGEST_REMAINDER) } else { manners.wait };
            if now >= last + wait {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "quiet after one direction had ended",
                )));
            }
            let delayed = (up.done && !up.told).then_some(last + FIN_DELAY);
            let due = delayed.map_or(last + wait, |due| due.min(last + wait));
            clock.as_mut().reset(due);
            ready!(clock.as_mut().poll(cx));
        }
    })
    .await
}

impl Flow {
    /// Moves what there is. Ready when everything was moved, the end of `from` included.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..ROUNDS {
            ready!(self.poll_rest(cx, to))?;
            ready!(SCRATCH.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut buf))?;
                let chunk = buf.filled();
                self.done = chunk.is_empty();
                self.bytes += chunk.len() as u64;
                let mut written = 0;
                while written < chunk.len() {
                    match Pin::new(&mut *to).poll_write(cx, &chunk[written..])? {
                        Poll::Ready(0) => return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero))),
                        Poll::Ready(n) => written += n,
                        Poll::Pending => {
                            self.rest.extend_from_slice(&chunk[written..]);
                            return Poll::Pending;
                        }
                    }
                }
                Poll::Ready(Ok(()))
            }))?;
            if self.done {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.written < self.rest.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.rest[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        // Given back: it is there only while the writer is slow.
        self.rest = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}
