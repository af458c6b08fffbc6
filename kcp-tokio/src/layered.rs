//! Forward error correction and encryption between sessions and their socket: per session what it seals and opens, per
//! socket whose a packet is.

use std::cell::RefCell;
use std::io;
use std::sync::{Mutex, PoisonError};

use kcp_core::Timestamp;
use kcp_layers::{Frame, LayerStats, Layers, LayersConfig, OpenError, Opened, Sealed};

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
}

impl Layered {
    fn new(config: &LayersConfig, held: bool, entropy: &Entropy) -> io::Result<Self> {
        let mut layers = Layers::new(config, entropy.bytes()?);
        layers.hold_parity(held);
        Ok(Self { layers, received: 0, sent: 0, held })
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
    config: LayersConfig,
    /// For what no session sends.
    answers: Mutex<Layers>,
}

impl Front {
    /// What the configuration asks for.
    pub(crate) fn of(config: &KcpConfig, entropy: &Entropy) -> io::Result<Option<Self>> {
        config.layers.as_ref().map(|layers| Self::new(layers, entropy)).transpose()
    }

    fn new(config: &LayersConfig, entropy: &Entropy) -> io::Result<Self> {
        let mut bare = LayersConfig::new();
        if let Some(crypt) = config.encryption() {
            bare = bare.crypt(crypt.clone());
        }
        Ok(Self { config: config.clone(), answers: Mutex::new(Layers::new(&bare, entropy.bytes()?)) })
    }

    /// The layers of a new session; one that a peer has opened is held from the first packet on.
    pub(crate) fn session(&self, passive: bool, entropy: &Entropy) -> io::Result<Box<Layered>> {
        Layered::new(&self.config, passive, entropy).map(Box::new)
    }

    /// Decrypts a packet in place.
    pub(crate) fn open<'a>(&self, packet: &'a mut [u8]) -> Result<&'a [u8], OpenError> {
        match self.config.encryption() {
            Some(crypt) => crypt.open(packet).map(|plain| &*plain),
            None => Ok(packet),
        }
    }

    /// Whose a decrypted packet is.
    pub(crate) fn route(plain: &[u8]) -> Packet<'_> {
        let frame = Frame::parse(plain);
        let datagram = match frame {
            Frame::Plain(datagram) | Frame::Data { datagram, .. } => Some(datagram),
            _ => None,
        };
        Packet { conv: frame.conv(), datagram, whole: plain }
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
