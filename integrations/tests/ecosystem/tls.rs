//! TLS over KCP, over a path that loses 5 %.

use std::sync::Arc;

use kcp_tokio::KcpStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{bounded, listener, lossy, pattern};

fn configs() -> (ServerConfig, ClientConfig) {
    let key = rcgen::generate_simple_self_signed(["game".to_owned()]).unwrap();
    let cert = CertificateDer::from(key.cert);
    let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let mut roots = RootCertStore::empty();
    roots.add(cert.clone()).unwrap();
    let mut server =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], secret.into()).unwrap();
    server.alpn_protocols = vec![b"other".to_vec(), b"game/1".to_vec()];
    let mut client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"game/1".to_vec()];
    (server, client)
}

#[tokio::test]
async fn handshake_data_both_ways_and_an_orderly_end() {
    let (listener, addr) = listener().await;
    let relay = lossy(addr).await;
    let (server_config, client_config) = configs();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut tls = TlsAcceptor::from(Arc::new(server_config)).accept(stream).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"game/1"[..]));
        let mut got = vec![];
        // Ends with close_notify: rustls would report a mere end of the stream as an error.
        tls.read_to_end(&mut got).await.unwrap();
        tls.write_all(&pattern(200_000, 2)).await.unwrap();
        tls.shutdown().await.unwrap();
        got
    });
    let got = bounded(async {
        let stream = KcpStream::connect(relay.local_addr().unwrap()).await.unwrap();
        let name = ServerName::try_from("game").unwrap();
        let mut tls = TlsConnector::from(Arc::new(client_config)).connect(name, stream).await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"game/1"[..]));
        tls.write_all(&pattern(300_000, 1)).await.unwrap();
        tls.shutdown().await.unwrap();
        let mut answer = vec![];
        tls.read_to_end(&mut answer).await.unwrap();
        assert!(answer == pattern(200_000, 2));
        server.await.unwrap()
    })
    .await;
    assert!(got == pattern(300_000, 1));
}

#[tokio::test]
async fn a_wrong_name_is_refused() {
    let (listener, addr) = listener().await;
    let (server_config, client_config) = configs();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(server_config)).accept(stream).await.is_err()
    });
    let stream = KcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("somebody-else").unwrap();
    assert!(bounded(TlsConnector::from(Arc::new(client_config)).connect(name, stream)).await.is_err());
    assert!(bounded(server).await.unwrap());
}
