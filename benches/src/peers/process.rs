//! The server as a process of its own, pinned to a core, which tells what it has used when asked.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::unistd::Pid;

use super::Peer;
use super::ceiling::Receiver;
use super::plain::Echo;
use super::transport::Listener;
use super::workload::serve;

/// The server's core; the client has the next.
pub const SERVER_CPU: usize = 0;
/// The client's.
pub const CLIENT_CPU: usize = 1;

/// What a process has used so far.
#[derive(Copy, Clone, Debug, Default)]
pub struct Usage {
    /// User and system time, in microseconds.
    pub cpu_us: u64,
    /// Resident memory, in bytes.
    pub rss: u64,
}

/// Pins the calling thread, and threads that it starts, to one core, if there are as many.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    // On a machine with one core everything shares it, which a table then shows.
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// As many descriptors as the system allows: workloads with a socket per connection need them.
pub fn raise_limits() {
    // Only root may have more than the hard limit.
    let most = 1 << 20;
    if setrlimit(Resource::RLIMIT_NOFILE, most, most).is_ok() {
        return;
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// What this process has used.
///
/// # Errors
/// When the system does not tell.
pub fn usage() -> io::Result<Usage> {
    let used = getrusage(UsageWho::RUSAGE_SELF).map_err(io::Error::from)?;
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(Usage { cpu_us: us(used.user_time()) + us(used.system_time()), rss: rss.unwrap_or(0) * 1024 })
}

/// The server's main: says where it listens, then what it has used for every line that it reads, until there is no more.
///
/// # Errors
/// Those of binding and of the pipes.
pub async fn server_main(peer: Peer, window: u16) -> io::Result<()> {
    if let Peer::Ceiling(ceiling) = peer {
        let receiver = Receiver::bind(ceiling)?;
        println!("{}", receiver.local_addr()?);
        let _asked = answer_questions();
        return receiver.serve().await;
    }
    if let Peer::Udp { .. } = peer {
        let server = Echo::bind().await?;
        println!("{}", server.local_addr()?);
        let _asked = answer_questions();
        return server.serve().await;
    }
    let listener = Listener::bind(peer, window).await?;
    println!("{}", listener.local_addr()?);
    let _asked = answer_questions();
    listener.serve(serve).await
}

fn answer_questions() -> std::thread::JoinHandle<io::Result<()>> {
    std::thread::spawn(|| {
        for line in io::stdin().lock().lines() {
            line?;
            let Usage { cpu_us, rss } = usage()?;
            println!("{cpu_us} {rss}");
            io::stdout().flush()?;
        }
        std::process::exit(0)
    })
}

/// The part of the machine's memory that is left.
///
/// # Errors
/// When the system does not tell.
pub fn memory_left() -> io::Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kb = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<f64>().ok()
    };
    Ok(kb("MemAvailable").unwrap_or(0.0) / kb("MemTotal").unwrap_or(1.0))
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Server {
    /// Starts this executable again, as a server.
    ///
    /// # Errors
    /// Those of starting it, and when it does not say where it listens.
    pub fn start(peer: Peer, window: u16) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", peer.name(), &window.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("no pipes"));
        };
        let mut answers = BufReader::new(answers);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let addr = line.trim().parse().map_err(|_| io::Error::other(format!("not an address: {line:?}")))?;
        Ok(Self { child, ask, answers, addr })
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn usage(&mut self) -> io::Result<Usage> {
        self.ask.write_all(b"usage\n")?;
        self.ask.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap_or(0));
        Ok(Usage { cpu_us: numbers.next().unwrap_or(0), rss: numbers.next().unwrap_or(0) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
