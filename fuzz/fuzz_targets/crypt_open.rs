//! Any bytes as a packet of any cipher: it opens or it does not; and what was sealed opens to itself, in runs of any kind.
#![no_main]

use std::sync::OnceLock;

use kcp_core::Timestamp;
use kcp_layers::{Cipher, Crypt, Layers, LayersConfig, Opened, Sealed};
use libfuzzer_sys::fuzz_target;

/// Their tables take a while to compute.
fn configs() -> &'static [LayersConfig] {
    static CONFIGS: OnceLock<Vec<LayersConfig>> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let crypt = |cipher: Cipher| Crypt::new(cipher, &[3; 32][..cipher.key_len()]).expect("its length");
        Cipher::ALL.iter().map(|&cipher| LayersConfig::new().crypt(crypt(cipher))).collect()
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&[which, stride], body)) = data.split_first_chunk() else { return };
    let config = &configs()[usize::from(which) % configs().len()];
    let mut layers = Layers::new(config, [which; 32]);
    let _ = layers.open(Timestamp::ZERO, &mut body.to_vec(), |_| {});

    let stride = usize::from(stride).max(1);
    let mut out = Sealed::default();
    layers.seal(Timestamp::ZERO, body, stride, &mut out);
    let mut datagrams = body.chunks(stride);
    for packet in out.packets() {
        let crypt = config.encryption().expect("configured");
        let mut packet = packet.to_vec();
        let plain = crypt.open(&mut packet).expect("sealed with this key");
        assert_eq!(Some(&*plain), datagrams.next());
        let _ = layers.receive(Timestamp::ZERO, plain, |opened| {
            let (Opened::Datagram(bytes) | Opened::Recovered(bytes)) = opened else { return };
            assert!(bytes.len() <= plain.len());
        });
    }
    assert_eq!(datagrams.next(), None);
});
