//! WebSocket over KCP.

use futures::{SinkExt, StreamExt};
use kcp_tokio::KcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{accept_async, client_async};

use crate::{bounded, listener, pattern};

#[tokio::test]
async fn text_binary_ping_and_close() {
    let (listener, addr) = listener().await;
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = accept_async(stream).await.unwrap();
        let mut reason = None;
        while let Some(message) = socket.next().await {
            match message.unwrap() {
                message if message.is_text() || message.is_binary() => socket.send(message).await.unwrap(),
                Message::Close(frame) => reason = frame.map(|frame| frame.reason.to_string()),
                _ => {}
            }
        }
        reason
    });
    bounded(async {
        let stream = KcpStream::connect(addr).await.unwrap();
        let (mut socket, _) = client_async("ws://game/", stream).await.unwrap();
        for message in
            [Message::text("grüß Gott"), Message::binary(pattern(200_000, 1)), Message::binary(vec![])]
        {
            socket.send(message.clone()).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap() == message);
        }
        socket.send(Message::Ping(b"are you there"[..].into())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(b"are you there"[..].into()));
        socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "enough".into() })).await.unwrap();
        while let Some(message) = socket.next().await {
            assert!(message.unwrap().is_close());
        }
        assert_eq!(server.await.unwrap().as_deref(), Some("enough"));
    })
    .await;
}
