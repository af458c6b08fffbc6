//! What has happened: a hash of everything, and the last lines of it for people.

use std::collections::VecDeque;
use std::fmt;

/// Lines that a failure shows.
const TAIL: usize = 40;

/// One thing that happened.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Entry {
    /// Microseconds of virtual time.
    pub(crate) at: u64,
    /// To whom: a session's end, a link.
    pub(crate) who: u32,
    pub(crate) what: &'static str,
    pub(crate) numbers: [u64; 3],
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.who.is_multiple_of(2) { "a" } else { "b" };
        let [x, y, z] = self.numbers;
        write!(
            f,
            "{:>13.3} ms  {}{side}  {:<12} {x} {y} {z}",
            self.at as f64 / 1000.0,
            self.who / 2,
            self.what
        )
    }
}

/// A running hash; the same life gives the same hash, on every machine.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    entries: u64,
    tail: VecDeque<Entry>,
    /// Every line is printed as it comes.
    aloud: bool,
}

impl Trace {
    pub(crate) const fn new(aloud: bool) -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, entries: 0, tail: VecDeque::new(), aloud }
    }

    pub(crate) fn add(&mut self, at: u64, who: u32, what: &'static str, numbers: [u64; 3]) {
        let entry = Entry { at, who, what, numbers };
        self.add_bytes(what.as_bytes());
        for word in [at, u64::from(who), what.len() as u64, numbers[0], numbers[1], numbers[2]] {
            self.mix(word);
        }
        self.entries += 1;
        if self.aloud {
            eprintln!("{entry}");
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(entry);
    }

    /// Bytes that went over the network.
    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// For people only.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.aloud {
            eprintln!("{}", what());
        }
    }

    const fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn tail(&self) -> Vec<String> {
        self.tail.iter().map(Entry::to_string).collect()
    }
}

/// What a datagram's first segment is; with a plus if it carries a control message.
pub(crate) fn command(datagram: &[u8]) -> &'static str {
    match (datagram.get(4), datagram.get(20..24) == Some(&[0; 4])) {
        (Some(81), _) => "push",
        (Some(82), _) => "ack",
        (Some(83), true) => "wask",
        (Some(83), false) => "wask+",
        (Some(84), true) => "wins",
        (Some(84), false) => "wins+",
        _ => "datagram",
    }
}

/// The number at `at` of a datagram, 0 where it ends before.
pub(crate) fn word(datagram: &[u8], at: usize) -> u64 {
    let word = datagram.get(at..at + 4).and_then(|word| word.first_chunk()).copied();
    u64::from(u32::from_le_bytes(word.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_a_line_is_in_the_hash() {
        let hash = |at, who, what, numbers| {
            let mut trace = Trace::new(false);
            trace.add(at, who, what, numbers);
            trace.hash()
        };
        let line = hash(1, 2, "push", [3, 4, 5]);
        assert_eq!(line, hash(1, 2, "push", [3, 4, 5]));
        for other in [
            hash(0, 2, "push", [3, 4, 5]),
            hash(1, 0, "push", [3, 4, 5]),
            hash(1, 2, "wask", [3, 4, 5]),
            hash(1, 2, "push", [3, 5, 4]),
        ] {
            assert_ne!(line, other);
        }
    }
}
