//! The sending side: headers, parity, groups that are cut short.

use std::sync::Arc;
use std::time::Duration;

use kcp_core::Timestamp;

use super::code::Code;
use super::{FecConfig, HEADER, Note, TYPE_DATA, TYPE_PARITY, header};
use crate::sealed::Batch;

/// kcp-go gives a group no parity whose last packet comes so much later than the one before.
const STALE: Duration = Duration::from_millis(500);

/// What an encoder has sent.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) data: u64,
    pub(crate) parity: u64,
    pub(crate) repeated: u64,
    pub(crate) unprotected: u64,
}

/// Encodes as packets come: parity grows with each, so nothing is kept but the parity itself.
#[derive(Debug)]
pub(crate) struct Encoder {
    config: FecConfig,
    code: Arc<Code>,
    next: u32,
    /// Data shards in the open group.
    filled: u8,
    /// A row per parity shard, each as long as the longest data shard.
    parity: Vec<Vec<u8>>,
    /// How many parity shards a full group gets: wanted, and of the open group.
    wanted: u8,
    rows: u8,
    /// What the datagrams of the group begin with, while they all do.
    conv: Option<[u8; 4]>,
    /// The first datagram of the group, in case no other comes; kept only where groups are cut short.
    lone: Vec<u8>,
    deadline: Option<Timestamp>,
    /// When the last packet was encoded.
    last: Option<Timestamp>,
    /// No parity for now.
    held: bool,
    pub(crate) sent: Sent,
}

impl Encoder {
    pub(crate) fn new(config: FecConfig) -> Self {
        Self {
            code: Arc::new(Code::new(config.shape)),
            next: 0,
            filled: 0,
            parity: vec![Vec::new(); config.shape.parity.into()],
            wanted: config.shape.parity,
            rows: config.shape.parity,
            conv: None,
            lone: Vec::new(),
            deadline: None,
            last: None,
            held: false,
            sent: Sent::default(),
            config,
        }
    }

    pub(crate) fn code(&self) -> &Arc<Code> {
        &self.code
    }

    /// How many parity shards a full group gets, from the next on.
    pub(crate) fn set_rows(&mut self, rows: u8) {
        self.wanted = rows.min(self.config.shape.parity);
    }

    pub(crate) fn wanted_rows(&self) -> u8 {
        self.wanted
    }

    pub(crate) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// When the open group is to be cut short.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.deadline
    }

    /// Sends a datagram, and parity if it completes a group.
    pub(crate) fn data(&mut self, now: Timestamp, datagram: &[u8], out: &mut Batch<'_>) {
        // Longer than any UDP payload otherwise.
        let Ok(size) = u16::try_from(datagram.len() + 2) else { return };
        self.shard(size, datagram, out);
        self.sent.data += 1;
        if self.filled == self.config.shape.data {
            let fresh = self.last.is_some_and(|last| now.saturating_since(last) < STALE);
            self.complete(fresh || self.config.flush_after.is_some(), out);
        } else if self.filled == 1
            && let Some(wait) = self.config.flush_after
        {
            self.deadline = Some(now + wait);
            self.lone.clear();
            self.lone.extend_from_slice(datagram);
        }
        self.last = Some(now);
    }

    /// Cuts the open group short if it is time.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp, out: &mut Batch<'_>) {
        if self.deadline.is_none_or(|at| now < at) {
            return;
        }
        let covered = self.filled;
        let rows = u32::from(covered) * u32::from(self.rows);
        let rows = rows.div_ceil(self.config.shape.data.into());
        match (self.conv, covered) {
            _ if self.held || rows == 0 => self.sent.unprotected += 1,
            (_, 1) => {
                let lone = std::mem::take(&mut self.lone);
                // It had this length a moment ago.
                let size = (lone.len() + 2) as u16;
                self.shard(size, &lone, out);
                self.lone = lone;
                self.sent.repeated += 1;
            }
            (Some(conv), covered) => {
                let note = Note { covered, shape: self.config.shape };
                let first = self.group() + u32::from(self.config.shape.data);
                for (seqid, parity) in (first..).zip(&mut self.parity).take(rows as usize) {
                    // All coefficients sum up to 1: so the missing shards, of which all but the conversation is zero, enter.
                    if let Some(bytes) = parity.get_mut(2..6) {
                        bytes.copy_from_slice(&conv);
                    }
                    out.push(&[&header(seqid, TYPE_PARITY), parity, &note.encode(seqid, parity)]);
                }
                self.sent.parity += u64::from(rows);
            }
            (None, _) => self.sent.unprotected += 1,
        }
        self.next_group();
    }

    /// Where the open group begins.
    fn group(&self) -> u32 {
        self.next - u32::from(self.filled)
    }

    fn shard(&mut self, size: u16, datagram: &[u8], out: &mut Batch<'_>) {
        let size = size.to_le_bytes();
        out.push(&[&header(self.next, TYPE_DATA), &size, datagram]);
        if self.filled == 0 {
            self.rows = self.wanted;
        }
        for (row, parity) in self.parity.iter_mut().take(self.rows.into()).enumerate() {
            if parity.len() < datagram.len() + 2 {
                parity.resize(datagram.len() + 2, 0);
            }
            let (head, body) = parity.split_at_mut(2);
            self.code.add(row, self.filled.into(), &size, head);
            self.code.add(row, self.filled.into(), datagram, body);
        }
        let conv = datagram.first_chunk().copied();
        self.conv = if self.filled == 0 { conv } else { self.conv.filter(|_| self.conv == conv) };
        self.filled += 1;
        self.next += 1;
    }

    fn complete(&mut self, fresh: bool, out: &mut Batch<'_>) {
        if fresh && !self.held {
            for (seqid, parity) in (self.next..).zip(&self.parity).take(self.rows.into()) {
                out.push(&[&header(seqid, TYPE_PARITY), parity]);
            }
            self.sent.parity += u64::from(self.rows);
        } else {
            self.sent.unprotected += 1;
        }
        self.next_group();
    }

    fn next_group(&mut self) {
        let next = self.group() + u32::from(self.config.shape.total());
        self.next = if next == self.config.shape.paws() { 0 } else { next };
        self.filled = 0;
        self.parity.iter_mut().for_each(Vec::clear);
        self.deadline = None;
    }
}

/// A parity shard fits the room of its header and one datagram.
const _: () = assert!(HEADER + 2 == super::DATA_HEADER);

#[cfg(test)]
impl Encoder {
    /// Goes on at the group that begins with `seqid`.
    pub(super) fn skip_to(&mut self, seqid: u32) {
        assert!(self.filled == 0 && seqid.is_multiple_of(self.config.shape.total().into()));
        self.next = seqid;
    }

    pub(super) fn next(&self) -> u32 {
        self.next
    }
}
