//! Addresses as kcptun writes them: `:port` for every interface, paths for Unix sockets, ranges of ports.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, lookup_host};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

/// What Go does to TCP connections.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Of a listener's range.
const MOST_PORTS: u16 = 1024;

/// The TCP side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Local {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// The UDP side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Remote {
    host: String,
    ports: RangeInclusive<u16>,
}

impl Local {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some((host, port)) = split(text)
            && let Ok(port) = port.parse()
        {
            return Ok(Self::Tcp { host: host.into(), port });
        }
        // As kcptun: what is no host:port is a path. One with a colon is more likely a slip.
        ensure!(!text.is_empty() && !text.contains([':', '\0']), "{text:?} is neither host:port nor a path");
        Ok(Self::Unix(text.into()))
    }

    pub(crate) async fn listen(&self) -> Result<Listener> {
        let listener = match self {
            Self::Tcp { host, port } => {
                let addrs = resolve(host, *port).await?;
                Listener::Tcp(TcpListener::bind(addrs.as_slice()).await?)
            }
            #[cfg(unix)]
            Self::Unix(path) => {
                use std::os::unix::fs::FileTypeExt;
                // What an earlier run has left: a socket, and nothing else.
                if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
                    && std::os::unix::net::UnixStream::connect(path).is_err()
                {
                    let _ = std::fs::remove_file(path);
                }
                Listener::Unix(UnixListener::bind(path)?, Unlink(path.clone()))
            }
            #[cfg(not(unix))]
            Self::Unix(_) => bail!("no Unix sockets on this system"),
        };
        Ok(listener)
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp { host, port } => {
                let host = if host.is_empty() { "localhost" } else { host };
                Connection::tcp(TcpStream::connect((host, *port)).await?)
            }
            #[cfg(unix)]
            Self::Unix(path) => Ok(Connection::Unix(UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Remote {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (host, ports) =
            split(text).with_context(|| format!("{text:?} is not host:port or host:min-max"))?;
        let (min, max) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().with_context(|| format!("{text:?} is no port"));
        let ports = port(min)?..=port(max)?;
        if ports.is_empty() {
            bail!("{text:?}: the range of ports is empty");
        }
        Ok(Self { host: host.into(), ports })
    }

    /// One of the ports by chance, and the addresses of the host.
    pub(crate) async fn pick(&self) -> Result<Vec<SocketAddr>> {
        let host = if self.host.is_empty() { "localhost" } else { &self.host };
        let found = lookup_host((host, fastrand::u16(self.ports.clone()))).await;
        let addrs: Vec<_> = found.with_context(|| format!("cannot resolve {host}"))?.collect();
        ensure!(!addrs.is_empty(), "{host} has no address");
        Ok(addrs)
    }

    /// For each port, the addresses to try in turn.
    pub(crate) async fn all(&self) -> Result<Vec<Vec<SocketAddr>>> {
        ensure!(self.ports.len() <= usize::from(MOST_PORTS), "more than {MOST_PORTS} ports");
        let mut all = Vec::new();
        for port in self.ports.clone() {
            all.push(resolve(&self.host, port).await?);
        }
        Ok(all)
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (min, max) = (self.ports.start(), self.ports.end());
        if min == max { write!(f, "{}:{min}", self.host) } else { write!(f, "{}:{min}-{max}", self.host) }
    }
}

/// Host and port of `host:port`, `[::1]:port` and `:port`.
fn split(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(host) => Some((host.strip_suffix(']')?, port)),
        None if host.contains([':', '/']) => None,
        None => Some((host, port)),
    }
}

/// No host is every interface: of IPv6 and, on the same socket, IPv4; of IPv4 alone where there is no IPv6.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    if host.is_empty() {
        return Ok(vec![([0; 16], port).into(), ([0; 4], port).into()]);
    }
    let found = lookup_host((host, port)).await;
    Ok(found.with_context(|| format!("cannot resolve {host}"))?.collect())
}

/// Of TCP or Unix connections.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener, Unlink),
}

/// Takes the socket's file away in the end.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Unlink(PathBuf);

#[cfg(unix)]
impl Drop for Unlink {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<(Connection, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Connection::tcp(stream)?, peer.to_string()))
            }
            #[cfg(unix)]
            Self::Unix(listener, _) => {
                Ok((Connection::Unix(listener.accept().await?.0), "a local user".into()))
            }
        }
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|error| error.to_string(), |addr| addr.to_string())
            }
            #[cfg(unix)]
            Self::Unix(_, Unlink(path)) => path.display().to_string(),
        }
    }
}

/// A TCP or Unix connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Connection {
    fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        // Peers that vanish are noticed; without it, only later.
        let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
        Ok(Self::Tcp(stream))
    }

    /// Ends it so that nobody takes it for whole: with a reset where there are such.
    pub(crate) fn abort(self) {
        match self {
            Self::Tcp(stream) => drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
            #[cfg(unix)]
            Self::Unix(_) => {}
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have nothing to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses() {
        let tcp = |host: &str, port| Local::Tcp { host: host.into(), port };
        assert_eq!(Local::parse(":12948").unwrap(), tcp("", 12948));
        assert_eq!(Local::parse("[::1]:80").unwrap(), tcp("::1", 80));
        assert_eq!(Local::parse("example.org:443").unwrap(), tcp("example.org", 443));
        assert_eq!(Local::parse("/run/x.sock").unwrap(), Local::Unix("/run/x.sock".into()));
        for bad in ["", ":", "host:", "host:x", "host:65536", "::1:80"] {
            assert!(Local::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn remote_addresses() {
        let remote = |host: &str, ports| Remote { host: host.into(), ports };
        assert_eq!(Remote::parse("vps:29900").unwrap(), remote("vps", 29900..=29900));
        assert_eq!(Remote::parse("vps:3000-4000").unwrap(), remote("vps", 3000..=4000));
        assert_eq!(Remote::parse("[2001:db8::1]:1-2").unwrap(), remote("2001:db8::1", 1..=2));
        assert_eq!(Remote::parse("vps:3000-4000").unwrap().to_string(), "vps:3000-4000");
        for bad in ["", "vps", "vps:", "vps:4000-3000", "vps:1-", "vps:-1", "vps:1-70000", "a:b:1"] {
            assert!(Remote::parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn ports_of_a_range_are_all_taken_in_the_end() {
        let remote = Remote::parse("127.0.0.1:7000-7003").unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            seen.insert(remote.pick().await.unwrap()[0].port());
        }
        assert_eq!(seen, (7000..=7003).collect());
        assert_eq!(remote.all().await.unwrap().len(), 4);
        assert!(Remote::parse("127.0.0.1:1-65535").unwrap().all().await.is_err());
    }
}
