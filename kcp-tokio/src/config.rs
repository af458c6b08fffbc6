//! Parameters of an endpoint and of the sessions it opens.

use std::io;

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
}

impl Default for KcpConfig {
    fn default() -> Self {
        Self::from(SessionConfig::default())
    }
}

impl From<SessionConfig> for KcpConfig {
    fn from(session: SessionConfig) -> Self {
        Self { session, backlog: 1024, max_sessions: 1_000_000, socket_buffer: 4 << 20, connect_probe: true }
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

    /// Kernel buffer asked for in each direction, in bytes: default 4 MiB. The system may grant less; one warning is
    /// logged then.
    #[must_use]
    pub fn socket_buffer(mut self, bytes: usize) -> Self {
        self.socket_buffer = bytes;
        self
    }

    /// False: `connect` does not wait for the peer's answer to a probe and is usable at once, for peers that answer no
    /// probes. Then a peer that is not there shows only by the session's timeouts. Default true.
    #[must_use]
    pub fn connect_probe(mut self, on: bool) -> Self {
        self.connect_probe = on;
        self
    }

    pub(crate) fn validate(&self) -> io::Result<()> {
        self.session.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}
