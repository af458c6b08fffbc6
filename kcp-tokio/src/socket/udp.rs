//! Real UDP sockets: tokio for readiness, quinn-udp for recvmmsg, GRO and GSO.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::{DatagramSocket, Sink};

/// Receive buffers: one GRO train each.
const BATCH: usize = 16;
/// The longest train, and the longest datagram.
const BUFFER: usize = 65_536;

thread_local! {
    /// Borrowed for the length of one receive call, so that idle sockets own no buffer.
    static BUFFERS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A tokio UDP socket with the platform's offloads.
#[derive(Debug)]
pub(crate) struct UdpIo {
    io: UdpSocket,
    state: UdpSocketState,
}

impl UdpIo {
    /// Takes over a socket, and asks for kernel buffers of `buffer` bytes.
    pub(crate) fn new(io: UdpSocket, buffer: usize) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let socket = SockRef::from(&io);
        // Refusal is not an error: the system's limit applies.
        let _ = socket.set_recv_buffer_size(buffer);
        let _ = socket.set_send_buffer_size(buffer);
        let granted = socket.recv_buffer_size().unwrap_or(0);
        if granted < buffer / 2 {
            warn_once(granted, buffer);
        }
        Ok(Self { io, state })
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
    UdpSocket::from_std(socket.into())
}

impl DatagramSocket for UdpIo {
    fn poll_recv(&self, cx: &mut Context<'_>, sink: Sink<'_>) -> Poll<io::Result<()>> {
        BUFFERS.with_borrow_mut(|storage| {
            // Zeroed once per thread, by the allocator.
            storage.resize(BATCH * BUFFER, 0);
            let mut meta = [RecvMeta::default(); BATCH];
            let received = loop {
                ready!(self.io.poll_recv_ready(cx))?;
                let mut chunks = storage.chunks_mut(BUFFER);
                let mut buffers: [IoSliceMut<'_>; BATCH] =
                    std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
                let received = self.io.try_io(Interest::READABLE, || {
                    self.state.recv(UdpSockRef::from(&self.io), &mut buffers, &mut meta)
                });
                match received {
                    Ok(received) => break received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            };
            for (meta, buffer) in meta.iter().take(received).zip(storage.chunks(BUFFER)) {
                if let Some(datagrams) = buffer.get(..meta.len) {
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
            match self
                .io
                .try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), &transmit))
            {
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
        self.io.local_addr()
    }

    fn max_run(&self) -> usize {
        self.state.max_gso_segments()
    }
}
