//! The same seeded script of sends, losses and ticks through our classic face and `ikcp.c`, in every pairing: each must
//! deliver exactly what was sent, and without loss send the same segments at the same time.
//!
//! `KCP_SEEDS=5000` for more seeds, `KCP_SEED=17` for one.

mod differential;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use differential::{End, Settings, deliver_the_same, emit_the_same};

/// Wraps within the transfer.
const CLOCK: u32 = 0u32.wrapping_sub(1000);

struct C {
    kcp: kcp_io::Kcp,
    output: Rc<RefCell<VecDeque<Vec<u8>>>>,
}

impl C {
    fn boxed(settings: &Settings) -> Box<dyn End> {
        let output = Rc::new(RefCell::new(VecDeque::new()));
        let sink = output.clone();
        let mut kcp = kcp_io::Kcp::new(0x1234_5678, move |datagram: &[u8]| {
            sink.borrow_mut().push_back(datagram.to_vec());
            Ok(datagram.len())
        })
        .unwrap();
        kcp.set_nodelay(settings.nodelay, settings.interval as u32, settings.resend, settings.nc);
        kcp.set_wndsize(settings.snd_wnd, settings.rcv_wnd);
        kcp.set_mtu(settings.mtu as u32).unwrap();
        kcp.set_stream_mode(settings.stream);
        Box::new(Self { kcp, output })
    }
}

impl End for C {
    fn send(&mut self, data: &[u8]) {
        self.kcp.send(data).unwrap();
    }
    fn recv(&mut self) -> Option<Vec<u8>> {
        let mut buf = vec![0; self.kcp.peeksize().ok()?];
        let n = self.kcp.recv(&mut buf).ok()?;
        assert_eq!(n, buf.len());
        Some(buf)
    }
    fn input(&mut self, datagram: &[u8]) {
        self.kcp.input(datagram).unwrap();
    }
    fn update(&mut self, now_ms: u32) {
        self.kcp.update(now_ms);
    }
    fn output(&mut self) -> Option<Vec<u8>> {
        self.output.borrow_mut().pop_front()
    }
    fn waitsnd(&self) -> usize {
        self.kcp.waitsnd() as usize
    }
}

#[test]
fn every_pairing_delivers_the_same() {
    deliver_the_same("differential_c", CLOCK, 300, C::boxed);
}

#[test]
fn without_loss_every_pairing_sends_the_same() {
    emit_the_same("differential_c", CLOCK, 300, C::boxed);
}
