//! Random interleavings of streams, handles and the two tasks of a session at each end of a pipe: the source files themselves, over
//! shuttle's primitives. A lost wakeup shows as a deadlock. Time stands still: nothing here may need it.

#[path = "../src/config.rs"]
#[allow(dead_code, unreachable_pub, unnameable_types, reason = "the rest is for the crate")]
mod config;
#[path = "../src/error.rs"]
#[allow(dead_code, unreachable_pub, unnameable_types, reason = "the rest is for the crate")]
mod error;
#[path = "../src/frame.rs"]
#[allow(dead_code, unreachable_pub, unnameable_types, reason = "the rest is for the crate")]
mod frame;
#[path = "../src/mux.rs"]
#[allow(dead_code, unreachable_pub, unnameable_types, reason = "the rest is for the crate")]
mod mux;
#[path = "../src/session.rs"]
#[allow(dead_code, unreachable_pub, unnameable_types, reason = "the rest is for the crate")]
mod session;
#[path = "../src/stream.rs"]
#[allow(dead_code, unreachable_pub, unnameable_types, reason = "the rest is for the crate")]
mod stream;

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shuttle::future::{block_on, spawn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use config::{Config, Version};
use session::Session;
use stream::Stream;
use sync::{Mutex, lock, over};

mod sync {
    use std::cell::RefCell;
    use std::ops::Add;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use shuttle::future::JoinHandle;
    pub(crate) use shuttle::sync::{Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap()
    }

    thread_local! {
        /// The tasks of sessions: a schedule runs all of them on one thread of the system.
        static TASKS: RefCell<Vec<JoinHandle<()>>> = const { RefCell::new(Vec::new()) };
    }

    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        let handle = shuttle::future::spawn(task);
        TASKS.with_borrow_mut(|tasks| tasks.push(handle));
    }

    /// Nothing is left of any session.
    pub(crate) async fn over() {
        for task in TASKS.take() {
            task.await.unwrap();
        }
    }

    #[derive(Copy, Clone, Eq, Ord, PartialEq, PartialOrd)]
    pub(crate) struct Instant(Duration);

    impl Instant {
        pub(crate) const fn now() -> Self {
            Self(Duration::ZERO)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Self;

        fn add(self, after: Duration) -> Self {
            Self(self.0 + after)
        }
    }

    pub(crate) struct Sleep(Instant);

    pub(crate) const fn sleep_until(at: Instant) -> Sleep {
        Sleep(at)
    }

    impl Sleep {
        pub(crate) const fn deadline(&self) -> Instant {
            self.0
        }

        pub(crate) fn is_elapsed(&self) -> bool {
            self.0 <= Instant::now()
        }

        pub(crate) fn reset(mut self: Pin<&mut Self>, at: Instant) {
            self.0 = at;
        }
    }

    impl Future for Sleep {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if self.is_elapsed() { Poll::Ready(()) } else { Poll::Pending }
        }
    }
}

/// One direction of the connection: a few bytes, so that frames come in pieces.
#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    closed: bool,
    /// What is written is thrown away, as a stream does whose peer was dropped.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

const ROOM: usize = 11;

struct Pipe {
    inbound: Arc<Mutex<Way>>,
    outbound: Arc<Mutex<Way>>,
}

fn pipe() -> (Pipe, Pipe) {
    let ways = [(); 2].map(|()| Arc::new(Mutex::new(Way::default())));
    let [a, b] = ways;
    (Pipe { inbound: a.clone(), outbound: b.clone() }, Pipe { inbound: b, outbound: a })
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut way = lock(&self.inbound);
        if way.bytes.is_empty() && !way.closed {
            way.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = buf.remaining().min(way.bytes.len());
        buf.put_slice(&way.bytes.drain(..n).collect::<Vec<_>>());
        let writer = way.writer.take();
        drop(way);
        writer.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut way = lock(&self.outbound);
        if way.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let n = buf.len().min(ROOM - way.bytes.len());
        if n == 0 {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        way.bytes.extend(&buf[..n]);
        let reader = way.reader.take();
        drop(way);
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        end(&self.outbound, |way| way.closed = true);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        end(&self.outbound, |way| way.closed = true);
        end(&self.inbound, |way| way.deaf = true);
    }
}

fn end(way: &Mutex<Way>, how: impl FnOnce(&mut Way)) {
    let mut way = lock(way);
    how(&mut way);
    let (reader, writer) = (way.reader.take(), way.writer.take());
    drop(way);
    reader.into_iter().chain(writer).for_each(Waker::wake);
}

fn pair(version: Version) -> (Session, Session) {
    // Smaller than what is written: everybody waits for everybody. With version 2 it is the window of a stream that is waited for: were
    // the session full, what opens that would not be heard.
    let whole = if version == Version::V1 { 8 } else { 4 * DATA.len() + 8 };
    let config = Config::new(version).max_frame(3).send_buffer(4).receive_buffer(whole).stream_buffer(8);
    let (here, there) = pipe();
    (Session::client(here, config.clone()).unwrap(), Session::server(there, config).unwrap())
}

fn check(model: impl AsyncFn(Version) + Copy + Send + Sync + 'static) {
    let schedules = std::env::var("KCP_SCHEDULES").map_or(300, |n| n.parse().unwrap());
    for version in [Version::V1, Version::V2] {
        let run = move || {
            block_on(async move {
                model(version).await;
                over().await;
            });
        };
        shuttle::check_random(run, schedules);
        // Few preemptions in unlikely places.
        shuttle::check_pct(run, schedules, 3);
    }
}

const DATA: &[u8] = b"longer than any buffer on the way";

#[test]
fn a_reader_hears_of_data_and_a_writer_of_room() {
    check(async |version| {
        let (client, server) = pair(version);
        let echo = spawn(async move {
            let mut question = server.accept().await.unwrap();
            let mut answer = server.open().unwrap();
            let mut buf = [0; 5];
            loop {
                let n = question.read(&mut buf).await.unwrap();
                if n == 0 {
                    break;
                }
                answer.write_all(&buf[..n]).await.unwrap();
            }
            answer.shutdown().await.unwrap();
        });
        let mut question = client.open().unwrap();
        let writing = spawn(async move {
            question.write_all(DATA).await.unwrap();
            question.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        client.accept().await.unwrap().read_to_end(&mut got).await.unwrap();
        assert_eq!(got, DATA);
        drop(client);
        writing.await.unwrap();
        echo.await.unwrap();
    });
}

#[test]
fn streams_in_two_tasks_share_what_there_is() {
    check(async |version| {
        let (client, server) = pair(version);
        let reading = spawn(async move {
            let mut all = Vec::new();
            for _ in 0..2 {
                let mut stream = server.accept().await.unwrap();
                all.push(spawn(async move {
                    let mut got = Vec::new();
                    stream.read_to_end(&mut got).await.unwrap();
                    got
                }));
            }
            for got in all {
                assert_eq!(got.await.unwrap(), &DATA[..12]);
            }
        });
        let write = |mut stream: Stream| {
            spawn(async move {
                stream.write_all(&DATA[..12]).await.unwrap();
                // What was written leaves, although nobody holds the stream.
                drop(stream);
            })
        };
        let writing = [write(client.open().unwrap()), write(client.open().unwrap())];
        for task in writing {
            task.await.unwrap();
        }
        reading.await.unwrap();
    });
}

#[test]
fn close_wakes_everybody() {
    check(async |version| {
        let (client, server) = pair(version);
        let (mut written, mut read) = (client.open().unwrap(), client.open().unwrap());
        let writing = spawn(async move {
            let mut told = Ok(());
            for _ in 0..4 {
                told = told.and(written.write_all(DATA).await);
            }
        });
        let reading = spawn(async move { read.read(&mut [0; 4]).await.unwrap_err() });
        let (accepting, waiting) = (client.clone(), client.clone());
        let accepting = spawn(async move { accepting.accept().await.map(drop).unwrap_err() });
        let waiting = spawn(async move { waiting.closed().await });
        let mut stream = server.accept().await.unwrap();
        let peer = spawn(async move {
            // Nobody has read so far: whoever writes waits for room. Now what was written can leave.
            while stream.read(&mut [0; 4]).await.is_ok_and(|n| n > 0) {}
            server.closed().await
        });
        client.close().await;
        for task in [waiting, peer] {
            task.await.unwrap();
        }
        accepting.await.unwrap();
        reading.await.unwrap();
        writing.await.unwrap();
    });
}

#[test]
fn the_last_handle_ends_both_ends() {
    check(async |version| {
        let (client, server) = pair(version);
        let another = client.clone();
        let dropping = spawn(async move { drop(another) });
        let mut stream = client.open().unwrap();
        let leaving = spawn(async move {
            stream.write_all(b"last").await.unwrap();
            drop(stream);
        });
        drop(client);
        let mut got = Vec::new();
        let mut accepted = server.accept().await.unwrap();
        accepted.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"last");
        drop(accepted);
        server.closed().await;
        dropping.await.unwrap();
        leaving.await.unwrap();
    });
}
