//! With `rust_tokio_kcp` 0.2.5, a port of kcp-go, over real sockets: encryption and error correction, both roles, with and
//! without loss.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kcp_netsim::{LinkConfig, UdpRelay};
use kcp_tests::pattern;
use kcp_tokio::layers::{Cipher, Crypt, FecConfig, LayersConfig};
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use rust_tokio_kcp as theirs;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);
const LOCAL: &str = "127.0.0.1:0";
const KEY: [u8; 32] = *b"thirty-two bytes of shared key!!";

/// One way to speak, as both ends are told.
#[derive(Copy, Clone, Debug)]
struct Way {
    cipher: Option<Cipher>,
    fec: Option<(u8, u8)>,
    lossy: bool,
}

fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    let ciphers = [
        None,
        Some(Cipher::None),
        Some(Cipher::Aes128),
        Some(Cipher::Aes256),
        Some(Cipher::Aes256Gcm),
        Some(Cipher::Blowfish),
        Some(Cipher::Salsa20),
        Some(Cipher::Twofish),
        Some(Cipher::Xtea),
    ];
    for (i, cipher) in ciphers.into_iter().enumerate() {
        // Each cipher in two ways, which together have every pair of loss and error correction several times.
        let fec = (i % 2 == 0).then_some((10, 3));
        ways.push(Way { cipher, fec, lossy: i % 4 < 2 });
        ways.push(Way { cipher, fec: fec.xor(Some((10, 3))), lossy: i % 4 >= 2 });
    }
    ways
}

fn key(cipher: Cipher) -> &'static [u8] {
    match cipher {
        Cipher::None => &[],
        Cipher::Aes128 | Cipher::Xtea => &KEY[..16],
        _ => &KEY,
    }
}

impl Way {
    fn ours(self) -> KcpConfig {
        let session = SessionConfig::turbo().send_window(256).recv_window(256);
        let mut layers = LayersConfig::new();
        if let Some(cipher) = self.cipher {
            layers = layers.crypt(Crypt::new(cipher, key(cipher)).unwrap());
        }
        if let Some((data, parity)) = self.fec {
            layers = layers.fec(FecConfig::new(data, parity).unwrap().flush_after(None));
        }
        KcpConfig::from(session).layers(layers)
    }

    fn theirs(self) -> theirs::KcpConfig {
        let crypt = self.cipher.map(|cipher| -> Arc<dyn theirs::BlockCrypt> {
            let key = key(cipher);
            match cipher {
                Cipher::None => Arc::new(theirs::NoneBlockCrypt),
                Cipher::Aes128 => Arc::new(theirs::Aes128BlockCrypt::new(key).unwrap()),
                Cipher::Aes256 => Arc::new(theirs::Aes256BlockCrypt::new(key).unwrap()),
                Cipher::Aes256Gcm => Arc::new(theirs::AesGcmBlockCrypt::new(key).unwrap()),
                Cipher::Blowfish => Arc::new(theirs::BlowfishBlockCrypt::new(key).unwrap()),
                Cipher::Salsa20 => Arc::new(theirs::Salsa20BlockCrypt::new(key).unwrap()),
                Cipher::Twofish => Arc::new(theirs::TwofishBlockCrypt::new(key).unwrap()),
                _ => Arc::new(theirs::XteaBlockCrypt::new(key).unwrap()),
            }
        });
        let (data, parity) = self.fec.map_or((0, 0), |(data, parity)| (data.into(), parity.into()));
        theirs::KcpConfig {
            nodelay: theirs::KcpNoDelayConfig::fastest(),
            flush_write: true,
            flush_acks_input: true,
            stream: true,
            fec_data_shards: data,
            fec_parity_shards: parity,
            crypt,
            ..theirs::KcpConfig::default()
        }
    }

    /// A relay that loses 5 % each way, or the server itself.
    async fn path(self, server: SocketAddr) -> (SocketAddr, Option<UdpRelay>) {
        if !self.lossy {
            return (server, None);
        }
        let link = LinkConfig::lossy(0.05, Duration::from_millis(10));
        let relay = UdpRelay::bind(LOCAL.parse().unwrap(), server, link.clone(), link, 5).await.unwrap();
        (relay.local_addr().unwrap(), Some(relay))
    }
}

/// Sends `data` and compares what comes back.
async fn expect_echo(way: Way, stream: impl AsyncRead + AsyncWrite + Unpin, data: &[u8]) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let send = async {
        for chunk in data.chunks(16 * 1024) {
            writer.write_all(chunk).await.unwrap();
        }
        writer.flush().await.unwrap();
    };
    let mut got = vec![0; data.len()];
    let receive = async { reader.read_exact(&mut got).await.map(drop) };
    let done = timeout(LIMIT, async { tokio::join!(send, receive) }).await;
    assert!(done.is_ok_and(|((), read)| read.is_ok()) && got == data, "{way:?}");
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buf = vec![0; 65536];
    while let Ok(n @ 1..) = stream.read(&mut buf).await {
        if stream.write_all(&buf[..n]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn our_client_their_server() {
    for way in ways() {
        let mut listener = theirs::KcpListener::bind(way.theirs(), LOCAL).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        let (addr, _relay) = way.path(addr).await;
        let stream = timeout(LIMIT, KcpStream::connect_with(addr, way.ours())).await.unwrap().unwrap();
        expect_echo(way, stream, &pattern(100_000, 1)).await;
        server.abort();
    }
}

#[tokio::test]
async fn their_client_our_server() {
    for way in ways() {
        let listener = KcpListener::bind_with(LOCAL, way.ours()).await.unwrap();
        let (addr, _relay) = way.path(listener.local_addr().unwrap()).await;
        let client = async {
            let stream = theirs::KcpStream::connect(&way.theirs(), addr).await.unwrap();
            expect_echo(way, stream, &pattern(100_000, 2)).await;
        };
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            echo(stream).await;
        };
        tokio::select! { () = client => {} () = server => panic!("the session ended: {way:?}") }
        assert_eq!(listener.stats().dropped_unsealed, 0, "{way:?}");
    }
}
