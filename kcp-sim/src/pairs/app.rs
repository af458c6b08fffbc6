//! The application above one session: writes, reads, ends; acts on events only, as a task that sleeps until it is woken.

use bytes::Bytes;
use kcp_core::{DatagramError, Event, Held, ReadError, Session, Timestamp, WriteError};

use super::witness::{Peer, Witness};
use crate::dice::Dice;
use crate::draw::{Features, fill, mix, note};
use crate::pairs::Check;

/// How a writer ends.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    Shutdown,
    /// As a stream that is dropped: what was written is still delivered.
    Drop,
    /// Nothing, until the network has healed.
    Silence,
}

/// How a reader reads.
#[derive(Copy, Clone, Debug)]
pub(super) enum Appetite {
    Eager,
    /// So many bytes, then a pause of so many microseconds.
    Slow(u64, u64),
    /// Not before the network has healed.
    Never,
}

#[derive(Debug)]
pub(super) struct App {
    dice: Dice,
    /// Names the contents of what is written.
    stream: u64,
    message: bool,
    /// Reads messages by `read`, which forgets their bounds.
    by_bytes: bool,
    pub(super) written: u64,
    pub(super) total: u64,
    /// Lengths of the messages written, and the messages whole that were read.
    pub(super) lengths: Vec<u32>,
    chunk: (u64, u64),
    gap: u64,
    /// Longest message that the peer can take.
    limit: u64,
    pub(super) next_write: Option<u64>,
    write_blocked: bool,
    /// By a message, which waits for room for all of it.
    blocked_whole: bool,
    ending: Ending,
    pub(super) shut: bool,
    pub(super) appetite: Appetite,
    pub(super) next_read: u64,
    wait_readable: bool,
    pub(super) seen: Witness,
    pub(super) eof: bool,
    pub(super) read_error: bool,
    pub(super) drained: bool,
    pub(super) closed_told: bool,
    /// Stream gone: the session is ended then, in local time.
    pub(super) dropped: Option<Timestamp>,
    pub(super) aborted: bool,
    abort_at: Option<u64>,
    datagram_chance: f64,
    pub(super) datagrams: u32,
    datagrams_ready: bool,
    fiddles: bool,
    /// Gives memory back between whiles, and says that it waits for room without having been refused any.
    pub(super) tidies: Option<Dice>,
    pub(super) actions: u64,
}

/// What bounds a writer's work.
#[derive(Copy, Clone, Debug)]
pub(super) struct Sizes {
    pub(super) mss: usize,
    /// Longest message that the peer can take.
    pub(super) limit: u64,
    pub(super) most: u64,
    /// Segments that the two let fly.
    pub(super) window: u64,
    /// Bytes that the smaller of the two buffers holds.
    pub(super) buffers: u64,
    /// Microseconds that a window takes, about.
    pub(super) round: u64,
}

impl App {
    pub(super) fn draw(
        dice: &mut Dice,
        stream: u64,
        message: bool,
        sizes: Sizes,
        chaos: u64,
        features: &mut Features,
    ) -> Self {
        let Sizes { mss, limit, most, window, buffers, round } = sizes;
        let total = if dice.chance(0.1) { 0 } else { dice.log(1, most.min(mss as u64 * 1500)) };
        let chunk = match dice.below(4) {
            0 if note(features, true, "tiny writes") => (0, 16),
            1 => (1, 300),
            2 => (1, mss as u64 * 2),
            _ if note(features, true, "huge writes") => (mss as u64 * 4, mss as u64 * 60),
            _ => (1, 1000),
        };
        // What goes through within a minute at the window that the two leave each other.
        let least = if message { limit } else { u64::MAX };
        let each = (mss as u64).min(chunk.1).min(buffers).min(least).max(1);
        let window = window.min(buffers / each).max(1);
        let total = total.min(chunk.1.saturating_mul(800)).min(each * window * (60_000_000 / round).max(1));
        let ending = match dice.below(4) {
            0 | 1 if note(features, true, "half close") => Ending::Shutdown,
            2 if note(features, true, "drop") => Ending::Drop,
            _ => Ending::Silence,
        };
        let appetite = match dice.below(10) {
            0 if note(features, true, "never reading") => Appetite::Never,
            1..=3 if note(features, true, "slow reader") => {
                Appetite::Slow(dice.log(1, 20_000), dice.log(100, 500_000))
            }
            _ => Appetite::Eager,
        };
        let gap = if dice.coin() { 0 } else { dice.log(100, 300_000) };
        // All is written within the chaos, or soon after.
        let gap = gap.min(chaos / (total / chunk.1.max(1) + 1));
        Self {
            stream,
            message,
            by_bytes: dice.chance(0.3),
            written: 0,
            total,
            lengths: Vec::new(),
            chunk,
            gap,
            limit,
            next_write: Some(if dice.coin() { 0 } else { dice.log(1, 1_000_000) }),
            write_blocked: false,
            blocked_whole: false,
            ending,
            shut: false,
            appetite,
            next_read: 0,
            wait_readable: true,
            seen: Witness::default(),
            eof: false,
            read_error: false,
            drained: false,
            closed_told: false,
            dropped: None,
            aborted: false,
            abort_at: dice.maybe(0.08, |dice| dice.range(0, chaos)).filter(|_| note(features, true, "abort")),
            datagram_chance: if note(features, dice.chance(0.2), "datagrams") { 0.3 } else { 0.0 },
            datagrams: 0,
            datagrams_ready: false,
            fiddles: note(features, dice.chance(0.2), "limits changed"),
            dice: Dice::new(dice.u64()),
            tidies: None,
            actions: 0,
        }
    }

    /// What it means to do, for people.
    pub(super) fn plan(&self) -> String {
        let Self { message, total, chunk, gap, limit, ending, appetite, abort_at, fiddles, .. } = self;
        format!(
            "message mode {message}, {total} bytes in writes of {chunk:?} every {gap} µs, limit {limit}, \
             then {ending:?}, reads {appetite:?}, abort at {abort_at:?}, changes limits {fiddles}"
        )
    }

    /// The reader of a session that has come in the place of another; it writes nothing.
    pub(super) fn restarted(&mut self) {
        self.total = 0;
        self.written = 0;
        self.lengths.clear();
        self.seen = Witness::default();
        (self.shut, self.eof, self.read_error, self.drained, self.closed_told) =
            (false, false, false, false, false);
        (self.write_blocked, self.wait_readable, self.aborted) = (false, true, false);
        (self.dropped, self.abort_at, self.next_write) = (None, None, None);
        self.datagrams = 0;
    }

    /// Writes so much, at once.
    pub(super) fn bulk(&mut self, total: u64) {
        (self.total, self.chunk, self.gap) = (total, (10_000, 60_000), 0);
    }

    /// A program that was started again: it writes again from the beginning.
    pub(super) fn again(&mut self, now: u64) {
        let total = self.total;
        self.restarted();
        self.total = total;
        self.next_write = Some(now);
    }

    /// The network has healed: reads, writes on, and ends in good order.
    pub(super) fn cooperate(&mut self, now: u64, session: Option<&mut Session>) {
        self.appetite = Appetite::Eager;
        self.abort_at = None;
        self.gap = 0;
        (self.fiddles, self.datagram_chance) = (false, 0.0);
        self.next_read = self.next_read.min(now);
        if self.next_write.is_some_and(|at| at > now) {
            self.next_write = Some(now);
        }
        if self.ending == Ending::Silence {
            self.ending = Ending::Shutdown;
        }
        if self.next_write.is_none() && !self.shut {
            self.next_write = Some(now);
        }
        if let Some(session) = session {
            session.limit_buffers(Held { received: usize::MAX, sent: usize::MAX });
        }
    }

    pub(super) fn on_event(&mut self, event: Event, waited_for: &mut u64) -> Check {
        if self.closed_told {
            return Err(format!("{event:?} after Closed"));
        }
        *waited_for += 1;
        match event {
            Event::Readable => self.wait_readable = false,
            Event::Writable => self.write_blocked = false,
            Event::Datagram => self.datagrams_ready = true,
            Event::Drained => {
                if !self.shut {
                    return Err("Drained without a shutdown".into());
                }
                self.drained = true;
            }
            Event::Closed(_) => self.closed_told = true,
            _ => {}
        }
        Ok(())
    }

    /// When it wants to act next, in global time.
    pub(super) fn next(&self) -> Option<u64> {
        let write = self.next_write.filter(|_| !self.write_blocked && !self.gone());
        let read = match self.appetite {
            Appetite::Never => None,
            _ if self.wait_readable || self.eof || self.read_error || self.gone() => None,
            _ => Some(self.next_read),
        };
        [write, read, self.abort_at.filter(|_| !self.gone())].into_iter().flatten().min()
    }

    pub(super) const fn gone(&self) -> bool {
        self.dropped.is_some() || self.aborted
    }

    /// Leaves when it has written, whatever comes then.
    pub(super) fn drops(&self) -> bool {
        self.ending == Ending::Drop
    }

    /// Everything was said and heard.
    pub(super) const fn is_content(&self, peer_written: u64) -> bool {
        self.shut && self.drained && self.seen.read >= peer_written
    }

    /// Does what is due.
    pub(super) fn act(
        &mut self,
        session: &mut Session,
        now: u64,
        local: Timestamp,
        peer: &Peer<'_>,
    ) -> Check {
        if self.gone() {
            return Ok(());
        }
        if self.abort_at.take_if(|at| *at <= now).is_some() && !session.is_closed() {
            session.abort();
            self.aborted = true;
            self.actions += 1;
            return Ok(());
        }
        if let Some(dice) = &mut self.tidies {
            if dice.chance(0.1) {
                session.trim();
            }
            if dice.chance(0.05) && !self.shut {
                session.want_write();
            }
        }
        self.write(session, now, local)?;
        self.read(session, now, local, peer)?;
        self.datagrams(session, peer)
    }

    fn write(&mut self, session: &mut Session, now: u64, local: Timestamp) -> Check {
        let mut burst = 0;
        while !self.write_blocked && !self.shut && self.next_write.is_some_and(|at| at <= now) {
            if self.written >= self.total {
                return self.finish(session, local);
            }
            burst += 1;
            if burst > 200 {
                self.next_write = Some(now + 1);
                break;
            }
            self.actions += 1;
            let left = self.total - self.written;
            let len = self.dice.range(self.chunk.0, self.chunk.1).min(left);
            let len = if self.message { len.min(self.limit) } else { len };
            // Empty messages are messages, but they end nothing.
            let len = if len == 0 && (!self.message || self.dice.coin()) { 1 } else { len };
            let mut data = vec![0; len as usize];
            fill(self.stream, self.written, &mut data);
            self.blocked_whole = self.message && self.dice.coin() || !self.message && self.dice.chance(0.1);
            let taken = if self.blocked_whole {
                let len = data.len();
                session.send_msg(local, Bytes::from(data)).map(|()| len)
            } else {
                session.write(local, &data)
            };
            match taken {
                Ok(n) if n as u64 > len || (n == 0 && len > 0) || (self.message && n as u64 != len) => {
                    return Err(format!("a write of {len} bytes took {n}"));
                }
                Ok(n) => {
                    self.written += n as u64;
                    if self.message {
                        self.lengths.push(n as u32);
                    }
                    if self.dice.chance(0.1) {
                        session.flush();
                    }
                    self.next_write = Some(now + self.gap);
                }
                Err(WriteError::Blocked) => self.write_blocked = true,
                Err(WriteError::TooLarge { limit }) => {
                    if limit as u64 >= len {
                        return Err(format!("{len} bytes are too large, {limit} are not"));
                    }
                    self.limit = limit as u64;
                }
                Err(WriteError::Closed(_)) => self.next_write = None,
                Err(error) => return Err(format!("write: {error}")),
            }
        }
        Ok(())
    }

    fn finish(&mut self, session: &mut Session, local: Timestamp) -> Check {
        self.next_write = None;
        match self.ending {
            Ending::Silence => {}
            Ending::Shutdown => {
                if !session.is_closed() {
                    self.actions += 1;
                    session.shutdown();
                    self.shut = true;
                    if session.write(local, b"x").is_ok() {
                        return Err("a write after the shutdown was taken".into());
                    }
                }
            }
            Ending::Drop => {
                self.actions += 1;
                self.drop_stream(session, local);
            }
        }
        Ok(())
    }

    /// As `kcp-tokio` does when a stream is dropped.
    pub(super) fn drop_stream(&mut self, session: &mut Session, local: Timestamp) {
        let linger = session.config().linger_time();
        self.dropped = Some(local);
        self.aborted |= session.is_connecting();
        if linger.is_zero() || session.is_connecting() {
            session.abort();
        } else if !session.is_closed() {
            session.orphan(local);
            self.dropped = Some(local + linger);
            self.shut = true;
        }
    }

    fn read(&mut self, session: &mut Session, now: u64, local: Timestamp, peer: &Peer<'_>) -> Check {
        if self.eof || self.read_error || self.wait_readable || self.next_read > now {
            return Ok(());
        }
        let (size, pause) = match self.appetite {
            Appetite::Never => return Ok(()),
            Appetite::Eager => (self.dice.pick(&[1 << 16, 4096, 1000]), None),
            Appetite::Slow(size, pause) => (size, Some(pause)),
        };
        let mut buf = vec![0; size as usize];
        loop {
            self.actions += 1;
            let whole = self.message && !self.by_bytes || self.dice.chance(0.05) && !self.message;
            let result = if whole {
                let expected = session.peek_len();
                session.recv_msg(local).inspect(|message| {
                    debug_assert_eq!(expected, Some(message.len()), "peek_len told another length");
                })
            } else {
                if self.dice.chance(0.02) {
                    let mut seen = vec![0; 64.min(buf.len())];
                    if let Ok(n) = session.peek(&mut seen) {
                        self.seen.peeked(&seen[..n], peer)?;
                    }
                }
                session.read(local, &mut buf).map(|n| Bytes::copy_from_slice(&buf[..n]))
            };
            match result {
                Ok(data) => self.seen.took(&data, whole && self.message, peer)?,
                Err(ReadError::Empty) => {
                    self.wait_readable = true;
                    return Ok(());
                }
                Err(ReadError::EndOfStream) => {
                    self.eof = true;
                    return self.seen.ended(session, peer);
                }
                Err(ReadError::Closed(_)) => {
                    self.read_error = true;
                    return Witness::failed(session, peer);
                }
                Err(error) => return Err(format!("read: {error}")),
            }
            if let Some(pause) = pause {
                self.next_read = now + pause;
                return Ok(());
            }
        }
    }

    fn datagrams(&mut self, session: &mut Session, peer: &Peer<'_>) -> Check {
        if std::mem::take(&mut self.datagrams_ready) {
            while let Some(data) = session.recv_datagram() {
                Witness::heard(&data, peer)?;
            }
        }
        if self.datagram_chance > 0.0 && self.dice.chance(self.datagram_chance) {
            let data = datagram(self.stream, self.datagrams);
            match session.send_datagram(data.into()) {
                Ok(()) => {
                    self.datagrams += 1;
                    self.actions += 1;
                }
                Err(DatagramError::TooLarge { limit }) if limit >= 250 => {
                    return Err(format!("an unreliable datagram is refused at limit {limit}"));
                }
                Err(_) => {}
            }
        }
        if self.fiddles && self.dice.chance(0.05) {
            let limit = Held {
                received: self.dice.log(1, 1 << 20) as usize,
                sent: self.dice.log(1, 1 << 20) as usize,
            };
            session.limit_buffers(limit);
            session.set_write_delay(self.dice.coin());
            if self.dice.chance(0.1) {
                session.probe_path();
            }
            self.actions += 1;
        }
        Ok(())
    }

    /// A task that sleeps although there is something to do will never wake up.
    pub(super) fn check_awake(&self, session: &Session) -> Check {
        if self.gone() {
            return Ok(());
        }
        if self.wait_readable && session.is_read_ready() && !self.eof && !self.read_error {
            return Err("lost wakeup: readable, and the reader was not told".into());
        }
        if self.write_blocked && !self.message && !self.blocked_whole && session.is_write_ready() {
            return Err("lost wakeup: writable, and the writer was not told".into());
        }
        if self.shut && !self.drained && session.is_drained() && !session.is_closed() {
            return Err("lost wakeup: drained, and nobody was told".into());
        }
        if session.is_closed() && !self.closed_told {
            return Err("closed, and nobody was told".into());
        }
        Ok(())
    }
}

/// Contents of unreliable datagram `id`.
pub(super) fn datagram(stream: u64, id: u32) -> Vec<u8> {
    let key = mix(stream ^ u64::from(id).rotate_left(32));
    let mut data = vec![0; 4 + (key % 200) as usize];
    fill(key, 0, &mut data);
    data[..4].copy_from_slice(&id.to_le_bytes());
    data
}
