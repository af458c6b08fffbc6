//! A sender and a receiver with the classic face and no tokio: two threads, two UDP sockets, a clock.
//!
//! `cargo run -p kcp-examples --example classic_face`

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use kcp_core::Kcp;

const CONV: u32 = 0x1122_3344;
const MESSAGES: u32 = 1000;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A `Kcp`, the socket it speaks through, and the milliseconds it is told.
struct Peer {
    kcp: Kcp,
    socket: UdpSocket,
    started: Instant,
}

impl Peer {
    fn new(socket: UdpSocket) -> Result<Self> {
        let mut kcp = Kcp::new(CONV);
        // RTO floor 30 ms; a tick every 10 ms; retransmit when two later segments were acknowledged; no congestion control.
        kcp.nodelay(1, 10, 2, 1);
        kcp.wndsize(256, 256);
        kcp.set_mtu(1400)?;
        Ok(Self { kcp, socket, started: Instant::now() })
    }

    /// One turn: tell the time, send what is due, wait for a datagram or the next deadline, take what has arrived.
    fn turn(&mut self) -> Result<()> {
        let now = self.started.elapsed().as_millis() as u32;
        self.kcp.update(now);
        while let Some(datagram) = self.kcp.poll_output() {
            self.socket.send(&datagram)?;
        }
        let wait = self.kcp.check(now).wrapping_sub(now).max(1);
        self.socket.set_read_timeout(Some(Duration::from_millis(wait.into())))?;
        let mut buf = [0; 2048];
        match self.socket.recv(&mut buf) {
            // A datagram that is refused was not for us; there is nothing to do about it.
            Ok(n) => _ = self.kcp.input(&buf[..n]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let (a, b) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    a.connect(b.local_addr()?)?;
    b.connect(a.local_addr()?)?;

    let receiver = std::thread::spawn(move || -> Result<u32> {
        let mut peer = Peer::new(b)?;
        let (mut received, mut buf) = (0, [0; 2048]);
        while received < MESSAGES {
            peer.turn()?;
            while let Ok(n) = peer.kcp.recv(&mut buf) {
                assert_eq!(buf[..n], received.to_le_bytes(), "in order, once");
                received += 1;
            }
        }
        // The last acknowledgements have to leave.
        for _ in 0..5 {
            peer.turn()?;
        }
        Ok(received)
    });

    let mut peer = Peer::new(a)?;
    let mut sent = 0u32;
    while sent < MESSAGES || peer.kcp.waitsnd() > 0 {
        // There is no bound on what `send` queues: watch `waitsnd`.
        while sent < MESSAGES && peer.kcp.waitsnd() < 256 {
            peer.kcp.send(&sent.to_le_bytes())?;
            sent += 1;
        }
        if receiver.is_finished() {
            break;
        }
        peer.turn()?;
    }
    let received = receiver.join().map_err(|_| "the receiver panicked")??;
    println!("{received} messages in order; {} retransmitted", peer.kcp.stats().retransmits);
    Ok(())
}
