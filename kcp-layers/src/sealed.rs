//! Packets ready to be sent, laid out for as few system calls as possible.

/// What a UDP payload holds at most, and so a run that is handed to the system at once (segmentation offload).
const MAX_RUN: usize = 65_507;

/// Packets to send, in order. Kept and [cleared](Self::clear) by whoever sends, so that sealing allocates nothing.
///
/// Packets of one length lie back to back in a [run](Self::runs), which the system can take in one call.
#[derive(Clone, Debug, Default)]
pub struct Sealed {
    bytes: Vec<u8>,
    runs: Vec<Span>,
}

/// Packets of `stride` bytes each, but the last, which may be shorter.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) stride: usize,
}

/// Packets back to back, all of one length but the last, which may be shorter.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Run<'a> {
    /// The packets; at most 65 507 bytes.
    pub bytes: &'a [u8],
    /// The length of every packet but the last; at least 1.
    pub stride: usize,
}

impl<'a> Run<'a> {
    /// The packets one by one.
    pub fn packets(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.stride)
    }
}

impl Sealed {
    /// The runs, in the order in which they were sealed.
    pub fn runs(&self) -> impl Iterator<Item = Run<'_>> {
        self.runs.iter().map(|run| Run { bytes: &self.bytes[run.start..run.end], stride: run.stride })
    }

    /// The packets one by one.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.runs().flat_map(|run| run.packets())
    }

    /// Nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Forgets all packets, and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.runs.clear();
    }

    pub(crate) fn batch(&mut self, head: usize, tail: usize) -> Batch<'_> {
        Batch { first: self.runs.len(), out: self, head, tail }
    }
}

/// The packets of one call, which get their encryption together in the end.
pub(crate) struct Batch<'a> {
    out: &'a mut Sealed,
    /// The runs before belong to other calls.
    first: usize,
    /// Room to leave before each packet and behind it.
    head: usize,
    tail: usize,
}

impl Batch<'_> {
    /// Adds a packet made of `parts`.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) {
        let Sealed { bytes, runs } = &mut *self.out;
        let start = bytes.len();
        bytes.resize(start + self.head, 0);
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes.resize(bytes.len() + self.tail, 0);
        let (end, len) = (bytes.len(), bytes.len() - start);
        if len == 0 {
            return;
        }
        let open = runs.get_mut(self.first..).and_then(<[_]>::last_mut);
        match open {
            Some(run)
                if (run.end - run.start) % run.stride == 0
                    && len <= run.stride
                    && end - run.start <= MAX_RUN =>
            {
                run.end = end;
            }
            _ => runs.push(Span { start, end, stride: len }),
        }
    }

    /// Hands each run of this call to `seal`, with its stride.
    pub(crate) fn finish(self, mut seal: impl FnMut(&mut [u8], usize)) {
        for run in &self.out.runs[self.first..] {
            seal(&mut self.out.bytes[run.start..run.end], run.stride);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strides(sealed: &Sealed) -> Vec<(usize, usize)> {
        sealed.runs().map(|run| (run.bytes.len(), run.stride)).collect()
    }

    #[test]
    fn equal_packets_make_a_run_and_a_shorter_one_ends_it() {
        let mut sealed = Sealed::default();
        let mut batch = sealed.batch(3, 1);
        for len in [6, 6, 4, 6, 8, 8] {
            batch.push(&[&[7; 2], &vec![8; len - 2]]);
        }
        batch.finish(|run, _| run[0] = 9);
        assert_eq!(strides(&sealed), [(28, 10), (10, 10), (24, 12)]);
        assert_eq!(sealed.packets().next().unwrap(), [9, 0, 0, 7, 7, 8, 8, 8, 8, 0]);
        assert_eq!(sealed.packets().count(), 6);
        assert_eq!(sealed.packets().nth(1).unwrap()[0], 0, "once per run");
    }

    #[test]
    fn a_call_does_not_touch_the_runs_of_another() {
        let mut sealed = Sealed::default();
        for call in 1..=2 {
            let mut batch = sealed.batch(1, 0);
            batch.push(&[b"x"]);
            batch.finish(|run, _| run[0] += call);
        }
        assert_eq!(strides(&sealed), [(2, 2), (2, 2)]);
        assert_eq!(sealed.packets().map(|packet| packet[0]).collect::<Vec<_>>(), [1, 2]);
        sealed.clear();
        assert!(sealed.is_empty() && sealed.packets().next().is_none());
    }

    #[test]
    fn a_run_is_no_longer_than_a_udp_payload() {
        let mut sealed = Sealed::default();
        let mut batch = sealed.batch(0, 0);
        for _ in 0..100 {
            batch.push(&[&[0; 1400]]);
        }
        batch.push(&[]);
        assert_eq!(strides(&sealed), [(64_400, 1400), (64_400, 1400), (11_200, 1400)]);
    }
}
