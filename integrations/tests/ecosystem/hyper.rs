//! hyper-util's server and its pooling client, HTTP/1 and HTTP/2.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, Version};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use kcp_integrations::hyper::{KcpConnector, KcpInfo};
use kcp_tokio::KcpListener;

use crate::{bounded, listener, pattern};

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Response::new(Full::new(body)))
}

/// Serves until it is dropped; counts connections.
async fn serve(listener: KcpListener, connections: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let service = TowerToHyperService::new(tower::service_fn(echo));
            auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
        });
    }
}

async fn requests(addr: SocketAddr, http2: bool) {
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(http2).build(KcpConnector::default());
    let expected = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let get = async |seed: u64| {
        let body = Bytes::from(pattern(50_000, seed));
        let request = Request::post(format!("http://{addr}/{seed}")).body(Full::new(body.clone())).unwrap();
        let response = client.request(request).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, expected));
        assert_eq!(response.extensions().get::<KcpInfo>().unwrap().peer, addr);
        assert!(response.into_body().collect().await.unwrap().to_bytes() == body);
    };
    for seed in 0..5 {
        get(seed).await;
    }
    if http2 {
        // Several streams of one connection at once.
        tokio::join!(get(5), get(6), get(7), get(8));
    }
}

#[tokio::test]
async fn a_pooled_client_and_a_server_that_speaks_both_versions() {
    let (listener, addr) = listener().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let server = tokio::spawn(serve(listener, connections.clone()));
    for (http2, so_far) in [(false, 1), (true, 2)] {
        bounded(requests(addr, http2)).await;
        assert_eq!(connections.load(Ordering::Relaxed), so_far, "one connection for all requests");
    }
    server.abort();
}

#[tokio::test]
async fn nobody_there_is_an_error() {
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(KcpConnector::default());
    let error = bounded(client.get(format!("http://{closed}/").parse().unwrap())).await.unwrap_err();
    assert!(error.is_connect());
}
