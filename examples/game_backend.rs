//! A game server: a tick loop that takes inputs, advances the world and broadcasts it; slow clients are dropped, and the end
//! is told. With `cargo run --release --example game_backend -- 100` a hundred bots play for five seconds.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

const TICK: Duration = Duration::from_millis(50);
/// Updates that a client may miss in a row, since its send buffer is full, before it has to go.
const PATIENCE: u32 = 20;

/// Messages instead of a byte stream, and a small send buffer: an update that is seconds old helps nobody.
pub(crate) fn config() -> KcpConfig {
    SessionConfig::turbo().stream(false).send_buffer(64 * 1024).into()
}

/// What a client has done, by its conv; `None`: it has left.
type Input = (u32, Option<Bytes>);

/// Hands a client's messages to the tick loop until it leaves.
async fn play(stream: KcpStream, inputs: mpsc::Sender<Input>) {
    let conv = stream.conv();
    while let Ok(message) = stream.recv_msg().await {
        // When the world has ended nobody wants it, but a client is heard out: a stream that is dropped with something unread
        // is reset, as TCP's is, and the last word to the client would be lost.
        let _ = inputs.send((conv, Some(message))).await;
    }
    let _ = inputs.send((conv, None)).await;
}

/// Runs the world until `end`; returns how many inputs it has applied.
pub(crate) async fn serve(listener: KcpListener, end: impl Future<Output = ()>) -> io::Result<u64> {
    tokio::pin!(end);
    let (sender, mut inputs) = mpsc::channel(4096);
    let mut moves: HashMap<u32, u64> = HashMap::new();
    let mut late: HashMap<u32, u32> = HashMap::new();
    let mut applied = 0;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted?;
                println!("{peer} joins");
                tokio::spawn(play(stream, sender.clone()));
            }
            Some((conv, input)) = inputs.recv() => match input {
                Some(input) => {
                    let next = moves.entry(conv).or_default();
                    if input != next.to_le_bytes().as_slice() {
                        return Err(io::Error::other("a move is missing, or came twice"));
                    }
                    *next += 1;
                    applied += 1;
                }
                None => {
                    moves.remove(&conv);
                }
            },
            _ = ticks.tick() => {
                // Serialised once, however many there are.
                let world = Bytes::from(format!("{} players, {applied} moves", moves.len()));
                let slow = listener.broadcast(&world).slow;
                late.retain(|conv, _| slow.iter().any(|session| session.conv() == *conv));
                for session in slow {
                    let missed = late.entry(session.conv()).or_default();
                    *missed += 1;
                    if *missed > PATIENCE {
                        println!("{} is too slow", session.peer_addr());
                        session.abort();
                    }
                }
            }
            () = &mut end => break,
        }
    }
    // Nobody comes in any more; those who play hear the last word, and leave.
    listener.stop_accepting();
    listener.broadcast(&Bytes::from_static(b"good night"));
    drop(inputs);
    listener.wait_idle().await;
    Ok(applied)
}

/// So long after the last of the bots has joined.
pub(crate) async fn after_all(joined: Arc<Semaphore>, bots: usize, time: Duration) {
    let _all = joined.acquire_many(bots as u32).await;
    sleep(time).await;
}

/// Moves every tick until the server says good night; returns how often it has moved, and how many updates it has seen. It has
/// joined when it sees the first.
pub(crate) async fn bot(addr: std::net::SocketAddr, joined: Arc<Semaphore>) -> io::Result<(u64, u64)> {
    let stream = KcpStream::connect_with(addr, config()).await?;
    let mut ticks = interval(TICK);
    let (mut moves, mut updates) = (0u64, 0);
    loop {
        tokio::select! {
            update = stream.recv_msg() => {
                if update? == "good night" {
                    return Ok((moves, updates));
                }
                updates += 1;
                if updates == 1 {
                    joined.add_permits(1);
                }
            }
            _ = ticks.tick() => {
                // Numbered, so that the server can tell that none is missing.
                stream.send_msg(Bytes::copy_from_slice(&moves.to_le_bytes())).await?;
                moves += 1;
            }
        }
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let bots: usize = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(20);
    let listener = KcpListener::bind_with("127.0.0.1:0", config()).await?;
    let addr = listener.local_addr()?;
    let joined = Arc::new(Semaphore::new(0));
    let server = tokio::spawn(serve(listener, after_all(joined.clone(), bots, Duration::from_secs(5))));
    let players: Vec<_> = (0..bots).map(|_| tokio::spawn(bot(addr, joined.clone()))).collect();
    let mut updates = 0;
    for player in players {
        updates += player.await.map_err(io::Error::other)??.1;
    }
    let moves = server.await.map_err(io::Error::other)??;
    println!("{bots} bots made {moves} moves and saw {updates} updates");
    Ok(())
}
