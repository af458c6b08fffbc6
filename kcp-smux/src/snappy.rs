//! kcptun's compression: the framing format of snappy over a byte stream, flushed with every write.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream begins with it, and may repeat it.
const IDENTIFIER: &[u8; 10] = b"\xff\x06\x00\x00sNaPpY";
/// Bytes of a chunk before compression, at most.
const BLOCK: usize = 65_536;
/// The same after compression: `32 + n + n / 6`.
const COMPRESSED: usize = 76_490;
/// Type and length of a chunk.
const HEADER: usize = 4;
const CHECKSUM: usize = 4;
/// Chunks that carry nothing, at most, before other tasks have their turn.
const ROUNDS: usize = 64;

const KIND_COMPRESSED: u8 = 0x00;
const KIND_RAW: u8 = 0x01;
const KIND_IDENTIFIER: u8 = 0xff;

/// Compresses what is written, decompresses what is read.
///
/// Every write becomes a chunk at once (of 64 KiB at most): whoever writes little by little compresses little. What is read is
/// checked; anything that is not the framing format is `InvalidData`, a stream that breaks off within a chunk `UnexpectedEof`.
/// Holds at most a chunk in each direction, 210 KiB in all, allocated with the first use.
///
/// Compression and encryption together can tell an observer who chooses part of the data something about the rest.
///
/// # Cancel safety
/// `read` and `write` may be dropped at any point.
///
/// ```
/// use kcp_smux::snappy::Snappy;
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let (here, there) = tokio::io::duplex(16 << 10);
/// let (mut here, mut there) = (Snappy::new(here), Snappy::new(there));
/// here.write_all(&[7; 60_000]).await?;
/// here.flush().await?;
/// let mut data = vec![0; 60_000];
/// there.read_exact(&mut data).await?;
/// assert!(data.iter().all(|&byte| byte == 7));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Snappy<T> {
    io: T,
    encoder: Encoder,
    /// A chunk, and how much of it has left.
    out: Vec<u8>,
    written: usize,
    begun: bool,
    /// Received: `start..end`.
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of a chunk that are to be ignored.
    skip: usize,
    identified: bool,
    /// Decompressed, and how much of it was read.
    plain: Vec<u8>,
    read: usize,
}

impl<T> Snappy<T> {
    /// Both directions of `io`.
    pub fn new(io: T) -> Self {
        Self {
            io,
            encoder: Encoder::new(),
            out: Vec::new(),
            written: 0,
            begun: false,
            input: Vec::new(),
            start: 0,
            end: 0,
            skip: 0,
            identified: false,
            plain: Vec::new(),
            read: 0,
        }
    }

    /// What lies below.
    pub const fn get_ref(&self) -> &T {
        &self.io
    }

    fn encode(&mut self, block: &[u8]) -> io::Result<()> {
        self.out.clear();
        self.written = 0;
        if !self.begun {
            self.begun = true;
            self.out.extend_from_slice(IDENTIFIER);
        }
        let header = self.out.len();
        let body = header + HEADER + CHECKSUM;
        self.out.resize(body + max_compress_len(block.len()), 0);
        let compressed = self.encoder.compress(block, &mut self.out[body..]).map_err(io::Error::other)?;
        // As Go's implementation: it has to save an eighth.
        let kind = if compressed < block.len() - block.len() / 8 {
            self.out.truncate(body + compressed);
            KIND_COMPRESSED
        } else {
            self.out.truncate(body);
            self.out.extend_from_slice(block);
            KIND_RAW
        };
        let len = (self.out.len() - header - HEADER) as u32;
        let [l0, l1, l2, _] = len.to_le_bytes();
        self.out[header..header + HEADER].copy_from_slice(&[kind, l0, l1, l2]);
        self.out[header + HEADER..body].copy_from_slice(&checksum(block).to_le_bytes());
        Ok(())
    }

    /// Decodes the next chunk if all of it is there; false if it is not.
    fn decode(&mut self) -> io::Result<bool> {
        let input = &self.input[self.start..self.end];
        if self.skip > 0 {
            let n = self.skip.min(input.len());
            self.start += n;
            self.skip -= n;
            return Ok(n > 0);
        }
        let Some((&[kind, l0, l1, l2], rest)) = input.split_first_chunk::<HEADER>() else { return Ok(false) };
        let len = u32::from_le_bytes([l0, l1, l2, 0]) as usize;
        let longest = match kind {
            KIND_IDENTIFIER if len == IDENTIFIER.len() - HEADER => len,
            _ if !self.identified => return Err(invalid("the stream does not begin as snappy does")),
            KIND_COMPRESSED if len >= CHECKSUM => CHECKSUM + COMPRESSED,
            KIND_RAW if len >= CHECKSUM => CHECKSUM + BLOCK,
            0x80..=0xfe => {
                self.start += HEADER;
                self.skip = len;
                return Ok(true);
            }
            _ => return Err(invalid("a chunk of no known kind")),
        };
        if len > longest {
            return Err(invalid("a chunk that is too long"));
        }
        let Some(body) = rest.get(..len) else { return Ok(false) };
        self.start += HEADER + len;
        if kind == KIND_IDENTIFIER {
            if body != &IDENTIFIER[HEADER..] {
                return Err(invalid("an identifier that is not snappy's"));
            }
            self.identified = true;
            return Ok(true);
        }
        let (sum, body) = body.split_at(CHECKSUM);
        self.read = 0;
        if kind == KIND_RAW {
            self.plain.clear();
            self.plain.extend_from_slice(body);
        } else {
            let len = decompress_len(body).map_err(|error| invalid(error.to_string()))?;
            if len > BLOCK {
                return Err(invalid("a block that is too long"));
            }
            self.plain.resize(len, 0);
            Decoder::new().decompress(body, &mut self.plain).map_err(|error| invalid(error.to_string()))?;
        }
        if sum != checksum(&self.plain).to_le_bytes() {
            return Err(invalid("a block whose checksum is wrong"));
        }
        Ok(true)
    }
}

impl<T: AsyncWrite + Unpin> Snappy<T> {
    /// Hands on what is left of the last chunk.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Snappy<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let n = buf.len().min(BLOCK);
        self.encode(&buf[..n])?;
        // It is taken, whether or not it leaves at once. An error comes again with the next call.
        let _ = self.poll_drain(cx);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Snappy<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        for _ in 0..ROUNDS {
            if this.read < this.plain.len() {
                let n = buf.remaining().min(this.plain.len() - this.read);
                buf.put_slice(&this.plain[this.read..this.read + n]);
                this.read += n;
                return Poll::Ready(Ok(()));
            }
            if this.decode()? {
                continue;
            }
            this.input.resize(HEADER + CHECKSUM + COMPRESSED, 0);
            this.input.copy_within(this.start..this.end, 0);
            (this.start, this.end) = (0, this.end - this.start);
            let mut input = ReadBuf::new(&mut this.input[this.end..]);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut input))?;
            let n = input.filled().len();
            if n == 0 {
                let broken = this.end > 0 || this.skip > 0;
                return Poll::Ready(if broken { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) });
            }
            this.end += n;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// CRC-32C of what is not compressed, masked as the format wants it.
fn checksum(plain: &[u8]) -> u32 {
    crc32c::crc32c(plain).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
