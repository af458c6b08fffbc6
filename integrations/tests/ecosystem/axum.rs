//! HTTP over KCP: an axum application, and hyper's own client half.

use axum::Router;
use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use kcp_integrations::axum::{Listener, PeerAddr};
use kcp_tokio::KcpStream;
use tokio::sync::oneshot;

use crate::{bounded, listener, pattern};

fn app() -> Router {
    Router::new()
        .route("/peer", get(|ConnectInfo(peer): ConnectInfo<PeerAddr>| async move { peer.to_string() }))
        .route("/echo", post(|body: Bytes| async move { body }))
}

#[tokio::test]
async fn requests_connect_info_and_a_graceful_end() {
    let (listener, addr) = listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let service = app().into_make_service_with_connect_info::<PeerAddr>();
    let server = axum::serve(Listener::from(listener), service).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let server = tokio::spawn(server.into_future());
    bounded(async {
        let stream = KcpStream::connect(addr).await.unwrap();
        let local = stream.local_addr().unwrap();
        let (mut client, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get("/peer").header("host", "game").body(Full::default()).unwrap();
        let answer = client.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.to_bytes(), local.to_string());
        for (seed, len) in [(1, 0), (2, 1), (3, 300_000)] {
            let body = Bytes::from(pattern(len, seed));
            let request =
                Request::post("/echo").header("host", "game").body(Full::new(body.clone())).unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert!(answer.into_body().collect().await.unwrap().to_bytes() == body);
        }
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
        // The server has closed the connection, in order.
        connection.await.unwrap().unwrap();
    })
    .await;
}
