//! `kcp relay`: the emulator between real sockets.

use anyhow::{Context, Result};
use kcp_netsim::{LinkStats, UdpRelay};
use serde_json::json;

use crate::args::RelayArgs;
use crate::report;

pub(crate) async fn run(args: RelayArgs) -> Result<()> {
    let config = args.link.config();
    let relay = UdpRelay::bind(args.listen, args.upstream, config.clone(), config, args.seed)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let addr = relay.local_addr()?;
    if !args.json {
        report::line(&format!("listening on {addr}"))?;
    }
    let deadline = async {
        match args.r#for {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = deadline => {}
        () = stop_signal() => {}
    }
    let stats = relay.stats();
    if args.json {
        let direction = |s: LinkStats| {
            json!({ "sent": s.sent, "bytes": s.bytes, "delivered": s.delivered, "lost": s.lost,
            "queue_dropped": s.queue_dropped, "duplicated": s.duplicated, "reordered": s.reordered, "corrupted": s.corrupted })
        };
        let (up, down) = (direction(stats.up), direction(stats.down));
        return report::json(
            &json!({ "listen": addr.to_string(), "clients": stats.clients, "up": up, "down": down }),
        );
    }
    for (name, s) in [("up", stats.up), ("down", stats.down)] {
        report::line(&format!(
            "{name}: {} packets, {} delivered, {} lost, {} dropped by the queue, {} duplicated, {} reordered, {} damaged",
            s.sent, s.delivered, s.lost, s.queue_dropped, s.duplicated, s.reordered, s.corrupted
        ))?;
    }
    Ok(())
}

/// Ctrl-C, or a polite kill.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
