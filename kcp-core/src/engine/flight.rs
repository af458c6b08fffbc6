//! How much may be on its way, where `nc` turns congestion control off: about twice what the path has been seen to deliver in a
//! round trip. A window that is larger than that would only drop into the queue of the bottleneck, again and again.
//!
//! The measures are those of BBR (draft-ietf-ccwg-bbr): the highest delivery rate of the last rounds and the lowest round-trip
//! time of the last seconds. A loss changes neither, so a path that loses at random keeps its rate.

use alloc::collections::VecDeque;
use core::num::NonZeroU64;

use crate::num::{at_least_one, wide};
use crate::time::{Timestamp, saturating_micros};

/// Bytes of payload on their way before the path is known: `IKCP_WND_RCV` full segments, which every peer takes.
pub(super) const INITIAL: u64 = 128 * 1376;
/// Always allowed: what the shortest queue of a router takes.
const LEAST: u64 = 32 * 1024;
/// What the peer's timers and batches, and a wireless link's, may add to a round trip, in microseconds: so much more may be on
/// its way while less than a sixteenth is lost in a round.
const SLACK: u64 = 4_000;
/// Where more is lost, the limit becomes what the round has delivered, as far as the slack goes, down to less than nothing: a
/// socket's short buffer is the queue of a path whose round trip is all batches. For a longer path this is nothing.
const LEAST_SLACK: u64 = 1_000;
/// And so much comes back in a round without such losses.
const SLACK_STEP: u64 = 4;
const LOSS_DIVISOR: u64 = 16;
/// Measures of the rate in a round trip. What arrives in a round has left by the limit that the round before it began with: with no
/// other measure the limit would double every second round only, and where a quarter is lost not seem to grow.
const MEASURES: u64 = 4;
/// Rounds, of those in which the limit was met, after which their highest rate is forgotten: one to two of these.
const BUCKET_ROUNDS: u8 = 16;
/// Rounds at the limit, or the window's end, without growth, after which the path is taken to be full.
const LEVEL_ROUNDS: u8 = 3;
/// The lowest round-trip time is forgotten after this, in microseconds, and a look at the path without our queue.
const BUCKET_TIME: u64 = 3_000_000;
/// Rounds with no more than fills the path, after which no queue of ours is left that a round-trip time could include.
const DRAIN_ROUNDS: u8 = 2;

/// On a path that is shorter than this, in microseconds, a timer's tick is too coarse to space a flight.
const LEAST_SPACED: u64 = 8_000;
/// A flight that nothing on its way paces leaves at this many flights per round trip, but for the part that leaves at once.
const SPACED_RATE: u64 = 2;
const BURST_DIVISOR: u64 = 4;
/// Microseconds between two parts of it.
const SPACE: u64 = 1_000;

/// The unit of a part.
const WHOLE: u64 = 1024;
/// The part that is lost follows a quarter of what each round says.
const LOSS_GAIN: u64 = 4;
/// Copies of one retransmission, at most.
const MOST_COPIES: u8 = 3;
/// A window that lasts longer is as good as one without end.
const MOST_TRIPS: u64 = 16;

/// What is known of the path. There once a flight has reached [`INITIAL`]: sessions of small messages never have it.
#[derive(Debug)]
pub(super) struct Flight {
    /// Payload bytes acknowledged since this began.
    delivered: u64,
    round: Option<Round>,
    /// Measures that have begun since and go on, oldest first; at most [`MEASURES`].
    measures: VecDeque<Measure>,
    /// Highest rate, in bytes per second: of the rounds since the last change of buckets, and of those before. 0: none.
    rates: [u64; 2],
    /// Rounds at the limit since then.
    rounds: u8,
    /// Rounds at the limit, or the window's end, since the rate last grew by a quarter in a round.
    level: u8,
    /// The rate at the end of the last round.
    known: u64,
    /// Lowest round-trip time in microseconds: since `rtts_since`, and before that until the queue is drained.
    rtts: [Option<u64>; 2],
    /// When the first began.
    rtts_since: Timestamp,
    /// Up to [`SLACK`], and [`LEAST_SLACK`] more than there is.
    slack: u64,
    /// Rounds of draining that are left.
    draining: u8,
    /// Which part of what was sent was lost, in units of 1/[`WHOLE`], over some rounds.
    loss: u64,
    /// Bytes that could leave at once at `saved_at`, if the path is so long that they count.
    saved: u64,
    saved_at: Timestamp,
}

/// From transmissions until the last of them, or one after it, has arrived.
#[derive(Debug)]
struct Measure {
    /// The position in send order of the last transmission at `began`.
    last: u64,
    began: Timestamp,
    /// What was delivered by then.
    delivered: u64,
}

impl Measure {
    /// Microseconds until now, and bytes that were delivered.
    fn read(&self, now: Timestamp, delivered: u64) -> (NonZeroU64, u64) {
        let took = at_least_one(saturating_micros(now.saturating_since(self.began)));
        (took, delivered.saturating_sub(self.delivered))
    }
}

/// A measure that what is lost, and rounds, are counted by.
#[derive(Debug)]
struct Round {
    measure: Measure,
    /// What was lost by its beginning.
    lost: u64,
    /// There was more to send than the limit let through.
    full: bool,
    /// Or than the window did: a rate that does not grow then does not for want of a limit either.
    held: bool,
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            delivered: 0,
            round: None,
            measures: VecDeque::new(),
            rates: [0; 2],
            rounds: 0,
            level: 0,
            known: 0,
            rtts: [None; 2],
            rtts_since: Timestamp::ZERO,
            slack: SLACK.saturating_add(LEAST_SLACK),
            draining: 0,
            loss: 0,
            saved: 0,
            saved_at: Timestamp::ZERO,
        }
    }
}

impl Flight {
    /// Payload bytes that may be unacknowledged and not known to be lost.
    pub(super) fn limit(&self) -> u64 {
        let (rate, Some(rtt)) = (self.rate(), self.rtt()) else { return INITIAL };
        if rate == 0 {
            return INITIAL;
        }
        // Does the path take more? Asked at every round until it does not, then at one of sixteen.
        let asks = self.level < LEVEL_ROUNDS || self.rounds == 0;
        let filled = if asks { rtt.saturating_mul(2) } else { self.filled() };
        let time = if self.draining > 0 {
            rtt
        } else {
            filled.saturating_add(self.slack).saturating_sub(LEAST_SLACK)
        };
        (rate.saturating_mul(time) / 1_000_000).max(LEAST)
    }

    /// From which transmission of a segment on copies follow it, and how many, so that a window of so many segments, of which so
    /// many are free, seldom waits for one. None if what is free is more than this flight.
    pub(super) fn copies(&self, window: u32, free: u32, mss: usize) -> Option<(u32, u8)> {
        let (window, limit, mss) = (u64::from(window), at_least_one(self.limit()), wide(mss));
        if u64::from(free).saturating_mul(mss) > limit.get() {
            return None;
        }
        // So many round trips the window lasts: what is lost at the end of the last one holds it.
        let last = window.saturating_mul(mss).div_ceil(limit.get()).clamp(2, MOST_TRIPS);
        let lost = |segments: u64| segments.saturating_mul(self.loss) / WHOLE;
        // Of the window, in units: those that the last transmission in time, and the first copy, are for and miss.
        let mut missing = (0..=last).fold(window.saturating_mul(WHOLE), |left, _| lost(left));
        let mut copies = 1;
        while copies < MOST_COPIES && missing > WHOLE / 2 {
            missing = lost(missing);
            copies = copies.saturating_add(1);
        }
        Some((u32::try_from(last).unwrap_or(u32::MAX), copies))
    }

    /// Bytes that may leave now, and when more may. When a segment that held the window arrives at last, nothing may be on its way, and
    /// a whole flight at once would drop into the bottleneck's queue.
    pub(super) fn burst(&mut self, now: Timestamp) -> Option<(u64, Timestamp)> {
        let rtt = self.rtt().filter(|&rtt| rtt >= LEAST_SPACED)?;
        let (limit, passed) = (self.limit(), saturating_micros(now.saturating_since(self.saved_at)));
        let more = limit.saturating_mul(SPACED_RATE).saturating_mul(passed) / at_least_one(rtt);
        self.saved = self.saved.saturating_add(more).min((limit / BURST_DIVISOR).max(INITIAL));
        self.saved_at = now;
        Some((self.saved, now.plus_micros(SPACE)))
    }

    /// How long the path takes for so many bytes, in microseconds; 0 if that is not known.
    pub(super) fn time_for(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(1_000_000).checked_div(self.rate()).unwrap_or(0)
    }

    fn rate(&self) -> u64 {
        self.rates[0].max(self.rates[1])
    }

    /// For how long the path is usually filled, in microseconds, slack apart.
    fn filled(&self) -> u64 {
        self.rtt().unwrap_or(0).saturating_mul(3) / 2
    }

    fn rtt(&self) -> Option<u64> {
        match self.rtts {
            [Some(one), Some(other)] => Some(one.min(other)),
            [one, other] => one.or(other),
        }
    }

    /// Sending has stopped at the limit.
    pub(super) const fn met_limit(&mut self) {
        if let Some(round) = &mut self.round {
            round.full = true;
        }
    }

    /// Sending has stopped at the end of the window.
    pub(super) const fn met_window(&mut self) {
        if let Some(round) = &mut self.round {
            round.held = true;
        }
    }

    /// So many bytes of datagrams have left.
    pub(super) const fn spend(&mut self, bytes: u64) {
        self.saved = self.saved.saturating_sub(bytes);
    }

    /// Data has left; `order` is the position of its last transmission.
    pub(super) fn on_sent(&mut self, now: Timestamp, order: u64, lost: u64) {
        let begun = Measure { last: order, began: now, delivered: self.delivered };
        // Parts of a shorter path's round trip are batches.
        let gap = self.rtt().filter(|&rtt| rtt >= LEAST_SPACED).unwrap_or(u64::MAX) / MEASURES;
        let Some(round) = &mut self.round else {
            self.round = Some(Round { measure: begun, lost, full: false, held: false });
            return;
        };
        let room = wide(self.measures.len()) < MEASURES;
        let latest = self.measures.back_mut().filter(|latest| latest.began >= round.measure.began);
        let latest = latest.unwrap_or(&mut round.measure);
        if latest.began == now {
            latest.last = order;
        } else if room && latest.began.plus_micros(gap) <= now {
            self.measures.push_back(begun);
        }
    }

    /// So many payload bytes were acknowledged; everything before position `arrived` has arrived or is late.
    pub(super) fn on_ack(&mut self, now: Timestamp, bytes: usize, arrived: u64, lost: u64, rtt: Option<u64>) {
        self.delivered = self.delivered.saturating_add(wide(bytes));
        if let Some(rtt) = rtt {
            self.on_rtt(now, rtt);
        }
        while let Some(measure) = self.measures.front().filter(|measure| measure.last < arrived) {
            let (took, delivered) = measure.read(now, self.delivered);
            self.on_rate(delivered, took);
            self.measures.pop_front();
        }
        let Some(round) = self.round.take_if(|round| round.measure.last < arrived) else { return };
        let (took, delivered) = round.measure.read(now, self.delivered);
        self.on_rtt(now, took.get());
        self.on_rate(delivered, took);
        let gone = lost.saturating_sub(round.lost);
        let part = gone.saturating_mul(WHOLE) / at_least_one(gone.saturating_add(delivered));
        self.loss = self.loss.saturating_sub(self.loss / LOSS_GAIN).saturating_add(part / LOSS_GAIN);
        if self.rate() > self.known.saturating_add(self.known / 4) {
            self.level = 0;
        }
        if self.draining > 0 {
            self.draining = self.draining.saturating_sub(1);
            if self.draining == 0 {
                self.rtts[1] = None;
            }
        }
        if gone > delivered / LOSS_DIVISOR {
            let time = delivered.saturating_mul(1_000_000) / at_least_one(self.rate());
            let most = time.saturating_add(LEAST_SLACK).saturating_sub(self.filled());
            self.slack = self.slack.min(most);
        } else if round.full {
            self.slack = self.slack.saturating_add(SLACK_STEP).min(SLACK.saturating_add(LEAST_SLACK));
        }
        if round.full || round.held {
            self.level = self.level.saturating_add(1);
        }
        if round.full {
            self.rounds = self.rounds.saturating_add(1);
            if self.rounds >= BUCKET_ROUNDS {
                self.rounds = 0;
                self.rates = [0, self.rates[0]];
            }
        }
        self.known = self.rate();
    }

    fn on_rate(&mut self, delivered: u64, took: NonZeroU64) {
        self.rates[0] = self.rates[0].max(delivered.saturating_mul(1_000_000) / took);
    }

    fn on_rtt(&mut self, now: Timestamp, rtt: u64) {
        self.rtts[0] = Some(self.rtts[0].map_or(rtt, |least| least.min(rtt)));
        if self.rtts_since.plus_micros(BUCKET_TIME) <= now {
            // A first measure has nothing to forget.
            self.draining = if self.rtts_since == Timestamp::ZERO { 0 } else { DRAIN_ROUNDS };
            self.rtts = [None, self.rtts[0]];
            self.rtts_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flight, and what it goes by: microseconds, transmissions and losses so far.
    #[derive(Default)]
    struct Path {
        flight: Flight,
        now: u64,
        order: u64,
        lost: u64,
    }

    impl Path {
        fn new() -> Self {
            Self { now: 10_000_000, ..Self::default() }
        }

        /// A round of so many microseconds, bytes that arrived and bytes that were lost; the limit after it.
        fn round(&mut self, took: u64, bytes: usize, lost: u64, full: bool) -> u64 {
            let at = Timestamp::from_micros;
            self.flight.on_sent(at(self.now), self.order, self.lost);
            if full {
                self.flight.met_limit();
            }
            self.now += took;
            self.order += 1;
            self.lost += lost;
            self.flight.on_ack(at(self.now), bytes, self.order, self.lost, None);
            self.flight.limit()
        }
    }

    #[test]
    fn twice_the_path_until_it_is_full_then_half_as_much_again() {
        let mut path = Path::new();
        assert_eq!(path.flight.limit(), INITIAL);
        assert_eq!(path.round(10_000, 0, 0, true), INITIAL, "nothing has arrived");
        let mut path = Path::new();
        assert_eq!(path.round(10_000, 100, 0, true), 32_768);
        // 10 bytes per microsecond, and 4 ms for timers.
        let mut path = Path::new();
        let limits = [(); 5].map(|()| path.round(10_000, 100_000, 0, true));
        assert_eq!(limits, [240_000, 240_000, 190_000, 190_000, 190_000]);
        assert_eq!(path.round(10_000, 125_000, 0, true), 237_500, "a quarter is no growth");
        assert_eq!(path.round(10_000, 156_260, 0, true), 375_024, "more is: asked anew");
        let mut path = Path::new();
        let limits = [(); 5].map(|()| path.round(10_000, 100_000, 0, false));
        assert_eq!(limits, [240_000; 5], "whoever has not met the limit knows nothing of it");
    }

    #[test]
    fn a_window_that_ends_first_ends_the_search_and_ages_no_rate() {
        let mut path = Path::new();
        let mut round = |held: bool| {
            let at = Timestamp::from_micros;
            path.flight.on_sent(at(path.now), path.order, 0);
            if held {
                path.flight.met_window();
            }
            path.round(10_000, 100_000, 0, false)
        };
        assert_eq!([(); 4].map(|()| round(false)), [240_000; 4]);
        assert_eq!([(); 4].map(|()| round(true)), [240_000; 4], "asked for a round at the limit");
        let rounds = |path: &mut Path, n| (0..n).map(|_| path.round(10_000, 50_000, 0, true)).last();
        assert_eq!(path.round(10_000, 100_000, 0, true), 190_000);
        assert_eq!(rounds(&mut path, 30), Some(190_000));
        assert_eq!(rounds(&mut path, 1), Some(120_000));
    }

    #[test]
    fn losses_take_the_slack_and_it_comes_back_slowly() {
        let mut path = Path::new();
        for _ in 0..3 {
            path.round(10_000, 100_000, 0, true);
        }
        assert_eq!(path.round(10_000, 100_000, 6_250, true), 190_000, "a sixteenth is nothing");
        assert_eq!(path.round(10_000, 100_000, 6_251, true), 140_000);
        assert_eq!(path.round(10_000, 100_000, 0, false), 140_000);
        assert_eq!(path.round(10_000, 100_000, 0, true), 140_040);
        // What a round delivers of more than fills the path remains.
        let mut path = Path::new();
        for _ in 0..3 {
            path.round(10_000, 100_000, 0, true);
        }
        assert_eq!(path.round(17_000, 170_000, 17_000, true), 170_000);
    }

    #[test]
    fn the_highest_rate_is_forgotten_after_rounds_at_the_limit() {
        let mut path = Path::new();
        let limits = [(); 34].map(|()| path.round(10_000, 100_000, 0, true));
        assert_eq!(
            (limits[14], limits[15], limits[16]),
            (190_000, 240_000, 190_000),
            "asked once of sixteen"
        );
        assert_eq!((limits[30], limits[31], limits[32]), (190_000, 240_000, 190_000));
        // Half the rate from now on: believed when two buckets are over.
        let limits = [(); 31].map(|()| path.round(10_000, 50_000, 0, true));
        assert_eq!((limits[12], limits[29]), (190_000, 120_000));
    }

    #[test]
    fn the_lowest_round_trip_is_forgotten_after_a_look_without_our_queue() {
        let mut path = Path::new();
        assert_eq!(path.round(10_000, 100_000, 0, false), 240_000);
        let since = path.now;
        while path.now + 20_000 < since + BUCKET_TIME {
            assert_eq!(path.round(20_000, 200_000, 0, false), 240_000);
        }
        path.now = since + BUCKET_TIME - 20_001;
        assert_eq!(path.round(20_000, 200_000, 0, false), 240_000);
        assert_eq!(path.round(20_000, 200_000, 0, false), 200_000, "drained: no more than fills the path");
        assert_eq!(path.round(15_000, 150_000, 0, false), 340_000, "what it was without our queue");
    }

    #[test]
    fn a_flight_that_nothing_paces_leaves_in_parts() {
        let mut path = Path::new();
        let at = Timestamp::from_micros;
        assert_eq!(path.flight.burst(at(path.now)), None, "the path is not known");
        assert_eq!(path.flight.time_for(1), 0);
        path.round(7_999, 7_999_000, 0, false);
        assert_eq!(path.flight.burst(at(path.now)), None, "short");
        let mut path = Path::new();
        // 10 bytes per microsecond; 2 040 000 may be on their way.
        assert_eq!(path.round(100_000, 1_000_000, 0, false), 2_040_000);
        assert_eq!(path.flight.time_for(5_000_000), 500_000);
        let now = path.now;
        assert_eq!(path.flight.burst(at(now)), Some((510_000, at(now + 1_000))));
        path.flight.spend(500_000);
        assert_eq!(path.flight.burst(at(now)), Some((10_000, at(now + 1_000))));
        assert_eq!(path.flight.burst(at(now + 1_000)), Some((10_000 + 40_800, at(now + 2_000))));
        path.flight.spend(60_000);
        assert_eq!(path.flight.burst(at(now + 1_000)), Some((0, at(now + 2_000))), "a run may be longer");
        assert_eq!(path.flight.burst(at(now + 90_000)), Some((510_000, at(now + 91_000))));
        // However little the path seems to take.
        let mut path = Path::new();
        path.round(100_000, 1, 0, false);
        assert_eq!(path.flight.burst(at(path.now)), Some((INITIAL, at(path.now + 1_000))));
    }

    #[test]
    fn copies_follow_what_the_window_would_wait_for() {
        let with = |loss| Flight { loss, ..Flight::default() };
        // The path is not known, so a flight is 128 segments.
        assert_eq!(
            with(205).copies(128, 128, 1376),
            Some((2, 2)),
            "a fifth: 1.03 of 128 are missing after one, 0.2 after two"
        );
        assert_eq!(with(205).copies(128, 129, 1376), None, "the window does not end yet");
        assert_eq!(with(160).copies(128, 0, 1376), Some((2, 1)), "0.49");
        assert_eq!(with(163).copies(128, 0, 1376), Some((2, 2)), "0.51");
        assert_eq!(with(400).copies(128, 0, 1376), Some((2, MOST_COPIES)));
        assert_eq!(with(205).copies(384, 0, 1376), Some((3, 2)));
        assert_eq!(with(205).copies(385, 0, 1376), Some((4, 1)), "the next transmission is in time");
        assert_eq!(with(205).copies(65_535, 0, 1376), Some((16, 1)));
    }

    #[test]
    fn the_part_that_is_lost_follows_a_quarter_of_each_round() {
        let mut path = Path::new();
        path.round(10_000, 80_000, 20_000, true);
        assert_eq!(path.flight.loss, 51);
        path.round(10_000, 80_000, 20_000, true);
        assert_eq!(path.flight.loss, 90);
        path.round(10_000, 80_000, 0, true);
        assert_eq!(path.flight.loss, 68);
    }

    #[test]
    fn a_rate_that_grows_shows_before_the_round_ends() {
        let at = |ms| Timestamp::from_millis(10_000 + ms);
        let mut flight = Flight::default();
        flight.on_sent(at(0), 0, 0);
        flight.on_sent(at(50), 1, 0);
        assert!(flight.measures.is_empty(), "the path is not known");
        flight.on_ack(at(100), 100_000, 1, 0, None);
        assert_eq!(flight.limit(), 204_000);
        // A measure begins a quarter of a round trip after the one before, with all that leaves then.
        flight.on_sent(at(100), 2, 0);
        flight.on_sent(at(124), 3, 0);
        assert!(flight.measures.is_empty());
        flight.on_sent(at(125), 4, 0);
        flight.on_sent(at(125), 5, 0);
        flight.on_sent(at(149), 6, 0);
        assert_eq!(flight.measures.len(), 1);
        flight.on_ack(at(200), 50_000, 3, 0, None);
        assert_eq!(flight.limit(), 204_000, "the round has shown less");
        flight.on_sent(at(200), 7, 0);
        flight.on_ack(at(225), 200_000, 5, 0, None);
        assert_eq!(flight.limit(), 204_000, "one of it is missing");
        flight.on_ack(at(225), 0, 6, 0, None);
        assert_eq!((flight.limit(), flight.measures.len()), (510_000, 0), "250 000 in a round trip");
        // No more of them than so many; a new round is one, too.
        for quarter in 1..6 {
            flight.on_sent(at(200 + 25 * quarter), 7 + quarter, 0);
        }
        assert_eq!(flight.measures.len(), MEASURES as usize);
        flight.on_ack(at(310), 0, 8, 0, None);
        flight.on_sent(at(350), 20, 0);
        flight.on_ack(at(351), 0, 12, 0, None);
        flight.on_sent(at(374), 21, 0);
        assert!(flight.measures.is_empty());
        flight.on_sent(at(375), 22, 0);
        assert_eq!(flight.measures.len(), 1);
    }

    #[test]
    fn growth_between_rounds_counts_when_the_round_ends() {
        let mut path = Path::new();
        path.round(7_999, 100_000, 0, true);
        for ms in [0, 2, 4, 6] {
            path.flight.on_sent(Timestamp::from_micros(path.now + ms * 1000), 100 + ms, 0);
        }
        assert!(path.flight.measures.is_empty(), "a short path");
        for (grown, limit) in [(125_000, 237_500), (125_100, 300_240)] {
            let mut path = Path::new();
            for _ in 0..3 {
                path.round(10_000, 100_000, 0, true);
            }
            let at = Timestamp::from_micros;
            path.flight.on_sent(at(path.now), 100, 0);
            path.flight.on_sent(at(path.now + 2_500), 101, 0);
            path.flight.on_ack(at(path.now + 10_000), 0, 101, 0, None);
            path.flight.on_sent(at(path.now + 10_000), 102, 0);
            path.flight.on_ack(at(path.now + 12_500), grown, 102, 0, None);
            assert_eq!(path.flight.limit(), grown as u64 * 19 / 10);
            path.flight.on_ack(at(path.now + 20_000), 0, 103, 0, None);
            assert_eq!(path.flight.limit(), limit, "{grown}");
        }
    }

    #[test]
    fn a_round_ends_with_the_last_that_left_at_its_beginning() {
        let at = Timestamp::from_millis;
        let mut flight = Flight::default();
        flight.on_sent(at(10_000), 5, 0);
        flight.on_sent(at(10_000), 9, 0);
        flight.on_sent(at(10_001), 20, 0);
        flight.on_ack(at(10_010), 100_000, 9, 0, None);
        assert_eq!(flight.limit(), INITIAL);
        flight.on_ack(at(10_020), 100_000, 10, 0, None);
        assert_eq!(flight.limit(), 440_000);
        flight.on_ack(at(10_021), 0, 21, 0, Some(10_000));
        assert_eq!(flight.limit(), 240_000, "a sample between rounds");
    }
}
