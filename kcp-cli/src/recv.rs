//! `kcp recv`: takes a file from `kcp send`, and continues an interrupted one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kcp_tokio::{KcpListener, KcpStream};
use serde::Serialize;
use sha2::Digest;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::args::RecvArgs;
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
}

pub(crate) async fn run(args: RecvArgs) -> Result<()> {
    let listener = KcpListener::bind_with(&args.addr, args.session.endpoint_config(true))
        .await
        .with_context(|| format!("cannot listen on {}", args.addr))?;
    let note = format!("listening on {}", listener.local_addr()?);
    if args.json {
        eprintln!("{note}")
    } else {
        report::line(&note)?
    }
    let (mut stream, peer) = listener.accept().await.context("cannot accept")?;
    drop(listener);
    let started = Instant::now();
    let offer = Offer::read(&mut stream).await.with_context(|| format!("no offer from {peer}"))?;
    let target = if args.output.is_dir() { args.output.join(&offer.name) } else { args.output.clone() };
    let bar = report::progress(offer.size, args.json);
    let mut received = 0;
    let (start, sha256) =
        transfer(&mut stream, &target, &offer, &bar, &mut received).await.with_context(|| {
            format!("after {received} of {} bytes (kept; run both again to resume)", offer.size)
        })?;
    bar.finish_and_clear();
    let time = started.elapsed();
    // The sender has the sum when this is acknowledged; the file is safe in any case.
    let _ = timeout(GOODBYE, stream.shutdown()).await;
    // It acknowledges nothing any more once this process has ended: first its end has to come.
    let _ = timeout(GOODBYE, stream.read(&mut [0])).await;
    let speed = report::megabytes_per_second(offer.size - start, time);
    let (file, sha256) = (target.display().to_string(), report::hex(&sha256));
    if args.json {
        let (seconds, megabytes_per_second) = (time.as_secs_f64(), speed);
        return report::json(&Report {
            file,
            size: offer.size,
            resumed_at: start,
            seconds,
            megabytes_per_second,
            sha256,
        });
    }
    report::line(&format!(
        "received {file} ({} bytes) in {:.1} s, {speed:.1} MB/s",
        offer.size,
        time.as_secs_f64()
    ))?;
    report::line(&format!("sha256 {sha256}"))
}

async fn transfer(
    stream: &mut KcpStream,
    target: &Path,
    offer: &Offer,
    bar: &indicatif::ProgressBar,
    received: &mut u64,
) -> Result<(u64, Sum)> {
    let part = part_of(target);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&part)
        .await
        .with_context(|| format!("cannot write {}", part.display()))?;
    let have = file.metadata().await?.len().min(offer.size);
    let prefix = hash_prefix(&mut file, have).await?;
    let mut answer = have.to_le_bytes().to_vec();
    answer.extend_from_slice(&sum(prefix.clone()));
    stream.write_all(&answer).await?;
    let start = stream.read_u64_le().await?;
    ensure!(start == have || start == 0, "the sender starts at {start}, not at {have} nor at 0");
    let mut hash = if start == have { prefix } else { hash_prefix(&mut file, 0).await? };
    file.set_len(start).await?;
    *received = start;
    bar.set_position(start);
    let mut buf = vec![0; CHUNK];
    while *received < offer.size {
        let want = usize::try_from(offer.size - *received).unwrap_or(CHUNK).min(CHUNK);
        let n = stream.read(&mut buf[..want]).await?;
        ensure!(n > 0, "the sender ended the stream early");
        hash.update(&buf[..n]);
        file.write_all(&buf[..n]).await.with_context(|| format!("cannot write {}", part.display()))?;
        *received += n as u64;
        bar.set_position(*received);
    }
    let mut theirs: Sum = [0; 32];
    stream.read_exact(&mut theirs).await?;
    finish(file, &part).await?;
    let ours = sum(hash);
    stream.write_all(&ours).await?;
    if ours != theirs {
        // What is there is of no use for resuming.
        tokio::fs::remove_file(&part).await?;
        anyhow::bail!(
            "the file has another SHA-256: {} here, {} there",
            report::hex(&ours),
            report::hex(&theirs)
        );
    }
    tokio::fs::rename(&part, target).await.with_context(|| format!("cannot write {}", target.display()))?;
    Ok((start, ours))
}

async fn finish(mut file: File, part: &Path) -> Result<()> {
    file.flush().await.with_context(|| format!("cannot write {}", part.display()))?;
    file.sync_all().await.with_context(|| format!("cannot write {}", part.display()))
}

/// Where an unfinished file lies.
fn part_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    name.into()
}
