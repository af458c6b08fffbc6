//! Real UDP sockets: quinn-udp for recvmmsg, GRO and GSO.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use super::marked;
use super::readiness::Readiness;
use super::{DatagramSocket, Sink};
use crate::config::KcpConfig;
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
    /// With a class of service: quinn-udp would clear it in each datagram.
    marked: bool,
}

impl UdpIo {
    /// Takes over a socket, and asks for kernel buffers and the class of service that are configured.
    pub(crate) fn new(io: UdpSocket, config: &KcpConfig) -> io::Result<Self> {
        let buffer = config.socket_buffer;
        let marked = config.dscp != 0;
        if marked {
            marked::set(&io, config.dscp)?;
        }
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let socket = SockRef::from(&io);
        // Refusal is not an error: the system's limit applies.
        let _ = socket.set_recv_buffer_size(buffer);
        let _ = socket.set_send_buffer_size(buffer);
        let granted = socket.recv_buffer_size().unwrap_or(0);
        if granted < buffer / 2 {
            warn_once(granted, buffer);
        }
        Ok(Self { io: Readiness::new(io)?, state, batch: AtomicUsize::new(MIN_BATCH), marked })
    }
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
        while let Some(rest) = run.get(sent..).filter(|rest| !rest.is_empty()) {
            let train = rest.get(..stride * self.state.max_gso_segments()).unwrap_or(rest);
            let transmit = Transmit {
                destination: to,
                ecn: None,
                contents: train,
                segment_size: (train.len() > stride).then_some(stride),
                src_ip: None,
            };
            let gso = self.state.max_gso_segments();
            let sent_now = self.io.try_send(|socket| {
                if self.marked {
                    marked::send(socket, to, train, transmit.segment_size)
                } else {
                    self.state.try_send(UdpSockRef::from(socket), &transmit)
                }
            });
            match sent_now {
                Ok(()) => sent += train.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if sent > 0 { Ok(sent) } else { Err(error) };
                }
                // The system has just refused segmentation offload: the same bytes again, one by one.
                Err(_) if train.len() > stride && self.state.max_gso_segments() < gso => {}
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
