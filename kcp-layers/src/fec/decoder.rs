//! The receiving side: groups in a window, recovery, and what to believe of a stranger's numbers.

use std::sync::Arc;
use std::time::Duration;

use kcp_core::Timestamp;

use super::adapt::Tally;
use super::code::{Code, Known};
use super::tuner::Tuner;
use super::{Note, Shape};

/// How far from the newest sequence number packets are taken: as many groups, but at least so many packets, which is how
/// far they may be reordered; and where the length of groups is not known, the longest possible.
const WINDOW: u32 = 4;
const REORDERED: u32 = 64;
const LONGEST: u32 = 255;
/// Packets in a row from elsewhere in the sequence after which the window moves there. A stray one moves nothing.
const STRAYS: u8 = 8;
/// A decoder that hears nothing for so long gives its memory back.
const IDLE: Duration = Duration::from_secs(10);

/// What decoding may take. It holds for each session, whatever its peer sends.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct FecLimits {
    /// Data and parity shards of a group of the peer; default 128, at most 255. Longer groups are not decoded: their
    /// packets are delivered, lost ones are not recovered. The own shape is always allowed.
    pub max_shards: u8,
    /// Bytes of packets kept to recover others; default 256 KiB. Where they do not suffice the oldest group is given up.
    pub max_bytes: usize,
}

impl Default for FecLimits {
    fn default() -> Self {
        Self { max_shards: 128, max_bytes: 256 * 1024 }
    }
}

/// What a decoder has received and done.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Received {
    pub(crate) data: u64,
    pub(crate) parity: u64,
    pub(crate) recovered: u64,
    pub(crate) useless: u64,
    pub(crate) lost_groups: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    pub(crate) late: u64,
    pub(crate) stray: u64,
    pub(crate) contradictions: u64,
    pub(crate) retuned: u64,
    pub(crate) corrupt: u64,
    pub(crate) over_limit: u64,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Decoder {
    limits: FecLimits,
    /// The shape of the peer's groups, as far as we know.
    code: Option<Arc<Code>>,
    /// Looks for the shape while it is in doubt. Nothing is recovered until then: from shards put together in a wrong way
    /// comes what KCP, which has no checksum, would take for data.
    tuner: Option<Tuner>,
    /// The newest sequence number.
    latest: Option<u32>,
    /// In the order of their first packets.
    groups: Vec<Group>,
    buffers: Buffers,
    /// A sequence number elsewhere, and how many packets in a row were of its neighbourhood.
    strays: Option<(u32, u8)>,
    /// What is being recovered.
    scratch: Vec<u8>,
    heard: Timestamp,
    tally: Tally,
    pub(crate) received: Received,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
struct Group {
    number: u32,
    /// One per position, empty where none is held.
    shards: Vec<Vec<u8>>,
    /// Positions that have arrived.
    seen: [u64; 4],
    data: u8,
    parity: u8,
    /// One past the last data position that has arrived.
    data_end: u8,
    /// How many data shards there are, if something told.
    covered: Option<u8>,
    state: State,
    /// Its beginning may have come before we listened: what is missing tells nothing.
    joined: bool,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
enum State {
    Open,
    /// All data shards arrived or were recovered.
    Done,
    /// Its numbers contradict each other, or memory was short.
    GivenUp,
}

/// Buffers of shards: those that are free are used again.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct Buffers {
    free: Vec<Vec<u8>>,
    /// Bytes of all, free or not.
    bytes: usize,
}

impl Decoder {
    /// `expected` is the shape that the peer probably has: ours.
    pub(crate) fn new(limits: FecLimits, expected: Option<Arc<Code>>) -> Self {
        let own = expected.as_ref().map_or(0, |code| code.shape().total());
        let limits = FecLimits { max_shards: limits.max_shards.max(own), ..limits };
        Self {
            limits,
            code: expected,
            tuner: Some(Tuner::new()),
            latest: None,
            groups: Vec::new(),
            buffers: Buffers::default(),
            strays: None,
            scratch: Vec::new(),
            heard: Timestamp::ZERO,
            tally: Tally::default(),
            received: Received::default(),
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// The peer's shape, once there is no doubt.
    pub(crate) fn shape(&self) -> Option<Shape> {
        self.code.as_ref().filter(|_| self.tuner.is_none()).map(|code| code.shape())
    }

    pub(crate) fn data(
        &mut self,
        now: Timestamp,
        seqid: u32,
        shard: &[u8],
        recovered: &mut dyn FnMut(&[u8]),
    ) {
        self.received.data += 1;
        self.receive(now, seqid, shard, true, None, recovered);
    }

    pub(crate) fn parity(
        &mut self,
        now: Timestamp,
        seqid: u32,
        shard: &[u8],
        recovered: &mut dyn FnMut(&[u8]),
    ) {
        self.received.parity += 1;
        let (shard, note) = Note::split(seqid, shard);
        self.receive(now, seqid, shard, false, note, recovered);
    }

    fn receive(
        &mut self,
        now: Timestamp,
        seqid: u32,
        shard: &[u8],
        is_data: bool,
        note: Option<Note>,
        recovered: &mut dyn FnMut(&[u8]),
    ) {
        self.heard = now;
        if !self.is_near(seqid) {
            return;
        }
        let settled = self.tune(seqid, is_data, note);
        let Some(code) = self.code.clone() else { return };
        let shape = code.shape();
        let total = u32::from(shape.total());
        // Below the shape's total, which is a u8.
        let (number, position) = (seqid / total, (seqid % total) as u8);
        let Some(index) = self.locate(number, shape) else { return };
        let agrees = seqid < shape.paws()
            && is_data == (position < shape.data())
            && note.is_none_or(|note| note.shape == shape);
        if agrees {
            self.insert(index, position, shard, is_data, note, shape);
            self.recover(index, &code, recovered);
        } else {
            self.doubt(index, seqid, is_data);
        }
        if settled {
            for index in 0..self.groups.len() {
                self.recover(index, &code, recovered);
            }
        }
    }

    /// Whether a sequence number is where the others are. What is not is a leftover, or forged by somebody who does not see
    /// our packets; unless nothing else comes, because the sequence has moved on while we heard nothing.
    fn is_near(&mut self, seqid: u32) -> bool {
        let total = self.code.as_ref().map_or(LONGEST, |code| code.shape().total().into());
        let reach = reach(total);
        let latest = *self.latest.get_or_insert(seqid);
        let ahead = difference(latest, seqid);
        if ahead.unsigned_abs() <= reach {
            self.strays = None;
            if ahead > 0 {
                self.latest = Some(seqid);
            }
            return true;
        }
        let near = self.strays.filter(|(other, _)| difference(*other, seqid).unsigned_abs() <= reach);
        let count = near.map_or(1, |(_, count)| count + 1);
        if count < STRAYS {
            self.received.stray += 1;
            self.strays = Some((seqid, count));
            return false;
        }
        self.finish_all();
        self.strays = None;
        self.latest = Some(seqid);
        true
    }

    /// Learns the shape from a packet, where it is not known. True if it is from now on.
    fn tune(&mut self, seqid: u32, is_data: bool, note: Option<Note>) -> bool {
        let Some(tuner) = &mut self.tuner else { return false };
        let told = tuner.observe(seqid, is_data).or(note.map(|note| note.shape));
        let allowed = told.filter(|shape| shape.total() <= self.limits.max_shards);
        let Some(shape) = allowed else { return false };
        self.tuner = None;
        if self.code.as_ref().is_none_or(|code| code.shape() != shape) {
            self.received.retuned += 1;
            self.finish_all();
            self.code = Some(Arc::new(Code::new(shape)));
        }
        true
    }

    /// A packet that the shape does not allow: it may have changed.
    fn doubt(&mut self, index: usize, seqid: u32, is_data: bool) {
        self.received.contradictions += 1;
        if self.tuner.is_none() {
            let mut tuner = Tuner::wary();
            tuner.observe(seqid, is_data);
            self.tuner = Some(tuner);
        }
        self.buffers.take_back(&mut self.groups[index], State::GivenUp);
    }

    /// Finds the group, or makes it. None if it has ended.
    fn locate(&mut self, number: u32, shape: Shape) -> Option<usize> {
        if let Some(index) = self.groups.iter().position(|group| group.number == number) {
            return Some(index);
        }
        let total = u32::from(shape.total());
        let window = i64::from(reach(total) / total);
        let newest = self.latest.unwrap_or_default() / total;
        if distance(newest, number, shape) < -window {
            self.received.late += 1;
            return None;
        }
        let old = |group: &mut Group| distance(newest, group.number, shape) < -window;
        let mut unused = None;
        for mut group in self.groups.extract_if(.., old) {
            finish(&group, &mut self.tally, &mut self.received);
            self.buffers.take_back(&mut group, State::Done);
            unused = Some(group.shards);
        }
        let joined = self.groups.is_empty() && unused.is_none();
        let mut shards = unused.unwrap_or_default();
        shards.resize(shape.total().into(), Vec::new());
        self.groups.push(Group {
            number,
            shards,
            seen: [0; 4],
            data: 0,
            parity: 0,
            data_end: 0,
            covered: None,
            state: State::Open,
            joined,
        });
        Some(self.groups.len() - 1)
    }

    fn insert(
        &mut self,
        index: usize,
        position: u8,
        shard: &[u8],
        is_data: bool,
        note: Option<Note>,
        shape: Shape,
    ) {
        let (word, bit) = (usize::from(position / 64), 1u64 << (position % 64));
        let group = &mut self.groups[index];
        if group.seen[word] & bit != 0 {
            self.received.duplicates += 1;
            return;
        }
        group.seen[word] |= bit;
        if is_data {
            group.data += 1;
            group.data_end = group.data_end.max(position + 1);
        } else {
            let covers = note.map_or(shape.data(), |note| note.covered);
            if *group.covered.get_or_insert(covers) != covers {
                self.received.contradictions += 1;
                self.buffers.take_back(group, State::GivenUp);
            }
        }
        if group.covered.is_some_and(|covered| group.data_end > covered) {
            self.received.contradictions += 1;
            self.buffers.take_back(group, State::GivenUp);
        }
        match group.state {
            State::Open if group.data == group.covered.unwrap_or(shape.data()) => {
                // The last one that was missing, or parity for nothing.
                self.received.useless += u64::from(group.parity) + u64::from(!is_data);
                self.buffers.take_back(group, State::Done);
            }
            State::Open => {
                group.parity += u8::from(!is_data);
                self.store(index, position, shard);
            }
            State::Done if is_data => self.received.late += 1,
            _ => self.received.useless += u64::from(!is_data),
        }
    }

    /// Keeps a shard, as far as memory allows.
    fn store(&mut self, index: usize, position: u8, shard: &[u8]) {
        let limit = self.limits.max_bytes;
        loop {
            if let Some(buffer) = self.buffers.copy(shard, limit) {
                self.groups[index].shards[usize::from(position)] = buffer;
                return;
            }
            self.received.over_limit += 1;
            // The oldest first, this one last.
            let others = (0..self.groups.len()).filter(|&other| other != index);
            let victim = others.chain([index]).find(|&other| self.groups[other].state == State::Open);
            let Some(victim) = victim else { return };
            self.buffers.take_back(&mut self.groups[victim], State::GivenUp);
            if victim == index {
                return;
            }
        }
    }

    fn recover(&mut self, index: usize, code: &Code, recovered: &mut dyn FnMut(&[u8])) {
        let shape = code.shape();
        let group = &mut self.groups[index];
        let (State::Open, None, Some(covered)) = (group.state, &self.tuner, group.covered) else { return };
        let missing = covered - group.data;
        if missing == 0 || missing > group.parity {
            return;
        }
        let held = |position: &u8| !group.shards[usize::from(*position)].is_empty();
        let mut points: Vec<u8> = (0..covered).filter(held).chain(covered..shape.data()).collect();
        points.extend((shape.data()..shape.total()).filter(held).take(missing.into()));
        let first_parity = points.last().map(|&position| &group.shards[usize::from(position)]);
        let (Some(parity), Some(len)) = (first_parity, group.shards.iter().map(Vec::len).max()) else {
            return;
        };
        // A data shard that does not exist counts as one that is empty but for the conversation, which parity has too.
        let mut absent = [0; 6];
        if let Some(conv) = parity.get(2..6) {
            absent[2..].copy_from_slice(conv);
        }
        let shard = |position: u8| {
            let real = position < covered || position >= shape.data();
            if real { group.shards[usize::from(position)].as_slice() } else { &absent }
        };
        let known = Known::new(points);
        self.scratch.resize(len, 0);
        for position in (0..covered).filter(|position| !held(position)) {
            code.interpolate(&known, position, shard, &mut self.scratch);
            match datagram(&self.scratch) {
                Some(datagram) => {
                    self.received.recovered += 1;
                    recovered(datagram);
                }
                None => self.received.corrupt += 1,
            }
        }
        self.received.useless += u64::from(group.parity - missing);
        self.buffers.take_back(group, State::Done);
    }

    fn finish_all(&mut self) {
        for mut group in self.groups.drain(..) {
            finish(&group, &mut self.tally, &mut self.received);
            self.buffers.take_back(&mut group, State::Done);
        }
        self.strays = None;
    }

    /// When memory that is not used is to be given back.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        (self.buffers.bytes > 0 || !self.groups.is_empty()).then(|| self.heard + IDLE)
    }

    pub(crate) fn handle_timeout(&mut self, now: Timestamp) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.finish_all();
            self.groups = Vec::new();
            self.buffers = Buffers::default();
            self.scratch = Vec::new();
        }
    }

    /// Bytes of packets held, and of buffers kept for others.
    pub(crate) fn held(&self) -> usize {
        self.buffers.bytes
    }
}

/// Counts what a group was missing.
fn finish(group: &Group, tally: &mut Tally, received: &mut Received) {
    if group.joined {
        return;
    }
    // Without parity one cannot tell whether anything came after the last.
    let lost = group.covered.unwrap_or(0).max(group.data_end) - group.data;
    tally.arrived = tally.arrived.wrapping_add(group.data.into());
    tally.lost = tally.lost.wrapping_add(lost.into());
    if group.state != State::Done && lost > 0 {
        received.lost_groups += 1;
        received.lost += u64::from(lost);
    }
}

impl Buffers {
    /// A copy of `shard`; none if it would take more than `limit` bytes in all.
    fn copy(&mut self, shard: &[u8], limit: usize) -> Option<Vec<u8>> {
        let mut buffer = self.free.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        if buffer.capacity() < shard.len() {
            buffer = Vec::new();
            while self.bytes + shard.len() > limit {
                self.bytes -= self.free.pop()?.capacity();
            }
            buffer.reserve_exact(shard.len());
        }
        self.bytes += buffer.capacity();
        buffer.extend_from_slice(shard);
        Some(buffer)
    }

    /// Takes back what a group holds.
    fn take_back(&mut self, group: &mut Group, state: State) {
        group.state = state;
        for shard in &mut group.shards {
            if shard.capacity() > 0 {
                let mut buffer = std::mem::take(shard);
                buffer.clear();
                self.free.push(buffer);
            }
        }
    }
}

/// How many sequence numbers around the newest one count.
fn reach(total: u32) -> u32 {
    (WINDOW * total).max(REORDERED)
}

/// From one sequence number to another, forwards or backwards, whichever is shorter.
const fn difference(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

/// The same of groups, whose numbers wrap where those of packets do.
fn distance(from: u32, to: u32, shape: Shape) -> i64 {
    let groups = i64::from(shape.groups());
    let forwards = (i64::from(to) - i64::from(from)).rem_euclid(groups);
    if forwards > groups / 2 { forwards - groups } else { forwards }
}

/// The datagram in a shard: none unless its size is possible and nothing but padding follows.
fn datagram(shard: &[u8]) -> Option<&[u8]> {
    let size = usize::from(u16::from_le_bytes(*shard.first_chunk()?));
    let (shard, padding) = shard.split_at_checked(size)?;
    if padding.iter().any(|&byte| byte != 0) { None } else { shard.get(2..) }
}

#[cfg(test)]
impl Decoder {
    /// What is counted once no more packets come.
    pub(super) fn finished(mut self) -> (Received, Tally) {
        self.finish_all();
        (self.received, self.tally)
    }

    /// As if the first packet were still to come, but for the shape.
    pub(super) fn forget_position(&mut self) {
        self.finish_all();
        self.latest = None;
    }

    pub(super) fn with_limits(self, limits: FecLimits) -> Self {
        Self { limits, groups: Vec::new(), buffers: Buffers::default(), ..self }
    }
}
