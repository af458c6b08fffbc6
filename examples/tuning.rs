//! What there is to tune, and when.
//!
//! `cargo run -p kcp-examples --example tuning`

use std::time::Duration;

use kcp_tokio::{KcpConfig, NoDelay, SessionConfig};

fn main() {
    // The default: bytes, fast, windows for 100 Mbit/s at 100 ms.
    show("default", &SessionConfig::default());

    // A game: small messages, lowest latency; a player that is silent for 10 s is gone.
    let game = SessionConfig::turbo()
        .stream(false)
        .mtu(1200)
        .send_window(256)
        .recv_window(256)
        .keepalive(Some(Duration::from_secs(2)))
        .idle_timeout(Some(Duration::from_secs(10)));
    show("game", &game);

    // Bulk over a path shared with others: congestion control, and small writes joined for up to 40 ms.
    let bulk = SessionConfig::normal().write_delay(true).send_buffer(4 << 20);
    show("bulk", &bulk);

    // The four numbers by hand.
    let numbers = NoDelay { nodelay: 1, interval: Duration::from_millis(15), resend: 1, nc: false };
    show("by hand", &SessionConfig::fast().nodelay(numbers));

    // What belongs to the socket rather than to the session.
    let endpoint = KcpConfig::from(game).backlog(4096).max_sessions(100_000).socket_buffer(8 << 20);
    println!("{endpoint:?}");
}

fn show(name: &str, config: &SessionConfig) {
    match config.validate() {
        Ok(()) => println!("{name}: {} bytes of payload per segment", config.mss()),
        Err(error) => println!("{name}: {error}"),
    }
}
