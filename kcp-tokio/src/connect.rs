//! Dialling from a socket of its own: each resolved address in turn, until one answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{ToSocketAddrs, lookup_host};

use crate::config::KcpConfig;
use crate::endpoint::KcpEndpoint;
use crate::socket::{DatagramSocket, UdpIo};
use crate::stream::KcpStream;

pub(crate) async fn connect(addr: impl ToSocketAddrs, config: KcpConfig) -> io::Result<KcpStream> {
    config.validate()?;
    let mut last = None;
    for peer in lookup_host(addr).await? {
        match connect_one(peer, &config).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")))
}

async fn connect_one(peer: SocketAddr, config: &KcpConfig) -> io::Result<KcpStream> {
    let socket = UdpIo::connect(peer, config)?;
    let endpoint = KcpEndpoint::start(vec![Arc::new(socket)], config.clone(), false)?;
    endpoint.connect(peer).await
}

/// Sessions know their peers by addresses of one family: those of an IPv6 socket are mapped where they are IPv4's.
pub(crate) fn same_family(socket: &std::net::UdpSocket, before: SocketAddr) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() == before.is_ipv4() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "the new socket is of the other family (IPv4, IPv6)"))
}

/// Takes over a socket, and connects it where it has one peer only.
pub(crate) async fn adopt(
    socket: std::net::UdpSocket,
    config: &KcpConfig,
    peer: Option<SocketAddr>,
) -> io::Result<Arc<dyn DatagramSocket>> {
    socket.set_nonblocking(true)?;
    if let Some(peer) = peer {
        socket.connect(peer)?;
    }
    Ok(Arc::new(UdpIo::new(socket, config)?))
}

pub(crate) async fn connect_on(
    socket: std::net::UdpSocket,
    peer: SocketAddr,
    config: KcpConfig,
) -> io::Result<KcpStream> {
    config.validate()?;
    let socket = adopt(socket, &config, Some(peer)).await?;
    KcpEndpoint::start(vec![socket], config, false)?.connect(peer).await
}
