//! KCP under axum, hyper, tonic and tokio-util: one small module each, behind a feature of the same name.
//!
//! [`KcpStream`](kcp_tokio::KcpStream) is `AsyncRead + AsyncWrite`, so tokio-rustls, tokio-tungstenite, `Framed`, the
//! `compat` layer and `copy_bidirectional` take it as it is; `tests/ecosystem` shows each. What is here is only what the
//! traits of others ask for beyond that. Every module stands by itself and may be copied.
//!
//! No feature is on by default.

#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "hyper")]
pub mod hyper;
#[cfg(feature = "tokio-util")]
pub mod tokio_util;
#[cfg(feature = "tonic")]
pub mod tonic;
