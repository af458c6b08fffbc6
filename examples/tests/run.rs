//! The larger examples do what they say.

use std::sync::Arc;
use std::time::Duration;

use kcp_netsim::{LinkConfig, UdpRelay};
use tokio::sync::Semaphore;
use tokio::time::timeout;

#[path = "../any_stream.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "an example, and its main is not called")]
mod any_stream;
#[path = "../game_backend.rs"]
#[allow(dead_code, reason = "its main is not called")]
mod game_backend;

#[tokio::test]
async fn any_stream_falls_back_to_tcp() {
    assert_eq!(any_stream::talk(true).await.unwrap(), ("HELLO".to_owned(), "KCP"));
    assert_eq!(any_stream::talk(false).await.unwrap(), ("HELLO".to_owned(), "TCP"));
}

/// 500 bots behind a path that loses 3 % each way: all join, every move is applied, every bot hears good night.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_bots_play_at_three_percent_loss() {
    const BOTS: usize = 500;
    let config = game_backend::config();
    let listener = kcp_tokio::KcpListener::bind_with("127.0.0.1:0", config).await.unwrap();
    let link = LinkConfig::lossy(0.03, Duration::from_millis(20));
    let front = "127.0.0.1:0".parse().unwrap();
    let relay = UdpRelay::bind(front, listener.local_addr().unwrap(), link.clone(), link, 3).await.unwrap();
    let addr = relay.local_addr().unwrap();
    let joined = Arc::new(Semaphore::new(0));
    let end = game_backend::after_all(joined.clone(), BOTS, Duration::from_secs(2));
    let server = tokio::spawn(game_backend::serve(listener, end));
    let bots: Vec<_> = (0..BOTS).map(|_| tokio::spawn(game_backend::bot(addr, joined.clone()))).collect();
    let mut made = 0;
    timeout(Duration::from_secs(120), async {
        for bot in bots {
            let (moves, updates) = bot.await.unwrap().expect("nobody is thrown out or lost");
            assert!(moves > 0 && updates > 0, "{moves} moves, {updates} updates");
            made += moves;
        }
        let applied = server.await.unwrap().unwrap();
        // The server has checked that each bot's moves came in order and none is missing; those under way at the end are
        // nobody's, and how many they are is a matter of the machine.
        assert!(applied <= made && applied >= BOTS as u64, "{applied} of {made}");
    })
    .await
    .expect("it ends by itself");
    let stats = relay.stats();
    let (lost, sent) = (stats.up.lost + stats.down.lost, stats.up.sent + stats.down.sent);
    assert!(lost * 100 >= sent * 2 && sent > 5_000, "{lost} of {sent} lost");
}
