//! Peers between two network namespaces, joined by an emulated link on TUN: kernel TCP, QUIC and KCP over the same path. Client and
//! server are a thread each, with a runtime of its own. What arrives is verified.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kcp_netlab::{LinkConfig, Namespace, Path, PathStats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::peers::Peer;
use crate::peers::transport::{AnyStream, Dialer, Listener};
use crate::peers::workload::pattern;

/// Bytes of a small message; the first eight are its number.
pub const MESSAGE: usize = 64;
/// Bytes of a burst.
pub const BURST: usize = 64 * 1024;
/// One message per so much time.
pub const EVERY: Duration = Duration::from_millis(20);
/// From an answered burst to the next one.
pub const PAUSE: Duration = Duration::from_millis(200);
/// How long stragglers are waited for.
const STRAGGLERS: Duration = Duration::from_secs(10);
/// Written at a time in bulk.
const WRITE: usize = 16 * 1024;

/// A peer, and for TCP the kernel's congestion control.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Contestant {
    /// In tables.
    pub name: &'static str,
    /// Which.
    pub peer: Peer,
    congestion: Option<&'static str>,
}

impl Contestant {
    const fn new(name: &'static str, peer: Peer) -> Self {
        Self { name, peer, congestion: None }
    }

    const fn tcp(name: &'static str, congestion: &'static str) -> Self {
        Self { name, peer: Peer::Tcp, congestion: Some(congestion) }
    }

    /// All of them; those whose congestion control this kernel does not have are left out.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let have = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")
            .unwrap_or_default();
        [
            Self::new("ours normal", Peer::OursNormal),
            Self::new("ours fast", Peer::OursFast),
            Self::new("ours turbo", Peer::Ours),
            Self::new("ours turbo prompt", Peer::OursPrompt),
            Self::new("ours realtime", Peer::OursRealtime),
            Self::new("tokio_kcp", Peer::TokioKcp),
            Self::new("kcp-rs", Peer::KcpRs),
            Self::new("rust-kcp", Peer::RustKcp),
            Self::new("quinn", Peer::Quinn),
            Self::tcp("tcp cubic", "cubic"),
            Self::tcp("tcp bbr", "bbr"),
        ]
        .into_iter()
        .filter(|one| one.congestion.is_none_or(|name| have.split_whitespace().any(|word| word == name)))
        .collect()
    }
}

/// What one run has shown.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// Delays in microseconds. Of what never came: how long it was waited for.
    pub delays: Vec<u64>,
    /// How many of them never came.
    pub missing: u64,
    /// IP packets of both directions.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Part of the packets that the link's rule lost.
    pub lost: f64,
    /// Part of the packets that the link's queue dropped.
    pub dropped: f64,
    /// Bytes delivered to the application.
    pub delivered: u64,
    /// Seconds.
    pub seconds: f64,
}

impl Sample {
    fn traffic(&mut self, before: &PathStats, after: &PathStats) {
        self.packets = after.packets() - before.packets();
        self.bytes = after.bytes() - before.bytes();
        let part = |count: u64| count as f64 / self.packets.max(1) as f64;
        self.lost = part(after.lost() - before.lost());
        let dropped = |stats: &PathStats| stats.left.queue_dropped + stats.right.queue_dropped;
        self.dropped = part(dropped(after) - dropped(before));
    }
}

/// What client and server do.
#[derive(Copy, Clone, Debug)]
pub enum Work {
    /// So many small messages, one every [`EVERY`], echoed. Delays from the time that each was due.
    Paced {
        /// Messages.
        messages: u64,
    },
    /// A burst, answered when it has arrived, a pause, the next, for so long. Delays from its start to its answer.
    Bursts {
        /// How long.
        lasting: Duration,
    },
    /// As much as goes through, for so long after a while that is not counted.
    Bulk {
        /// Not counted.
        warm: Duration,
        /// Counted.
        lasting: Duration,
    },
}

/// Two namespaces and a link between them.
#[derive(Debug)]
pub struct Lab {
    // Before the namespaces, so that the devices go first.
    path: Path,
    client: Namespace,
    server: Namespace,
    contestant: Contestant,
}

impl Lab {
    /// A lab for one contestant.
    ///
    /// # Errors
    /// When namespaces or devices cannot be made.
    pub fn new(contestant: Contestant, link: LinkConfig, seed: u64) -> io::Result<Self> {
        let (client, server) = (Namespace::new()?, Namespace::new()?);
        let path = Path::new(&client, &server, link, seed)?;
        if let Some(name) = contestant.congestion {
            // By route: the default of a namespace may only be one that everybody is allowed to use.
            for (side, other) in [(&client, path.right()), (&server, path.left())] {
                let other = other.to_string();
                side.ip(&["route", "change", &other, "dev", path.interface(), "congctl", name])?;
            }
        }
        Ok(Self { path, client, server, contestant })
    }

    /// Runs `work` once, over one new connection.
    ///
    /// # Errors
    /// The peer's, of time, and when something arrives that was not sent.
    pub fn run(&self, window: u16, work: Work) -> io::Result<Sample> {
        let shared = Arc::new(Shared::default());
        let (bound, address) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::scope(|scope| {
            let serving = shared.clone();
            scope.spawn(move || {
                self.server.run(|| {
                    let runtime = runtime()?;
                    runtime.block_on(async {
                        let at = SocketAddr::from((self.path.right(), 0));
                        let listener = match Listener::bind_at(self.contestant.peer, window, at).await {
                            Ok(listener) => listener,
                            Err(error) => {
                                let _ = bound.send(Err(error));
                                return;
                            }
                        };
                        let _ = bound.send(listener.local_addr());
                        let serve = listener.serve(move |stream| serve(stream, work, serving.clone()));
                        tokio::select! { _ = serve => {}, _ = stopped => {} }
                    });
                    // Tasks of the peers may never end.
                    runtime.shutdown_background();
                    Ok::<_, io::Error>(())
                })
            });
            let server = address.recv().map_err(io::Error::other)??;
            let result = self.client.run(|| {
                let runtime = runtime()?;
                let result = runtime.block_on(async {
                    let dialer = Dialer::new(self.contestant.peer, window, server).await?;
                    let limit = Duration::from_secs(60);
                    let stream = timeout(limit, connect(&dialer)).await.map_err(io::Error::from)??;
                    match work {
                        Work::Paced { messages } => self.paced(stream, messages).await,
                        Work::Bursts { lasting } => self.bursts(stream, lasting).await,
                        Work::Bulk { warm, lasting } => self.bulk(stream, warm, lasting, &shared).await,
                    }
                });
                runtime.shutdown_background();
                result
            });
            let _ = stop.send(());
            if shared.wrong.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "what arrived is not what was sent"));
            }
            result
        })
    }

    async fn paced(&self, stream: AnyStream, messages: u64) -> io::Result<Sample> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let first = Instant::now() + Duration::from_millis(300);
        let at = move |n: u64| first + EVERY * u32::try_from(n).unwrap_or(u32::MAX);
        sleep_until(first).await;
        let before = self.path.stats();
        let write = async move {
            for n in 0..messages {
                sleep_until(at(n)).await;
                writer.write_all(&message(n)).await?;
                writer.flush().await?;
            }
            // Held: dropped, it would end the stream.
            Ok::<_, io::Error>(writer)
        };
        let mut delays = Vec::new();
        let read = async {
            for n in 0..messages {
                let mut reply = [0; MESSAGE];
                reader.read_exact(&mut reply).await?;
                if reply != message(n) {
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                }
                delays.push(at(n).elapsed().as_micros() as u64);
            }
            Ok(())
        };
        let limit = EVERY * u32::try_from(messages).unwrap_or(u32::MAX) + STRAGGLERS;
        if let Ok(done) = timeout(limit, async { tokio::try_join!(write, read) }).await {
            drop(done?);
        }
        let mut sample = Sample::default();
        sample.traffic(&before, &self.path.stats());
        sample.seconds = first.elapsed().as_secs_f64();
        sample.delivered = 2 * (delays.len() * MESSAGE) as u64;
        sample.missing = messages - delays.len() as u64;
        delays.extend((delays.len() as u64..messages).map(|n| at(n).elapsed().as_micros() as u64));
        sample.delays = delays;
        Ok(sample)
    }

    async fn bursts(&self, mut stream: AnyStream, lasting: Duration) -> io::Result<Sample> {
        let data = pattern();
        sleep(Duration::from_millis(300)).await;
        let before = self.path.stats();
        let (started, mut sample) = (Instant::now(), Sample::default());
        while started.elapsed() < lasting {
            let sent = Instant::now();
            let mut reply = [0; MESSAGE];
            let exchange = async {
                stream.write_all(&data[..BURST]).await?;
                stream.flush().await?;
                stream.read_exact(&mut reply).await
            };
            let Ok(done) = timeout(STRAGGLERS, exchange).await else {
                sample.missing += 1;
                sample.delays.push(sent.elapsed().as_micros() as u64);
                break;
            };
            done?;
            if reply != message(sample.delays.len() as u64) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            sample.delays.push(sent.elapsed().as_micros() as u64);
            sample.delivered += BURST as u64;
            sleep(PAUSE).await;
        }
        sample.traffic(&before, &self.path.stats());
        sample.seconds = started.elapsed().as_secs_f64();
        Ok(sample)
    }

    async fn bulk(
        &self,
        mut stream: AnyStream,
        warm: Duration,
        lasting: Duration,
        shared: &Shared,
    ) -> io::Result<Sample> {
        let data = pattern();
        let begin = Instant::now() + warm;
        let write = async {
            let mut sent = 0;
            loop {
                let at = sent % 251;
                stream.write_all(&data[at..at + WRITE]).await?;
                sent += WRITE;
            }
        };
        let measure = async {
            let look = || (shared.delivered.load(Ordering::Relaxed), self.path.stats(), Instant::now());
            sleep_until(begin).await;
            let before = look();
            sleep_until(begin + lasting).await;
            (before, look())
        };
        let (before, after) = tokio::select! {
            done = measure => done,
            failed = write => {
                let never: Result<std::convert::Infallible, io::Error> = failed;
                return Err(never.err().unwrap_or_else(|| io::ErrorKind::Other.into()));
            }
        };
        let mut sample = Sample::default();
        sample.traffic(&before.1, &after.1);
        sample.delivered = after.0 - before.0;
        sample.seconds = after.2.duration_since(before.2).as_secs_f64();
        Ok(sample)
    }
}

#[derive(Debug, Default)]
struct Shared {
    delivered: AtomicU64,
    wrong: AtomicBool,
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn message(n: u64) -> [u8; MESSAGE] {
    let mut message = [n as u8; MESSAGE];
    message[..8].copy_from_slice(&n.to_le_bytes());
    message
}

/// A connection on which each side has heard the other.
async fn connect(dialer: &Dialer) -> io::Result<AnyStream> {
    let mut stream = dialer.connect().await?;
    stream.write_all(b"hello").await?;
    stream.flush().await?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply).await?;
    Ok(stream)
}

/// The server's side of a connection.
async fn serve(mut stream: AnyStream, work: Work, shared: Arc<Shared>) {
    let done = async {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await?;
        stream.write_all(&hello).await?;
        stream.flush().await?;
        match work {
            Work::Paced { .. } => loop {
                let mut message = [0; MESSAGE];
                stream.read_exact(&mut message).await?;
                stream.write_all(&message).await?;
                stream.flush().await?;
            },
            Work::Bursts { .. } => {
                let (expected, mut buf) = (pattern(), vec![0; BURST]);
                for n in 0.. {
                    stream.read_exact(&mut buf).await?;
                    if buf != expected[..BURST] {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    stream.write_all(&message(n)).await?;
                    stream.flush().await?;
                }
                Ok(())
            }
            Work::Bulk { .. } => {
                let (expected, mut buf) = (pattern(), vec![0; 128 * 1024]);
                let mut got = 0;
                loop {
                    let n = stream.read(&mut buf).await?;
                    let at = got % 251;
                    if n == 0 || buf[..n] != expected[at..at + n] {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    got += n;
                    shared.delivered.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
        }
    };
    let done: io::Result<()> = done.await;
    if done.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
        shared.wrong.store(true, Ordering::Relaxed);
    }
}
