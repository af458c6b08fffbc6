//! What an endpoint counts: sessions, and datagrams that belonged to none, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use kcp_core::Held;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A snapshot of an endpoint's counters.
        #[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
        #[non_exhaustive]
        pub struct EndpointStats {
            /// Sessions that exist now.
            pub sessions: u64,
            /// Of those: opened by addresses that have proven nothing yet.
            pub half_open: u64,
            /// Payload bytes that sessions hold received and unread.
            pub unread_bytes: u64,
            /// Payload bytes that sessions hold written and not acknowledged.
            pub unacked_bytes: u64,
            /// Datagrams received.
            pub datagrams_received: u64,
            /// Ways to send or receive several datagrams at once that the system refused, of all sockets: they are done without.
            pub offloads_refused: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        #[cfg(feature = "metrics")]
        impl EndpointStats {
            /// Moves the counters by what has changed since `before`, and sets the gauges.
            #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
            pub(crate) fn publish(&self, before: &Self, socket: &str) {
                metrics::counter!("kcp_datagrams_received_total", "socket" => socket.to_owned())
                    .increment(self.datagrams_received.saturating_sub(before.datagrams_received));
                $(metrics::counter!(concat!("kcp_", stringify!($name), "_total"), "socket" => socket.to_owned())
                    .increment(self.$name.saturating_sub(before.$name));)*
                for (name, value) in [
                    ("kcp_sessions", self.sessions),
                    ("kcp_half_open", self.half_open),
                    ("kcp_offloads_refused", self.offloads_refused),
                    ("kcp_unread_bytes", self.unread_bytes),
                    ("kcp_unacked_bytes", self.unacked_bytes),
                ] {
                    metrics::gauge!(name, "socket" => socket.to_owned()).set(value as f64);
                }
            }
        }

        impl Counters {
            /// What the endpoint's drivers count is not in it.
            pub(crate) fn snapshot(&self, sessions: usize, half_open: usize, held: Held) -> EndpointStats {
                EndpointStats {
                    sessions: sessions as u64,
                    half_open: half_open as u64,
                    unread_bytes: held.received as u64,
                    unacked_bytes: held.sent as u64,
                    datagrams_received: 0,
                    offloads_refused: 0,
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

counters! {
    /// Sessions accepted from peers since the endpoint began.
    accepted,
    /// Packets that the key does not open: another key or cipher, damage, or forgery.
    dropped_unsealed,
    /// Datagrams of no session that may not open one: late, foreign or damaged.
    dropped_unknown,
    /// Datagrams that would have opened a session while the backlog was full.
    dropped_backlog,
    /// Datagrams that would have opened a session beyond `max_sessions`.
    dropped_sessions,
    /// Datagrams that would have opened a session while nobody accepts any.
    dropped_not_listening,
    /// Datagrams that would have opened a session of an address with too many, or that the filter refused.
    dropped_filtered,
    /// Sessions of strangers that ended before they proved anything, for newer ones or after 10 s.
    half_open_expired,
    /// Datagrams that came from no possible peer: source port 0.
    dropped_source,
    /// Resets sent for sessions that are not known here.
    resets_sent,
    /// Questions sent to addresses that a peer may have moved to.
    path_challenges,
    /// Sessions that followed their peer to another address.
    moved,
    /// Late datagrams of a session that has ended here.
    dropped_tombstone,
    /// Receive errors survived, such as a peer's ICMP messages.
    receive_errors,
    /// Runs cut short by a send error: the datagrams count as lost and are retransmitted.
    send_errors,
    /// Times that the socket had no room; the datagrams were kept and sent later.
    send_blocked,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
