//! Finds out the shape of the peer's groups.

use super::Shape;

/// The sequence numbers of a group that are data, those after it parity: of all group lengths that explain everything seen
/// there is soon only one. Unlike a search for an unbroken run this needs no particular packet to arrive.
///
/// As the true length is a candidate from the start and is never ruled out, the last one left is the true one. That does not
/// hold once packets of two shapes have been seen, be it that the peer has changed its own or that somebody forges packets:
/// then the last one left has to prove itself.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct Tuner {
    candidates: Vec<Candidate>,
    /// There was a contradiction.
    wary: bool,
    /// Packets that the only candidate has explained.
    explained: u32,
}

#[derive(Copy, Clone, Debug)]
struct Candidate {
    total: u8,
    /// One past the last position known to be data.
    data_end: u8,
    /// The first position known to be parity, or the end.
    parity_start: u8,
}

impl Tuner {
    /// For packets from the beginning.
    pub(super) fn new() -> Self {
        Self { candidates: all(), wary: false, explained: 0 }
    }

    /// For packets that contradict a shape that was known.
    pub(super) fn wary() -> Self {
        Self { wary: true, ..Self::new() }
    }

    /// Takes in the sequence number of a packet and its type. The shape, once there is no doubt.
    pub(super) fn observe(&mut self, seqid: u32, is_data: bool) -> Option<Shape> {
        self.candidates.retain_mut(|candidate| candidate.observe(seqid, is_data));
        match self.candidates.as_slice() {
            [] => {
                *self = Self::wary();
                None
            }
            [only] if only.data_end == only.parity_start => {
                self.explained += 1;
                let enough = !self.wary || self.explained > 2 * u32::from(only.total);
                Shape::new(only.data_end, only.total - only.data_end).ok().filter(|_| enough)
            }
            _ => None,
        }
    }
}

fn all() -> Vec<Candidate> {
    (2..=u8::MAX).map(|total| Candidate { total, data_end: 0, parity_start: total }).collect()
}

impl Candidate {
    /// False if it cannot be.
    fn observe(&mut self, seqid: u32, is_data: bool) -> bool {
        let total = u32::from(self.total);
        let position = (seqid % total) as u8;
        if is_data {
            self.data_end = self.data_end.max(position + 1);
        } else {
            self.parity_start = self.parity_start.min(position);
        }
        // A group has at least one of each, and none reaches across the end of the numbers.
        let possible =
            self.data_end <= self.parity_start && self.data_end < self.total && self.parity_start > 0;
        possible && seqid < u32::MAX / total * total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_data(shape: Shape, seqid: u32) -> bool {
        seqid % u32::from(shape.total()) < u32::from(shape.data())
    }

    /// What the tuner says of packets in a row, and after how many.
    fn tune(shape: Shape, seqids: impl IntoIterator<Item = u32>) -> Option<(Shape, usize)> {
        let mut tuner = Tuner::new();
        (1..).zip(seqids).find_map(|(n, seqid)| Some((tuner.observe(seqid, is_data(shape, seqid))?, n)))
    }

    #[test]
    fn one_group_and_one_packet_are_enough_without_loss() {
        for (data, parity) in [(10, 3), (3, 1), (20, 10), (70, 30), (2, 2)] {
            let shape = Shape::new(data, parity).unwrap();
            assert_eq!(tune(shape, 0..), Some((shape, usize::from(data + parity) + 1)), "{data}/{parity}");
        }
    }

    #[test]
    fn the_longest_shape_is_found_by_its_parity_alone() {
        // Nothing longer is possible, so its first parity tells.
        let shape = Shape::new(128, 127).unwrap();
        assert!(tune(shape, 0..1000).is_some_and(|(found, n)| found == shape && n <= 256));
    }

    #[test]
    fn numbers_of_two_shapes_tell_nothing_until_one_stays() {
        let (a, b) = (Shape::new(10, 3).unwrap(), Shape::new(5, 2).unwrap());
        let mut tuner = Tuner::wary();
        for seqid in 0..200 {
            let shape = if seqid % 2 == 0 { a } else { b };
            assert_eq!(tuner.observe(seqid, is_data(shape, seqid)), None);
        }
        assert!((200..300).any(|seqid| tuner.observe(seqid, is_data(b, seqid)) == Some(b)));
    }

    #[test]
    fn without_parity_there_is_no_shape() {
        let mut tuner = Tuner::new();
        assert!((0..1000).all(|seqid| tuner.observe(seqid, true).is_none()));
        assert!((0..1000).all(|seqid| tuner.observe(seqid, false).is_none()));
    }

    #[test]
    fn after_a_contradiction_a_shape_has_to_prove_itself() {
        let shape = Shape::new(10, 3).unwrap();
        let mut tuner = Tuner::wary();
        let found = (0..200).find(|&seqid| tuner.observe(seqid, is_data(shape, seqid)).is_some());
        assert_eq!(found, Some(13 + 26));
    }

    proptest! {
        /// Whatever is lost, and wherever one joins: the first answer is the right one, and it comes.
        #[test]
        fn never_wrong(
            data in 1u8..40,
            parity in 1u8..20,
            start in prop_oneof![Just(0u32), any::<u32>(), Just(u32::MAX - 2000)],
            loss in 0u32..60,
            seed in any::<u64>(),
        ) {
            let shape = Shape::new(data, parity).unwrap();
            let mut rng = fastrand::Rng::with_seed(seed);
            let seqids = (0..4000u32).map(|n| (u64::from(start) + u64::from(n)) % u64::from(shape.paws()));
            let arrived = seqids.filter(|_| rng.u32(..100) >= loss).map(|seqid| seqid as u32);
            prop_assert_eq!(tune(shape, arrived).map(|(found, _)| found), Some(shape));
        }
    }
}
