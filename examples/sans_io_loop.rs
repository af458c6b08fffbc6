//! The event-driven core with a clock of your own: two sessions, a wire that loses every fifth datagram, virtual time.
//!
//! `cargo run -p kcp-examples --example sans_io_loop`

use std::sync::Arc;

use kcp_core::{Event, Framing, Seed, Session, SessionConfig, Timestamp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Arc::new(SessionConfig::turbo());
    let mut now = Timestamp::ZERO;
    let mut client = Session::connect(7, config.clone(), Seed::from_u64(1), now);
    let mut server = Session::established(7, config, Seed::from_u64(2), now);
    let (mut sent, mut received) = (0u32, Vec::new());
    client.write(now, b"written before the peer has answered")?;
    client.shutdown();

    let mut done = false;
    while !done {
        let before = sent;
        for to_server in [true, false] {
            let (from, to) = if to_server { (&mut client, &mut server) } else { (&mut server, &mut client) };
            // The contract: transmit until None, then events until None, then wait for the deadline.
            let mut run = Vec::new();
            while let Some(transmit) = from.poll_transmit(now, Framing { max_datagrams: 16 }, &mut run) {
                for datagram in run.chunks(transmit.stride) {
                    sent += 1;
                    if sent % 5 != 0 {
                        to.handle_datagram(now, datagram)?;
                    }
                }
                run.clear();
            }
        }
        for (name, end) in [("client", &mut client), ("server", &mut server)] {
            while let Some(event) = end.poll_event() {
                println!("{:>6} us {name} {event:?}", now.as_micros());
                done |= event == Event::Drained;
            }
        }
        while let Ok(bytes) = server.recv_msg(now) {
            received.extend_from_slice(&bytes);
        }
        if sent == before {
            // Nothing under way: on to the next deadline.
            let deadlines = [client.poll_timeout(), server.poll_timeout()];
            now = deadlines.into_iter().flatten().min().ok_or("nothing is pending")?.max(now);
            client.handle_timeout(now);
            server.handle_timeout(now);
        }
    }
    println!("the server has read {:?}", String::from_utf8(received)?);
    Ok(())
}
