//! Processes that are stopped or killed in the middle of a transfer. The other process is this test binary, started again.

use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kcp_netlab::Namespace;
use kcp_tests::pattern;
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, OwnedReadHalf, OwnedWriteHalf};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::bench::{GUARD, Pair, bind, config, ready, session, slow, until};

const LEN: usize = 8 << 20;
const ROLE: &str = "KCP_KERNEL_CHILD";

/// Not a test unless started by one: the other process. "serve ADDR" sends back whatever comes, "send ADDR" sends without end.
#[tokio::test]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (what, addr) = role.split_once(' ').unwrap();
    let addr: SocketAddr = addr.parse().unwrap();
    if what == "send" {
        println!("ready");
        let mut stream = KcpStream::connect_with(addr, config()).await.unwrap();
        let data = pattern(LEN, 1);
        loop {
            stream.write_all(&data).await.unwrap();
        }
    }
    let listener = KcpListener::bind_with(addr, config()).await.unwrap();
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.into_split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
    }
}

/// Killed when dropped.
struct Running(Child);

impl Running {
    fn start(namespace: &Namespace, what: &str, addr: SocketAddr) -> Self {
        let mut child = namespace
            .run(|| {
                Command::new(std::env::current_exe()?)
                    .args(["processes::child", "--exact", "--nocapture"])
                    .env(ROLE, format!("{what} {addr}"))
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .spawn()
            })
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("ready")));
        assert!(ready, "the other process has not started");
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_server_that_is_stopped_for_a_while_loses_nothing() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let server = Running::start(&pair.server, "serve", pair.server_addr());
    let dialler = pair.dialler(config()).await;
    let (mut reader, mut writer) = dialler.connect(pair.server_addr()).await.unwrap().into_split();
    let data = pattern(LEN, 5);
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
        writer
    });
    let mut got = vec![0; LEN / 4];
    reader.read_exact(&mut got).await.unwrap();
    server.signal(Signal::SIGSTOP);
    // Sent again and again, and nothing comes back.
    let timeouts = || dialler.sessions()[0].stats().timeout_retransmits;
    let before = timeouts();
    timeout(GUARD, until(|| timeouts() > before + 100)).await.unwrap();
    server.signal(Signal::SIGCONT);
    timeout(GUARD, reader.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(got == data, "{} of {LEN} bytes", got.len());
    timeout(GUARD, writing).await.unwrap().unwrap();
}

/// Gives up soon.
fn hasty() -> KcpConfig {
    let soon = Some(Duration::from_secs(3));
    let session = session().idle_timeout(soon).user_timeout(soon).keepalive(Some(Duration::from_secs(1)));
    KcpConfig::from(session.connect_timeout(Duration::from_secs(60)))
}

#[tokio::test]
async fn a_server_that_is_killed_is_a_timeout() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let server = Running::start(&pair.server, "serve", pair.server_addr());
    let (mut reader, mut writer) = pair.connect(hasty()).await.unwrap().into_split();
    let (read, write) = cut_short(&mut reader, &mut writer, || server.signal(Signal::SIGKILL)).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(write.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_server_that_is_killed_and_started_again_is_a_reset() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let mut server = Some(Running::start(&pair.server, "serve", pair.server_addr()));
    let client = pair.connect(config()).await.unwrap();
    let mut again = None;
    let (mut reader, mut writer) = client.into_split();
    let (read, write) = cut_short(&mut reader, &mut writer, || {
        server.take().unwrap().signal(Signal::SIGKILL);
        again = Some(Running::start(&pair.server, "serve", pair.server_addr()));
    })
    .await;
    // Told once, to whoever asks first, as TCP does: then a read finds the end, and a write a broken pipe.
    let (read, write) = (read.map(|_| ()).map_err(|error| error.kind()), write.map_err(|error| error.kind()));
    match (read, write) {
        (Err(ErrorKind::ConnectionReset), Err(ErrorKind::BrokenPipe))
        | (Ok(()), Err(ErrorKind::ConnectionReset)) => {}
        other => panic!("not told once: {other:?}"),
    }
    for _ in 0..2 {
        assert_eq!(timeout(GUARD, reader.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
        let write = timeout(GUARD, writer.write(b"x")).await.unwrap();
        assert_eq!(write.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
    // The new one serves.
    let client = pair.connect(config()).await.unwrap();
    timeout(GUARD, whole(client)).await.unwrap();
}

async fn whole(client: KcpStream) {
    let data = pattern(1 << 20, 6);
    let (mut reader, mut writer) = client.into_split();
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).await.unwrap();
    assert!(got == data, "what comes back is what was sent");
    writing.await.unwrap();
}

/// Sends without end to a server that echoes; after a quarter `event` happens, and both directions end. What came before is right.
async fn cut_short(
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    event: impl FnOnce(),
) -> (io::Result<usize>, io::Result<()>) {
    let data = pattern(LEN, 5);
    let writing = async {
        loop {
            writer.write_all(&data).await?;
        }
    };
    let mut got = vec![0; LEN / 4];
    let reading = async {
        reader.read_exact(&mut got).await.unwrap();
        event();
        reader.read_to_end(&mut got).await
    };
    let ends = timeout(GUARD, async { tokio::join!(reading, writing) }).await.unwrap();
    assert!(
        got.iter().eq(data.iter().cycle().take(got.len())),
        "what came is not the beginning of what was sent"
    );
    ends
}

#[tokio::test]
async fn a_client_that_is_killed_is_a_timeout_and_others_go_on() {
    if !ready(&[]) {
        return;
    }
    let pair = Pair::new(slow());
    let server = pair.listen(hasty()).await;
    let doomed = Running::start(&pair.client, "send", pair.server_addr());
    let (mut stream, _) = server.accept().await.unwrap();
    let data = pattern(LEN, 1);
    let mut got = vec![0; LEN / 4];
    stream.read_exact(&mut got).await.unwrap();
    doomed.signal(Signal::SIGKILL);
    // Another one, while the first is still being waited for.
    let mut other = KcpStream::connect_on(bind(&pair.client, pair.path.left()), pair.server_addr(), hasty())
        .await
        .unwrap();
    let (mut accepted, _) = server.accept().await.unwrap();
    crate::bench::transfer(&mut other, &mut accepted, 1 << 20, async {}).await;
    let error = timeout(GUARD, stream.read_to_end(&mut got)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(got.iter().zip(data.iter().cycle()).all(|(a, b)| a == b), "what came is not what was sent");
}
