//! Datagrams: parsed whole before anything is applied; written as runs of equal length.

use alloc::vec::Vec;

use crate::error::InputError;
use crate::wire::header::{HEADER_LEN, Header, HeaderError};

/// The segments of a datagram whose every header has been checked.
#[derive(Copy, Clone, Debug)]
pub struct Segments<'a> {
    rest: &'a [u8],
}

impl<'a> Segments<'a> {
    /// Checks every header of `datagram`: conversation, command and length. Fewer than 24 trailing bytes are
    /// ignored, as `ikcp_input` does.
    ///
    /// # Errors
    /// [`InputError`] saying what is wrong; nothing of such a datagram may be applied. (`ikcp_input` applies the
    /// segments before the bad one; refusing the whole datagram is deliberate.)
    pub fn parse(datagram: &'a [u8], conv: u32) -> Result<Self, InputError> {
        Self::parse_with(datagram, conv, |_| ())
    }

    /// As [`parse`](Self::parse), showing every header that is legal so far.
    pub(crate) fn parse_with(
        datagram: &'a [u8],
        conv: u32,
        mut see: impl FnMut(&Header),
    ) -> Result<Self, InputError> {
        let mut rest = datagram;
        if rest.len() < HEADER_LEN {
            return Err(InputError::Short);
        }
        while rest.len() >= HEADER_LEN {
            let (header, _, tail) = split(rest)?;
            if header.conv != conv {
                return Err(InputError::ConvMismatch { found: header.conv });
            }
            see(&header);
            rest = tail;
        }
        Ok(Self { rest: datagram })
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = (Header, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, payload, tail) = split(self.rest).ok()?;
        self.rest = tail;
        Some((header, payload))
    }
}

/// Splits the first segment off: header, payload, rest.
fn split(bytes: &[u8]) -> Result<(Header, &[u8], &[u8]), InputError> {
    let header = Header::decode(bytes).map_err(|error| match error {
        HeaderError::Short => InputError::Short,
        HeaderError::UnknownCommand(cmd) => InputError::UnknownCommand(cmd),
    })?;
    let body = bytes.get(HEADER_LEN..).unwrap_or_default();
    // Compared before any narrowing cast: a length of 2 GiB and more must not wrap on 32-bit targets.
    let len = usize::try_from(header.len).ok().filter(|&len| len <= body.len());
    let len = len.ok_or(InputError::Truncated { len: header.len })?;
    let (payload, tail) = body.split_at(len);
    Ok((header, payload, tail))
}

/// Writes segments back to back into datagrams that form one run: all of one length but the last, which may be
/// shorter, so that the run can leave in one system call (UDP GSO).
#[derive(Debug)]
pub(crate) struct DatagramWriter<'a> {
    buf: &'a mut Vec<u8>,
    /// Where the run starts in `buf`.
    base: usize,
    /// Where the datagram being filled starts.
    start: usize,
    mtu: usize,
    /// Length of every datagram but the last; known once the first one is complete.
    stride: Option<usize>,
    datagrams: usize,
}

impl<'a> DatagramWriter<'a> {
    /// The last `begun` bytes of `buf` are the beginning of the first datagram.
    pub(crate) fn new(begun: usize, buf: &'a mut Vec<u8>, mtu: usize) -> Self {
        let base = buf.len().saturating_sub(begun);
        Self { buf, base, start: base, mtu, stride: None, datagrams: usize::from(begun > 0) }
    }

    /// Makes room for a segment of `len` bytes (header and payload) in a run of at most `max_datagrams`. False when
    /// the run has to end first; nothing is changed then.
    ///
    /// A segment longer than the mtu (cut before the mtu shrank) travels alone.
    pub(crate) fn reserve(&mut self, len: usize, max_datagrams: usize) -> bool {
        let filled = self.buf.len().saturating_sub(self.start);
        if self.datagrams == 0 {
            if max_datagrams == 0 {
                return false;
            }
            self.datagrams = 1;
            return true;
        }
        if filled.saturating_add(len) <= self.stride.unwrap_or(self.mtu) {
            return true;
        }
        // The current datagram is complete. Only a full-length one may be followed by another.
        let stride = self.stride.unwrap_or(filled);
        if self.datagrams >= max_datagrams || filled < stride || len > stride || filled > self.mtu {
            return false;
        }
        self.stride = Some(stride);
        self.start = self.buf.len();
        self.datagrams = self.datagrams.saturating_add(1);
        true
    }

    /// Whether a segment of `len` bytes fits the datagram being filled.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.datagrams > 0 && len <= self.room()
    }

    /// Bytes of the datagram being filled that are left.
    pub(crate) fn room(&self) -> usize {
        let filled = self.buf.len().saturating_sub(self.start);
        self.stride.unwrap_or(self.mtu).saturating_sub(filled)
    }

    /// Appends a segment for which [`reserve`](Self::reserve) has just said yes.
    pub(crate) fn push(&mut self, header: &Header, payload: &[u8]) {
        self.buf.extend_from_slice(&header.encode());
        self.buf.extend_from_slice(payload);
    }

    /// Bytes of the run so far.
    pub(crate) fn len(&self) -> usize {
        self.buf.len().saturating_sub(self.base)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    /// The finished run: datagrams, stride, bytes in total.
    pub(crate) fn finish(self) -> Option<Transmit> {
        let len = self.buf.len().saturating_sub(self.base);
        (len > 0).then(|| Transmit { datagrams: self.datagrams, stride: self.stride.unwrap_or(len), len })
    }
}

/// A run of datagrams that was appended to the caller's buffer.
///
/// Datagram `i` of the run is `run[i * stride..min((i + 1) * stride, len)]`.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Transmit {
    /// How many datagrams the run has; at least 1.
    pub datagrams: usize,
    /// Length of every datagram but the last, in bytes.
    pub stride: usize,
    /// Bytes of the whole run.
    pub len: usize,
}

/// How the caller wants datagrams laid out.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Framing {
    /// At most this many datagrams in one run; at least 1. UDP GSO takes up to 64 and 65 507 bytes.
    pub max_datagrams: usize,
}

impl Default for Framing {
    /// One datagram at a time.
    fn default() -> Self {
        Self { max_datagrams: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seq::Seq;
    use crate::wire::Command;
    use alloc::vec;

    fn header(len: u32) -> Header {
        Header { conv: 9, cmd: Command::Push, frg: 0, wnd: 1, ts: 0, sn: Seq::new(0), una: Seq::new(0), len }
    }

    fn segment(conv: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Header { conv, ..header(payload.len() as u32) }.encode().to_vec();
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn parses_several_and_ignores_a_short_tail() {
        let mut datagram = segment(9, b"abc");
        datagram.extend(segment(9, b""));
        for tail in 0..HEADER_LEN {
            let mut bytes = datagram.clone();
            bytes.extend(vec![0xFF; tail]);
            let payloads: Vec<&[u8]> = Segments::parse(&bytes, 9).unwrap().map(|(_, p)| p).collect();
            assert_eq!(payloads, [b"abc".as_slice(), b""]);
        }
    }

    #[test]
    fn refuses_the_whole_datagram() {
        let good = segment(9, b"abc");
        for (bad, error) in [
            (segment(8, b""), InputError::ConvMismatch { found: 8 }),
            (header(1).encode().to_vec(), InputError::Truncated { len: 1 }),
            (header(u32::MAX).encode().to_vec(), InputError::Truncated { len: u32::MAX }),
            (header(1 << 31).encode().to_vec(), InputError::Truncated { len: 1 << 31 }),
        ] {
            let bytes = [good.clone(), bad].concat();
            assert_eq!(Segments::parse(&bytes, 9).unwrap_err(), error);
        }
        assert_eq!(Segments::parse(&[], 9).unwrap_err(), InputError::Short);
        assert_eq!(Segments::parse(&good[..23], 9).unwrap_err(), InputError::Short);
    }

    /// Writes segments of these lengths (header included) and returns what one run took.
    fn run(lens: &[usize], mtu: usize, max: usize) -> (usize, Option<Transmit>) {
        let mut buf = vec![0xEE; 3];
        let mut writer = DatagramWriter::new(0, &mut buf, mtu);
        let mut taken = 0;
        for &len in lens {
            if !writer.reserve(len, max) {
                break;
            }
            writer.push(&header((len - HEADER_LEN) as u32), &vec![7; len - HEADER_LEN]);
            taken += 1;
        }
        (taken, writer.finish())
    }

    #[test]
    fn runs_have_one_stride() {
        // Full ones, then a short one ends the run.
        let (taken, t) = run(&[100, 100, 60, 100], 100, 10);
        assert_eq!((taken, t), (3, Some(Transmit { datagrams: 3, stride: 100, len: 260 })));
        // Equal but short of the mtu: they still form a run.
        let (taken, t) = run(&[60, 60, 60], 100, 10);
        assert_eq!((taken, t), (3, Some(Transmit { datagrams: 3, stride: 60, len: 180 })));
        // A longer one after a short stride must wait for the next run.
        let (taken, t) = run(&[60, 80], 100, 10);
        assert_eq!((taken, t), (1, Some(Transmit { datagrams: 1, stride: 60, len: 60 })));
        // Small ones share a datagram.
        let (taken, t) = run(&[30, 30, 30, 30], 100, 10);
        assert_eq!((taken, t), (4, Some(Transmit { datagrams: 2, stride: 90, len: 120 })));
        // The bound on datagrams holds.
        let (taken, t) = run(&[100, 100, 100], 100, 2);
        assert_eq!((taken, t), (2, Some(Transmit { datagrams: 2, stride: 100, len: 200 })));
        assert_eq!(run(&[100], 100, 0), (0, None));
        // Longer than the mtu: alone.
        let (taken, t) = run(&[200, 30], 100, 4);
        assert_eq!((taken, t), (1, Some(Transmit { datagrams: 1, stride: 200, len: 200 })));
    }
}
