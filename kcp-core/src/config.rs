//! Validated parameters of a session, and the presets.

use core::time::Duration;

use crate::stats::Held;
use crate::wire::HEADER_LEN;

/// The four numbers of `ikcp_nodelay`, under names that say what they do.
///
/// Popular tutorials describe `resend` as a time and `nc` as a retransmission switch; they are neither.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct NoDelay {
    /// RTO floor and backoff mode; it sends nothing sooner by itself.
    ///
    /// | value | RTO floor | after a timeout the segment's RTO becomes |
    /// |---|---|---|
    /// | 0 | 100 ms, and the first timeout gets an eighth of slack | doubled (at least `+ rto`) |
    /// | 1 | 30 ms | × 1.5 |
    /// | 2 | 30 ms | + half of the current RTO |
    pub nodelay: u8,
    /// Longest time that acknowledgements and coalesced data wait, and a term of the RTO
    /// (`srtt + max(interval, 4 * rttvar)`). 1 ms ..= 5 s. In the classic face it is the tick.
    pub interval: Duration,
    /// How many transmissions sent later must be acknowledged before a segment counts as lost and is sent again at
    /// once. **Not a time.** 0 turns fast retransmit off.
    pub resend: u32,
    /// True turns congestion control **off**: then the two windows limit the sender, and in a session
    /// [`pacing`](SessionConfig::pacing).
    pub nc: bool,
}

impl NoDelay {
    /// `(0, 40, 0, 0)`: the C README's "normal mode".
    pub const NORMAL: Self = Self { nodelay: 0, interval: Duration::from_millis(40), resend: 0, nc: false };
    /// `(1, 20, 2, 1)`: kcptun's `fast2`; the default.
    pub const FAST: Self = Self { nodelay: 1, interval: Duration::from_millis(20), resend: 2, nc: true };
    /// `(1, 10, 2, 1)`: the C README's "turbo mode", kcptun's `fast3`.
    pub const TURBO: Self = Self { nodelay: 1, interval: Duration::from_millis(10), resend: 2, nc: true };
}

/// Why a configuration was refused.
#[derive(Copy, Clone, Eq, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// `mtu` outside 50..=65507 bytes.
    #[error("mtu of {0} bytes is outside 50..=65507")]
    Mtu(usize),
    /// A window of 0, or a receive window above 65535 segments (the wire has 16 bits), or a send window above 2^20.
    #[error("window of {0} segments is out of range")]
    Window(u32),
    /// `interval` outside 1 ms ..= 5 s.
    #[error("interval outside 1 ms ..= 5 s")]
    Interval,
    /// `nodelay` other than 0, 1, 2.
    #[error("nodelay mode {0} is not 0, 1 or 2")]
    NoDelayMode(u8),
    /// A limit or timeout of zero that would end every session at once.
    #[error("{0} must not be zero")]
    Zero(&'static str),
}

/// Parameters of a session. The default is [`fast`](Self::fast) and needs no change for most uses.
///
/// Setters take and return the value; [`validate`](Self::validate) (called by everything that opens a session)
/// refuses illegal ones.
///
/// ```
/// use kcp_core::SessionConfig;
/// let config = SessionConfig::turbo().mtu(1200).stream(false);
/// assert!(config.validate().is_ok());
/// assert!(SessionConfig::fast().mtu(49).validate().is_err());
/// ```
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct SessionConfig {
    pub(crate) mtu: usize,
    pub(crate) send_window: u32,
    pub(crate) recv_window: u32,
    pub(crate) nodelay: NoDelay,
    pub(crate) stream: bool,
    pub(crate) dead_link: u32,
    pub(crate) fast_limit: u32,
    pub(crate) early_retransmit: bool,
    pub(crate) ack_nodelay: bool,
    pub(crate) write_delay: bool,
    pub(crate) send_buffer: usize,
    pub(crate) recv_buffer: usize,
    pub(crate) redundancy: u8,
    pub(crate) pacing: bool,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) user_timeout: Option<Duration>,
    pub(crate) zero_window_timeout: Option<Duration>,
    pub(crate) connect_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) extensions: bool,
    pub(crate) idle_is_eof: bool,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self::fast()
    }
}

impl SessionConfig {
    /// [`NoDelay::NORMAL`]: gentle on the network, with classic congestion control.
    #[must_use]
    pub fn normal() -> Self {
        Self::fast().nodelay(NoDelay::NORMAL)
    }

    /// [`NoDelay::FAST`]: the default.
    #[must_use]
    pub fn fast() -> Self {
        Self {
            mtu: 1400,
            // 100 Mbit/s x 100 ms = 1.25 MB = 908 segments of 1376 bytes; twice that, so that one round of
            // retransmission does not stall the window: 1817, rounded up. Allocated only as used.
            send_window: 2048,
            recv_window: 2048,
            nodelay: NoDelay::FAST,
            stream: true,
            dead_link: 20,
            fast_limit: 5,
            early_retransmit: false,
            ack_nodelay: false,
            write_delay: false,
            send_buffer: 1 << 20,
            recv_buffer: 8 << 20,
            redundancy: 0,
            pacing: true,
            keepalive: Some(Duration::from_secs(10)),
            idle_timeout: Some(Duration::from_secs(30)),
            user_timeout: Some(Duration::from_secs(60)),
            zero_window_timeout: Some(Duration::from_secs(120)),
            connect_timeout: Duration::from_secs(10),
            linger: Duration::from_secs(10),
            extensions: true,
            idle_is_eof: false,
        }
    }

    /// [`NoDelay::TURBO`]: lowest latency, most retransmissions.
    #[must_use]
    pub fn turbo() -> Self {
        Self::fast().nodelay(NoDelay::TURBO)
    }

    /// [`turbo`](Self::turbo) with [`redundancy`](Self::redundancy) 3, for small messages that are late if a packet is lost:
    /// games, voice, control.
    #[must_use]
    pub fn realtime() -> Self {
        Self::turbo().redundancy(3)
    }

    /// Longest datagram (UDP payload) in bytes: 50..=65507, default 1400. Segments already cut when it shrinks keep
    /// their length.
    #[must_use]
    pub fn mtu(mut self, bytes: usize) -> Self {
        self.mtu = bytes;
        self
    }

    /// Segments in flight at most: 1..=2^20, default 2048. Memory is taken only as used.
    #[must_use]
    pub fn send_window(mut self, segments: u32) -> Self {
        self.send_window = segments;
        self
    }

    /// Segments received and not yet read at most: 1..=65535, default 2048. In message mode also the largest number
    /// of fragments (at most 256) that an incoming message may have: a peer that sends a longer one is ended by it.
    #[must_use]
    pub fn recv_window(mut self, segments: u32) -> Self {
        self.recv_window = segments;
        self
    }

    /// The four numbers; see [`NoDelay`].
    #[must_use]
    pub fn nodelay(mut self, numbers: NoDelay) -> Self {
        self.nodelay = numbers;
        self
    }

    /// True (default): a stream of bytes. False: messages keep their boundaries. Both ends must agree when a message
    /// is longer than a segment.
    #[must_use]
    pub fn stream(mut self, on: bool) -> Self {
        self.stream = on;
        self
    }

    /// The session ends with [`DeadLink`](crate::CloseReason::DeadLink) when one segment was sent this often:
    /// default 20 (`IKCP_DEADLINK`), which with backoff takes half a minute in modes 1 and 2 and many minutes in mode 0, where
    /// `user_timeout` strikes first. What the first in flight asks in between does not count.
    #[must_use]
    pub fn dead_link(mut self, transmissions: u32) -> Self {
        self.dead_link = transmissions;
        self
    }

    /// After this many transmissions a segment is no longer retransmitted early, only by timeout: default 5
    /// (`IKCP_FASTACK_LIMIT`), 0 = no limit.
    #[must_use]
    pub fn fast_limit(mut self, transmissions: u32) -> Self {
        self.fast_limit = transmissions;
        self
    }

    /// How many of the newest unacknowledged small segments (at most 256 bytes) ride along in datagrams that leave anyway
    /// and have room: default 0, none. With 3 a message that is lost arrives with one of the three datagrams after it,
    /// without a round trip, for three times its bytes; no datagram is sent for it. For other implementations they are the
    /// duplicates that networks produce. Takes effect with `nodelay` 1 and 2.
    #[must_use]
    pub fn redundancy(mut self, segments: u8) -> Self {
        self.redundancy = segments;
        self
    }

    /// With [`nc`](NoDelay::nc) a window that is larger than the path would drop into its queue, again and again: true
    /// (default) keeps what is on its way below about twice what the path was seen to deliver in a round trip, after BBR
    /// (draft-ietf-ccwg-bbr). It begins with 172 KiB and doubles per round trip while the path follows; losses do not lower it.
    /// Where a window is shorter than the path and would wait for what is lost twice, a retransmission is followed by one to three
    /// copies, by the part that is lost: at 20 % up to 2.4 bytes are sent per byte then. A larger window needs fewer.
    /// False: only the two windows limit the sender, as in `ikcp.c`. Without `nc` the congestion window limits it anyway.
    #[must_use]
    pub fn pacing(mut self, on: bool) -> Self {
        self.pacing = on;
        self
    }

    /// kcp-go's early retransmit: while there is nothing new to send, one acknowledgement that skips a segment is
    /// enough. Off by default: it costs spurious retransmissions where the network reorders.
    #[must_use]
    pub fn early_retransmit(mut self, on: bool) -> Self {
        self.early_retransmit = on;
        self
    }

    /// True: every batch of received data is acknowledged at once. Default false: a lone segment's ACK waits up to a
    /// quarter of `interval` for data to ride with; two or more, and anything out of order, are acknowledged at once.
    #[must_use]
    pub fn ack_nodelay(mut self, on: bool) -> Self {
        self.ack_nodelay = on;
        self
    }

    /// True: less than a full segment waits up to `interval` for more, unless flushed (Nagle by time). Default false.
    #[must_use]
    pub fn write_delay(mut self, on: bool) -> Self {
        self.write_delay = on;
        self
    }

    /// Bytes accepted from the application beyond those in flight, before writes block: default 1 MiB.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Payload bytes received and not yet read at most: default 8 MiB. Data beyond it is not acknowledged.
    #[must_use]
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.recv_buffer = bytes;
        self
    }

    /// A quiet session asks for a sign of life (`WASK`, which every KCP peer answers) this often: default 10 s,
    /// since NAT entries for one-way UDP last 30 s; unanswered, it asks again after a quarter of that. At least three times in an
    /// [`idle_timeout`](Self::idle_timeout), whatever is asked for here: a shorter one would end a session that is only quiet. None: never.
    #[must_use]
    pub fn keepalive(mut self, period: Option<Duration>) -> Self {
        self.keepalive = period;
        self
    }

    /// Ends the session when nothing acceptable was heard for so long: default 30 s. None: never. So long a peer that was killed or
    /// is cut off stays unnoticed by who only listens, and keeps its place at a listener.
    #[must_use]
    pub fn idle_timeout(mut self, after: Option<Duration>) -> Self {
        self.idle_timeout = after;
        self
    }

    /// Ends the session when data in flight made no progress for so long: default 60 s. None: never.
    #[must_use]
    pub fn user_timeout(mut self, after: Option<Duration>) -> Self {
        self.user_timeout = after;
        self
    }

    /// Ends the session when the peer's window stayed closed for so long while data waited: default 120 s.
    #[must_use]
    pub fn zero_window_timeout(mut self, after: Option<Duration>) -> Self {
        self.zero_window_timeout = after;
        self
    }

    /// How long a connect waits for the first answer: default 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, after: Duration) -> Self {
        self.connect_timeout = after;
        self
    }

    /// How long a dropped stream goes on sending what was written: default 10 s. Zero: aborts at once.
    #[must_use]
    pub fn linger(mut self, after: Duration) -> Self {
        self.linger = after;
        self
    }

    /// Whether to offer and accept what plain KCP lacks: end of stream, reset, roaming, unreliable datagrams. Peers of
    /// other implementations do not notice. Default on.
    #[must_use]
    pub fn extensions(mut self, on: bool) -> Self {
        self.extensions = on;
        self
    }

    /// Whether the silence of a plain peer, which cannot say that its stream has ended, is the end of the stream instead
    /// of a timeout. Then a peer that has crashed looks like one that has finished. Default off.
    #[must_use]
    pub fn idle_is_eof(mut self, on: bool) -> Self {
        self.idle_is_eof = on;
        self
    }

    /// The linger time.
    #[must_use]
    pub const fn linger_time(&self) -> Duration {
        self.linger
    }

    /// The connect timeout.
    #[must_use]
    pub const fn connect_timeout_after(&self) -> Duration {
        self.connect_timeout
    }

    /// The mtu in bytes.
    #[must_use]
    pub const fn mtu_bytes(&self) -> usize {
        self.mtu
    }

    /// The receive window in segments.
    #[must_use]
    pub const fn recv_window_segments(&self) -> u32 {
        self.recv_window
    }

    /// The receive buffer and the send buffer in bytes.
    #[must_use]
    pub const fn buffers(&self) -> Held {
        Held { received: self.recv_buffer, sent: self.send_buffer }
    }

    /// Whether this is stream mode.
    #[must_use]
    pub const fn is_stream(&self) -> bool {
        self.stream
    }

    /// Payload bytes of a full segment: mtu less the 24 bytes of the header.
    #[must_use]
    pub const fn mss(&self) -> usize {
        mss_of(self.mtu)
    }

    /// Checks every parameter.
    ///
    /// # Errors
    /// The first parameter that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_mtu(self.mtu)?;
        if self.send_window == 0 || self.send_window > MAX_SEND_WINDOW {
            return Err(ConfigError::Window(self.send_window));
        }
        if self.recv_window == 0 || self.recv_window > MAX_RECV_WINDOW {
            return Err(ConfigError::Window(self.recv_window));
        }
        if self.nodelay.nodelay > 2 {
            return Err(ConfigError::NoDelayMode(self.nodelay.nodelay));
        }
        if self.nodelay.interval < Duration::from_millis(1) || self.nodelay.interval > Duration::from_secs(5)
        {
            return Err(ConfigError::Interval);
        }
        let zero = |after: Option<Duration>| after == Some(Duration::ZERO);
        for (is_zero, name) in [
            (self.dead_link == 0, "dead_link"),
            (self.send_buffer == 0, "send_buffer"),
            (self.recv_buffer == 0, "recv_buffer"),
            (zero(self.keepalive), "keepalive"),
            (zero(self.idle_timeout), "idle_timeout"),
            (zero(self.user_timeout), "user_timeout"),
            (zero(self.zero_window_timeout), "zero_window_timeout"),
            (zero(Some(self.connect_timeout)), "connect_timeout"),
        ] {
            if is_zero {
                return Err(ConfigError::Zero(name));
            }
        }
        Ok(())
    }
}

/// The wire's `wnd` has 16 bits; ikcp truncates 65536 to 0.
pub(crate) const MAX_RECV_WINDOW: u32 = 65_535;
/// A sanity bound; far below half the sequence space.
pub(crate) const MAX_SEND_WINDOW: u32 = 1 << 20;

/// ikcp refuses less than 50; UDP over IPv4 carries at most 65507.
pub(crate) fn check_mtu(mtu: usize) -> Result<(), ConfigError> {
    if (50..=65_507).contains(&mtu) { Ok(()) } else { Err(ConfigError::Mtu(mtu)) }
}

pub(crate) const fn mss_of(mtu: usize) -> usize {
    mtu.saturating_sub(HEADER_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_pinned_from_both_sides() {
        let base = SessionConfig::fast;
        for (good, bad) in [
            (base().mtu(50), base().mtu(49)),
            (base().mtu(65_507), base().mtu(65_508)),
            (base().recv_window(65_535), base().recv_window(65_536)),
            (base().recv_window(1), base().recv_window(0)),
            (base().send_window(1 << 20), base().send_window((1 << 20) + 1)),
            (base().send_window(1), base().send_window(0)),
            (base().linger(Duration::ZERO), base().connect_timeout(Duration::ZERO)),
            (base().keepalive(None), base().keepalive(Some(Duration::ZERO))),
            (base().dead_link(1), base().dead_link(0)),
            (
                base().nodelay(NoDelay { nodelay: 2, ..NoDelay::FAST }),
                base().nodelay(NoDelay { nodelay: 3, ..NoDelay::FAST }),
            ),
        ] {
            assert_eq!(good.validate(), Ok(()));
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        for (interval, ok) in [(999, false), (1_000, true), (5_000_000, true), (5_000_001, false)] {
            let interval = Duration::from_micros(interval);
            let config = base().nodelay(NoDelay { interval, ..NoDelay::FAST });
            assert_eq!(config.validate().is_ok(), ok, "{interval:?}");
        }
    }

    #[test]
    fn presets_are_the_documented_numbers() {
        let numbers = |n: NoDelay| (n.nodelay, n.interval.as_millis(), n.resend, n.nc);
        assert_eq!(numbers(SessionConfig::normal().nodelay), (0, 40, 0, false));
        assert_eq!(numbers(SessionConfig::default().nodelay), (1, 20, 2, true));
        assert_eq!(numbers(SessionConfig::turbo().nodelay), (1, 10, 2, true));
    }
}
