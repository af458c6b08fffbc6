//! The two directions of a stream, for two tasks. What concerns neither alone is the stream's: `half.as_ref()`.

use std::error::Error;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};

use crate::session::Session;
use crate::stream::KcpStream;

/// The borrowed reading direction of a stream: [`KcpStream::split`].
#[derive(Debug)]
pub struct ReadHalf<'a>(pub(crate) &'a KcpStream);

/// The borrowed writing direction of a stream: [`KcpStream::split`].
#[derive(Debug)]
pub struct WriteHalf<'a>(pub(crate) &'a KcpStream);

/// The owned reading direction of a stream: [`KcpStream::into_split`]. Dropping it alone changes nothing.
#[derive(Debug)]
pub struct OwnedReadHalf(Arc<KcpStream>);

/// The owned writing direction of a stream: [`KcpStream::into_split`]. Dropped, it shuts its direction down, in the
/// background.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    stream: Arc<KcpStream>,
    shut_on_drop: bool,
}

/// The halves are not of one stream; both are in it.
#[derive(Debug)]
pub struct ReuniteError(pub OwnedReadHalf, pub OwnedWriteHalf);

impl fmt::Display for ReuniteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tried to reunite halves that are not from the same stream")
    }
}

impl Error for ReuniteError {}

pub(crate) fn split(stream: KcpStream) -> (OwnedReadHalf, OwnedWriteHalf) {
    let stream = Arc::new(stream);
    (OwnedReadHalf(stream.clone()), OwnedWriteHalf { stream, shut_on_drop: true })
}

impl OwnedReadHalf {
    fn session(&self) -> &Arc<Session> {
        self.0.session()
    }

    /// Puts the stream together again.
    ///
    /// # Errors
    /// When the halves are of two streams.
    pub fn reunite(self, write: OwnedWriteHalf) -> Result<KcpStream, ReuniteError> {
        if !Arc::ptr_eq(&self.0, &write.stream) {
            return Err(ReuniteError(self, write));
        }
        write.forget();
        // There were two, and the other one is gone.
        Arc::try_unwrap(self.0).map_err(|shared| {
            let write = OwnedWriteHalf { stream: shared.clone(), shut_on_drop: true };
            ReuniteError(Self(shared), write)
        })
    }
}

impl OwnedWriteHalf {
    fn session(&self) -> &Arc<Session> {
        self.stream.session()
    }

    /// Puts the stream together again.
    ///
    /// # Errors
    /// When the halves are of two streams.
    pub fn reunite(self, read: OwnedReadHalf) -> Result<KcpStream, ReuniteError> {
        read.reunite(self)
    }

    /// Drops it without shutting its direction down.
    pub fn forget(mut self) {
        self.shut_on_drop = false;
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        if self.shut_on_drop {
            self.session().with(|state, _| state.core.shutdown());
        }
    }
}

impl ReadHalf<'_> {
    fn session(&self) -> &Arc<Session> {
        self.0.session()
    }
}

impl WriteHalf<'_> {
    fn session(&self) -> &Arc<Session> {
        self.0.session()
    }
}

impl AsRef<KcpStream> for ReadHalf<'_> {
    fn as_ref(&self) -> &KcpStream {
        self.0
    }
}

impl AsRef<KcpStream> for WriteHalf<'_> {
    fn as_ref(&self) -> &KcpStream {
        self.0
    }
}

impl AsRef<KcpStream> for OwnedReadHalf {
    fn as_ref(&self) -> &KcpStream {
        &self.0
    }
}

impl AsRef<KcpStream> for OwnedWriteHalf {
    fn as_ref(&self) -> &KcpStream {
        &self.stream
    }
}

macro_rules! both {
    ($($half:ty),*) => {$(
        impl $half {
            /// The peer's address.
            ///
            /// # Errors
            /// None; the signature is `TcpStream`'s.
            pub fn peer_addr(&self) -> io::Result<SocketAddr> {
                Ok(self.session().peer())
            }

            /// The address of the socket.
            ///
            /// # Errors
            /// When the operating system does not tell.
            pub fn local_addr(&self) -> io::Result<SocketAddr> {
                self.session().local_addr()
            }

            /// Waits until an operation of this interest would not wait.
            ///
            /// # Errors
            /// None; the signature is `TcpStream`'s.
            pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
                Ok(self.session().ready(interest).await)
            }
        }
    )*};
}

macro_rules! read_half {
    ($($half:ty),*) => {$(
        impl $half {
            /// Waits until a read would not wait.
            ///
            /// # Errors
            /// None; the signature is `TcpStream`'s.
            pub async fn readable(&self) -> io::Result<()> {
                self.session().ready(Interest::READABLE).await;
                Ok(())
            }

            /// Reads what is there.
            ///
            /// # Errors
            /// `WouldBlock` when nothing is; otherwise those of a read.
            pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
                self.session().try_read(buf)
            }

            /// Reads without taking; waits until something is there.
            ///
            /// # Errors
            /// Those of a read.
            pub async fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                std::future::poll_fn(|cx| self.session().poll_peek(cx, buf)).await
            }
        }

        impl AsyncRead for $half {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.session().poll_read(cx, buf)
            }
        }
    )*};
}

macro_rules! write_half {
    ($($half:ty),*) => {$(
        impl $half {
            /// Waits until a write would not wait.
            ///
            /// # Errors
            /// None; the signature is `TcpStream`'s.
            pub async fn writable(&self) -> io::Result<()> {
                self.session().ready(Interest::WRITABLE).await;
                Ok(())
            }

            /// Writes what there is room for.
            ///
            /// # Errors
            /// `WouldBlock` when there is none; otherwise those of a write.
            pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
                self.session().try_write(&[IoSlice::new(buf)])
            }
        }

        impl AsyncWrite for $half {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                self.session().poll_write(cx, buf)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.session().poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.session().poll_flush()
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.session().poll_shutdown(cx)
            }
        }
    )*};
}

both!(ReadHalf<'_>, WriteHalf<'_>, OwnedReadHalf, OwnedWriteHalf);
read_half!(ReadHalf<'_>, OwnedReadHalf);
write_half!(WriteHalf<'_>, OwnedWriteHalf);
