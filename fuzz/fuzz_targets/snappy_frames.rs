//! Any bytes as a compressed stream, in pieces of any size: what the oracle reads we read, and what was written reads back.
#![no_main]

use std::io::Read;

use kcp_smux::snappy::Snappy;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fuzz_target!(|data: &[u8]| {
    let Some((&pipe, data)) = data.split_first() else { return };
    let pipe = usize::from(pipe) + 1;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let read = async |bytes: &[u8]| {
            let (mut here, there) = tokio::io::duplex(pipe);
            let mut there = Snappy::new(there);
            let send = async move { drop(here.write_all(bytes).await) };
            let receive = async move {
                let mut got = Vec::new();
                there.read_to_end(&mut got).await.map(|_| got)
            };
            tokio::join!(send, receive).1
        };
        // With the identifier in front more of them get further.
        for bytes in [data.to_vec(), [b"\xff\x06\x00\x00sNaPpY", data].concat()] {
            let mut oracle = Vec::new();
            let theirs = snap::read::FrameDecoder::new(&bytes[..]).read_to_end(&mut oracle);
            if let Ok(ours) = read(&bytes).await
                && theirs.is_ok()
            {
                assert_eq!(ours, oracle);
            }
        }

        let (here, mut there) = tokio::io::duplex(pipe);
        let mut here = Snappy::new(here);
        let send = async move {
            for part in data.chunks(pipe * 7) {
                here.write_all(part).await.expect("the pipe is open");
            }
            here.shutdown().await.expect("the pipe is open");
        };
        let mut bytes = Vec::new();
        let ((), result) = tokio::join!(send, there.read_to_end(&mut bytes));
        result.expect("the pipe is open");
        assert_eq!(read(&bytes).await.expect("what was written"), data);
    });
});
