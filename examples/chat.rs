//! A chat room: every message goes to everybody. Message mode, so that boundaries are kept; a client that does not keep
//! up misses messages instead of slowing the others. Runs a server and three clients, and ends.
//!
//! `cargo run -p kcp-examples --example chat`

use kcp_tokio::{KcpConfig, KcpListener, KcpStream, SessionConfig};
use tokio::sync::broadcast;

fn config() -> KcpConfig {
    SessionConfig::turbo().stream(false).into()
}

/// Hands a member what others say, and the room what it says, until it is gone.
async fn member(stream: KcpStream, room: broadcast::Sender<Vec<u8>>) {
    let mut heard = room.subscribe();
    loop {
        tokio::select! {
            said = stream.recv_msg() => match said {
                Ok(message) => _ = room.send(message.to_vec()),
                Err(_) => return,
            },
            message = heard.recv() => match message {
                Ok(message) => {
                    if stream.send_msg(message.into()).await.is_err() {
                        return;
                    }
                }
                // A slow member has missed some.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
        }
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = KcpListener::bind_with("127.0.0.1:0", config()).await?;
    let addr = listener.local_addr()?;
    let (room, _) = broadcast::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(member(stream, room.clone()));
        }
    });

    let mut clients = Vec::new();
    for name in ["ada", "brian", "claude"] {
        let stream = KcpStream::connect_with(addr, config()).await?;
        stream.send_msg(format!("{name}: hello").into()).await?;
        // Its own greeting coming back tells that it is in the room.
        let echoed = stream.recv_msg().await?;
        println!("{name} reads {:?}", String::from_utf8_lossy(&echoed));
        clients.push(stream);
    }
    clients[0].send_msg("ada: is everybody here?".into()).await?;
    for (client, greetings) in clients.iter().zip([2, 1, 0]) {
        for _ in 0..greetings {
            client.recv_msg().await?;
        }
        println!("{} reads {:?}", client.local_addr()?, String::from_utf8_lossy(&client.recv_msg().await?));
    }
    Ok(())
}
