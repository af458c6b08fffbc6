//! Forward error correction and encryption between sessions and their socket: per session what it seals and opens, per
//! socket whose a packet is.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use kcp_core::Timestamp;
use kcp_layers::{Cipher, Crypt, Frame, LayerStats, Layers, LayersConfig, OpenError, Opened, Sealed};

use crate::config::KcpConfig;
use crate::driver::Packet;
use crate::entropy::Entropy;

/// Times what came from an address that it is told at most before it has proven itself, as the core's own limit, which
/// does not know of headers and parity.
const AMPLIFICATION: u64 = 3;

thread_local! {
    /// Borrowed per run, so that idle sessions own no buffer.
    static SEALED: RefCell<Sealed> = RefCell::default();
}

/// The layers of one session.
#[derive(Debug)]
pub(crate) struct Layered {
    layers: Layers,
    /// Bytes of packets, counted until the peer's address is proven.
    received: u64,
    sent: u64,
    /// The peer's address is not proven.
    held: bool,
    key: u32,
    /// As long as it lives the key is known.
    _uses: Arc<()>,
}

impl Layered {
    fn new(keys: &Keys, held: bool, entropy: &Entropy) -> io::Result<Self> {
        let mut layers = Layers::new(&keys.config, entropy.bytes()?);
        layers.hold_parity(held);
        Ok(Self { layers, received: 0, sent: 0, held, key: keys.current, _uses: keys.used.clone() })
    }

    /// Which of the keys that the socket has had is this session's.
    pub(crate) const fn key(&self) -> u32 {
        self.key
    }

    /// Whether only so much may be sent as was received allows.
    pub(crate) fn hold(&mut self, hold: bool) {
        if self.held != hold {
            self.held = hold;
            self.layers.hold_parity(hold);
        }
    }

    /// Seals a run of datagrams and hands on runs of packets.
    pub(crate) fn seal(
        &mut self,
        now: Timestamp,
        run: &[u8],
        stride: usize,
        mut send: impl FnMut(&[u8], usize),
    ) {
        with_sealed(|sealed| {
            self.layers.seal(now, run, stride, sealed);
            self.release(sealed, &mut send);
        });
    }

    /// A packet that is decrypted already: what it holds is handed on.
    pub(crate) fn receive(&mut self, now: Timestamp, packet: &[u8], mut deliver: impl FnMut(&[u8])) {
        if self.held {
            self.received = self.received.saturating_add(packet.len() as u64);
        }
        // Counted there; what is out of band concerns the layers only.
        let _ = self.layers.receive(now, packet, |opened| match opened {
            Opened::Datagram(datagram) | Opened::Recovered(datagram) => deliver(datagram),
            Opened::OutOfBand { .. } => {}
        });
    }

    pub(crate) fn poll_timeout(&self) -> Option<Timestamp> {
        self.layers.poll_timeout()
    }

    /// Parity of groups that did not fill up in time, and reports of loss.
    pub(crate) fn handle_timeout(&mut self, now: Timestamp, mut send: impl FnMut(&[u8], usize)) {
        with_sealed(|sealed| {
            self.layers.handle_timeout(now, sealed);
            self.release(sealed, &mut send);
        });
    }

    pub(crate) fn stats(&self) -> LayerStats {
        self.layers.stats()
    }

    fn release(&mut self, sealed: &Sealed, send: &mut impl FnMut(&[u8], usize)) {
        for run in sealed.runs() {
            if self.held {
                let sent = self.sent.saturating_add(run.bytes.len() as u64);
                if sent > self.received.saturating_mul(AMPLIFICATION) {
                    // As if lost: it will be sent again.
                    continue;
                }
                self.sent = sent;
            }
            send(run.bytes, run.stride);
        }
    }
}

/// The layers of a socket: encryption comes off before one knows whose a packet is.
#[derive(Debug)]
pub(crate) struct Front {
    keys: RwLock<Arc<Keys>>,
    /// For what no session sends.
    answers: Mutex<Layers>,
}

/// The layers of sessions to come, and the keys of those that live.
#[derive(Debug)]
pub(crate) struct Keys {
    config: LayersConfig,
    pub(crate) current: u32,
    used: Arc<()>,
    /// Each as long as a session has it.
    former: Vec<(u32, Weak<()>, Crypt)>,
}

impl Keys {
    fn new(config: &LayersConfig) -> Self {
        Self { config: config.clone(), current: 0, used: Arc::default(), former: Vec::new() }
    }

    /// What a change of the configuration makes of it; none where packets could not be told apart.
    fn next(&self, config: &LayersConfig) -> Option<Self> {
        let (old, new) = (self.config.encryption(), config.encryption());
        let mut next = Self {
            config: config.clone(),
            current: self.current,
            used: self.used.clone(),
            former: Vec::new(),
        };
        next.former = self.former.iter().filter(|(_, uses, _)| uses.strong_count() > 0).cloned().collect();
        let blank = |crypt: &&Crypt| crypt.cipher() == Cipher::Null;
        match (old.filter(|old| !blank(old)), new.filter(|new| !blank(new))) {
            (None, None) => {}
            (Some(old), Some(new)) if old.is_clone_of(new) => {}
            (Some(old), Some(_)) => {
                next.former.push((self.current, Arc::downgrade(&self.used), old.clone()));
                (next.current, next.used) = (self.current.wrapping_add(1), Arc::default());
            }
            _ => return None,
        }
        Some(next)
    }

    /// Decrypts a packet in place, and says which key it took.
    pub(crate) fn open<'a>(&self, packet: &'a mut [u8]) -> Result<(&'a [u8], u32), OpenError> {
        let Some(crypt) = self.config.encryption() else { return Ok((packet, self.current)) };
        if self.former.is_empty() {
            return crypt.open(packet).map(|plain| (&*plain, self.current));
        }
        let sealed = packet.to_vec();
        let former = self.former.iter().filter(|(_, uses, _)| uses.strong_count() > 0);
        let keys = former.map(|(key, _, crypt)| (*key, crypt));
        let found = std::iter::once((self.current, crypt)).chain(keys).find_map(|(key, crypt)| {
            packet.copy_from_slice(&sealed);
            let len = crypt.open(packet).ok()?.len();
            Some((key, crypt.cipher(), len))
        });
        let (key, cipher, len) = found.ok_or(OpenError::Unsealed)?;
        // Where it begins, the cipher knows: what it adds lies before, but for the tag.
        let tail = if cipher.authenticates() { TAG } else { 0 };
        let end = packet.len() - tail;
        Ok((&packet[end - len..end], key))
    }
}

/// Bytes behind an authenticated packet.
const TAG: usize = 16;

impl Front {
    /// What the configuration asks for.
    pub(crate) fn of(config: &KcpConfig, entropy: &Entropy) -> io::Result<Option<Self>> {
        config.layers.as_ref().map(|layers| Self::new(layers, entropy)).transpose()
    }

    fn new(config: &LayersConfig, entropy: &Entropy) -> io::Result<Self> {
        let answers = Mutex::new(bare(config, entropy)?);
        Ok(Self { keys: RwLock::new(Arc::new(Keys::new(config))), answers })
    }

    /// Sessions to come have these layers.
    pub(crate) fn reconfigure(front: Option<&Self>, config: &KcpConfig, entropy: &Entropy) -> io::Result<()> {
        let (front, layers) = match (front, &config.layers) {
            (None, None) => return Ok(()),
            (Some(front), Some(layers)) => (front, layers),
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "layers cannot be added or removed")),
        };
        let answers = bare(layers, entropy)?;
        let mut keys = front.keys.write().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = keys.next(layers) else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "encryption cannot be added or removed"));
        };
        *keys = Arc::new(next);
        *front.answers.lock().unwrap_or_else(PoisonError::into_inner) = answers;
        Ok(())
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The layers of a new session; one that a peer has opened is held from the first packet on.
    pub(crate) fn session(&self, passive: bool, entropy: &Entropy) -> io::Result<Box<Layered>> {
        Layered::new(&self.keys(), passive, entropy).map(Box::new)
    }

    /// Whose a decrypted packet is.
    pub(crate) fn route(plain: &[u8], key: u32) -> Packet<'_> {
        let frame = Frame::parse(plain);
        let datagram = match frame {
            Frame::Plain(datagram) | Frame::Data { datagram, .. } => Some(datagram),
            _ => None,
        };
        Packet { conv: frame.conv(), datagram, whole: plain, key }
    }

    /// Seals a datagram of no session.
    pub(crate) fn seal(&self, now: Timestamp, datagram: &[u8], mut send: impl FnMut(&[u8])) {
        with_sealed(|sealed| {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.seal(now, datagram, datagram.len(), sealed);
            drop(answers);
            sealed.packets().for_each(&mut send);
        });
    }
}

/// The encryption alone.
fn bare(config: &LayersConfig, entropy: &Entropy) -> io::Result<Layers> {
    let mut bare = LayersConfig::new();
    if let Some(crypt) = config.encryption() {
        bare = bare.crypt(crypt.clone());
    }
    Ok(Layers::new(&bare, entropy.bytes()?))
}

/// Runs `f` with an empty buffer.
fn with_sealed(f: impl FnOnce(&mut Sealed)) {
    let mut f = Some(f);
    let mut run = |sealed: &mut Sealed| {
        sealed.clear();
        if let Some(f) = f.take() {
            f(sealed);
        }
    };
    // Gone while the thread ends.
    let lent = SEALED.try_with(|sealed| sealed.try_borrow_mut().map(|mut sealed| run(&mut sealed)));
    if !matches!(lent, Ok(Ok(()))) {
        run(&mut Sealed::default());
    }
}
