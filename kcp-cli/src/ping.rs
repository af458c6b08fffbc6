//! `kcp ping`: the distribution of round trips to an echo server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kcp_tokio::KcpStream;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::PingArgs;
use crate::report::{self, Distribution, Latencies};

/// A reply that takes longer never comes.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Report {
    peer: String,
    connect_ms: f64,
    rtt: Distribution,
    segments_sent: u64,
    retransmits: u64,
}

pub(crate) async fn run(args: PingArgs) -> Result<()> {
    let started = Instant::now();
    let mut stream = KcpStream::connect_with(&args.addr, args.session.endpoint_config(true))
        .await
        .with_context(|| format!("cannot connect to {}", args.addr))?;
    let connect_ms = started.elapsed().as_secs_f64() * 1000.0;
    let peer = stream.peer_addr()?;
    if !args.json {
        report::line(&format!("connected to {peer} in {connect_ms:.1} ms, conv {:#010x}", stream.conv()))?;
    }
    let mut latencies = Latencies::new()?;
    let mut next = Instant::now();
    for i in 0..args.count {
        sleep_until(next).await;
        let sent = Instant::now();
        round_trip(&mut stream, i, args.size as usize).await?;
        let latency = sent.elapsed();
        latencies.record(latency)?;
        if !args.json {
            report::line(&format!("{} bytes, seq {i}, {:.2} ms", args.size, latency.as_secs_f64() * 1000.0))?;
        }
        next += args.interval;
    }
    let stats = stream.stats();
    let rtt = latencies.distribution();
    if args.json {
        let (segments_sent, retransmits) = (stats.segments_sent, stats.retransmits);
        report::json(&Report { peer: peer.to_string(), connect_ms, rtt, segments_sent, retransmits })
    } else {
        for bar in latencies.bars() {
            report::line(&bar)?;
        }
        report::line(&format!("{rtt}; {} retransmissions", stats.retransmits))
    }
}

/// Sends one numbered message and waits for it to come back unchanged.
pub(crate) async fn round_trip(stream: &mut KcpStream, number: u64, size: usize) -> Result<()> {
    let mut message = vec![0; size.max(8)];
    message[..8].copy_from_slice(&number.to_le_bytes());
    stream.write_all(&message).await.context("cannot send")?;
    let mut reply = vec![0; message.len()];
    timeout(REPLY_TIMEOUT, stream.read_exact(&mut reply))
        .await
        .context("no reply within 60 s")?
        .context("connection lost")?;
    ensure!(reply == message, "the reply differs from what was sent: is this an echo server?");
    Ok(())
}
