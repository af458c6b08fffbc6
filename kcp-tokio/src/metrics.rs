//! Feature `metrics`: an endpoint's counters through the `metrics` facade, for whatever exporter the application installs.

use std::time::Duration;

use kcp_core::Timestamp;

use crate::shard::Shard;
use crate::stats::EndpointStats;

/// Between two publications. Counters move by the difference, so that endpoints add up.
const PERIOD: Duration = Duration::from_secs(1);

/// What was published last, and when the next is due.
#[derive(Debug, Default)]
pub(crate) struct Publisher {
    published: EndpointStats,
    next: Timestamp,
    socket: Option<String>,
}

impl Publisher {
    /// Publishes what has changed if a second has passed; when to come back, unless nothing had.
    pub(crate) fn turn(&mut self, shard: &Shard, now: Timestamp) -> Option<Timestamp> {
        if shard.index > 0 {
            // The figures are the endpoint's: one of its drivers tells them.
            return None;
        }
        if now < self.next {
            return Some(self.next);
        }
        let stats = shard.hub.stats();
        if stats == self.published {
            return None;
        }
        self.next = now + PERIOD;
        self.publish(shard, stats);
        Some(self.next)
    }

    fn publish(&mut self, shard: &Shard, stats: EndpointStats) {
        let socket = self.socket.get_or_insert_with(|| {
            shard.socket().local_addr().map_or_else(|_| "unknown".to_owned(), |addr| addr.to_string())
        });
        stats.publish(&self.published, socket);
        self.published = stats;
    }

    /// The socket ends: the last figures.
    pub(crate) fn last(&mut self, shard: &Shard) {
        if shard.index == 0 {
            self.publish(shard, shard.hub.stats());
        }
    }
}
