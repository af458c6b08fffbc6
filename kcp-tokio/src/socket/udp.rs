//! Real UDP sockets: quinn-udp for recvmmsg, GRO and GSO.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use super::readiness::Readiness;
use super::{DatagramSocket, Sink};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Receive buffers: one GRO train each.
const BATCH: usize = 16;
/// A call takes time for every buffer that it is given, used or not.
const MIN_BATCH: usize = 2;
/// The longest train, and the longest datagram.
const BUFFER: usize = 65_536;

thread_local! {
    /// Borrowed for the length of one receive call, so that idle sockets own no buffer.
    static BUFFERS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A tokio UDP socket with the platform's offloads.
#[derive(Debug)]
pub(crate) struct UdpIo {
    io: Readiness,
    state: UdpSocketState,
    /// Buffers of the next receive call.
    batch: AtomicUsize,
}

impl UdpIo {
    /// Takes over a socket, and asks for kernel buffers of `buffer` bytes.
    pub(crate) fn new(io: UdpSocket, buffer: usize) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let_fragment(&io);
        let socket = SockRef::from(&io);
        // Refusal is not an error: the system's limit applies.
        let _ = socket.set_recv_buffer_size(buffer);
        let _ = socket.set_send_buffer_size(buffer);
        let granted = socket.recv_buffer_size().unwrap_or(0);
        if granted < buffer / 2 {
            warn_once(granted, buffer);
        }
        Ok(Self { io: Readiness::new(io)?, state, batch: AtomicUsize::new(MIN_BATCH) })
    }
}

/// Undoes what quinn-udp sets for QUIC, which finds out the path's mtu and cuts its packets anew. A segment of KCP keeps its length for
/// ever: where it has become too long for the interface or the path, the system has to fragment it, as it does unless told otherwise.
#[cfg(target_os = "linux")]
fn let_fragment(io: &UdpSocket) {
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    };
    // Refusal is not an error: a socket has one family, or both.
    let _ = set_ip_mtu_discover(io, Ipv4PathMtuDiscovery::WANT);
    let _ = set_ipv6_mtu_discover(io, Ipv6PathMtuDiscovery::WANT);
}

#[cfg(not(target_os = "linux"))]
const fn let_fragment(_: &UdpSocket) {}

/// `EMSGSIZE`, which has no kind of its own.
fn is_too_long(error: &io::Error) -> bool {
    cfg!(target_os = "linux") && error.raw_os_error() == Some(90)
}

/// One clear warning per process, not one per socket.
fn warn_once(granted: usize, wanted: usize) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            granted,
            wanted,
            "small socket receive buffer; raise net.core.rmem_max to avoid losing bursts"
        );
    });
}

/// Binds a UDP socket; an IPv6 one also serves IPv4 where the system allows it.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        let _ = socket.set_only_v6(false);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

impl DatagramSocket for UdpIo {
    fn poll_recv(&self, cx: &mut Context<'_>, sink: Sink<'_>) -> Poll<io::Result<()>> {
        BUFFERS.with_borrow_mut(|storage| {
            // Zeroed once per thread, by the allocator.
            storage.resize(BATCH * BUFFER, 0);
            let mut meta = [RecvMeta::default(); BATCH];
            // As many buffers as lately were needed, and one more: then what came was all.
            let batch = self.batch.load(Ordering::Relaxed);
            let received = ready!(self.io.poll_recv(cx, |socket| {
                let mut chunks = storage.chunks_mut(BUFFER);
                let mut buffers: [IoSliceMut<'_>; BATCH] =
                    std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
                let (Some(buffers), Some(meta)) = (buffers.get_mut(..batch), meta.get_mut(..batch)) else {
                    return Err(io::ErrorKind::InvalidInput.into());
                };
                let received = self.state.recv(UdpSockRef::from(socket), buffers, meta)?;
                Ok((received, received < batch))
            }))?;
            self.batch.store((received + 1).next_power_of_two().clamp(MIN_BATCH, BATCH), Ordering::Relaxed);
            for (meta, buffer) in meta.iter().take(received).zip(storage.chunks_mut(BUFFER)) {
                if let Some(datagrams) = buffer.get_mut(..meta.len) {
                    sink(meta.addr, datagrams, meta.stride);
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    fn try_send(&self, to: SocketAddr, run: &[u8], stride: usize) -> io::Result<usize> {
        let mut sent = 0;
        let mut one_by_one = false;
        while let Some(rest) = run.get(sent..).filter(|rest| !rest.is_empty()) {
            let gso = self.state.max_gso_segments();
            let segments = if one_by_one { 1 } else { gso };
            let train = rest.get(..stride * segments).unwrap_or(rest);
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: train,
                segment_size: (train.len() > stride).then_some(stride),
                src_ip: None,
            };
            match self.io.try_send(|socket| self.state.try_send(UdpSockRef::from(socket), &transmit)) {
                Ok(()) => sent += train.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if sent > 0 { Ok(sent) } else { Err(error) };
                }
                // The system has just refused segmentation offload: the same bytes again, one by one.
                Err(_) if train.len() > stride && self.state.max_gso_segments() < gso => {}
                // Segments longer than the path's mtu: the system fragments datagrams, but no trains.
                Err(error) if train.len() > stride && is_too_long(&error) => one_by_one = true,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(cx)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.socket().local_addr()
    }

    fn max_run(&self) -> usize {
        self.state.max_gso_segments()
    }
}
