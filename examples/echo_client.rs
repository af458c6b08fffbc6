//! Sends lines to an echo server and prints what comes back.
//!
//! `cargo run -p kcp-examples --example echo_client -- 127.0.0.1:4000`

use kcp_tokio::KcpStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:4000".into());
    let mut stream = KcpStream::connect(addr).await?;
    for line in ["hello", "fast", "world"] {
        stream.write_all(line.as_bytes()).await?;
        let mut reply = vec![0; line.len()];
        stream.read_exact(&mut reply).await?;
        println!("{} after {:?}", String::from_utf8_lossy(&reply), stream.stats().srtt);
    }
    // Waits until everything is acknowledged.
    stream.shutdown().await
}
