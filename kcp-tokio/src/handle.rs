//! A look at a session from outside its stream: what a server keeps in its tables.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kcp_core::Stats;

use crate::error::KcpError;
use crate::session::Session;
use crate::stats::EndpointStats;

/// One session of an endpoint: [`KcpEndpoint::sessions`](crate::KcpEndpoint::sessions). Does not keep it alive.
#[derive(Clone, Debug)]
pub struct SessionHandle(Arc<Session>);

impl SessionHandle {
    pub(crate) const fn new(session: Arc<Session>) -> Self {
        Self(session)
    }

    /// Where its peer is now.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.0.peer()
    }

    /// The conversation id.
    #[must_use]
    pub fn conv(&self) -> u32 {
        self.0.conv
    }

    /// The socket that it is on, of those of its endpoint: see [`KcpConfig::shards`](crate::KcpConfig::shards).
    #[must_use]
    pub fn shard(&self) -> usize {
        self.0.shard.index
    }

    /// Counters and gauges.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.lock().core.stats()
    }

    /// The same of encryption and error correction, if the configuration has any.
    #[cfg(feature = "layers")]
    #[must_use]
    pub fn layer_stats(&self) -> Option<kcp_layers::LayerStats> {
        self.0.lock().layered.as_ref().map(|layered| layered.stats())
    }

    /// Counters of the socket that it is on.
    #[must_use]
    pub fn endpoint_stats(&self) -> EndpointStats {
        self.0.shard.hub.stats()
    }

    /// Whether the peer is one of ours: see [`KcpStream::is_extended`](crate::KcpStream::is_extended).
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.0.lock().core.is_extended()
    }

    /// Smoothed round-trip time, after the first sample.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        self.0.lock().core.rtt()
    }

    /// Why it has ended, if it has.
    #[must_use]
    pub fn close_reason(&self) -> Option<KcpError> {
        self.0.lock().end()
    }

    /// Sends a message, if there is room for all of it; nothing is copied in message mode.
    ///
    /// # Errors
    /// `WouldBlock` when the peer is slow and the send buffer full; otherwise those of a write.
    pub fn try_send_msg(&self, msg: &Bytes) -> io::Result<()> {
        self.0.try_send_msg(msg)
    }

    /// Sends a datagram that is neither repeated nor ordered: see [`KcpStream::send_datagram`](crate::KcpStream::send_datagram).
    ///
    /// # Errors
    /// The same.
    pub fn send_datagram(&self, data: Bytes) -> io::Result<()> {
        self.0.send_datagram(data)
    }

    /// Ends it at once, and tells the peer where that can be told.
    pub fn abort(&self) {
        self.0.abort();
    }
}

/// What became of a [`broadcast`](crate::KcpEndpoint::broadcast).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Broadcast {
    /// Sessions that took the message.
    pub sent: usize,
    /// Sessions that did not, since their send buffer is full: too slow for what they are sent. The message is not kept for
    /// them; it is for the application to skip, to count or to [`abort`](SessionHandle::abort) them.
    pub slow: Vec<SessionHandle>,
}
