//! The core alone: two engines, a link in memory, virtual time.
//!
//! Pattern "burst": per round offer up to a window of full segments, 10 ms pass, flush one end, deliver to the other, read
//! everything, flush that one, deliver back. Every datagram, data or acknowledgement, is dropped with the same probability.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kcp_core::{Framing, NoDelay, Session, SessionConfig, Timestamp};

/// Payload of a full segment at mtu 1400.
pub const MSS: usize = 1376;

/// The windows that are measured.
pub const WINDOWS: [u32; 6] = [32, 128, 512, 1024, 4096, 16384];

/// Nanoseconds per delivered segment, both ends together, of our core.
///
/// # Panics
/// When something else arrives than was sent.
#[must_use]
pub fn ours(window: u32, loss: f64, segments: u64) -> f64 {
    let config = SessionConfig::fast()
        .nodelay(NoDelay { nc: true, ..NoDelay::TURBO })
        .stream(false)
        .send_window(window)
        .recv_window(window)
        .recv_buffer(usize::MAX)
        .send_buffer(usize::MAX)
        .dead_link(u32::MAX)
        .user_timeout(None)
        .idle_timeout(None)
        .keepalive(None);
    let config = Arc::new(config);
    let mut now = Timestamp::ZERO;
    let mut a = Session::established(1, config.clone(), 1, now);
    let mut b = Session::established(1, config, 2, now);
    let mut rng = fastrand::Rng::with_seed(7);
    let mut message = vec![0x5A; MSS];
    let (mut offered, mut delivered) = (0u64, 0u64);
    let mut run = Vec::new();
    let mut buf = vec![0; MSS];
    let framing = Framing { max_datagrams: 46 };
    let mut pass = |from: &mut Session, to: &mut Session, now| {
        while let Some(transmit) = {
            run.clear();
            from.poll_transmit(now, framing, &mut run)
        } {
            for datagram in run.chunks(transmit.stride) {
                if loss == 0.0 || rng.f64() >= loss {
                    to.handle_datagram(now, datagram).expect("an honest datagram");
                }
            }
        }
    };
    let warmup = u64::from(window) * 2;
    let mut counted_from = (Instant::now(), 0);
    while delivered < segments + warmup {
        if counted_from.1 < warmup {
            counted_from = (Instant::now(), delivered);
        }
        // Less than a window waits or flies.
        while offered < delivered + u64::from(window) {
            message[..8].copy_from_slice(&offered.to_le_bytes());
            a.write(now, &message).expect("room for a message");
            offered += 1;
        }
        now += Duration::from_millis(10);
        pass(&mut a, &mut b, now);
        while let Ok(n) = b.read(now, &mut buf) {
            assert!(n == MSS && buf[..8] == delivered.to_le_bytes());
            delivered += 1;
        }
        pass(&mut b, &mut a, now);
    }
    counted_from.0.elapsed().as_nanos() as f64 / (delivered - counted_from.1) as f64
}

/// The same of `ikcp.c`.
///
/// # Panics
/// When something else arrives than was sent.
#[must_use]
pub fn c(window: u32, loss: f64, segments: u64) -> f64 {
    type Wire = Rc<RefCell<Vec<Vec<u8>>>>;
    let make = || {
        let wire: Wire = Rc::default();
        let spare: Wire = Rc::default();
        let (sink, pool) = (wire.clone(), spare.clone());
        let mut kcp = kcp_io::Kcp::new(1, move |datagram: &[u8]| {
            let mut buffer = pool.borrow_mut().pop().unwrap_or_default();
            buffer.clear();
            buffer.extend_from_slice(datagram);
            sink.borrow_mut().push(buffer);
            Ok(datagram.len())
        })
        .expect("ikcp_create");
        kcp.set_nodelay(true, 10, 2, true);
        kcp.set_wndsize(window, window);
        kcp.set_mtu(1400).expect("a legal mtu");
        (kcp, wire, spare)
    };
    let (mut a, a_wire, a_spare) = make();
    let (mut b, b_wire, b_spare) = make();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut message = vec![0x5A; MSS];
    let (mut offered, mut delivered, mut now) = (0u64, 0u64, 0u32);
    let mut buf = vec![0; MSS];
    let mut pass = |wire: &Wire, spare: &Wire, to: &mut kcp_io::Kcp| {
        let datagrams = std::mem::take(&mut *wire.borrow_mut());
        for datagram in datagrams {
            if loss == 0.0 || rng.f64() >= loss {
                to.input(&datagram).expect("an honest datagram");
            }
            spare.borrow_mut().push(datagram);
        }
    };
    a.update(0);
    b.update(0);
    let warmup = u64::from(window) * 2;
    let mut counted_from = (Instant::now(), 0);
    while delivered < segments + warmup {
        if counted_from.1 < warmup {
            counted_from = (Instant::now(), delivered);
        }
        while offered < delivered + u64::from(window) {
            message[..8].copy_from_slice(&offered.to_le_bytes());
            a.send(&message).expect("ikcp_send");
            offered += 1;
        }
        now += 10;
        a.update(now);
        pass(&a_wire, &a_spare, &mut b);
        while let Ok(n) = b.recv(&mut buf) {
            assert!(n == MSS && buf[..8] == delivered.to_le_bytes());
            delivered += 1;
        }
        b.update(now);
        pass(&b_wire, &b_spare, &mut a);
    }
    counted_from.0.elapsed().as_nanos() as f64 / (delivered - counted_from.1) as f64
}
