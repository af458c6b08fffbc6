//! Counters and gauges of one session.

use core::time::Duration;

use crate::num::wide;
use crate::rare::Rare;

/// A snapshot of one session: counters since it began, and gauges as they stand.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams handed out for sending.
    pub datagrams_sent: u64,
    /// Bytes of those datagrams (KCP headers included, UDP and IP headers not).
    pub bytes_sent: u64,
    /// Datagrams accepted.
    pub datagrams_received: u64,
    /// Bytes of those datagrams.
    pub bytes_received: u64,
    /// Data segments sent for the first time.
    pub segments_sent: u64,
    /// Payload bytes of data segments sent for the first time.
    pub payload_sent: u64,
    /// Data segments sent again, for whatever reason.
    pub retransmits: u64,
    /// Of those: because later segments were acknowledged first.
    pub fast_retransmits: u64,
    /// Of those: because no acknowledgement came within the RTO.
    pub timeout_retransmits: u64,
    /// Of those: the last of a flight, after two round trips without an acknowledgement.
    pub tail_probes: u64,
    /// Copies of small segments that rode along in other datagrams, and of lost ones that held the window.
    pub copies_sent: u64,
    /// ACK segments sent.
    pub acks_sent: u64,
    /// ACK segments sent a second time, in room that a datagram had: those of segments beyond a hole.
    pub acks_repeated: u64,
    /// ACK segments not sent because `una` covers them.
    pub acks_elided: u64,
    /// Data segments received, duplicates included.
    pub segments_received: u64,
    /// Payload bytes delivered in order to the read queue.
    pub payload_received: u64,
    /// Data segments received a second time.
    pub duplicates: u64,
    /// Data segments refused because they lie beyond the receive window or the receive buffer.
    pub beyond_window: u64,
    /// Zero-length data segments skipped in stream mode.
    pub empty_segments: u64,
    /// Window probes sent (`WASK`).
    pub probes_sent: u64,
    /// Window announcements sent (`WINS`).
    pub announcements_sent: u64,
    /// Datagrams refused: shorter than a header.
    pub rejected_short: u64,
    /// Datagrams refused: other conversation.
    pub rejected_conv: u64,
    /// Datagrams refused: a length beyond the datagram's end.
    pub rejected_truncated: u64,
    /// Datagrams refused: unknown command.
    pub rejected_command: u64,
    /// Datagrams refused: `una` beyond what was sent.
    pub rejected_una: u64,
    /// Datagrams refused: more fragments than the window holds, or fragments that do not count down.
    pub rejected_fragment: u64,
    /// ACK segments ignored: for a segment that was never sent.
    pub ignored_acks: u64,
    /// ACK segments whose `ts` is not that of any transmission on record: they give no RTT sample.
    pub mismatched_echoes: u64,
    /// Unreliable datagrams dropped for newer ones, in either direction.
    pub datagrams_dropped: u64,
    /// Smoothed round-trip time, if there was a sample.
    pub srtt: Option<Duration>,
    /// Round-trip time variation.
    pub rttvar: Duration,
    /// Retransmission timeout of a segment sent now.
    pub rto: Duration,
    /// Congestion window in segments (`u32::MAX`: no congestion control).
    pub cwnd: u32,
    /// Payload bytes that may be on their way ([`SessionConfig::pacing`](crate::SessionConfig::pacing); `u64::MAX`: no limit).
    pub flight_limit: u64,
    /// Peer's receive window in segments, as last heard.
    pub peer_window: u32,
    /// Segments sent and not yet covered by `una`.
    pub in_flight: u32,
    /// Bytes accepted from the application and not yet sent.
    pub unsent_bytes: u64,
    /// Bytes received in order and not yet read.
    pub unread_bytes: u64,
}

/// Payload bytes that a session holds, or may hold, in each direction.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Received, in order or not, and not read.
    pub received: usize,
    /// Written, and not acknowledged.
    pub sent: usize,
}

/// What every session counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) datagrams_sent: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) datagrams_received: u64,
    pub(crate) bytes_received: u64,
    pub(crate) segments_sent: u64,
    pub(crate) payload_sent: u64,
    pub(crate) segments_received: u64,
    pub(crate) payload_received: u64,
    pub(crate) acks_sent: u64,
    pub(crate) rare: Rare<RareCounters>,
}

/// What only sessions on a bad network, or with a bad peer, count.
#[derive(Debug, Default)]
pub(crate) struct RareCounters {
    pub(crate) fast_retransmits: u64,
    pub(crate) timeout_retransmits: u64,
    pub(crate) tail_probes: u64,
    pub(crate) copies_sent: u64,
    pub(crate) acks_repeated: u64,
    pub(crate) duplicates: u64,
    pub(crate) beyond_window: u64,
    pub(crate) empty_segments: u64,
    pub(crate) probes_sent: u64,
    pub(crate) announcements_sent: u64,
    pub(crate) rejected_short: u64,
    pub(crate) rejected_conv: u64,
    pub(crate) rejected_truncated: u64,
    pub(crate) rejected_command: u64,
    pub(crate) rejected_una: u64,
    pub(crate) rejected_fragment: u64,
    pub(crate) ignored_acks: u64,
    pub(crate) mismatched_echoes: u64,
}

/// Counts one more.
pub(crate) const fn bump(counter: &mut u64) {
    *counter = counter.wrapping_add(1);
}

impl Counters {
    /// Counts one of what is rare.
    pub(crate) fn rarely(&mut self, counter: impl FnOnce(&mut RareCounters) -> &mut u64) {
        self.rarely_so_many(1, counter);
    }

    /// Counts so many of what is rare.
    pub(crate) fn rarely_so_many(
        &mut self,
        many: usize,
        counter: impl FnOnce(&mut RareCounters) -> &mut u64,
    ) {
        if many > 0 {
            let counter = counter(self.rare.make());
            *counter = counter.wrapping_add(wide(many));
        }
    }

    pub(crate) fn mismatched_echoes(&self) -> u64 {
        self.rare.get().map_or(0, |rare| rare.mismatched_echoes)
    }

    /// The counters as users see them; gauges are left at their defaults.
    pub(crate) fn snapshot(&self) -> Stats {
        let none = RareCounters::default();
        let rare = self.rare.get().unwrap_or(&none);
        Stats {
            datagrams_sent: self.datagrams_sent,
            bytes_sent: self.bytes_sent,
            datagrams_received: self.datagrams_received,
            bytes_received: self.bytes_received,
            segments_sent: self.segments_sent,
            payload_sent: self.payload_sent,
            retransmits: rare
                .fast_retransmits
                .wrapping_add(rare.timeout_retransmits)
                .wrapping_add(rare.tail_probes),
            fast_retransmits: rare.fast_retransmits,
            timeout_retransmits: rare.timeout_retransmits,
            tail_probes: rare.tail_probes,
            copies_sent: rare.copies_sent,
            acks_sent: self.acks_sent,
            acks_repeated: rare.acks_repeated,
            segments_received: self.segments_received,
            payload_received: self.payload_received,
            duplicates: rare.duplicates,
            beyond_window: rare.beyond_window,
            empty_segments: rare.empty_segments,
            probes_sent: rare.probes_sent,
            announcements_sent: rare.announcements_sent,
            rejected_short: rare.rejected_short,
            rejected_conv: rare.rejected_conv,
            rejected_truncated: rare.rejected_truncated,
            rejected_command: rare.rejected_command,
            rejected_una: rare.rejected_una,
            rejected_fragment: rare.rejected_fragment,
            ignored_acks: rare.ignored_acks,
            mismatched_echoes: rare.mismatched_echoes,
            ..Stats::default()
        }
    }
}
