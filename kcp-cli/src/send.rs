//! `kcp send`: offers a file and sends what the receiver lacks.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use kcp_tokio::KcpStream;
use serde::Serialize;
use sha2::Digest;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::args::SendArgs;
use crate::report;
use crate::transfer::{CHUNK, GOODBYE, Offer, Sum, hash_prefix, sum};

#[derive(Serialize)]
struct Report {
    file: String,
    size: u64,
    resumed_at: u64,
    seconds: f64,
    megabytes_per_second: f64,
    sha256: String,
    segments_sent: u64,
    retransmits: u64,
}

pub(crate) async fn run(args: SendArgs) -> Result<()> {
    let path = args.file.display();
    let mut file = File::open(&args.file).await.with_context(|| format!("cannot read {path}"))?;
    let metadata = file.metadata().await.with_context(|| format!("cannot read {path}"))?;
    ensure!(metadata.is_file(), "cannot read {path}: not a file");
    let offer = Offer { name: file_name(&args.file)?, size: metadata.len() };
    let mut stream = KcpStream::connect_with(&args.addr, args.session.endpoint_config(true))
        .await
        .with_context(|| format!("cannot connect to {}", args.addr))?;
    let started = Instant::now();
    let bar = report::progress(offer.size, args.json);
    let mut acknowledged = 0;
    let (start, sha256) = transfer(&mut stream, &mut file, &offer, &bar, &mut acknowledged)
        .await
        .with_context(|| format!("after {acknowledged} of {} bytes (run it again to resume)", offer.size))?;
    bar.finish_and_clear();
    let time = started.elapsed();
    let stats = stream.stats();
    let speed = report::megabytes_per_second(offer.size - start, time);
    let sha256 = report::hex(&sha256);
    if args.json {
        return report::json(&Report {
            file: offer.name,
            size: offer.size,
            resumed_at: start,
            seconds: time.as_secs_f64(),
            megabytes_per_second: speed,
            sha256,
            segments_sent: stats.segments_sent,
            retransmits: stats.retransmits,
        });
    }
    report::line(&format!(
        "sent {} ({} bytes{}) in {:.1} s, {speed:.1} MB/s, {} of {} segments retransmitted",
        offer.name,
        offer.size,
        if start > 0 { format!(", resumed at {start}") } else { String::new() },
        time.as_secs_f64(),
        stats.retransmits,
        stats.segments_sent,
    ))?;
    report::line(&format!("sha256 {sha256}"))
}

async fn transfer(
    stream: &mut KcpStream,
    file: &mut File,
    offer: &Offer,
    bar: &indicatif::ProgressBar,
    sent: &mut u64,
) -> Result<(u64, Sum)> {
    offer.write(stream).await?;
    let have = stream.read_u64_le().await.context("the receiver did not answer")?;
    let mut theirs: Sum = [0; 32];
    stream.read_exact(&mut theirs).await?;
    ensure!(have <= offer.size, "the receiver has more than the whole file");
    let prefix = hash_prefix(file, have).await?;
    let matches = sum(prefix.clone()) == theirs;
    let (start, mut hash) = if matches { (have, prefix) } else { (0, hash_prefix(file, 0).await?) };
    stream.write_all(&start.to_le_bytes()).await?;
    *sent = start;
    bar.set_position(start);
    let mut buf = vec![0; CHUNK];
    while *sent < offer.size {
        let want = usize::try_from(offer.size - *sent).unwrap_or(CHUNK).min(CHUNK);
        let n = file.read(&mut buf[..want]).await.context("cannot read the file")?;
        ensure!(n > 0, "the file has become shorter while it was sent");
        hash.update(&buf[..n]);
        stream.write_all(&buf[..n]).await?;
        *sent += n as u64;
        bar.set_position(*sent);
    }
    let ours = sum(hash);
    stream.write_all(&ours).await?;
    stream.read_exact(&mut theirs).await.context("the receiver did not confirm")?;
    ensure!(
        ours == theirs,
        "the receiver's file has another SHA-256: {} here, {} there",
        report::hex(&ours),
        report::hex(&theirs)
    );
    // Both have the sum. Who has heard it may be gone before it acknowledges our end.
    let _ = timeout(GOODBYE, stream.shutdown()).await;
    Ok((start, ours))
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.with_context(|| format!("{} has no UTF-8 file name", path.display()))?.to_owned())
}
