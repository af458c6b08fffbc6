//! Echoes what clients of any KCP implementation send.
//!
//! `cargo run -p kcp-examples --example echo_server -- 127.0.0.1:4000`

use kcp_tokio::KcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:4000".into());
    let listener = KcpListener::bind(addr).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(stream);
            // Plain KCP has no end of stream: it ends with the error that the peer has gone silent.
            let ended = tokio::io::copy(&mut reader, &mut writer).await;
            println!("{peer}: {ended:?}");
        });
    }
}
