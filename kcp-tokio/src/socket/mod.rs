//! What the driver needs of a datagram socket.

mod control;
pub(crate) mod crowd;
mod readiness;
mod udp;

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

pub(crate) use udp::{UdpIo, bind_group};

/// The two ends of a datagram's way.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the peer is.
    pub peer: SocketAddr,
    /// The address of ours that the peer knows, where the socket has several (it is bound to `0.0.0.0` or `[::]`): answers that come
    /// from another one are a stranger's. None: the system chooses.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Route {
    fn from(peer: SocketAddr) -> Self {
        Self { peer, local: None }
    }
}

/// A datagram transport: a UDP socket, an in-memory network, or anything that carries datagrams between addresses.
///
/// All methods are called by one driver task, except [`try_send`](Self::try_send), which writers call from theirs.
pub trait DatagramSocket: Debug + Send + Sync + 'static {
    /// Receives what has arrived, a bounded number of datagrams, and hands it to `sink`: the way they came, one or
    /// more datagrams back to back, and the stride between them (the last may be shorter).
    ///
    /// Pending, with the waker registered, when nothing had arrived.
    ///
    /// # Errors
    /// Errors that concern one datagram (a peer's ICMP message) are returned and do not end the driver;
    /// [`is_fatal`](Self::is_fatal) ones do.
    fn poll_recv(&self, cx: &mut Context<'_>, sink: Sink<'_>) -> Poll<io::Result<()>>;

    /// Sends a run of datagrams to one peer: all are `stride` bytes long but the last, which may be shorter. Returns how
    /// many bytes of the run were sent, which is a multiple of `stride` or everything.
    ///
    /// # Errors
    /// `WouldBlock` when nothing was sent for lack of room. Any other error means that the run is lost from there on.
    fn try_send(&self, to: Route, run: &[u8], stride: usize) -> io::Result<usize>;

    /// Sends one datagram to each of several addresses, in order, with as few system calls as it can; returns how many were
    /// sent, at least one. The default sends them one by one.
    ///
    /// # Errors
    /// The first datagram's: it was not sent. One further back shows when it is the first.
    fn try_send_each(&self, datagrams: &[(Route, &[u8])]) -> io::Result<usize> {
        one_by_one(self, datagrams)
    }

    /// Ready when a send may succeed again after `WouldBlock`.
    ///
    /// # Errors
    /// When the socket is unusable.
    fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// The address this socket is bound to.
    ///
    /// # Errors
    /// When the operating system does not tell.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// How many datagrams of one run are worth laying out for one [`try_send`](Self::try_send); at least 1.
    fn max_run(&self) -> usize {
        1
    }

    /// What the system was found not to offer, so that the socket does without: calls for several datagrams at once.
    fn refused(&self) -> u64 {
        0
    }

    /// Whether a receive error means that this socket will never receive again.
    fn is_fatal(&self, error: &io::Error) -> bool {
        // "Bad file descriptor" and "not a socket", which have no kind of their own.
        let gone = match error.raw_os_error() {
            Some(9) => cfg!(unix),
            Some(88) => cfg!(target_os = "linux"),
            Some(38) => cfg!(all(unix, not(target_os = "linux"))),
            Some(10_038) => cfg!(windows),
            _ => false,
        };
        gone || matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::Unsupported)
    }
}

/// Up to the first that cannot be sent.
fn one_by_one(socket: &(impl DatagramSocket + ?Sized), datagrams: &[(Route, &[u8])]) -> io::Result<usize> {
    let mut sent = 0;
    for (to, datagram) in datagrams {
        match socket.try_send(*to, datagram, datagram.len().max(1)) {
            Ok(_) => sent += 1,
            Err(error) if sent == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(sent)
}

/// Takes received datagrams: the way they came, datagrams back to back, stride. They may be changed in place (decrypted), and are not
/// looked at again.
pub type Sink<'a> = &'a mut (dyn FnMut(Route, &mut [u8], usize) + 'a);
