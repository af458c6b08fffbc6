//! Results of all workloads in one JSON file, the bars they have to pass, and their plots.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::median;
use crate::peers::Peer;
use crate::plot::{self, Group, Labels, short};

/// Everything that was measured, each part with its own last run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Results {
    /// Where, by the last run.
    pub machine: String,
    /// By workload, then peer.
    pub peers: BTreeMap<String, BTreeMap<String, Row>>,
    /// The core alone.
    pub core: Vec<CoreRow>,
    /// Small messages under loss.
    pub paced: Vec<PacedRow>,
    /// What `latency --out` has written beside these results.
    #[serde(skip)]
    pub latency: Vec<LatencyRow>,
    /// What `goodput --out` has written there.
    #[serde(skip)]
    pub goodput: Vec<GoodputRow>,
}

/// The runs of one peer under one workload.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Row {
    /// Seconds since 1970.
    pub at: u64,
    /// Runs that succeeded.
    pub runs: usize,
    /// A tenth of the work.
    pub quick: bool,
    /// Where the two cores were, the same in all runs or `mixed`.
    pub placement: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Median, least, most.
    pub figures: BTreeMap<String, [f64; 3]>,
}

/// Nanoseconds of CPU per segment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct CoreRow {
    /// burst, tick or event.
    pub pattern: String,
    /// Bytes of a message.
    pub size: usize,
    /// Segments.
    pub window: u32,
    /// Part of the datagrams that is dropped.
    pub loss: f64,
    /// Ours.
    pub ours: f64,
    /// `ikcp.c`.
    pub c: f64,
    /// The segments that this rests on.
    pub c_segments: u64,
    /// It took too long to measure as many as the others.
    pub c_cut: bool,
    /// No protocol.
    pub null: f64,
    /// Datagrams of both ends per segment: ours.
    pub ours_datagrams: f64,
    /// Those of `ikcp.c`.
    pub c_datagrams: f64,
}

/// One message of 64 bytes every 20 ms, echoed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PacedRow {
    /// The configuration.
    pub preset: String,
    /// Percent of the datagrams that are lost.
    pub loss: u32,
    /// Milliseconds.
    pub p50_ms: f64,
    /// Milliseconds.
    pub p99_ms: f64,
    /// Both directions, IP and UDP headers included, per 1500 messages.
    pub kb: f64,
    /// Datagrams of both directions per 1500 messages.
    pub datagrams: f64,
}

/// A cell of `latency.json`, of which this needs a part.
#[derive(Clone, Debug, Deserialize)]
pub struct LatencyRow {
    work: String,
    pattern: String,
    percent: u32,
    peer: String,
    p99_ms: Option<f64>,
    bytes: f64,
    packets: f64,
}

/// A cell of `goodput.json`, of which this needs a part.
#[derive(Clone, Debug, Deserialize)]
pub struct GoodputRow {
    setting: String,
    rtt_ms: u64,
    percent: u32,
    peer: String,
    mb_per_s: Option<f64>,
    wire_per_byte: Option<f64>,
}

/// A line that `peers --json` writes.
#[derive(Clone, Debug, Deserialize)]
struct PeerLine {
    workload: String,
    peer: String,
    quick: bool,
    placement: String,
    #[serde(default)]
    failed: Option<String>,
    #[serde(default)]
    figures: BTreeMap<String, f64>,
}

impl Results {
    /// Takes over what `peers --json` has written, in place of earlier runs of the same.
    ///
    /// # Errors
    /// When it is not what `peers` writes.
    pub fn take_peers(&mut self, lines: &str, at: u64) -> Result<(), Box<dyn Error>> {
        let mut runs: BTreeMap<(String, String), Vec<PeerLine>> = BTreeMap::new();
        for line in lines.lines() {
            let line: PeerLine = serde_json::from_str(line)?;
            runs.entry((line.workload.clone(), line.peer.clone())).or_default().push(line);
        }
        for ((workload, peer), lines) in runs {
            let mut row = Row { at, ..Row::default() };
            let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
            for line in lines {
                row.quick |= line.quick;
                if row.placement.is_empty() {
                    row.placement.clone_from(&line.placement);
                } else if row.placement != line.placement {
                    "mixed".clone_into(&mut row.placement);
                }
                if line.failed.is_some() {
                    row.failed = line.failed;
                    continue;
                }
                row.runs += 1;
                for (key, value) in line.figures {
                    values.entry(key).or_default().push(value);
                }
            }
            for (key, values) in values {
                let least = values.iter().copied().fold(f64::INFINITY, f64::min);
                let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                row.figures.insert(key, [median(values), least, most]);
            }
            self.peers.entry(workload).or_default().insert(peer, row);
        }
        Ok(())
    }

    /// Takes over what `engine_table --json` has written, in place of earlier runs of the same.
    ///
    /// # Errors
    /// When it is not what `engine_table` writes.
    pub fn take_core(&mut self, lines: &str) -> Result<(), Box<dyn Error>> {
        for line in lines.lines() {
            let row: CoreRow = serde_json::from_str(line)?;
            self.core.retain(|old| old.key() != row.key());
            self.core.push(row);
        }
        self.core.sort_by(|a, b| {
            let by = |row: &CoreRow| (row.size, row.pattern.clone());
            by(a).cmp(&by(b)).then(a.loss.total_cmp(&b.loss)).then(a.window.cmp(&b.window))
        });
        Ok(())
    }

    /// Takes what `latency` and `goodput` have left in `dir`; what is not there was not measured.
    ///
    /// # Errors
    /// When it is not what they write.
    pub fn take_lab(&mut self, dir: &Path) -> Result<(), Box<dyn Error>> {
        let text = |name| fs::read_to_string(dir.join(name)).unwrap_or_else(|_| "[]".to_owned());
        self.latency = serde_json::from_str(&text("latency.json"))?;
        self.goodput = serde_json::from_str(&text("goodput.json"))?;
        Ok(())
    }

    fn figure(&self, workload: &str, peer: &str, key: &str) -> Result<f64, String> {
        let none = || format!("{workload} of {peer} was not measured");
        let row = self.peers.get(workload).and_then(|peers| peers.get(peer)).ok_or_else(none)?;
        match &row.failed {
            Some(why) => Err(format!("{peer} FAILED: {why}")),
            None => Ok(row.figures.get(key).ok_or_else(none)?[0]),
        }
    }

    /// Every bar, in the order of the table.
    #[must_use]
    pub fn bars(&self) -> Vec<Bar> {
        let mut bars = Vec::new();
        let get = |workload, peer, key| self.figure(workload, peer, key);
        for (workload, window) in [("bulk-w256", 256), ("bulk", 1024), ("bulk-w4096", 4096)] {
            let name = |what: &str| format!("bulk, 1 connection, window {window}: {what}");
            for (peer, cpu, speed) in [("tokio_kcp", 4.0, 5.0), ("quinn", 3.0, 3.0)] {
                let ratio =
                    ratio_of(get(workload, peer, "cpu_s_per_gb"), get(workload, "ours", "cpu_s_per_gb"));
                bars.push(Bar::least(name(&format!("CPU of {peer} / ours")), cpu, ratio));
                let ratio = ratio_of(get(workload, "ours", "mb_per_s"), get(workload, peer, "mb_per_s"));
                bars.push(Bar::least(name(&format!("MB/s of ours / {peer}")), speed, ratio));
            }
            let share = get(workload, "ours", "reverse_percent");
            bars.push(Bar::most(name("bytes of the reverse path, %"), 3.0, share));
        }
        for ours in ["ours", "ours-shared"] {
            let ratio = ratio_of(get("bulk-100", ours, "mb_per_s"), get("bulk-100", "tokio_kcp", "mb_per_s"));
            bars.push(Bar::least(format!("bulk, 100 connections: MB/s of {ours} / tokio_kcp"), 4.0, ratio));
        }
        for (key, peer, bar) in
            [("p50_us", "tokio_kcp", 1.0), ("p99_us", "tokio_kcp", 1.0), ("p50_us", "tcp", 1.05)]
        {
            let ratio = ratio_of(get("pingpong", "ours", key), get("pingpong", peer, key));
            let key = key.trim_end_matches("_us");
            bars.push(Bar::most(format!("round trips, 1 connection: {key} of ours / {peer}"), bar, ratio));
        }
        for ours in ["ours", "ours-shared"] {
            let ratio = ratio_of(get("pingpong-100", ours, "per_s"), get("pingpong-100", "tcp", "per_s"));
            bars.push(Bar::least(format!("round trips, 100 connections: rate of {ours} / tcp"), 1.0, ratio));
        }
        for workload in ["idle-1k", "idle-10k", "idle-100k"] {
            // A system may not let one process have so many sockets.
            let task = get(workload, "tcp", "bytes_per_session");
            let task = task.or_else(|_| get("idle-10k", "tcp", "bytes_per_session"));
            let net = get(workload, "ours-shared", "bytes_per_session").and_then(|ours| Ok(ours - task?));
            bars.push(Bar::most(
                format!("{workload}: server bytes per session beyond the task's"),
                1024.0,
                net,
            ));
            let cpu = get(workload, "ours-shared", "server_cpu_percent");
            bars.push(Bar::most(format!("{workload}: server CPU, %"), 0.5, cpu));
        }
        for (workload, clients) in [("tick-1k", "1 000"), ("tick-5k", "5 000")] {
            // Where not even datagrams without a protocol are in time, nobody can be.
            let limit = get(workload, "udp-echo", "p99_us").map(|us| us / 1000.0);
            let limit = limit.map_or_else(|_| String::new(), |ms| format!("plain UDP {}", short(ms)));
            for ours in ["ours", "ours-shared", "tcp", "udp-echo-acked"] {
                let cpu = |peer| get(workload, peer, "cpu_us_each");
                let ratio = ratio_of(cpu("tokio_kcp"), cpu(ours));
                bars.push(Bar::least(
                    format!("tick, {clients} clients: CPU of tokio_kcp / {ours}"),
                    2.0,
                    ratio,
                ));
            }
            for ours in ["ours", "ours-shared"] {
                let late = get(workload, ours, "p99_us").map(|us| us / 1000.0);
                let what = format!("tick, {clients} clients: p99 delay of {ours}, ms");
                bars.push(Bar { note: limit.clone(), ..Bar::most(what, 10.0, late) });
            }
        }
        for ours in ["ours", "ours-shared"] {
            let ratio = ratio_of(get("cycles", ours, "per_s"), get("cycles", "tcp", "per_s"));
            bars.push(Bar::least(format!("connect, exchange, close: rate of {ours} / tcp"), 0.5, ratio));
        }
        self.core_bars(&mut bars);
        self.paced_bars(&mut bars);
        self.latency_bars(&mut bars);
        self.goodput_bars(&mut bars);
        bars
    }

    fn core_bars(&self, bars: &mut Vec<Bar>) {
        for ((size, pattern, percent), rows) in self.core_groups() {
            let of = |window| rows.iter().find(|row| row.window == window);
            let name = format!("core, {pattern}, {size} B, {percent} % loss");
            if let (Some(small), Some(large)) = (of(32), of(16384)) {
                let net = (large.ours - large.null + small.null) / small.ours;
                let raw = large.ours / small.ours;
                let bar = if percent == 0 { 1.3 } else { 2.0 };
                bars.push(Bar {
                    note: format!(
                        "{} raw; datagrams per segment {:.2} and {:.2}",
                        short(raw),
                        small.ours_datagrams,
                        large.ours_datagrams
                    ),
                    ..Bar::most(format!("{name}: growth 32 to 16384, net of the driver"), bar, Ok(net))
                });
            }
            let worst = rows.iter().min_by(|a, b| a.ratio().total_cmp(&b.ratio()));
            if let Some(worst) = worst {
                let above: Vec<String> =
                    rows.iter().filter(|row| row.ratio() < 1.0).map(|row| row.window.to_string()).collect();
                let net = (worst.c - worst.null) / (worst.ours - worst.null).max(1.0);
                let mut note = format!(
                    "window {}, net of the driver {}; its datagrams per segment {:.2}, ours {:.2}",
                    worst.window,
                    short(net),
                    worst.c_datagrams,
                    worst.ours_datagrams
                );
                if !above.is_empty() {
                    let _ = write!(note, "; above at {}", above.join(", "));
                }
                bars.push(Bar {
                    note,
                    ..Bar::least(format!("{name}: ikcp.c / ours, worst window"), 1.0, Ok(worst.ratio()))
                });
            }
        }
    }

    fn core_groups(&self) -> BTreeMap<(usize, String, u32), Vec<&CoreRow>> {
        let mut groups: BTreeMap<_, Vec<&CoreRow>> = BTreeMap::new();
        for row in &self.core {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
            let percent = (row.loss * 100.0).round() as u32;
            groups.entry((row.size, row.pattern.clone(), percent)).or_default().push(row);
        }
        groups
    }

    /// In virtual time, against what peers had on another day.
    fn paced_bars(&self, bars: &mut Vec<Bar>) {
        let of = |preset: &str, loss| self.paced.iter().find(|row| row.preset == preset && row.loss == loss);
        let quiet = of("realtime", 0).map(|row| row.datagrams);
        for (loss, p99, kb, redundant) in
            [(5, 119.0, 448.0, 75.0), (10, 169.0, 490.0, 95.0), (20, 300.0, 539.0, 130.0)]
        {
            for (preset, p99) in [("fast", p99), ("turbo", p99), ("realtime", redundant)] {
                let Some(row) = of(preset, loss) else { continue };
                let name =
                    |what: &str| format!("64 B per 20 ms, {loss} % loss, {preset}, virtual time: {what}");
                bars.push(Bar::most(name("p99, ms"), p99, Ok(row.p99_ms)));
                if preset != "realtime" {
                    bars.push(Bar::most(name("kB (TCP's and 15 %, measured elsewhere)"), kb, Ok(row.kb)));
                } else {
                    let none = || "no row without loss".to_owned();
                    let growth = quiet.map(|quiet| row.datagrams / quiet).ok_or_else(none);
                    bars.push(Bar::most(name("datagrams / those without loss"), 1.0, growth));
                }
            }
        }
    }

    /// Over the real kernel, against peers in the same run.
    fn latency_bars(&self, bars: &mut Vec<Bar>) {
        let of = |peer: &str, percent| {
            let row = |row: &&LatencyRow| {
                row.work == "paced" && row.pattern == "uniform" && row.peer == peer && row.percent == percent
            };
            self.latency.iter().find(row).ok_or_else(|| format!("{peer} was not measured"))
        };
        let p99 = |peer, percent| of(peer, percent)?.p99_ms.ok_or_else(|| format!("nothing of {peer} came"));
        let bytes = |peer, percent| Ok::<_, String>(of(peer, percent)?.bytes);
        for (percent, redundant) in [(5, 75.0), (10, 95.0), (20, 130.0)] {
            let name =
                |preset: &str, what: &str| format!("64 B per 20 ms, {percent} % loss, {preset}: {what}");
            for (preset, ours) in [("fast", "ours fast"), ("turbo", "ours turbo")] {
                let ratio = ratio_of(p99(ours, percent), p99("kcp-rs", percent));
                bars.push(Bar::most(name(preset, "p99 / that of kcp-rs"), 1.0, ratio));
                let ratio = ratio_of(bytes(ours, percent), bytes("tcp bbr", percent));
                bars.push(Bar::most(name(preset, "bytes / those of tcp bbr"), 1.15, ratio));
            }
            let ours = "ours realtime";
            bars.push(Bar::most(name("realtime", "p99, ms"), redundant, p99(ours, percent)));
            let packets = |percent| Ok(of(ours, percent)?.packets);
            let ratio = ratio_of(packets(percent), packets(0));
            bars.push(Bar::most(name("realtime", "packets / those without loss"), 1.0, ratio));
        }
    }

    /// For each link the rate of loss at which ours is worst, compared with the fastest other KCP, and with TCP with bbr.
    fn goodput_bars(&self, bars: &mut Vec<Bar>) {
        let mut links: BTreeMap<(&str, u64), BTreeMap<u32, Vec<&GoodputRow>>> = BTreeMap::new();
        for row in &self.goodput {
            links.entry((&row.setting, row.rtt_ms)).or_default().entry(row.percent).or_default().push(row);
        }
        for ((setting, rtt_ms), cells) in links {
            for (what, others) in
                [("the fastest KCP", &["tokio_kcp", "kcp-rs", "rust-kcp"][..]), ("tcp bbr", &["tcp bbr"])]
            {
                // Speed, wire bytes, each in proportion to the other's.
                let worst = cells.iter().filter_map(|(percent, rows)| {
                    let speed = |row: &&&GoodputRow| row.mb_per_s.unwrap_or(0.0);
                    let best = rows.iter().filter(|row| others.contains(&row.peer.as_str()));
                    let best = best.max_by(|a, b| speed(a).total_cmp(&speed(b)))?;
                    let ours = rows.iter().find(|row| row.peer == "ours turbo")?;
                    let ratio = speed(&ours) / speed(&best).max(0.01);
                    let wire = ours.wire_per_byte? / best.wire_per_byte?;
                    Some((ratio, *percent, best.peer.as_str(), wire))
                });
                let Some((ratio, percent, peer, wire)) = worst.min_by(|a, b| a.0.total_cmp(&b.0)) else {
                    continue;
                };
                let name = format!("goodput, link {setting}, {rtt_ms} ms: ours turbo / {what}, worst loss");
                let note = format!("{peer} at {percent} %; {} times its bytes on the wire", short(wire));
                bars.push(Bar { note, ..Bar::least(name, 1.0, Ok(ratio)) });
            }
        }
    }

    /// Writes a plot of everything that was measured into `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn plots(&self, dir: &Path) -> Result<(), Box<dyn Error>> {
        let all: Vec<Peer> = Peer::measured().collect();
        let group = |heading: &str, workload: &str, key: &str| -> Option<Group> {
            let rows = self.peers.get(workload)?;
            let values = all.iter().filter(|peer| rows.contains_key(peer.name()));
            let value = |peer: &Peer| {
                self.figure(workload, peer.name(), key)
                    .map_err(|why| if why.contains("FAILED") { "failed".into() } else { why })
            };
            Some((heading.to_owned(), values.map(|peer| (peer.name().to_owned(), value(peer))).collect()))
        };
        let plot = |file: &str, title: &str, groups: Vec<Option<Group>>| -> Result<(), Box<dyn Error>> {
            let groups: Vec<Group> = groups.into_iter().flatten().collect();
            if groups
                .iter()
                .any(|(_, bars)| bars.iter().any(|(_, value)| value.as_ref().is_ok_and(|v| *v > 0.0)))
            {
                plot::bars(&dir.join(file), title, &groups)?;
            }
            Ok(())
        };
        let bulk = |key| {
            vec![
                group("1 connection, window 256", "bulk-w256", key),
                group("1 connection, window 1024", "bulk", key),
                group("1 connection, window 4096", "bulk-w4096", key),
                group("100 connections, window 256", "bulk-100", key),
            ]
        };
        plot("bulk-speed.svg", "Bulk over loopback, mtu 1400: MB/s", bulk("mb_per_s"))?;
        plot(
            "bulk-cpu.svg",
            "Bulk over loopback, mtu 1400: CPU seconds per GB, both ends",
            bulk("cpu_s_per_gb"),
        )?;
        let trips = |key| vec![group("p50", "pingpong", key)];
        plot(
            "pingpong.svg",
            "Round trips of 64 bytes, 1 connection: microseconds",
            [trips("p50_us"), vec![group("p99", "pingpong", "p99_us")]].concat(),
        )?;
        plot(
            "pingpong-100.svg",
            "Round trips of 64 bytes, 100 connections: per second",
            vec![group("window 256", "pingpong-100", "per_s")],
        )?;
        let idle = |key| {
            vec![
                group("1 000 sessions", "idle-1k", key),
                group("10 000 sessions", "idle-10k", key),
                group("100 000 sessions", "idle-100k", key),
            ]
        };
        plot(
            "idle-memory.svg",
            "Idle: bytes of server memory per session, the benchmark's task (tcp) included",
            idle("bytes_per_session"),
        )?;
        plot("idle-cpu.svg", "Idle: percent of a core that the server takes", idle("server_cpu_percent"))?;
        plot(
            "tick.svg",
            "20 messages of 100 B a second each way: CPU per message, microseconds, both ends",
            vec![
                group("1 000 clients", "tick-1k", "cpu_us_each"),
                group("5 000 clients", "tick-5k", "cpu_us_each"),
            ],
        )?;
        plot(
            "cycles.svg",
            "Connect, one exchange, close, 16 at a time: per second",
            vec![group("window 256", "cycles", "per_s")],
        )?;
        for ((size, pattern, percent), rows) in self.core_groups() {
            if percent == 1 {
                continue;
            }
            let line = |name: &str, of: fn(&CoreRow) -> f64| {
                (name.to_owned(), rows.iter().map(|row| (f64::from(row.window), of(row))).collect())
            };
            let title = format!("The core, {pattern}, messages of {size} B, {percent} % loss, both ends");
            let labels = Labels { title: &title, x: "window, segments", y: "ns of CPU per segment" };
            let lines = [
                line("ours", |row| row.ours),
                line("ikcp.c", |row| row.c),
                line("no protocol", |row| row.null),
            ];
            plot::lines(
                &dir.join(format!("core-{pattern}-{size}-{percent}.svg")),
                labels,
                [true; 2],
                &lines,
            )?;
        }
        Ok(())
    }
}

impl CoreRow {
    fn key(&self) -> (&str, usize, u32, u64) {
        (&self.pattern, self.size, self.window, self.loss.to_bits())
    }

    fn ratio(&self) -> f64 {
        self.c / self.ours
    }
}

fn ratio_of(above: Result<f64, String>, below: Result<f64, String>) -> Result<f64, String> {
    let (above, below) = (above?, below?);
    if below > 0.0 { Ok(above / below) } else { Err("divided by nothing".into()) }
}

/// A demand, and what was measured.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What.
    pub what: String,
    /// The value that it has to reach, or must not exceed.
    pub bar: f64,
    /// Whether it must not exceed it.
    pub at_most: bool,
    /// What was measured, or why nothing was.
    pub value: Result<f64, String>,
    /// Besides.
    pub note: String,
}

impl Bar {
    const fn least(what: String, bar: f64, value: Result<f64, String>) -> Self {
        Self { what, bar, at_most: false, value, note: String::new() }
    }

    const fn most(what: String, bar: f64, value: Result<f64, String>) -> Self {
        Self { what, bar, at_most: true, value, note: String::new() }
    }

    /// Whether it was reached; nothing if nothing was measured.
    #[must_use]
    pub fn passed(&self) -> Option<bool> {
        let value = *self.value.as_ref().ok()?;
        Some(if self.at_most { value <= self.bar } else { value >= self.bar })
    }
}

/// An empty line and the head of a table in Markdown: what it is of, and columns of numbers.
#[must_use]
pub fn table_head(title: &str, columns: impl IntoIterator<Item = String>) -> String {
    let columns: Vec<String> = columns.into_iter().collect();
    format!("\n| {title} | {} |\n|---|{}\n", columns.join(" | "), "---:|".repeat(columns.len()))
}

/// A figure of a workload: its key, its column.
const COLUMNS: [(&str, &str); 10] = [
    ("mb_per_s", "MB/s"),
    ("cpu_s_per_gb", "CPU s/GB"),
    ("reverse_percent", "reverse %"),
    ("p50_us", "p50 µs"),
    ("p99_us", "p99 µs"),
    ("per_s", "per s"),
    ("cpu_us_each", "CPU µs each"),
    ("bytes_per_session", "bytes per session"),
    ("server_cpu_percent", "server CPU %"),
    ("setup_s", "setup s"),
];

impl Results {
    /// What every peer has shown, as tables in Markdown.
    #[must_use]
    pub fn tables(&self) -> String {
        let mut text = String::new();
        for (workload, rows) in &self.peers {
            let known = |key: &str| rows.values().any(|row| row.figures.contains_key(key));
            let columns: Vec<_> = COLUMNS.into_iter().filter(|(key, _)| known(key)).collect();
            let heads = columns.iter().map(|(_, head)| (*head).to_owned()).chain(["runs".to_owned()]);
            text += &table_head(workload, heads);
            for peer in Peer::measured().filter(|peer| rows.contains_key(peer.name())) {
                let row = &rows[peer.name()];
                let cells: Vec<_> = columns
                    .iter()
                    .map(|(key, _)| {
                        row.figures.get(*key).map_or_else(|| "-".into(), |figure| short(figure[0]))
                    })
                    .collect();
                let runs =
                    row.failed.as_ref().map_or_else(|| row.runs.to_string(), |why| format!("failed: {why}"));
                let _ = writeln!(text, "| {peer} | {} | {runs} |", cells.join(" | "));
            }
        }
        for ((size, pattern, percent), rows) in self.core_groups() {
            let title = format!("core, {pattern}, {size} B, {percent} % loss: ns by window");
            text += &table_head(&title, rows.iter().map(|row| row.window.to_string()));
            for (name, of) in [
                ("ours", (|row| row.ours) as fn(&CoreRow) -> f64),
                ("ikcp.c", |row| row.c),
                ("no protocol", |row| row.null),
            ] {
                let cells: Vec<_> = rows.iter().map(|row| format!("{:.0}", of(row))).collect();
                let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
            }
        }
        text
    }
}

/// The bars as a table in Markdown.
#[must_use]
pub fn table(bars: &[Bar]) -> String {
    let mut text = String::from("| what | bar | measured | |\n|---|---:|---:|---|\n");
    for bar in bars {
        let sign = if bar.at_most { "≤" } else { "≥" };
        let (value, verdict) = match (&bar.value, bar.passed()) {
            (Ok(value), Some(true)) => (short(*value), "pass".to_owned()),
            (Ok(value), _) => (short(*value), "**fails**".to_owned()),
            (Err(why), _) => ("-".to_owned(), why.clone()),
        };
        let note = if bar.note.is_empty() { String::new() } else { format!(" ({})", bar.note) };
        let _ = writeln!(text, "| {} | {sign} {} | {value} | {verdict}{note} |", bar.what, short(bar.bar));
    }
    let passed = bars.iter().filter(|bar| bar.passed() == Some(true)).count();
    let failed = bars.iter().filter(|bar| bar.passed() == Some(false)).count();
    let _ = writeln!(text, "\n{passed} pass, {failed} fail, {} not measured.", bars.len() - passed - failed);
    text
}

/// Puts `text` between the marks `<!-- name: begin -->` and `<!-- name: end -->` of the document at `path`.
///
/// # Errors
/// When it has no such marks, or cannot be written.
pub fn into_document(path: &Path, name: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let document = fs::read_to_string(path)?;
    let none = || format!("{} has no marks of {name}", path.display());
    fs::write(path, between_marks(&document, name, text).ok_or_else(none)?)?;
    Ok(())
}

fn between_marks(document: &str, name: &str, text: &str) -> Option<String> {
    let marks = [format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->")];
    let (head, rest) = document.split_once(&marks[0])?;
    let (_, tail) = rest.split_once(&marks[1])?;
    Some(format!("{head}{}{text}{}{tail}", marks[0], marks[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(peer: &str, round: u32, cpu: f64) -> String {
        format!(
            r#"{{"workload":"bulk","window":1024,"peer":"{peer}","round":{round},"quick":false,"placement":"near","figures":{{"cpu_s_per_gb":{cpu},"mb_per_s":100.0}}}}"#
        )
    }

    #[test]
    fn a_bar_is_judged_by_the_median_and_a_new_run_replaces_the_old_one() {
        let mut results = Results::default();
        let bar = |results: &Results| {
            let bars = results.bars();
            bars.into_iter()
                .find(|bar| bar.what.ends_with("1024: CPU of tokio_kcp / ours"))
                .expect("it is in the table")
        };
        assert_eq!(bar(&results).passed(), None);
        let lines: Vec<String> = [9.0, 0.5, 0.25].iter().map(|&cpu| line("ours", 0, cpu)).collect();
        results.take_peers(&(lines.join("\n") + "\n" + &line("tokio_kcp", 0, 2.0)), 7).expect("legal");
        assert_eq!(bar(&results).value, Ok(4.0));
        assert_eq!(bar(&results).passed(), Some(true));
        assert_eq!(results.peers["bulk"]["ours"].figures["cpu_s_per_gb"], [0.5, 0.25, 9.0]);
        results.take_peers(&line("ours", 0, 0.51), 8).expect("legal");
        assert_eq!(bar(&results).passed(), Some(false));
        assert!(table(&results.bars()).contains("**fails**"));
    }

    #[test]
    fn a_failure_is_kept_with_its_reason() {
        let mut results = Results::default();
        let failed =
            r#"{"workload":"bulk","peer":"quinn","quick":false,"placement":"far","failed":"no route"}"#;
        results.take_peers(&(line("ours", 0, 1.0) + "\n" + failed), 7).expect("legal");
        assert!(table(&results.bars()).contains("quinn FAILED: no route"));
        assert!(results.tables().contains("| quinn | - | - | failed: no route |"), "{}", results.tables());
        assert!(results.tables().contains("| ours | 100 | 1.00 | 1 |"), "{}", results.tables());
    }

    #[test]
    fn the_worst_loss_of_a_link_is_what_is_judged() {
        let row = |percent: u32, peer: &str, mb_per_s: f64, wire: f64| {
            serde_json::json!({"setting": "open", "rtt_ms": 20, "percent": percent, "peer": peer,
                "mb_per_s": mb_per_s, "wire_per_byte": wire, "lost": 0.0})
        };
        let rows = [
            row(1, "ours turbo", 9.0, 1.0),
            row(1, "kcp-rs", 3.0, 2.0),
            row(5, "ours turbo", 4.0, 1.5),
            row(5, "kcp-rs", 8.0, 3.0),
            row(5, "rust-kcp", 7.0, 1.0),
        ];
        let mut results =
            Results { goodput: serde_json::from_value(rows.into()).expect("legal"), ..Results::default() };
        let find = |results: &Results| {
            let bars = results.bars();
            bars.into_iter().find(|bar| bar.what.contains("goodput")).expect("it is in the table")
        };
        let bar = find(&results);
        assert_eq!((&bar.value, bar.passed()), (&Ok(0.5), Some(false)));
        assert!(bar.note.starts_with("kcp-rs at 5 %; 0.5"), "{}", bar.note);
        results.goodput[2].mb_per_s = Some(8.0);
        assert_eq!(find(&results).passed(), Some(true));
    }

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let document = |text| format!("a\n<!-- x: begin -->\n{text}\n<!-- x: end -->\nb\n");
        assert_eq!(between_marks(&document("old"), "x", "new\n"), Some(document("new")));
        assert_eq!(between_marks(&document("old"), "y", "new"), None);
    }
}
