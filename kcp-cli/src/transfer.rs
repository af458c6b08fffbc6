//! The file transfer's own protocol on a stream, shared by `send` and `recv`.
//!
//! All integers are little-endian.
//! 1. sender: `KCPF`, version u8 = 1, name length u16, name (UTF-8), size u64
//! 2. receiver: `have` u64, the length of the part it already has, and the SHA-256 of that part
//! 3. sender: `start` u64, which is `have` if its own first `have` bytes have that sum, else 0; then the bytes from
//!    `start` on; then the SHA-256 of the whole file
//! 4. receiver: the SHA-256 of what it has on disk

use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt};

/// A SHA-256 sum.
pub(crate) type Sum = [u8; 32];

/// How long the other end is given to acknowledge our last word.
pub(crate) const GOODBYE: Duration = Duration::from_secs(5);
const MAGIC: &[u8; 4] = b"KCPF";
const VERSION: u8 = 1;
const MAX_NAME: usize = 1024;
/// Bytes read and written at a time.
pub(crate) const CHUNK: usize = 256 * 1024;

/// What the sender offers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Offer {
    /// The file's name, without directories.
    pub(crate) name: String,
    /// Its length in bytes.
    pub(crate) size: u64,
}

impl Offer {
    pub(crate) async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        let name = self.name.as_bytes();
        ensure!(name.len() <= MAX_NAME, "the file's name is too long");
        let mut bytes = MAGIC.to_vec();
        bytes.push(VERSION);
        bytes.extend_from_slice(&u16::try_from(name.len())?.to_le_bytes());
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&self.size.to_le_bytes());
        Ok(to.write_all(&bytes).await?)
    }

    pub(crate) async fn read(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head).await?;
        ensure!(head.starts_with(MAGIC), "the peer is no `kcp send`");
        ensure!(
            head[4] == VERSION,
            "the peer speaks version {} of the transfer, this is version {VERSION}",
            head[4]
        );
        let len = usize::from(from.read_u16_le().await?);
        ensure!(len <= MAX_NAME, "the file's name is too long");
        let mut name = vec![0; len];
        from.read_exact(&mut name).await?;
        let name = String::from_utf8(name).ok().context("the file's name is not UTF-8")?;
        // The name is a stranger's: it must stay within the directory that the user chose.
        let plain = Path::new(&name).file_name().is_some_and(|last| last == name.as_str());
        if !plain || name.contains(['/', '\\', '\0']) {
            bail!("the peer offers a file of the name {name:?}, which is no plain file name");
        }
        Ok(Self { name, size: from.read_u64_le().await? })
    }
}

/// The sum of a file's first `len` bytes, as a hash that can go on; the file is left behind them.
pub(crate) async fn hash_prefix(file: &mut File, len: u64) -> Result<Sha256> {
    file.seek(SeekFrom::Start(0)).await?;
    let mut hash = Sha256::new();
    let mut left = len;
    let mut buf = vec![0; CHUNK];
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let n = file.read(&mut buf[..want]).await?;
        ensure!(n > 0, "the file has become shorter");
        hash.update(&buf[..n]);
        left -= n as u64;
    }
    Ok(hash)
}

/// The finished sum.
pub(crate) fn sum(hash: Sha256) -> Sum {
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn offers_round_trip_and_hostile_names_are_refused() {
        let offer = Offer { name: "data.bin".into(), size: 1 << 40 };
        let mut bytes = Vec::new();
        offer.write(&mut bytes).await.unwrap();
        assert_eq!(bytes[..7], *b"KCPF\x01\x08\x00");
        assert_eq!(Offer::read(&mut bytes.as_slice()).await.unwrap(), offer);
        for name in ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b"] {
            let mut bytes = Vec::new();
            Offer { name: name.into(), size: 1 }.write(&mut bytes).await.unwrap();
            assert!(Offer::read(&mut bytes.as_slice()).await.is_err(), "{name:?}");
        }
        bytes[4] = 2;
        assert!(Offer::read(&mut bytes.as_slice()).await.is_err());
    }
}
