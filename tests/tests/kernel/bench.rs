//! What the tests share: a pair of namespaces, sockets in them, a transfer in whose middle something happens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use kcp_netlab::{LinkConfig, Namespace, Path, available, have};
use kcp_tests::{pattern, skipped};
use kcp_tokio::{KcpConfig, KcpEndpoint, KcpStream, SessionConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

/// Not a time that anything is to take: what ends a test that hangs.
pub(crate) const GUARD: Duration = Duration::from_secs(240);
/// The port of servers.
pub(crate) const PORT: u16 = 4000;

/// Whether the test can run; says why not.
pub(crate) fn ready(commands: &[&str]) -> bool {
    let missing = commands.iter().find(|command| !have(command));
    match (available(), missing) {
        (Ok(()), None) => true,
        (Err(why), _) => {
            skipped(&why);
            false
        }
        (_, Some(command)) => {
            skipped(&format!("the command {command} is missing"));
            false
        }
    }
}

/// 5 ms each way, 4 MB/s: a transfer takes long enough to have a middle.
pub(crate) fn slow() -> LinkConfig {
    LinkConfig {
        rate: Some(4_000_000),
        queue: 256 * 1024,
        ..LinkConfig::lossy(0.0, Duration::from_millis(10))
    }
}

/// The default, with timeouts far beyond what a busy machine adds. Its window is ten times the queue of [`slow`].
pub(crate) fn session() -> SessionConfig {
    let long = Some(Duration::from_secs(120));
    let session = SessionConfig::fast();
    session.idle_timeout(long).user_timeout(long).connect_timeout(Duration::from_secs(60))
}

pub(crate) fn config() -> KcpConfig {
    session().into()
}

pub(crate) struct Pair {
    // Before the namespaces: devices go first.
    pub(crate) path: Path,
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
}

impl Pair {
    pub(crate) fn new(link: LinkConfig) -> Self {
        let (client, server) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        for side in [&client, &server] {
            // Whatever this machine sets for new ones: packets may come by another path than their answers go.
            side.sysctl("net/ipv4/conf/all/rp_filter", "0").unwrap();
            side.sysctl("net/ipv4/conf/default/rp_filter", "0").unwrap();
        }
        Self { path: Path::new(&client, &server, link, 7).unwrap(), client, server }
    }

    pub(crate) fn server_addr(&self) -> SocketAddr {
        (self.path.right(), PORT).into()
    }

    /// A listening endpoint in the server's namespace.
    pub(crate) async fn listen(&self, config: KcpConfig) -> KcpEndpoint {
        endpoint(&self.server, self.server_addr(), config).await
    }

    /// A dialling endpoint in the client's namespace, its socket not connected.
    pub(crate) async fn dialler(&self, config: KcpConfig) -> KcpEndpoint {
        endpoint(&self.client, (self.path.left(), 0).into(), config).await
    }

    /// A session: the server's endpoint, the client's end (with a connected socket of its own), the server's end.
    pub(crate) async fn session(
        &self,
        config: impl Fn() -> KcpConfig,
    ) -> (KcpEndpoint, KcpStream, KcpStream) {
        let server = self.listen(config()).await;
        let client = self.connect(config()).await.unwrap();
        let (accepted, _) = server.accept().await.unwrap();
        (server, client, accepted)
    }

    /// The same between two endpoints: server, dialler, the client's end, the server's end.
    pub(crate) async fn endpoints(
        &self,
        config: impl Fn() -> KcpConfig,
    ) -> (KcpEndpoint, KcpEndpoint, KcpStream, KcpStream) {
        let (server, dialler) = (self.listen(config()).await, self.dialler(config()).await);
        let client = dialler.connect(self.server_addr()).await.unwrap();
        let (accepted, _) = server.accept().await.unwrap();
        (server, dialler, client, accepted)
    }

    /// A stream with a connected socket of its own.
    pub(crate) async fn connect(&self, config: KcpConfig) -> io::Result<KcpStream> {
        let socket = bind(&self.client, self.path.left());
        KcpStream::connect_on(socket, self.server_addr(), config).await
    }
}

pub(crate) fn bind(namespace: &Namespace, at: Ipv4Addr) -> UdpSocket {
    namespace.run(|| UdpSocket::bind((at, 0))).unwrap()
}

pub(crate) async fn endpoint(namespace: &Namespace, at: SocketAddr, config: KcpConfig) -> KcpEndpoint {
    let socket = namespace.run(|| UdpSocket::bind(at)).unwrap();
    KcpEndpoint::from_std(socket, config).await.unwrap()
}

/// Waits until something is so.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    while !so() {
        sleep(Duration::from_millis(2)).await;
    }
}

/// Sends `len` bytes to the end of the stream; `event` happens after the first quarter. Every byte is compared.
pub(crate) async fn transfer(
    from: &mut KcpStream,
    to: &mut KcpStream,
    len: usize,
    event: impl Future<Output = ()>,
) {
    let data = pattern(len, len as u64);
    let (tell, told) = oneshot::channel();
    let write = async {
        from.write_all(&data).await.unwrap();
        from.shutdown().await.unwrap();
    };
    let read = async {
        let (mut buf, mut got, mut tell) = (vec![0; 64 * 1024], 0, Some(tell));
        loop {
            let n = to.read(&mut buf).await.unwrap();
            assert!(data.get(got..got + n) == Some(&buf[..n]), "other bytes after {got}");
            got += n;
            if got >= len / 4
                && let Some(tell) = tell.take()
            {
                tell.send(()).unwrap();
            }
            if n == 0 {
                break;
            }
        }
        assert_eq!(got, len);
    };
    let event = async {
        told.await.unwrap();
        event.await;
    };
    timeout(GUARD, async { tokio::join!(write, read, event) }).await.expect("the transfer ends");
}
