//! Parameters of a session.

use std::time::Duration;

use crate::error::ConfigError;

/// Version of the protocol; both ends must have the same.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Hash)]
pub enum Version {
    /// One budget for all streams.
    V1,
    /// The same, and a window per stream.
    #[default]
    V2,
}

impl Version {
    /// As on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

/// Parameters of a [`Session`](crate::Session). Only the version must be that of the peer.
///
/// ```
/// use kcp_smux::{Config, Version};
/// let config = Config::new(Version::V1).max_frame(8192).max_streams(100);
/// assert!(config.validate().is_ok());
/// assert!(config.max_frame(65_536).validate().is_err());
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    pub(crate) version: Version,
    pub(crate) keepalive: Option<Duration>,
    pub(crate) timeout: Duration,
    pub(crate) max_frame: usize,
    pub(crate) receive_buffer: usize,
    pub(crate) stream_buffer: usize,
    pub(crate) send_buffer: usize,
    pub(crate) max_streams: usize,
    pub(crate) accept_backlog: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self::new(Version::default())
    }
}

impl Config {
    /// The defaults with this version.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self {
            version,
            keepalive: Some(Duration::from_secs(10)),
            timeout: Duration::from_secs(30),
            max_frame: 32_768,
            receive_buffer: 4 << 20,
            stream_buffer: 2 << 20,
            send_buffer: 64 << 10,
            max_streams: 4096,
            accept_backlog: 1024,
        }
    }

    /// How often a session that has nothing to send sends a sign of life: default 10 s. None: never, and the peer's silence ends
    /// nothing.
    #[must_use]
    pub const fn keepalive(mut self, period: Option<Duration>) -> Self {
        self.keepalive = period;
        self
    }

    /// After so long without a byte of the peer the session ends, unless it does not listen itself because its receive buffer is
    /// full: default 30 s. A stream that was dropped while its peer does not read gives up after it, too.
    #[must_use]
    pub const fn timeout(mut self, after: Duration) -> Self {
        self.timeout = after;
        self
    }

    /// Payload of a frame in bytes, at most: 1..=65535, default 32768. Streams take turns by frames: shorter ones are fairer,
    /// longer ones cheaper.
    #[must_use]
    pub const fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes;
        self
    }

    /// Bytes that all streams of a session hold received and unread, at most: default 4 MiB. When they do, nothing more is taken
    /// from the connection.
    #[must_use]
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Version 2: bytes that one stream holds received and unread, at most: default 2 MiB, at most `receive_buffer`. Until a
    /// stream is read for the first time its peer assumes 256 KiB. Version 1 has no such bound.
    #[must_use]
    pub const fn stream_buffer(mut self, bytes: usize) -> Self {
        self.stream_buffer = bytes;
        self
    }

    /// Bytes that one stream holds written and not yet sent, at most, before a write waits: default 64 KiB.
    #[must_use]
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Streams at once, of both sides together: default 4096.
    #[must_use]
    pub const fn max_streams(mut self, streams: usize) -> Self {
        self.max_streams = streams;
        self
    }

    /// Streams that wait for [`accept`](crate::Session::accept), at most: default 1024. Further ones are refused with FIN.
    #[must_use]
    pub const fn accept_backlog(mut self, streams: usize) -> Self {
        self.accept_backlog = streams;
        self
    }

    /// Checks every parameter.
    ///
    /// # Errors
    /// The first that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.max_frame == 0 || self.max_frame > usize::from(u16::MAX) {
            return Err(ConfigError::Frame(self.max_frame));
        }
        for (bytes, name) in [
            (self.receive_buffer, "receive_buffer"),
            (self.stream_buffer, "stream_buffer"),
            (self.send_buffer, "send_buffer"),
            (self.max_streams, "max_streams"),
            (self.accept_backlog, "accept_backlog"),
        ] {
            // Half the range of the wire's counters.
            if bytes == 0 || bytes > i32::MAX as usize {
                return Err(ConfigError::Range(name));
            }
        }
        if self.version == Version::V2 && self.stream_buffer > self.receive_buffer {
            return Err(ConfigError::StreamBuffer);
        }
        if self.timeout.is_zero() || self.keepalive.is_some_and(|keepalive| keepalive.is_zero()) {
            return Err(ConfigError::Range("keepalive and timeout"));
        }
        if self.keepalive.is_some_and(|keepalive| keepalive >= self.timeout) {
            return Err(ConfigError::Keepalive);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_pinned_from_both_sides() {
        let base = Config::default;
        let seconds = Duration::from_secs;
        for (good, bad) in [
            (base().max_frame(1), base().max_frame(0)),
            (base().max_frame(65_535), base().max_frame(65_536)),
            (base().stream_buffer(4 << 20), base().stream_buffer((4 << 20) + 1)),
            (base().receive_buffer(2 << 20), base().receive_buffer((2 << 20) - 1)),
            (base().send_buffer(1), base().send_buffer(0)),
            (base().max_streams(1), base().max_streams(0)),
            (base().accept_backlog(1), base().accept_backlog(0)),
            (base().keepalive(Some(seconds(29))), base().keepalive(Some(seconds(30)))),
            (base().keepalive(None), base().keepalive(Some(Duration::ZERO))),
            (Config::new(Version::V1).receive_buffer(1), Config::new(Version::V2).receive_buffer(1)),
        ] {
            assert_eq!(good.validate(), Ok(()));
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
