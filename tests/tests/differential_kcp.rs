//! The same seeded script of sends, losses and ticks through our classic face and the `kcp` crate, in every pairing: each must
//! deliver exactly what was sent, and without loss send the same segments at the same time.
//!
//! `KCP_SEEDS=5000` for more seeds, `KCP_SEED=17` for one.

mod differential;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use differential::{End, Settings, deliver_the_same, emit_the_same};

/// Not near the wrap, where the crate panics.
const CLOCK: u32 = 1000;

#[derive(Clone, Default)]
struct Output(Rc<RefCell<VecDeque<Vec<u8>>>>);

impl io::Write for Output {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().push_back(datagram.to_vec());
        Ok(datagram.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Theirs {
    kcp: kcp::Kcp<Output>,
    output: Output,
}

impl Theirs {
    fn boxed(settings: &Settings) -> Box<dyn End> {
        let output = Output::default();
        let new = if settings.stream { kcp::Kcp::new_stream } else { kcp::Kcp::new };
        let mut kcp = new(0x1234_5678, output.clone());
        kcp.set_nodelay(settings.nodelay, settings.interval, settings.resend, settings.nc);
        kcp.set_wndsize(settings.snd_wnd as u16, settings.rcv_wnd as u16);
        kcp.set_mtu(settings.mtu).unwrap();
        Box::new(Self { kcp, output })
    }
}

impl End for Theirs {
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
        self.kcp.update(now_ms).unwrap();
    }
    fn output(&mut self) -> Option<Vec<u8>> {
        self.output.0.borrow_mut().pop_front()
    }
    fn waitsnd(&self) -> usize {
        self.kcp.wait_snd()
    }
}

#[test]
fn every_pairing_delivers_the_same() {
    deliver_the_same("differential_kcp", CLOCK, 300, Theirs::boxed);
}

#[test]
fn without_loss_every_pairing_sends_the_same() {
    emit_the_same("differential_kcp", CLOCK, 300, Theirs::boxed);
}
