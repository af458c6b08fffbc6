//! The layers against Debian's `kcptun-client` and `kcptun-server`: every cipher, error correction both ways, packets lost both
//! ways. Skipped where they are not installed (`apt-get install kcptun`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kcp_core::{Framing, Seed, Session, SessionConfig, Timestamp};
use kcp_layers::{Cipher, Crypt, FecConfig, Frame, LayerStats, Layers, LayersConfig, Opened, Sealed};
use kcp_tests::pattern;

/// Those that kcptun of that time has.
const CIPHERS: [&str; 13] = [
    "aes", "aes-128", "aes-192", "salsa20", "blowfish", "twofish", "cast5", "3des", "tea", "xtea", "xor",
    "sm4", "none",
];
const PASSWORD: &str = "correct horse";
const BYTES: usize = 96 * 1024;
const LIMIT: Duration = Duration::from_secs(60);
/// Of each direction every eleventh packet is lost: at most two of a group of thirteen.
const LOSS: u32 = 11;

fn installed() -> bool {
    let found = Command::new("kcptun-client").arg("--version").output().is_ok();
    if !found {
        kcp_tests::skipped("kcptun is not installed");
    }
    found
}

fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// kcptun, until dropped.
struct Kcptun(Child);

impl Kcptun {
    fn start(program: &str, crypt: &str, fec: Option<(u8, u8)>, args: &[&str]) -> Self {
        let (data, parity) = fec.unwrap_or((0, 0));
        let child = Command::new(program)
            .args(["--crypt", crypt, "--key", PASSWORD, "--nocomp", "--mode", "fast3"])
            .args(["--datashard", &data.to_string(), "--parityshard", &parity.to_string()])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Packets that it has restored by our parity: a field of the counters that it logs when asked.
    fn restored(&mut self) -> u64 {
        let asked = Command::new("kill").args(["-USR1", &self.0.id().to_string()]).status().unwrap();
        assert!(asked.success());
        let lines = BufReader::new(self.0.stderr.as_mut().unwrap()).lines();
        let counters = lines.map_while(Result::ok).find(|line| line.contains("FECRecovered:")).unwrap();
        let (_, after) = counters.split_once("FECRecovered:").unwrap();
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    }
}

impl Drop for Kcptun {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A session with its layers on a socket that loses packets.
struct Endpoint {
    socket: UdpSocket,
    peer: SocketAddr,
    session: Session,
    layers: Layers,
    epoch: Instant,
    packets: Sealed,
    run: Vec<u8>,
    received: u32,
    sent: u32,
    loss: bool,
    /// Of the stream between KCP and its multiplexer.
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

fn config(crypt: &str, fec: Option<(u8, u8)>) -> LayersConfig {
    let cipher: Cipher = crypt.parse().unwrap();
    let config = LayersConfig::new().crypt(Crypt::from_password(cipher, PASSWORD));
    match fec {
        Some((data, parity)) => config.fec(FecConfig::new(data, parity).unwrap()),
        None => config,
    }
}

fn session_config(layers: &LayersConfig) -> Arc<SessionConfig> {
    let mtu = layers.kcp_mtu(1350).unwrap();
    Arc::new(SessionConfig::turbo().mtu(mtu).send_window(512).recv_window(512))
}

impl Endpoint {
    fn connect(socket: UdpSocket, peer: SocketAddr, config: &LayersConfig, loss: bool) -> Self {
        let session =
            Session::connect_lazy(0x1234_5678, session_config(config), Seed::from_u64(1), Timestamp::ZERO);
        Self::new(socket, peer, session, config, loss)
    }

    /// Waits for the first packet of a client.
    fn accept(socket: UdpSocket, config: &LayersConfig, loss: bool) -> Self {
        let mut packet = [0; 2000];
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let (len, peer) = socket.recv_from(&mut packet).unwrap();
        let plain = config.encryption().unwrap().open(&mut packet[..len]).unwrap();
        let conv = Frame::parse(plain).conv().unwrap();
        let session = Session::accept(conv, session_config(config), Seed::from_u64(2), Timestamp::ZERO);
        let mut endpoint = Self::new(socket, peer, session, config, loss);
        // It is sent again if this is not done, but later.
        endpoint
            .layers
            .receive(Timestamp::ZERO, plain, |opened| input(&mut endpoint.session, Timestamp::ZERO, opened))
            .unwrap();
        endpoint
    }

    fn new(socket: UdpSocket, peer: SocketAddr, session: Session, config: &LayersConfig, loss: bool) -> Self {
        Self {
            socket,
            peer,
            session,
            layers: Layers::new(config, [9; 32]),
            epoch: Instant::now(),
            packets: Sealed::default(),
            run: Vec::new(),
            received: 0,
            sent: 0,
            loss,
            inbox: Vec::new(),
            outbox: Vec::new(),
        }
    }

    /// Sends what is due, then waits for one packet or until something is due.
    fn turn(&mut self) {
        let now = Timestamp::ZERO + self.epoch.elapsed();
        self.session.handle_timeout(now);
        self.layers.handle_timeout(now, &mut self.packets);
        if let Ok(written) = self.session.write(now, &self.outbox) {
            self.outbox.drain(..written);
        }
        self.run.clear();
        while let Some(run) = self.session.poll_transmit(now, Framing { max_datagrams: 16 }, &mut self.run) {
            self.layers.seal(now, &self.run, run.stride, &mut self.packets);
            self.run.clear();
        }
        for packet in self.packets.packets() {
            self.sent += 1;
            if !self.loss || self.sent % LOSS != 3 {
                // Nobody may listen yet.
                let _ = self.socket.send_to(packet, self.peer);
            }
        }
        self.packets.clear();
        while self.session.poll_event().is_some() {}

        let due = [self.session.poll_timeout(), self.layers.poll_timeout()].into_iter().flatten().min();
        let wait = due.map_or(Duration::from_millis(20), |due| due.saturating_since(now));
        let wait = wait.clamp(Duration::from_millis(1), Duration::from_millis(20));
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let mut packet = [0; 2000];
        if let Ok(len) = self.socket.recv(&mut packet) {
            self.received += 1;
            if !self.loss || self.received % LOSS != 5 {
                let now = Timestamp::ZERO + self.epoch.elapsed();
                let session = &mut self.session;
                let _ = self.layers.open(now, &mut packet[..len], |opened| input(session, now, opened));
            }
        }
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = self.session.read(now, &mut buffer) {
            self.inbox.extend_from_slice(&buffer[..read]);
        }
    }

    /// The next whole frame of the multiplexer: command, stream, payload.
    fn frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let (&[version, command, l0, l1, s0, s1, s2, s3], rest) = self.inbox.split_first_chunk()?;
        assert_eq!(version, 1);
        let payload = rest.get(..usize::from(u16::from_le_bytes([l0, l1])))?.to_vec();
        self.inbox.drain(..8 + payload.len());
        Some((command, u32::from_le_bytes([s0, s1, s2, s3]), payload))
    }

    fn push_frame(&mut self, command: u8, stream: u32, payload: &[u8]) {
        self.outbox.extend_from_slice(&[1, command]);
        self.outbox.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
        self.outbox.extend_from_slice(&stream.to_le_bytes());
        self.outbox.extend_from_slice(payload);
    }
}

fn input(session: &mut Session, now: Timestamp, opened: Opened<'_>) {
    let (Opened::Datagram(datagram) | Opened::Recovered(datagram)) = opened else { panic!("{opened:?}") };
    session.handle_datagram(now, datagram).unwrap();
}

const SYN: u8 = 0;
const PUSH: u8 = 2;

/// Below those that the system hands out: another of the many sockets here may get one of them before kcptun has bound it.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 10_000 + (std::process::id() % 200) as u16 * 100;
    loop {
        let addr = (Ipv4Addr::LOCALHOST, base + NEXT.fetch_add(1, Ordering::Relaxed) % 2000);
        if UdpSocket::bind(addr).is_ok() && TcpListener::bind(addr).is_ok() {
            return addr.1;
        }
    }
}

/// Bytes through `kcptun-server` to an echo server and back; how many packets each side has restored.
fn through_their_server(crypt: &str, fec: [Option<(u8, u8)>; 2], loss: bool) -> (LayerStats, u64) {
    let target = TcpListener::bind(local()).unwrap();
    let target_addr = target.local_addr().unwrap().to_string();
    let echo = thread::spawn(move || {
        let (mut stream, _) = target.accept().unwrap();
        let mut buffer = [0; 8192];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..read]).unwrap();
        }
    });
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut server =
        Kcptun::start("kcptun-server", crypt, fec[1], &["--listen", &listen, "--target", &target_addr]);
    let socket = UdpSocket::bind(local()).unwrap();
    let mut endpoint = Endpoint::connect(socket, listen.parse().unwrap(), &config(crypt, fec[0]), loss);
    let data = pattern(BYTES, 1);
    endpoint.push_frame(SYN, 3, &[]);
    for part in data.chunks(4096) {
        endpoint.push_frame(PUSH, 3, part);
    }
    let mut got = Vec::new();
    let start = Instant::now();
    while got.len() < BYTES {
        endpoint.turn();
        while let Some((command, _, payload)) = endpoint.frame() {
            if command == PUSH {
                got.extend_from_slice(&payload);
            }
        }
        assert_eq!(server.0.try_wait().unwrap(), None, "{crypt}: the server has ended");
        assert!(start.elapsed() < LIMIT, "{crypt}: {} of {BYTES} bytes", got.len());
    }
    assert!(got == data, "{crypt}");
    let restored = server.restored();
    drop(server);
    echo.join().unwrap();
    (endpoint.layers.stats(), restored)
}

/// Bytes from a TCP client through `kcptun-client` to a server of ours, which sends them back.
fn through_their_client(crypt: &str, fec: [Option<(u8, u8)>; 2], loss: bool) -> (LayerStats, u64) {
    let socket = UdpSocket::bind(local()).unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let remote = socket.local_addr().unwrap().to_string();
    let args = ["--localaddr", &listen, "--remoteaddr", &remote];
    let mut client = Kcptun::start("kcptun-client", crypt, fec[1], &args);
    let user = thread::spawn(move || {
        let start = Instant::now();
        let stream = loop {
            match TcpStream::connect(&listen) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < LIMIT, "{error}"),
            }
            thread::sleep(Duration::from_millis(20));
        };
        let data = pattern(BYTES, 2);
        let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
        reader.set_read_timeout(Some(LIMIT)).unwrap();
        let sending = data.clone();
        let send = thread::spawn(move || writer.write_all(&sending).map(|()| writer));
        let mut got = vec![0; BYTES];
        reader.read_exact(&mut got).unwrap();
        send.join().unwrap().unwrap();
        assert!(got == data);
    });
    let mut endpoint = Endpoint::accept(socket, &config(crypt, fec[0]), loss);
    let start = Instant::now();
    while !user.is_finished() {
        endpoint.turn();
        while let Some((command, stream, payload)) = endpoint.frame() {
            if command == PUSH {
                endpoint.push_frame(PUSH, stream, &payload);
            }
        }
        assert!(start.elapsed() < LIMIT, "{crypt}");
    }
    user.join().unwrap();
    let restored = client.restored();
    (endpoint.layers.stats(), restored)
}

/// Four at a time.
fn each_cipher(test: impl Fn(&str) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(crypt) = CIPHERS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    test(crypt);
                }
            });
        }
    });
}

/// Both sides have the same shape: a kcp-go that receives another than its own assumes wrong ones on the way to the right one,
/// and hands on what comes of it. Between two kcptuns, too, that ends connections.
const FEC: Option<(u8, u8)> = Some((10, 3));

fn check(crypt: &str, ours: &LayerStats, theirs: u64) {
    assert!(ours.fec_recovered > 0 && theirs > 0, "{crypt}: restored {} and {theirs}", ours.fec_recovered);
    assert_eq!((ours.short, ours.malformed, ours.fec_corrupt, ours.fec_retuned), (0, 0, 0, 0), "{crypt}");
    // Its SM4 garbles a block now and then when it encrypts and decrypts at the same time.
    assert!(ours.unsealed == 0 || crypt == "sm4", "{crypt}: {} packets did not open", ours.unsealed);
}

#[test]
fn every_cipher_at_their_server() {
    if installed() {
        each_cipher(|crypt| {
            let (ours, theirs) = through_their_server(crypt, [FEC, FEC], true);
            check(crypt, &ours, theirs);
        });
    }
}

#[test]
fn every_cipher_at_their_client() {
    if installed() {
        each_cipher(|crypt| {
            let (ours, theirs) = through_their_client(crypt, [FEC, FEC], true);
            check(crypt, &ours, theirs);
        });
    }
}

#[test]
fn without_error_correction() {
    if installed() {
        let (ours, theirs) = through_their_server("aes", [None, None], true);
        assert_eq!((ours.fec_data_sent, ours.fec_data_received, theirs), (0, 0, 0));
        let (ours, theirs) = through_their_client("none", [None, None], false);
        assert_eq!((ours.fec_data_sent, ours.fec_data_received, theirs), (0, 0, 0));
    }
}

/// We find out what they do.
#[test]
fn error_correction_that_we_did_not_expect() {
    if installed() {
        for shape in [(10, 3), (3, 1), (20, 10)] {
            let (ours, theirs) = through_their_server("aes", [None, Some(shape)], true);
            assert!(theirs == 0 && ours.fec_recovered > 0);
            assert_eq!((ours.fec_retuned, ours.fec_corrupt), (1, 0));
            let found = ours.fec_peer_shape.unwrap();
            assert_eq!((found.data(), found.parity()), shape);
        }
    }
}
