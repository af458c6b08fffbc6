//! How much parity the measured loss calls for.

use std::time::Duration;

use kcp_core::Timestamp;

use super::Shape;

/// How often loss is looked at, and reported.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// A report older than this says nothing any more.
const STALE: Duration = Duration::from_secs(5);
/// The packets that the estimate reaches back to, roughly.
const MEMORY: f64 = 512.0;
/// Groups that may lose more than their parity restores.
const TARGET: f64 = 0.001;
/// Losses come in bursts, and the estimate is late.
const MARGIN: f64 = 1.5;

/// Packets that arrived and that did not, since the beginning. Wraps.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) arrived: u32,
    pub(crate) lost: u32,
}

/// Starts a report, so that it is not taken for an application's packet. Not zero: an old kcp-go looks for a sequence number
/// there.
const MAGIC: [u8; 4] = *b"kcpL";

impl Tally {
    /// The payload of an out-of-band packet.
    pub(crate) fn encode(self) -> [u8; 12] {
        let mut report = [0; 12];
        report[..4].copy_from_slice(&MAGIC);
        report[4..8].copy_from_slice(&self.arrived.to_le_bytes());
        report[8..].copy_from_slice(&self.lost.to_le_bytes());
        report
    }

    /// None if it is something else.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let &[m0, m1, m2, m3, a0, a1, a2, a3, l0, l1, l2, l3] = payload else { return None };
        ([m0, m1, m2, m3] == MAGIC).then_some(Self {
            arrived: u32::from_le_bytes([a0, a1, a2, a3]),
            lost: u32::from_le_bytes([l0, l1, l2, l3]),
        })
    }

    fn since(self, before: Self) -> Self {
        Self { arrived: self.arrived.wrapping_sub(before.arrived), lost: self.lost.wrapping_sub(before.lost) }
    }
}

/// Decides how many parity shards a full group gets.
#[derive(Debug)]
pub(crate) struct Controller {
    shape: Shape,
    least: u8,
    /// Share of packets lost.
    loss: Option<f64>,
    /// The peer's last report, and what this side had counted at the last look.
    reported: Option<(Tally, Timestamp)>,
    counted: Tally,
}

impl Controller {
    pub(crate) fn new(shape: Shape, least: u8) -> Self {
        Self { shape, least: least.min(shape.parity), loss: None, reported: None, counted: Tally::default() }
    }

    /// The peer says what it has received.
    pub(crate) fn report(&mut self, now: Timestamp, tally: Tally) {
        let before = self.reported.map_or(Tally::default(), |(before, _)| before);
        self.reported = Some((tally, now));
        self.learn(tally.since(before));
    }

    /// Once per interval: what this side has received, in case the peer says nothing.
    pub(crate) fn look(&mut self, now: Timestamp, counted: Tally) {
        let new = counted.since(self.counted);
        self.counted = counted;
        if self.reported.is_none_or(|(_, at)| now.saturating_since(at) > STALE) {
            self.learn(new);
        }
    }

    fn learn(&mut self, new: Tally) {
        let (arrived, lost) = (f64::from(new.arrived), f64::from(new.lost));
        let packets = arrived + lost;
        // Whoever restarts counting, or lies.
        if packets == 0.0 || packets > 1e8 {
            return;
        }
        let sample = lost / packets;
        let before = self.loss.unwrap_or(sample);
        self.loss = Some(before + (sample - before) * packets / (packets + MEMORY));
    }

    pub(crate) fn loss(&self) -> Option<f64> {
        self.loss
    }

    pub(crate) fn rows(&self) -> u8 {
        let most = self.shape.parity;
        let Some(loss) = self.loss else { return most };
        let loss = (loss * MARGIN).min(1.0);
        (self.least..most).find(|&rows| more_than(rows, self.shape.data, loss) <= TARGET).unwrap_or(most)
    }
}

/// The probability that of `data` + `rows` packets more than `rows` are lost.
fn more_than(rows: u8, data: u8, loss: f64) -> f64 {
    if loss >= 1.0 {
        return 1.0;
    }
    let packets = f64::from(data) + f64::from(rows);
    // Of exactly k losses, k = 0, 1, …
    let mut exactly = (1.0 - loss).powf(packets);
    let mut at_most = exactly;
    for k in 0..rows {
        let k = f64::from(k);
        exactly *= (packets - k) / (k + 1.0) * loss / (1.0 - loss);
        at_most += exactly;
    }
    1.0 - at_most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller() -> Controller {
        Controller::new(Shape::new(10, 5).unwrap(), 1)
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn binomial_tail() {
        assert_eq!(more_than(0, 1, 0.25), 0.25);
        assert_eq!(more_than(1, 1, 0.5), 0.25);
        assert!((more_than(1, 2, 0.1) - (3.0 * 0.01 * 0.9 + 0.001)).abs() < 1e-12);
        assert_eq!(more_than(3, 10, 0.0), 0.0);
        assert_eq!(more_than(3, 10, 1.0), 1.0);
        let mut last = 1.0;
        for rows in 0..100 {
            let tail = more_than(rows, 100, 0.1);
            assert!(tail <= last + 1e-12 && tail > -1e-12);
            last = tail;
        }
    }

    #[test]
    fn all_parity_until_something_is_known_then_what_the_loss_needs() {
        let mut controller = controller();
        assert_eq!(controller.rows(), 5);
        controller.look(at(1), Tally { arrived: 10_000, lost: 0 });
        assert_eq!(controller.rows(), 1, "the configured least");
        controller.look(at(2), Tally { arrived: 19_900, lost: 100 });
        assert_eq!(controller.rows(), 2, "1 %");
        controller.look(at(3), Tally { arrived: 19_900 + 9_000, lost: 100 + 1_000 });
        assert_eq!(controller.rows(), 5, "10 %");
    }

    #[test]
    fn none_at_all_if_allowed() {
        let mut controller = Controller::new(Shape::new(10, 3).unwrap(), 0);
        controller.look(at(1), Tally { arrived: 1000, lost: 0 });
        assert_eq!(controller.rows(), 0);
        let mut strict = Controller::new(Shape::new(10, 3).unwrap(), 200);
        strict.look(at(1), Tally { arrived: 1000, lost: 0 });
        assert_eq!(strict.rows(), 3);
    }

    #[test]
    fn the_peers_report_counts_while_it_is_fresh() {
        let mut controller = controller();
        controller.report(at(1), Tally { arrived: 80_000, lost: 20_000 });
        assert_eq!(controller.rows(), 5);
        controller.look(at(2), Tally { arrived: 10_000, lost: 0 });
        assert_eq!(controller.rows(), 5, "our own direction says nothing of the other");
        controller.look(at(7), Tally { arrived: 200_000, lost: 0 });
        assert_eq!(controller.rows(), 1, "but for a peer that has fallen silent");
    }

    #[test]
    fn odd_reports_do_no_harm() {
        let mut controller = controller();
        controller.report(at(1), Tally { arrived: 0, lost: 0 });
        assert_eq!(controller.loss(), None);
        controller.report(at(1), Tally { arrived: 0, lost: u32::MAX });
        assert_eq!(controller.loss(), None);
        controller.report(at(1), Tally { arrived: 0, lost: 9 });
        assert_eq!(controller.loss(), Some(1.0), "10 after the wrap");
        assert_eq!(controller.rows(), 5);
        assert_eq!(Tally::decode(b"kcpL"), None);
        assert_eq!(Tally::decode(b"kcpM\0\0\0\0\0\0\0\0"), None);
        let tally = Tally { arrived: 1, lost: 0x0203_0405 };
        assert_eq!(tally.encode(), *b"kcpL\x01\0\0\0\x05\x04\x03\x02");
        assert_eq!(Tally::decode(&tally.encode()), Some(tally));
    }
}
