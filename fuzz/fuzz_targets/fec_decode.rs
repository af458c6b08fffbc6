//! Any packets into the receiving side, with what an honest sender sends in between: bounded memory, bounded output, no panic.
#![no_main]

use std::time::Duration;

use kcp_core::Timestamp;
use kcp_layers::{FecConfig, FecLimits, Layers, LayersConfig, Opened, Sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[data_shards, parity_shards, mut lost], mut rest)) = data.split_first_chunk() else { return };
    let shape = FecConfig::new(data_shards % 12 + 1, parity_shards % 12 + 1).expect("a valid shape");
    let limits = FecLimits { max_shards: data_shards, max_bytes: 8192 };
    let config = LayersConfig::new().fec(shape.adaptive(parity_shards % 3)).fec_limits(limits);
    let (mut peer, mut layers) = (Layers::new(&config, [0; 32]), Layers::new(&config, [1; 32]));
    let mut out = Sealed::default();
    let mut now = Timestamp::ZERO;
    // Records: a length, then a packet of that many bytes; in between, packets of the peer.
    while let Some((&len, tail)) = rest.split_first() {
        let (packet, tail) = tail.split_at(usize::from(len).min(tail.len()));
        rest = tail;
        now += Duration::from_millis(u64::from(len % 32));
        let _ = layers.receive(now, packet, |_| {});
        let honest = [&[1, 2, 3, 4, 81, 0, 0, 0][..], packet].concat();
        peer.seal(now, &honest, honest.len(), &mut out);
        peer.handle_timeout(now, &mut out);
        for packet in out.packets() {
            lost = lost.rotate_left(1);
            if lost & 1 == 0 {
                let mut delivered = 0;
                let _ = layers.receive(now, packet, |opened| delivered += usize::from(!matches!(opened, Opened::OutOfBand { .. })));
                assert!(delivered <= 256 * 12);
            }
        }
        out.clear();
        assert!(layers.stats().fec_held <= limits.max_bytes);
        layers.handle_timeout(now, &mut out);
        out.clear();
    }
});
