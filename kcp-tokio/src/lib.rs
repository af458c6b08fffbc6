//! KCP listeners, streams and endpoints for tokio.
