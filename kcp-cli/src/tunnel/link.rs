//! One session of the tunnel: KCP, the limit, compression and the multiplexer, one on the other.

use std::sync::Arc;

use anyhow::Result;
use kcp_smux::snappy::Snappy;
use kcp_smux::{Session, Version};
use kcp_tokio::KcpStream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::counters::Counters;
use super::pace::Paced;
use super::pipe::Manners;
use super::settings::Settings;

/// A session and how its streams end.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) mux: Session,
    pub(crate) manners: Manners,
}

impl Link {
    /// On top of a session that was dialled (`client`) or accepted.
    pub(crate) fn new(
        kcp: KcpStream,
        client: bool,
        settings: &Settings,
        counters: &Arc<Counters>,
    ) -> Result<Self> {
        let v2 = settings.version == Version::V2;
        let manners =
            Manners { half_close: kcp.is_extended() && v2, client, tells: v2, wait: settings.close_wait };
        counters.session(kcp.handle(), client);
        let io = Paced::new(kcp, settings.rate);
        let mux = if settings.compress {
            start(Snappy::new(io), client, settings)
        } else {
            start(io, client, settings)
        }?;
        Ok(Self { mux, manners })
    }
}

fn start<T>(io: T, client: bool, settings: &Settings) -> Result<Session>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = settings.smux.clone();
    Ok(if client { Session::client(io, config) } else { Session::server(io, config) }?)
}
