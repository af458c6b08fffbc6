//! Any bytes: what parses as a datagram encodes back to itself, and admission never disagrees with the parser.
#![no_main]

use kcp_core::admission::{conv_of, first_segment};
use kcp_core::wire::{HEADER_LEN, Segments};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(conv) = conv_of(data) else {
        assert!(data.len() < HEADER_LEN);
        return;
    };
    let opens = first_segment(data, 128);
    let Ok(segments) = Segments::parse(data, conv) else {
        assert!(opens.is_none());
        return;
    };
    let mut again = Vec::new();
    for (header, payload) in segments {
        assert_eq!(header.conv, conv);
        again.extend_from_slice(&header.encode());
        again.extend_from_slice(payload);
    }
    assert!(data.starts_with(&again) && data.len() - again.len() < HEADER_LEN);
});
