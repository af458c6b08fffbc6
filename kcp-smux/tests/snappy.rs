//! The framing format: against the oracle of `snap`, pinned bytes, and streams that are none.

use std::io::{ErrorKind, Read, Write};

use kcp_smux::snappy::Snappy;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Writes come out as chunks of the format, whatever the pipe takes at once.
fn compressed(writes: &[Vec<u8>], pipe: usize) -> Vec<u8> {
    block_on(async {
        let (here, mut there) = tokio::io::duplex(pipe);
        let mut here = Snappy::new(here);
        let send = async move {
            for write in writes {
                here.write_all(write).await.unwrap();
                here.flush().await.unwrap();
            }
            here.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, result) = tokio::join!(send, there.read_to_end(&mut got));
        result.unwrap();
        got
    })
}

fn decompressed(bytes: &[u8], pipe: usize) -> std::io::Result<Vec<u8>> {
    block_on(async {
        let (mut here, there) = tokio::io::duplex(pipe);
        let mut there = Snappy::new(there);
        let send = async move {
            // Whoever has seen enough reads no further.
            let _ = here.write_all(bytes).await;
        };
        let receive = async move {
            let mut got = Vec::new();
            there.read_to_end(&mut got).await.map(|_| got)
        };
        tokio::join!(send, receive).1
    })
}

fn writes() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Half of them compress well.
    let write = (any::<bool>(), 1usize..100_000, any::<u64>()).prop_map(|(noise, len, seed)| {
        let mut rng = fastrand::Rng::with_seed(seed);
        (0..len).map(|i| if noise { rng.u8(..) } else { (i / 50) as u8 }).collect()
    });
    proptest::collection::vec(write, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_oracle_reads_what_we_write(writes in writes(), pipe in 1usize..70_000) {
        let mut got = Vec::new();
        snap::read::FrameDecoder::new(&compressed(&writes, pipe)[..]).read_to_end(&mut got).unwrap();
        prop_assert!(got == writes.concat());
    }

    #[test]
    fn we_read_what_the_oracle_writes(writes in writes(), pipe in 1usize..70_000) {
        let mut encoder = snap::write::FrameEncoder::new(Vec::new());
        for write in &writes {
            encoder.write_all(write).unwrap();
            encoder.flush().unwrap();
        }
        let bytes = encoder.into_inner().unwrap();
        prop_assert!(decompressed(&bytes, pipe).unwrap() == writes.concat());
    }

    /// A bit that has changed is an error, or lies where it means nothing; it never changes what is read.
    #[test]
    fn damage_is_noticed(seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let data: Vec<u8> = (0..3000).map(|i| if i < 1000 { rng.u8(..) } else { (i / 50) as u8 }).collect();
        let mut bytes = compressed(&[data[..1000].to_vec(), data[1000..].to_vec()], 4096);
        let at = rng.usize(..bytes.len());
        bytes[at] ^= 1 << rng.u8(..8);
        if let Ok(got) = decompressed(&bytes, 512) {
            // A kind that is skipped leaves a chunk out, as the format wants it.
            prop_assert!(got == data || got == data[1000..] || got == data[..1000]);
        }
    }
}

#[test]
fn bytes_are_pinned() {
    // The checksum of the format's own example of CRC-32C: nine digits, 0xe3069283 before masking.
    let mut expected = b"\xff\x06\x00\x00sNaPpY\x01\x0d\x00\x00".to_vec();
    let masked = 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8);
    expected.extend_from_slice(&masked.to_le_bytes());
    expected.extend_from_slice(b"123456789");
    assert_eq!(compressed(&[b"123456789".to_vec()], 64), expected);
    // One identifier per stream; a chunk per write, of 64 KiB at most.
    let bytes = compressed(&[vec![0; 65_536], vec![0; 65_537]], 4096);
    assert_eq!(bytes.windows(10).filter(|window| window == b"\xff\x06\x00\x00sNaPpY").count(), 1);
    let mut kinds = Vec::new();
    let mut rest = &bytes[..];
    while let Some((&[kind, l0, l1, l2], tail)) = rest.split_first_chunk() {
        kinds.push(kind);
        rest = &tail[u32::from_le_bytes([l0, l1, l2, 0]) as usize..];
    }
    // The last byte does not compress.
    assert_eq!(kinds, [0xff, 0, 0, 1]);
}

#[test]
fn what_is_refused_and_what_is_skipped() {
    let id = b"\xff\x06\x00\x00sNaPpY";
    let chunk = &compressed(&[b"data".to_vec()], 64)[10..];
    let error = |bytes: &[u8]| decompressed(bytes, 64).unwrap_err().kind();
    for bad in [
        chunk.to_vec(),
        b"GET / HTTP/1.1".to_vec(),
        b"\xff\x06\x00\x00sNaPpX".to_vec(),
        b"\xff\x07\x00\x00sNaPpYx".to_vec(),
        [id, &b"\x02\x00\x00\x00"[..]].concat(),
        [id, &b"\x7f\x00\x00\x00"[..]].concat(),
        // Too short for a checksum; longer than a block may be.
        [id, &b"\x01\x03\x00\x00abc"[..]].concat(),
        [id, &b"\x01\x05\x00\x01"[..]].concat(),
        [id, &b"\x00\xff\xff\xff"[..]].concat(),
        // Says that it is 2 GiB.
        [id, &b"\x00\x09\x00\x00abcd\xff\xff\xff\xff\x07"[..]].concat(),
    ] {
        assert_eq!(error(&bad), ErrorKind::InvalidData, "{bad:?}");
    }
    for broken in [&id[..3], &[&id[..], &chunk[..5]].concat(), &[&id[..], b"\x80\x10\x00\x00abc"].concat()] {
        assert_eq!(error(broken), ErrorKind::UnexpectedEof, "{broken:?}");
    }
    let skipped = vec![0; 0x0f_ffff];
    let odd = [
        &id[..],
        b"\x80\x00\x00\x00",
        b"\xfe\xff\xff\x0f",
        &skipped,
        id,
        chunk,
        // An empty block, as nobody writes it.
        b"\x01\x04\x00\x00\xd8\xea\x82\xa2",
        chunk,
    ]
    .concat();
    assert_eq!(decompressed(&odd, 100_000).unwrap(), b"datadata");
    assert_eq!(decompressed(b"", 64).unwrap(), b"");
}
