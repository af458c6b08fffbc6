//! One end of a conversation: what it says names itself, so that whoever hears it can check it.

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, ready};
use std::time::Duration;

use kcp_tokio::{CloseReason, KcpError, KcpStream, OwnedReadHalf, OwnedWriteHalf, SessionHandle};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{sleep, timeout};

use super::socket::lock;
use super::woken::{Gate, woken};
use crate::dice::Dice;
use crate::draw::{differs, fill, mix};
use crate::stack::{LONGEST_MESSAGE, Shared, Talk};

/// What an end means to do, drawn from the conversation's number.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    total: u64,
    most: u64,
    chunk: (u64, u64),
    gap: u64,
    /// (bytes, pause) of a slow reader.
    slow: Option<(u64, u64)>,
    /// Reads only when the network has healed.
    never: bool,
    /// Drops the stream after so long, whatever is under way.
    leave: Option<Duration>,
    abort: bool,
    /// Drops the writing half instead of awaiting its shutdown.
    drop_half: bool,
    /// Drops the reading half when it has read so much.
    deaf: Option<u64>,
    /// Nobody tells the end of a stream.
    plain: bool,
    /// Then silence is told as one.
    idle_is_eof: bool,
    /// Chance that an operation is dropped at one of its first polls.
    cancel: f64,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice, later: &mut Dice, talk: &Talk, idle_is_eof: bool) -> Self {
        let Talk { calm, plain, message, mss, most } = *talk;
        let chunk = match dice.below(3) {
            0 => (1, 20),
            1 => (1, 1500),
            _ => (1, 40_000),
        };
        let chunk = if message { (1, chunk.1.min(mss * LONGEST_MESSAGE)) } else { chunk };
        let total = dice.log(1, 60_000).min(chunk.1 * 150).min(most);
        Self {
            total,
            most: most.max(1),
            chunk,
            gap: if dice.coin() { 0 } else { dice.log(1, 200) },
            slow: dice.maybe(0.2, |dice| (dice.log(50, 20_000), dice.log(1, 100))),
            never: dice.chance(0.08),
            leave: dice
                .maybe(if calm { 0.0 } else { 0.15 }, |dice| Duration::from_millis(dice.log(1, 20_000))),
            abort: dice.coin(),
            drop_half: dice.chance(0.3),
            deaf: later.maybe(0.12, |later| later.log(1, 20_000)),
            plain,
            idle_is_eof,
            cancel: if dice.coin() { 0.0 } else { dice.unit() * 0.5 },
        }
    }
}

/// What one end of a conversation has done, as its peer's checker sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// Taken for sure, and at most.
    pub(super) taken: u64,
    pub(super) written: u64,
    /// The stream was dropped in the middle of something.
    pub(super) left: bool,
    /// The end of the stream was announced, or the stream dropped.
    pub(super) shut: bool,
    pub(super) shutdown_ok: bool,
    /// Nobody reads any more: the reading half was dropped.
    pub(super) deaf: bool,
    /// So was the writing half.
    pub(super) gone: bool,
    /// The peer has acknowledged the end.
    pub(super) end_acked: bool,
    /// How many have begun to read it: more than one where a beginning has reached the server twice.
    pub(super) readers: u32,
    /// How much each reader of it got, and whether it read to the end or an error by itself.
    pub(super) read: Vec<(u64, bool)>,
}

/// An end of a conversation.
#[derive(Copy, Clone, Debug)]
pub(super) struct Whose {
    /// 0: the server.
    pub(super) who: u32,
    /// Clients have numbers, the server learns them.
    pub(super) id: Option<u64>,
    /// Takes the server's next life for the one it has dialled: upheavals before it did.
    pub(super) trusting: Option<u64>,
}

impl Whose {
    /// Whoever answers may be another than who answered first.
    fn is_deceived(&self, shared: &Shared) -> bool {
        self.trusting.is_some_and(|before| before != shared.upheavals())
    }
}

/// Conversation `id`, direction to the server or from it.
pub(super) const fn stream_of(id: u64, to_server: bool) -> u64 {
    mix(id ^ if to_server { 0x5EED } else { 0xF00D })
}

/// Byte `at` of what is said: the number of the conversation, then whatever follows from it.
fn say(id: u64, to_server: bool, at: u64, buf: &mut [u8]) {
    fill(stream_of(id, to_server), at, buf);
    for (i, byte) in buf.iter_mut().enumerate().take_while(|(i, _)| at + (*i as u64) < 8) {
        *byte = id.to_le_bytes()[(at + i as u64) as usize];
    }
}

/// Polls a future so many times; none if it was not ready by then, and is dropped.
pub(super) async fn at_most<F: Future>(polls: Option<u64>, future: F) -> Option<F::Output> {
    let Some(mut left) = polls else { return Some(future.await) };
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

fn cut(dice: &mut Dice, chance: f64) -> Option<u64> {
    dice.maybe(chance, |dice| dice.below(3))
}

/// What reader and writer of one end know.
pub(super) struct End {
    pub(super) whose: Whose,
    plan: Plan,
    pub(super) shared: Arc<Shared>,
    pub(super) session: SessionHandle,
    pub(super) conv: u32,
    /// The conversation, once it is known.
    known: Mutex<Option<u64>>,
    /// The writer's error was a reset: it is told once, and then the stream has ended, as with TCP.
    pub(super) told: AtomicBool,
    /// What the reader was told in the end, if it was.
    pub(super) ended: Mutex<Option<Result<(), ErrorKind>>>,
}

impl End {
    const fn to_server(&self) -> bool {
        self.whose.who != 0
    }

    fn known(&self) -> Option<u64> {
        *lock(&self.known)
    }
}

impl End {
    /// A half has been dropped: if the other one was before, what is unread resets the session, and what is unsent is lost.
    fn leave_unread(&self) {
        if let Some(id) = self.known().filter(|_| self.plan.drop_half) {
            let deaf = self.shared.ledger(id, !self.to_server(), |said| said.deaf);
            self.shared.ledger(id, self.to_server(), |said| said.left |= deaf && said.shut);
        }
    }

    /// One of both does not read: who writes to it may wait until it is too long.
    fn is_excused(&self) -> bool {
        let deaf = |id, to_server| self.shared.ledger(id, to_server, |said| said.deaf || said.left);
        self.known().is_some_and(|id| deaf(id, true) || deaf(id, false))
    }

    /// Writing has failed: not because the peer has dropped the half that reads, as long as it has the other.
    fn check_deafness(&self, kind: ErrorKind) {
        let Some(id) = self.known().filter(|_| self.shared.calm) else { return };
        let deaf = self.shared.ledger(id, self.to_server(), |said| said.deaf);
        let gone = self.shared.ledger(id, !self.to_server(), |said| said.gone);
        if deaf && !gone && kind != ErrorKind::TimedOut {
            self.wrong(format!("the peer has dropped its reading half alone, and a writer is told {kind:?}"));
        }
    }

    /// A read has waited for so many seconds: whether that is an end, and if so whether a natural one.
    fn is_silence_enough(&self, reader: &OwnedReadHalf, at: u64, silent: u32) -> Option<bool> {
        let (shared, who) = (&self.shared, self.whose.who);
        // The read was not woken: then there is nothing to be told, or somebody should have told it.
        match reader.try_read(&mut []) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            missed => {
                shared.broken(format!(
                    "a reader was not woken for {missed:?} at {at} (conv {}, {who})",
                    self.conv
                ));
                return Some(false);
            }
        }
        let deceived = self.whose.is_deceived(shared);
        // Two that mean different lives of each other have nothing to say, and keep each other alive.
        if silent >= 60 && deceived && shared.is_healed() {
            return Some(true);
        }
        let said = shared.ledger(self.known()?, !self.to_server(), |said| said.clone());
        if said.end_acked && said.readers == 1 && !deceived && !shared.has_restarted() {
            shared.broken(format!(
                "the end at {} was acknowledged, and a reader waits at {at} (conv {}, {who})",
                said.written, self.conv
            ));
            return Some(false);
        }
        // Plain peers, and those whose hellos were lost, do not tell the end.
        let patience = if self.plan.plain { 1 } else { 20 };
        let mute = self.plan.plain || !self.session.is_extended();
        (mute && silent >= patience && said.shut && at == said.written).then_some(true)
    }
}

/// Lives one end until it is over, by whatever reason; what is found wrong is told to `shared`.
pub(super) async fn converse(stream: KcpStream, whose: Whose, plan: Plan, shared: Arc<Shared>, seed: u64) {
    let conv = stream.conv();
    shared.note(whose.who, "talks", [u64::from(conv), stream.stats().bytes_received, 0]);
    let (leave, abort) = (plan.leave, plan.abort);
    let end = End {
        whose,
        plan,
        shared,
        session: stream.handle(),
        conv,
        known: Mutex::new(whose.id),
        told: AtomicBool::new(false),
        ended: Mutex::new(None),
    };
    let to_server = end.to_server();
    if let Some(id) = whose.id {
        end.shared.ledger(id, !to_server, |said| said.readers += 1);
    }
    *lock(&end.shared.streams).entry(whose.who).or_default() += 1;
    let (reader, writer) = stream.into_split();
    let talk = async {
        let mut reader = Some(reader);
        let heard = both(&end, &mut reader, writer, seed).await;
        if let Some(reader) = &mut reader {
            end.check_reader(reader);
        }
        heard
    };
    let (read, natural) = match leave {
        None => talk.await,
        Some(after) => match timeout(after, talk).await {
            Ok(heard) => heard,
            Err(_) => {
                if let Some(id) = end.known() {
                    end.shared.ledger(id, to_server, |said| (said.shut, said.left) = (true, true));
                }
                end.shared.note(whose.who, if abort { "left" } else { "dropped" }, [0; 3]);
                (0, false)
            }
        },
    };
    match end.known() {
        Some(id) => end.shared.ledger(id, !to_server, |said| said.read.push((read, natural))),
        None => drop(lock(&end.shared.unheard).insert(conv)),
    }
    let shared = end.shared.clone();
    drop(end);
    if let Some(streams) = lock(&shared.streams).get_mut(&whose.who) {
        *streams -= 1;
    }
}

/// Both directions until they are over; what the reader got.
async fn both(
    end: &End,
    reader: &mut Option<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    seed: u64,
) -> (u64, bool) {
    let mut read = pin!(listen(end, reader, seed ^ 1));
    // A server learns from the first bytes what it is asked.
    let mut write = pin!(async {
        let id = loop {
            let id = end.known();
            if let Some(id) = id {
                break Some(id);
            }
            if end.shared.is_over() {
                break None;
            }
            sleep(Duration::from_millis(50)).await;
        };
        match id {
            Some(id) => {
                let to_server = end.to_server();
                speak(end, writer, id, seed ^ 2).await;
                end.shared.ledger(id, to_server, |said| said.gone = true);
            }
            None => drop(writer),
        }
    });
    let (mut heard, mut said) = (None, false);
    poll_fn(|cx| {
        if heard.is_none()
            && let Poll::Ready(result) = read.as_mut().poll(cx)
        {
            heard = Some(result);
            // Who never says who it is will not be answered.
            if end.known().is_none() {
                return Poll::Ready(());
            }
        }
        if !said && write.as_mut().poll(cx).is_ready() {
            said = true;
        }
        if heard.is_some() && said { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    heard.unwrap_or((0, false))
}

async fn speak(end: &End, mut writer: OwnedWriteHalf, id: u64, seed: u64) {
    let End { whose, plan, shared, .. } = end;
    let who = whose.who;
    let mut dice = Dice::new(seed);
    let to_server = end.to_server();
    let mut at = 0;
    // A repeated beginning may reach a restarted server, which then says the same again.
    let total = 8 + if to_server { plan.total } else { mix(id) % plan.most.min(3000) };
    while at < total {
        let len = dice.range(plan.chunk.0, plan.chunk.1).max(if at == 0 { 8 } else { 1 }).min(total - at);
        let mut buf = vec![0; len as usize];
        say(id, to_server, at, &mut buf);
        // Before: what is taken may be read before this task runs again.
        shared.ledger(id, to_server, |said| said.written = said.written.max(at + len));
        let polls = cut(&mut dice, plan.cancel);
        match at_most(polls, woken(writer.write(&buf))).await {
            None => {
                shared.note(who, "write dropped", [at, 0, 0]);
                tokio::task::yield_now().await;
            }
            Some(Ok(n)) if n == 0 || n > buf.len() => {
                shared.broken(format!("a write of {len} bytes took {n}"));
                return;
            }
            Some(Ok(n)) => {
                at += n as u64;
                shared.ledger(id, to_server, |said| said.taken = said.taken.max(at));
            }
            Some(Err(error)) => {
                end.check_write_error(error.kind());
                end.check_deafness(error.kind());
                shared.failure(who, "write failed", &error, end.is_excused());
                return end.check_writer(&mut writer, false);
            }
        }
        if plan.gap > 0 && !shared.is_healed() {
            sleep(Duration::from_millis(plan.gap)).await;
        }
        if dice.chance(0.05)
            && let Err(error) = woken(writer.flush()).await
        {
            end.check_ending("a flush", Some(Err(error.kind())));
            end.check_deafness(error.kind());
            shared.failure(who, "flush failed", &error, end.is_excused());
            return end.check_writer(&mut writer, false);
        }
    }
    shared.ledger(id, to_server, |said| (said.shut, said.written) = (true, at));
    if plan.drop_half {
        end.leave_unread();
        return;
    }
    // Whoever learns later that its peer is one of ours has been told before that all was delivered.
    let tells = end.session.is_extended();
    loop {
        let polls = cut(&mut dice, plan.cancel);
        match at_most(polls, woken(writer.shutdown())).await {
            None => tokio::task::yield_now().await,
            Some(Ok(())) => {
                shared.note(who, "shutdown", [at, 0, 0]);
                // What two lives have acknowledged neither may have whole.
                let whole = !whose.is_deceived(shared);
                let acked = whole && tells;
                shared.ledger(id, to_server, |said| (said.shutdown_ok, said.end_acked) = (whole, acked));
                return end.check_writer(&mut writer, true);
            }
            Some(Err(error)) => {
                end.check_ending("a shutdown", Some(Err(error.kind())));
                end.check_deafness(error.kind());
                shared.failure(who, "shutdown failed", &error, end.is_excused());
                return end.check_writer(&mut writer, false);
            }
        }
        if dice.chance(0.5) {
            // Something else meanwhile.
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// How much was read, and whether to the end, or an error.
async fn listen(end: &End, half: &mut Option<OwnedReadHalf>, seed: u64) -> (u64, bool) {
    let End { whose, plan, shared, conv, .. } = end;
    let mut dice = Dice::new(seed);
    let who = whose.who;
    let to_server = end.to_server();
    let (mut at, mut silent) = (0u64, 0);
    let mut head = Vec::new();
    let mut buf = vec![0; 16_384];
    if plan.never && end.known().is_some() {
        shared.healed().await;
    }
    loop {
        if let Some(id) = end.known().filter(|_| plan.deaf.is_some_and(|most| at >= most)) {
            shared.note(who, "deaf", [at, 0, 0]);
            shared.ledger(id, !to_server, |said| said.deaf = true);
            end.leave_unread();
            *half = None;
        }
        let Some(reader) = half.as_mut() else { return (at, false) };
        let size = plan.slow.map_or(buf.len(), |(size, _)| (size as usize).min(16_384));
        let polls = cut(&mut dice, plan.cancel);
        // One read, however often the clock is looked at meanwhile.
        let gate = Gate::new();
        let read = loop {
            let read = poll_fn(|cx| {
                gate.poll(cx, |cx| {
                    let mut space = ReadBuf::new(&mut buf[..size]);
                    ready!(Pin::new(&mut *reader).poll_read(cx, &mut space))?;
                    Poll::Ready(Ok::<_, io::Error>(space.filled().len()))
                })
            });
            if let Ok(read) = timeout(Duration::from_secs(1), at_most(polls, read)).await {
                break read;
            }
            silent += 1;
            if let Some(natural) = end.is_silence_enough(reader, at, silent) {
                return (at, natural);
            }
        };
        let n = match read {
            None => {
                tokio::task::yield_now().await;
                continue;
            }
            Some(Ok(n)) => n,
            Some(Err(error)) => {
                if error.kind() == ErrorKind::WouldBlock {
                    shared.broken("an awaited read says WouldBlock".into());
                }
                end.check_read_error(error.kind());
                *lock(&end.ended) = Some(Err(error.kind()));
                end.check_reader(reader);
                shared.failure(who, "read failed", &error, end.is_excused());
                return (at, true);
            }
        };
        silent = 0;
        if n > 0 && whose.is_deceived(shared) {
            // Beginning and end of two lives.
            at += n as u64;
            continue;
        }
        let mut data = &buf[..n];
        if n == 0 {
            shared.note(who, "end", [at, 0, 0]);
            *lock(&end.ended) = Some(Ok(()));
            end.check_reader(reader);
            if let Some(id) = end.known() {
                let said = shared.ledger(id, !to_server, |said| said.clone());
                // Whoever did not hear who it is was dropped, which is an end.
                let dropped = lock(&shared.unheard).contains(conv);
                let unheard = at == 0 && (said.written == 0 || dropped);
                let whole = at == said.written || (said.left && at >= said.taken);
                let announced = said.shut && whole;
                let silence = plan.idle_is_eof
                    && !end.session.is_extended()
                    && end.session.close_reason() == Some(KcpError::Closed(CloseReason::IdleTimeout));
                // Two lives of a server that a beginning has reached write into one ledger, and the end of either is one.
                let twice = to_server && shared.ledger(id, true, |said| said.readers > 1);
                let excused =
                    silence || twice || end.told.load(Ordering::Relaxed) || whose.is_deceived(shared);
                if !unheard && !announced && !excused {
                    shared.broken(format!(
                        "end of stream at {at} of {} bytes, shut down: {} (conversation {id:x}, conv {conv}, {who})",
                        said.written, said.shut
                    ));
                }
            }
            // The end of one life is no end of the other.
            return (at, !whose.is_deceived(shared));
        }
        if (at as usize) < 8 {
            let take = data.len().min(8 - at as usize);
            head.extend_from_slice(&data[..take]);
            data = &data[take..];
            at += take as u64;
            if let Some(id) = head.first_chunk().map(|id| u64::from_le_bytes(*id)) {
                let known = end.known();
                if known.is_some_and(|known| known != id) || !shared.is_known(id) {
                    let expected = known.unwrap_or(0);
                    shared.broken(format!("{id:x} is no conversation (expected {expected:x}) ({who})"));
                    return (at, false);
                }
                if lock(&end.known).replace(id).is_none() {
                    shared.ledger(id, !to_server, |said| said.readers += 1);
                }
            }
        }
        if let Some(id) = end.known() {
            if let Some(wrong) = differs(stream_of(id, !to_server), at, data) {
                shared.broken(format!("byte {wrong} of conversation {id:x} is wrong (conv {conv}, {who})"));
                return (at, false);
            }
            at += data.len() as u64;
            let written = shared.ledger(id, !to_server, |said| said.written);
            if at > written {
                shared.broken(format!("{at} bytes were read, {written} written"));
                return (at, false);
            }
        }
        if let Some((_, pause)) = plan.slow
            && !shared.is_healed()
        {
            sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// An error's kind in a word.
pub(super) fn kind(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::TimedOut => "timed out",
        ErrorKind::ConnectionReset => "reset",
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::ConnectionAborted => "aborted",
        ErrorKind::BrokenPipe => "broken pipe",
        ErrorKind::NotConnected => "not connected",
        ErrorKind::UnexpectedEof => "unexpected end",
        _ => "other",
    }
}
