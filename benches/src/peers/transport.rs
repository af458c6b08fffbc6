//! Each peer as something that listens, and something that connects, with the same settings: mtu 1400, `nodelay(1, 10, 2, 1)`,
//! stream mode, equal windows, no encryption but QUIC's.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kcp_tokio::{KcpConfig, KcpEndpoint, KcpListener, KcpStream, SessionConfig};
use quinn::crypto::rustls::QuicClientConfig;
use registry_kcp_tokio as rust_kcp;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Peer;
use super::plain::Datagrams;

/// What all of them are.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Bytes of datagrams sent and received, without IP and UDP headers, where the peer counts them.
    fn wire(&self) -> Option<[u64; 2]> {
        None
    }
}

impl Stream for KcpStream {
    fn wire(&self) -> Option<[u64; 2]> {
        let stats = self.stats();
        Some([stats.bytes_sent, stats.bytes_received])
    }
}

impl Stream for tokio_kcp::KcpStream {}
impl Stream for kcp_rs::KcpStream {}
impl Stream for rust_kcp::KcpStream {}
impl Stream for TcpStream {}
impl Stream for Datagrams {}
impl Stream for tokio::io::Join<quinn::RecvStream, quinn::SendStream> {}

/// Any of them.
pub type AnyStream = Box<dyn Stream>;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn ours(peer: Peer, window: u16) -> KcpConfig {
    let preset = match peer {
        Peer::OursFast => SessionConfig::fast(),
        Peer::OursNormal => SessionConfig::normal(),
        Peer::OursPrompt => SessionConfig::turbo().ack_nodelay(true),
        Peer::OursRealtime => SessionConfig::realtime(),
        _ => SessionConfig::turbo(),
    };
    // Sessions that are silent on purpose must not end.
    let session = preset.send_window(window.into()).recv_window(window.into());
    KcpConfig::from(session.idle_timeout(None).keepalive(None)).backlog(100_000).half_open(100_000)
}

fn tokio_kcp(window: u16) -> tokio_kcp::KcpConfig {
    tokio_kcp::KcpConfig {
        nodelay: tokio_kcp::KcpNoDelayConfig::fastest(),
        wnd_size: (window, window),
        flush_write: true,
        flush_acks_input: true,
        stream: true,
        session_expire: Duration::from_secs(3600),
        ..tokio_kcp::KcpConfig::default()
    }
}

fn kcp_rs(window: u16) -> Arc<kcp_rs::KcpConfig> {
    Arc::new(kcp_rs::KcpConfig {
        nodelay: kcp_rs::KcpNoDelayConfig::fastest(),
        snd_wnd: window.into(),
        rcv_wnd: window.into(),
        session_key: bytes::Bytes::from_static(b"0123456789abcdef"),
        session_expire: Duration::from_secs(3600),
        ..kcp_rs::KcpConfig::default()
    })
}

fn rust_kcp(window: u16) -> rust_kcp::config::KcpConfig {
    rust_kcp::config::KcpConfig::new()
        .turbo_mode()
        .window_size(window.into(), window.into())
        .mtu(1400)
        .stream_mode(true)
}

fn quic_transport() -> Arc<quinn::TransportConfig> {
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window((8u32 << 20).into()).receive_window((16u32 << 20).into());
    transport.send_window(16 << 20).max_idle_timeout(None).initial_mtu(1400).mtu_discovery_config(None);
    Arc::new(transport)
}

fn quic_server() -> Result<quinn::ServerConfig, Box<dyn std::error::Error>> {
    let key = rcgen::generate_simple_self_signed(["bench".to_owned()])?;
    let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let mut config =
        quinn::ServerConfig::with_single_cert(vec![CertificateDer::from(key.cert)], secret.into())?;
    config.transport_config(quic_transport());
    Ok(config)
}

/// The certificate is made for the run, so there is nothing to verify.
#[derive(Debug)]
struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn quic_client() -> Result<quinn::ClientConfig, Box<dyn std::error::Error>> {
    let crypto = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto)?));
    config.transport_config(quic_transport());
    Ok(config)
}

fn no_streams() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a ceiling has no streams")
}

/// A listener of any peer.
pub enum Listener {
    /// Ours.
    Ours(KcpListener),
    /// `tokio_kcp`.
    TokioKcp(tokio_kcp::KcpListener),
    /// `kcp-rs`.
    KcpRs(kcp_rs::KcpUdpStream, SocketAddr),
    /// The registry's `kcp-tokio`.
    RustKcp(rust_kcp::listener::KcpListener),
    /// QUIC.
    Quinn(quinn::Endpoint),
    /// TCP.
    Tcp(TcpListener),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Listener {
    /// Listens on loopback.
    ///
    /// # Errors
    /// Those of binding.
    pub async fn bind(peer: Peer, window: u16) -> io::Result<Self> {
        Self::bind_at(peer, window, ANY).await
    }

    /// Listens on an address.
    ///
    /// # Errors
    /// Those of binding.
    pub async fn bind_at(peer: Peer, window: u16, at: SocketAddr) -> io::Result<Self> {
        let other = io::Error::other::<String>;
        Ok(match peer {
            Peer::Ours
            | Peer::OursShared
            | Peer::OursThreads
            | Peer::OursNormal
            | Peer::OursPrompt
            | Peer::OursFast
            | Peer::OursRealtime => Self::Ours(KcpListener::bind_with(at, ours(peer, window)).await?),
            Peer::OursShards => Self::Ours(KcpListener::bind_with(at, ours(peer, window).shards(2)).await?),
            Peer::TokioKcp => Self::TokioKcp(
                tokio_kcp::KcpListener::bind(tokio_kcp(window), at)
                    .await
                    .map_err(|e| other(e.to_string()))?,
            ),
            Peer::KcpRs => {
                let socket = tokio::net::UdpSocket::bind(at).await?;
                let addr = socket.local_addr()?;
                Self::KcpRs(kcp_rs::KcpUdpStream::socket_listen(kcp_rs(window), socket, 1024, None)?, addr)
            }
            Peer::RustKcp => Self::RustKcp(
                rust_kcp::listener::KcpListener::bind(at, rust_kcp(window))
                    .await
                    .map_err(|e| other(e.to_string()))?,
            ),
            Peer::Quinn => {
                let config = quic_server().map_err(|e| other(e.to_string()))?;
                Self::Quinn(quinn::Endpoint::server(config, at)?)
            }
            Peer::Tcp => Self::Tcp(TcpListener::bind(at).await?),
            Peer::Udp { .. } | Peer::Ceiling(_) => return Err(no_streams()),
        })
    }

    /// Where.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Ours(listener) => listener.local_addr(),
            Self::TokioKcp(listener) => listener.local_addr(),
            Self::KcpRs(_, addr) => Ok(*addr),
            Self::RustKcp(listener) => Ok(*listener.local_addr()),
            Self::Quinn(endpoint) => endpoint.local_addr(),
            Self::Tcp(listener) => listener.local_addr(),
        }
    }

    /// Serves each connection with `serve` until the listener fails.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve<F, S>(self, serve: F) -> io::Result<()>
    where
        F: Fn(AnyStream) -> S + Clone + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let other = io::Error::other::<String>;
        match self {
            Self::Ours(listener) => loop {
                tokio::spawn(serve(Box::new(listener.accept().await?.0)));
            },
            Self::TokioKcp(mut listener) => loop {
                let (stream, _) = listener.accept().await.map_err(|e| other(e.to_string()))?;
                tokio::spawn(serve(Box::new(stream)));
            },
            Self::KcpRs(mut listener, _) => loop {
                tokio::spawn(serve(Box::new(listener.accept().await?.0)));
            },
            Self::RustKcp(mut listener) => loop {
                let (stream, _) = listener.accept().await.map_err(|e| other(e.to_string()))?;
                tokio::spawn(serve(Box::new(stream)));
            },
            Self::Quinn(endpoint) => {
                while let Some(incoming) = endpoint.accept().await {
                    let serve = serve.clone();
                    tokio::spawn(async move {
                        if let Ok(connection) = incoming.await
                            && let Ok((send, receive)) = connection.accept_bi().await
                        {
                            serve(Box::new(tokio::io::join(receive, send))).await;
                        }
                    });
                }
                Ok(())
            }
            Self::Tcp(listener) => loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tokio::spawn(serve(Box::new(stream)));
            },
        }
    }
}

/// Connects to one server.
#[derive(Debug)]
pub struct Dialer {
    peer: Peer,
    dialled: AtomicUsize,
    window: u16,
    server: SocketAddr,
    ours: Option<KcpEndpoint>,
    quinn: Option<quinn::Endpoint>,
}

impl Dialer {
    /// Prepares.
    ///
    /// # Errors
    /// Those of binding.
    pub async fn new(peer: Peer, window: u16, server: SocketAddr) -> io::Result<Self> {
        // Off loopback the system chooses the address.
        let any = if server.ip().is_loopback() { ANY } else { (std::net::Ipv4Addr::UNSPECIFIED, 0).into() };
        let ours = match peer {
            Peer::OursShared | Peer::OursThreads | Peer::OursShards => {
                Some(KcpEndpoint::bind(any, ours(peer, window)).await?)
            }
            _ => None,
        };
        let quinn = match peer {
            Peer::Quinn => {
                let mut endpoint = quinn::Endpoint::client(any)?;
                let config = quic_client().map_err(|error| io::Error::other(error.to_string()))?;
                endpoint.set_default_client_config(config);
                Some(endpoint)
            }
            _ => None,
        };
        Ok(Self { peer, dialled: AtomicUsize::new(0), window, server, ours, quinn })
    }

    /// One more connection.
    ///
    /// # Errors
    /// The peer's.
    pub async fn connect(&self) -> io::Result<AnyStream> {
        let (server, window) = (self.server, self.window);
        let other = io::Error::other::<String>;
        if let Some(endpoint) = &self.ours {
            return Ok(Box::new(endpoint.connect(server).await?));
        }
        if let Some(endpoint) = &self.quinn {
            let connecting = endpoint.connect(server, "bench").map_err(|e| other(e.to_string()))?;
            let connection = connecting.await?;
            let (send, receive) = connection.open_bi().await?;
            return Ok(Box::new(tokio::io::join(receive, send)));
        }
        Ok(match self.peer {
            Peer::TokioKcp => Box::new(
                tokio_kcp::KcpStream::connect(&tokio_kcp(window), server)
                    .await
                    .map_err(|e| other(e.to_string()))?,
            ),
            Peer::KcpRs => Box::new(kcp_rs::KcpUdpStream::connect(kcp_rs(window), server).await?.0),
            Peer::RustKcp => Box::new(
                rust_kcp::KcpStream::connect(server, rust_kcp(window))
                    .await
                    .map_err(|e| other(e.to_string()))?,
            ),
            Peer::Tcp => {
                // One address has some 28 000 ports.
                let n = self.dialled.fetch_add(1, Ordering::Relaxed) / 20_000;
                let from = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + u32::try_from(n).unwrap_or(0));
                let socket = TcpSocket::new_v4()?;
                if n > 0 {
                    socket.bind((from, 0).into())?;
                }
                let stream = socket.connect(server).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Peer::Udp { acked } => Box::new(Datagrams::connect(server, acked).await?),
            Peer::Ceiling(_) => return Err(no_streams()),
            _ => Box::new(KcpStream::connect_with(server, ours(self.peer, window)).await?),
        })
    }
}
