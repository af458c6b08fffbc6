//! What the machine allows: datagrams of 1400 bytes over plain UDP sockets, with and without GSO and GRO, and "ideal KCP":
//! segments, a window and acknowledgements, but nothing for what gets lost.
//!
//! The receiver compares every byte, as the servers of the peers do. A datagram that gets lost fails the run.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::SockRef;
use tokio::io::Interest;

use super::workload::pattern;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const DATAGRAM: usize = 1400;
const HEADER: usize = 24;
const MSS: usize = DATAGRAM - HEADER;
/// The most that fit 65 507 bytes.
const TRAIN: usize = 46;
/// Acknowledgements in a datagram.
const ACKS: usize = DATAGRAM / HEADER;
/// Plain UDP: unreceived bytes, at most.
const CREDIT: u64 = 1024 * DATAGRAM as u64;
/// Plain UDP: the receiver tells how much has come after so much more.
const TELL: u64 = CREDIT / 8;
const BUFFER: usize = 4 << 20;
/// Silence for so long means that something got lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is sent how.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Ceiling {
    /// Segments with headers, a window, and an acknowledgement for each; otherwise plain datagrams.
    pub ideal: bool,
    /// Datagrams of one system call.
    pub train: usize,
    /// Receives whole trains.
    pub gro: bool,
}

impl Ceiling {
    /// `sendto` and `recvfrom`.
    pub const UDP: Self = Self { ideal: false, train: 1, gro: false };
    /// Trains out, trains in.
    pub const GSO_GRO: Self = Self { ideal: false, train: TRAIN, gro: true };
    /// Trains out, cut on their way, as a network device cuts them.
    pub const GSO: Self = Self { ideal: false, train: TRAIN, gro: false };
    /// Ideal KCP in trains.
    pub const IDEAL: Self = Self { ideal: true, train: TRAIN, gro: true };
    /// Ideal KCP, a system call for each datagram.
    pub const IDEAL_SINGLE: Self = Self { ideal: true, train: 1, gro: true };
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(ANY)?;
    let options = SockRef::from(&socket);
    options.set_recv_buffer_size(BUFFER)?;
    options.set_send_buffer_size(BUFFER)?;
    Ok(socket)
}

fn lost(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{what}: a datagram got lost or came as something else"))
}

/// Whether `bytes` are what stands at offset `at` of the transfer.
fn is_right(expected: &[u8], at: u64, bytes: &[u8]) -> bool {
    let at = (at % 251) as usize;
    expected.get(at..at + bytes.len()) == Some(bytes)
}

/// A receiver that is bound.
#[derive(Debug)]
pub struct Receiver {
    ceiling: Ceiling,
    socket: UdpSocket,
}

impl Receiver {
    /// Binds to loopback.
    ///
    /// # Errors
    /// Those of binding.
    pub fn bind(ceiling: Ceiling) -> io::Result<Self> {
        Ok(Self { ceiling, socket: socket()? })
    }

    /// Where.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Receives until something is lost.
    ///
    /// # Errors
    /// Those of the socket, and of data that is not what was sent.
    pub async fn serve(self) -> io::Result<()> {
        if self.ceiling.ideal { self.ideal().await } else { self.plain() }
    }

    fn plain(self) -> io::Result<()> {
        let socket = &self.socket;
        let state = self.ceiling.gro.then(|| UdpSocketState::new(UdpSockRef::from(socket))).transpose()?;
        // It has made it non-blocking.
        socket.set_nonblocking(false)?;
        let expected = pattern();
        let mut buf = vec![0; 65_536];
        let (mut got, mut told) = (0u64, 0u64);
        loop {
            let (n, from) = match &state {
                Some(state) => {
                    let mut meta = [RecvMeta::default()];
                    state.recv(UdpSockRef::from(socket), &mut [IoSliceMut::new(&mut buf)], &mut meta)?;
                    (meta[0].len, meta[0].addr)
                }
                None => socket.recv_from(&mut buf)?,
            };
            // An empty one begins a transfer and asks for an answer; a train is never as short.
            if n == 1 {
                (got, told) = (0, 0);
                socket.send_to(&0u64.to_le_bytes(), from)?;
                continue;
            }
            if !is_right(&expected, got, &buf[..n]) {
                return Err(lost("receiver"));
            }
            got += n as u64;
            if got - told >= TELL || n % DATAGRAM != 0 {
                told = got;
                socket.send_to(&got.to_le_bytes(), from)?;
            }
        }
    }

    async fn ideal(self) -> io::Result<()> {
        let state = UdpSocketState::new(UdpSockRef::from(&self.socket))?;
        let socket = tokio::net::UdpSocket::from_std(self.socket)?;
        let expected = pattern();
        let mut bufs = vec![vec![0; 65_536]; BATCH_SIZE];
        let mut acks = Vec::new();
        // Where the application would read from.
        let mut out = vec![0; 128 * 1024];
        let (mut next, mut filled, mut at) = (0u32, 0, 0u64);
        loop {
            socket.readable().await?;
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            let mut slices: Vec<_> = bufs.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
            let received = socket.try_io(Interest::READABLE, || {
                state.recv(UdpSockRef::from(&socket), &mut slices, &mut metas)
            });
            let count = match received {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            for (buf, meta) in bufs.iter().zip(&metas[..count]) {
                for datagram in buf[..meta.len].chunks(meta.stride.max(1)) {
                    let Some((header, payload)) = datagram.split_first_chunk::<HEADER>() else {
                        // Begins a transfer; what is left of the last has not been looked at.
                        if !is_right(&expected, at, &out[..filled]) {
                            return Err(lost("receiver"));
                        }
                        (next, filled, at) = (0, 0, 0);
                        continue;
                    };
                    if header[..4] != next.to_le_bytes() {
                        return Err(lost("receiver"));
                    }
                    next = next.wrapping_add(1);
                    acks.extend_from_slice(header);
                    if filled + payload.len() > out.len() {
                        if !is_right(&expected, at, &out[..filled]) {
                            return Err(lost("receiver"));
                        }
                        (at, filled) = (at + filled as u64, 0);
                    }
                    out[filled..filled + payload.len()].copy_from_slice(payload);
                    filled += payload.len();
                }
            }
            let to = metas[0].addr;
            for train in acks.chunks(ACKS * HEADER * self.ceiling.train.min(TRAIN)) {
                send(&socket, &state, to, train, ACKS * HEADER).await?;
            }
            acks.clear();
        }
    }
}

async fn send(
    socket: &tokio::net::UdpSocket,
    state: &UdpSocketState,
    to: SocketAddr,
    train: &[u8],
    stride: usize,
) -> io::Result<()> {
    let segment_size = (train.len() > stride).then_some(stride);
    let transmit = Transmit { destination: to, ecn: None, contents: train, segment_size, src_ip: None };
    loop {
        let sent = socket.try_io(Interest::WRITABLE, || state.try_send(UdpSockRef::from(socket), &transmit));
        match sent {
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable().await?,
            sent => return sent,
        }
    }
}

/// A sender that is bound.
#[derive(Debug)]
pub struct Sender {
    ceiling: Ceiling,
    window: usize,
    state: UdpSocketState,
    plain: Option<UdpSocket>,
    ideal: Option<tokio::net::UdpSocket>,
    to: SocketAddr,
}

impl Sender {
    /// Binds to loopback; `window` is that of ideal KCP.
    ///
    /// # Errors
    /// Those of binding.
    pub fn bind(ceiling: Ceiling, window: u16, to: SocketAddr) -> io::Result<Self> {
        let socket = socket()?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let (plain, ideal) = if ceiling.ideal {
            (None, Some(tokio::net::UdpSocket::from_std(socket)?))
        } else {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            (Some(socket), None)
        };
        Ok(Self { ceiling, window: window.into(), state, plain, ideal, to })
    }

    /// Sends `total` bytes and waits until all have come.
    ///
    /// # Errors
    /// Those of the socket; when something gets lost.
    pub async fn send(&self, data: &[u8], total: u64) -> io::Result<()> {
        if let Some(socket) = &self.plain {
            return self.plain(socket, data, total);
        }
        match &self.ideal {
            Some(socket) => {
                let sent = tokio::time::timeout(Duration::from_secs(60), self.ideal(socket, data, total));
                sent.await.map_err(|_| lost("sender"))?
            }
            None => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn plain(&self, socket: &UdpSocket, data: &[u8], total: u64) -> io::Result<()> {
        let told = || -> io::Result<u64> {
            let mut buf = [0; 8];
            socket.recv(&mut buf).map_err(|_| lost("sender"))?;
            Ok(u64::from_le_bytes(buf))
        };
        socket.send_to(&[0], self.to)?;
        while told()? != 0 {}
        let (mut sent, mut got) = (0, 0);
        // One byte more than full datagrams: the receiver knows the last one by its length.
        let total = total / DATAGRAM as u64 * DATAGRAM as u64 + 2;
        while sent < total {
            let n = (total - sent).min((self.ceiling.train * DATAGRAM) as u64);
            while sent + n > got + CREDIT {
                got = told()?;
            }
            let at = (sent % 251) as usize;
            let contents = &data[at..at + n as usize];
            if self.ceiling.train == 1 {
                socket.send_to(contents, self.to)?;
            } else {
                let segment_size = (contents.len() > DATAGRAM).then_some(DATAGRAM);
                let transmit =
                    Transmit { destination: self.to, ecn: None, contents, segment_size, src_ip: None };
                self.state.try_send(UdpSockRef::from(socket), &transmit)?;
            }
            sent += n;
        }
        while got < total {
            got = told()?;
        }
        Ok(())
    }

    async fn ideal(&self, socket: &tokio::net::UdpSocket, data: &[u8], total: u64) -> io::Result<()> {
        // The slots are what is sent: a payload is copied once.
        let mut ring = vec![0; self.window * DATAGRAM];
        let segments = total.div_ceil(MSS as u64);
        let (mut next, mut una) = (0u64, 0u64);
        let mut bufs = vec![vec![0; 65_536]; BATCH_SIZE];
        let window = self.window as u64;
        send(socket, &self.state, self.to, &[0], DATAGRAM).await?;
        while una < segments {
            while next < segments && next < una + window {
                let first = (next % window) as usize;
                let mut end = first * DATAGRAM;
                for slot in first..(first + self.ceiling.train).min(self.window) {
                    if next == segments || next == una + window {
                        break;
                    }
                    let at = next * MSS as u64;
                    let n = (total - at).min(MSS as u64) as usize;
                    let segment = &mut ring[slot * DATAGRAM..][..HEADER + n];
                    segment[..4].copy_from_slice(&(next as u32).to_le_bytes());
                    segment[HEADER..].copy_from_slice(&data[(at % 251) as usize..][..n]);
                    end = slot * DATAGRAM + HEADER + n;
                    next += 1;
                }
                send(socket, &self.state, self.to, &ring[first * DATAGRAM..end], DATAGRAM).await?;
            }
            socket.readable().await?;
            let mut metas = [RecvMeta::default(); BATCH_SIZE];
            let mut slices: Vec<_> = bufs.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
            let received = socket.try_io(Interest::READABLE, || {
                self.state.recv(UdpSockRef::from(socket), &mut slices, &mut metas)
            });
            match received {
                Ok(count) => {
                    for (buf, meta) in bufs.iter().zip(&metas[..count]) {
                        for ack in buf[..meta.len].chunks_exact(HEADER) {
                            if ack[..4] != (una as u32).to_le_bytes() {
                                return Err(lost("sender"));
                            }
                            una += 1;
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_ceiling_moves_and_checks_all_bytes() {
        for ceiling in [Ceiling::UDP, Ceiling::GSO, Ceiling::GSO_GRO, Ceiling::IDEAL, Ceiling::IDEAL_SINGLE] {
            let receiver = Receiver::bind(ceiling).expect("bound");
            let to = receiver.local_addr().expect("bound");
            let server = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(receiver.serve())
            });
            let sender = Sender::bind(ceiling, 64, to).expect("bound");
            let data = pattern();
            sender.send(&data, 1_000_000).await.expect("everything arrived");
            sender.send(&data, 300_001).await.expect("everything arrived");
            socket().expect("bound").send_to(&[9; DATAGRAM], to).expect("sent");
            assert!(server.join().expect("no panic").is_err(), "{ceiling:?} takes anything");
        }
    }
}
