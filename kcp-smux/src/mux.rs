//! The state of a session: streams, budgets, what is to be sent. No IO and no clock; the driver and the streams work on it under
//! one lock.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use crate::config::{Config, Version};
use crate::error::{Error, ProtocolError};
use crate::frame::{Command, HEADER_LEN, Header, UPDATE_LEN};

/// What a peer may send before it has heard of a window.
const INITIAL_WINDOW: u32 = 256 << 10;
/// Refusals that wait to be sent; with more nothing is received.
const MAX_REFUSALS: usize = 64;
/// A frame is begun only while the buffer holds less.
const TRANSMIT: usize = 64 << 10;
/// A queue that has become empty keeps so much memory.
const KEEP: usize = 64 << 10;
/// Once this side has sent FIN, its peer learns that it still reads every so many bytes.
const PROOF: u32 = 64 << 10;

/// Which numbers a side gives its streams.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Role {
    const fn first(self) -> u32 {
        match self {
            Self::Client => 3,
            Self::Server => 2,
        }
    }
}

#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
enum Fin {
    #[default]
    None,
    /// To be sent behind the data.
    Wanted,
    Sent,
}

#[derive(Debug, Default)]
struct Entry {
    inbox: VecDeque<u8>,
    /// Bytes received, read, and read when the peer was last told; modulo 2^32.
    received: u32,
    consumed: u32,
    announced: u32,
    /// An update waits in `control`.
    update: bool,
    fin_received: bool,
    reader: Option<Waker>,

    outbox: VecDeque<u8>,
    /// Bytes sent, and read by the peer; modulo 2^32, the first never more than 2^31 - 1 ahead.
    sent: u32,
    peer_consumed: u32,
    peer_window: u32,
    fin: Fin,
    writer: Option<Waker>,
    /// It waits in `ready`.
    ready: bool,

    /// Nobody holds the stream: what was written still leaves.
    detached: bool,
    /// `sent`, when a sweep found it detached and stuck.
    stuck: Option<u32>,
}

impl Entry {
    fn new() -> Self {
        Self { peer_window: INITIAL_WINDOW, ..Self::default() }
    }

    /// Bytes that the next frame may have.
    fn sendable(&self, config: &Config) -> usize {
        let len = self.outbox.len().min(config.max_frame);
        match config.version {
            Version::V1 => len,
            Version::V2 => {
                let in_flight = self.sent.wrapping_sub(self.peer_consumed);
                len.min(self.peer_window.saturating_sub(in_flight) as usize)
            }
        }
    }

    fn has_work(&self, config: &Config) -> bool {
        self.sendable(config) > 0 || (self.outbox.is_empty() && self.fin == Fin::Wanted)
    }
}

#[derive(Copy, Clone, Debug)]
enum Control {
    Syn(u32),
    Update(u32),
    Nop,
}

/// Payload of which not everything has come.
#[derive(Copy, Clone, Debug)]
struct Partial {
    stream: u32,
    left: usize,
}

#[derive(Debug)]
pub(crate) struct Mux {
    config: Config,
    role: Role,
    next: Option<u32>,
    streams: HashMap<u32, Entry>,
    backlog: VecDeque<u32>,
    /// Sum of all inboxes.
    held: usize,
    partial: Option<Partial>,

    control: VecDeque<Control>,
    nop: bool,
    refusals: VecDeque<u32>,
    ready: VecDeque<u32>,

    pub(crate) driver: Option<Waker>,
    acceptors: Vec<Waker>,
    closers: Vec<Waker>,
    /// No new streams, no new data; what is queued leaves.
    closing: bool,
    /// No handle of the session is left.
    abandoned: bool,
    end: Option<Error>,
}

impl Mux {
    pub(crate) fn new(config: Config, role: Role) -> Self {
        Self {
            config,
            role,
            next: Some(role.first()),
            streams: HashMap::new(),
            backlog: VecDeque::new(),
            held: 0,
            partial: None,
            control: VecDeque::new(),
            nop: false,
            refusals: VecDeque::new(),
            ready: VecDeque::new(),
            driver: None,
            acceptors: Vec::new(),
            closers: Vec::new(),
            closing: false,
            abandoned: false,
            end: None,
        }
    }

    pub(crate) const fn end(&self) -> Option<&Error> {
        self.end.as_ref()
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    // What the session's handles do.

    pub(crate) fn open(&mut self) -> Result<u32, Error> {
        self.check_open()?;
        if self.streams.len() >= self.config.max_streams {
            return Err(Error::TooManyStreams);
        }
        let id = self.next.ok_or(Error::GoAway)?;
        self.next = id.checked_add(2);
        self.streams.insert(id, Entry::new());
        self.control.push_back(Control::Syn(id));
        Ok(id)
    }

    fn check_open(&self) -> Result<(), Error> {
        match &self.end {
            Some(error) => Err(error.clone()),
            None if self.closing => Err(Error::Closed),
            None => Ok(()),
        }
    }

    pub(crate) fn poll_accept(&mut self, cx: &Context<'_>) -> Poll<Result<u32, Error>> {
        if let Some(id) = self.backlog.pop_front() {
            return Poll::Ready(Ok(id));
        }
        if let Err(error) = self.check_open() {
            return Poll::Ready(Err(error));
        }
        register(&mut self.acceptors, cx);
        Poll::Pending
    }

    pub(crate) fn poll_closed(&mut self, cx: &Context<'_>) -> Poll<Error> {
        if let Some(error) = &self.end {
            return Poll::Ready(error.clone());
        }
        register(&mut self.closers, cx);
        Poll::Pending
    }

    pub(crate) fn close(&mut self, wakes: &mut Vec<Waker>) {
        self.closing = true;
        wakes.append(&mut self.acceptors);
        for entry in self.streams.values_mut() {
            wakes.extend(entry.writer.take());
        }
        wakes.extend(self.driver.take());
    }

    /// The last handle is gone: whoever opens streams finds nobody.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
        while let Some(id) = self.backlog.pop_front() {
            self.detach(id);
        }
    }

    // What streams do.

    pub(crate) fn poll_read(
        &mut self,
        id: u32,
        cx: &Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let Some(entry) = self.streams.get_mut(&id) else { return Poll::Ready(Err(Error::Closed)) };
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if entry.inbox.is_empty() {
            if entry.fin_received {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = &self.end {
                return Poll::Ready(Err(error.clone()));
            }
            entry.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut n = 0;
        let (head, tail) = entry.inbox.as_slices();
        for part in [head, tail] {
            let part = &part[..part.len().min(buf.remaining())];
            buf.put_slice(part);
            n += part.len();
        }
        take(&mut entry.inbox, n);
        self.held -= n;
        let first = entry.consumed == 0;
        entry.consumed = entry.consumed.wrapping_add(n as u32);
        if self.config.version == Version::V2 && !entry.fin_received && !entry.update && self.end.is_none() {
            let half = self.config.stream_buffer as u32 / 2;
            let every = if entry.fin == Fin::None { half } else { half.min(PROOF) };
            if first || entry.consumed.wrapping_sub(entry.announced) >= every {
                entry.update = true;
                self.control.push_back(Control::Update(id));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the driver has something to send.
    pub(crate) fn has_output(&self) -> bool {
        !(self.control.is_empty() && self.refusals.is_empty() && self.ready.is_empty())
    }

    pub(crate) fn poll_write(&mut self, id: u32, cx: &Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Err(error) = self.check_open() {
            return Poll::Ready(Err(error.into()));
        }
        let Some(entry) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if entry.fin != Fin::None {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = buf.len().min(self.config.send_buffer.saturating_sub(entry.outbox.len()));
        if n == 0 && !buf.is_empty() {
            entry.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        entry.outbox.extend(&buf[..n]);
        self.mark(id);
        Poll::Ready(Ok(n))
    }

    /// FIN follows what was written.
    pub(crate) fn shutdown(&mut self, id: u32) -> Result<(), Error> {
        if let Some(error) = &self.end {
            return Err(error.clone());
        }
        if let Some(entry) = self.streams.get_mut(&id)
            && entry.fin == Fin::None
        {
            entry.fin = Fin::Wanted;
            self.mark(id);
        }
        Ok(())
    }

    /// Nobody holds the stream any more.
    pub(crate) fn detach(&mut self, id: u32) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        self.held -= entry.inbox.len();
        entry.inbox = VecDeque::new();
        (entry.reader, entry.writer) = (None, None);
        entry.detached = true;
        if entry.fin == Fin::Sent || self.end.is_some() {
            self.streams.remove(&id);
            return;
        }
        entry.fin = Fin::Wanted;
        self.mark(id);
    }

    pub(crate) fn peer_consumed(&self, id: u32) -> u32 {
        self.streams.get(&id).map_or(0, |entry| entry.peer_consumed)
    }

    pub(crate) fn peer_finished(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(|entry| entry.fin_received)
    }

    /// Gives the stream its turn if it has something to send.
    fn mark(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id)
            && !entry.ready
            && entry.has_work(&self.config)
        {
            entry.ready = true;
            self.ready.push_back(id);
        }
    }

    // What the driver does.

    /// Whether anything is taken from the connection now.
    pub(crate) fn can_receive(&self) -> bool {
        self.held < self.config.receive_buffer && self.refusals.len() < MAX_REFUSALS
    }

    /// Whether the peer is silent because this side does not listen.
    pub(crate) const fn is_full(&self) -> bool {
        self.held >= self.config.receive_buffer
    }

    /// Takes received bytes, and returns how many: fewer if a header is not complete or a budget is used up.
    pub(crate) fn receive(&mut self, bytes: &[u8], wakes: &mut Vec<Waker>) -> Result<usize, ProtocolError> {
        let mut rest = bytes;
        while self.can_receive() {
            if let Some(partial) = self.partial {
                let n = partial.left.min(rest.len()).min(self.config.receive_buffer - self.held);
                if n == 0 {
                    break;
                }
                let (payload, tail) = rest.split_at(n);
                self.deliver(partial.stream, payload, wakes);
                rest = tail;
                let left = partial.left - n;
                self.partial = (left > 0).then_some(Partial { left, ..partial });
                continue;
            }
            let Some((header, tail)) = rest.split_first_chunk::<HEADER_LEN>() else { break };
            let Header { command, len, stream, .. } = Header::decode(self.config.version, header)?;
            match command {
                Command::Nop => {}
                Command::Syn => self.begin(stream, wakes)?,
                Command::Fin => {
                    if let Some(entry) = self.streams.get_mut(&stream) {
                        entry.fin_received = true;
                        wakes.extend(entry.reader.take());
                    }
                }
                Command::Push => {
                    self.charge(stream, len)?;
                    if len > 0 {
                        self.partial = Some(Partial { stream, left: len.into() });
                    }
                }
                Command::Update => {
                    let Some((payload, tail)) = tail.split_first_chunk::<UPDATE_LEN>() else { break };
                    let [c0, c1, c2, c3, w0, w1, w2, w3] = *payload;
                    let (consumed, window) = ([c0, c1, c2, c3], [w0, w1, w2, w3]);
                    self.update(stream, u32::from_le_bytes(consumed), u32::from_le_bytes(window))?;
                    rest = tail;
                    continue;
                }
            }
            rest = tail;
        }
        Ok(bytes.len() - rest.len())
    }

    fn begin(&mut self, id: u32, wakes: &mut Vec<Waker>) -> Result<(), ProtocolError> {
        if id % 2 == self.role.first() % 2 {
            return Err(ProtocolError::StreamId(id));
        }
        if self.streams.contains_key(&id) {
            return Ok(());
        }
        let full =
            self.streams.len() >= self.config.max_streams || self.backlog.len() >= self.config.accept_backlog;
        if full || self.closing || self.abandoned {
            self.refusals.push_back(id);
        } else {
            self.streams.insert(id, Entry::new());
            self.backlog.push_back(id);
            wakes.append(&mut self.acceptors);
        }
        Ok(())
    }

    /// Holds the peer to the window of the stream.
    fn charge(&mut self, id: u32, len: u16) -> Result<(), ProtocolError> {
        let Some(entry) = self.streams.get_mut(&id).filter(|entry| !entry.detached) else { return Ok(()) };
        entry.received = entry.received.wrapping_add(len.into());
        let window = INITIAL_WINDOW.max(self.config.stream_buffer as u32);
        let v2 = self.config.version == Version::V2;
        if v2 && entry.received.wrapping_sub(entry.announced) > window {
            return Err(ProtocolError::Window(id));
        }
        Ok(())
    }

    fn deliver(&mut self, id: u32, payload: &[u8], wakes: &mut Vec<Waker>) {
        // What comes after the end, or for nobody, is thrown away.
        if let Some(entry) = self.streams.get_mut(&id)
            && !entry.detached
            && !entry.fin_received
        {
            entry.inbox.extend(payload);
            self.held += payload.len();
            wakes.extend(entry.reader.take());
        }
    }

    fn update(&mut self, id: u32, consumed: u32, window: u32) -> Result<(), ProtocolError> {
        let Some(entry) = self.streams.get_mut(&id) else { return Ok(()) };
        if entry.sent.wrapping_sub(consumed) > i32::MAX as u32 {
            return Err(ProtocolError::Consumed(id));
        }
        entry.peer_consumed = consumed;
        entry.peer_window = window.min(i32::MAX as u32);
        self.mark(id);
        Ok(())
    }

    /// Adds a sign of life to what is to be sent.
    pub(crate) fn ping(&mut self) {
        if !self.nop {
            self.nop = true;
            self.control.push_back(Control::Nop);
        }
    }

    /// Adds frames to `out` until it holds enough: control first, then a frame of each stream in turn.
    pub(crate) fn transmit(&mut self, out: &mut Vec<u8>, wakes: &mut Vec<Waker>) {
        let version = self.config.version;
        let header =
            |command, len: usize, stream| Header { version, command, len: len as u16, stream }.encode();
        while out.len() < TRANSMIT {
            if let Some(id) = self.refusals.pop_front() {
                out.extend_from_slice(&header(Command::Fin, 0, id));
                continue;
            }
            if let Some(control) = self.control.pop_front() {
                match control {
                    Control::Syn(id) => out.extend_from_slice(&header(Command::Syn, 0, id)),
                    Control::Nop => {
                        self.nop = false;
                        out.extend_from_slice(&header(Command::Nop, 0, 0));
                    }
                    Control::Update(id) => {
                        let Some(entry) = self.streams.get_mut(&id) else { continue };
                        entry.update = false;
                        entry.announced = entry.consumed;
                        out.extend_from_slice(&header(Command::Update, UPDATE_LEN, id));
                        out.extend_from_slice(&entry.consumed.to_le_bytes());
                        out.extend_from_slice(&(self.config.stream_buffer as u32).to_le_bytes());
                    }
                }
                continue;
            }
            let Some(id) = self.ready.pop_front() else { break };
            let Some(entry) = self.streams.get_mut(&id) else { continue };
            entry.ready = false;
            let n = entry.sendable(&self.config);
            if n > 0 {
                out.extend_from_slice(&header(Command::Push, n, id));
                let (head, tail) = entry.outbox.as_slices();
                let head = &head[..n.min(head.len())];
                out.extend_from_slice(head);
                out.extend_from_slice(&tail[..n - head.len()]);
                take(&mut entry.outbox, n);
                entry.sent = entry.sent.wrapping_add(n as u32);
                if entry.outbox.len() <= self.config.send_buffer / 2 {
                    wakes.extend(entry.writer.take());
                }
            }
            if entry.outbox.is_empty() && entry.fin == Fin::Wanted {
                out.extend_from_slice(&header(Command::Fin, 0, id));
                entry.fin = Fin::Sent;
                if entry.detached {
                    self.streams.remove(&id);
                    continue;
                }
            }
            self.mark(id);
        }
    }

    /// Nothing will ever be sent again.
    pub(crate) fn is_finished(&self) -> bool {
        (self.closing || (self.abandoned && self.streams.is_empty())) && !self.has_output()
    }

    /// Gives up streams that nobody holds and that did not get on since the last sweep, because the peer does not read.
    pub(crate) fn sweep(&mut self) {
        let mut given_up = Vec::new();
        for (&id, entry) in &mut self.streams {
            if !entry.detached || entry.has_work(&self.config) {
                entry.stuck = None;
            } else if entry.stuck == Some(entry.sent) {
                entry.outbox.clear();
                given_up.push(id);
            } else {
                entry.stuck = Some(entry.sent);
            }
        }
        for id in given_up {
            self.mark(id);
        }
    }

    /// Ends everything; what was received can still be read.
    pub(crate) fn finish(&mut self, error: Error, wakes: &mut Vec<Waker>) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(error);
        self.control = VecDeque::new();
        self.refusals = VecDeque::new();
        self.ready = VecDeque::new();
        self.streams.retain(|_, entry| {
            entry.outbox = VecDeque::new();
            wakes.extend(entry.reader.take());
            wakes.extend(entry.writer.take());
            !entry.detached
        });
        wakes.append(&mut self.acceptors);
        wakes.append(&mut self.closers);
    }
}

/// Several tasks may wait for the same.
fn register(wakers: &mut Vec<Waker>, cx: &Context<'_>) {
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}

/// Removes the first bytes; an empty queue starts at its beginning again and gives back much memory.
fn take(queue: &mut VecDeque<u8>, n: usize) {
    if n < queue.len() {
        queue.drain(..n);
    } else if queue.capacity() > KEEP {
        *queue = VecDeque::new();
    } else {
        queue.clear();
    }
}
