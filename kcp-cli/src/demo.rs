//! `kcp demo`: everything in one process, through a network that loses packets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use kcp_netsim::{LinkConfig, UdpRelay};
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, Stats};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::args::DemoArgs;
use crate::echo;
use crate::ping::round_trip;
use crate::report::{self, Distribution, Latencies};

/// Bytes that each client sends and gets back.
const BYTES: usize = 1 << 20;
const PINGS: u64 = 50;
const PING_SIZE: usize = 64;
/// The demo ends by itself, whatever happens.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Report {
    clients: u16,
    loss_each_way: f64,
    rtt_ms: f64,
    bytes_verified: u64,
    transfer_seconds: f64,
    megabytes_per_second: f64,
    ping: Distribution,
    segments: u64,
    retransmits: u64,
    fast_retransmits: u64,
    timeout_retransmits: u64,
    packets_lost: u64,
}

struct Outcome {
    latencies: Latencies,
    transfer: Duration,
    stats: Stats,
}

pub(crate) async fn run(args: DemoArgs) -> Result<()> {
    let report = timeout(LIMIT, demo(&args)).await.context("the demo did not finish within 60 s")??;
    if args.json {
        return report::json(&report.0);
    }
    let (report, latencies) = report;
    report::line(&format!(
        "{} clients, each 1 MiB there and back and {PINGS} pings of {PING_SIZE} bytes, verified; \
         {:.0} % loss each way, {:.0} ms round trip",
        report.clients,
        report.loss_each_way * 100.0,
        report.rtt_ms,
    ))?;
    report::line("")?;
    report::line("ping latency")?;
    for bar in latencies.bars() {
        report::line(&bar)?;
    }
    report::line(&report.ping.to_string())?;
    report::line("")?;
    report::line(&format!(
        "transfer: {} bytes in {:.2} s, {:.1} MB/s",
        report.bytes_verified, report.transfer_seconds, report.megabytes_per_second
    ))?;
    report::line(&format!(
        "clients sent {} segments, {} of them again ({} fast, {} by timeout); the network lost {} packets",
        report.segments + report.retransmits,
        report.retransmits,
        report.fast_retransmits,
        report.timeout_retransmits,
        report.packets_lost
    ))?;
    report::line("all checksums equal")
}

async fn demo(args: &DemoArgs) -> Result<(Report, Latencies)> {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let listener =
        KcpListener::bind_with(any, KcpConfig::turbo()).await.context("cannot listen on 127.0.0.1")?;
    let server = listener.local_addr()?;
    let link = LinkConfig::lossy(args.loss, args.rtt);
    let relay = UdpRelay::bind(any, server, link.clone(), link, args.seed)
        .await
        .context("cannot start the emulator")?;
    let addr = relay.local_addr()?;
    let serve = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo::bytes(stream));
        }
    });
    let started = Instant::now();
    let outcomes = try_join_all((0..args.clients).map(|id| client(addr, args.seed, u64::from(id)))).await?;
    serve.abort();
    let transfer_seconds = outcomes.iter().map(|outcome| outcome.transfer).max().unwrap_or(started.elapsed());
    let mut latencies = Latencies::new()?;
    for outcome in &outcomes {
        latencies.merge(&outcome.latencies)?;
    }
    let sum = |field: fn(&Stats) -> u64| outcomes.iter().map(|outcome| field(&outcome.stats)).sum::<u64>();
    let network = relay.stats();
    let bytes_verified = 2 * BYTES as u64 * u64::from(args.clients);
    let report = Report {
        clients: args.clients,
        loss_each_way: args.loss,
        rtt_ms: args.rtt.as_secs_f64() * 1000.0,
        bytes_verified,
        transfer_seconds: transfer_seconds.as_secs_f64(),
        megabytes_per_second: report::megabytes_per_second(bytes_verified, transfer_seconds),
        ping: latencies.distribution(),
        segments: sum(|stats| stats.segments_sent),
        retransmits: sum(|stats| stats.retransmits),
        fast_retransmits: sum(|stats| stats.fast_retransmits),
        timeout_retransmits: sum(|stats| stats.timeout_retransmits),
        packets_lost: network.up.lost + network.down.lost,
    };
    Ok((report, latencies))
}

/// Pings, then sends 1 MiB and compares what comes back.
async fn client(addr: SocketAddr, seed: u64, id: u64) -> Result<Outcome> {
    let mut stream = KcpStream::connect_with(addr, KcpConfig::turbo()).await.context("cannot connect")?;
    let mut latencies = Latencies::new()?;
    for i in 0..PINGS {
        let sent = Instant::now();
        round_trip(&mut stream, i, PING_SIZE).await?;
        latencies.record(sent.elapsed())?;
    }
    let mut data = vec![0; BYTES];
    fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(id)).fill(&mut data);
    let expected = Sha256::digest(&data);
    let started = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sender = tokio::spawn(async move {
        writer.write_all(&data).await?;
        writer.flush().await?;
        Ok::<_, std::io::Error>(writer)
    });
    let mut hash = Sha256::new();
    let mut buf = vec![0; 64 * 1024];
    let mut left = BYTES;
    while left > 0 {
        let n = reader.read(&mut buf).await.context("connection lost")?;
        ensure!(n > 0 && n <= left, "the stream has another length than what was sent");
        hash.update(&buf[..n]);
        left -= n;
    }
    let transfer = started.elapsed();
    let writer = sender.await?.context("cannot send")?;
    ensure!(
        hash.finalize() == expected,
        "client {id}: the bytes that came back are not those that were sent"
    );
    let stats = reader.unsplit(writer).stats();
    Ok(Outcome { latencies, transfer, stats })
}
