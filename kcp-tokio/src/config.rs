//! Parameters of an endpoint and of the sessions it opens.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kcp_core::SessionConfig;

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
    pub(crate) connect_probe: bool,
    pub(crate) half_open: usize,
    pub(crate) recv_budget: usize,
    pub(crate) send_budget: usize,
    pub(crate) max_sessions_per_ip: Option<usize>,
    pub(crate) filter: Filter,
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
            connect_probe: true,
            half_open: 4096,
            recv_budget: 1 << 30,
            send_budget: 1 << 30,
            max_sessions_per_ip: None,
            filter: Filter::default(),
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

    /// Kernel buffer asked for in each direction, in bytes: default 4 MiB. The system may grant less; one warning is
    /// logged then.
    #[must_use]
    pub fn socket_buffer(mut self, bytes: usize) -> Self {
        self.socket_buffer = bytes;
        self
    }

    /// False: `connect` does not wait for the peer's answer to a probe and is usable at once (`connect_lazy` does the same).
    /// Then a peer that is not there shows only by the session's timeouts. Default true.
    #[must_use]
    pub fn connect_probe(mut self, on: bool) -> Self {
        self.connect_probe = on;
        self
    }

    pub(crate) fn validate(&self) -> io::Result<()> {
        self.session.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}
