//! A limit on what one session sends, in bytes per second.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::settings::Rate;

/// What may leave at once after a pause: so much of a second's worth, but at least one write's.
const BURST: f64 = 0.02;
const LEAST_BURST: f64 = 4096.0;

/// Lets no more through than the rate allows; without one, everything.
#[derive(Debug)]
pub(crate) struct Paced<T> {
    io: T,
    bucket: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    /// Bytes of the stream per second.
    rate: f64,
    burst: f64,
    /// May be below zero, never above `burst`.
    tokens: f64,
    filled: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl<T> Paced<T> {
    pub(crate) fn new(io: T, rate: Option<Rate>) -> Self {
        let bucket = rate.map(|rate| {
            let (rate, now) = (rate.bytes / rate.factor, Instant::now());
            let burst = (rate * BURST).max(LEAST_BURST);
            Bucket { rate, burst, tokens: burst, filled: now, sleep: Box::pin(sleep_until(now)) }
        });
        Self { io, bucket }
    }
}

impl Bucket {
    /// How much may be written now; waits while that is nothing.
    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            let now = Instant::now();
            let earned = (now - self.filled).as_secs_f64() * self.rate;
            self.tokens = (self.tokens + earned).min(self.burst);
            self.filled = now;
            if self.tokens >= 1.0 {
                return Poll::Ready(self.tokens as usize);
            }
            // Not byte by byte: half of the burst.
            let missing = self.burst / 2.0 - self.tokens;
            let wait = Duration::try_from_secs_f64(missing / self.rate).unwrap_or(Duration::from_secs(3600));
            self.sleep.as_mut().reset(now + wait.max(Duration::from_millis(1)));
            ready!(self.sleep.as_mut().poll(cx));
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(bucket) = &mut this.bucket else { return Pin::new(&mut this.io).poll_write(cx, buf) };
        let allowed = ready!(bucket.poll_allowance(cx)).min(buf.len());
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, &buf[..allowed]))?;
        bucket.tokens -= written as f64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn seconds_for(bytes: usize, rate: Option<Rate>) -> f64 {
        let (here, mut there) = tokio::io::duplex(1 << 20);
        let mut paced = Paced::new(here, rate);
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            there.read_to_end(&mut all).await.unwrap();
            all
        });
        let data: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
        let begun = Instant::now();
        paced.write_all(&data).await.unwrap();
        paced.shutdown().await.unwrap();
        let time = begun.elapsed().as_secs_f64();
        drop(paced);
        assert!(reader.await.unwrap() == data);
        time
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_in_virtual_time() {
        for (bytes, factor, expected) in
            [(100_000.0, 1.0, 10.0), (100_000.0, 1.5, 15.0), (5e6, 1.0, 0.2), (1000.0, 1.0, 1000.0)]
        {
            let time = seconds_for(1_000_000, Some(Rate { bytes, factor })).await;
            assert!((time - expected).abs() < expected * 0.05 + BURST, "{bytes} x {factor}: {time} s");
        }
        assert!(seconds_for(1_000_000, None).await < 0.001);
    }
}
