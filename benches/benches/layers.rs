//! Criterion: bytes per second of the layers. Error correction 10/3, next to the crate that is its oracle, and every cipher,
//! on runs of 40 datagrams.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kcp_core::Timestamp;
use kcp_layers::{Cipher, Crypt, FecConfig, Layers, LayersConfig, Sealed};
use reed_solomon_erasure::galois_8::ReedSolomon;

/// KCP's datagrams at kcptun's default MTU.
const LEN: usize = 1322;
const RUN: usize = 40;
const NOW: Timestamp = Timestamp::ZERO;

/// `RUN` datagrams back to back, of one conversation.
fn datagrams() -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut run: Vec<u8> = (0..RUN * LEN).map(|_| rng.u8(..)).collect();
    for datagram in run.chunks_mut(LEN) {
        datagram[..8].copy_from_slice(&[1, 2, 3, 4, 81, 0, 0, 1]);
    }
    run
}

fn fec() -> LayersConfig {
    LayersConfig::new().fec(FecConfig::new(10, 3).expect("a valid shape"))
}

fn error_correction(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fec_10_3");
    group.throughput(Throughput::Bytes((RUN * LEN) as u64));
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    let run = datagrams();
    let mut out = Sealed::default();

    group.bench_function("encode", |bencher| {
        let mut layers = Layers::new(&fec(), [0; 32]);
        bencher.iter(|| {
            out.clear();
            layers.seal(NOW, black_box(&run), LEN, &mut out);
        });
    });

    group.bench_function("encode_oracle", |bencher| {
        let code = ReedSolomon::new(10, 3).expect("a valid shape");
        let mut parity = vec![vec![0; LEN + 2]; 3];
        let mut shards = vec![vec![0; LEN + 2]; 10];
        bencher.iter(|| {
            for ten in black_box(&run).chunks(10 * LEN) {
                for (shard, datagram) in shards.iter_mut().zip(ten.chunks(LEN)) {
                    shard[2..].copy_from_slice(datagram);
                }
                code.encode_sep(&shards, &mut parity).expect("equal lengths");
            }
        });
    });

    for lost in [0, 1, 3] {
        group.bench_function(format!("decode_{lost}_lost"), |bencher| {
            let (mut here, mut there) = (Layers::new(&fec(), [0; 32]), Layers::new(&fec(), [0; 32]));
            bencher.iter_batched(
                || {
                    let mut out = Sealed::default();
                    here.seal(NOW, &run, LEN, &mut out);
                    out
                },
                |out| {
                    for (n, packet) in out.packets().enumerate() {
                        if n % 13 >= lost {
                            there
                                .receive(NOW, black_box(packet), |opened| _ = black_box(opened))
                                .expect("well formed");
                        }
                    }
                    out
                },
                BatchSize::SmallInput,
            );
        });
    }

    group.bench_function("decode_3_lost_oracle", |bencher| {
        let code = ReedSolomon::new(10, 3).expect("a valid shape");
        let mut shards = vec![vec![7; LEN + 2]; 13];
        code.encode(&mut shards).expect("equal lengths");
        bencher.iter(|| {
            for _ in 0..RUN / 10 {
                let arrived = shards.iter().enumerate().map(|(n, shard)| (n >= 3).then(|| shard.clone()));
                let mut arrived: Vec<_> = arrived.collect();
                code.reconstruct_data(&mut arrived).expect("enough shards");
                black_box(arrived);
            }
        });
    });
    group.finish();
}

fn ciphers(criterion: &mut Criterion) {
    let run = datagrams();
    for cipher in Cipher::ALL {
        let mut group = criterion.benchmark_group(format!("crypt_{cipher}"));
        group.throughput(Throughput::Bytes((RUN * LEN) as u64));
        group
            .sample_size(20)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_secs(1));
        let crypt = Crypt::from_password(cipher, "it's a secrect");
        let config = LayersConfig::new().crypt(crypt.clone());
        let mut layers = Layers::new(&config, [0; 32]);
        let mut out = Sealed::default();
        group.bench_function("seal", |bencher| {
            bencher.iter(|| {
                out.clear();
                layers.seal(NOW, black_box(&run), LEN, &mut out);
            });
        });
        out.clear();
        layers.seal(NOW, &run, LEN, &mut out);
        let packets: Vec<Vec<u8>> = out.packets().map(<[u8]>::to_vec).collect();
        group.bench_function("open", |bencher| {
            bencher.iter_batched_ref(
                || packets.clone(),
                |packets| {
                    for packet in packets {
                        black_box(crypt.open(packet)).expect("sealed");
                    }
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, error_correction, ciphers);
criterion_main!(benches);
