//! The core's world: pairs of sessions on a shared path, driven as a driver of a socket would, with explicit time.

mod app;
mod byzantine;
mod witness;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kcp_core::admission::{Epitaph, Opening, answer_for, first_segment};
use kcp_core::wire::{Command, HEADER_LEN, Segments};
use kcp_core::{CloseReason, Framing, InputError, Seed, Seq, Session, SessionConfig, Timestamp};
use kcp_netsim::{Link, LinkConfig};

use crate::dice::Dice;
use crate::draw::{self, Drawn, Features, healed, ms, note};
use crate::trace::{Trace, command, word};
use app::{App, Appetite, Sizes};
use byzantine::{Byzantine, Seen};
use witness::Peer;

/// What broke, if something did.
pub(crate) type Check = Result<(), String>;

/// In global microseconds from the healing: by then everything has finished or failed.
const CONVERGENCE: u64 = 240_000_000;
/// Afterwards, as long as so much time each brings something to an end that may answer with three times of it only.
const PATIENCE: u64 = 60_000_000;
/// What has arrived is acknowledged after so long at the latest, and two intervals.
const ACKNOWLEDGED: u64 = 200_000;
/// From then on what the bad network has left behind, long timeouts above all, is over.
const RECOVERY: u64 = 5_000_000;
/// After forged resets none is believed for so long.
const DEAF: u64 = 10_500_000;
/// After everybody has gone, nothing may be left to do.
const SERVICES_PER_MS: u32 = 1000;
/// Answers to a hello that are due within a second (after 200, 300, 450 ms), and as many ends of a stream.
const UNANSWERED: u32 = 8;
/// As in `kcp-tokio`.
const HALF_OPEN: Duration = ms(10_000);

/// Whose a datagram is.
#[derive(Copy, Clone, Debug)]
struct Label {
    /// The pair's.
    id: u32,
    /// Which life of the end that sent it.
    life: u64,
    from: u32,
    to: u32,
}

/// The local clock of an end: it starts anywhere, runs too fast or slow, and jumps.
#[derive(Debug)]
struct Clock {
    since: u64,
    base: u64,
    /// Thousandths of the true rate.
    rate: u64,
}

impl Clock {
    const fn local(&self, now: u64) -> Timestamp {
        Timestamp::from_micros(self.base + (now - self.since) * self.rate / 1000)
    }

    /// When the local clock shows at least `at`.
    const fn global(&self, at: Timestamp) -> u64 {
        self.since + (at.as_micros().saturating_sub(self.base).saturating_mul(1000)).div_ceil(self.rate)
    }

    const fn jump(&mut self, now: u64, by: i64) {
        self.base = self.local(now).as_micros().saturating_add_signed(by);
        self.since = now;
    }
}

/// What an end may send, as what it has heard allows.
#[derive(Copy, Clone, Debug)]
struct Allowed {
    /// The latest `una`, and the window told with it.
    una: Seq,
    window: u32,
    /// What is sent next for the first time.
    next: Seq,
}

impl Allowed {
    /// Nothing is known yet: `IKCP_WND_RCV`.
    const fn new(first: u32) -> Self {
        Self { una: Seq::new(first), window: 128, next: Seq::new(first) }
    }

    /// `validated`: whether the peer's address is proven, at the latest by this datagram, before anything of it counts.
    fn hear(&mut self, datagram: &[u8], conv: u32, validated: bool) {
        let Ok(segments) = Segments::parse(datagram, conv) else { return };
        for (header, _) in segments {
            if header.una.is_before(self.una) {
                continue;
            }
            self.window = header.wnd.into();
            // From an address that is not proven nothing is acknowledged.
            if validated {
                self.una = header.una;
            }
        }
    }

    fn send(&mut self, sn: Seq) -> Check {
        if sn.is_before(self.next) {
            return Ok(());
        }
        if sn != self.next {
            return Err(format!("{} was sent before {}", sn.value(), self.next.value()));
        }
        self.next = sn.next();
        let Self { una, window, .. } = *self;
        if i64::from(sn.since(una)) >= i64::from(window) {
            return Err(format!("{} was sent into a window of {window} from {}", sn.value(), una.value()));
        }
        Ok(())
    }
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Role {
    Dials,
    DialsLazily,
    /// Of a peer whose address cannot be forged: no hello.
    Established,
    /// Comes to be with the first datagram.
    Listens,
}

#[derive(Debug)]
struct End {
    who: u32,
    config: Arc<SessionConfig>,
    drawn: Drawn,
    role: Role,
    /// Where its sequence begins, and its peer's.
    first: [u32; 2],
    allowed: Allowed,
    /// Where the clock on the wire begins, if not anywhere.
    ts_offset: Option<u32>,
    trusted: bool,
    /// Lets its application answer before it answers by itself.
    holds: bool,
    /// The life of the peer that answered the hello, and the first that was heard.
    peer_life: Option<u64>,
    heard_life: Option<u64>,
    /// What has arrived and was not acknowledged, and since when.
    owed: Option<(Seq, u64)>,
    /// What was acknowledged of what is in flight (bytes, and the peer's `una`), and since when nothing more, by its own clock.
    stuck_since: Option<((u64, Seq), Timestamp)>,
    session: Option<Session>,
    /// Of the session that has ended here.
    epitaph: Option<Epitaph>,
    byzantine: Option<Byzantine>,
    clock: Clock,
    /// So many microseconds.
    set_back: u64,
    stalled_until: u64,
    /// Where datagrams reach it, and where it sends.
    addr: u32,
    peer_addr: u32,
    inbox: Vec<(Label, Vec<u8>)>,
    app: App,
    /// Opened by a plain probe.
    probed: bool,
    accepted: bool,
    half_open_until: Option<Timestamp>,
    /// Bytes until the peer's address is proven.
    bytes: (u64, u64),
    incarnation: u64,
    extended: bool,
    /// Was told that its end was heard by a peer that can hear it.
    told: bool,
    lost_data: Option<bool>,
    /// What it had received when it was killed.
    taken: u64,
    closed_at: Option<u64>,
    heard_at: u64,
    /// Timers in a row that have fired for nothing; from an address that is not proven, since when, in seconds.
    idle_wakeups: (u64, u32),
    services: (u64, u32),
    next: Option<u64>,
    buf: Vec<u8>,
}

#[derive(Debug)]
struct Pair {
    conv: u32,
    ends: [End; 2],
    /// Nobody meddles with bytes.
    trusted: bool,
    restarted: bool,
    seed: u64,
    past: Option<Past>,
    /// When the network had been well for long enough, both ends were there, and nothing has spoiled it since.
    hopeful: bool,
}

/// The first life of a second end that was started again.
#[derive(Debug)]
struct Past {
    written: u64,
    lengths: Vec<u32>,
    datagrams: u32,
    shut: bool,
    received: u64,
    /// The first end had heard who it was: it can tell what came after it.
    known: bool,
}

#[derive(Copy, Clone, Debug)]
enum Event {
    /// Of one direction, or both.
    Partition(u8, bool),
    Stall(u32, u64),
    /// Forward; back, which no source of time should do, and which must do no more harm than to delay.
    Jump(u32, i64),
    Restart(u32),
    /// Killed without a word; whatever has its address then knows nothing of the conversation.
    Die(u32),
    /// Killed, and begins anew with the same conversation, at another address or not.
    Again(u32, bool),
    /// Its datagrams come from another address from now on, which it notices or not.
    Move(u32, bool),
    /// By somebody who does not know the conversation.
    Attack(u32),
    /// By somebody who does.
    Inject(u32),
    /// By somebody who reads what is sent, too.
    Meddle(u32),
    Link(usize),
    /// What is longer vanishes, in one direction or both; none: as before.
    Narrow(u8, Option<usize>),
    Heal,
    Blackout,
}

impl Pair {
    /// Sequence numbers, and milliseconds on the wire, that wrap while something happens.
    fn draw_wraps(&mut self, dice: &mut Dice, features: &mut Features) {
        if note(features, dice.chance(0.3), "sn wraps") {
            let first = [0, 1].map(|_| dice.pick(&[0u32, 1 << 31]).wrapping_sub(dice.log(1, 1000) as u32));
            for (side, end) in self.ends.iter_mut().enumerate() {
                end.first = [first[side], first[1 - side]];
                end.allowed = Allowed::new(first[side]);
            }
        }
        self.ends.iter_mut().for_each(|end| end.trusted = self.trusted);
        if note(features, dice.chance(0.3), "ts wraps") {
            for end in &mut self.ends {
                let local = (end.clock.base / 1000) as u32;
                let wrap = dice.pick(&[0u32, 1 << 31]);
                end.ts_offset = Some(wrap.wrapping_sub(local).wrapping_sub(dice.log(1, 60_000) as u32));
            }
        }
    }

    /// More than any window or pacing lets fly at once: what small transfers never reach.
    fn draw_bulk(&mut self, dice: &mut Dice, features: &mut Features) {
        let total = dice.range(1_000_000, 5_000_000);
        let window = dice.range(512, 4096) as u32;
        let nc = dice.chance(0.8);
        let stream = self.ends.iter().all(|end| end.byzantine.is_none() && end.config.is_stream());
        if !dice.chance(0.015) || !note(features, stream, "bulk") {
            return;
        }
        for end in &mut self.ends {
            end.drawn.bulk(window, nc);
            end.config = Arc::new(end.drawn.config.clone());
        }
        self.ends[dice.below(2) as usize].app.bulk(total);
    }

    /// Whether from now on nothing but success will do.
    fn hope(&mut self) {
        let well = |end: &End| {
            let Some(session) = end.session.as_ref().filter(|session| !session.is_closed()) else {
                return false;
            };
            // Until its peer's address is proven it may lack what it takes to answer.
            let stats = session.stats();
            let slow = stats.in_flight > 0 && (end.drawn.doubles || micros(stats.rto) > RECOVERY);
            let able = !session.is_connecting() && session.is_validated() && !slow;
            able && end.accepted && !end.drawn.odd_timeouts && !end.app.gone()
        };
        self.hopeful = self.trusted && !self.restarted && !self.is_severed() && self.ends.iter().all(well);
    }

    /// Where nothing can excuse it, whether all was said and heard.
    fn check_hope(&self) -> Check {
        if !self.hopeful {
            return Ok(());
        }
        for side in 0..2 {
            let (end, peer) = (&self.ends[side], &self.ends[1 - side]);
            let reason = end.session.as_ref().and_then(Session::close_reason);
            if end.app.drops() || peer.app.drops() {
                continue;
            }
            let whole = end.app.seen.read == peer.app.total && peer.app.written == peer.app.total;
            let ended = end.app.eof && reason == Some(CloseReason::Finished);
            if !whole || (end.extended && !ended) {
                return Err(format!(
                    "the network was well, but read {} of {}, end {}: {} ({})",
                    end.app.seen.read,
                    peer.app.total,
                    end.app.eof,
                    reason_name(reason),
                    end.who
                ));
            }
        }
        Ok(())
    }

    /// Of what the end at `side` says now.
    const fn label(&self, id: u32, side: usize) -> Label {
        let [a, b] = &self.ends;
        if side == 0 { a.label(id) } else { b.label(id) }
    }

    /// Whoever dials, or needs no asking, is there.
    fn begin(&mut self) {
        let (conv, seed) = (self.conv, self.seed);
        for (side, end) in self.ends.iter_mut().enumerate().filter(|(_, end)| end.byzantine.is_none()) {
            end.begin(conv, draw::mix(seed ^ (side as u64) << 8), 0);
        }
    }

    /// Somebody does what plain KCP cannot know: from now on only bounds are checked.
    fn distrust(&mut self) {
        (self.trusted, self.hopeful) = (false, false);
        self.ends.iter_mut().for_each(|end| end.trusted = false);
    }

    /// The second end sends where the first is no longer, or where it has not been heard yet.
    fn is_severed(&self) -> bool {
        let [a, b] = &self.ends;
        b.session.is_some() && b.peer_addr != a.addr
    }

    /// Who says something by itself is found wherever it is, if both can tell, and hears that its peer is gone. `well`: how long
    /// nothing has been in the way.
    fn check_found(&self, well: u64) -> Check {
        let open = |end: &End| {
            let session = end.session.as_ref().filter(|session| !session.is_closed());
            session.is_some_and(|session| session.is_extended() && !session.is_connecting())
        };
        let [a, b] = &self.ends;
        // One that was with another life of the server cannot prove itself to this.
        let both = self.trusted && !self.restarted && open(a) && open(b);
        // Who is to find it asks an address again when its own clock has caught up.
        if both && self.is_severed() && a.asked(well, b.set_back) {
            return Err(format!("has moved, and was not found ({})", a.who));
        }
        for (end, peer) in [(a, b), (b, a)] {
            let gone = peer.session.is_none() && peer.byzantine.is_none();
            let proven = open(end) && end.session.as_ref().is_some_and(Session::is_validated);
            if self.trusted && !self.is_severed() && gone && proven && end.asked(well, DEAF) {
                return Err(format!("its peer was killed, and it does not know ({})", end.who));
            }
        }
        Ok(())
    }
}

struct Sim<'a> {
    now: u64,
    dice: Dice,
    trace: &'a mut Trace,
    pairs: Vec<Pair>,
    /// For what was thought of later.
    later: Dice,
    links: [Link<(Label, Vec<u8>)>; 2],
    plans: [LinkConfig; 2],
    /// As they are now, but for what is too long now.
    paths: [LinkConfig; 2],
    narrow: [Option<usize>; 2],
    schedule: VecDeque<(u64, Event)>,
    healed_at: Option<u64>,
    /// When nothing that the bad network has left behind can excuse anything any more.
    well_at: Option<u64>,
    well_since: u64,
    dark_at: Option<u64>,
    /// Nothing is wrong with network, clocks and executors.
    calm: bool,
}

pub(crate) fn run(seed: u64, trace: &mut Trace, features: &mut Features) -> Result<u64, String> {
    Sim::draw(seed, trace, features).run()
}

impl<'a> Sim<'a> {
    fn draw(seed: u64, trace: &'a mut Trace, features: &mut Features) -> Self {
        let mut dice = Dice::new(seed);
        let calm = note(features, dice.chance(0.08), "calm");
        let raw = dice.chance(0.1) && !calm;
        let chaos = dice.log(100_000, 60_000_000);
        let plans = if calm {
            let delay = Duration::from_micros(dice.log(50, 100_000));
            let link = LinkConfig { delay, ..LinkConfig::ideal() };
            [link.clone(), link]
        } else if dice.coin() {
            let link = draw::link(&mut dice, raw, features);
            [link.clone(), link]
        } else {
            [draw::link(&mut dice, raw, features), draw::link(&mut dice, raw, features)]
        };
        let count = dice.pick(&[1, 1, 1, 2, 3]);
        note(features, count > 1, "shared path");
        let mut schedule = Vec::new();
        let mut pairs = Vec::new();
        // What was thought of later has dice of its own: seeds of before mean what they meant, where it changes nothing.
        let mut more = Dice::new(draw::mix(seed) ^ 0x0DD5);
        let mut newest = Dice::new(draw::mix(seed) ^ 0x401D);
        let mut options = Dice::new(draw::mix(seed) ^ 0x09E5);
        let mut upheavals = Dice::new(draw::mix(seed) ^ 0x0B11);
        for id in 0..count {
            let mut pair = Self::draw_pair(&mut dice, id, chaos, calm, raw, features);
            for end in &mut pair.ends {
                end.drawn.more(&mut options, features);
                end.config = Arc::new(end.drawn.config.clone());
            }
            if !calm {
                Self::draw_faults(&mut dice, &pair, id, chaos, features, &mut schedule);
                Self::draw_restarts(&mut more, &pair, id, chaos, features, &mut schedule);
            }
            if !calm {
                Self::draw_upheavals(&mut upheavals, &pair, id, chaos, features, &mut schedule);
            }
            pair.draw_bulk(&mut options, features);
            for end in &mut pair.ends {
                let tidies = note(features, options.chance(0.2), "memory given back");
                end.app.tidies = tidies.then(|| Dice::new(options.u64()));
            }
            pair.draw_wraps(&mut more, features);
            for end in &mut pair.ends {
                end.holds = note(features, newest.coin(), "held answers");
            }
            pair.begin();
            for end in &pair.ends {
                trace.tell(|| format!("{}: {:?} {:?}\n   {}", end.who, end.role, end.config, end.app.plan()));
            }
            pairs.push(pair);
        }
        if !calm && note(features, dice.chance(0.3), "partitions") {
            for _ in 0..dice.range(1, 5) {
                let (at, way) = (dice.below(chaos), dice.below(3) as u8);
                schedule.push((at, Event::Partition(way, true)));
                schedule.push((at + dice.log(1000, 40_000_000), Event::Partition(way, false)));
            }
        }
        if !calm && note(features, dice.chance(0.2), "path changes") {
            for _ in 0..dice.range(1, 4) {
                schedule.push((dice.below(chaos), Event::Link(dice.below(2) as usize)));
            }
        }
        if !calm {
            let longest = pairs.iter().flat_map(|pair| &pair.ends).map(|end| end.config.mtu_bytes()).max();
            Self::draw_narrows(&mut upheavals, longest.unwrap_or(0), chaos, features, &mut schedule);
        }
        let dark = !calm && note(features, dice.chance(0.15), "blackout");
        schedule.retain(|&(at, _)| at < chaos);
        schedule.push((chaos, if dark { Event::Blackout } else { Event::Heal }));
        schedule.sort_by_key(|&(at, _)| at);
        let links = [Link::new(plans[0].clone(), dice.u64()), Link::new(plans[1].clone(), dice.u64())];
        Self {
            now: 0,
            dice,
            trace,
            pairs,
            later: Dice::new(draw::mix(seed) ^ 0x1A7E),
            links,
            paths: plans.clone(),
            plans,
            narrow: [None; 2],
            schedule: schedule.into(),
            healed_at: None,
            well_at: None,
            well_since: 0,
            dark_at: None,
            calm,
        }
    }

    fn draw_pair(
        dice: &mut Dice,
        id: u32,
        chaos: u64,
        calm: bool,
        raw: bool,
        features: &mut Features,
    ) -> Pair {
        let message = note(features, dice.chance(0.35), "message mode");
        let mut configs = [0, 1].map(|_| draw::session(dice, !message, features));
        if message {
            for drawn in &mut configs {
                drawn.config = drawn.config.clone().recv_window(drawn.config.recv_window_segments().max(2));
            }
        }
        if note(features, dice.chance(0.25), "plain peer") {
            let who = dice.below(3) as usize;
            for (side, config) in configs.iter_mut().enumerate() {
                if who == side || who == 2 {
                    config.config = config.config.clone().extensions(false);
                }
            }
        }
        let roles = match dice.below(6) {
            0 => [Role::Established, Role::Established],
            1 => [Role::Established, Role::Listens],
            2 if note(features, true, "lazy connect") => [Role::DialsLazily, Role::Listens],
            _ => [Role::Dials, Role::Listens],
        };
        let byzantine = !calm && note(features, dice.chance(0.08), "byzantine peer");
        let byzantine = byzantine.then(|| dice.below(2) as usize);
        let conv = (dice.u64() as u32).max(1);
        let seed = dice.u64();
        let most = if dice.chance(0.02) && note(features, true, "much data") { 2_000_000 } else { 150_000 };
        let skewed = !calm && note(features, dice.chance(0.3), "clock skew");
        let mut ends = [0, 1].map(|side| {
            let (config, peer) = (&configs[side], &configs[1 - side]);
            // A message that the peer's window or buffer can never hold is never delivered: so KCP is.
            let interval = config.interval.max(peer.interval);
            let (mss, peer) = (config.config.mss(), &peer.config);
            // Before the address is proven the first fragment is a small one, so there may be one more.
            let fragments = u64::from(peer.recv_window_segments().min(127)) - 1;
            let limit = (fragments * mss as u64).min(peer.buffers().received as u64 / 2).max(1);
            let sizes = Sizes {
                mss,
                limit,
                most,
                window: u64::from(config.send_window.min(peer.recv_window_segments())),
                buffers: peer.buffers().received.min(config.config.buffers().sent) as u64,
                round: 30_000 + micros(interval),
            };
            let stream = seed ^ (side as u64 + 1);
            let app = App::draw(dice, stream, message, sizes, chaos, features);
            End {
                who: id * 2 + side as u32,
                config: Arc::new(config.config.clone()),
                drawn: config.clone(),
                role: roles[side],
                first: [0; 2],
                allowed: Allowed::new(0),
                ts_offset: None,
                trusted: false,
                holds: false,
                peer_life: None,
                heard_life: None,
                owed: None,
                stuck_since: None,
                session: None,
                epitaph: None,
                byzantine: None,
                clock: Clock {
                    since: 0,
                    base: dice.pick(&[0, (1 << 31) - 1000, (1 << 32) - 1000, 5_000_000, 1 << 40]) * 1000,
                    rate: if skewed { dice.range(950, 1050) } else { 1000 },
                },
                set_back: 0,
                stalled_until: 0,
                addr: side as u32,
                peer_addr: 1 - side as u32,
                inbox: Vec::new(),
                app,
                probed: false,
                accepted: roles[side] != Role::Listens,
                half_open_until: None,
                bytes: (0, 0),
                incarnation: 0,
                extended: false,
                told: false,
                lost_data: None,
                taken: 0,
                closed_at: None,
                heard_at: 0,
                idle_wakeups: (0, 0),
                services: (0, 0),
                next: Some(0),
                buf: Vec::new(),
            }
        });
        if let Some(side) = byzantine {
            ends[side].byzantine = Some(Byzantine::new(conv, dice, chaos.min(10_000_000)));
            ends[side].app.total = 0;
        }
        Pair {
            conv,
            ends,
            trusted: byzantine.is_none() && !raw,
            restarted: false,
            seed,
            past: None,
            hopeful: false,
        }
    }

    /// Most of what two lives of a server can be taken for happens at the beginning of the second.
    fn draw_restarts(
        dice: &mut Dice,
        pair: &Pair,
        id: u32,
        chaos: u64,
        features: &mut Features,
        schedule: &mut Vec<(u64, Event)>,
    ) {
        if pair.ends[1].role == Role::Listens
            && pair.ends[1].byzantine.is_none()
            && note(features, dice.chance(0.1), "early restart")
        {
            for _ in 0..dice.range(1, 3) {
                schedule.push((dice.log(100, chaos), Event::Restart(id * 2 + 1)));
            }
        }
    }

    /// The first end is killed, begins anew, moves; somebody on the path says things in its name.
    fn draw_upheavals(
        dice: &mut Dice,
        pair: &Pair,
        id: u32,
        chaos: u64,
        features: &mut Features,
        schedule: &mut Vec<(u64, Event)>,
    ) {
        for (side, end) in pair.ends.iter().enumerate() {
            let who = id * 2 + side as u32;
            if end.byzantine.is_some() || end.role == Role::Listens {
                continue;
            }
            if note(features, dice.chance(0.05), "killed") {
                schedule.push((dice.log(100, chaos), Event::Die(who)));
            }
            if note(features, dice.chance(0.05), "begins again") {
                for _ in 0..dice.range(1, 3) {
                    schedule.push((dice.log(100, chaos), Event::Again(who, dice.coin())));
                }
            }
        }
        if pair.ends[1].role == Role::Listens
            && pair.ends.iter().all(|end| end.byzantine.is_none())
            && note(features, dice.chance(0.15), "another address")
        {
            for _ in 0..dice.range(1, 4) {
                // While it connects, or later.
                let early = dice.log(100, chaos.min(2_000_000));
                let at = if dice.coin() { dice.below(chaos) } else { early };
                schedule.push((at, Event::Move(id * 2, dice.chance(0.3))));
            }
        }
        for side in 0..2 {
            if pair.trusted && note(features, dice.chance(0.05), "forger on the path") {
                for _ in 0..dice.range(1, 20) {
                    schedule.push((dice.below(chaos), Event::Meddle(id * 2 + side)));
                }
            }
        }
    }

    /// For a while the path takes only shorter datagrams than before.
    fn draw_narrows(
        dice: &mut Dice,
        longest: usize,
        chaos: u64,
        features: &mut Features,
        schedule: &mut Vec<(u64, Event)>,
    ) {
        if !note(features, dice.chance(0.2), "mtu drops") {
            return;
        }
        for _ in 0..dice.range(1, 4) {
            let (at, way) = (dice.below(chaos), dice.below(3) as u8);
            let mtu = dice.range(24, (longest as u64).max(25) - 1) as usize;
            schedule.push((at, Event::Narrow(way, Some(mtu))));
            schedule.push((at + dice.log(1000, 40_000_000), Event::Narrow(way, None)));
        }
    }

    fn draw_faults(
        dice: &mut Dice,
        pair: &Pair,
        id: u32,
        chaos: u64,
        features: &mut Features,
        schedule: &mut Vec<(u64, Event)>,
    ) {
        for side in 0..2 {
            let who = id * 2 + side;
            if note(features, dice.chance(0.2), "executor stalls") {
                for _ in 0..dice.range(1, 4) {
                    schedule.push((dice.below(chaos), Event::Stall(who, dice.log(1000, 15_000_000))));
                }
            }
            if note(features, dice.chance(0.1), "clock jumps") {
                let by = dice.pick(&[1, 1000, 40_000, 25 * 86_400_000, 50 * 86_400_000]);
                schedule.push((dice.below(chaos), Event::Jump(who, by * 1000)));
            }
            if note(features, dice.chance(0.05), "clock steps back") {
                let by = dice.log(1, 30_000) as i64;
                schedule.push((dice.below(chaos), Event::Jump(who, -by * 1000)));
            }
            if pair.trusted && note(features, dice.chance(0.2), "off-path attacker") {
                for _ in 0..dice.range(1, 20) {
                    schedule.push((dice.below(chaos), Event::Attack(who)));
                }
            }
            if !pair.trusted && note(features, dice.chance(0.3), "injected segments") {
                for _ in 0..dice.range(1, 20) {
                    schedule.push((dice.below(chaos), Event::Inject(who)));
                }
            }
        }
        if pair.ends[1].role == Role::Listens
            && pair.ends[1].byzantine.is_none()
            && note(features, dice.chance(0.08), "restart")
        {
            schedule.push((dice.below(chaos), Event::Restart(id * 2 + 1)));
        }
    }

    const fn elapsed(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    fn run(mut self) -> Result<u64, String> {
        let mut all: Vec<u32> = (0..self.pairs.len() as u32 * 2).collect();
        for &who in &all {
            self.service(who)?;
        }
        let (mut steps, mut creeping) = (0u64, (0, 0));
        loop {
            if self.healed_at.is_some() && self.is_over()? {
                break;
            }
            if self.dark_at.is_some() && self.is_dark()? {
                break;
            }
            let ends = self.pairs.iter().flat_map(|pair| &pair.ends).filter_map(|end| end.next);
            let arrivals = self.links.iter().filter_map(|link| link.next_due()).map(micros_up);
            let Some(next) = ends.chain(arrivals).chain(self.schedule.front().map(|&(at, _)| at)).min()
            else {
                break;
            };
            if let Some(at) = self.healed_at
                && next > at + CONVERGENCE + creeping.1
            {
                // Threefold of little is little: an answer may have to wait for the next probe, again and again.
                let crept = self.crept();
                if crept > creeping.0 {
                    creeping = (crept, creeping.1 + PATIENCE);
                    continue;
                }
                self.now = at + CONVERGENCE + creeping.1;
                return Err(format!(
                    "not over {} s after the network has healed: {}",
                    (self.now - at) / 1_000_000,
                    self.stuck()
                ));
            }
            if self.well_at.take_if(|at| next > *at).is_some() {
                self.pairs.iter_mut().for_each(Pair::hope);
            }
            self.now = self.now.max(next);
            steps += 1;
            if steps > 5_000_000 {
                return Err("five million steps".into());
            }
            while let Some(&(at, event)) = self.schedule.front()
                && at <= self.now
            {
                self.schedule.pop_front();
                self.happen(event)?;
            }
            let mut touched = 0u64;
            for way in 0..2 {
                while let Some((label, datagram)) = self.links[way].poll(self.elapsed()) {
                    // Way 0 leads to the second end.
                    let side = 1 - way;
                    let end = &mut self.pairs[label.id as usize].ends[side];
                    if label.to != end.addr {
                        self.trace.add(self.now, end.who, "astray", [label.to.into(), 0, 0]);
                        continue;
                    }
                    end.inbox.push((label, datagram));
                    touched |= 1 << (label.id * 2 + side as u32);
                }
            }
            all.clear();
            for (id, pair) in self.pairs.iter().enumerate() {
                for side in 0..2 {
                    let who = id as u32 * 2 + side as u32;
                    if touched & 1 << who != 0 || pair.ends[side].next.is_some_and(|at| at <= self.now) {
                        all.push(who);
                    }
                }
            }
            for &who in &all {
                self.service(who)?;
            }
        }
        self.aftermath()?;
        Ok(self.now)
    }

    fn happen(&mut self, event: Event) -> Check {
        let who = |who: u32| (who as usize / 2, who as usize % 2);
        match event {
            Event::Partition(way, on) => {
                self.trace.add(self.now, 0, "partition", [u64::from(way), u64::from(on), 0]);
                for side in 0..2 {
                    if way == 2 || usize::from(way) == side {
                        self.links[side].set_partitioned(on);
                    }
                }
            }
            Event::Stall(id, time) => {
                self.trace.add(self.now, id, "stall", [time, 0, 0]);
                let (pair, side) = who(id);
                let end = &mut self.pairs[pair].ends[side];
                end.stalled_until = self.now + time;
                end.owed = None;
                end.next = Some(end.stalled_until);
            }
            Event::Jump(id, by) => {
                self.trace.add(self.now, id, "clock jump", [by.unsigned_abs(), u64::from(by < 0), 0]);
                let (pair, side) = who(id);
                let end = &mut self.pairs[pair].ends[side];
                end.clock.jump(self.now, by);
                end.set_back += if by < 0 { by.unsigned_abs() } else { 0 };
                end.owed = None;
                end.next = Some(self.now.max(end.stalled_until));
            }
            Event::Restart(id) => {
                self.trace.add(self.now, id, "restart", [0; 3]);
                let (pair, side) = who(id);
                let pair = &mut self.pairs[pair];
                pair.restarted = true;
                let known = pair.ends[1 - side].extended;
                let end = &mut pair.ends[side];
                let app = &end.app;
                let received = end.session.as_ref().map_or(0, |session| session.stats().payload_received);
                let datagrams = app.datagrams;
                let past = pair.past.get_or_insert_with(|| Past {
                    written: app.written,
                    lengths: app.lengths.clone(),
                    datagrams,
                    shut: app.shut,
                    received,
                    known,
                });
                past.datagrams = past.datagrams.max(datagrams);
                end.app.restarted();
                end.allowed = Allowed::new(end.first[0]);
                (end.owed, end.stuck_since) = (None, None);
                (end.session, end.epitaph) = (None, None);
                (end.accepted, end.probed, end.half_open_until) = (false, false, None);
                (end.bytes, end.lost_data, end.closed_at) = ((0, 0), None, None);
                (end.extended, end.told) = (false, false);
                end.incarnation += 1;
                end.inbox.clear();
                end.next = None;
            }
            Event::Die(id) => {
                self.trace.add(self.now, id, "killed", [0; 3]);
                let (pair, side) = who(id);
                self.pairs[pair].ends[side].die();
            }
            Event::Again(id, elsewhere) => {
                self.trace.add(self.now, id, "again", [u64::from(elsewhere), 0, 0]);
                let (pair, side) = who(id);
                let pair = &mut self.pairs[pair];
                // Plain KCP takes the second life's data for the first's.
                pair.distrust();
                let (conv, end) = (pair.conv, &mut pair.ends[side]);
                end.die();
                end.app.again(self.now);
                end.addr += if elsewhere && side == 0 { 2 } else { 0 };
                end.incarnation += 1;
                end.begin(conv, draw::mix(pair.seed ^ (side as u64) << 8 ^ end.incarnation << 16), self.now);
                end.next = Some(self.now.max(end.stalled_until));
            }
            Event::Move(id, noticed) => {
                let (pair, side) = who(id);
                let end = &mut self.pairs[pair].ends[side];
                // The first end's are even.
                end.addr += 2;
                self.trace.add(self.now, id, "moves", [end.addr.into(), u64::from(noticed), 0]);
                if let Some(session) = end.session.as_mut().filter(|_| noticed) {
                    session.probe_path();
                    end.next = Some(self.now.max(end.stalled_until));
                }
            }
            Event::Meddle(id) => {
                let (pair, side) = who(id);
                self.pairs[pair].distrust();
                let (conv, label) = (self.pairs[pair].conv, self.pairs[pair].label(id / 2, 1 - side));
                let end = &mut self.pairs[pair].ends[side];
                let Some(session) = &end.session else { return Ok(()) };
                let Allowed { una, next, .. } = end.allowed;
                let seen = Seen { conv, una, next, received: session.una() };
                let datagram = byzantine::meddle(&mut self.later, &seen);
                let numbers = [word(&datagram, 12), word(&datagram, 16), datagram.len() as u64];
                self.trace.add(self.now, id, "meddle", numbers);
                end.inbox.push((label, datagram));
                end.next = Some(self.now.max(end.stalled_until));
            }
            Event::Narrow(way, mtu) => {
                self.trace.add(self.now, 0, "path mtu", [u64::from(way), mtu.unwrap_or(0) as u64, 0]);
                for side in 0..2 {
                    if way == 2 || usize::from(way) == side {
                        self.narrow[side] = mtu;
                        self.set_path(side);
                    }
                }
            }
            Event::Attack(id) => return self.attack(id),
            Event::Inject(id) => {
                let (pair, side) = who(id);
                let label = self.pairs[pair].label(id / 2, 1 - side);
                let mut liar = Byzantine::new(self.pairs[pair].conv, &mut self.dice, 1000);
                let datagram = liar.say(self.now);
                self.trace.add(self.now, id, "inject", [datagram.len() as u64, 0, 0]);
                self.pairs[pair].ends[side].inbox.push((label, datagram));
                self.pairs[pair].ends[side].next =
                    Some(self.now.max(self.pairs[pair].ends[side].stalled_until));
            }
            Event::Link(way) => {
                let mut plan = self.plans[way].clone();
                plan.delay = Duration::from_micros(self.dice.log(50, 500_000));
                plan.rate = self.dice.maybe(0.3, |dice| dice.log(8_000, 10_000_000));
                self.trace.add(self.now, way as u32, "path change", [plan.delay.as_micros() as u64, 0, 0]);
                self.paths[way] = plan;
                self.set_path(way);
            }
            Event::Heal => self.heal(),
            Event::Blackout => {
                self.trace.add(self.now, 0, "blackout", [0; 3]);
                self.dark_at = Some(self.now);
                for link in &mut self.links {
                    link.set_partitioned(true);
                }
                self.settle();
            }
        }
        Ok(())
    }

    fn set_path(&mut self, way: usize) {
        let path = &self.paths[way];
        let mtu = path.mtu.into_iter().chain(self.narrow[way]).min();
        self.links[way].set_config(LinkConfig { mtu, ..path.clone() });
    }

    /// Executors run again.
    fn settle(&mut self) {
        for end in self.pairs.iter_mut().flat_map(|pair| &mut pair.ends) {
            end.stalled_until = end.stalled_until.min(self.now);
            end.next = Some(self.now);
        }
    }

    fn heal(&mut self) {
        self.trace.add(self.now, 0, "heal", [0; 3]);
        self.healed_at = Some(self.now);
        // What waits in a queue is still in the way.
        let arrived = self.links.iter().filter_map(|link| link.last_due()).map(micros_up).max();
        self.well_since = arrived.unwrap_or(0).max(self.now) + RECOVERY;
        self.well_at = Some(self.well_since);
        self.narrow = [None; 2];
        self.paths = [healed(), healed()];
        for way in 0..2 {
            self.links[way].set_partitioned(false);
            self.set_path(way);
        }
        self.settle();
        for end in self.pairs.iter_mut().flat_map(|pair| &mut pair.ends) {
            end.app.cooperate(self.now, end.session.as_mut());
            if let Some(byzantine) = &mut end.byzantine {
                byzantine.until = self.now;
            }
        }
    }

    /// Who does not know the conversation changes nothing but counters.
    fn attack(&mut self, id: u32) -> Check {
        let (pair, side) = (id as usize / 2, id as usize % 2);
        let pair = &mut self.pairs[pair];
        // Or knows nothing but that, and guesses a proof, or acknowledges what was never sent.
        let forged = self.dice.chance(0.4);
        let conv = if forged { pair.conv } else { pair.conv ^ (1 + self.dice.u64() as u32 / 2) };
        let mut liar = Byzantine::new(conv, &mut self.dice, 1000);
        let datagram = match () {
            () if forged => liar.forge(),
            () if self.dice.chance(0.1) => Vec::new(),
            () => liar.say(self.now),
        };
        let end = &mut pair.ends[side];
        let local = end.clock.local(self.now);
        let Some(session) = &mut end.session else { return Ok(()) };
        self.trace.add(self.now, id, "attack", [datagram.len() as u64, 0, 0]);
        if forged {
            let before = (session.close_reason(), session.held());
            if session.handle_datagram(local, &datagram).is_ok() {
                end.bytes.0 += datagram.len() as u64;
            }
            let after = (session.close_reason(), session.held());
            end.next = Some(self.now.max(end.stalled_until));
            return if before == after {
                Ok(())
            } else {
                Err(format!("a forgery changed {before:?} to {after:?}"))
            };
        }
        let before = (session.held(), session.una(), session.poll_timeout(), session.close_reason());
        if datagram.len() >= 4
            && session.handle_datagram(local, &datagram).is_ok()
            && datagram[..4] != pair.conv.to_le_bytes()
        {
            return Err("a datagram of another conversation was accepted".into());
        }
        let after = (session.held(), session.una(), session.poll_timeout(), session.close_reason());
        if before != after {
            return Err(format!("a datagram of another conversation changed {before:?} to {after:?}"));
        }
        Ok(())
    }

    /// One turn of a socket's driver and its applications.
    fn service(&mut self, who: u32) -> Check {
        let (id, side) = (who as usize / 2, who as usize % 2);
        let now = self.now;
        let pair = &mut self.pairs[id];
        let (conv, trusted, past) = (pair.conv, pair.trusted, &pair.past);
        let [a, b] = &mut pair.ends;
        let (end, peer) = if side == 0 { (a, &*b) } else { (b, &*a) };
        if end.stalled_until > now {
            end.next = Some(end.stalled_until);
            return Ok(());
        }
        end.services =
            if end.services.0 == now / 1000 { (now / 1000, end.services.1 + 1) } else { (now / 1000, 1) };
        if end.services.1 > SERVICES_PER_MS {
            return Err(format!("spins: {SERVICES_PER_MS} turns within a millisecond"));
        }
        let link = &mut self.links[side];
        if end.byzantine.is_some() {
            end.lie(now, id as u32, link, self.trace);
            return Ok(());
        }
        let mut view = Peer {
            stream: pair.seed ^ (2 - side as u64),
            written: peer.app.written,
            shut: peer.app.shut,
            lengths: &peer.app.lengths,
            datagrams: peer.app.datagrams,
            trusted,
            replaced: past.as_ref().is_some_and(|past| !past.known),
            idle_is_eof: end.drawn.idle_is_eof,
        };
        if let Some(past) = past
            && side == 0
        {
            view.written = view.written.max(past.written);
            view.datagrams = view.datagrams.max(past.datagrams);
            view.lengths = if view.lengths.is_empty() { &past.lengths } else { view.lengths };
            view.shut |= past.shut;
        }
        let mut out = Out { label: end.label(id as u32), now, link, trace: self.trace, sent: 0, events: 0 };
        end.turn(conv, pair.seed, &view, &mut out).map_err(|what| format!("{what} ({who})"))?;
        let past = past.as_ref().filter(|_| side == 0);
        end.check_promises(peer, trusted, pair.restarted, past).map_err(|what| format!("{what} ({who})"))?;
        Ok(())
    }

    /// After the healing: whether every pair has said everything, or failed.
    fn is_over(&mut self) -> Result<bool, String> {
        let now = self.now;
        let mut over = true;
        for pair in &mut self.pairs {
            let severed = pair.is_severed();
            pair.check_found(now.saturating_sub(self.well_since))?;
            for side in 0..2 {
                let [a, b] = &mut pair.ends;
                let (end, peer) = if side == 0 { (a, b) } else { (b, a) };
                let Some(session) = &mut end.session else { continue };
                if session.is_closed() {
                    continue;
                }
                let alone = severed || peer.session.as_ref().is_none_or(Session::is_closed);
                // A peer that has gone without a word is found by the idle timeout, if there is one.
                let helpless = alone && (end.drawn.idle.is_none() || end.app.gone());
                // Damage may have acknowledged what never came, and so may a plain peer that was restarted; a grave answers;
                // a stranger may not be answered. What ends that are the timeouts, where there are any.
                let endless =
                    end.drawn.patience.is_none() && (alone || pair.restarted || !session.is_validated());
                // Nor do timeouts end it where nothing is on its way: the first life has acknowledged what the second misses.
                let stats = session.stats();
                let forgotten = pair.restarted
                    && !session.is_extended()
                    && stats.in_flight == 0
                    && stats.unsent_bytes == 0;
                let endless = endless || forgotten;
                let lost = (!pair.trusted || endless) && now > self.healed_at.unwrap_or(now) + 60_000_000;
                let content = end.app.is_content(peer.app.written)
                    && (alone || peer.app.is_content(end.app.written) || peer.app.gone());
                let plain = !session.is_extended();
                if (helpless || lost || (content && plain)) && !end.app.gone() {
                    self.trace.add(now, end.who, "leaves", [0; 3]);
                    end.app.drop_stream(session, end.clock.local(now));
                    end.next = Some(now);
                }
                over = false;
            }
        }
        Ok(over)
    }

    /// In the dark: whether everybody has noticed who should have.
    fn is_dark(&self) -> Result<bool, String> {
        let since = self.dark_at.unwrap_or(0);
        let mut over = true;
        for end in self.pairs.iter().flat_map(|pair| &pair.ends) {
            let Some(session) = &end.session else { continue };
            if session.is_closed() {
                continue;
            }
            let Some(idle) = end.drawn.idle else { continue };
            over = false;
            // What was under way still arrived; clocks are up to a twentieth slow, or were set back.
            let limit = idle.max(end.config.connect_timeout_after());
            let limit = since.max(end.heard_at) + micros(limit) * 21 / 20 + 35_000_000;
            if self.now > limit {
                return Err(format!(
                    "silence is no error after {} s ({})",
                    (self.now - since) / 1_000_000,
                    end.who
                ));
            }
        }
        Ok(over)
    }

    /// What has arrived at ends whose peers have not proven their addresses.
    fn crept(&self) -> u64 {
        let sessions = self.pairs.iter().flat_map(|pair| &pair.ends).filter_map(|end| end.session.as_ref());
        let unproven = sessions.filter(|session| !session.is_closed() && !session.is_validated());
        unproven.map(|session| session.stats().payload_received).sum()
    }

    fn stuck(&self) -> String {
        let ends = self.pairs.iter().flat_map(|pair| &pair.ends);
        let stuck = ends.filter_map(|end| {
            let session = end.session.as_ref().filter(|session| !session.is_closed())?;
            let (app, stats) = (&end.app, session.stats());
            Some(format!(
                "{}: written {} of {}, read {}, shut {}, drained {}, in flight {}, unsent {}, peer's window {}, rto {:?}, extended {}",
                end.who, app.written, app.total, app.seen.read, app.shut, app.drained, stats.in_flight, stats.unsent_bytes, stats.peer_window, stats.rto, session.is_extended()
            ))
        });
        stuck.collect::<Vec<_>>().join("; ")
    }

    /// What must hold when all is over.
    fn aftermath(&mut self) -> Check {
        for pair in &mut self.pairs {
            pair.check_hope()?;
            for side in 0..2 {
                let (end, peer) = (&pair.ends[side], &pair.ends[1 - side]);
                let who = end.who;
                let heard_all = end.app.seen.read >= peer.app.written;
                let listening = !end.app.gone() && !matches!(end.app.appetite, Appetite::Never);
                let reason = end.session.as_ref().and_then(Session::close_reason);
                let listening = listening && self.healed_at.is_some();
                if reason == Some(CloseReason::Finished)
                    && listening
                    && pair.trusted
                    && !heard_all
                    && !pair.restarted
                {
                    return Err(format!(
                        "finished, but read {} of {} ({who})",
                        end.app.seen.read, peer.app.written
                    ));
                }
                if self.calm
                    && pair.trusted
                    && listening
                    && !peer.app.aborted
                    && !heard_all
                    && peer.lost_data != Some(true)
                    && end.session.is_some()
                    && reason != Some(CloseReason::Reset)
                    && !pair.ends.iter().any(|end| end.drawn.odd_timeouts)
                {
                    return Err(format!(
                        "nothing was wrong, but read {} of {}: {reason:?} ({who})",
                        end.app.seen.read, peer.app.written
                    ));
                }
            }
            for end in &mut pair.ends {
                let (who, now) = (end.who, end.clock.local(self.now));
                let Some(session) = end.session.as_mut().filter(|session| session.is_closed()) else {
                    continue;
                };
                let mut buf = Vec::new();
                if session.poll_timeout().is_some() {
                    return Err(format!("an ended session has a deadline ({who})"));
                }
                if session.poll_transmit(now, Framing::default(), &mut buf).is_some() {
                    return Err(format!("an ended session has something to say ({who})"));
                }
                if session.poll_event().is_some() {
                    return Err(format!("an ended session has an event ({who})"));
                }
                if session.held().sent > 0 {
                    return Err(format!("an ended session holds what was written ({who})"));
                }
            }
        }
        Ok(())
    }
}

/// Where a turn's output goes.
struct Out<'a> {
    label: Label,
    now: u64,
    link: &'a mut Link<(Label, Vec<u8>)>,
    trace: &'a mut Trace,
    sent: u64,
    events: u64,
}

impl Out<'_> {
    fn send(&mut self, who: u32, datagram: &[u8]) {
        self.send_to(who, self.label.to, datagram);
    }

    fn send_to(&mut self, who: u32, to: u32, datagram: &[u8]) {
        self.sent += 1;
        self.trace.add_bytes(datagram);
        let numbers = [word(datagram, 12), word(datagram, 16), datagram.len() as u64];
        self.trace.add(self.now, who, command(datagram), numbers);
        self.link.send(Duration::from_micros(self.now), (Label { to, ..self.label }, datagram.to_vec()));
    }
}

impl End {
    fn seed(&self, seed: u64) -> Seed {
        Seed::from_u64(match self.ts_offset {
            None => seed,
            Some(offset) => seed >> 32 << 32 | u64::from(offset),
        })
    }

    const fn label(&self, id: u32) -> Label {
        Label { id, life: self.incarnation, from: self.addr, to: self.peer_addr }
    }

    /// Dials, or is there without asking.
    fn begin(&mut self, conv: u32, seed: u64, now: u64) {
        let (config, local, seed) = (self.config.clone(), self.clock.local(now), self.seed(seed));
        let mut session = match self.role {
            Role::Dials => Session::connect(conv, config, seed, local),
            Role::DialsLazily => Session::connect_lazy(conv, config, seed, local),
            Role::Established => Session::established(conv, config, seed, local),
            Role::Listens => return,
        };
        session.set_initial_sn(self.first[0], self.first[1]);
        self.session = Some(session);
    }

    /// Nothing is left of it but what its peer may have read.
    fn die(&mut self) {
        let received = self.session.as_ref().map_or(0, |session| session.stats().payload_received);
        self.taken = self.taken.max(received);
        (self.session, self.epitaph) = (None, None);
        (self.owed, self.stuck_since, self.half_open_until) = (None, None, None);
        (self.peer_life, self.heard_life, self.lost_data, self.closed_at) = (None, None, None, None);
        (self.extended, self.told) = (false, false);
        self.allowed = Allowed::new(self.first[0]);
        self.inbox.clear();
        self.next = None;
    }

    /// Something of the conversation comes from another address than before: whether the session is there from now on, as in
    /// `kcp-tokio`.
    fn follow(&mut self, label: Label, local: Timestamp, datagram: &[u8], out: &mut Out<'_>) -> bool {
        let Some(session) = &mut self.session else { return true };
        // A number that the peer cannot compute.
        let path = draw::mix(u64::from(label.from) ^ u64::from(self.who) << 32 ^ 0xADD2);
        if session.proves_path(datagram, path) || session.begins_elsewhere(datagram) {
            let proven = session.is_validated();
            out.trace.add(out.now, self.who, "follows", [label.from.into(), u64::from(proven), 0]);
            if !session.is_validated() {
                // What came from the old one earns nothing at the new one.
                self.bytes = (0, 0);
            }
            (self.peer_addr, out.label.to) = (label.from, label.from);
            session.probe_path();
            return true;
        }
        // Not more than three times of what came from there.
        let question = session.challenge_path(local, path).filter(|ask| ask.len() <= datagram.len() * 3);
        if let Some(question) = question {
            out.send_to(self.who, label.from, &question);
        }
        false
    }

    /// Whether it has asked its peer for a sign of life, `after` so long, within the time that nothing was in the way.
    fn asked(&self, well: u64, after: u64) -> bool {
        // An unanswered question is repeated after a quarter; the clock may be slow.
        self.drawn.keepalive.is_some_and(|period| {
            let period = micros(period);
            well > (period + period / 4 + after + self.set_back) * 21 / 20
        })
    }

    fn lie(&mut self, now: u64, id: u32, link: &mut Link<(Label, Vec<u8>)>, trace: &mut Trace) {
        let label = self.label(id);
        let Some(liar) = &mut self.byzantine else { return };
        let mut answers = Vec::new();
        for (_, datagram) in self.inbox.drain(..) {
            liar.hear(&datagram, &mut answers);
        }
        if now < liar.until {
            if now >= liar.next {
                answers.push(liar.say(now));
            }
            self.next = Some(liar.next);
        } else {
            answers.clear();
            self.next = None;
        }
        let mut out = Out { label, now, link, trace, sent: 0, events: 0 };
        for datagram in answers {
            out.send(self.who, &datagram);
        }
    }

    fn turn(&mut self, conv: u32, seed: u64, view: &Peer<'_>, out: &mut Out<'_>) -> Check {
        let local = self.clock.local(out.now);
        let mut caused = !self.inbox.is_empty();
        let (extended, drained) = (self.extended, self.app.drained);
        self.check_acknowledged(out.now)?;
        for (label, datagram) in std::mem::take(&mut self.inbox) {
            self.receive(conv, seed, local, label, &datagram, out)?;
        }
        let Some(session) = &mut self.session else {
            self.next = None;
            return Ok(());
        };
        if self.holds && caused {
            session.hold_answers();
        }
        let mut fired = false;
        if session.poll_timeout().is_some_and(|at| at <= local) {
            fired = true;
            session.handle_timeout(local);
        }
        if self.half_open_until.is_some_and(|at| at <= local) && !self.accepted {
            session.abort();
        }
        if let Some(deadline) = self.app.dropped
            && !session.is_closed()
            && (session.is_done() || local >= deadline)
        {
            caused = true;
            session.abort();
        }
        let actions = self.app.actions;
        for round in 0.. {
            self.drain(local, out)?;
            let Some(session) = &mut self.session else { return Ok(()) };
            if !self.accepted {
                let proven = session.una().value() != self.first[1] || session.is_validated() || self.probed;
                self.accepted = proven;
            }
            let before = (self.app.actions, out.sent, out.events);
            if self.accepted {
                self.app.act(session, out.now, local, view)?;
                if let Some(deadline) = self.app.dropped
                    && !session.is_closed()
                    && (session.is_done() || local >= deadline)
                {
                    session.abort();
                }
            }
            session.release_answers();
            self.drain(local, out)?;
            if before == (self.app.actions, out.sent, out.events) {
                break;
            }
            if round > 10_000 {
                return Err("the application never stops".into());
            }
        }
        self.told |= extended && !drained && self.app.drained;
        self.check_acknowledged(out.now)?;
        let Some(session) = &mut self.session else { return Ok(()) };
        if self.accepted {
            self.app.check_awake(session)?;
        }
        let for_nothing = fired && !caused && out.sent + out.events == 0 && self.app.actions == actions;
        let deadline = session.poll_timeout();
        if for_nothing {
            let stats = session.stats();
            let gauges = [u64::from(stats.in_flight), u64::from(stats.peer_window), stats.unsent_bytes];
            out.trace.add(out.now, self.who, "idle wakeup", gauges);
        }
        self.check_causes(for_nothing, local)?;
        let Some(session) = &self.session else { return Ok(()) };
        if let Some(at) = deadline.filter(|&at| at <= local) {
            return Err(format!("due at {at:?} after everything was handled at {local:?}"));
        }
        let dropped = self.app.dropped.filter(|_| !session.is_closed());
        let half_open = self.half_open_until.filter(|_| !self.accepted && !session.is_closed());
        let mut next: Option<u64> = None;
        for at in [deadline, dropped, half_open].into_iter().flatten() {
            let at = self.clock.global(at).max(out.now + 1);
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        if self.accepted
            && let Some(at) = self.app.next()
        {
            let at = at.max(out.now + 1);
            next = Some(next.map_or(at, |next| next.min(at)));
        }
        self.next = next;
        self.check_unpaced()?;
        self.check_progress(out.now, local)?;
        self.check_bounds()
    }

    /// A datagram, as the driver of a socket tells whose it is.
    fn receive(
        &mut self,
        conv: u32,
        seed: u64,
        local: Timestamp,
        label: Label,
        datagram: &[u8],
        out: &mut Out<'_>,
    ) -> Check {
        let life = label.life;
        let elsewhere = self.role == Role::Listens && label.from != self.peer_addr;
        if self.session.is_none() && self.role != Role::Listens {
            return self.answer(answer_for(datagram, None), label, datagram, out);
        }
        if elsewhere && self.epitaph.is_some() {
            // A grave is found by its address.
            return self.answer(answer_for(datagram, None), label, datagram, out);
        }
        if elsewhere && !self.follow(label, local, datagram, out) {
            return Ok(());
        }
        self.bytes.0 += datagram.len() as u64;
        self.heard_at = out.now;
        if let Some(epitaph) = &self.epitaph {
            let answer = answer_for(datagram, Some(epitaph));
            if let Some(session) = &mut self.session
                && !matches!(session.handle_datagram(local, datagram), Err(InputError::Closed(_)))
            {
                return Err("an ended session took a datagram".into());
            }
            return self.answer(answer, label, datagram, out);
        }
        if self.session.is_none() {
            let window = self.config.recv_window_segments();
            let first = first_segment(&self.shifted(datagram), window);
            let Some((found, opening)) = first.filter(|&(found, _)| found == conv) else {
                return self.answer(answer_for(datagram, None), label, datagram, out);
            };
            let hello = opening == Opening::Probe && answer_for(datagram, None).is_some();
            self.probed = opening == Opening::Probe && !hello;
            let seed = self.seed(draw::mix(seed ^ 0xAB ^ self.incarnation << 16));
            let mut session = Session::accept(found, self.config.clone(), seed, local);
            session.set_initial_sn(self.first[0], self.first[1]);
            self.session = Some(session);
            (self.peer_addr, out.label.to) = (label.from, label.from);
            self.half_open_until = Some(local + HALF_OPEN);
            out.trace.add(out.now, self.who, "opened", [self.incarnation, 0, 0]);
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let before = (session.held().sent, session.una());
        if session.handle_datagram(local, datagram).is_err() {
            out.trace.add(out.now, self.who, "refused", [datagram.len() as u64, 0, 0]);
            if session.is_closed() {
                // There is nobody to be told.
                self.owed = None;
            }
        } else {
            self.heard_life.get_or_insert(life);
            self.allowed.hear(datagram, conv, session.is_validated());
            self.owed = self.owed.or(arrived(datagram, session).map(|sn| (sn, out.now)));
        }
        if session.is_extended() {
            let known = *self.peer_life.get_or_insert(life);
            let after = (session.held().sent, session.una());
            if self.trusted
                && self.role != Role::Listens
                // Before it was answered it could not tell.
                && self.heard_life == Some(known)
                && known != life
                && before != after
                && !session.is_closed()
            {
                return Err(format!("life {life} was taken for life {known}"));
            }
        }
        Ok(())
    }

    /// What has arrived is acknowledged soon.
    fn check_acknowledged(&mut self, now: u64) -> Check {
        let limit = ACKNOWLEDGED + 2 * micros(self.drawn.interval);
        let Some(session) = self.session.as_ref().filter(|session| self.trusted && session.is_validated())
        else {
            self.owed = None;
            return Ok(());
        };
        match self.owed {
            Some((sn, since)) if !session.is_closed() && now > since + limit => Err(format!(
                "{} has arrived, and was not acknowledged for {} ms",
                sn.value(),
                (now - since) / 1000
            )),
            Some((sn, _)) if session.close_reason() == Some(CloseReason::Finished) => {
                Err(format!("finished, but {} was not acknowledged", sn.value()))
            }
            _ => Ok(()),
        }
    }

    /// The first segment as it would be if both sequences had begun with 0, which is what tells a beginning.
    fn shifted(&self, datagram: &[u8]) -> Vec<u8> {
        let mut datagram = datagram.to_vec();
        if datagram.len() >= HEADER_LEN {
            let probe = datagram[4] == Command::Wask as u8;
            for (at, first) in [(12, if probe { 0 } else { self.first[1] }), (16, self.first[0])] {
                let number = (word(&datagram, at) as u32).wrapping_sub(first);
                datagram[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
        }
        datagram
    }

    fn answer(&self, answer: Option<Vec<u8>>, to: Label, datagram: &[u8], out: &mut Out<'_>) -> Check {
        if let Some(answer) = answer {
            if answer.len() > datagram.len() {
                return Err("an answer to a stranger is longer than what it answers".into());
            }
            out.send_to(self.who, to.from, &answer);
        }
        Ok(())
    }

    /// Everything out of the session: datagrams, events.
    fn drain(&mut self, local: Timestamp, out: &mut Out<'_>) -> Check {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mtu = self.config.mtu_bytes();
        let framing = Framing { max_datagrams: 16 };
        let mut runs = 0;
        self.buf.clear();
        while let Some(run) = session.poll_transmit(local, framing, &mut self.buf) {
            if run.len != self.buf.len() || run.datagrams != self.buf.chunks(run.stride.max(1)).count() {
                return Err(format!("a run that is not what it says: {run:?}, {} bytes", self.buf.len()));
            }
            for datagram in self.buf.chunks(run.stride.max(1)) {
                if datagram.len() > mtu {
                    return Err(format!("a datagram of {} bytes at mtu {mtu}", datagram.len()));
                }
                let Ok(segments) = Segments::parse(datagram, session.conv()) else {
                    return Err("a datagram that cannot be parsed was sent".into());
                };
                for (header, _) in segments {
                    if header.cmd == Command::Push {
                        self.allowed.send(header.sn)?;
                    }
                    self.owed.take_if(|(sn, _)| sn.is_before(header.una));
                }
                self.bytes.1 += datagram.len() as u64;
                if self.role == Role::Listens && !session.is_validated() && self.bytes.1 > 3 * self.bytes.0 {
                    return Err(format!(
                        "{} bytes to an unproven address that sent {}",
                        self.bytes.1, self.bytes.0
                    ));
                }
                out.send(self.who, datagram);
            }
            self.buf.clear();
            runs += 1;
            if runs > 100_000 {
                return Err("poll_transmit never ends".into());
            }
        }
        if session.is_closed() && self.closed_at.is_none() {
            self.closed_at = Some(out.now);
            self.epitaph = Some(session.epitaph());
            self.lost_data = Some(session.has_lost_data());
            let reason = session.close_reason();
            out.trace.add(out.now, self.who, reason_name(reason), [u64::from(session.has_lost_data()), 0, 0]);
        }
        while let Some(event) = session.poll_event() {
            self.app.on_event(event, &mut out.events)?;
        }
        self.extended |= session.is_extended();
        Ok(())
    }

    /// Without congestion control and pacing nothing but the two windows keeps data back.
    fn check_unpaced(&self) -> Check {
        let Some(session) = self.session.as_ref().filter(|_| self.drawn.nc && !self.drawn.pacing) else {
            return Ok(());
        };
        let able = !session.is_closed() && !session.is_connecting() && session.is_validated();
        let stats = session.stats();
        let room = stats.in_flight < self.drawn.send_window.min(stats.peer_window);
        if able && room && stats.unsent_bytes > 0 && !session.is_holding() {
            return Err(format!(
                "{} bytes wait, {} segments in flight, windows of {} and {}",
                stats.unsent_bytes, stats.in_flight, self.drawn.send_window, stats.peer_window
            ));
        }
        Ok(())
    }

    /// Who wakes a session up has a cause, but for two: the timeout of a segment that has meanwhile ridden along with another, or that
    /// then waits for the peer's window, is over once for each in flight before anything else happens; and what an address that
    /// is not proven has used up its share for is lost each time, above all the question of a keepalive, unanswered ones of
    /// which follow a quarter of nine tenths of the period later.
    fn check_causes(&mut self, for_nothing: bool, local: Timestamp) -> Check {
        let Some(session) = self.session.as_ref().filter(|_| for_nothing) else {
            self.idle_wakeups = (0, 0);
            return Ok(());
        };
        let in_flight = session.stats().in_flight;
        let (second, in_a_row) = self.idle_wakeups;
        let this = local.as_micros() / 1_000_000;
        let again = session.is_validated() || second == this;
        self.idle_wakeups = (this, if again { in_a_row + 1 } else { 1 });
        let asked =
            self.drawn.keepalive.map_or(0, |period| (4_000_000_000 / 900 / period.as_millis()) as u32);
        let share = if session.is_validated() { 0 } else { UNANSWERED + asked };
        if self.idle_wakeups.1 > in_flight + share {
            return Err(format!(
                "{} timers in a row fired for nothing, {in_flight} in flight",
                self.idle_wakeups.1
            ));
        }
        Ok(())
    }

    /// Data in flight that nobody acknowledges ends the session when the user timeout says so.
    fn check_progress(&mut self, now: u64, local: Timestamp) -> Check {
        let Some(session) = self.session.as_ref().filter(|session| !session.is_closed()) else {
            self.stuck_since = None;
            return Ok(());
        };
        let (stats, held) = (session.stats(), session.held());
        let in_flight = held.sent as u64 - stats.unsent_bytes;
        let progress = (stats.payload_sent - in_flight, self.allowed.una);
        if in_flight == 0 {
            self.stuck_since = None;
            return Ok(());
        }
        let (_, since) = *self.stuck_since.get_or_insert((progress, local));
        match self.drawn.user {
            _ if self.stuck_since.is_none_or(|(before, _)| before != progress) => {
                self.stuck_since = Some((progress, local));
                Ok(())
            }
            Some(limit) if local.saturating_since(since) > limit + ms(1) => Err(format!(
                "nothing in flight was acknowledged for {:?}, the user timeout is {limit:?} (at {now})",
                local.saturating_since(since)
            )),
            _ => Ok(()),
        }
    }

    fn check_bounds(&self) -> Check {
        let Some(session) = &self.session else { return Ok(()) };
        let (held, stats, buffers) = (session.held(), session.stats(), self.config.buffers());
        let mss = self.config.mss();
        // One segment is always taken where nothing is held.
        if held.received > buffers.received + 65_507 {
            return Err(format!("holds {} bytes received, {} are allowed", held.received, buffers.received));
        }
        let in_flight = stats.in_flight as usize;
        if stats.in_flight > self.drawn.send_window {
            return Err(format!("{in_flight} segments in flight, {} are allowed", self.drawn.send_window));
        }
        // One message is always taken where nothing is queued.
        if held.sent > buffers.sent + in_flight * mss + 128 * mss {
            return Err(format!("holds {} bytes sent, {} are allowed", held.sent, buffers.sent));
        }
        if stats.unread_bytes as usize > held.received {
            return Err("more is unread than held".into());
        }
        Ok(())
    }

    /// What this end has been told of its peer must be true.
    fn check_promises(&self, peer: &Self, trusted: bool, restarted: bool, past: Option<&Past>) -> Check {
        let delivered = self.app.drained || self.lost_data == Some(false);
        if !trusted || self.byzantine.is_some() || !delivered {
            return Ok(());
        }
        let session = peer.session.as_ref();
        let received = match past {
            // Who had heard whom it speaks with knows who comes after.
            Some(past) if past.known => past.received,
            _ if restarted => return Ok(()),
            _ => session.map_or(peer.taken, |session| session.stats().payload_received),
        };
        if received < self.app.written {
            return Err(format!("told that {} bytes were delivered, {received} were", self.app.written));
        }
        let live = session.filter(|session| !restarted && !session.is_closed());
        if self.told && live.is_some_and(|session| !session.is_read_closed()) {
            return Err("told that its end was heard, it was not".into());
        }
        Ok(())
    }
}

/// The last data of a datagram that was taken which has arrived in order, now or before.
fn arrived(datagram: &[u8], session: &Session) -> Option<Seq> {
    let segments = Segments::parse(datagram, session.conv()).ok()?;
    let pushes = segments.filter(|(header, _)| header.cmd == Command::Push).map(|(header, _)| header.sn);
    pushes.filter(|sn| sn.is_before(session.una())).last()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Packets are due between microseconds: not before they are.
fn micros_up(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
}

const fn reason_name(reason: Option<CloseReason>) -> &'static str {
    match reason {
        None => "open",
        Some(CloseReason::Aborted) => "aborted",
        Some(CloseReason::Finished) => "finished",
        Some(CloseReason::Reset) => "reset",
        Some(CloseReason::Refused) => "refused",
        Some(CloseReason::ConnectTimeout) => "no answer",
        Some(CloseReason::DeadLink) => "dead link",
        Some(CloseReason::IdleTimeout) => "idle timeout",
        Some(CloseReason::UserTimeout) => "user timeout",
        Some(CloseReason::ZeroWindowTimeout) => "zero window",
        Some(_) => "broken",
    }
}
