//! Tunnels in processes of their own, a web server behind them, and a lossy network between.

#![allow(dead_code, reason = "each test file takes its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kcp_netsim::{LinkConfig, Loss, UdpRelay};
use tokio::runtime::Runtime;

/// Whatever is waited for comes before, or the test has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
pub(crate) const KEY: &str = "correct horse";

pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// For programs that cannot be asked to choose one. Below those that the system hands out.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 2000;
        if UdpSocket::bind(local(port)).is_ok() && TcpListener::bind(local(port)).is_ok() {
            return port;
        }
    }
}

/// A process whose log is read as it comes; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) log: Arc<Log>,
}

#[derive(Default)]
pub(crate) struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    ended: bool,
}

impl Log {
    /// The first line from `from` on for which `f` has something, and the number of the one after it.
    fn find<T>(&self, mut from: usize, f: impl Fn(&str) -> Option<T>) -> (T, usize) {
        let begun = Instant::now();
        let mut lines = self.lines.lock().unwrap();
        loop {
            while from < lines.all.len() {
                from += 1;
                if let Some(found) = f(&lines.all[from - 1]) {
                    return (found, from);
                }
            }
            assert!(!lines.ended && begun.elapsed() < LIMIT, "not in the log:\n{}", lines.all.join("\n"));
            lines = self.more.wait_timeout(lines, Duration::from_millis(200)).unwrap().0;
        }
    }

    /// Waits for a line with this in it; what follows it.
    pub(crate) fn wait(&self, text: &str) -> String {
        self.find(0, |line| line.split_once(text).map(|(_, rest)| rest.to_owned())).0
    }

    /// How many lines there are now.
    pub(crate) fn len(&self) -> usize {
        self.lines.lock().unwrap().all.len()
    }

    /// The same among lines after the first `from`.
    pub(crate) fn wait_after(&self, from: usize, text: &str) -> String {
        self.find(from, |line| line.split_once(text).map(|(_, rest)| rest.to_owned())).0
    }

    pub(crate) fn all(&self) -> String {
        self.lines.lock().unwrap().all.join("\n")
    }

    pub(crate) fn count(&self, text: &str) -> usize {
        self.lines.lock().unwrap().all.iter().filter(|line| line.contains(text)).count()
    }
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (log, stderr) = (Arc::<Log>::default(), child.stderr.take().unwrap());
        let reader = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                reader.lines.lock().unwrap().all.push(line);
                reader.more.notify_all();
            }
            reader.lines.lock().unwrap().ended = true;
            reader.more.notify_all();
        });
        Self { child, log }
    }

    /// `kcp tunnel` of this build.
    pub(crate) fn tunnel(side: &str, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kcp"));
        command.args(["tunnel", side]).args(args).env_remove("KCPTUN_KEY");
        Self::start(command)
    }

    /// Debian's.
    pub(crate) fn kcptun(side: &str, args: &[&str]) -> Self {
        let mut command = Command::new(format!("kcptun-{side}"));
        command.args(args).env_remove("KCPTUN_KEY");
        Self::start(command)
    }

    /// Where one of ours says that it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.log.wait("listening on ").split(',').next().unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Asks for the counters; one of them.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let from = self.log.len();
        self.signal("USR1");
        let text = self.log.wait_after(from, "KCP SNMP:{");
        let (_, value) = text.split_once(&format!("{name}:")).unwrap();
        value.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }

    /// Waits until it has ended by itself; its exit code.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        loop {
            let log_ended = self.log.lines.lock().unwrap().ended;
            if let Some(status) = self.child.try_wait().unwrap().filter(|_| log_ended) {
                return (status.code(), self.log.all());
            }
            assert!(begun.elapsed() < LIMIT, "{}", self.log.all());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Half of it compresses.
pub(crate) fn page(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(len as u64);
    let mut page = vec![b' '; len];
    for (i, block) in page.chunks_mut(10_000).enumerate() {
        if i % 2 == 0 {
            rng.fill(block);
        }
    }
    page
}

/// Gives every client the same page.
pub(crate) fn web_server(page: Arc<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind(local(0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, page) = (stream.unwrap(), page.clone());
            thread::spawn(move || {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    request.push(byte[0]);
                }
                assert!(request.starts_with(b"GET / HTTP/1.1\r\n"));
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&page));
            });
        }
    });
    addr
}

/// The page that a server gives at this address, which may not be listened on yet.
pub(crate) fn download(addr: SocketAddr) -> Vec<u8> {
    let begun = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(addr) {
            Ok(stream) => break stream,
            Err(error) => assert!(begun.elapsed() < LIMIT, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.split_once("Content-Length: ").unwrap().1.lines().next().unwrap().parse().unwrap();
    let mut page = vec![0; length];
    stream.read_exact(&mut page).unwrap();
    page
}

pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

/// A network before `server` that loses a share of the packets of each direction.
pub(crate) fn lossy(server: SocketAddr, loss: f64, seed: u64) -> (UdpRelay, SocketAddr) {
    let link = LinkConfig { loss: Loss::Uniform(loss), ..LinkConfig::ideal() };
    let relay = RUNTIME.block_on(UdpRelay::bind(local(0), server, link.clone(), link, seed)).unwrap();
    let addr = relay.local_addr().unwrap();
    (relay, addr)
}
