//! Round trips and ticks over plain UDP: a tokio socket for each client, one for the server, a datagram per message, nothing else.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UdpSocket;

use super::workload::{ECHO, REQUEST};

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);
/// As long as a segment that carries nothing.
const ACK: [u8; 24] = [0; 24];

/// A client that takes each datagram for a part of a stream; what gets lost stays away.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
    acked: bool,
}

impl Datagrams {
    /// A socket of its own.
    ///
    /// # Errors
    /// Those of binding and connecting.
    pub async fn connect(server: SocketAddr, acked: bool) -> io::Result<Self> {
        let socket = UdpSocket::bind(ANY).await?;
        socket.connect(server).await?;
        Ok(Self { socket, acked })
    }
}

impl AsyncRead for Datagrams {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.socket.poll_recv(cx, buf))?;
        if self.acked {
            self.socket.try_send(&ACK)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Datagrams {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_send(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Sends back what comes, but for acknowledgements, and requests to echo, which are answered when all is done.
#[derive(Debug)]
pub struct Echo(UdpSocket);

impl Echo {
    /// On loopback.
    ///
    /// # Errors
    /// Those of binding.
    pub async fn bind() -> io::Result<Self> {
        let socket = UdpSocket::bind(ANY).await?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
        Ok(Self(socket))
    }

    /// Where.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Until the socket fails.
    ///
    /// # Errors
    /// The socket's.
    pub async fn serve(self) -> io::Result<()> {
        let mut buf = [0; 2048];
        loop {
            let (n, from) = self.0.recv_from(&mut buf).await?;
            let message = &buf[..n];
            if n == ACK.len() || n == REQUEST && message[0] == ECHO {
                continue;
            }
            self.0.send_to(message, from).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn messages_come_back_and_acknowledgements_do_not() {
        let server = Echo::bind().await.expect("bound");
        let at = server.local_addr().expect("bound");
        tokio::spawn(server.serve());
        for acked in [false, true] {
            let mut client = Datagrams::connect(at, acked).await.expect("connected");
            let mut request = [0; REQUEST];
            request[0] = ECHO;
            client.write_all(&request).await.expect("sent");
            for n in 0..3u8 {
                client.write_all(&[n; 100]).await.expect("sent");
                let mut reply = [0; 100];
                client.read_exact(&mut reply).await.expect("received");
                assert_eq!(reply, [n; 100]);
            }
        }
    }
}
