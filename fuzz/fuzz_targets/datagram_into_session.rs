//! Datagrams into a session that is in the middle of a transfer: no panic, bounded memory, exact deadlines.
#![no_main]

use std::sync::Arc;

use kcp_core::{Framing, Seed, Session, SessionConfig, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, mut rest)) = data.split_first() else { return };
    let config = SessionConfig::turbo().stream(mode & 1 == 0).recv_window(64 + u32::from(mode)).recv_buffer(1 << 20);
    let mut session = Session::established(0, Arc::new(config), Seed::from_u64(0), Timestamp::ZERO);
    let mut now = 0;
    let mut out = Vec::new();
    // Each datagram is preceded by its length and the time that passes before it.
    while let [len, wait, tail @ ..] = rest {
        let (datagram, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        now += u64::from(*wait);
        let at = Timestamp::from_millis(now);
        let _ = session.write(at, b"some data to be acknowledged");
        let _ = session.handle_datagram(at, datagram);
        session.handle_timeout(at);
        out.clear();
        while session.poll_transmit(at, Framing::default(), &mut out).is_some() {}
        while session.poll_event().is_some() {}
        if let Some(next) = session.poll_timeout() {
            assert!(next > at, "drained, yet due");
        }
        let stats = session.stats();
        assert!(stats.unread_bytes <= (1 << 20) + 65536 && stats.in_flight <= 2048);
        if mode & 2 == 0 {
            let _ = session.recv_msg(at);
        }
    }
});
