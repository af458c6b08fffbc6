//! The classic face: one call per tick, under the names of `ikcp.h`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::config::{ConfigError, MAX_RECV_WINDOW, MAX_SEND_WINDOW, SessionConfig, check_mtu};
use crate::engine::{Engine, Params, min_rto_of};
use crate::error::{InputError, RecvError, SendError};
use crate::num::low;
use crate::stats::Stats;
use crate::time::Timestamp;
use crate::wire::datagram::Framing;

/// KCP as every tutorial knows it: `send`, `recv`, `input`, `update` with a millisecond clock; datagrams to be sent
/// are taken with [`poll_output`](Self::poll_output) instead of a callback.
///
/// Starts with ikcp's defaults: message mode, `nodelay(0, 100, 0, 0)`, windows 32 and 128, mtu 1400. It has no
/// lifecycle: no connect, no keepalive, no timeout but [`is_dead_link`](Self::is_dead_link).
///
/// # The four numbers of `nodelay`
///
/// What they do, since tutorials often say otherwise:
/// * `nodelay` chooses the RTO's floor and its growth (0: 100 ms, doubles; 1: 30 ms, × 1.5; 2: 30 ms, + rto / 2).
///   It sends nothing sooner by itself.
/// * `interval` is the tick in milliseconds at which `update` flushes, and a term of the RTO.
/// * `resend` is **not a time**: a segment is sent again at once when that many segments sent after it were
///   acknowledged first. 0 turns fast retransmit off.
/// * `nc` = 1 turns congestion control **off**.
///
/// ```
/// use kcp_core::Kcp;
///
/// let (mut a, mut b) = (Kcp::new(1), Kcp::new(1));
/// for kcp in [&mut a, &mut b] {
///     kcp.nodelay(1, 10, 2, 1);
///     kcp.wndsize(128, 128);
/// }
/// a.send(b"hello")?;
/// let mut now_ms = 0;
/// let mut buf = [0; 64];
/// let n = loop {
///     a.update(now_ms);
///     b.update(now_ms);
///     while let Some(datagram) = a.poll_output() {
///         b.input(&datagram)?; // here: socket.send(&datagram)
///     }
///     if let Ok(n) = b.recv(&mut buf) {
///         break n;
///     }
///     now_ms += 10;
/// };
/// assert_eq!(&buf[..n], b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Kcp {
    engine: Engine,
    /// The caller's u32 milliseconds, extended to 64 bits; never goes back.
    now: Timestamp,
    /// The next tick; None before the first update.
    next_flush: Option<Timestamp>,
    output: VecDeque<Vec<u8>>,
}

impl Kcp {
    /// A conversation; both ends must use the same `conv`.
    #[must_use]
    pub fn new(conv: u32) -> Self {
        let config = SessionConfig::normal().send_window(32).recv_window(128).stream(false);
        let mut params = Params::new(&config);
        params.interval = 100_000;
        params.send_buffer = usize::MAX;
        params.recv_buffer = usize::MAX;
        Self {
            engine: Engine::new(conv, params, false, 0, Timestamp::ZERO),
            now: Timestamp::ZERO,
            next_flush: None,
            output: VecDeque::new(),
        }
    }

    /// The conversation id.
    #[must_use]
    pub const fn conv(&self) -> u32 {
        self.engine.conv()
    }

    /// Longest datagram in bytes (`ikcp_setmtu`), default 1400. Segments already sent keep their length.
    ///
    /// # Errors
    /// [`ConfigError::Mtu`] outside 50..=65507.
    pub fn set_mtu(&mut self, mtu: usize) -> Result<(), ConfigError> {
        check_mtu(mtu)?;
        self.engine.set_mtu(mtu);
        Ok(())
    }

    /// `ikcp_nodelay`; a negative number keeps the value. `interval` is clamped to 10..=5000 ms, as ikcp does.
    pub fn nodelay(&mut self, nodelay: i32, interval: i32, resend: i32, nc: i32) {
        let params = &mut self.engine.params;
        if let Ok(mode) = u8::try_from(nodelay.min(2)) {
            params.nodelay = mode;
            params.min_rto = min_rto_of(mode);
        }
        if let Ok(interval) = u64::try_from(interval) {
            params.interval = interval.clamp(10, 5000).saturating_mul(1000);
        }
        if let Ok(resend) = u32::try_from(resend) {
            params.resend = resend;
        }
        if nc >= 0 {
            self.engine.set_nc(nc != 0);
        }
    }

    /// `ikcp_wndsize`, in segments; 0 keeps the value. As in ikcp the receive window is at least 128, so that every
    /// message a peer may send fits; at most 65535, which is what the wire can say.
    pub fn wndsize(&mut self, snd: u32, rcv: u32) {
        let params = &mut self.engine.params;
        if snd > 0 {
            params.snd_wnd = snd.min(MAX_SEND_WINDOW);
        }
        if rcv > 0 {
            params.rcv_wnd = rcv.clamp(128, MAX_RECV_WINDOW);
        }
    }

    /// Stream mode: boundaries of `send` are not kept, small pieces are joined (`kcp->stream`).
    pub fn set_stream(&mut self, on: bool) {
        self.engine.params.stream = on;
    }

    /// RTO floor in milliseconds (`kcp->rx_minrto`), after [`nodelay`](Self::nodelay) has set it.
    pub fn set_min_rto(&mut self, ms: u32) {
        self.engine.params.min_rto = u64::from(ms).saturating_mul(1000);
    }

    /// Transmissions of one segment after which the link counts as dead (`kcp->dead_link`), default 20.
    pub fn set_dead_link(&mut self, transmissions: u32) {
        self.engine.params.dead_link = transmissions.max(1);
    }

    /// Transmissions after which a segment is no longer retransmitted early (`kcp->fastlimit`), default 5; 0: no limit.
    pub fn set_fast_limit(&mut self, transmissions: u32) {
        self.engine.params.fast_limit = transmissions;
    }

    /// kcp-go's early retransmit, off by default; see
    /// [`SessionConfig::early_retransmit`](crate::SessionConfig::early_retransmit).
    pub fn set_early_retransmit(&mut self, on: bool) {
        self.engine.params.early_retransmit = on;
    }

    /// `ikcp_send`: queues a message (or, in stream mode, bytes). There is no bound; watch [`waitsnd`](Self::waitsnd).
    ///
    /// # Errors
    /// [`WriteError::TooLarge`](crate::WriteError::TooLarge) for a message of more than 127 fragments.
    pub fn send(&mut self, data: &[u8]) -> Result<usize, SendError> {
        if !self.engine.params.stream {
            self.engine.check_message(data.len())?;
        }
        self.engine.push_message(self.now, data);
        Ok(data.len())
    }

    /// `ikcp_recv`: takes one whole message; in stream mode the next piece.
    ///
    /// # Errors
    /// [`RecvError`]; a message that does not fit `buf` stays.
    pub fn recv(&mut self, buf: &mut [u8]) -> Result<usize, RecvError> {
        let need = self.peeksize().ok_or(RecvError::Empty)?;
        let Some(target) = buf.get_mut(..need) else { return Err(RecvError::BufferTooSmall { need }) };
        if need > 0 {
            return Ok(self.engine.read(self.now, target));
        }
        // A read skips empty messages.
        self.engine.pop_message(self.now).map(|_| 0).ok_or(RecvError::Empty)
    }

    /// Length of what [`recv`](Self::recv) would return (`ikcp_peeksize`).
    #[must_use]
    pub fn peeksize(&self) -> Option<usize> {
        self.engine.peek_len()
    }

    /// `ikcp_input`: applies a datagram of the peer. Replies leave with the next flush.
    ///
    /// # Errors
    /// [`InputError`] when it was refused, as a whole.
    pub fn input(&mut self, datagram: &[u8]) -> Result<(), InputError> {
        self.engine.input(self.now, datagram)?;
        if self.engine.is_broken() { Err(InputError::BrokenMessage) } else { Ok(()) }
    }

    /// `ikcp_update`: tells the time in milliseconds (any origin, wrapping; from a monotonic clock) and flushes at
    /// every tick, and where a retransmission is due before it.
    pub fn update(&mut self, now_ms: u32) {
        self.advance(now_ms);
        if self.next_action() > self.now {
            return;
        }
        let interval = self.engine.params.interval;
        let tick = self.next_flush.filter(|&at| at > self.now);
        let next =
            tick.or_else(|| self.next_flush.map(|at| at.plus_micros(interval)).filter(|&at| at > self.now));
        self.next_flush = Some(next.unwrap_or(self.now.plus_micros(interval)));
        self.flush();
    }

    /// `ikcp_check`: the time in milliseconds at which [`update`](Self::update) next has something to do, if neither
    /// `send` nor `input` is called before. It is never in the past, so a loop that sleeps until then does not spin.
    pub fn check(&mut self, now_ms: u32) -> u32 {
        self.advance(now_ms);
        let wait = self.next_action().saturating_since(self.now);
        // Rounded up: at the returned millisecond the deadline has passed.
        let wait = wait.as_micros().div_ceil(1000);
        now_ms.wrapping_add(u32::try_from(wait).unwrap_or(u32::MAX))
    }

    /// `ikcp_flush`: writes everything that is due, owed ACKs included, to the output.
    pub fn flush(&mut self) {
        let mut buf = Vec::new();
        while self.engine.transmit(self.now, Framing::default(), true, &mut buf).is_some() {
            self.output.push_back(core::mem::take(&mut buf));
        }
    }

    /// The next datagram to put on the wire, in order. To be drained after `update` and `flush`.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// Segments that wait to be sent or to be acknowledged (`ikcp_waitsnd`).
    #[must_use]
    pub fn waitsnd(&self) -> usize {
        self.engine.waitsnd()
    }

    /// A segment was sent `dead_link` times without being acknowledged (`kcp->state == -1`, which ikcp tells nobody).
    #[must_use]
    pub const fn is_dead_link(&self) -> bool {
        self.engine.is_dead()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    fn next_action(&mut self) -> Timestamp {
        let tick = self.next_flush.unwrap_or(self.now);
        self.engine.resend_deadline().map_or(tick, |resend| resend.min(tick))
    }

    /// Extends the wrapping clock; a step back is ignored.
    fn advance(&mut self, now_ms: u32) {
        if self.next_flush.is_none() {
            self.now = Timestamp::from_millis(u64::from(now_ms));
            self.next_flush = Some(self.now);
            return;
        }
        // The low 32 bits are the caller's clock.
        let passed = now_ms.wrapping_sub(low(self.now.as_millis())).cast_signed();
        if let Ok(passed) = u64::try_from(passed) {
            self.now = self.now.plus_micros(passed.saturating_mul(1000));
        }
    }

    #[cfg(test)]
    pub(crate) fn set_initial_sn(&mut self, snd: u32, rcv: u32) {
        self.engine.set_initial_sn(snd, rcv);
    }
}
