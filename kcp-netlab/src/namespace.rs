//! Network namespaces of this process: named after it, removed when dropped, those of dead processes swept.

use std::fs::{self, File};
use std::io;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use nix::unistd::geteuid;

const PREFIX: &str = "kcplab-";
/// Where `ip netns` keeps them.
const NAMED: &str = "/run/netns";

/// Whether this machine can have a lab, or why not: for a test to say before it skips itself.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), String> {
    if !geteuid().is_root() {
        return Err("network namespaces need root".into());
    }
    if File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        return Err("/dev/net/tun cannot be opened".into());
    }
    if !have("ip") {
        return Err("the command ip is missing (package iproute2)".into());
    }
    Namespace::new().map(drop).map_err(|error| format!("no network namespace can be made: {error}"))
}

/// Whether a command is installed.
#[must_use]
pub fn have(command: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(command).is_file())
}

/// A network namespace with `lo` up and no IPv6. Removed when dropped; one that a killed process has left is removed by the next
/// process that makes one.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// A new one.
    ///
    /// # Errors
    /// Without root, or when `ip` fails, with what it says.
    pub fn new() -> io::Result<Self> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name])?;
        let file = match File::open(format!("{NAMED}/{name}")) {
            Ok(file) => file,
            Err(error) => {
                let _ = ip(&["netns", "delete", &name]);
                return Err(error);
            }
        };
        let namespace = Self { name, file };
        // Neighbour discovery would be counted as traffic.
        namespace.run(|| fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")).or_else(
            |error| {
                // A kernel without IPv6.
                if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
            },
        )?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// As `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs something on a thread in the namespace and waits for it. Sockets and processes made there stay in it; a runtime built
    /// there works in it.
    ///
    /// # Panics
    /// When `work` does, and when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET)
                    .expect("the namespace exists while this value does");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` in the namespace.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub fn ip(&self, args: &[&str]) -> io::Result<()> {
        self.run(|| ip(args))
    }

    /// Runs any command in the namespace, to its end.
    ///
    /// # Errors
    /// When it cannot be started or fails, with what it says.
    pub fn command(&self, program: &str, args: &[&str]) -> io::Result<String> {
        self.run(|| execute(program, args))
    }

    /// Sets a kernel parameter of the namespace: `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When there is no such parameter, or the value is refused.
    pub fn sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        self.run(|| fs::write(format!("/proc/sys/{name}"), value))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// Removes what killed processes have left.
fn sweep() {
    let Ok(entries) = fs::read_dir(NAMED) else { return };
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

fn ip(args: &[&str]) -> io::Result<()> {
    execute("ip", args).map(drop)
}

fn execute(program: &str, args: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}", args.join(" "), said.trim())))
}
