//! kcptun's "SNMP" log: the counters of kcp-go, a line of CSV per period, each with what the period has brought.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Zoned;
use kcp_tokio::{EndpointStats, KcpListener, SessionHandle};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::log::Log;
use super::settings::CountersFile;

/// Names in kcp-go's order.
const NAMES: [&str; 24] = [
    "BytesSent",
    "BytesReceived",
    "MaxConn",
    "ActiveOpens",
    "PassiveOpens",
    "CurrEstab",
    "InErrs",
    "InCsumErrors",
    "KCPInErrors",
    "InPkts",
    "OutPkts",
    "InSegs",
    "OutSegs",
    "InBytes",
    "OutBytes",
    "RetransSegs",
    "FastRetransSegs",
    "EarlyRetransSegs",
    "LostSegs",
    "RepeatSegs",
    "FECParityShards",
    "FECErrs",
    "FECRecovered",
    "FECShortShards",
];
const MAX_CONN: usize = 2;
const ACTIVE: usize = 3;
const PASSIVE: usize = 4;
const CURRENT: usize = 5;
const GAUGES: [usize; 2] = [MAX_CONN, CURRENT];
const IN_ERRORS: usize = 6;
const CHECKSUMS: usize = 7;

type Row = [u64; NAMES.len()];

/// Counters of everything that there was and is.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sessions: Vec<(SessionHandle, bool)>,
    listeners: Vec<Arc<KcpListener>>,
    /// Of sessions and listeners that are gone; gauges stay zero but the maximum.
    past: Row,
}

fn add(sum: &mut Row, row: &Row) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += value;
    }
}

impl State {
    /// Keeps what those that have ended have counted, and forgets them.
    fn settle(&mut self) {
        let past = &mut self.past;
        self.sessions.retain(|(session, dialled)| {
            let ended = session.close_reason().is_some();
            if ended {
                add(past, &of_session(session, *dialled));
            }
            !ended
        });
        self.past[MAX_CONN] = self.past[MAX_CONN].max(self.sessions.len() as u64);
    }

    fn total(&mut self) -> Row {
        self.settle();
        let mut total = self.past;
        for (session, dialled) in &self.sessions {
            add(&mut total, &of_session(session, *dialled));
        }
        for listener in &self.listeners {
            add(&mut total, &of_socket(&listener.stats()));
        }
        total[CURRENT] = self.sessions.len() as u64;
        total
    }
}

fn of_session(session: &SessionHandle, dialled: bool) -> Row {
    let (kcp, layers) = (session.stats(), session.layer_stats().unwrap_or_default());
    let refused = kcp.rejected_short
        + kcp.rejected_conv
        + kcp.rejected_truncated
        + kcp.rejected_command
        + kcp.rejected_una
        + kcp.rejected_fragment;
    let mut row = [0; NAMES.len()];
    row[..2].copy_from_slice(&[kcp.payload_sent, kcp.payload_received]);
    row[IN_ERRORS..].copy_from_slice(&[
        layers.short + layers.malformed,
        layers.unsealed,
        refused,
        kcp.datagrams_received - layers.fec_recovered.min(kcp.datagrams_received)
            + layers.fec_parity_received,
        kcp.datagrams_sent + layers.fec_parity_sent + layers.fec_repeated,
        kcp.segments_received,
        kcp.segments_sent + kcp.retransmits,
        kcp.bytes_received,
        kcp.bytes_sent,
        kcp.retransmits,
        kcp.fast_retransmits,
        // Not told apart here.
        0,
        kcp.timeout_retransmits,
        kcp.duplicates,
        layers.fec_parity_received,
        layers.fec_corrupt,
        layers.fec_recovered,
        layers.fec_lost_groups,
    ]);
    row[if dialled { ACTIVE } else { PASSIVE }] = 1;
    if dialled {
        add(&mut row, &of_socket(&session.endpoint_stats()));
    }
    row
}

fn of_socket(socket: &EndpointStats) -> Row {
    let mut row = [0; NAMES.len()];
    row[IN_ERRORS] = socket.receive_errors + socket.dropped_unknown;
    row[CHECKSUMS] = socket.dropped_unsealed;
    row
}

impl Counters {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A session, dialled from a socket of its own or accepted.
    pub(crate) fn session(&self, session: SessionHandle, dialled: bool) {
        self.with(|state| {
            state.sessions.push((session, dialled));
            state.settle();
        });
    }

    pub(crate) fn listener(&self, listener: Arc<KcpListener>) {
        self.with(|state| state.listeners.push(listener));
    }

    /// The listener takes no more sessions: what it has counted stays.
    pub(crate) fn retire(&self, listener: &Arc<KcpListener>) {
        self.with(|state| {
            state.listeners.retain(|other| !Arc::ptr_eq(other, listener));
            add(&mut state.past, &of_socket(&listener.stats()));
        });
    }

    /// All of them, in one line.
    pub(crate) fn summary(&self) -> String {
        let total = self.with(State::total);
        let parts: Vec<_> = NAMES.iter().zip(total).map(|(name, value)| format!("{name}:{value}")).collect();
        format!("KCP SNMP:{{{}}}", parts.join(" "))
    }

    /// Writes a line each period, for ever.
    pub(crate) async fn write(self: Arc<Self>, mut file: watch::Receiver<CountersFile>, log: Arc<Log>) {
        let mut before = Row::default();
        let mut begun = Instant::now();
        loop {
            let CountersFile { pattern, period } = file.borrow_and_update().clone();
            let Some(pattern) = pattern else {
                if file.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let next = begun + period;
            // Looked at more often, lest short sessions escape the maximum.
            let at = next.min(Instant::now() + Duration::from_secs(1));
            tokio::select! {
                () = sleep_until(at) => {}
                changed = file.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
            }
            self.with(State::settle);
            if Instant::now() < next {
                continue;
            }
            begun = next;
            let now = self.with(State::total);
            let row = std::array::from_fn(|i| {
                if GAUGES.contains(&i) { now[i] } else { now[i].saturating_sub(before[i]) }
            });
            before = now;
            if let Err(error) = append(&pattern, &Zoned::now(), &row) {
                log.sparing("snmplog", format_args!("snmplog: {error:#}"));
            }
        }
    }
}

fn append(pattern: &str, now: &Zoned, row: &Row) -> Result<()> {
    let path = dated(pattern, now);
    let open = File::options().create(true).append(true).open(&path);
    let mut file = open.with_context(|| format!("cannot write {}", path.display()))?;
    let mut text = String::new();
    if file.metadata()?.len() == 0 {
        text = format!("Unix,{}\n", NAMES.join(","));
    }
    let values: Vec<_> = row.iter().map(u64::to_string).collect();
    text.push_str(&format!("{},{}\n", now.timestamp().as_second(), values.join(",")));
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Go's way to write dates, and strftime's. Longer ones first.
const LAYOUT: [(&str, &str); 23] = [
    ("_2006", "_%Y"),
    ("January", "%B"),
    ("Monday", "%A"),
    ("2006", "%Y"),
    ("-0700", "%z"),
    ("Jan", "%b"),
    ("Mon", "%a"),
    ("MST", "%Z"),
    ("002", "%j"),
    ("01", "%m"),
    ("02", "%d"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("15", "%H"),
    ("PM", "%p"),
    ("pm", "%P"),
    ("_2", "%e"),
    ("1", "%-m"),
    ("2", "%-d"),
    ("3", "%-I"),
    ("4", "%-M"),
];

/// The path with the date in its last part, as Go's `time.Format` has it.
fn dated(pattern: &str, now: &Zoned) -> PathBuf {
    let (directory, mut rest) = pattern
        .rsplit_once('/')
        .map_or(("", pattern), |(_, name)| pattern.split_at(pattern.len() - name.len()));
    let mut name = String::new();
    while let Some(letter) = rest.chars().next() {
        if let Some((go, ours)) = LAYOUT.iter().find(|(go, _)| rest.starts_with(go)) {
            name.push_str(&now.strftime(ours).to_string());
            rest = &rest[go.len()..];
        } else {
            name.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    PathBuf::from(format!("{directory}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dates() {
        let now: Zoned = "2026-03-09T14:05:07+00:00[+00:00]".parse().unwrap();
        for (pattern, expected) in [
            ("./snmp-20060102.log", "./snmp-20260309.log"),
            ("/var/2006/kcp_2006-01-02_15.04.05.csv", "/var/2006/kcp_2026-03-09_14.05.07.csv"),
            ("Jan 2 Mon.log", "Mar 9 Mon.log"),
            ("plain.log", "plain.log"),
            ("06.é", "26.é"),
        ] {
            assert_eq!(dated(pattern, &now), PathBuf::from(expected));
        }
    }

    #[test]
    fn a_file_begins_with_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let pattern = directory.path().join("2006.csv").to_str().unwrap().to_owned();
        let now: Zoned = "2026-03-09T14:05:07+00:00[+00:00]".parse().unwrap();
        let mut row = Row::default();
        row[0] = 17;
        append(&pattern, &now, &row).unwrap();
        row[0] = 18;
        append(&pattern, &now, &row).unwrap();
        let text = std::fs::read_to_string(directory.path().join("2026.csv")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("Unix,BytesSent,BytesReceived,MaxConn,"));
        let zeros = ",0".repeat(NAMES.len() - 1);
        assert_eq!(lines[1..], [format!("1773065107,17{zeros}"), format!("1773065107,18{zeros}")]);
    }
}
