//! Datagrams that leave with control messages of ours: from one of the socket's addresses, or of a class of service (DSCP), which the
//! socket has, so that no datagram may say otherwise, as quinn-udp's do.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use imp::{Source, send, send_from, set_class};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use unsupported::set_class;

#[cfg(any(target_os = "linux", target_os = "android"))]
mod imp {
    use std::io::{self, IoSlice};
    use std::net::{IpAddr, UdpSocket};
    use std::os::fd::AsRawFd;

    use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
    use socket2::SockRef;

    use crate::socket::Route;

    /// Datagrams sent from now on are of this class. The two lower bits of the octet are ECN's.
    pub(crate) fn set_class(socket: &UdpSocket, dscp: u8) -> io::Result<()> {
        let octet = u32::from(dscp) << 2;
        let options = SockRef::from(socket);
        if socket.local_addr()?.is_ipv6() {
            options.set_tclass_v6(octet)?;
            // For IPv4 peers of the same socket.
            let _ = options.set_tos_v4(octet);
            return Ok(());
        }
        options.set_tos_v4(octet)
    }

    /// The address that a datagram leaves from.
    #[derive(Debug)]
    pub(crate) enum Source {
        V4(in_pktinfo),
        V6(in6_pktinfo),
    }

    impl Source {
        pub(crate) const fn of(local: IpAddr) -> Self {
            match local {
                IpAddr::V4(ip) => Self::V4(in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                    ipi_addr: in_addr { s_addr: 0 },
                }),
                IpAddr::V6(ip) => {
                    Self::V6(in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 })
                }
            }
        }

        pub(crate) const fn message(&self) -> ControlMessage<'_> {
            match self {
                Self::V4(info) => ControlMessage::Ipv4PacketInfo(info),
                Self::V6(info) => ControlMessage::Ipv6PacketInfo(info),
            }
        }
    }

    /// Sends from this address, or, if the system refuses that, from one that it chooses: the interface has lost it, or the endpoint has
    /// moved to another socket. The peer will learn of another one then.
    pub(crate) fn send_from<T>(
        local: Option<IpAddr>,
        send: impl Fn(Option<&Source>) -> io::Result<T>,
    ) -> io::Result<T> {
        const EINVAL: i32 = 22;
        const EADDRNOTAVAIL: i32 = 99;
        const ENETUNREACH: i32 = 101;
        let source = local.map(Source::of);
        send(source.as_ref()).or_else(|error| match error.raw_os_error() {
            Some(EINVAL | EADDRNOTAVAIL | ENETUNREACH) if source.is_some() => send(None),
            _ => Err(error),
        })
    }

    /// Sends one datagram, or several of `segment` bytes each with one call.
    pub(crate) fn send(
        socket: &UdpSocket,
        to: Route,
        bytes: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let peer = SockaddrStorage::from(to.peer);
        let size = segment.map(u16::try_from).transpose().map_err(io::Error::other)?;
        let segments = size.as_ref().map(ControlMessage::UdpGsoSegments);
        let bytes = [IoSlice::new(bytes)];
        let send = |control: &[ControlMessage<'_>]| {
            sendmsg(socket.as_raw_fd(), &bytes, control, MsgFlags::empty(), Some(&peer))?;
            Ok(())
        };
        send_from(to.local, |source| match (source.map(Source::message), &segments) {
            (None, segments) => send(segments.as_slice()),
            (Some(source), None) => send(&[source]),
            (Some(source), Some(segments)) => send(&[source, *segments]),
        })
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod unsupported {
    use std::io;
    use std::net::UdpSocket;

    pub(crate) fn set_class(_: &UdpSocket, _: u8) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "no class of service on this system"))
    }
}
