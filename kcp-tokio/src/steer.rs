//! Which of an endpoint's sockets a conversation belongs to: the low byte of its conv says.

/// Sockets that an endpoint may have: as many as a byte tells apart.
pub(crate) const MAX_SHARDS: usize = 256;

/// The shard of a conversation, of so many; the kernel computes the same.
#[cfg(test)]
pub(crate) const fn shard_of(conv: u32, shards: usize) -> usize {
    (conv & 0xFF) as usize % shards
}

/// The conversation nearest to a random one, below it or above, that belongs to a shard; never 0.
pub(crate) fn conv_on(random: u32, shard: usize, shards: usize) -> u32 {
    let low = (random & 0xFF) as usize;
    let low = low - low % shards + shard;
    let low = if low > 0xFF { low - shards } else { low };
    let conv = random & !0xFF | low as u32;
    if conv == 0 { 0x100 } else { conv }
}

/// Programs of the classic Berkeley packet filter that let the kernel choose the socket. They see the UDP payload; what they
/// return is the socket's place in the order of binding.
#[cfg(any(target_os = "android", target_os = "linux"))]
pub(crate) mod program {
    use std::io;
    use std::net::UdpSocket;

    use libc::{
        BPF_ABS, BPF_ALU, BPF_B, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET, sock_filter, sock_fprog,
    };
    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::AttachReusePortCbpf;

    /// The accumulator's value is the result: `BPF_A` of the kernel's headers.
    const BPF_A: u32 = 0x10;
    /// Offset of conv in a plain datagram, and behind the headers of error correction.
    const PLAIN: u32 = 0;
    const FRAMED: u32 = 8;
    /// The type of a packet of error correction, two bytes of which the second is 0: data, parity, out of band. A
    /// plain datagram has its command there, 81 to 84.
    const TYPE: u32 = 4;
    const TYPES: [u32; 3] = [0xF1, 0xF2, 0xF3];

    #[allow(
        clippy::cast_possible_truncation,
        reason = "codes are 16 bits and jumps 8, as the kernel has them"
    )]
    const fn op(code: u32, jt: usize, jf: usize, k: u32) -> sock_filter {
        sock_filter { code: code as u16, jt: jt as u8, jf: jf as u8, k }
    }

    /// The low byte of conv modulo the number of sockets; with `framed` behind the headers of error correction, where a
    /// packet has them. Too short a datagram ends the program with 0.
    pub(crate) fn by_conv(shards: u32, framed: bool) -> Vec<sock_filter> {
        let load = |offset| op(BPF_LD | BPF_B | BPF_ABS, 0, 0, offset);
        let choose = [op(BPF_ALU | BPF_MOD | BPF_K, 0, 0, shards), op(BPF_RET | BPF_A, 0, 0, 0)];
        let mut program = Vec::new();
        if framed {
            program.push(load(TYPE));
            for (i, kind) in TYPES.into_iter().enumerate() {
                // Over the other comparisons and the way of plain datagrams.
                program.push(op(BPF_JMP | BPF_JEQ | BPF_K, TYPES.len() - 1 - i + 3, 0, kind));
            }
            program.push(load(PLAIN));
            program.extend(choose);
            program.push(load(FRAMED));
            program.extend(choose);
        } else {
            program.push(load(PLAIN));
            program.extend(choose);
        }
        program
    }

    /// Attaches a program to the group of sockets that this one is in.
    pub(crate) fn attach(socket: &UdpSocket, mut program: Vec<sock_filter>) -> io::Result<()> {
        let len = u16::try_from(program.len()).map_err(io::Error::other)?;
        let fprog = sock_fprog { len, filter: program.as_mut_ptr() };
        setsockopt(socket, AttachReusePortCbpf, &fprog).map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn convs_are_chosen_for_each_shard_evenly() {
        for shards in [1, 2, 3, 16, 255, 256] {
            for shard in 0..shards {
                let mut seen = std::collections::HashSet::new();
                for low in 0..=0xFF {
                    let conv = conv_on(0xABCD_EF00 | low, shard, shards);
                    assert_eq!(shard_of(conv, shards), shard, "{low} of {shards}");
                    assert_eq!(conv & !0xFF, 0xABCD_EF00);
                    seen.insert(conv);
                }
                assert!(seen.len() >= 256 / shards, "{} convs for {shard} of {shards}", seen.len());
            }
        }
        assert_ne!(conv_on(0, 0, 4), 0);
        assert_eq!(shard_of(conv_on(0, 0, 4), 4), 0);
    }

    /// An interpreter of the few instructions, so that the programs are tested where no group of sockets can be made.
    #[cfg(any(target_os = "android", target_os = "linux"))]
    fn run(program: &[libc::sock_filter], packet: &[u8]) -> u32 {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let op = program[at];
            at += 1;
            match u32::from(op.code) {
                0x30 => match packet.get(op.k as usize) {
                    Some(&byte) => a = byte.into(),
                    None => return 0,
                },
                0x94 => a %= op.k,
                0x15 => at += usize::from(if a == op.k { op.jt } else { op.jf }),
                0x16 => return a,
                code => panic!("no such instruction: {code:#x}"),
            }
        }
    }

    #[cfg(any(target_os = "android", target_os = "linux"))]
    #[test]
    fn programs_find_conv_in_plain_and_framed_packets() {
        let plain = [7, 1, 2, 3, 81, 0, 0, 0, 200, 9];
        for kind in [0xF1, 0xF2, 0xF3] {
            let framed = [100, 1, 2, 3, kind, 0, 40, 0, 201, 9, 9, 9];
            assert_eq!(run(&program::by_conv(4, true), &framed), 201 % 4);
            assert_eq!(run(&program::by_conv(4, false), &framed), 0, "100 mod 4: not looked behind");
        }
        for framed in [false, true] {
            assert_eq!(run(&program::by_conv(4, framed), &plain), 3);
            assert_eq!(run(&program::by_conv(256, framed), &plain), 7);
            assert_eq!(run(&program::by_conv(4, framed), &[]), 0);
        }
    }
}
