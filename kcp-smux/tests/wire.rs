//! What stands on the wire, byte by byte, and what a peer that breaks the rules gets.

use std::io::ErrorKind;
use std::time::Duration;

use kcp_smux::{Config, Error, ProtocolError, Session, Stream, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const MIB: usize = 1 << 20;

fn raw_client(config: Config) -> (Session, DuplexStream) {
    let (here, there) = tokio::io::duplex(4 * MIB);
    (Session::client(here, config).unwrap(), there)
}

fn raw_server(config: Config) -> (Session, DuplexStream) {
    let (here, there) = tokio::io::duplex(4 * MIB);
    (Session::server(here, config).unwrap(), there)
}

async fn expect(wire: &mut DuplexStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    wire.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
}

async fn nothing(wire: &mut DuplexStream) {
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(5), wire.read(&mut byte)).await;
    assert!(read.is_err(), "{byte:?}");
}

fn push(version: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_le_bytes();
    [&[version, 2][..], &len, &stream.to_le_bytes(), payload].concat()
}

fn update(stream: u32, consumed: u32, window: u32) -> Vec<u8> {
    [&[2, 4, 8, 0][..], &stream.to_le_bytes(), &consumed.to_le_bytes(), &window.to_le_bytes()].concat()
}

#[tokio::test(start_paused = true)]
async fn a_client_of_version_1() {
    let (session, mut wire) = raw_client(Config::new(Version::V1).max_frame(4));
    let mut first = session.open().unwrap();
    let second = session.open().unwrap();
    assert_eq!((first.id(), second.id()), (3, 5));
    expect(&mut wire, &[1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0]).await;
    first.write_all(b"hello").await.unwrap();
    expect(&mut wire, &[1, 2, 4, 0, 3, 0, 0, 0, b'h', b'e', b'l', b'l', 1, 2, 1, 0, 3, 0, 0, 0, b'o']).await;
    first.shutdown().await.unwrap();
    expect(&mut wire, &[1, 1, 0, 0, 3, 0, 0, 0]).await;
    drop(second);
    expect(&mut wire, &[1, 1, 0, 0, 5, 0, 0, 0]).await;

    // Half of it is closed; the other goes on. Reading says nothing to the peer.
    wire.write_all(&push(1, 3, b"reply")).await.unwrap();
    wire.write_all(&[1, 1, 0, 0, 3, 0, 0, 0]).await.unwrap();
    let mut reply = Vec::new();
    first.read_to_end(&mut reply).await.unwrap();
    assert_eq!(reply, b"reply");
    assert_eq!(first.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    drop(first);
    nothing(&mut wire).await;
    assert_eq!(session.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_of_version_2_and_its_updates() {
    let (session, mut wire) = raw_server(Config::default().stream_buffer(64 << 10));
    wire.write_all(&[2, 0, 0, 0, 3, 0, 0, 0]).await.unwrap();
    wire.write_all(&push(2, 3, &[7; 40_000])).await.unwrap();
    let mut stream = session.accept().await.unwrap();
    assert_eq!(stream.id(), 3);
    nothing(&mut wire).await;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    // The first read, then every 32 KiB.
    expect(&mut wire, &update(3, 1, 65_536)).await;
    let mut data = [0; 32_767];
    stream.read_exact(&mut data).await.unwrap();
    nothing(&mut wire).await;
    stream.read_exact(&mut byte).await.unwrap();
    expect(&mut wire, &update(3, 32_769, 65_536)).await;
    stream.write_all(b"ok").await.unwrap();
    expect(&mut wire, &push(2, 3, b"ok")).await;
}

#[tokio::test(start_paused = true)]
async fn the_server_opens_even_streams() {
    let (session, mut wire) = raw_server(Config::default());
    assert_eq!(session.open().unwrap().id(), 2);
    expect(&mut wire, &[2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 0, 0, 2, 0, 0, 0]).await;
}

#[tokio::test(start_paused = true)]
async fn the_window_of_the_peer_holds() {
    let (session, mut wire) = raw_client(Config::default().send_buffer(MIB));
    let mut stream = session.open().unwrap();
    stream.write_all(&[1; 400_000]).await.unwrap();
    expect(&mut wire, &[2, 0, 0, 0, 3, 0, 0, 0]).await;
    let mut left = 262_144;
    while left > 0 {
        let n = left.min(32_768);
        expect(&mut wire, &push(2, 3, &vec![1; n])).await;
        left -= n;
    }
    nothing(&mut wire).await;
    // One byte more.
    wire.write_all(&update(3, 262_144, 1)).await.unwrap();
    expect(&mut wire, &push(2, 3, &[1])).await;
    nothing(&mut wire).await;
    wire.write_all(&update(3, 262_145, u32::MAX)).await.unwrap();
    expect(&mut wire, &push(2, 3, &[1; 32_768])).await;
    assert_eq!(stream.peer_consumed(), 262_145);
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_only_when_nothing_else_is_sent() {
    let config =
        Config::new(Version::V1).keepalive(Some(Duration::from_secs(2))).timeout(Duration::from_secs(7));
    let (session, mut wire) = raw_client(config);
    let start = tokio::time::Instant::now();
    expect(&mut wire, &[1, 3, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(start.elapsed().as_secs(), 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _stream = session.open().unwrap();
    expect(&mut wire, &[1, 0, 0, 0, 3, 0, 0, 0]).await;
    expect(&mut wire, &[1, 3, 0, 0, 0, 0, 0, 0]).await;
    assert_eq!(start.elapsed().as_secs(), 5);
    // Half a header is a sign of life, too.
    wire.write_all(&[1, 3, 0]).await.unwrap();
    assert!(matches!(session.closed().await, Error::Timeout));
    assert_eq!(start.elapsed().as_secs(), 12);
}

/// One that always has data, and one that comes later: a frame of each in turn, and control first.
#[tokio::test(start_paused = true)]
async fn streams_take_turns() {
    let (session, mut wire) = raw_client(Config::default().max_frame(2));
    let mut greedy = session.open().unwrap();
    greedy.write_all(b"abcdefgh").await.unwrap();
    let mut modest = session.open().unwrap();
    modest.write_all(b"xyz").await.unwrap();
    modest.shutdown().await.unwrap();
    let turns = [
        vec![2, 0, 0, 0, 3, 0, 0, 0],
        vec![2, 0, 0, 0, 5, 0, 0, 0],
        push(2, 3, b"ab"),
        push(2, 5, b"xy"),
        push(2, 3, b"cd"),
        push(2, 5, b"z"),
        vec![2, 1, 0, 0, 5, 0, 0, 0],
        push(2, 3, b"ef"),
        push(2, 3, b"gh"),
    ];
    expect(&mut wire, &turns.concat()).await;
}

async fn ends_with(version: Version, bytes: &[u8]) -> (Error, Stream) {
    let (session, mut wire) = raw_server(Config::new(version));
    wire.write_all(&[version.number(), 0, 0, 0, 3, 0, 0, 0]).await.unwrap();
    wire.write_all(&push(version.number(), 3, b"before")).await.unwrap();
    let stream = session.accept().await.unwrap();
    wire.write_all(bytes).await.unwrap();
    let error = session.closed().await;
    assert!(session.open().is_err() && session.accept().await.is_err());
    (error, stream)
}

#[tokio::test(start_paused = true)]
async fn whoever_breaks_the_protocol_ends_the_session() {
    use ProtocolError as E;
    let syn = |id: u32| [&[2, 0, 0, 0][..], &id.to_le_bytes()].concat();
    // More than either window: the first 262 144 are allowed, and so are 2 MiB.
    let flood: Vec<u8> = (0..33).flat_map(|_| push(2, 3, &[0; 65_535])).collect();
    for (version, bytes, expected) in [
        (Version::V1, vec![9, 0, 0, 0, 3, 0, 0, 0], E::Version(9)),
        (Version::V1, vec![1, 4, 8, 0, 3, 0, 0, 0], E::Command(4)),
        (Version::V2, vec![2, 9, 0, 0, 3, 0, 0, 0], E::Command(9)),
        (Version::V2, vec![2, 1, 1, 0, 3, 0, 0, 0], E::Length { command: 1, len: 1 }),
        (Version::V2, syn(2), E::StreamId(2)),
        (Version::V2, syn(0), E::StreamId(0)),
        (Version::V2, update(3, 1, 0), E::Consumed(3)),
        (Version::V2, flood, E::Window(3)),
    ] {
        let (error, mut stream) = ends_with(version, &bytes).await;
        assert!(matches!(error, Error::Protocol(found) if found == expected), "{expected:?}: {error:?}");
        // What came before can be read; then there is an error, not an end.
        let mut before = [0; 6];
        stream.read_exact(&mut before).await.unwrap();
        assert_eq!(&before, b"before");
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).await.unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(stream.write(b"x").await.unwrap_err().kind(), ErrorKind::InvalidData);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_error() {
    let (session, mut wire) = raw_server(Config::default());
    let odd = [
        &[2, 0, 0, 0, 3, 0, 0, 0][..],
        // A stream opened twice, data of no stream, updates of no stream, data without data, an end of no stream.
        &[2, 0, 0, 0, 3, 0, 0, 0],
        &push(2, 77, b"nobody"),
        &update(77, 9, 9),
        &push(2, 3, b""),
        &[2, 1, 0, 0, 77, 0, 0, 0],
        &push(2, 3, b"data"),
        &[2, 1, 0, 0, 3, 0, 0, 0],
        // After the end.
        &push(2, 3, b"late"),
        &[2, 1, 0, 0, 3, 0, 0, 0],
    ]
    .concat();
    wire.write_all(&odd).await.unwrap();
    let mut stream = session.accept().await.unwrap();
    let mut data = Vec::new();
    stream.read_to_end(&mut data).await.unwrap();
    assert_eq!(data, b"data");
    drop(stream);
    // The same number may come again.
    wire.write_all(&[2, 0, 0, 0, 3, 0, 0, 0]).await.unwrap();
    wire.write_all(&push(2, 3, b"again")).await.unwrap();
    let mut again = [0; 5];
    session.accept().await.unwrap().read_exact(&mut again).await.unwrap();
    assert_eq!(&again, b"again");
}

#[tokio::test(start_paused = true)]
async fn streams_beyond_the_limits_are_refused() {
    let (session, mut wire) = raw_server(Config::new(Version::V1).max_streams(2).accept_backlog(1));
    let syn = |id: u8| [1, 0, 0, 0, id, 0, 0, 0];
    wire.write_all(&[syn(3), syn(5)].concat()).await.unwrap();
    expect(&mut wire, &[1, 1, 0, 0, 5, 0, 0, 0]).await;
    let first = session.accept().await.unwrap();
    wire.write_all(&[syn(7), syn(9)].concat()).await.unwrap();
    expect(&mut wire, &[1, 1, 0, 0, 9, 0, 0, 0]).await;
    let second = session.accept().await.unwrap();
    assert_eq!((first.id(), second.id(), session.streams()), (3, 7, 2));
    assert!(matches!(session.open().unwrap_err(), Error::TooManyStreams));
    drop(first);
    expect(&mut wire, &[1, 1, 0, 0, 3, 0, 0, 0]).await;
    assert!(session.open().is_ok());
}

/// A peer that opens streams without end and takes no answer: nothing grows.
#[tokio::test(start_paused = true)]
async fn refusals_wait_for_the_peer() {
    let (here, mut wire) = tokio::io::duplex(1024);
    let session = Session::server(here, Config::new(Version::V1).max_streams(1)).unwrap();
    let mut sent = 0;
    let flood = async {
        for id in 0u32.. {
            wire.write_all(&[&[1, 0, 0, 0][..], &(2 * id + 3).to_le_bytes()].concat()).await.unwrap();
            sent = id;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(5), flood).await.is_err());
    // What lies in both pipes and buffers.
    assert!(sent < 20_000, "{sent}");
    assert_eq!(session.streams(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_receive_buffer_is_never_exceeded() {
    let (session, mut wire) = raw_server(Config::new(Version::V1).receive_buffer(1000));
    for id in [3, 5] {
        wire.write_all(&[1, 0, 0, 0, id, 0, 0, 0]).await.unwrap();
        wire.write_all(&push(1, id.into(), &[id; 800])).await.unwrap();
    }
    let mut streams = [session.accept().await.unwrap(), session.accept().await.unwrap()];
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(wire);
    // It notices when it next wants to send: there was no room to receive the end.
    session.closed().await;
    let mut held = Vec::new();
    for stream in &mut streams {
        assert!(stream.read_to_end(&mut held).await.is_err());
    }
    assert_eq!(held, [vec![3; 800], vec![5; 200]].concat());
}

/// The peer has said everything and is gone: what this side still has to say fails, and what came before is read all the same.
#[tokio::test]
async fn what_has_arrived_is_read_although_nothing_can_be_sent_any_more() {
    for version in [Version::V1, Version::V2] {
        let (mut peer, here) = tokio::io::duplex(MIB);
        peer.write_all(&[version.number(), 0, 0, 0, 3, 0, 0, 0]).await.unwrap();
        for _ in 0..10 {
            peer.write_all(&push(version.number(), 3, &[7; 20_000])).await.unwrap();
        }
        peer.write_all(&[version.number(), 1, 0, 0, 3, 0, 0, 0]).await.unwrap();
        drop(peer);
        let session = Session::server(here, Config::new(version)).unwrap();
        let mut ours = session.open().unwrap();
        ours.write_all(b"too late").await.unwrap();
        let mut got = Vec::new();
        session.accept().await.unwrap().read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [7; 200_000]);
        session.closed().await;
        assert!(ours.write(b"x").await.is_err());
    }
}
