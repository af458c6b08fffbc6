//! `kcp tunnel`, both ends of this build: ends of connections, reload, shutdown, re-dialling, limits, wrong keys.

#![cfg(unix)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::{KEY, LIMIT, Running, download, free_port, local, lossy, page, web_server};

/// Sends back what comes, as it comes, and ends when the client does.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind(local(0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || echo(stream.unwrap()));
        }
    });
    addr
}

fn echo(mut stream: impl Read + Write) {
    let mut buf = [0; 8192];
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        if stream.write_all(&buf[..n]).is_err() {
            return;
        }
    }
}

/// Answers with everything, once the client has ended its direction.
fn patient_server() -> SocketAddr {
    let listener = TcpListener::bind(local(0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let (mut stream, mut all) = (stream.unwrap(), Vec::new());
                stream.read_to_end(&mut all).unwrap();
                stream.write_all(&all).unwrap();
            });
        }
    });
    addr
}

fn server(target: SocketAddr, args: &[&str]) -> (Running, SocketAddr) {
    let target = target.to_string();
    let mut all = vec!["-l", "127.0.0.1:0", "-t", &target, "--key", KEY];
    all.extend(args);
    let server = Running::tunnel("server", &all);
    let addr = server.addr();
    (server, addr)
}

fn client(remote: SocketAddr, args: &[&str]) -> (Running, SocketAddr) {
    let remote = remote.to_string();
    let mut all = vec!["-l", "127.0.0.1:0", "-r", &remote, "--key", KEY];
    all.extend(args);
    let client = Running::tunnel("client", &all);
    let addr = client.addr();
    (client, addr)
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn ask(stream: &mut (impl Read + Write), text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, text);
}

#[test]
fn a_page_through_every_kind_of_our_own() {
    let page = Arc::new(page(4 << 20));
    let target = web_server(page.clone());
    for (n, args) in [
        &["--crypt", "aes-128-gcm"][..],
        &["--crypt", "aes-256-gcm", "--smuxver", "1", "--nocomp"],
        &["--crypt", "null", "--ds", "0"],
        &["--crypt", "null", "--nocomp", "--mode", "fast3"],
        &["--crypt", "none", "--mode", "normal", "--acknodelay"],
        &["--crypt", "no such cipher", "--mode", "manual", "--nodelay", "1", "--interval", "20", "--nc", "1"],
    ]
    .into_iter()
    .enumerate()
    {
        let (server, addr) = server(target, args);
        let (_relay, addr) = lossy(addr, 0.02, n as u64);
        let (_client, addr) = client(addr, args);
        assert!(download(addr) == *page, "{args:?}");
        assert_eq!(server.counter("InCsumErrors"), 0, "{args:?}");
    }
}

#[test]
fn an_end_of_one_direction_leaves_the_other() {
    let target = patient_server();
    let data = page(1 << 20);
    for smux in ["1", "2"] {
        let (_server, addr) = server(target, &["--smuxver", smux]);
        let (_client, addr) = client(addr, &["--smuxver", smux]);
        let mut stream = connect(addr);
        stream.write_all(&data).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == data, "smux {smux}: {} bytes", got.len());
    }
}

#[test]
fn what_nobody_wants_any_more_ends_at_the_target() {
    // A target that never ends by itself.
    let listener = TcpListener::bind(local(0)).unwrap();
    let (_server, addr) = server(listener.local_addr().unwrap(), &["--closewait", "1"]);
    let (_client, addr) = client(addr, &[]);
    let mut stream = connect(addr);
    stream.write_all(b"more").unwrap();
    let (mut target, _) = listener.accept().unwrap();
    target.set_write_timeout(Some(LIMIT)).unwrap();
    let mut buf = [0; 4];
    target.read_exact(&mut buf).unwrap();
    drop(stream);
    let error = loop {
        if let Err(error) = target.write_all(&[7; 65_536]) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

#[test]
fn a_target_that_is_not_there_ends_the_stream() {
    let (server, addr) = server(local(free_port()), &[]);
    let (_client, addr) = client(addr, &[]);
    let mut stream = connect(addr);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    server.log.wait("cannot connect to");
}

#[test]
fn another_key_gets_nothing_and_is_counted() {
    for crypt in ["aes", "aes-128-gcm", "xor"] {
        let (server, addr) = server(echo_server(), &["--crypt", crypt]);
        let (_stranger, stranger) = client(addr, &["--crypt", crypt, "--key", "battery staple"]);
        let mut stream = connect(stranger);
        stream.write_all(b"hello").unwrap();
        let begun = Instant::now();
        while server.counter("InCsumErrors") < 3 {
            assert!(begun.elapsed() < LIMIT);
        }
        assert_eq!((server.counter("PassiveOpens"), server.counter("CurrEstab")), (0, 0));
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        // Whoever has the key is served as before.
        let (_client, addr) = client(addr, &["--crypt", crypt]);
        ask(&mut connect(addr), b"hello");
        assert_eq!(server.counter("PassiveOpens"), 1);
    }
}

#[test]
fn a_server_that_comes_back_is_dialled_again() {
    let target = echo_server().to_string();
    let listen = local(free_port()).to_string();
    let start = || Running::tunnel("server", &["-l", &listen, "-t", &target, "--key", KEY]);
    // The client is there first.
    let (client, addr) = client(listen.parse().unwrap(), &[]);
    let mut early = connect(addr);
    early.write_all(b"early").unwrap();
    client.log.wait("cannot dial");
    let first = start();
    let mut answer = [0; 5];
    early.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"early");
    drop(first);
    let _second = start();
    // What was open ends with an error, and not as if everything had come.
    let begun = Instant::now();
    let end = loop {
        // Without something to say nobody hears of the restart before the next sign of life.
        if let Err(error) = early.write_all(b"x") {
            break error;
        }
        early.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        match early.read(&mut [0; 64]) {
            Ok(n) => assert!(n > 0, "an end as if it were one"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => break error,
        }
        assert!(begun.elapsed() < LIMIT);
    };
    assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
    ask(&mut connect(addr), b"again");
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_server_follows_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let (file, log) = (directory.path().join("server.json"), directory.path().join("moved.log"));
    let page = Arc::new(page(300_000));
    let (first, second) = (echo_server(), web_server(page.clone()));
    let config = |target: SocketAddr, key: &str, more: &str| {
        format!(r#"{{"Listen": "127.0.0.1:0", "target": "{target}", "KEY": "{key}", "smuxver": 2{more}}}"#)
    };
    write(&file, &config(first, KEY, ""));
    let server =
        Running::tunnel("server", &["-c", file.to_str().unwrap(), "-l", "wrong", "--key", "overridden"]);
    let addr = server.addr();
    let (_old_client, old) = client(addr, &[]);
    let mut stream = connect(old);
    ask(&mut stream, b"before");

    // A file that is wrong changes nothing.
    for wrong in ["{", r#"{"mtu": "x"}"#, r#"{"qpp": true}"#, r#"{"crypt": "null", "listen": "127.0.0.1:0"}"#]
    {
        let from = server.log.len();
        write(&file, wrong);
        server.signal("HUP");
        server.log.wait_after(from, "the configuration stays as it was: ");
        ask(&mut stream, b"still");
    }

    write(&file, &config(second, "another key", r#", "mtu": 1200, "datashard": 3, "parityshard": 1"#));
    let from = server.log.len();
    server.signal("HUP");
    server.log.wait_after(from, "mtu 1200");
    ask(&mut stream, b"after");
    // New sessions take the new key and get the new target; the old session has both of old, for new streams as well.
    let (_client, addr_of_new) = client(addr, &["--key", "another key"]);
    assert!(download(addr_of_new) == *page);
    ask(&mut connect(old), b"old session");
    let before = server.counter("InCsumErrors");
    let (_late, late) = client(addr, &[]);
    let _waiting = connect(late);
    let begun = Instant::now();
    while server.counter("InCsumErrors") == before {
        assert!(begun.elapsed() < LIMIT);
    }
    // Another address, and the log to a file.
    let elsewhere = local(free_port());
    let text = config(second, KEY, &format!(r#", "log": "{}""#, log.display()));
    write(&file, &text.replace("127.0.0.1:0", &elsewhere.to_string()));
    server.signal("HUP");
    let (_client, addr) = client(elsewhere, &[]);
    assert!(download(addr) == *page);
    ask(&mut stream, b"to the end");
    assert!(std::fs::read_to_string(&log).unwrap().contains(&format!("listening on {elsewhere}")));
}

#[test]
fn a_client_follows_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("client.json");
    let page = Arc::new(page(300_000));
    let (first, first_addr) = server(echo_server(), &[]);
    let (_second, second_addr) = server(web_server(page.clone()), &["--crypt", "salsa20"]);
    let config = |remote: SocketAddr, crypt: &str| {
        format!(
            r#"{{"localaddr": "127.0.0.1:0", "remoteaddr": "{remote}", "key": "{KEY}", "crypt": "{crypt}"}}"#
        )
    };
    write(&file, &config(first_addr, "aes"));
    let client = Running::tunnel("client", &["-c", file.to_str().unwrap()]);
    let addr = client.addr();
    let mut stream = connect(addr);
    ask(&mut stream, b"before");
    write(&file, "[]");
    client.signal("HUP");
    client.log.wait("the configuration stays as it was: ");
    write(&file, &config(second_addr, "salsa20"));
    let from = client.log.len();
    client.signal("HUP");
    client.log.wait_after(from, "crypt salsa20");
    assert!(download(addr) == *page);
    ask(&mut stream, b"after");
    drop(stream);
    // With its last stream the old session ends.
    client.log.wait("was closed with 0 streams");
    first.log.wait("has ended");
}

#[test]
fn ending_lets_streams_finish() {
    let (server, addr) = server(echo_server(), &[]);
    let (client, addr) = client(addr, &[]);
    let mut stream = connect(addr);
    ask(&mut stream, b"before");
    for side in [&server, &client] {
        side.signal("TERM");
        side.log.wait("ending: ");
    }
    // Nobody listens any more, and what is there goes on.
    let begun = Instant::now();
    while TcpStream::connect(addr).is_ok() {
        assert!(begun.elapsed() < LIMIT);
    }
    ask(&mut stream, b"after");
    drop(stream);
    for side in [client, server] {
        let (code, log) = side.ended();
        assert_eq!(code, Some(0));
        assert!(log.ends_with("ended") && !log.contains("cut off"), "{log}");
    }
}

#[test]
fn ending_takes_no_longer_than_it_may() {
    for again in [false, true] {
        let grace = if again { "1000" } else { "1" };
        let (server, addr) = server(echo_server(), &["--grace", grace]);
        let (client, addr) = client(addr, &["--grace", grace]);
        let mut stream = connect(addr);
        ask(&mut stream, b"before");
        for side in [client, server] {
            side.signal("INT");
            side.log.wait("ending: ");
            if again {
                side.signal("TERM");
            }
            assert_eq!(side.ended().0, Some(0));
        }
    }
}

#[test]
fn sessions_expire() {
    let (server, addr) = server(echo_server(), &[]);
    let (client, addr) = client(addr, &["--autoexpire", "1", "--scavengettl", "2"]);
    let mut first = connect(addr);
    ask(&mut first, b"first");
    let begun = Instant::now();
    while server.counter("PassiveOpens") < 2 {
        ask(&mut connect(addr), b"more");
        assert!(begun.elapsed() < LIMIT);
    }
    // The first one's time is over although it has a stream.
    client.log.wait("was closed with 1 streams");
    let error = first.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    ask(&mut connect(addr), b"still served");
}

#[test]
fn sessions_take_turns_over_a_range_of_ports() {
    let base = (0..100)
        .map(|_| free_port())
        .find(|port| (1..3).all(|n| std::net::UdpSocket::bind(local(port + n)).is_ok()));
    let range = format!("127.0.0.1:{0}-{1}", base.unwrap(), base.unwrap() + 2);
    let target = echo_server().to_string();
    let server = Running::tunnel("server", &["-l", &range, "-t", &target, "--key", KEY]);
    for port in base.unwrap()..base.unwrap() + 3 {
        server.log.wait(&format!("listening on 127.0.0.1:{port}"));
    }
    let client =
        Running::tunnel("client", &["-l", "127.0.0.1:0", "-r", &range, "--key", KEY, "--conn", "12"]);
    let addr = client.addr();
    let mut streams: Vec<_> = (0..24).map(|_| connect(addr)).collect();
    for stream in &mut streams {
        ask(stream, b"hello");
    }
    assert_eq!(server.counter("CurrEstab"), 12);
    assert_eq!((client.counter("ActiveOpens"), client.counter("CurrEstab")), (12, 12));
    // One port only, of twelve times three, would be one in 177147.
    let used =
        (0..3).filter(|n| client.log.count(&format!("session to 127.0.0.1:{}", base.unwrap() + n)) > 0);
    assert!(used.count() > 1, "{}", client.log.all());
}

#[test]
fn a_rate_limit_holds() {
    let page = Arc::new(page(600_000));
    let (server, addr) =
        server(web_server(page.clone()), &["--ratelimit", "400000", "--nocomp", "--ds", "0"]);
    let (_client, addr) = client(addr, &["--nocomp", "--ds", "0"]);
    let begun = Instant::now();
    assert!(download(addr) == *page);
    // Slower it may be for other reasons; headers count.
    assert!(begun.elapsed() > Duration::from_millis(1480), "{:?}", begun.elapsed());
    assert!(server.counter("OutBytes") > 600_000);
}

#[cfg(target_os = "linux")]
#[test]
fn counters_go_to_a_file_with_a_date() {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    let directory = tempfile::tempdir().unwrap();
    let pattern = directory.path().join("snmp-2006.log");
    let watch = Inotify::init(InitFlags::empty()).unwrap();
    watch.add_watch(directory.path(), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MODIFY).unwrap();
    let (server, addr) =
        server(echo_server(), &["--snmplog", pattern.to_str().unwrap(), "--snmpperiod", "1", "--quiet"]);
    let (_client, addr) = client(addr, &["--quiet"]);
    let mut stream = connect(addr);
    ask(&mut stream, &[7; 1000]);
    let text = loop {
        let mut files = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        if let Some(file) = files.next() {
            assert!(!file.to_str().unwrap().contains("2006.log"), "{file:?}");
            let text = std::fs::read_to_string(file).unwrap();
            if text.lines().count() > 2 && text.ends_with('\n') {
                break text;
            }
        }
        let mut changed = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(LIMIT).unwrap();
        assert_eq!(poll(&mut changed, limit), Ok(1), "no line is written");
        watch.read_events().unwrap();
    };
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().unwrap();
    assert_eq!((names.len(), names[0], names[1], names[24]), (25, "Unix", "BytesSent", "FECShortShards"));
    let rows: Vec<Vec<u64>> =
        lines.map(|row| row.iter().map(|value| value.parse().unwrap()).collect()).collect();
    let established = names.iter().position(|name| *name == "CurrEstab").unwrap();
    assert!(rows.iter().all(|row| row.len() == 25) && rows.last().unwrap()[established] == 1);
    // Each line has what its period has brought: the greeting is in one of them.
    assert!(rows.iter().map(|row| row[1]).sum::<u64>() <= server.counter("BytesSent"));
    assert_eq!(server.log.count("stream opened"), 0);
}

#[test]
fn unix_sockets_at_both_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (inner, outer) = (directory.path().join("target"), directory.path().join("local"));
    let listener = UnixListener::bind(&inner).unwrap();
    thread::spawn(move || listener.incoming().for_each(|stream| echo(stream.unwrap())));
    let server =
        Running::tunnel("server", &["-l", "127.0.0.1:0", "-t", inner.to_str().unwrap(), "--key", KEY]);
    let remote = server.addr().to_string();
    let path = outer.to_str().unwrap();
    let client = Running::tunnel("client", &["-l", path, "-r", &remote, "--key", KEY]);
    client.log.wait("listening on ");
    let mut stream = UnixStream::connect(&outer).unwrap();
    ask(&mut stream, b"hello");
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    client.signal("TERM");
    assert_eq!(client.ended().0, Some(0));
    assert!(!outer.exists());
}

#[test]
fn what_cannot_be_had_is_one_clear_line() {
    for (args, expected) in [
        (&["--tcp"][..], "kcp: error: tcp: packets that look like TCP need raw sockets"),
        (&["-QPP"], "kcp: error: QPP: not implemented"),
        (&["-c", "/no/such/file"], "kcp: error: cannot read /no/such/file"),
        (&["-keepalive", "60"], "kcp: error: keepalive: 60 is outside 1..=30"),
        (&["-log", "/no/such/directory/x"], "kcp: error: cannot write /no/such/directory/x"),
        (&["-r", "nothing"], "kcp: error: remoteaddr: \"nothing\" is not host:port"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kcp"));
        let output = command.args(["tunnel", "client", "-l", "127.0.0.1:0"]).args(args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.starts_with(expected), "{text}");
    }
}
