//! Any configuration: either it is refused, or two ends that have it deliver what is written, and stay within it.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use arbitrary::Arbitrary;
use kcp_core::{Framing, Kcp, NoDelay, Seed, Session, SessionConfig, Timestamp};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Numbers {
    mtu: u32,
    windows: (u32, u32),
    nodelay: (u8, u32, u32, bool),
    switches: [bool; 6],
    limits: (u32, u32, u8),
    buffers: (u32, u32),
    millis: [Option<u32>; 3],
    connect_timeout: u32,
    message: u16,
    classic: [i32; 4],
}

fn config(n: &Numbers) -> SessionConfig {
    let millis = |ms: Option<u32>| ms.map(|ms| Duration::from_millis(ms.into()));
    let [stream, early, ack_nodelay, write_delay, extensions, idle_is_eof] = n.switches;
    let (nodelay, interval, resend, nc) = n.nodelay;
    SessionConfig::fast()
        .mtu(n.mtu as usize)
        .send_window(n.windows.0)
        .recv_window(n.windows.1)
        .nodelay(NoDelay { nodelay, interval: Duration::from_micros(interval.into()), resend, nc })
        .stream(stream)
        .early_retransmit(early)
        .ack_nodelay(ack_nodelay)
        .write_delay(write_delay)
        .extensions(extensions)
        .idle_is_eof(idle_is_eof)
        .dead_link(n.limits.0)
        .fast_limit(n.limits.1)
        .redundancy(n.limits.2)
        .send_buffer(n.buffers.0 as usize)
        .recv_buffer(n.buffers.1 as usize)
        .keepalive(millis(n.millis[0]))
        .idle_timeout(millis(n.millis[1]))
        .zero_window_timeout(millis(n.millis[2]))
        .connect_timeout(Duration::from_millis(n.connect_timeout.into()))
}

/// What two ends on a perfect wire exchange.
fn run(config: &Arc<SessionConfig>, message: usize) {
    let at = Timestamp::ZERO;
    let mut ends = [
        Session::connect(9, config.clone(), Seed::from_u64(1), at),
        Session::accept(9, config.clone(), Seed::from_u64(2), at),
    ];
    let message: Vec<u8> = (0..message).map(|i| i as u8).collect();
    let (mut written, mut read) = (0, 0);
    let mut now = at;
    let mut buf = vec![0; 70_000];
    for _ in 0..60 {
        if written < message.len() {
            // A message too long for this configuration is refused whole.
            written += ends[0].write(now, &message[written..]).unwrap_or(0);
        }
        // Until neither has anything more to say: an exchange without end is a defect.
        for turn in 0.. {
            // With a window of one segment, a turn for each.
            assert!(turn < 1000 + message.len(), "no end");
            let mut silent = true;
            for side in 0..2 {
                ends[side].handle_timeout(now);
                let mut out = Vec::new();
                while let Some(run) = ends[side].poll_transmit(now, Framing { max_datagrams: 4 }, &mut out) {
                    assert!(run.stride <= config.mtu_bytes() && run.len == out.len());
                    for datagram in out.chunks(run.stride) {
                        let _ = ends[1 - side].handle_datagram(now, datagram);
                    }
                    out.clear();
                    silent = false;
                }
                while ends[side].poll_event().is_some() {}
            }
            if silent {
                break;
            }
        }
        assert!(ends.iter_mut().filter_map(Session::poll_timeout).all(|at| at > now), "drained, yet due");
        while let Ok(n) = ends[1].read(now, &mut buf) {
            assert_eq!(buf[..n], message[read..read + n]);
            read += n;
        }
        assert!(read <= written);
        let next = ends.iter_mut().filter_map(Session::poll_timeout).min();
        let Some(next) = next else { break };
        now = now.max(next);
    }
}

fuzz_target!(|numbers: Numbers| {
    let config = Arc::new(config(&numbers));
    if config.validate().is_ok() {
        run(&config, numbers.message.into());
    }
    // The classic face clamps instead.
    let mut kcp = Kcp::new(1);
    let [nodelay, interval, resend, nc] = numbers.classic;
    kcp.nodelay(nodelay, interval, resend, nc);
    kcp.wndsize(numbers.windows.0, numbers.windows.1);
    let mtu = kcp.set_mtu(numbers.mtu as usize).map_or(1400, |()| numbers.mtu as usize);
    let _ = kcp.send(&vec![7; numbers.message.into()]);
    kcp.set_min_rto(numbers.limits.1);
    let mut peer = Kcp::new(1);
    let mut clock = numbers.connect_timeout;
    for _ in 0..20 {
        kcp.update(clock);
        while let Some(datagram) = kcp.poll_output() {
            assert!(datagram.len() <= mtu);
            let _ = peer.input(&datagram);
        }
        peer.update(clock);
        while let Some(datagram) = peer.poll_output() {
            let _ = kcp.input(&datagram);
        }
        clock = clock.wrapping_add(numbers.limits.0 % 10_000);
    }
});
