//! Opening, liveness and the limits that end a session.

use core::time::Duration;

use crate::config::SessionConfig;
use crate::engine::Engine;
use crate::error::CloseReason;
use crate::session::extension::Extension;
use crate::time::{Timestamp, saturating_micros};

/// First wait for an answer to the opening probe, then 1.5 times as long each, at most 2 s.
const FIRST_WAIT: u64 = 200_000;
const MAX_WAIT: u64 = 2_000_000;

/// Keepalives in an idle timeout, at least.
const KEEPALIVES: u64 = 3;
/// An unanswered keepalive is repeated after this part of the period.
const KEEPALIVE_RETRIES: u64 = 4;

/// The active side before the peer's first answer.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) since: Timestamp,
    next_probe: Timestamp,
    wait: u64,
    deadline: Timestamp,
}

impl Opening {
    pub(super) fn new(now: Timestamp, timeout: Duration) -> Self {
        Self { since: now, next_probe: now, wait: FIRST_WAIT, deadline: now.after(timeout) }
    }

    pub(super) fn expired(&self, now: Timestamp) -> Option<CloseReason> {
        (self.deadline <= now).then_some(CloseReason::ConnectTimeout)
    }

    /// True when a probe is to be sent now; it is taken for sent.
    pub(super) fn probe_due(&mut self, now: Timestamp) -> bool {
        if self.next_probe > now {
            return false;
        }
        self.next_probe = now.plus_micros(self.wait);
        self.wait = (self.wait.saturating_mul(3) / 2).min(MAX_WAIT);
        true
    }

    pub(super) fn next(&self) -> Timestamp {
        self.next_probe.min(self.deadline)
    }
}

/// When the peer was last heard, and when to ask it for a sign of life.
#[derive(Debug)]
pub(super) struct Liveness {
    last_heard: Timestamp,
    /// None: no keepalive.
    next_keepalive: Option<Timestamp>,
    /// Microseconds between keepalives, jittered per session so that many sessions opened at once do not ask at once.
    period: u64,
    /// `Drained` has been told.
    pub(super) drained: bool,
}

impl Liveness {
    pub(super) fn new(config: &SessionConfig, jitter: u32, now: Timestamp) -> Self {
        // A quiet peer is asked often enough to be told from a dead one.
        let longest = config.idle_timeout.map_or(u64::MAX, |idle| saturating_micros(idle) / KEEPALIVES);
        let often = config.keepalive.map(|period| saturating_micros(period).min(longest));
        let period = often.unwrap_or_default();
        // 90 % to 100 % of the configured period.
        let jitter = u64::from(jitter).saturating_mul(period / 10) >> 32;
        let period = period.saturating_sub(jitter);
        let next_keepalive = often.map(|_| now.plus_micros(period));
        Self { last_heard: now, next_keepalive, period, drained: false }
    }

    pub(super) fn heard(&mut self, now: Timestamp) {
        self.last_heard = now;
        if let Some(next) = &mut self.next_keepalive {
            *next = now.plus_micros(self.period);
        }
    }

    /// True when the peer is to be asked now; it is taken for asked. An unanswered question is repeated sooner: on a
    /// lossy path a few lost ones must not look like a dead peer.
    pub(super) fn keepalive_due(&mut self, now: Timestamp) -> bool {
        match &mut self.next_keepalive {
            Some(next) if *next <= now => {
                *next = now.plus_micros((self.period / KEEPALIVE_RETRIES).max(1));
                true
            }
            _ => false,
        }
    }

    /// The limits, each with the time at which it is reached.
    fn limits(
        &self,
        config: &SessionConfig,
        engine: &Engine,
        extension: &Extension,
    ) -> impl Iterator<Item = (Timestamp, CloseReason)> + use<> {
        let limit = |since: Option<Timestamp>, after: Option<Duration>, reason| {
            since.zip(after).map(|(since, after)| (since.after(after), reason))
        };
        [
            limit(Some(self.last_heard), config.idle_timeout, CloseReason::IdleTimeout),
            limit(engine.stalled_since(), config.user_timeout, CloseReason::UserTimeout),
            limit(extension.fin_since(), config.user_timeout, CloseReason::UserTimeout),
            limit(engine.window_closed_since(), config.zero_window_timeout, CloseReason::ZeroWindowTimeout),
        ]
        .into_iter()
        .flatten()
    }

    pub(super) fn expired(
        &self,
        config: &SessionConfig,
        engine: &Engine,
        extension: &Extension,
        now: Timestamp,
    ) -> Option<CloseReason> {
        self.limits(config, engine, extension).find(|&(at, _)| at <= now).map(|(_, reason)| reason)
    }

    pub(super) fn next(
        &self,
        config: &SessionConfig,
        engine: &Engine,
        extension: &Extension,
    ) -> Option<Timestamp> {
        self.limits(config, engine, extension).map(|(at, _)| at).chain(self.next_keepalive).min()
    }
}
