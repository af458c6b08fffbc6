//! Lifecycle scenarios, each written once and run on tokio's TCP and on KCP: same bytes, same results, same
//! `io::ErrorKind`. TCP on Linux is the oracle: what it does is what the scenarios say.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures::poll;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use transport::Transport;

#[path = "lifecycle/cancelling.rs"]
mod cancelling;
#[path = "lifecycle/closing.rs"]
mod closing;
#[path = "lifecycle/halves.rs"]
mod halves;
#[path = "lifecycle/kcp.rs"]
mod kcp_transport;
#[path = "lifecycle/listening.rs"]
mod listening;
#[path = "lifecycle/lossy.rs"]
mod lossy;
#[path = "lifecycle/readiness.rs"]
mod readiness;
#[path = "lifecycle/resetting.rs"]
mod resetting;
#[path = "lifecycle/tcp.rs"]
mod tcp_transport;
#[path = "lifecycle/transferring.rs"]
mod transferring;
#[path = "lifecycle/transport.rs"]
mod transport;

/// No scenario takes longer.
const LIMIT: Duration = Duration::from_secs(60);
/// What has not completed by then is taken to be pending.
const A_WHILE: Duration = Duration::from_millis(50);
/// Far beyond what any transport buffers.
const MORE_THAN_BUFFERS: usize = 64 << 20;

macro_rules! suite {
    ($($group:ident { $($scenario:ident)* })*) => {
        mod tcp {
            $(mod $group { $(
                #[test]
                fn $scenario() {
                    crate::multi_thread(crate::$group::$scenario::<crate::tcp_transport::Tcp>());
                }
            )* })*
        }
        mod kcp {
            $(mod $group { $(
                #[test]
                fn $scenario() {
                    crate::multi_thread(crate::$group::$scenario::<crate::kcp_transport::Kcp>());
                }
            )* })*
        }
        mod kcp_current_thread {
            $(mod $group { $(
                #[test]
                fn $scenario() {
                    crate::current_thread(crate::$group::$scenario::<crate::kcp_transport::Kcp>());
                }
            )* })*
        }
    };
}

suite! {
    closing {
        request_shutdown_response
        whole_with_shutdown_and_drop
        whole_with_drop_alone
        nothing_sent_then_shutdown
        write_after_shutdown_is_broken_pipe
        shutdown_twice
        reading_goes_on_after_shutdown
        writing_goes_on_after_the_peers_shutdown
        end_of_stream_is_sticky
        peer_dropped_then_read_and_first_write
        writes_to_a_dropped_peer_fail_in_the_end
        flush_of_an_ended_stream
        shutdown_after_the_peer_is_gone
        drop_with_full_buffers_delivers_all
        simultaneous_shutdown
        simultaneous_shutdown_with_data_in_flight
        server_closes_first
        client_closes_first
        aborted_task_closes_its_stream
        drop_wakes_a_pending_read
        read_exact_across_the_end
    }
    resetting {
        peer_dropped_with_unread_data
        peer_dropped_with_unread_data_write_first
        peer_dropped_half_read
        peer_dropped_with_unread_data_after_its_shutdown
        peer_aborted
        peer_aborted_write_first
        abort_leaves_received_data_readable
        abort_cuts_the_stream_to_a_prefix
        abort_wakes_a_pending_read
        abort_wakes_a_pending_write
        abort_after_own_shutdown
        abort_after_the_peers_shutdown
        zero_linger_and_drop
        no_linger_and_drop
        flush_and_shutdown_after_reset
    }
    halves {
        read_half_dropped_first
        write_half_dropped_first
        both_halves_dropped_with_unread_data
        write_half_dropped_delivers_all
        write_half_shut_down_then_written
        halves_in_two_tasks
        write_half_dropped_under_a_pending_read
        reset_under_a_pending_read
        reunited_stream_goes_on
        reunited_after_shutdown_stays_shut
        foreign_halves_do_not_reunite
    }
    transferring {
        writer_blocks_while_nobody_reads
        zero_length_reads
        zero_length_writes
        zero_length_write_while_blocked
        one_byte_pieces
        one_byte_reads
        vectored_write
        a_short_read_does_not_wait_for_more
        ping_pong
        full_duplex
        eight_mebibytes_and_shutdown
        copy_bidirectional_between_two
    }
    readiness {
        peek_does_not_consume
        peek_pends_until_data
        peek_at_the_end
        peek_after_reset
        try_read_empty_data_end
        try_write_until_it_would_block
        try_write_after_shutdown
        readable_pends_until_data
        readable_at_the_end_and_after_reset
        writable_pends_while_blocked
        ready_of_a_fresh_stream
        ready_tells_of_data
        ready_tells_of_the_end
    }
    listening {
        addresses_agree
        nothing_listens
        listener_dropped_streams_go_on
        listener_dropped_connections_are_refused
        listener_dropped_with_a_backlog
        closed_before_accept
        many_connections_in_sequence
        many_connections_at_once
    }
    cancelling {
        accept_cancelled_at_every_poll
        connect_cancelled_at_every_poll
        read_cancelled_at_every_poll
        write_cancelled_at_every_poll
        blocked_write_cancelled
        peek_and_readiness_cancelled
        shutdown_cancelled
    }
}

fn multi_thread(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(limited(scenario));
}

fn current_thread(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(limited(scenario));
}

async fn limited(scenario: impl Future<Output = ()>) {
    timeout(LIMIT, scenario).await.expect("takes too long");
}

/// A listener, and a connection to it: the connecting end, then the accepted one.
async fn listener_and_pair<T: Transport>() -> (T::Listener, T::Stream, T::Stream) {
    let listener = T::bind().await.unwrap();
    let (client, server) = connect_and_accept::<T>(&listener).await;
    (listener, client, server)
}

async fn connect_and_accept<T: Transport>(listener: &T::Listener) -> (T::Stream, T::Stream) {
    let addr = T::listener_addr(listener).unwrap();
    let (client, accepted) = tokio::join!(T::connect(addr), T::accept(listener));
    (client.unwrap(), accepted.unwrap().0)
}

/// A connection whose listener is gone.
async fn pair<T: Transport>() -> (T::Stream, T::Stream) {
    let (_listener, client, server) = listener_and_pair::<T>().await;
    (client, server)
}

/// Reads to the end of the stream.
async fn read_all(mut reader: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Reads exactly `len` bytes.
async fn read_len(mut reader: impl AsyncRead + Unpin, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    reader.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Reads once.
async fn read_some(mut reader: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 64 * 1024];
    let n = reader.read(&mut bytes).await?;
    bytes.truncate(n);
    Ok(bytes)
}

async fn assert_end(reader: impl AsyncRead + Unpin) {
    assert_eq!(read_some(reader).await.unwrap(), b"", "end of stream");
}

#[track_caller]
fn assert_kind<V: std::fmt::Debug>(result: io::Result<V>, kind: io::ErrorKind) {
    match result {
        Ok(value) => panic!("{kind:?} expected, not Ok({value:?})"),
        Err(error) => assert_eq!(error.kind(), kind, "{error}"),
    }
}

async fn assert_pending<V: std::fmt::Debug>(future: impl Future<Output = V>) {
    if let Ok(value) = timeout(A_WHILE, future).await {
        panic!("pending expected, not {value:?}");
    }
}

/// Writes until the writer has been pending for a while. Returns what was written.
async fn fill(mut writer: impl AsyncWrite + Unpin) -> Vec<u8> {
    let chunk = kcp_tests::pattern(100_003, 9);
    let mut written = Vec::new();
    while let Ok(result) = timeout(4 * A_WHILE, writer.write(&chunk)).await {
        let n = result.unwrap();
        assert!(n > 0);
        written.extend_from_slice(&chunk[..n]);
        assert!(written.len() < MORE_THAN_BUFFERS, "nobody reads, and yet it goes on");
    }
    written
}

/// Polls at most `polls` times, with room for others in between, then drops the future.
async fn cancelled_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let std::task::Poll::Ready(value) = poll!(&mut future) {
            return Some(value);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// The address of a listener that is gone.
async fn closed_addr<T: Transport>() -> SocketAddr {
    T::listener_addr(&T::bind().await.unwrap()).unwrap()
}
