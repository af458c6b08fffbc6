//! Datagrams into a session in every state of its life: no panic, bounded memory, exact deadlines.
#![no_main]

use std::sync::Arc;

use kcp_core::{Framing, Seed, Session, SessionConfig, Timestamp};
use libfuzzer_sys::fuzz_target;

const RECV_BUFFER: u64 = 1 << 20;

/// A session of conversation 0 (and token 1, 2, ..., which the fuzzer finds out by itself) that is
/// fresh on either side, in the middle of a transfer, before a closed window, at the wrap, ending or at its end.
fn session(mode: u8) -> Session {
    let config = SessionConfig::turbo().stream(mode & 1 == 0).recv_window(64 + u32::from(mode)).recv_buffer(RECV_BUFFER as usize);
    let config = Arc::new(config.write_delay(mode & 128 != 0).redundancy(mode >> 6));
    let (seed, at) = (Seed::from_u64(0), Timestamp::ZERO);
    let mut session = match mode >> 2 & 7 {
        0 => Session::connect(0, config, seed, at),
        1 => Session::accept(0, config, seed, at),
        2 => Session::connect_lazy(0, config, seed, at),
        _ => Session::established(0, config, seed, at),
    };
    match mode >> 2 & 7 {
        3 => {
            // WINS with a window of 0.
            let mut closed = [0; 24];
            closed[4] = 84;
            session.handle_datagram(at, &closed).expect("valid");
        }
        4 => session.set_initial_sn(u32::MAX - 3, u32::MAX - 1),
        5 => {
            let _ = session.write(at, b"the last words");
            session.shutdown();
        }
        6 => {
            let _ = session.write(at, b"nobody reads the answer");
            session.orphan(at);
        }
        7 if mode & 32 != 0 => session.abort(),
        _ => {}
    }
    session
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, mut rest)) = data.split_first() else { return };
    let mut session = session(mode);
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
        // The same from another address.
        let _ = session.proves_path(datagram, 1) || session.begins_elsewhere(datagram);
        session.handle_timeout(at);
        out.clear();
        while session.poll_transmit(at, Framing::default(), &mut out).is_some() {}
        while session.poll_event().is_some() {}
        if let Some(next) = session.poll_timeout() {
            assert!(next > at, "drained, yet due");
        }
        let stats = session.stats();
        assert!(stats.unread_bytes <= RECV_BUFFER + 65536 && stats.in_flight <= 2048);
        if mode & 2 == 0 {
            let _ = session.recv_msg(at);
            while session.recv_datagram().is_some() {}
        }
        if session.is_closed() {
            assert!(session.poll_timeout().is_none(), "closed, yet waiting");
        }
    }
});
