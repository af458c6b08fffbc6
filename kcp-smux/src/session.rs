//! A session: its handles, and the task that reads and writes the connection.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Config;
use crate::error::{ConfigError, Error};
use crate::mux::{Mux, Role};
use crate::stream::Stream;
use crate::sync::{Instant, Mutex, Sleep, lock, sleep_until, spawn};

/// Bytes taken from the connection at once.
const RECEIVE: usize = 64 << 10;
/// Rounds of reading and writing before other tasks have their turn.
const ROUNDS: usize = 32;

/// Many streams over one connection. Cheap to clone; each clone is a handle of the same session.
///
/// When all handles and streams are gone, what was written leaves, and then the connection is shut down.
#[derive(Clone)]
pub struct Session(Arc<Owner>);

struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.work(|mux| (mux.abandon(), true));
    }
}

impl Session {
    /// The side that has connected. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A configuration out of range.
    pub fn client<T>(io: T, config: Config) -> Result<Self, ConfigError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::start(io, config, Role::Client)
    }

    /// The side that was connected to. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A configuration out of range.
    pub fn server<T>(io: T, config: Config) -> Result<Self, ConfigError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::start(io, config, Role::Server)
    }

    fn start<T>(io: T, config: Config, role: Role) -> Result<Self, ConfigError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        config.validate()?;
        let (keepalive, timeout) = (config.keepalive, config.timeout);
        let shared = Arc::new(Shared(Mutex::new(Mux::new(config, role))));
        spawn(Driver::new(io, shared.clone(), keepalive, timeout));
        Ok(Self(Arc::new(Owner(shared))))
    }

    /// Opens a stream. The peer is not asked: one that takes no more ends it with FIN.
    ///
    /// # Errors
    /// [`Error::TooManyStreams`], [`Error::GoAway`], or why the session has ended.
    pub fn open(&self) -> Result<Stream, Error> {
        let id = self.0.0.work(|mux| (mux.open(), true))?;
        Ok(Stream::new(self.0.0.clone(), id))
    }

    /// The next stream that the peer opens.
    ///
    /// # Errors
    /// Why the session has ended.
    ///
    /// # Cancel safety
    /// Safe: no stream is lost.
    pub async fn accept(&self) -> Result<Stream, Error> {
        let id = poll_fn(|cx| self.0.0.with(|mux| mux.poll_accept(cx))).await?;
        Ok(Stream::new(self.0.0.clone(), id))
    }

    /// Streams that exist, those included that wait for [`accept`](Self::accept), or that were dropped and have not sent
    /// everything.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.0.0.with(|mux| mux.streams())
    }

    /// Why the session has ended, if it has.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.0.0.with(|mux| mux.end().cloned())
    }

    /// Waits for the end of the session.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn closed(&self) -> Error {
        poll_fn(|cx| self.0.0.with(|mux| mux.poll_closed(cx))).await
    }

    /// Ends the session: no more streams, no more writes; waits until what was written has left (unless it waits for the window of
    /// a stream) and the connection is shut down.
    ///
    /// # Cancel safety
    /// Once begun it goes on.
    pub async fn close(&self) -> Error {
        let mut wakes = Vec::new();
        self.0.0.with(|mux| mux.close(&mut wakes));
        wake_all(&mut wakes);
        self.closed().await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

/// What handles, streams and the task have in common.
pub(crate) struct Shared(Mutex<Mux>);

impl Shared {
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Mux) -> T) -> T {
        work(&mut lock(&self.0))
    }

    /// The same; if `work` says so the task is woken, after the lock is released.
    pub(crate) fn work<T>(&self, work: impl FnOnce(&mut Mux) -> (T, bool)) -> T {
        let mut mux = lock(&self.0);
        let (result, wake) = work(&mut mux);
        let driver = if wake { mux.driver.take() } else { None };
        drop(mux);
        if let Some(driver) = driver {
            driver.wake();
        }
        result
    }
}

fn wake_all(wakes: &mut Vec<Waker>) {
    wakes.drain(..).for_each(Waker::wake);
}

/// The task: owns the connection.
struct Driver<T> {
    io: T,
    shared: Arc<Shared>,
    /// Frames, and how much of them the connection has taken.
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    /// Why the connection takes nothing any more.
    broken: Option<Error>,
    /// Received and not yet applied: `start..end`.
    input: Box<[u8]>,
    start: usize,
    end: usize,
    wakes: Vec<Waker>,
    keepalive: Option<Duration>,
    timeout: Duration,
    heard: Instant,
    sent: Instant,
    sweep: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    fn new(io: T, shared: Arc<Shared>, keepalive: Option<Duration>, timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            io,
            shared,
            out: Vec::new(),
            written: 0,
            flushed: true,
            broken: None,
            input: vec![0; RECEIVE].into_boxed_slice(),
            start: 0,
            end: 0,
            wakes: Vec::new(),
            keepalive,
            timeout,
            heard: now,
            sent: now,
            sweep: now + timeout,
            timer: Box::pin(sleep_until(now)),
        }
    }

    /// Runs until the session ends, and says why.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        // Whatever is queued after this wakes the task again.
        self.shared.with(|mux| mux.driver = Some(cx.waker().clone()));
        for _ in 0..ROUNDS {
            let wrote = match self.broken {
                None => self.write(cx).unwrap_or_else(|error| {
                    self.broken = Some(error);
                    false
                }),
                Some(_) => false,
            };
            match self.read(cx) {
                // Why the peer has ended the session says more than that it takes nothing any more.
                Err(error) => return Poll::Ready(error),
                Ok(read) if wrote | read => continue,
                Ok(_) => {}
            }
            // What has arrived is read before.
            if let Some(error) = self.broken.take() {
                return Poll::Ready(error);
            }
            if self.flushed && self.out.is_empty() && self.shared.with(|mux| mux.is_finished()) {
                // An error changes nothing any more.
                let _ = ready!(Pin::new(&mut self.io).poll_shutdown(cx));
                return Poll::Ready(Error::Closed);
            }
            if let Err(error) = ready!(self.poll_timer(cx)) {
                return Poll::Ready(error);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One round of sending; whether anything happened.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        if self.out.is_empty() {
            let Self { shared, out, wakes, .. } = self;
            shared.with(|mux| mux.transmit(out, wakes));
            wake_all(wakes);
        }
        if self.out.is_empty() {
            if !self.flushed
                && let Poll::Ready(result) = Pin::new(&mut self.io).poll_flush(cx)
            {
                result.map_err(transport)?;
                self.flushed = true;
            }
            return Ok(false);
        }
        match Pin::new(&mut self.io).poll_write(cx, &self.out[self.written..]) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(0)) => Err(transport(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Err(error)) => Err(transport(error)),
            Poll::Ready(Ok(n)) => {
                self.sent = Instant::now();
                self.flushed = false;
                self.written += n;
                if self.written >= self.out.len() {
                    self.out.clear();
                    self.written = 0;
                }
                Ok(true)
            }
        }
    }

    /// One round of receiving; whether anything happened.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let Self { shared, input, wakes, start, end, .. } = self;
        let (applied, more) =
            shared.with(|mux| (mux.receive(&input[*start..*end], wakes), mux.can_receive()));
        wake_all(wakes);
        let applied = applied?;
        *start += applied;
        if !more {
            return Ok(applied > 0);
        }
        // What is left is less than a header and an update.
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let mut buf = ReadBuf::new(&mut self.input[self.end..]);
        match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
            Poll::Pending => Ok(applied > 0),
            Poll::Ready(Err(error)) => Err(transport(error)),
            Poll::Ready(Ok(())) => match buf.filled().len() {
                0 => Err(Error::Ended),
                n => {
                    self.end += n;
                    self.heard = Instant::now();
                    Ok(true)
                }
            },
        }
    }

    /// Signs of life, and their absence. Ready when something was due.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let now = Instant::now();
        let ping = self.keepalive.map(|period| self.sent + period);
        let dead = self.keepalive.map(|_| self.heard + self.timeout);
        if ping.is_some_and(|at| at <= now) {
            // Once per period, even if the connection takes nothing.
            self.sent = now;
            self.shared.with(Mux::ping);
            return Poll::Ready(Ok(()));
        }
        if dead.is_some_and(|at| at <= now) {
            if !self.shared.with(|mux| mux.is_full()) {
                return Poll::Ready(Err(Error::Timeout));
            }
            self.heard = now;
            return Poll::Ready(Ok(()));
        }
        if self.sweep <= now {
            self.sweep = now + self.timeout;
            self.shared.with(Mux::sweep);
            return Poll::Ready(Ok(()));
        }
        let due = [ping, dead, Some(self.sweep)].into_iter().flatten().min().unwrap_or(self.sweep);
        // It only ever moves on: when it fires early, it is set again.
        if self.timer.deadline() > due || self.timer.is_elapsed() {
            self.timer.as_mut().reset(due);
        }
        self.timer.as_mut().poll(cx).map(Ok)
    }
}

fn transport(error: io::Error) -> Error {
    Error::Transport(Arc::new(error))
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.drive(cx).map(|error| self.finish(error))
    }
}

impl<T> Driver<T> {
    fn finish(&mut self, error: Error) {
        let Self { shared, wakes, .. } = self;
        shared.with(|mux| mux.finish(error, wakes));
        wake_all(wakes);
    }
}

impl<T> Drop for Driver<T> {
    /// Also when the runtime goes away: nobody waits for ever.
    fn drop(&mut self) {
        self.finish(Error::Closed);
    }
}
