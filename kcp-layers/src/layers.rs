//! The layers of one session, composed: `encrypt(protect(kcp))`.

use kcp_core::Timestamp;

use crate::crypt::{Crypt, Nonces};
use crate::error::{OpenError, PayloadTooLong};
use crate::fec::{
    Controller, Decoder, Encoder, FecConfig, FecLimits, Frame, INTERVAL, Tally, out_of_band_header,
};
use crate::sealed::{Batch, Sealed};
use crate::stats::LayerStats;

/// Which layers lie between KCP and the socket. None by default: packets pass as they are.
///
/// Cipher and key must be those of the peer. Error correction need not: each direction has its own, and the receiver finds
/// out what the sender does.
#[derive(Clone, Debug, Default)]
pub struct LayersConfig {
    fec: Option<FecConfig>,
    limits: FecLimits,
    crypt: Option<Crypt>,
}

impl LayersConfig {
    /// No layers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Protects what is sent. What the peer protects is used in any case.
    #[must_use]
    pub const fn fec(mut self, fec: FecConfig) -> Self {
        self.fec = Some(fec);
        self
    }

    /// What recovering the peer's packets may take.
    #[must_use]
    pub const fn fec_limits(mut self, limits: FecLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Encrypts what is sent, and takes only what is encrypted with the same key.
    #[must_use]
    pub fn crypt(mut self, crypt: Crypt) -> Self {
        self.crypt = Some(crypt);
        self
    }

    /// The encryption, if any: it is common to all sessions of a socket, and comes off before one knows whose packet it is.
    #[must_use]
    pub const fn encryption(&self) -> Option<&Crypt> {
        self.crypt.as_ref()
    }

    /// Bytes that a KCP datagram grows by, at most:
    ///
    /// | | without FEC | with | with time limit |
    /// |---|---:|---:|---:|
    /// | no encryption, `null` | 0 | 8 | 16 |
    /// | AES-GCM | 28 | 36 | 44 |
    /// | other ciphers, `none` | 20 | 28 | 36 |
    #[must_use]
    pub fn overhead(&self) -> usize {
        self.crypt.as_ref().map_or(0, Crypt::overhead) + self.fec.as_ref().map_or(0, FecConfig::overhead)
    }

    /// The MTU that leaves KCP's datagrams room for the layers in UDP payloads of `payload` bytes; none if nothing is left.
    ///
    /// ```
    /// use kcp_layers::{Cipher, Crypt, FecConfig, LayersConfig};
    /// let fec = FecConfig::new(10, 3)?.flush_after(None);
    /// let kcptun = LayersConfig::new().crypt(Crypt::from_password(Cipher::Aes256, "it's a secrect")).fec(fec);
    /// assert_eq!(kcptun.kcp_mtu(1350), Some(1322));
    /// # Ok::<(), kcp_layers::ConfigError>(())
    /// ```
    #[must_use]
    pub fn kcp_mtu(&self, payload: usize) -> Option<usize> {
        payload.checked_sub(self.overhead()).filter(|&mtu| mtu > 0)
    }
}

/// What a received packet turned out to hold. One may hold none of it or several.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub enum Opened<'a> {
    /// A KCP datagram, as it was received.
    Datagram(&'a [u8]),
    /// A KCP datagram that was lost and restored. Others, sent later, have come before it.
    Recovered(&'a [u8]),
    /// An application's packet beside KCP.
    OutOfBand {
        /// The conversation that it says it belongs to.
        conv: u32,
        /// What it carries.
        payload: &'a [u8],
    },
}

/// The layers of one session, both directions. Neither a socket nor a clock: packets and time are arguments.
///
/// Sending, a run of KCP datagrams goes [in](Self::seal) and runs of packets come out. When [`poll_timeout`] is due,
/// [`handle_timeout`] may have more to send. Receiving, a packet goes [in](Self::open) and datagrams come out; where several
/// sessions share a socket, [`Crypt::open`] comes first, [`Frame::conv`] then tells whose it is, and [`receive`]
/// does the rest.
///
/// [`poll_timeout`]: Self::poll_timeout
/// [`handle_timeout`]: Self::handle_timeout
/// [`receive`]: Self::receive
///
/// ```
/// use kcp_core::Timestamp;
/// use kcp_layers::{Cipher, Crypt, FecConfig, Layers, LayersConfig, Opened, Sealed};
///
/// let config = LayersConfig::new()
///     .crypt(Crypt::from_password(Cipher::Aes128Gcm, "correct horse battery staple"))
///     .fec(FecConfig::new(2, 1)?);
/// // The seeds come from the operating system, one for each.
/// let (mut here, mut there) = (Layers::new(&config, [1; 32]), Layers::new(&config, [2; 32]));
/// let now = Timestamp::ZERO;
///
/// // Three groups of two datagrams of 4 bytes, as KCP would lay them out; then the first packet of the last is lost.
/// let mut out = Sealed::default();
/// here.seal(now, b"one.two.one.two.one.two.", 4, &mut out);
/// let mut packets: Vec<_> = out.packets().map(<[u8]>::to_vec).collect();
/// assert_eq!(packets.len(), 9);
/// packets.remove(6);
///
/// let mut received = Vec::new();
/// for packet in &mut packets {
///     there.open(now, packet, |opened| {
///         let (Opened::Datagram(bytes) | Opened::Recovered(bytes)) = opened else { return };
///         received.push(bytes.to_vec());
///     })?;
/// }
/// assert_eq!(received[4..], [b"two.", b"one."]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Layers {
    crypt: Option<Crypt>,
    nonces: Nonces,
    encoder: Option<Encoder>,
    limits: FecLimits,
    /// Made when the first packet of a protected peer comes.
    decoder: Option<Decoder>,
    adaptation: Option<Adaptation>,
    /// The conversation, for reports.
    conv: Option<u32>,
    held: bool,
    stats: LayerStats,
}

#[derive(Debug)]
struct Adaptation {
    controller: Controller,
    /// When to look next; none while nothing comes and nothing goes.
    due: Option<Timestamp>,
    /// What the last report said.
    reported: Tally,
}

impl Layers {
    /// `seed`, from a secure source and no other session's, is where nonces come from.
    #[must_use]
    pub fn new(config: &LayersConfig, seed: [u8; 32]) -> Self {
        let adaptation = config.fec.and_then(|fec| Some(Controller::new(fec.shape, fec.adaptive?)));
        Self {
            crypt: config.crypt.clone(),
            nonces: Nonces::new(seed),
            encoder: config.fec.map(Encoder::new),
            limits: config.limits,
            decoder: None,
            adaptation: adaptation.map(|controller| Adaptation {
                controller,
                due: None,
                reported: Tally::default(),
            }),
            conv: None,
            held: false,
            stats: LayerStats::default(),
        }
    }

    /// Seals a run of KCP datagrams, each `stride` bytes long but the last, which may be shorter, and adds the packets to
    /// `out`. Parity follows the datagram that completes its group.
    pub fn seal(&mut self, now: Timestamp, run: &[u8], stride: usize, out: &mut Sealed) {
        self.arm(now);
        let mut batch = batch(self.crypt.as_ref(), out);
        for datagram in run.chunks(stride.max(1)) {
            match &mut self.encoder {
                Some(encoder) => encoder.data(now, datagram, &mut batch),
                None => batch.push(&[datagram]),
            }
        }
        if self.adaptation.is_some() {
            self.conv = run.first_chunk().map(|conv| u32::from_le_bytes(*conv)).or(self.conv);
        }
        encrypt(self.crypt.as_ref(), &mut self.nonces, batch);
    }

    /// Seals a packet beside KCP: it may get lost, is not repeated, and is not protected. Only peers that know kcp-go's
    /// out-of-band packets take it; older ones drop it, unless its first four bytes are zero: then their listener takes it for
    /// a new session.
    ///
    /// # Errors
    /// [`PayloadTooLong`] above 65 529 bytes. Above `kcp_mtu - 4` it does not fit a packet of the path's MTU.
    pub fn seal_out_of_band(
        &mut self,
        conv: u32,
        payload: &[u8],
        out: &mut Sealed,
    ) -> Result<(), PayloadTooLong> {
        let header = out_of_band_header(conv, payload.len()).ok_or(PayloadTooLong(payload.len()))?;
        let mut batch = batch(self.crypt.as_ref(), out);
        batch.push(&[&header, payload]);
        self.stats.out_of_band_sent += 1;
        encrypt(self.crypt.as_ref(), &mut self.nonces, batch);
        Ok(())
    }

    /// Opens a received packet in place, and hands on what is in it.
    ///
    /// # Errors
    /// [`OpenError`]: refused and counted, nothing was handed on.
    pub fn open(
        &mut self,
        now: Timestamp,
        packet: &mut [u8],
        deliver: impl FnMut(Opened<'_>),
    ) -> Result<(), OpenError> {
        let opened = match &self.crypt {
            Some(crypt) => crypt.open(packet),
            None => Ok(packet),
        };
        match opened {
            Ok(plain) => self.receive(now, plain, deliver),
            Err(error) => {
                match error {
                    OpenError::Short => self.stats.short += 1,
                    _ => self.stats.unsealed += 1,
                }
                Err(error)
            }
        }
    }

    /// The same for a packet that is decrypted already.
    ///
    /// # Errors
    /// [`OpenError::Malformed`]: counted, nothing was handed on.
    pub fn receive(
        &mut self,
        now: Timestamp,
        plain: &[u8],
        mut deliver: impl FnMut(Opened<'_>),
    ) -> Result<(), OpenError> {
        match Frame::parse(plain) {
            Frame::Plain(datagram) => deliver(Opened::Datagram(datagram)),
            Frame::Data { seqid, datagram, shard } => {
                deliver(Opened::Datagram(datagram));
                self.arm(now);
                self.decoder().data(now, seqid, shard, &mut |datagram| deliver(Opened::Recovered(datagram)));
            }
            Frame::Parity { seqid, shard } => {
                self.arm(now);
                self.decoder()
                    .parity(now, seqid, shard, &mut |datagram| deliver(Opened::Recovered(datagram)));
            }
            Frame::OutOfBand { conv, payload } => {
                self.stats.out_of_band_received += 1;
                match (Tally::decode(payload), &mut self.adaptation) {
                    (Some(tally), Some(adaptation)) => adaptation.controller.report(now, tally),
                    // A report that we did not want.
                    (Some(_), None) => {}
                    (None, _) => deliver(Opened::OutOfBand { conv, payload }),
                }
            }
            Frame::Malformed => {
                self.stats.malformed += 1;
                return Err(OpenError::Malformed);
            }
        }
        Ok(())
    }

    /// Sends no parity and no repetitions while `hold`: to an address that has proven nothing must not go more than a few times
    /// of what came from there.
    pub fn hold_parity(&mut self, hold: bool) {
        self.held = hold;
        if let Some(encoder) = &mut self.encoder {
            encoder.hold(hold);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do; none while nothing is pending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let encoder = self.encoder.as_ref().and_then(Encoder::deadline);
        let decoder = self.decoder.as_ref().and_then(Decoder::deadline);
        let adaptation = self.adaptation.as_ref().and_then(|adaptation| adaptation.due);
        [encoder, decoder, adaptation].into_iter().flatten().min()
    }

    /// Protects a group whose time is over, looks at the loss, gives back memory that nothing uses. Packets are added to `out`.
    pub fn handle_timeout(&mut self, now: Timestamp, out: &mut Sealed) {
        if let Some(decoder) = &mut self.decoder {
            decoder.handle_timeout(now);
        }
        let report = self.adapt(now);
        let mut batch = batch(self.crypt.as_ref(), out);
        if let Some(encoder) = &mut self.encoder {
            encoder.handle_timeout(now, &mut batch);
        }
        encrypt(self.crypt.as_ref(), &mut self.nonces, batch);
        if let Some((conv, report)) = report {
            // Twelve bytes fit.
            let _ = self.seal_out_of_band(conv, &report.encode(), out);
        }
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> LayerStats {
        let mut stats = self.stats;
        if let Some(encoder) = &self.encoder {
            stats.fec_data_sent = encoder.sent.data;
            stats.fec_parity_sent = encoder.sent.parity;
            stats.fec_repeated = encoder.sent.repeated;
            stats.fec_unprotected = encoder.sent.unprotected;
            stats.fec_rows = encoder.wanted_rows();
        }
        if let Some(decoder) = &self.decoder {
            stats.fec_data_received = decoder.received.data;
            stats.fec_parity_received = decoder.received.parity;
            stats.fec_recovered = decoder.received.recovered;
            stats.fec_useless = decoder.received.useless;
            stats.fec_lost_groups = decoder.received.lost_groups;
            stats.fec_lost = decoder.received.lost;
            stats.fec_duplicates = decoder.received.duplicates;
            stats.fec_late = decoder.received.late;
            stats.fec_stray = decoder.received.stray;
            stats.fec_contradictions = decoder.received.contradictions;
            stats.fec_retuned = decoder.received.retuned;
            stats.fec_corrupt = decoder.received.corrupt;
            stats.fec_over_limit = decoder.received.over_limit;
            stats.fec_held = decoder.held();
            stats.fec_peer_shape = decoder.shape();
        }
        stats.fec_loss = self.adaptation.as_ref().and_then(|adaptation| adaptation.controller.loss());
        stats
    }

    fn decoder(&mut self) -> &mut Decoder {
        let expected = self.encoder.as_ref().map(Encoder::code);
        self.decoder.get_or_insert_with(|| Decoder::new(self.limits, expected.cloned()))
    }

    /// Something came or went: the loss is worth a look in a while.
    fn arm(&mut self, now: Timestamp) {
        if let Some(adaptation) = &mut self.adaptation {
            adaptation.due.get_or_insert(now + INTERVAL);
        }
    }

    /// Adapts to the loss, and says what to report to whom.
    fn adapt(&mut self, now: Timestamp) -> Option<(u32, Tally)> {
        let adaptation = self.adaptation.as_mut()?;
        adaptation.due.filter(|&due| due <= now)?;
        adaptation.due = None;
        let tally = self.decoder.as_ref().map_or(Tally::default(), Decoder::tally);
        adaptation.controller.look(now, tally);
        if let Some(encoder) = &mut self.encoder {
            encoder.set_rows(adaptation.controller.rows());
        }
        let conv = self.conv.filter(|_| tally != adaptation.reported && !self.held)?;
        adaptation.reported = tally;
        Some((conv, tally))
    }
}

fn batch<'a>(crypt: Option<&Crypt>, out: &'a mut Sealed) -> Batch<'a> {
    let (head, tail) = crypt.map_or((0, 0), Crypt::room);
    out.batch(head, tail)
}

fn encrypt(crypt: Option<&Crypt>, nonces: &mut Nonces, batch: Batch<'_>) {
    if let Some(crypt) = crypt {
        batch.finish(|packets, stride| crypt.seal(packets, stride, nonces));
    }
}
