//! Parameters of an endpoint and of the sessions it opens.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

#[cfg(feature = "layers")]
use kcp_layers::{Crypt, FecConfig, LayersConfig};

use kcp_core::SessionConfig;

use crate::steer::MAX_SHARDS;

/// Configuration of [`KcpStream`](crate::KcpStream), [`KcpListener`](crate::KcpListener) and
/// [`KcpEndpoint`](crate::KcpEndpoint). The default needs no change for most uses.
///
/// ```
/// use kcp_tokio::{KcpConfig, SessionConfig};
/// let config = KcpConfig::from(SessionConfig::turbo().mtu(1200)).backlog(4096);
/// ```
#[derive(Clone, Debug)]
pub struct KcpConfig {
    pub(crate) session: SessionConfig,
    pub(crate) backlog: usize,
    pub(crate) max_sessions: usize,
    pub(crate) socket_buffer: usize,
    pub(crate) dscp: u8,
    pub(crate) shards: usize,
    pub(crate) connect_probe: bool,
    pub(crate) half_open: usize,
    pub(crate) recv_budget: usize,
    pub(crate) send_budget: usize,
    pub(crate) max_sessions_per_ip: Option<usize>,
    pub(crate) filter: Filter,
    pub(crate) seed: Option<u64>,
    #[cfg(feature = "layers")]
    pub(crate) layers: Option<LayersConfig>,
    /// What a builder method was given and cannot be: told where the configuration is used.
    #[cfg(feature = "layers")]
    wrong: Option<kcp_layers::ConfigError>,
}

/// Where the kernel finds the conversation.
#[cfg(any(target_os = "android", target_os = "linux"))]
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) enum Conv {
    /// At the beginning.
    Plain,
    /// Behind the headers of error correction, if a packet has them.
    #[cfg(feature = "layers")]
    Framed,
}

type Judge = dyn Fn(SocketAddr) -> bool + Send + Sync;

/// Who may open a session.
#[derive(Clone, Default)]
pub(crate) struct Filter(Option<Arc<Judge>>);

impl Filter {
    pub(crate) fn admits(&self, peer: SocketAddr) -> bool {
        self.0.as_ref().is_none_or(|judge| judge(peer))
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some" } else { "None" })
    }
}

impl Default for KcpConfig {
    fn default() -> Self {
        Self::from(SessionConfig::default())
    }
}

impl From<SessionConfig> for KcpConfig {
    fn from(session: SessionConfig) -> Self {
        Self {
            session,
            backlog: 1024,
            max_sessions: 1_000_000,
            socket_buffer: 4 << 20,
            dscp: 0,
            shards: 1,
            connect_probe: true,
            half_open: 4096,
            recv_budget: 1 << 30,
            send_budget: 1 << 30,
            max_sessions_per_ip: None,
            filter: Filter::default(),
            seed: None,
            #[cfg(feature = "layers")]
            layers: None,
            #[cfg(feature = "layers")]
            wrong: None,
        }
    }
}

impl KcpConfig {
    /// [`SessionConfig::normal`].
    #[must_use]
    pub fn normal() -> Self {
        SessionConfig::normal().into()
    }

    /// [`SessionConfig::fast`], the default.
    #[must_use]
    pub fn fast() -> Self {
        SessionConfig::fast().into()
    }

    /// [`SessionConfig::turbo`].
    #[must_use]
    pub fn turbo() -> Self {
        SessionConfig::turbo().into()
    }

    /// [`SessionConfig::realtime`].
    #[must_use]
    pub fn realtime() -> Self {
        SessionConfig::realtime().into()
    }

    /// Parameters of each session.
    #[must_use]
    pub fn session(mut self, session: SessionConfig) -> Self {
        self.session = session;
        self
    }

    /// Sessions that wait for `accept` at most: default 1024. Newer ones are dropped, and counted.
    #[must_use]
    pub fn backlog(mut self, sessions: usize) -> Self {
        self.backlog = sessions;
        self
    }

    /// Sessions on one socket at most: default 1 000 000. Newer ones are dropped, and counted.
    #[must_use]
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.max_sessions = sessions;
        self
    }

    /// Sessions at most that were opened by an address which has proven nothing yet: default 4096. They end after 10 s; when
    /// there are too many, the oldest does. When a quarter is taken, one network (/24, /56) may have 64, and one address open
    /// 20 a second.
    #[must_use]
    pub fn half_open(mut self, sessions: usize) -> Self {
        self.half_open = sessions;
        self
    }

    /// Payload that all sessions of one socket hold received and unread, in bytes: default 1 GiB. While less
    /// than half of it is held each session has its `recv_buffer`; then a share of the rest, and its peer sees a smaller window.
    /// One segment per session is always taken.
    #[must_use]
    pub fn recv_budget(mut self, bytes: usize) -> Self {
        self.recv_budget = bytes;
        self
    }

    /// The same for what was written and is not acknowledged: default 1 GiB. A writer waits when its session
    /// has its share.
    #[must_use]
    pub fn send_budget(mut self, bytes: usize) -> Self {
        self.send_budget = bytes;
        self
    }

    /// Sessions of one address at most: default no limit, since many clients may share one.
    #[must_use]
    pub fn max_sessions_per_ip(mut self, sessions: Option<usize>) -> Self {
        self.max_sessions_per_ip = sessions;
        self
    }

    /// Who may open a session: asked for every first datagram of a stranger, so it must be quick. Default everybody.
    #[must_use]
    pub fn filter(mut self, judge: impl Fn(SocketAddr) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Filter(Some(Arc::new(judge)));
        self
    }

    /// For simulations only: conversation ids, tokens and nonces come from this seed and are the same every time, so that whoever
    /// knows it can forge them. Default none: they come from the operating system.
    #[must_use]
    pub fn predictable(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Kernel buffer asked for in each direction, in bytes: default 4 MiB. The system may grant less; one warning is
    /// logged then.
    #[must_use]
    pub fn socket_buffer(mut self, bytes: usize) -> Self {
        self.socket_buffer = bytes;
        self
    }

    /// The class that routers are asked to treat datagrams by (differentiated services code point): 0..=63, default 0, best effort.
    /// 46 is "expedited forwarding", what telephony uses. Other values than 0 are `Unsupported` outside Linux and Android.
    #[must_use]
    pub fn dscp(mut self, class: u8) -> Self {
        self.dscp = class;
        self
    }

    /// Sockets that an endpoint or a listener opens on its address, each with a driver task of its own, so that several cores
    /// of a multi-thread runtime receive: 1 to 256, default 1. [`accept`](crate::KcpListener::accept) yields from all of them.
    ///
    /// The sockets share the port (`SO_REUSEPORT`), and a filter in the kernel sends each datagram to the one that the
    /// low byte of its conv says, so that a session stays on its socket when its client's port changes. No privileges are
    /// needed. With packet encryption the kernel cannot see conv and chooses by addresses; then a client whose port has
    /// changed may be heard by another socket, which finds the session all the same.
    ///
    /// For Linux and Android: elsewhere one socket is opened, whatever is asked for. So has every dialled
    /// [`KcpStream`](crate::KcpStream) with a socket of its own.
    #[must_use]
    pub fn shards(mut self, sockets: usize) -> Self {
        self.shards = sockets;
        self
    }

    /// False: `connect` does not wait for the peer's answer to a probe and is usable at once (`connect_lazy` does the same).
    /// Then a peer that is not there shows only by the session's timeouts. Default true.
    #[must_use]
    pub fn connect_probe(mut self, on: bool) -> Self {
        self.connect_probe = on;
        self
    }

    /// Forward error correction as kcp-go has it: after every `data` packets follow `parity` more, any of which replaces any
    /// that got lost. Both at least 1, together at most 255; a wrong shape is told by `bind` and `connect`. Groups that do not
    /// fill up are protected after a while, which kcp-go understands but does not do itself: [`layers`](Self::layers) has the
    /// details. Default none.
    ///
    /// The [`mtu`](SessionConfig::mtu) stays that of the UDP payload: segments get as much shorter as the layers need.
    /// Both ends must have layers; the shape is each end's own.
    ///
    /// ```
    /// use kcp_tokio::KcpConfig;
    /// use kcp_tokio::layers::{Cipher, Crypt};
    /// let config = KcpConfig::fast().fec(10, 3).crypt(Crypt::from_password(Cipher::Aes128Gcm, "a long secret"));
    /// ```
    #[cfg(feature = "layers")]
    #[must_use]
    pub fn fec(mut self, data: u8, parity: u8) -> Self {
        match FecConfig::new(data, parity) {
            Ok(fec) => self.layers = Some(self.layers.unwrap_or_default().fec(fec)),
            Err(error) => self.wrong = Some(error),
        }
        self
    }

    /// Packet encryption: every packet of the socket is sealed with this key, and others are dropped and counted.
    /// [`Crypt`](kcp_layers::Crypt) says which ciphers authenticate; most of kcptun's do not. Default none.
    #[cfg(feature = "layers")]
    #[must_use]
    pub fn crypt(mut self, crypt: Crypt) -> Self {
        self.layers = Some(self.layers.unwrap_or_default().crypt(crypt));
        self
    }

    /// Both in detail: times and bounds of the error correction, or the correction of what the peer sends alone
    /// (`LayersConfig::new()`).
    #[cfg(feature = "layers")]
    #[must_use]
    pub fn layers(mut self, layers: LayersConfig) -> Self {
        self.layers = Some(layers);
        self
    }

    /// How conv lies in packets on the wire; `None` if it is encrypted.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    pub(crate) fn shows_conv(&self) -> Option<Conv> {
        #[cfg(feature = "layers")]
        if let Some(layers) = &self.layers {
            return layers.encryption().is_none().then_some(Conv::Framed);
        }
        Some(Conv::Plain)
    }

    /// The parameters of each session, with room left for the layers.
    pub(crate) fn inner_session(&self) -> SessionConfig {
        #[cfg(feature = "layers")]
        if let Some(layers) = &self.layers {
            let room = layers.kcp_mtu(self.session.mtu_bytes()).unwrap_or(0);
            return self.session.clone().mtu(room);
        }
        self.session.clone()
    }

    pub(crate) fn validate(&self) -> io::Result<()> {
        #[cfg(feature = "layers")]
        if let Some(error) = self.wrong {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        if self.dscp > 63 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "dscp outside 0..=63"));
        }
        if !(1..=MAX_SHARDS).contains(&self.shards) {
            let error = format!("{} shards: 1 to {MAX_SHARDS} are possible", self.shards);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        // A limit of 0 would refuse everybody without a word; `stop_accepting` does it with one.
        for (limit, name) in [
            (Some(self.backlog), "backlog"),
            (Some(self.half_open), "half_open"),
            (Some(self.max_sessions), "max_sessions"),
            (self.max_sessions_per_ip, "max_sessions_per_ip"),
        ] {
            if limit == Some(0) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} must not be 0")));
            }
        }
        let valid = self.session.validate().and_then(|()| self.inner_session().validate());
        valid.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}
