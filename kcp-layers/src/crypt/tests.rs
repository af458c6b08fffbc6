//! Every cipher against packets of kcptun and published vectors; what must not open.

use proptest::prelude::*;

use super::*;

/// Each the first packet of Debian's `kcptun-client` 20210922 with `--nocomp --datashard 0` and its default key: the
/// opening frame of a multiplexed stream in one KCP segment.
const KCPTUN: [(&str, &str); 13] = [
    (
        "aes",
        "758ef6aa032701072b568016f3791f0d26d8da70c635650ffa34\
     db5f99a83b0203c6b7161b8283e8cc80c10769a5b0fbcf1cc13f",
    ),
    (
        "aes-128",
        "8bfacedc66da5962ce04837e47591d3b28620d9ef1500a5e5b58\
     5aaa427b78c42b7aa1d112fec4fff75dba7b12b7c2d4b46fb11f",
    ),
    (
        "aes-192",
        "e1eec06734abe6ec178ba2bf7e5213cd151092459b84e503a87d\
     f7eecb50280f5ae66668120176bc712e21d614bdceaf5203a80c",
    ),
    (
        "salsa20",
        "16fc8489f475d8663d47e62d934b7939c6f1b107c6151f98a226\
     3a354ba127444514ab7194910e3a8bc950e209d40de1f206575d",
    ),
    (
        "blowfish",
        "003a178f15008cc1f7498f30ec0656f99f923132ed0854ad268b\
     79909285a5a822a627aed1d8e5b50f9de4221bb2663c01653688",
    ),
    (
        "twofish",
        "96682b807137558638e5f2bb38b3eed9a55bf1c02433b7d5db54\
     cb6d4b3ec99f58bb3a2f3519e5af52daa03fe59057df64021304",
    ),
    (
        "cast5",
        "6a3aea2a347af583c685f5706adddfb5a7be86eedf8bd67d488f\
     efebd0eb79be7b33e6aedb015f1ff87d569798ecfeb479a71b83",
    ),
    (
        "3des",
        "f7769769c24bd059753d61f7241ae83b9a99ab0df808a1385253\
     e65fffb0423d040a12fcec7a5357d47c9667d3f8980753ceb157",
    ),
    (
        "tea",
        "a50f6ef466c78d6c0c8553a30860b4bf313a99c2de6864ffa096\
     63ddea030841443533115eae91cca77735c805b19e625fb7cb38",
    ),
    (
        "xtea",
        "65faf00c2eac31d8a07b9ea0999f4c93e74f83eeca0eb302e0a0\
     3aa275c477b6f21f397cb6d26946dfb3480eb08d2583388c986a",
    ),
    (
        "xor",
        "2f626f44ff2bda043942f8175973dea02d1cfa6fafd5129e9c52\
     3fbe7e7aac8cf0af663f479b134e2da0d0f79f2f3a02ecbfde43",
    ),
    (
        "sm4",
        "abad106969742abb18513377b72a3cadb662074b02d88a33c2e5\
     e5a5ebb27d2bc3ce1cf0f8215e610fed45936dc4eb7bb4235384",
    ),
    (
        "none",
        "4efc2bd0a9fb95a2d91777f6436adc1741770882e1f3ac1f5100\
     0002600000000000000000000000080000000100000003000000",
    ),
];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter_map(|c| char::from(c).to_digit(16).map(|d| d as u8)).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// `hashlib.pbkdf2_hmac("sha1", b"it's a secrect", b"kcp-go", 4096, 32)` in Python.
const KEY: &str = "25d7d7bd51050742d8d791f2b653c6c8b2366b7e25a124cf7a2e12eaf4ffa444";

/// With kcptun's default key.
fn crypt(cipher: Cipher) -> Crypt {
    Crypt::new(cipher, &hex(KEY)[..cipher.key_len()]).unwrap()
}

fn nonces() -> Nonces {
    Nonces::new([7; 32])
}

/// A packet around `inner`.
fn sealed(crypt: &Crypt, inner: &[u8]) -> Vec<u8> {
    let (head, tail) = crypt.room();
    let mut packet = vec![0; head];
    packet.extend_from_slice(inner);
    packet.resize(packet.len() + tail, 0);
    let stride = packet.len().max(1);
    crypt.seal(&mut packet, stride, &mut nonces());
    packet
}

#[test]
fn we_open_what_kcptun_seals() {
    for (name, packet) in KCPTUN {
        let mut packet = hex(packet);
        let inner =
            crypt(name.parse().unwrap()).open(&mut packet).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(inner.len(), 32);
        // PUSH, sn and una 0, and 8 bytes: SYN of the stream 3.
        assert_eq!(inner[4..6], [81, 0], "{name}");
        assert_eq!(inner[12..24], [0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0], "{name}");
        assert_eq!(inner[24..], [1, 0, 0, 0, 3, 0, 0, 0], "{name}");
    }
}

/// With the same random bytes, so that every byte is compared.
#[test]
fn we_seal_what_kcptun_seals() {
    for (name, packet) in KCPTUN {
        let golden = hex(packet);
        let crypt = crypt(name.parse().unwrap());
        let Method::Checked(method) = &*crypt.method else { panic!("{name} is not of this form") };
        let mut packet = golden.clone();
        method.open(&mut packet);
        let checksum = crc32fast::hash(&packet[HEADER..]).to_le_bytes();
        assert_eq!(packet[NONCE..HEADER], checksum, "{name}");
        let stride = packet.len();
        method.seal(&mut packet, stride);
        assert_eq!(packet, golden, "{name}");
    }
}

/// Test cases 2 and 14 of the specification of GCM.
#[test]
fn aes_gcm_known_answers() {
    for (cipher, packet) in [
        (Cipher::Aes128Gcm, "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf"),
        (Cipher::Aes256Gcm, "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"),
    ] {
        let crypt = Crypt::new(cipher, &vec![0; cipher.key_len()]).unwrap();
        let mut packet = [vec![0; 12], hex(packet)].concat();
        assert_eq!(crypt.open(&mut packet), Ok(&mut [0; 16][..]));
    }
}

#[test]
fn keys_are_derived_as_kcptun_does() {
    for cipher in Cipher::ALL {
        let derived = Crypt::from_password(cipher, "it's a secrect");
        assert_eq!(sealed(&derived, b"payload"), sealed(&crypt(cipher), b"payload"), "{cipher}");
    }
}

#[test]
fn names_and_lengths() {
    for cipher in Cipher::ALL {
        assert_eq!(cipher.name().parse(), Ok(cipher));
        assert_eq!(cipher.to_string(), cipher.name());
        let (len, long) = (cipher.key_len(), cipher.key_len() + 1);
        assert!(Crypt::new(cipher, &vec![1; len]).is_ok());
        let error = Crypt::new(cipher, &vec![1; long]).unwrap_err();
        assert_eq!(error, ConfigError::KeyLength { cipher, wanted: len, found: long });
        let overhead = match cipher {
            Cipher::Null => 0,
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => 28,
            _ => 20,
        };
        assert_eq!((crypt(cipher).overhead(), crypt(cipher).cipher()), (overhead, cipher));
        assert_eq!(sealed(&crypt(cipher), b"x").len(), 1 + overhead);
    }
    assert_eq!("AES".parse::<Cipher>(), Err(UnknownCipher));
    assert!(!format!("{:?}", Crypt::new(Cipher::Aes128, b"0123456789abcdef").unwrap()).contains("012"));
    assert!(Cipher::ALL.iter().filter(|cipher| cipher.authenticates()).count() == 2);
}

/// Runs of every size, so that packets go through the cipher in every combination, and each opens on its own.
#[test]
fn every_length_in_every_run() {
    for cipher in Cipher::ALL {
        let crypt = crypt(cipher);
        let (head, tail) = crypt.room();
        for (count, len) in [(1, 0), (1, 1), (2, 7), (3, 8), (7, 9), (8, 64), (9, 127), (17, 129), (2, 1400)]
        {
            let stride = head + len + tail;
            if stride == 0 {
                continue;
            }
            // The last one is shorter, by more than a block where that is possible.
            let last = stride - len.min(21);
            let mut run = vec![0; stride * (count - 1) + last];
            for (n, packet) in run.chunks_mut(stride).enumerate() {
                let inner = head..packet.len() - tail;
                packet[inner].iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7 + n) as u8);
            }
            let plain = run.clone();
            crypt.seal(&mut run, stride, &mut nonces());
            for (packet, plain) in run.chunks_mut(stride).zip(plain.chunks(stride)) {
                let expected = plain[head..plain.len() - tail].to_vec();
                assert_eq!(
                    crypt.open(packet).map(|inner| inner.to_vec()),
                    Ok(expected),
                    "{cipher} {count} x {len}"
                );
            }
        }
    }
}

#[test]
fn what_is_equal_inside_is_not_outside() {
    for cipher in Cipher::ALL {
        let crypt = crypt(cipher);
        let (head, tail) = crypt.room();
        if cipher == Cipher::Null {
            continue;
        }
        let mut run = vec![0; 10 * (head + 40 + tail)];
        crypt.seal(&mut run, head + 40 + tail, &mut nonces());
        let packets: std::collections::BTreeSet<_> = run.chunks(head + 40 + tail).collect();
        assert_eq!(packets.len(), 10, "{cipher}");
    }
}

/// Any flipped bit. Where nothing authenticates, the checksum finds it, or it was in the random bytes.
#[test]
fn flipped_bits() {
    for cipher in Cipher::ALL.into_iter().filter(|&cipher| cipher != Cipher::Null) {
        let crypt = crypt(cipher);
        let packet = sealed(&crypt, &[0x55; 50]);
        for bit in 0..packet.len() * 8 {
            let mut broken = packet.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            match crypt.open(&mut broken) {
                Err(error) => assert_eq!(error, OpenError::Unsealed),
                Ok(inner) => {
                    assert!(!cipher.authenticates() && bit / 8 < NONCE, "{cipher} bit {bit}");
                    assert_eq!(inner, [0x55; 50], "{cipher} bit {bit}");
                }
            }
        }
    }
}

/// Why the documentation calls them malleable: a change and the same change of the checksum, made without the key.
#[test]
fn malleable_where_nothing_authenticates() {
    let crypt = crypt(Cipher::Salsa20);
    let (before, after) = (b"pay 1 coin to Eve.", b"pay 9 coin to Eve.");
    let mut packet = sealed(&crypt, before);
    let difference = crc32fast::hash(before) ^ crc32fast::hash(after);
    packet[NONCE..HEADER].iter_mut().zip(difference.to_le_bytes()).for_each(|(byte, flip)| *byte ^= flip);
    packet[HEADER + 4] ^= before[4] ^ after[4];
    assert_eq!(crypt.open(&mut packet).map(|inner| inner.to_vec()), Ok(after.to_vec()));
}

#[test]
fn truncated_or_of_another_key_or_cipher() {
    for cipher in Cipher::ALL.into_iter().filter(|&cipher| cipher != Cipher::Null) {
        let packet = sealed(&crypt(cipher), &[3; 50]);
        for len in 0..packet.len() {
            let error = if len < crypt(cipher).overhead() { OpenError::Short } else { OpenError::Unsealed };
            assert_eq!(crypt(cipher).open(&mut packet[..len].to_vec()), Err(error), "{cipher} {len} bytes");
        }
        for other in Cipher::ALL.into_iter().filter(|&other| other != Cipher::Null) {
            let opens = crypt(other).open(&mut packet.clone()).is_ok();
            assert_eq!(opens, other == cipher, "{cipher} opened as {other}");
        }
        if cipher != Cipher::None {
            let other = Crypt::new(cipher, &[9; 32][..cipher.key_len()]).unwrap();
            assert_eq!(other.open(&mut packet.clone()), Err(OpenError::Unsealed), "{cipher}");
        }
    }
}

proptest! {
    #[test]
    fn anything_may_arrive(cipher in proptest::sample::select(&Cipher::ALL[..]), mut packet in proptest::collection::vec(any::<u8>(), 0..2000)) {
        // One in four billion opens where there is only a checksum.
        let _ = crypt(cipher).open(&mut packet);
    }
}
