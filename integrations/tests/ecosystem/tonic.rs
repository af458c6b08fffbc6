//! gRPC over KCP, over a path that loses 5 %: a unary and a streaming call of the health service.

use kcp_integrations::tonic::{Incoming, connect};
use tonic::transport::{Endpoint, Server};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Status;
use tonic_health::pb::health_client::HealthClient;

use crate::{bounded, listener, lossy};

#[tokio::test]
async fn a_unary_and_a_streaming_call() {
    let (listener, addr) = listener().await;
    let relay = lossy(addr).await;
    let (reporter, health) = tonic_health::server::health_reporter();
    let server =
        tokio::spawn(Server::builder().add_service(health).serve_with_incoming(Incoming::from(listener)));
    bounded(async {
        reporter.set_service_status("game", ServingStatus::Serving).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", relay.local_addr().unwrap())).unwrap();
        let mut client = HealthClient::new(connect(&endpoint).await.unwrap());
        let request = HealthCheckRequest { service: "game".into() };
        let answer = client.check(request.clone()).await.unwrap();
        assert_eq!(answer.get_ref().status(), Status::Serving);
        let unknown = client.check(HealthCheckRequest { service: "nobody".into() }).await.unwrap_err();
        assert_eq!(unknown.code(), tonic::Code::NotFound);

        let mut stream = client.watch(request).await.unwrap().into_inner();
        assert_eq!(stream.message().await.unwrap().unwrap().status(), Status::Serving);
        for (set, seen) in
            [(ServingStatus::NotServing, Status::NotServing), (ServingStatus::Serving, Status::Serving)]
        {
            reporter.set_service_status("game", set).await;
            assert_eq!(stream.message().await.unwrap().unwrap().status(), seen);
        }
    })
    .await;
    assert!(relay.stats().up.lost + relay.stats().down.lost > 0, "the path lost something");
    server.abort();
}
