//! Real UDP sockets: quinn-udp for recvmmsg, GRO and GSO, nix for sendmmsg, and what to do where they are refused.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use super::control;
use super::readiness::Readiness;
use super::{DatagramSocket, Route, Sink, crowd, one_by_one};
#[cfg(any(target_os = "android", target_os = "linux"))]
use crate::config::Conv;
use crate::config::KcpConfig;
#[cfg(any(target_os = "android", target_os = "linux"))]
use crate::steer::program;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Receive buffers: one GRO train each.
const BATCH: usize = 16;
/// The longest train, and the longest datagram.
const BUFFER: usize = 65_536;
/// Whether a call fills as many buffers as there are datagrams for: one that is left empty says that all has come. Elsewhere quinn-udp fills one.
const FILLS: bool = cfg!(any(target_os = "android", target_os = "freebsd", target_os = "linux"));
/// Datagrams that most systems take in one call; where they do not, a run leaves in several.
const LIKELY_TRAIN: usize = 64;
/// So many datagrams in a row are taken for the beginning of trains.
const MANY: usize = 4;

thread_local! {
    /// Borrowed for the length of one receive call, so that idle sockets own no buffer.
    static BUFFERS: RefCell<(Vec<u8>, Vec<RecvMeta>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// A UDP socket with what the system offers for many datagrams at once. Whatever it refuses is done without, from then on.
#[derive(Debug)]
pub(crate) struct UdpIo<C = System> {
    io: Readiness,
    calls: C,
    /// Buffers of the next receive call: as many as lately were needed and one more, which stays empty when all has come. But one after
    /// a datagram that came alone: a call takes time for every buffer that it is given.
    batch: AtomicUsize,
    /// By plain calls: received since nothing was there.
    in_a_row: AtomicUsize,
    /// Connected before anything could arrive: nobody else is heard.
    only: Option<SocketAddr>,
    /// The one buffer was filled: the next turn will ask whether there is more, when whoever was woken by it has run.
    in_doubt: AtomicBool,
    /// Bound to no address of its own: peers reach it at several.
    any: bool,
    /// Refused so far.
    no_gso: AtomicBool,
    no_recvmmsg: AtomicBool,
    no_sendmmsg: AtomicBool,
}

/// The system's calls for many datagrams at once; a test's double refuses them.
pub(crate) trait Calls: Debug + Send + Sync + 'static {
    /// Whether the system was asked how many datagrams a send takes.
    fn is_prepared(&self) -> bool {
        true
    }
    fn prepare(&self, _: &UdpSocket) {}
    /// Whether what is received may be a train: else it is one datagram, of which nothing is to be told but where it comes from.
    fn joins(&self) -> bool {
        true
    }
    /// From now on it may. For who receives.
    fn join(&self, _: &UdpSocket) {}
    /// How many datagrams a send takes.
    fn max_gso_segments(&self, socket: &UdpSocket) -> usize;
    fn send(&self, socket: &UdpSocket, transmit: &Transmit<'_>) -> io::Result<()>;
    fn recv(
        &self,
        socket: &UdpSocket,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<usize>;
    /// One datagram to each of several peers; how many were sent.
    fn send_each(&self, socket: &UdpSocket, datagrams: &[(Route, &[u8])]) -> io::Result<usize>;
}

/// The real ones.
#[derive(Debug)]
pub(crate) struct System {
    /// What quinn-udp has asked the system for, if it was understood.
    state: OnceLock<Option<UdpSocketState>>,
    /// Datagrams that arrive together are to come as one (GRO).
    joins: AtomicBool,
    /// Bound to no address of its own.
    any: bool,
    /// With a class of service: quinn-udp would clear it in each datagram.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    marked: bool,
    /// Of a connected socket.
    peer: Option<SocketAddr>,
}

impl System {
    fn state(&self, socket: &UdpSocket) -> Option<&UdpSocketState> {
        let ask = || {
            // It joins datagrams for the length of a few calls. A train that arrives then is read as one datagram, which KCP understands; a sealed
            // one is lost.
            let state = UdpSocketState::new(UdpSockRef::from(socket));
            if let Err(error) = &state {
                tracing::debug!(%error, "datagrams go and come one by one");
            }
            join(socket, state.is_ok() && self.joins());
            let_fragment(socket);
            ask_for_less(socket, self.any);
            state.ok()
        };
        self.state.get_or_init(ask).as_ref()
    }

    /// A single datagram needs no control message, and one to the socket's own peer no route.
    fn send_one(&self, socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        loop {
            let sent = match self.peer {
                Some(_) => socket.send(datagram),
                None => socket.send_to(datagram, to),
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent.map(|_| ()),
            }
        }
    }
}

impl Calls for System {
    fn is_prepared(&self) -> bool {
        self.state.get().is_some()
    }

    fn prepare(&self, socket: &UdpSocket) {
        self.state(socket);
    }

    fn joins(&self) -> bool {
        self.joins.load(Ordering::Relaxed)
    }

    fn join(&self, socket: &UdpSocket) {
        self.joins.store(true, Ordering::Relaxed);
        join(socket, self.state(socket).is_some());
    }

    fn max_gso_segments(&self, socket: &UdpSocket) -> usize {
        self.state(socket).map_or(1, UdpSocketState::max_gso_segments)
    }

    fn send(&self, socket: &UdpSocket, transmit: &Transmit<'_>) -> io::Result<()> {
        let to = transmit.destination;
        let local = transmit.src_ip;
        if local.is_none() && transmit.segment_size.is_none() && self.peer.is_none_or(|peer| peer == to) {
            return self.send_one(socket, to, transmit.contents);
        }
        #[cfg(any(target_os = "android", target_os = "linux"))]
        if self.marked || local.is_some() {
            let to = Route { peer: to, local };
            return control::send(socket, to, transmit.contents, transmit.segment_size);
        }
        let state = self.state(socket).ok_or(io::ErrorKind::Unsupported)?;
        state.try_send(UdpSockRef::from(socket), transmit)
    }

    fn recv(
        &self,
        socket: &UdpSocket,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<usize> {
        #[cfg(any(target_os = "android", target_os = "linux"))]
        if let ([buffer], [meta]) = (&mut *buffers, &mut *meta) {
            return one::recv(socket, buffer, meta).map(|()| 1);
        }
        let state = self.state(socket).ok_or(io::ErrorKind::Unsupported)?;
        state.recv(UdpSockRef::from(socket), buffers, meta)
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    fn send_each(&self, socket: &UdpSocket, datagrams: &[(Route, &[u8])]) -> io::Result<usize> {
        many::send(socket, datagrams)
    }

    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    fn send_each(&self, _: &UdpSocket, _: &[(Route, &[u8])]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Whether the system does not know the call at all.
fn is_missing(error: &io::Error) -> bool {
    const ENOSYS: i32 = 38;
    error.kind() == io::ErrorKind::Unsupported || (cfg!(unix) && error.raw_os_error() == Some(ENOSYS))
}

/// Whether it refuses to cut a train: a device without checksums, a driver's bug, an old kernel.
fn refuses_trains(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const EINVAL: i32 = 22;
    matches!(error.raw_os_error(), Some(EIO | EINVAL))
}

/// `recvmsg`: one datagram, or a train of them.
#[cfg(any(target_os = "android", target_os = "linux"))]
mod one {
    use std::cell::RefCell;
    use std::io::{self, IoSliceMut};
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
    use std::os::fd::AsRawFd;

    use nix::cmsg_space;
    use nix::errno::Errno;
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
    use quinn_udp::RecvMeta;

    thread_local! {
        /// Room for what somebody may have asked for who made the socket, too.
        static CONTROL: RefCell<Vec<u8>> = RefCell::new(cmsg_space!([u64; 16]));
    }

    pub(super) fn recv(
        socket: &UdpSocket,
        buffer: &mut IoSliceMut<'_>,
        meta: &mut RecvMeta,
    ) -> io::Result<()> {
        CONTROL.with_borrow_mut(|control| {
            let mut buffers = [IoSliceMut::new(buffer)];
            let received = loop {
                let flags = MsgFlags::empty();
                match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffers, Some(control), flags) {
                    Err(Errno::EINTR) => {}
                    received => break received?,
                }
            };
            let (mut segment, mut local) = (None, None);
            for message in received.cmsgs()? {
                match message {
                    ControlMessageOwned::UdpGroSegments(bytes) => segment = usize::try_from(bytes).ok(),
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        local = Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                    }
                    _ => {}
                }
            }
            let v4 = |from: &SockaddrStorage| Some(SocketAddrV4::from(*from.as_sockaddr_in()?).into());
            let v6 = |from: &SockaddrStorage| Some(SocketAddrV6::from(*from.as_sockaddr_in6()?).into());
            let from: Option<SocketAddr> = received.address.and_then(|from| v4(&from).or_else(|| v6(&from)));
            meta.addr = from.ok_or(io::ErrorKind::InvalidData)?;
            meta.dst_ip = local;
            (meta.len, meta.stride) = (received.bytes, segment.unwrap_or(received.bytes));
            Ok(())
        })
    }
}

/// `sendmmsg`: datagrams to several peers in one call.
#[cfg(any(target_os = "android", target_os = "linux"))]
mod many {
    use std::cell::RefCell;
    use std::io::{self, IoSlice};
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use nix::cmsg_space;
    use nix::libc::{in_pktinfo, in6_pktinfo};
    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};

    use crate::socket::Route;
    use crate::socket::control::{Source, send_from};

    /// Datagrams per call.
    const MOST: usize = 64;

    type Headers = RefCell<MultiHeaders<SockaddrStorage>>;

    // A header's room for control messages is sent as it is: each kind has headers of its own.
    thread_local! {
        static PLAIN: Headers = RefCell::new(MultiHeaders::preallocate(MOST, None));
        static FROM_V4: Headers =
            RefCell::new(MultiHeaders::preallocate(MOST, Some(cmsg_space!(in_pktinfo))));
        static FROM_V6: Headers =
            RefCell::new(MultiHeaders::preallocate(MOST, Some(cmsg_space!(in6_pktinfo))));
    }

    /// How many were sent, of those that leave from the same address as the first; an error is the first one's.
    pub(super) fn send(socket: &UdpSocket, datagrams: &[(Route, &[u8])]) -> io::Result<usize> {
        let local = datagrams.first().and_then(|(to, _)| to.local);
        let alike = datagrams.iter().take(MOST).take_while(|(to, _)| to.local == local).count();
        let datagrams = datagrams.get(..alike).unwrap_or(datagrams);
        let mut slices = [[IoSlice::new(&[])]; MOST];
        let mut addrs = [None; MOST];
        for ((slice, addr), (to, datagram)) in slices.iter_mut().zip(&mut addrs).zip(datagrams) {
            *slice = [IoSlice::new(datagram)];
            *addr = Some(SockaddrStorage::from(to.peer));
        }
        let addrs = addrs.get(..alike).unwrap_or_default();
        send_from(local, |source| {
            let headers = match source {
                None => &PLAIN,
                Some(Source::V4(_)) => &FROM_V4,
                Some(Source::V6(_)) => &FROM_V6,
            };
            let source = source.map(Source::message);
            headers.with_borrow_mut(|headers| {
                let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
                let slices = slices.iter().take(alike);
                Ok(sendmmsg(fd, headers, slices, addrs, source.as_slice(), flags)?.count())
            })
        })
    }
}

impl UdpIo {
    /// Takes over a socket, and asks for kernel buffers and the class of service that are configured.
    pub(crate) fn new(io: UdpSocket, config: &KcpConfig) -> io::Result<Self> {
        let this = Self::unprepared(io, config)?;
        this.calls.prepare(this.io.socket());
        Ok(this)
    }

    /// A new socket for one peer: the kernel drops what others send, and tells when nothing listens there. What a short exchange does without
    /// is asked for when several datagrams come or go at once: fifteen calls, a tenth of the time of connect, exchange and close.
    pub(crate) fn connect(peer: SocketAddr, config: &KcpConfig) -> io::Result<Self> {
        let socket = open(peer)?;
        socket.connect(&peer.into())?;
        Ok(Self { only: Some(peer), ..Self::unprepared(socket.into(), config)? })
    }

    fn unprepared(io: UdpSocket, config: &KcpConfig) -> io::Result<Self> {
        let buffer = config.socket_buffer;
        let marked = config.dscp != 0;
        if marked {
            control::set_class(&io, config.dscp)?;
        }
        let socket = SockRef::from(&io);
        // Refusal is not an error: the system's limit applies.
        let _ = socket.set_recv_buffer_size(buffer);
        let _ = socket.set_send_buffer_size(buffer);
        let granted = [socket.recv_buffer_size().unwrap_or(0), socket.send_buffer_size().unwrap_or(0)];
        if let Some(sysctl) = limiting(granted, buffer) {
            warn_once(sysctl, granted, buffer);
        }
        let peer = io.peer_addr().ok();
        let any = peer.is_none() && io.local_addr().is_ok_and(|addr| addr.ip().is_unspecified());
        let calls = System {
            state: OnceLock::new(),
            // Each kind that the system tells something about, and each system that cannot be told to tell nothing.
            joins: AtomicBool::new(any || !cfg!(any(target_os = "android", target_os = "linux"))),
            any,
            #[cfg(any(target_os = "android", target_os = "linux"))]
            marked,
            peer,
        };
        Self::with(io, calls, any)
    }
}

impl<C: Calls> UdpIo<C> {
    fn with(io: UdpSocket, calls: C, any: bool) -> io::Result<Self> {
        Ok(Self {
            any,
            only: None,
            io: Readiness::new(io)?,
            calls,
            batch: AtomicUsize::new(1),
            in_a_row: AtomicUsize::new(0),
            in_doubt: AtomicBool::new(false),
            no_gso: AtomicBool::new(false),
            no_recvmmsg: AtomicBool::new(false),
            no_sendmmsg: AtomicBool::new(false),
        })
    }

    /// The way that a datagram took: the address that it was for, if that can be said and is one to answer from. The system knows which of a
    /// link's own it means.
    fn route(&self, meta: &RecvMeta) -> Route {
        let unicast = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
            IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unicast_link_local(),
        };
        let told = meta.dst_ip.filter(|_| self.any).map(|ip| ip.to_canonical());
        Route { peer: meta.addr, local: told.filter(unicast) }
    }

    /// One datagram by a plain call, which takes least.
    fn poll_recv_one(&self, cx: &mut Context<'_>, buffer: &mut [u8], sink: Sink<'_>) -> Poll<io::Result<()>> {
        let (len, peer) = ready!(self.io.poll_recv(cx, |socket| {
            let received = match self.only {
                Some(peer) => socket.recv(buffer).map(|len| (len, peer)),
                None => socket.recv_from(buffer),
            };
            if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                self.in_a_row.store(0, Ordering::Relaxed);
            }
            Ok((received?, false))
        }))?;
        let in_a_row = self.in_a_row.load(Ordering::Relaxed) + 1;
        self.in_a_row.store(in_a_row, Ordering::Relaxed);
        if in_a_row >= MANY && !self.calls.joins() {
            self.calls.join(self.io.socket());
        }
        self.in_doubt.store(in_a_row == 1 && crowd::is_latest(self), Ordering::Relaxed);
        if let Some(datagram) = buffer.get_mut(..len) {
            sink(peer.into(), datagram, len);
        }
        Poll::Ready(Ok(()))
    }

    /// Datagrams that a send takes.
    fn train(&self) -> usize {
        if self.no_gso.load(Ordering::Relaxed) {
            1
        } else {
            self.calls.max_gso_segments(self.io.socket()).max(1)
        }
    }
}

/// What to raise, if the system has granted less than half of what was asked for: receiving, sending.
fn limiting(granted: [usize; 2], wanted: usize) -> Option<&'static str> {
    match granted.map(|granted| granted < wanted / 2) {
        [true, true] => Some("net.core.rmem_max and net.core.wmem_max"),
        [true, false] => Some("net.core.rmem_max"),
        [false, true] => Some("net.core.wmem_max"),
        [false, false] => None,
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
    if io.local_addr().is_ok_and(|addr| addr.is_ipv6()) {
        let _ = set_ipv6_mtu_discover(io, Ipv6PathMtuDiscovery::WANT);
        let _ = nix::sys::socket::setsockopt(io, nix::sys::socket::sockopt::Ipv6DontFrag, &false);
    }
}

#[cfg(not(target_os = "linux"))]
const fn let_fragment(_: &UdpSocket) {}

/// Undoes more of what quinn-udp sets: nobody here reads a datagram's time of arrival or class, nor its destination where there is but one, and
/// telling them took a tenth of the time that sending and receiving a small one does.
#[cfg(any(target_os = "android", target_os = "linux"))]
fn ask_for_less(io: &UdpSocket, any: bool) {
    use nix::sys::socket::{setsockopt, sockopt};
    // Refusal is not an error: the same is done, a little slower.
    let _ = setsockopt(io, sockopt::ReceiveTimestampns, &false);
    let _ = setsockopt(io, sockopt::Ipv4PacketInfo, &any);
    let _ = setsockopt(io, sockopt::IpRecvTos, &false);
    if io.local_addr().is_ok_and(|addr| addr.is_ipv6()) {
        let _ = setsockopt(io, sockopt::Ipv6RecvPacketInfo, &any);
        let _ = setsockopt(io, sockopt::Ipv6RecvTClass, &false);
    }
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
const fn ask_for_less(_: &UdpSocket, _: bool) {}

/// Whether datagrams that arrive together come as one.
#[cfg(any(target_os = "android", target_os = "linux"))]
fn join(io: &UdpSocket, on: bool) {
    use nix::sys::socket::{setsockopt, sockopt};
    // A system that does not know it joins none.
    let _ = setsockopt(io, sockopt::UdpGroSegment, &on);
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
const fn join(_: &UdpSocket, _: bool) {}

/// `EMSGSIZE`, which has no kind of its own.
fn is_too_long(error: &io::Error) -> bool {
    cfg!(target_os = "linux") && error.raw_os_error() == Some(90)
}

/// One clear warning per process, not one per socket.
fn warn_once(sysctl: &str, [receive, send]: [usize; 2], wanted: usize) {
    static WARNED: std::sync::Once = std::sync::Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            receive,
            send,
            wanted,
            "small socket buffers, which lose bursts: raise {sysctl}, or ask for less with socket_buffer"
        );
    });
}

/// Binds a UDP socket; an IPv6 one also serves IPv4 where the system allows it.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    Ok(bind_with(addr, |_| Ok(()))?.into())
}

/// Binds as many sockets as the configuration has shards, and tells the kernel how to choose between them.
#[cfg(any(target_os = "android", target_os = "linux"))]
pub(crate) fn bind_group(addr: SocketAddr, config: &KcpConfig) -> io::Result<Vec<UdpSocket>> {
    // The first has the address for itself: others of ours or of somebody else's must not slip in between.
    let first = bind(addr)?;
    if config.shards == 1 {
        return Ok(vec![first]);
    }
    SockRef::from(&first).set_reuse_port(true)?;
    let addr = first.local_addr()?;
    let mut group = vec![first];
    for _ in 1..config.shards {
        group.push(bind_with(addr, |socket| socket.set_reuse_port(true))?.into());
    }
    if let Some(conv) = config.shows_conv()
        && let Some(any) = group.first()
    {
        let shards = u32::try_from(group.len()).map_err(io::Error::other)?;
        program::attach(any, program::by_conv(shards, conv != Conv::Plain))?;
    }
    Ok(group)
}

/// One socket: other systems do not let a program choose.
#[cfg(not(any(target_os = "android", target_os = "linux")))]
pub(crate) fn bind_group(addr: SocketAddr, _: &KcpConfig) -> io::Result<Vec<UdpSocket>> {
    Ok(vec![bind(addr)?])
}

fn bind_with(addr: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<Socket> {
    let socket = open(addr)?;
    prepare(&socket)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn open(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        let _ = socket.set_only_v6(false);
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl<C: Calls> DatagramSocket for UdpIo<C> {
    fn poll_recv(&self, cx: &mut Context<'_>, sink: Sink<'_>) -> Poll<io::Result<()>> {
        if self.in_doubt.load(Ordering::Relaxed) {
            self.in_doubt.store(false, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        BUFFERS.with_borrow_mut(|(storage, meta)| {
            // Zeroed once per thread, by the allocator.
            storage.resize(BATCH * BUFFER, 0);
            meta.resize(BATCH, RecvMeta::default());
            let one = |storage: &mut Vec<u8>, cx: &mut _, sink: Sink<'_>| {
                self.poll_recv_one(cx, storage.get_mut(..BUFFER).unwrap_or_default(), sink)
            };
            if !self.calls.joins() || self.no_recvmmsg.load(Ordering::Relaxed) {
                return one(storage, cx, sink);
            }
            let least = if crowd::is_latest(self) { 1 } else { 2 };
            let batch = self.batch.load(Ordering::Relaxed).max(least);
            let received = ready!(self.io.poll_recv(cx, |socket| {
                let mut chunks = storage.chunks_mut(BUFFER);
                let mut buffers: [IoSliceMut<'_>; BATCH] =
                    std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
                let (Some(buffers), Some(meta)) = (buffers.get_mut(..batch), meta.get_mut(..batch)) else {
                    return Err(io::ErrorKind::InvalidInput.into());
                };
                let received = self.calls.recv(socket, buffers, meta);
                if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
                    self.batch.store(1, Ordering::Relaxed);
                }
                received.map(|received| (received, FILLS && received < batch))
            }));
            let received = match received {
                Err(error) if is_missing(&error) => {
                    self.no_recvmmsg.store(true, Ordering::Relaxed);
                    return one(storage, cx, sink);
                }
                received => received?,
            };
            let alone = received == 1 && batch > 1;
            let next = if alone { 1 } else { (received + 1).next_power_of_two().min(BATCH) };
            self.batch.store(next, Ordering::Relaxed);
            self.in_doubt.store(batch == 1 && received == 1, Ordering::Relaxed);
            for (meta, buffer) in meta.iter().take(received).zip(storage.chunks_mut(BUFFER)) {
                if let Some(datagrams) = buffer.get_mut(..meta.len) {
                    sink(self.route(meta), datagrams, meta.stride);
                }
            }
            Poll::Ready(Ok(()))
        })
    }

    fn try_send(&self, to: Route, run: &[u8], stride: usize) -> io::Result<usize> {
        let mut sent = 0;
        let mut one_by_one = false;
        while let Some(rest) = run.get(sent..).filter(|rest| !rest.is_empty()) {
            let most = if one_by_one || rest.len() <= stride { 1 } else { self.train() };
            let train = rest.get(..stride * most).unwrap_or(rest);
            let transmit = Transmit {
                destination: to.peer,
                ecn: None,
                contents: train,
                segment_size: (train.len() > stride).then_some(stride),
                src_ip: to.local.filter(|_| self.any),
            };
            match self.io.try_send(|socket| self.calls.send(socket, &transmit)) {
                Ok(()) => sent += train.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return if sent > 0 { Ok(sent) } else { Err(error) };
                }
                // The same bytes again, one by one; and all that follow.
                Err(error) if train.len() > stride && refuses_trains(&error) => {
                    self.no_gso.store(true, Ordering::Relaxed);
                }
                // Segments longer than the path's mtu: the system fragments datagrams, but no trains.
                Err(error) if train.len() > stride && is_too_long(&error) => one_by_one = true,
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    fn try_send_each(&self, datagrams: &[(Route, &[u8])]) -> io::Result<usize> {
        if !self.no_sendmmsg.load(Ordering::Relaxed) {
            match self.io.try_send(|socket| self.calls.send_each(socket, datagrams)) {
                Err(error) if is_missing(&error) => self.no_sendmmsg.store(true, Ordering::Relaxed),
                sent => return sent,
            }
        }
        one_by_one(self, datagrams)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(cx)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.socket().local_addr()
    }

    fn max_run(&self) -> usize {
        if self.calls.is_prepared() { self.train() } else { LIKELY_TRAIN }
    }

    fn refused(&self) -> u64 {
        let refused = [&self.no_gso, &self.no_recvmmsg, &self.no_sendmmsg];
        refused.into_iter().filter(|refused| refused.load(Ordering::Relaxed)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KcpConfig, KcpEndpoint, KcpStream};
    use std::sync::Arc;
    use std::task::{Wake, Waker};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// The real calls, but for those that it refuses with an error of the system.
    #[derive(Debug)]
    struct Refusing {
        system: System,
        gso: Option<i32>,
        recvmmsg: Option<i32>,
        sendmmsg: Option<i32>,
        /// Trains and batches that were let through, and longest of what was received.
        trains: AtomicUsize,
        batches: AtomicUsize,
        longest: AtomicUsize,
    }

    fn refuse(errno: Option<i32>) -> io::Result<()> {
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    impl Calls for Refusing {
        fn max_gso_segments(&self, _: &UdpSocket) -> usize {
            64
        }

        fn send(&self, socket: &UdpSocket, transmit: &Transmit<'_>) -> io::Result<()> {
            if transmit.segment_size.is_some() {
                refuse(self.gso)?;
                self.trains.fetch_add(1, Ordering::Relaxed);
            }
            self.system.send(socket, transmit)
        }

        fn recv(
            &self,
            socket: &UdpSocket,
            buffers: &mut [IoSliceMut<'_>],
            meta: &mut [RecvMeta],
        ) -> io::Result<usize> {
            refuse(self.recvmmsg)?;
            let received = self.system.recv(socket, buffers, meta)?;
            for meta in &meta[..received] {
                self.longest.fetch_max(meta.len, Ordering::Relaxed);
            }
            Ok(received)
        }

        fn send_each(&self, socket: &UdpSocket, datagrams: &[(Route, &[u8])]) -> io::Result<usize> {
            refuse(self.sendmmsg)?;
            self.batches.fetch_add(1, Ordering::Relaxed);
            self.system.send_each(socket, datagrams)
        }
    }

    fn refusing(gso: Option<i32>, recvmmsg: Option<i32>, sendmmsg: Option<i32>) -> Arc<UdpIo<Refusing>> {
        refusing_at("127.0.0.1:0", gso, recvmmsg, sendmmsg)
    }

    fn refusing_at(
        addr: &str,
        gso: Option<i32>,
        recvmmsg: Option<i32>,
        sendmmsg: Option<i32>,
    ) -> Arc<UdpIo<Refusing>> {
        let socket = bind(addr.parse().unwrap()).unwrap();
        let system = System {
            state: OnceLock::new(),
            joins: AtomicBool::new(true),
            any: false,
            #[cfg(any(target_os = "android", target_os = "linux"))]
            marked: false,
            peer: None,
        };
        system.prepare(&socket);
        let (trains, batches, longest) = Default::default();
        let calls = Refusing { system, gso, recvmmsg, sendmmsg, trains, batches, longest };
        Arc::new(UdpIo::with(socket, calls, false).unwrap())
    }

    /// Clients on sockets of their own send and get back so many bytes each, all at once.
    async fn echoes(socket: Arc<UdpIo<Refusing>>, clients: usize, len: usize) -> KcpEndpoint {
        let addr = socket.local_addr().unwrap();
        let server = KcpEndpoint::from_socket(socket, KcpConfig::turbo()).unwrap();
        let serve = async {
            for _ in 0..clients {
                let (mut stream, _) = server.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut buf = vec![0; len];
                    stream.read_exact(&mut buf).await.unwrap();
                    stream.write_all(&buf).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
            }
        };
        let clients: Vec<_> = (0..clients)
            .map(|i| {
                tokio::spawn(async move {
                    let sent: Vec<u8> = (0..len).map(|at| (at * 7 + i) as u8).collect();
                    let mut stream = KcpStream::connect_with(addr, KcpConfig::turbo()).await.unwrap();
                    let (mut read, mut write) = stream.split();
                    let mut got = vec![0; len];
                    let (wrote, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut got));
                    wrote.unwrap();
                    read.unwrap();
                    assert_eq!(got, sent);
                })
            })
            .collect();
        serve.await;
        for client in clients {
            client.await.unwrap();
        }
        server
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// What one look at the socket brings, and whether another was asked for.
    fn look<C: Calls>(socket: &UdpIo<C>) -> (Option<Vec<u8>>, bool) {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut got = None;
        let mut sink = |_: Route, datagrams: &mut [u8], stride: usize| {
            assert_eq!((got.take(), stride), (None, datagrams.len()));
            got = Some(datagrams.to_vec());
        };
        let ready = socket.poll_recv(&mut Context::from_waker(&waker), &mut sink).is_ready();
        assert_eq!(ready, got.is_some());
        (got, woken.0.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn behind_a_datagram_that_came_alone_the_next_turn_looks() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let socket = refusing_at(any, None, None, None);
            let peer = UdpSocket::bind(any).unwrap();
            peer.connect(socket.local_addr().unwrap()).unwrap();
            crowd::set_latest(&*socket);
            for round in 0..3u8 {
                peer.send(&[round, 1]).unwrap();
                peer.send(&[round, 2, 2]).unwrap();
                while look(&socket).0 != Some(vec![round, 1]) {
                    tokio::task::yield_now().await;
                }
                assert_eq!(look(&socket), (None, true), "first whoever was woken");
                assert_eq!(look(&socket), (Some(vec![round, 2, 2]), false));
                assert_eq!(look(&socket), (None, false), "the second of two buffers was empty");
            }
        }
    }

    #[tokio::test]
    async fn among_several_sockets_one_look_says_that_there_is_no_more() {
        let socket = refusing(None, None, None);
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.connect(socket.local_addr().unwrap()).unwrap();
        crowd::set_latest(&peer);
        for round in 0..3u8 {
            peer.send(&[round]).unwrap();
            while look(&socket).0 != Some(vec![round]) {
                tokio::task::yield_now().await;
            }
            assert_eq!(look(&socket), (None, false));
        }
    }

    /// A socket of ours that listens or has dialled, and its peer's.
    #[cfg(target_os = "linux")]
    fn two(listens: bool) -> (UdpIo, UdpSocket) {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let config = KcpConfig::default();
        let socket = if listens {
            UdpIo::new(bind("127.0.0.1:0".parse().unwrap()).unwrap(), &config)
        } else {
            UdpIo::connect(peer.local_addr().unwrap(), &config)
        };
        let socket = socket.unwrap();
        peer.connect(socket.local_addr().unwrap()).unwrap();
        (socket, peer)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn trains_are_asked_for_when_datagrams_come_in_a_row() {
        use nix::sys::socket::{getsockopt, sockopt};
        for (listens, many) in [(false, false), (false, true), (true, false), (true, true)] {
            let (socket, peer) = two(listens);
            let asked = || getsockopt(socket.io.socket(), sockopt::UdpGroSegment).unwrap();
            for round in 0..3u8 {
                let row = if many && round == 2 { MANY } else { MANY - 1 };
                (0..row).for_each(|at| assert_eq!(peer.send(&[round, at as u8]).unwrap(), 2));
                for at in 0..row {
                    while look(&socket).0.is_none_or(|got| {
                        assert_eq!(got, [round, at as u8]);
                        false
                    }) {
                        tokio::task::yield_now().await;
                    }
                }
                while look(&socket).1 {}
                assert_eq!(look(&socket), (None, false), "all has come");
                assert_eq!((asked(), socket.calls.joins()), (row == MANY, row == MANY));
            }
            let (run, to) = ([7; 10], peer.local_addr().unwrap().into());
            assert_eq!(socket.max_run(), 64);
            assert_eq!(socket.calls.is_prepared(), listens || many);
            socket.try_send(to, &run[..5], 5).unwrap();
            assert_eq!(socket.calls.is_prepared(), listens || many, "one datagram is no train");
            socket.try_send(to, &run, 5).unwrap();
            assert_eq!(
                (socket.calls.is_prepared(), asked()),
                (true, many),
                "what goes says nothing of what comes"
            );
            let mut buf = [0; 16];
            for _ in 0..3 {
                assert_eq!(peer.recv(&mut buf).unwrap(), 5);
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn nothing_is_asked_of_a_datagram_that_nobody_reads() {
        use nix::sys::socket::{getsockopt, sockopt};
        for addr in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"] {
            let socket = UdpIo::new(bind(addr.parse().unwrap()).unwrap(), &KcpConfig::default()).unwrap();
            let any = socket.any;
            assert_eq!(any, ["0.0.0.0:0", "[::]:0"].contains(&addr));
            let socket = socket.io.socket();
            let asked = [
                getsockopt(socket, sockopt::ReceiveTimestampns),
                getsockopt(socket, sockopt::Ipv4PacketInfo),
                getsockopt(socket, sockopt::IpRecvTos),
            ];
            assert_eq!(asked, [Ok(false), Ok(any), Ok(false)]);
            if addr.starts_with('[') {
                let asked = [
                    getsockopt(socket, sockopt::Ipv6RecvPacketInfo),
                    getsockopt(socket, sockopt::Ipv6RecvTClass),
                ];
                assert_eq!(asked, [Ok(any), Ok(false)]);
                assert_eq!(getsockopt(socket, sockopt::Ipv6DontFrag), Ok(false), "the system may fragment");
            }
            assert_eq!(getsockopt(socket, sockopt::UdpGroSegment), Ok(any));
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_was_taken_from_us_is_left_out() {
        for (any, here, gone) in [("0.0.0.0:0", "127.0.0.1", "192.0.2.1"), ("[::]:0", "::1", "2001:db8::1")] {
            let socket = UdpIo::new(bind(any.parse().unwrap()).unwrap(), &KcpConfig::default()).unwrap();
            let port = socket.local_addr().unwrap().port();
            let peer = UdpSocket::bind(SocketAddr::new(here.parse().unwrap(), 0)).unwrap();
            let to = peer.local_addr().unwrap();
            let gone = Route { peer: to, local: Some(gone.parse().unwrap()) };
            assert_eq!(socket.try_send(gone, b"one", 3).unwrap(), 3);
            assert_eq!(socket.try_send(gone, b"one two", 4).unwrap(), 7);
            let here = Route { peer: to, local: Some(here.parse().unwrap()) };
            let mut rest = &[(gone, &b"each"[..]), (gone, b"ofus"), (here, b"last")][..];
            while !rest.is_empty() {
                let sent = socket.try_send_each(rest).unwrap();
                assert!((1..=2).contains(&sent), "one address in a call");
                rest = &rest[sent..];
            }
            for expected in ["one", "one ", "two", "each", "ofus", "last"] {
                let mut buf = [0; 16];
                let (len, from) = peer.recv_from(&mut buf).unwrap();
                assert_eq!((&buf[..len], from), (expected.as_bytes(), SocketAddr::new(to.ip(), port)));
            }
            assert_eq!(socket.max_run(), 64, "trains are not to blame");
        }
    }

    #[tokio::test]
    async fn nothing_refused() {
        let socket = refusing(None, None, None);
        let server = echoes(socket.clone(), 1, 1_000_000).await;
        assert!(socket.calls.trains.load(Ordering::Relaxed) > 0);
        assert_eq!(server.stats().offloads_refused, 0);
    }

    #[tokio::test]
    async fn without_trains_the_same_bytes_leave_one_by_one() {
        for errno in [5, 22] {
            let socket = refusing(Some(errno), None, None);
            let server = echoes(socket.clone(), 2, 300_000).await;
            assert_eq!(socket.calls.trains.load(Ordering::Relaxed), 0);
            assert_eq!(socket.max_run(), 1, "remembered");
            assert_eq!((server.stats().offloads_refused, server.stats().send_errors), (1, 0));
        }
    }

    #[tokio::test]
    async fn a_kernel_without_calls_for_many_datagrams_gets_one_at_a_time() {
        let socket = refusing(None, Some(38), Some(38));
        let server = echoes(socket.clone(), 20, 20_000).await;
        assert_eq!(socket.calls.batches.load(Ordering::Relaxed), 0);
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = peer.local_addr().unwrap();
        assert_eq!(socket.try_send_each(&[(to.into(), b"one"), (to.into(), b"two")]).unwrap(), 2);
        let mut buf = [0; 8];
        for expected in [b"one", b"two"] {
            let len = peer.recv(&mut buf).unwrap();
            assert_eq!(&buf[..len], expected);
        }
        assert_eq!(socket.refused(), 2);
        assert!(server.stats().offloads_refused >= 1);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn without_joined_datagrams_each_arrives_alone() {
        let socket = refusing(None, None, None);
        nix::sys::socket::setsockopt(socket.io.socket(), nix::sys::socket::sockopt::UdpGroSegment, &false)
            .unwrap();
        echoes(socket.clone(), 1, 300_000).await;
        let longest = socket.calls.longest.load(Ordering::Relaxed);
        assert!((1..=1400).contains(&longest), "{longest}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn one_peers_error_loses_only_its_own_datagram() {
        let socket = refusing(None, None, None);
        let peers: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let to: Vec<Route> = peers.iter().map(|peer| peer.local_addr().unwrap().into()).collect();
        // Nobody may broadcast who has not asked to: the system refuses this one.
        let forbidden = SocketAddr::from(([255; 4], 9)).into();
        let datagrams: [(Route, &[u8]); 4] =
            [(to[0], b"first"), (forbidden, b"never"), (to[1], b"second"), (to[2], b"third")];
        let mut rest = &datagrams[..];
        let mut errors = 0;
        while !rest.is_empty() {
            match socket.try_send_each(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::WouldBlock);
                    assert_eq!(rest[0].0, forbidden, "{error}");
                    (errors, rest) = (errors + 1, &rest[1..]);
                }
            }
        }
        assert_eq!(errors, 1);
        for (peer, expected) in peers.iter().zip(["first", "second", "third"]) {
            let mut buf = [0; 16];
            let len = peer.recv(&mut buf).unwrap();
            assert_eq!(&buf[..len], expected.as_bytes());
        }
    }

    #[test]
    fn the_warning_names_the_limit_that_is_in_the_way() {
        assert_eq!(limiting([8 << 20, 8 << 20], 4 << 20), None);
        assert_eq!(limiting([425_984, 8 << 20], 4 << 20), Some("net.core.rmem_max"));
        assert_eq!(limiting([8 << 20, 425_984], 4 << 20), Some("net.core.wmem_max"));
        assert_eq!(limiting([1, 1], 4 << 20), Some("net.core.rmem_max and net.core.wmem_max"));
    }
}
