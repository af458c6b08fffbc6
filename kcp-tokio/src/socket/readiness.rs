//! Waits for a UDP socket to become readable, and only while it is full for it to become writable: every datagram that leaves a
//! socket makes it "writable", and a runtime that waits for that wakes up for nothing with each.

pub(crate) use imp::Readiness;

#[cfg(unix)]
mod imp {
    use std::io;
    use std::net::UdpSocket;
    use std::sync::{Mutex, PoisonError};
    use std::task::{Context, Poll, ready};

    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// A non-blocking socket registered for reading.
    #[derive(Debug)]
    pub(crate) struct Readiness {
        io: AsyncFd<UdpSocket>,
        /// A second descriptor of the socket, registered for writing; there while somebody waits.
        writable: Mutex<Option<AsyncFd<UdpSocket>>>,
    }

    #[allow(
        deprecated,
        reason = "its successor is unsafe for types that change their descriptor; std's socket does not"
    )]
    fn register(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
        AsyncFd::with_interest(socket, interest)
    }

    impl Readiness {
        pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
            let io = register(socket, Interest::READABLE)?;
            Ok(Self { io, writable: Mutex::new(None) })
        }

        pub(crate) fn socket(&self) -> &UdpSocket {
            self.io.get_ref()
        }

        /// Calls `recv` once there may be something; it says whether it has taken all there was.
        pub(crate) fn poll_recv<T>(
            &self,
            cx: &mut Context<'_>,
            mut recv: impl FnMut(&UdpSocket) -> io::Result<(T, bool)>,
        ) -> Poll<io::Result<T>> {
            loop {
                let mut ready = ready!(self.io.poll_read_ready(cx))?;
                match recv(self.socket()) {
                    Ok((value, drained)) => {
                        if drained {
                            // Spares a call that would only say so. What has come since has made an event of its own.
                            ready.clear_ready();
                        }
                        return Poll::Ready(Ok(value));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }

        #[allow(clippy::unused_self, reason = "other systems have to ask")]
        pub(crate) fn try_send<T>(&self, send: impl FnOnce(&UdpSocket) -> io::Result<T>) -> io::Result<T> {
            send(self.socket())
        }

        pub(crate) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let mut slot = self.writable.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = match &mut *slot {
                Some(waiting) => waiting,
                none => none.insert(register(self.socket().try_clone()?, Interest::WRITABLE)?),
            };
            let ready = ready!(waiting.poll_write_ready(cx)).map(|_| ());
            *slot = None;
            Poll::Ready(ready)
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::io;
    use std::net::UdpSocket;
    use std::task::{Context, Poll, ready};

    use tokio::io::Interest;

    /// A non-blocking socket, as tokio registers it.
    #[derive(Debug)]
    pub(crate) struct Readiness {
        io: tokio::net::UdpSocket,
        socket: UdpSocket,
    }

    impl Readiness {
        pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
            Ok(Self { io: tokio::net::UdpSocket::from_std(socket.try_clone()?)?, socket })
        }

        pub(crate) const fn socket(&self) -> &UdpSocket {
            &self.socket
        }

        pub(crate) fn poll_recv<T>(
            &self,
            cx: &mut Context<'_>,
            mut recv: impl FnMut(&UdpSocket) -> io::Result<(T, bool)>,
        ) -> Poll<io::Result<T>> {
            loop {
                ready!(self.io.poll_recv_ready(cx))?;
                match self.io.try_io(Interest::READABLE, || recv(&self.socket)) {
                    Ok((value, _)) => return Poll::Ready(Ok(value)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }

        pub(crate) fn try_send<T>(&self, send: impl FnOnce(&UdpSocket) -> io::Result<T>) -> io::Result<T> {
            self.io.try_io(Interest::WRITABLE, || send(&self.socket))
        }

        pub(crate) fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.io.poll_send_ready(cx)
        }
    }
}
