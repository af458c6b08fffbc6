//! `kcp tunnel`: TCP over KCP, on the wire and in its configuration as kcptun.

mod address;
mod client;
mod counters;
mod flags;
mod link;
mod log;
mod pace;
mod pipe;
mod server;
mod settings;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use counters::Counters;
pub(crate) use flags::{Side, spelled_out};
use log::Log;
use settings::{CountersFile, Settings};

/// For a session to send what it still has, and to be acknowledged.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// After an error of accepting, such as too many open files.
const RECOVERY: Duration = Duration::from_millis(100);

pub(crate) async fn run(side: Side) -> Result<()> {
    match side {
        Side::Client(flags) => client::run(*flags).await,
        Side::Server(flags) => server::run(*flags).await,
    }
}

/// Held by tasks that are waited for.
type Tasks = mpsc::Sender<Infallible>;

/// The receiver ends when all tasks have.
fn tasks() -> (Tasks, mpsc::Receiver<Infallible>) {
    mpsc::channel(1)
}

/// Until the flag is true, or can be no more.
async fn raised(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|raised| *raised).await;
}

/// An error of accepting ends nothing.
async fn survive(log: &Log, error: &io::Error) {
    log.sparing("accept", format_args!("cannot accept: {error}"));
    sleep(RECOVERY).await;
}

/// What both sides have.
#[derive(Debug)]
struct Daemon {
    log: Arc<Log>,
    counters: Arc<Counters>,
    counters_file: watch::Sender<CountersFile>,
    /// True: no more streams.
    draining: watch::Sender<bool>,
    /// True: sessions end now.
    stop: watch::Sender<bool>,
}

impl Daemon {
    fn start(settings: &Settings) -> Result<(Arc<Self>, Signals)> {
        let signals = Signals::new()?;
        let daemon = Self {
            log: Arc::default(),
            counters: Arc::default(),
            counters_file: watch::Sender::new(settings.counters.clone()),
            draining: watch::Sender::new(false),
            stop: watch::Sender::new(false),
        };
        daemon.follow(settings)?;
        tokio::spawn(daemon.counters.clone().write(daemon.counters_file.subscribe(), daemon.log.clone()));
        Ok((Arc::new(daemon), signals))
    }

    /// Settings that have come into force.
    fn follow(&self, settings: &Settings) -> Result<()> {
        self.log.open(settings.log.as_deref(), settings.quiet)?;
        for warning in &settings.warnings {
            self.log.line(format_args!("warning: {warning}"));
        }
        self.log.line(format_args!("{}", settings.summary));
        self.counters_file.send_if_modified(|file| {
            let changed = *file != settings.counters;
            file.clone_from(&settings.counters);
            changed
        });
        Ok(())
    }

    /// Settings that cannot come into force.
    fn keep(&self, error: &anyhow::Error) {
        self.log.line(format_args!("the configuration stays as it was: {error:#}"));
    }

    /// Streams have a while to finish, sessions to say their last words.
    async fn end(
        &self,
        signals: &mut Signals,
        grace: Duration,
        streams: &mut mpsc::Receiver<Infallible>,
        sessions: &mut mpsc::Receiver<Infallible>,
    ) {
        self.log.line(format_args!("ending: streams have {} s to finish", grace.as_secs()));
        let second = async { while !matches!(signals.next().await, Signal::End) {} };
        tokio::select! {
            _ = streams.recv() => {}
            () = sleep(grace) => self.log.line(format_args!("streams are cut off")),
            () = second => self.log.line(format_args!("streams are cut off")),
        }
        self.stop.send_replace(true);
        let _ = timeout(LAST_WORDS, sessions.recv()).await;
        self.log.line(format_args!("ended"));
    }
}

/// What the operator wants. Elsewhere than on Unix: the end, when the console's program is interrupted.
#[cfg_attr(not(unix), allow(dead_code, reason = "nothing asks for the others"))]
enum Signal {
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Counters,
    /// SIGINT, SIGTERM.
    End,
}

#[cfg(unix)]
struct Signals {
    hangup: tokio::signal::unix::Signal,
    user: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.user.recv() => Signal::Counters,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.terminate.recv() => Signal::End,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    #[allow(clippy::needless_pass_by_ref_mut, reason = "as on Unix")]
    async fn next(&mut self) -> Signal {
        let _ = tokio::signal::ctrl_c().await;
        Signal::End
    }
}
