//! Output: lines that survive a closed pipe, latency histograms, JSON.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Standard output was closed by whoever read it.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl std::fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Prints a line.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => StdoutClosed.into(),
        _ => anyhow::Error::new(error).context("cannot write to standard output"),
    })
}

/// Prints one JSON object.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Latencies, with microsecond resolution.
pub(crate) struct Latencies(Histogram<u64>);

/// Their distribution in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Distribution {
    pub(crate) count: u64,
    pub(crate) min_ms: f64,
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latencies {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new(3)?))
    }

    pub(crate) fn record(&mut self, latency: Duration) -> Result<()> {
        Ok(self.0.record(u64::try_from(latency.as_micros())?)?)
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    #[allow(clippy::cast_precision_loss, reason = "for people to read")]
    pub(crate) fn distribution(&self) -> Distribution {
        let ms = |micros: u64| micros as f64 / 1000.0;
        Distribution {
            count: self.0.len(),
            min_ms: ms(self.0.min()),
            mean_ms: self.0.mean() / 1000.0,
            p50_ms: ms(self.0.value_at_quantile(0.5)),
            p90_ms: ms(self.0.value_at_quantile(0.9)),
            p99_ms: ms(self.0.value_at_quantile(0.99)),
            max_ms: ms(self.0.max()),
        }
    }

    /// Ten bars between the smallest and the largest.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a drawing"
    )]
    pub(crate) fn bars(&self) -> Vec<String> {
        const BARS: u64 = 10;
        const WIDTH: f64 = 40.0;
        let step = (self.0.max().saturating_sub(self.0.min()) / BARS).max(1);
        let counts: Vec<(u64, u64)> = (0..=BARS)
            .map(|i| (self.0.min() + i * step, self.0.min() + (i + 1) * step))
            .map(|(from, to)| (from, self.0.count_between(from, to.saturating_sub(1))))
            .collect();
        let most = counts.iter().map(|&(_, n)| n).max().unwrap_or(1).max(1);
        counts
            .iter()
            .map(|&(from, n)| {
                let bar = "#".repeat((n as f64 / most as f64 * WIDTH).ceil() as usize);
                format!("{:>9.1} ms | {bar:<40} {n}", from as f64 / 1000.0)
            })
            .collect()
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "min {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}, mean {:.1} ms ({} round trips)",
            self.min_ms, self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms, self.mean_ms, self.count
        )
    }
}

/// Megabytes (1e6 bytes) per second.
#[allow(clippy::cast_precision_loss, reason = "for people to read")]
pub(crate) fn megabytes_per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64().max(1e-9)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A progress bar on standard error, hidden where nobody would see it.
pub(crate) fn progress(total: u64, quiet: bool) -> indicatif::ProgressBar {
    if quiet {
        return indicatif::ProgressBar::hidden();
    }
    let style =
        indicatif::ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    indicatif::ProgressBar::new(total)
        .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()))
}

/// A bar that counts things, hidden where nobody would see it.
pub(crate) fn counter(total: u64, quiet: bool) -> indicatif::ProgressBar {
    if quiet {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}");
    indicatif::ProgressBar::new(total)
        .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()))
}
