//! What the client does, and what the server does for it. Everything that comes back is verified.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::Peer;
use super::ceiling::{Ceiling, Sender};
use super::process::{Server, Usage, memory_left, usage};
use super::transport::{AnyStream, Dialer};

/// Bytes written at a time in bulk.
const WRITE: usize = 16 * 1024;
/// Op, three unused bytes, size (u32), total (u64).
pub(super) const REQUEST: usize = 16;
const BULK: u8 = b'B';
pub(super) const ECHO: u8 = b'E';
const HELLO: u8 = b'I';
/// A run takes no longer; connecting half of it.
const LIMIT: Duration = Duration::from_secs(120);

fn request(op: u8, size: usize, total: u64) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[0] = op;
    request[4..8].copy_from_slice(&(size as u32).to_le_bytes());
    request[8..].copy_from_slice(&total.to_le_bytes());
    request
}

/// The byte at an offset of a bulk transfer: a period that no segment length divides.
#[must_use]
pub fn pattern() -> Vec<u8> {
    (0..251 * 1024).map(|i| (i % 251) as u8).collect()
}

/// The server's side of a connection.
pub async fn serve(mut stream: AnyStream) {
    let mut buf = vec![];
    loop {
        let mut request = [0; REQUEST];
        if stream.read_exact(&mut request).await.is_err() {
            return;
        }
        let size = u32::from_le_bytes([request[4], request[5], request[6], request[7]]) as usize;
        let total = request[8..].iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        let done = match request[0] {
            BULK => sink(&mut stream, &mut buf, total).await,
            ECHO => echo(&mut stream, &mut buf, size, total).await,
            _ => Ok(()),
        };
        // Idle connections are to cost what the peer costs.
        buf = vec![];
        let answered = match done {
            Ok(()) => stream.write_all(&request).await,
            Err(error) => Err(error),
        };
        if answered.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn sink(stream: &mut AnyStream, buf: &mut Vec<u8>, total: u64) -> io::Result<()> {
    buf.resize(128 * 1024, 0);
    let expected = pattern();
    let mut got = 0u64;
    while got < total {
        let most = buf.len().min(usize::try_from(total - got).unwrap_or(usize::MAX));
        let n = stream.read(&mut buf[..most]).await?;
        let at = (got % 251) as usize;
        // All of it: a checksum would cost no less.
        if n == 0 || buf[..n] != expected[at..at + n] {
            return Err(io::ErrorKind::InvalidData.into());
        }
        got += n as u64;
    }
    Ok(())
}

async fn echo(stream: &mut AnyStream, buf: &mut Vec<u8>, size: usize, total: u64) -> io::Result<()> {
    buf.resize(size, 0);
    for _ in 0..total {
        stream.read_exact(buf).await?;
        stream.write_all(buf).await?;
        stream.flush().await?;
    }
    Ok(())
}

async fn ask(stream: &mut AnyStream, request: [u8; REQUEST]) -> io::Result<()> {
    stream.write_all(&request).await?;
    stream.flush().await?;
    answer(stream, request).await
}

async fn answer(stream: &mut AnyStream, request: [u8; REQUEST]) -> io::Result<()> {
    let mut reply = [0; REQUEST];
    stream.read_exact(&mut reply).await?;
    if reply == request { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

async fn hello(dialer: &Dialer) -> io::Result<AnyStream> {
    let mut stream = dialer.connect().await?;
    ask(&mut stream, request(HELLO, 0, 0)).await?;
    Ok(stream)
}

async fn send_bulk(stream: &mut AnyStream, data: &[u8], total: u64) -> io::Result<()> {
    let request = request(BULK, 0, total);
    stream.write_all(&request).await?;
    let mut sent = 0u64;
    while sent < total {
        let at = (sent % 251) as usize;
        let n = WRITE.min(usize::try_from(total - sent).unwrap_or(usize::MAX));
        stream.write_all(&data[at..at + n]).await?;
        sent += n as u64;
    }
    stream.flush().await?;
    answer(stream, request).await
}

/// Bytes sent and received by all of them.
fn on_wire(streams: &[AnyStream]) -> [u64; 2] {
    streams
        .iter()
        .filter_map(|stream| stream.wire())
        .fold([0, 0], |sum, one| [sum[0] + one[0], sum[1] + one[1]])
}

/// What one run has shown; what does not apply is 0.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Outcome {
    /// Megabytes (1e6) of payload per second.
    pub mb_per_s: f64,
    /// CPU seconds per GB (1e9) of payload: client, server.
    pub cpu_s_per_gb: [f64; 2],
    /// Bytes of datagrams that came back, in percent of those sent, where the peer counts them.
    pub reverse_percent: f64,
    /// Microseconds.
    pub p50_us: f64,
    /// Microseconds.
    pub p99_us: f64,
    /// Microseconds.
    pub p999_us: f64,
    /// Round trips, messages or cycles per second.
    pub per_s: f64,
    /// CPU of both ends per round trip, message or cycle, in microseconds.
    pub cpu_us_each: f64,
    /// The benchmark's own part of the 99th percentile: how late the message was written.
    pub late_us: f64,
    /// Server memory per session, in bytes.
    pub bytes_per_session: f64,
    /// Server CPU, in percent of a core.
    pub server_cpu_percent: f64,
    /// Seconds that it took to connect all.
    pub setup_s: f64,
}

/// A workload and its size.
#[derive(Copy, Clone, Debug)]
pub enum Workload {
    /// So many connections send so many MiB together.
    Bulk {
        /// Connections.
        connections: usize,
        /// MiB.
        mib: u64,
    },
    /// So many round trips of 64 bytes, one after the other.
    PingPong {
        /// Round trips.
        trips: u64,
    },
    /// The same over so many connections at once.
    ManyPingPong {
        /// Connections.
        connections: usize,
        /// Seconds.
        seconds: u64,
    },
    /// Connections that do nothing.
    Idle {
        /// Connections.
        connections: usize,
        /// Seconds.
        seconds: u64,
    },
    /// So many clients, each with 20 messages of 100 bytes per second each way.
    Tick {
        /// Connections.
        connections: usize,
        /// Seconds.
        seconds: u64,
    },
    /// Connect, one exchange, close, 16 at a time.
    Cycles {
        /// Cycles.
        count: usize,
    },
}

struct Measured {
    wall: Duration,
    client_us: u64,
    server_us: u64,
}

/// Runs `work` and measures it.
async fn measured<T>(
    server: &mut Server,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<(T, Measured)> {
    let (client_before, server_before) = (usage()?, server.usage()?);
    let started = Instant::now();
    let value = work.await?;
    let wall = started.elapsed();
    let (client, after) = (usage()?, server.usage()?);
    let spent = |before: Usage, after: Usage| after.cpu_us.saturating_sub(before.cpu_us);
    Ok((
        value,
        Measured { wall, client_us: spent(client_before, client), server_us: spent(server_before, after) },
    ))
}

fn latencies(outcome: &mut Outcome, histogram: &Histogram<u64>) {
    let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    (outcome.p50_us, outcome.p99_us, outcome.p999_us) = (us(0.5), us(0.99), us(0.999));
}

fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(100, 100_000_000_000, 3).map_err(io::Error::other)
}

fn per_each(outcome: &mut Outcome, measured: &Measured, count: u64) {
    outcome.per_s = count as f64 / measured.wall.as_secs_f64();
    outcome.cpu_us_each = (measured.client_us + measured.server_us) as f64 / count.max(1) as f64;
}

/// Runs a workload once, against a server of its own.
///
/// # Errors
/// Those of the peer, of time, and of data that is not what was sent.
pub async fn run(peer: Peer, window: u16, workload: Workload) -> io::Result<Outcome> {
    let done = match peer {
        Peer::Ceiling(ceiling) => {
            tokio::time::timeout(LIMIT, run_ceiling(peer, ceiling, window, workload)).await
        }
        _ => tokio::time::timeout(LIMIT, run_peer(peer, window, workload)).await,
    };
    done.unwrap_or_else(|_| Err(io::Error::other(format!("not done after {} s", LIMIT.as_secs()))))
}

async fn run_ceiling(peer: Peer, ceiling: Ceiling, window: u16, workload: Workload) -> io::Result<Outcome> {
    let Workload::Bulk { connections: 1, mib } = workload else {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a ceiling is for bulk through one connection",
        ));
    };
    let mut server = Server::start(peer, window)?;
    let sender = Sender::bind(ceiling, window, server.addr)?;
    let data = pattern();
    sender.send(&data, 4 << 20).await?;
    let total = mib << 20;
    let ((), spent) = measured(&mut server, sender.send(&data, total)).await?;
    let mut outcome = Outcome::default();
    outcome.bulk(&spent, total);
    Ok(outcome)
}

impl Outcome {
    fn bulk(&mut self, spent: &Measured, bytes: u64) {
        let bytes = bytes as f64;
        self.mb_per_s = bytes / 1e6 / spent.wall.as_secs_f64();
        self.cpu_s_per_gb = [spent.client_us, spent.server_us].map(|us| us as f64 * 1e3 / bytes);
    }
}

async fn run_peer(peer: Peer, window: u16, workload: Workload) -> io::Result<Outcome> {
    if matches!((peer, workload), (Peer::Udp { .. }, Workload::Bulk { .. })) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "plain UDP is for round trips and ticks"));
    }
    let mut server = Server::start(peer, window)?;
    let dialer = Dialer::new(peer, window, server.addr).await?;
    let mut outcome = Outcome::default();
    match workload {
        Workload::Bulk { connections, mib } => {
            let data: Arc<[u8]> = pattern().into();
            let total = (mib << 20) / connections as u64;
            let mut streams = Vec::new();
            for _ in 0..connections {
                let mut stream = hello(&dialer).await?;
                if connections == 1 {
                    send_bulk(&mut stream, &data, 4 << 20).await?;
                }
                streams.push(stream);
            }
            let before = on_wire(&streams);
            let work = async {
                let mut all = JoinSet::new();
                for mut stream in streams {
                    let data = data.clone();
                    all.spawn(async move {
                        send_bulk(&mut stream, &data, total).await?;
                        Ok::<_, io::Error>(stream)
                    });
                }
                let mut streams = Vec::new();
                while let Some(sent) = all.join_next().await {
                    streams.push(sent.map_err(io::Error::other)??);
                }
                Ok(streams)
            };
            let (streams, spent) = measured(&mut server, work).await?;
            outcome.bulk(&spent, total * connections as u64);
            let after = on_wire(&streams);
            outcome.reverse_percent =
                100.0 * (after[1] - before[1]) as f64 / (after[0] - before[0]).max(1) as f64;
        }
        Workload::PingPong { trips } => {
            let mut stream = hello(&dialer).await?;
            let warmup = (trips / 10).min(1000);
            let ask = request(ECHO, 64, trips + warmup);
            stream.write_all(&ask).await?;
            stream.flush().await?;
            trip_loop(&mut stream, warmup, None, None).await?;
            let work = async {
                let mut times = histogram()?;
                trip_loop(&mut stream, trips, Some(&mut times), None).await?;
                Ok(times)
            };
            let (times, spent) = measured(&mut server, work).await?;
            if !matches!(peer, Peer::Udp { .. }) {
                answer(&mut stream, ask).await?;
            }
            latencies(&mut outcome, &times);
            per_each(&mut outcome, &spent, trips);
        }
        Workload::ManyPingPong { connections, seconds } => {
            let mut streams = Vec::new();
            for _ in 0..connections {
                let mut stream = hello(&dialer).await?;
                stream.write_all(&request(ECHO, 64, u64::MAX)).await?;
                streams.push(stream);
            }
            let stop = Arc::new(AtomicBool::new(false));
            let work = async {
                let mut all = JoinSet::new();
                for mut stream in streams {
                    let stop = stop.clone();
                    all.spawn(async move {
                        let mut times = histogram()?;
                        trip_loop(&mut stream, u64::MAX, Some(&mut times), Some(&stop)).await?;
                        Ok::<_, io::Error>(times)
                    });
                }
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                stop.store(true, Ordering::Relaxed);
                let mut times = histogram()?;
                while let Some(one) = all.join_next().await {
                    times.add(one.map_err(io::Error::other)??).map_err(io::Error::other)?;
                }
                Ok(times)
            };
            let (times, spent) = measured(&mut server, work).await?;
            latencies(&mut outcome, &times);
            per_each(&mut outcome, &spent, times.len());
        }
        Workload::Idle { connections, seconds } => {
            let first = hello(&dialer).await?;
            let before = server.usage()?;
            let started = Instant::now();
            let mut streams = Vec::with_capacity(connections);
            for n in 0..connections {
                let failed =
                    |error: io::Error| io::Error::new(error.kind(), format!("session {}: {error}", n + 1));
                streams.push(hello(&dialer).await.map_err(failed)?);
                if n % 1000 == 0 && memory_left()? < 0.2 {
                    return Err(io::Error::other(format!("session {}: no memory is left", n + 1)));
                }
                if started.elapsed() > LIMIT / 2 {
                    return Err(io::Error::other(format!(
                        "{} of {connections} sessions after {} s",
                        n + 1,
                        LIMIT.as_secs() / 2
                    )));
                }
            }
            outcome.setup_s = started.elapsed().as_secs_f64();
            tokio::time::sleep(Duration::from_secs(3)).await;
            let after = server.usage()?;
            outcome.bytes_per_session = after.rss.saturating_sub(before.rss) as f64 / connections as f64;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let spent = server.usage()?.cpu_us.saturating_sub(after.cpu_us);
            outcome.server_cpu_percent = spent as f64 / 1e4 / seconds as f64;
            // Each still works.
            for stream in streams.iter_mut().step_by(connections.div_ceil(100)) {
                ask(stream, request(HELLO, 0, 0)).await?;
            }
            drop(first);
        }
        Workload::Tick { connections, seconds } => {
            let mut streams = Vec::new();
            for _ in 0..connections {
                streams.push(hello(&dialer).await?);
            }
            let messages = seconds * 20;
            let work = async {
                let mut all = JoinSet::new();
                let start = tokio::time::Instant::now() + Duration::from_millis(100);
                for (i, mut stream) in streams.into_iter().enumerate() {
                    // Spread over the tick, as clients are.
                    let phase = Duration::from_micros(50_000 * i as u64 / connections as u64);
                    all.spawn(async move {
                        let (mut times, mut late) = (histogram()?, histogram()?);
                        stream.write_all(&request(ECHO, 100, messages)).await?;
                        let (mut message, mut reply) = ([0; 100], [0; 100]);
                        for n in 0..messages {
                            let at = start + phase + Duration::from_millis(50) * n as u32;
                            tokio::time::sleep_until(at).await;
                            late.saturating_record(at.elapsed().as_nanos() as u64);
                            message[..8].copy_from_slice(&n.to_le_bytes());
                            stream.write_all(&message).await?;
                            stream.flush().await?;
                            stream.read_exact(&mut reply).await?;
                            if reply != message {
                                return Err(io::ErrorKind::InvalidData.into());
                            }
                            // From when it was due, so that falling behind shows.
                            times.saturating_record(at.elapsed().as_nanos() as u64);
                        }
                        Ok::<_, io::Error>([times, late])
                    });
                }
                let mut sums = [histogram()?, histogram()?];
                while let Some(one) = all.join_next().await {
                    for (sum, one) in sums.iter_mut().zip(one.map_err(io::Error::other)??) {
                        sum.add(one).map_err(io::Error::other)?;
                    }
                }
                Ok(sums)
            };
            let ([times, late], spent) = measured(&mut server, work).await?;
            latencies(&mut outcome, &times);
            outcome.late_us = late.value_at_quantile(0.99) as f64 / 1000.0;
            per_each(&mut outcome, &spent, times.len() * 2);
        }
        Workload::Cycles { count } => {
            let dialer = Arc::new(dialer);
            let work = async {
                let mut all = JoinSet::new();
                for _ in 0..16 {
                    let dialer = dialer.clone();
                    all.spawn(async move {
                        for _ in 0..count / 16 {
                            let mut stream = hello(&dialer).await?;
                            stream.shutdown().await?;
                        }
                        Ok::<_, io::Error>(())
                    });
                }
                while let Some(done) = all.join_next().await {
                    done.map_err(io::Error::other)??;
                }
                Ok(())
            };
            let ((), spent) = measured(&mut server, work).await?;
            per_each(&mut outcome, &spent, (count / 16 * 16) as u64);
        }
    }
    Ok(outcome)
}

async fn trip_loop(
    stream: &mut AnyStream,
    trips: u64,
    mut times: Option<&mut Histogram<u64>>,
    stop: Option<&AtomicBool>,
) -> io::Result<()> {
    let (mut message, mut reply) = ([7; 64], [0; 64]);
    for n in 0..trips {
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            break;
        }
        message[..8].copy_from_slice(&n.to_le_bytes());
        let started = Instant::now();
        stream.write_all(&message).await?;
        stream.flush().await?;
        stream.read_exact(&mut reply).await?;
        if let Some(times) = &mut times {
            times.saturating_record(started.elapsed().as_nanos() as u64);
        }
        if reply != message {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}
