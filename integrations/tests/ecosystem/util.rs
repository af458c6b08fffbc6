//! tokio-util's codecs, its `Listener` and `compat`, and a proxy between TCP and KCP.

use bytes::Bytes;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use futures::{SinkExt, StreamExt};
use kcp_integrations::tokio_util::Listener;
use kcp_tokio::KcpStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::compat::TokioAsyncReadCompatExt;

use crate::{bounded, listener, pattern};

#[tokio::test]
async fn framed_keeps_frames() {
    let (listener, addr) = listener().await;
    bounded(async {
        let mut ours = Framed::new(KcpStream::connect(addr).await.unwrap(), LengthDelimitedCodec::new());
        let lens = [0, 1, 1375, 1376, 1377, 100_000];
        for (seed, len) in lens.into_iter().enumerate() {
            ours.feed(Bytes::from(pattern(len, seed as u64))).await.unwrap();
        }
        let sending = tokio::spawn(async move {
            SinkExt::<Bytes>::close(&mut ours).await.unwrap();
            ours
        });
        let (stream, _) = listener.accept().await.unwrap();
        let mut theirs = Framed::new(stream, LengthDelimitedCodec::new());
        for (seed, len) in lens.into_iter().enumerate() {
            assert!(theirs.next().await.unwrap().unwrap() == pattern(len, seed as u64));
        }
        assert!(theirs.next().await.is_none(), "the end of the stream");
        drop(sending.await.unwrap());
    })
    .await;
}

/// Code that knows nothing of KCP: echoes five bytes of one connection.
async fn echo_once<L: tokio_util::net::Listener>(mut listener: L)
where
    L::Io: Unpin,
{
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buf = [0; 5];
    AsyncReadExt::read_exact(&mut stream, &mut buf).await.unwrap();
    AsyncWriteExt::write_all(&mut stream, &buf).await.unwrap();
    AsyncWriteExt::shutdown(&mut stream).await.unwrap();
}

async fn hello(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<u8> {
    AsyncWriteExt::write_all(&mut stream, b"hello").await.unwrap();
    let mut got = vec![];
    AsyncReadExt::read_to_end(&mut stream, &mut got).await.unwrap();
    got
}

#[tokio::test]
async fn code_generic_over_listeners_serves_tcp_and_kcp() {
    bounded(async {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
        assert_eq!(tokio::join!(hello(stream), echo_once(tcp)).0, b"hello");
        let kcp = Listener::from(listener().await.0);
        let addr = tokio_util::net::Listener::local_addr(&kcp).unwrap();
        let client = async { hello(KcpStream::connect(addr).await.unwrap()).await };
        assert_eq!(tokio::join!(client, echo_once(kcp)).0, b"hello");
    })
    .await;
}

#[tokio::test]
async fn compat_speaks_futures_io() {
    let (listener, addr) = listener().await;
    bounded(async {
        let mut ours = KcpStream::connect(addr).await.unwrap().compat();
        ours.write_all(b"futures").await.unwrap();
        ours.flush().await.unwrap();
        let mut theirs = listener.accept().await.unwrap().0.compat();
        let mut buf = [0; 7];
        theirs.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"futures");
        theirs.close().await.unwrap();
        let mut rest = vec![];
        ours.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    })
    .await;
}

/// client -TCP- proxy -KCP- proxy -TCP- server, half-closed each way.
#[tokio::test]
async fn a_proxy_between_tcp_and_kcp_passes_ends_on() {
    let (inner, inner_addr) = listener().await;
    let outer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outer_addr = outer.local_addr().unwrap();
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target_addr = target.local_addr().unwrap();
    let entry = tokio::spawn(async move {
        let (mut tcp, _) = outer.accept().await.unwrap();
        let mut kcp = KcpStream::connect(inner_addr).await.unwrap();
        copy_bidirectional(&mut tcp, &mut kcp).await.unwrap()
    });
    let exit = tokio::spawn(async move {
        let (mut kcp, _) = inner.accept().await.unwrap();
        let mut tcp = TcpStream::connect(target_addr).await.unwrap();
        copy_bidirectional(&mut kcp, &mut tcp).await.unwrap()
    });
    let server = tokio::spawn(async move {
        let (mut stream, _) = target.accept().await.unwrap();
        let mut request = vec![];
        // The request ends, and only then the answer begins.
        AsyncReadExt::read_to_end(&mut stream, &mut request).await.unwrap();
        request.reverse();
        AsyncWriteExt::write_all(&mut stream, &request).await.unwrap();
    });
    bounded(async {
        let mut client = TcpStream::connect(outer_addr).await.unwrap();
        let mut request = pattern(500_000, 9);
        AsyncWriteExt::write_all(&mut client, &request).await.unwrap();
        AsyncWriteExt::shutdown(&mut client).await.unwrap();
        let mut answer = vec![];
        AsyncReadExt::read_to_end(&mut client, &mut answer).await.unwrap();
        request.reverse();
        assert!(answer == request);
        server.await.unwrap();
        assert_eq!(entry.await.unwrap(), (500_000, 500_000));
        assert_eq!(exit.await.unwrap(), (500_000, 500_000));
    })
    .await;
}
