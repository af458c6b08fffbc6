//! The real binary, in processes of its own: files through a lossy relay, resuming, and one clear line for each error.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use sha2::{Digest, Sha256};

/// A process that is killed when the test ends.
struct Running {
    child: Child,
    addr: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kcp(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kcp"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a server command and reads the address that it prints first.
fn start(args: &[&str]) -> Running {
    let mut child = kcp(args).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim().strip_prefix("listening on ").expect("the address comes first").to_owned();
    Running { child, addr }
}

fn run(args: &[&str]) -> Output {
    kcp(args).output().unwrap()
}

/// Exit code and the one line on standard error.
fn error_of(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "{text}");
    (output.status.code(), text.trim_end().to_owned())
}

fn random_file(path: &Path, len: usize) -> String {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
    std::fs::write(path, &bytes).unwrap();
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_file_goes_through_a_lossy_network() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.bin");
    let sum = random_file(&file, 8 << 20);
    let target = dir.path().join("received");
    std::fs::create_dir(&target).unwrap();
    let mut recv = start(&["recv", "127.0.0.1:0", "-o", target.to_str().unwrap()]);
    let relay = start(&[
        "relay",
        "127.0.0.1:0",
        &recv.addr,
        "--loss",
        "10",
        "--delay",
        "30ms",
        "--reorder",
        "5%",
        "--duplicate",
        "1",
    ]);
    let sent = run(&["send", file.to_str().unwrap(), &relay.addr, "--json"]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let report: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!(report["sha256"], sum.as_str());
    assert_eq!(report["size"], 8 << 20);
    assert!(report["retransmits"].as_u64().unwrap() > 500, "{report}");
    assert!(recv.child.wait().unwrap().success());
    assert_eq!(hex(&std::fs::read(target.join("data.bin")).unwrap()), sum);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1, "nothing unfinished is left");
}

#[test]
fn an_interrupted_transfer_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.bin");
    let sum = random_file(&file, 3_000_000);
    let target = dir.path().join("copy.bin");
    // As an interrupted receiver leaves it.
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(dir.path().join("copy.bin.part"), &bytes[..1_234_567]).unwrap();
    let mut recv = start(&["recv", "127.0.0.1:0", "-o", target.to_str().unwrap()]);
    let sent = run(&["send", file.to_str().unwrap(), &recv.addr, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!(report["resumed_at"], 1_234_567);
    assert!(recv.child.wait().unwrap().success());
    assert_eq!(hex(&std::fs::read(&target).unwrap()), sum);

    // A part of another file is of no use, and does no harm.
    std::fs::write(dir.path().join("copy.bin.part"), vec![7; 1_000_000]).unwrap();
    let mut recv = start(&["recv", "127.0.0.1:0", "-o", target.to_str().unwrap()]);
    let sent = run(&["send", file.to_str().unwrap(), &recv.addr, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!(report["resumed_at"], 0);
    assert!(recv.child.wait().unwrap().success());
    assert_eq!(hex(&std::fs::read(&target).unwrap()), sum);
}

#[test]
fn a_receiver_that_dies_leaves_what_it_has_and_the_sender_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.bin");
    random_file(&file, 40 << 20);
    let target = dir.path().join("copy.bin");
    let mut recv = start(&["recv", "127.0.0.1:0", "-o", target.to_str().unwrap()]);
    // Slow enough to be interrupted.
    let relay = start(&["relay", "127.0.0.1:0", &recv.addr, "--rate", "1000000", "--delay", "5ms"]);
    let sender = kcp(&["send", file.to_str().unwrap(), &relay.addr, "--idle-timeout", "3s"]).spawn().unwrap();
    let part = dir.path().join("copy.bin.part");
    while std::fs::metadata(&part).map_or(0, |metadata| metadata.len()) == 0 {
        std::thread::yield_now();
    }
    recv.child.kill().unwrap();
    let output = sender.wait_with_output().unwrap();
    let (code, line) = error_of(&output);
    assert_eq!(code, Some(1));
    assert!(line.starts_with("kcp: error: after ") && line.contains("resume"), "{line}");
    assert!(std::fs::metadata(&part).unwrap().len() > 0);
}

#[test]
fn ping_and_echo() {
    let echo = start(&["echo", "127.0.0.1:0", "--preset", "turbo"]);
    let output = run(&["ping", &echo.addr, "-c", "20", "-i", "1ms", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["rtt"]["count"], 20);
    assert!(report["rtt"]["p50_ms"].as_f64().unwrap() > 0.0);
    let output = run(&["ping", &echo.addr, "-c", "3", "-i", "1ms"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("seq 2") && text.contains("(3 round trips)"), "{text}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let echo = start(&["echo", "127.0.0.1:0"]);
    let mut ping = kcp(&["ping", &echo.addr, "-c", "100", "-i", "1ms"]).spawn().unwrap();
    drop(ping.stdout.take());
    assert!(ping.wait().unwrap().success());
    let mut text = String::new();
    ping.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
}

#[test]
fn errors_are_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.bin");
    random_file(&file, 10);
    let file = file.to_str().unwrap();
    let occupied = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let occupied_addr = occupied.local_addr().unwrap().to_string();
    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (args, expected) in [
        (vec!["echo", &occupied_addr], "cannot listen on"),
        (vec!["recv", &occupied_addr], "cannot listen on"),
        (vec!["relay", &occupied_addr, "127.0.0.1:1"], "cannot listen on"),
        (vec!["send", "/no/such/file", "127.0.0.1:1"], "cannot read /no/such/file"),
        (vec!["send", "/", "127.0.0.1:1"], "not a file"),
        (vec!["send", file, &closed], "refused"),
        (vec!["ping", &closed], "refused"),
        (vec!["ping", &occupied_addr, "--timeout", "300ms"], "did not answer"),
        (vec!["echo", "127.0.0.1:0", "--mtu", "10"], "mtu of 10 bytes"),
    ] {
        let (code, line) = error_of(&run(&args));
        assert_eq!(code, Some(1), "{args:?}");
        assert!(line.starts_with("kcp: error: ") && line.contains(expected), "{args:?}: {line}");
    }
    for args in [
        vec!["relay", "127.0.0.1:0", "127.0.0.1:1", "--loss", "200"],
        vec!["ping"],
        vec!["nonsense"],
        vec!["demo", "--rtt", "fast"],
    ] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "), "{args:?}");
    }
}

#[test]
fn the_demo_verifies_everything() {
    let output = run(&["demo", "--clients", "3", "--rtt", "20ms", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bytes_verified"], 6 << 20);
    assert_eq!(report["ping"]["count"], 150);
    assert!(report["packets_lost"].as_u64().unwrap() > 100);
}

/// kill -9 and a restart on the same port: clients learn it with their next write, and come again.
#[tokio::test]
async fn a_killed_and_restarted_server_resets_its_clients() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let limit = std::time::Duration::from_secs(20);
    let mut server = start(&["echo", "127.0.0.1:0"]);
    let addr = server.addr.clone();
    let mut clients = Vec::new();
    let mut got = [0; 5];
    for _ in 0..5 {
        let mut client = kcp_tokio::KcpStream::connect(addr.as_str()).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        tokio::time::timeout(limit, client.read_exact(&mut got)).await.unwrap().unwrap();
        clients.push(client);
    }
    // SIGKILL: no last word.
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let _again = start(&["echo", &addr]);
    for mut client in clients {
        let (rtt, started) = (client.rtt().unwrap(), std::time::Instant::now());
        client.write_all(b"there").await.unwrap();
        let error = tokio::time::timeout(limit, client.read(&mut got)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        // One reset goes to an address per 100 ms: with five clients on one machine the last ones wait for a
        // retransmission. Far from any timeout in any case.
        let waited = started.elapsed();
        assert!(waited < std::time::Duration::from_secs(5), "{waited:?} at an rtt of {rtt:?}");
        let mut fresh = kcp_tokio::KcpStream::connect(addr.as_str()).await.unwrap();
        fresh.write_all(b"hello").await.unwrap();
        tokio::time::timeout(limit, fresh.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(&got, b"hello");
    }
}
