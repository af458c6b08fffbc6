//! `kcp echo`: serves clients of any KCP implementation.

use anyhow::{Context, Result};
use kcp_tokio::{KcpListener, KcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::args::EchoArgs;
use crate::report;

pub(crate) async fn run(args: EchoArgs) -> Result<()> {
    let config = args.session.endpoint_config(!args.message);
    let listener = KcpListener::bind_with(&args.addr, config)
        .await
        .with_context(|| format!("cannot listen on {}", args.addr))?;
    report::line(&format!("listening on {}", listener.local_addr()?))?;
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted.context("cannot accept")?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let conv = stream.conv();
        eprintln!("{peer} conv {conv:#010x}: open");
        let message = args.message;
        tokio::spawn(async move {
            let result = if message { messages(&stream).await } else { bytes(stream).await };
            match result {
                Ok(()) => eprintln!("{peer} conv {conv:#010x}: end of stream"),
                Err(error) => eprintln!("{peer} conv {conv:#010x}: {error}"),
            }
        });
    }
}

/// Echoes bytes until the session ends.
pub(crate) async fn bytes(mut stream: KcpStream) -> std::io::Result<()> {
    let mut buf = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buf).await?;
        if n == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buf[..n]).await?;
    }
}

async fn messages(stream: &KcpStream) -> std::io::Result<()> {
    loop {
        stream.send_msg(stream.recv_msg().await?).await?;
    }
}
