//! Datagrams with a class of service (DSCP): the socket has it, so that no datagram may say otherwise, as quinn-udp's do.

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use imp::{send, set};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) use unsupported::{send, set};

#[cfg(any(target_os = "linux", target_os = "android"))]
mod imp {
    use std::io::{self, IoSlice};
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
    use socket2::SockRef;

    /// Datagrams sent from now on are of this class. The two lower bits of the octet are ECN's.
    pub(crate) fn set(socket: &UdpSocket, dscp: u8) -> io::Result<()> {
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

    /// Sends one datagram, or several of `segment` bytes each with one call.
    pub(crate) fn send(
        socket: &UdpSocket,
        to: SocketAddr,
        bytes: &[u8],
        segment: Option<usize>,
    ) -> io::Result<()> {
        let to = SockaddrStorage::from(to);
        let size = segment.map(u16::try_from).transpose().map_err(io::Error::other)?;
        let control = size.as_ref().map(ControlMessage::UdpGsoSegments);
        let (bytes, flags) = ([IoSlice::new(bytes)], MsgFlags::empty());
        sendmsg(socket.as_raw_fd(), &bytes, control.as_slice(), flags, Some(&to))?;
        Ok(())
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod unsupported {
    use std::io;
    use std::net::{SocketAddr, UdpSocket};

    pub(crate) fn set(_: &UdpSocket, _: u8) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "no class of service on this system"))
    }

    pub(crate) fn send(_: &UdpSocket, _: SocketAddr, _: &[u8], _: Option<usize>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
