//! What the flags come to: checked parameters of sessions, of the multiplexer and of the tunnel.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kcp_smux::{Config as SmuxConfig, Version};
use kcp_tokio::layers::{Cipher, Crypt, FecConfig, LayersConfig};
use kcp_tokio::{KcpConfig, NoDelay, SessionConfig};

use super::address::{Local, Remote};
use super::flags::{ClientFlags, CommonFlags, ServerFlags, read};

/// kcp-go's receive buffers have no more.
const LONGEST_PACKET: i64 = 1500;
/// After so many seconds without a frame kcptun's multiplexer gives up.
const SMUX_TIMEOUT: u64 = 30;
/// A connection whose other direction has ended may be quiet for so long, where nothing was said.
const LONGEST_CLOSE_WAIT: Duration = Duration::from_secs(600);
/// Bytes that KCP takes beyond its window, and the multiplexer for each stream.
const SEND_BUFFER: usize = 256 << 10;

/// Of one side, as one reading of flags and file has it.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Sessions and their layers.
    pub(crate) kcp: KcpConfig,
    pub(crate) smux: SmuxConfig,
    pub(crate) version: Version,
    pub(crate) compress: bool,
    pub(crate) rate: Option<Rate>,
    pub(crate) close_wait: Duration,
    pub(crate) grace: Duration,
    pub(crate) quiet: bool,
    pub(crate) log: Option<PathBuf>,
    pub(crate) counters: CountersFile,
    /// What it is worth to tell.
    pub(crate) warnings: Vec<String>,
    /// One line, without the key.
    pub(crate) summary: String,
    key: Key,
    /// What a socket keeps.
    pub(crate) socket: (i64, i64),
}

#[derive(Debug)]
struct Key {
    cipher: Cipher,
    password: String,
    crypt: Crypt,
}

/// How fast one session may send.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Bytes of UDP payload per second.
    pub(crate) bytes: f64,
    /// How many of them a byte of the stream takes, headers and parity included.
    pub(crate) factor: f64,
}

/// Where the counters go, if anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CountersFile {
    pub(crate) pattern: Option<String>,
    pub(crate) period: Duration,
}

/// Of a client.
#[derive(Debug)]
pub(crate) struct ClientSettings {
    pub(crate) common: Settings,
    pub(crate) local: Local,
    pub(crate) remote: Remote,
    pub(crate) sessions: usize,
    pub(crate) expire: Option<Duration>,
    pub(crate) scavenge: Duration,
}

/// Of a server.
#[derive(Debug)]
pub(crate) struct ServerSettings {
    pub(crate) common: Settings,
    pub(crate) listen: Remote,
    pub(crate) target: Local,
}

impl ClientSettings {
    /// Of flags and file. What was in force before gives its key, if that is still the same.
    pub(crate) fn read(flags: &ClientFlags, before: Option<&Settings>) -> Result<Self> {
        let (flags, unknown) = read(flags)?;
        let common = Settings::new(&flags.common, &unknown, [128, 512, 0], before)?;
        Ok(Self {
            common,
            local: Local::parse(&flags.localaddr).context("localaddr")?,
            remote: Remote::parse(&flags.remoteaddr).context("remoteaddr")?,
            sessions: number("conn", flags.conn, 1, 4096)?,
            expire: Some(seconds("autoexpire", flags.autoexpire)?).filter(|expire| !expire.is_zero()),
            scavenge: seconds("scavengettl", flags.scavengettl)?,
        })
    }
}

impl ServerSettings {
    /// Of flags and file. What was in force before gives its key, if that is still the same.
    pub(crate) fn read(flags: &ServerFlags, before: Option<&Settings>) -> Result<Self> {
        let (flags, unknown) = read(flags)?;
        let common = Settings::new(&flags.common, &unknown, [1024, 1024, 30], before)?;
        Ok(Self {
            common,
            listen: Remote::parse(&flags.listen).context("listen")?,
            target: Local::parse(&flags.target).context("target")?,
        })
    }
}

impl Settings {
    fn new(
        flags: &CommonFlags,
        unknown: &[String],
        [send, recv, close]: [i64; 3],
        before: Option<&Self>,
    ) -> Result<Self> {
        ensure!(!flags.tcp, "tcp: packets that look like TCP need raw sockets, which this has not");
        ensure!(!flags.qpp, "QPP: not implemented; the peer must be without it, too");
        ensure!(!flags.pprof, "pprof: there is no profiling server; use the system's profiler");
        let mut warnings = Vec::new();
        if !unknown.is_empty() {
            warnings.push(format!("the file has keys that mean nothing: {}", unknown.join(", ")));
        }
        let cipher = cipher(&flags.crypt, &mut warnings);
        let crypt = match before.map(|before| &before.key) {
            Some(key) if key.cipher == cipher && key.password == flags.key => key.crypt.clone(),
            _ => Crypt::from_password(cipher, &flags.key),
        };
        let numbers = numbers(flags);
        let layers = layers(flags, crypt.clone())?;
        let sndwnd = number("sndwnd", flags.sndwnd.unwrap_or(send), 1, 1 << 20)?;
        let rcvwnd = number("rcvwnd", flags.rcvwnd.unwrap_or(recv), 1, 65_535)?;
        let mtu: usize = number("mtu", flags.mtu.min(LONGEST_PACKET), 1, LONGEST_PACKET)?;
        let inner = layers.kcp_mtu(mtu).unwrap_or(0);
        ensure!(inner >= 50, "mtu: {mtu} bytes leave no room for headers");
        let sockbuf = number("sockbuf", flags.sockbuf, 1, i64::from(i32::MAX))?;
        let session = SessionConfig::fast()
            .nodelay(numbers)
            .mtu(mtu)
            .send_window(sndwnd)
            .recv_window(rcvwnd)
            .ack_nodelay(flags.acknodelay)
            .send_buffer(SEND_BUFFER);
        let kcp = KcpConfig::from(session)
            .socket_buffer(sockbuf)
            .dscp(number("dscp", flags.dscp, 0, 63)?)
            .layers(layers);
        let version = match flags.smuxver {
            1 => Version::V1,
            2 => Version::V2,
            other => bail!("smuxver: there is no version {other}, only 1 and 2"),
        };
        let smux = smux(flags, version)?;
        let close = seconds("closewait", flags.closewait.unwrap_or(close))?;
        let rate: u64 = number("ratelimit", flags.ratelimit, 0, i64::MAX)?;
        let fec = fec(flags)?;
        let share = fec.map_or(1.0, |(data, parity)| 1.0 + f64::from(parity) / f64::from(data));
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let rate = (rate > 0).then(|| Rate {
            bytes: rate as f64,
            factor: share * mtu as f64 / (inner - SEGMENT_HEADER) as f64,
        });
        let period = seconds("snmpperiod", flags.snmpperiod)?;
        let pattern = Some(flags.snmplog.clone()).filter(|path| !path.is_empty());
        ensure!(pattern.is_none() || !period.is_zero(), "snmpperiod: must not be 0");
        let NoDelay { nodelay, interval, resend, nc } = numbers;
        let summary = format!(
            "crypt {cipher}, mode {} ({nodelay} {} {resend} {}), mtu {mtu}, sndwnd {sndwnd}, rcvwnd {rcvwnd}, {}, smux {}, {}",
            flags.mode,
            interval.as_millis(),
            u8::from(nc),
            fec.map_or_else(|| "no error correction".into(), |(d, p)| format!("error correction {d}/{p}")),
            version.number(),
            if flags.nocomp { "no compression" } else { "compression" },
        );
        Ok(Self {
            kcp,
            smux,
            version,
            compress: !flags.nocomp,
            rate,
            close_wait: if close.is_zero() { LONGEST_CLOSE_WAIT } else { close },
            grace: seconds("grace", flags.grace)?,
            quiet: flags.quiet,
            log: Some(PathBuf::from(&flags.log)).filter(|path| !path.as_os_str().is_empty()),
            counters: CountersFile { pattern, period },
            warnings,
            summary,
            key: Key { cipher, password: flags.key.clone(), crypt },
            socket: (flags.sockbuf, flags.dscp),
        })
    }
}

const SEGMENT_HEADER: usize = 24;

fn cipher(name: &str, warnings: &mut Vec<String>) -> Cipher {
    match name.parse() {
        Ok(Cipher::Aes256Gcm) => {
            warnings.push("crypt aes-256-gcm: kcptun does not have it, and takes it for aes".into());
            Cipher::Aes256Gcm
        }
        Ok(cipher) => cipher,
        Err(_) => {
            warnings.push(format!("crypt {name:?} is unknown: aes is taken, as kcptun does"));
            Cipher::Aes256
        }
    }
}

/// Of the mode, or as they are given.
fn numbers(flags: &CommonFlags) -> NoDelay {
    let millis = |ms| Duration::from_millis(ms);
    let known = |nodelay, ms, resend| NoDelay { nodelay, interval: millis(ms), resend, nc: true };
    match flags.mode.as_str() {
        "normal" => known(0, 40, 2),
        "fast" => known(0, 30, 2),
        "fast2" => known(1, 20, 2),
        "fast3" => known(1, 10, 2),
        // kcp-go bends what it cannot take.
        _ => NoDelay {
            nodelay: u8::from(flags.nodelay != 0),
            interval: millis(flags.interval.clamp(10, 5000).unsigned_abs()),
            resend: u32::try_from(flags.resend.max(0)).unwrap_or(u32::MAX),
            nc: flags.nc != 0,
        },
    }
}

fn fec(flags: &CommonFlags) -> Result<Option<(u8, u8)>> {
    if flags.datashard <= 0 || flags.parityshard <= 0 {
        return Ok(None);
    }
    let (data, parity) =
        (number("datashard", flags.datashard, 1, 254)?, number("parityshard", flags.parityshard, 1, 254)?);
    Ok(Some((data, parity)))
}

fn layers(flags: &CommonFlags, crypt: Crypt) -> Result<LayersConfig> {
    let layers = LayersConfig::new().crypt(crypt);
    match fec(flags)? {
        Some((data, parity)) => {
            Ok(layers.fec(FecConfig::new(data, parity).context("datashard and parityshard")?))
        }
        None => Ok(layers),
    }
}

fn smux(flags: &CommonFlags, version: Version) -> Result<SmuxConfig> {
    let keepalive: u64 = number("keepalive", flags.keepalive, 1, 30)?;
    let smux = SmuxConfig::new(version)
        .receive_buffer(number("smuxbuf", flags.smuxbuf, 1, i64::from(i32::MAX))?)
        .stream_buffer(number("streambuf", flags.streambuf, 1, i64::from(i32::MAX))?)
        .max_frame(number("framesize", flags.framesize, 1, 65_535)?)
        .send_buffer(SEND_BUFFER)
        .keepalive(Some(Duration::from_secs(keepalive)))
        // A sign of life must have the time to come.
        .timeout(Duration::from_secs(SMUX_TIMEOUT.max(keepalive + 5)));
    smux.validate().context("smuxbuf, streambuf and framesize")?;
    Ok(smux)
}

fn number<T: TryFrom<i64>>(name: &str, value: i64, least: i64, most: i64) -> Result<T> {
    let number = T::try_from(value).ok().filter(|_| (least..=most).contains(&value));
    number.with_context(|| format!("{name}: {value} is outside {least}..={most}"))
}

fn seconds(name: &str, value: i64) -> Result<Duration> {
    // A century: instants have an end.
    number(name, value, 0, 3_000_000_000).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::flags::Side;
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        side: Side,
    }

    fn server(line: &str) -> Result<ServerSettings> {
        let words = ["x", "server"].into_iter().chain(line.split_whitespace());
        match Line::try_parse_from(words)?.side {
            Side::Server(flags) => ServerSettings::read(&flags, None),
            Side::Client(_) => bail!("not a server"),
        }
    }

    fn client(line: &str) -> Result<ClientSettings> {
        let words = ["x", "client"].into_iter().chain(line.split_whitespace());
        match Line::try_parse_from(words)?.side {
            Side::Client(flags) => ClientSettings::read(&flags, None),
            Side::Server(_) => bail!("not a client"),
        }
    }

    #[test]
    fn defaults_are_kcptuns() {
        let ours = server("").unwrap();
        assert_eq!(
            ours.common.summary,
            "crypt aes, mode fast (0 30 2 1), mtu 1350, sndwnd 1024, rcvwnd 1024, error correction 10/3, smux 2, compression"
        );
        assert_eq!(ours.common.close_wait, Duration::from_secs(30));
        let ours = client("-r h:1 --mode fast3 --nocomp --ds 0").unwrap();
        assert_eq!(
            ours.common.summary,
            "crypt aes, mode fast3 (1 10 2 1), mtu 1350, sndwnd 128, rcvwnd 512, no error correction, smux 2, no compression"
        );
        assert_eq!((ours.sessions, ours.expire, ours.scavenge), (1, None, Duration::from_secs(600)));
        assert!(ours.common.warnings.is_empty());
    }

    #[test]
    fn modes_and_their_numbers() {
        for (line, expected) in [
            ("--mode normal --nodelay 1", "(0 40 2 1)"),
            ("--mode fast2 --nc 0", "(1 20 2 1)"),
            ("--mode manual", "(0 50 0 0)"),
            ("--mode manual --nodelay 2 --interval 5 --resend 3 --nc 1", "(1 10 3 1)"),
            ("--mode whatever --interval 9000 --resend -1", "(0 5000 0 0)"),
        ] {
            let summary = server(line).unwrap().common.summary;
            assert!(summary.contains(expected), "{line}: {summary}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for (line, expected) in [
            ("--tcp", "raw sockets"),
            ("--QPP", "QPP: not implemented"),
            ("--pprof", "profiler"),
            ("--smuxver 3", "smuxver: there is no version 3"),
            ("--keepalive 31", "keepalive: 31 is outside 1..=30"),
            ("--keepalive 0", "keepalive"),
            ("--dscp 64", "dscp: 64"),
            ("--rcvwnd 65536", "rcvwnd: 65536 is outside 1..=65535"),
            ("--sndwnd 0", "sndwnd"),
            ("--mtu 80", "mtu: 80 bytes leave no room"),
            ("--ds 200 --ps 56", "datashard and parityshard"),
            ("--ds 255 --ps 1", "datashard: 255"),
            ("--framesize 65536", "framesize"),
            ("--smuxbuf 1000 --streambuf 1001", "stream_buffer is larger"),
            ("--ratelimit -1", "ratelimit: -1"),
            ("--snmplog x --snmpperiod 0", "snmpperiod"),
            ("--closewait -1", "closewait"),
            ("-l nothing", "listen"),
            ("-l 1.2.3.4:70000", "listen"),
            ("-l 1.2.3.4:20-10", "listen"),
            ("-t /a\0b", "target"),
        ] {
            let error = format!("{:#}", server(line).unwrap_err());
            assert!(error.contains(expected), "{line}: {error}");
        }
        assert!(client("--conn 0").is_err());
        assert!(client("--autoexpire -5").is_err());
        for line in [
            "--keepalive 30",
            "--ds 200 --ps 55",
            "--mtu 9000",
            "--rcvwnd 65535",
            "--smuxver 1 --streambuf 999999999",
        ] {
            assert!(server(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn unknown_ciphers_are_aes_and_say_so() {
        let ours = server("--crypt aes-257").unwrap();
        assert!(ours.common.summary.starts_with("crypt aes,"));
        assert_eq!(ours.common.warnings.len(), 1);
        for cipher in Cipher::ALL {
            let ours = server(&format!("--crypt {cipher}")).unwrap();
            assert!(ours.common.summary.starts_with(&format!("crypt {cipher},")));
            assert_eq!(ours.common.warnings.is_empty(), cipher != Cipher::Aes256Gcm);
        }
    }

    /// UDP payloads as long as kcptun's; what is in them is as much, but for the 8 bytes of a note where groups have a time limit.
    #[test]
    fn room_for_headers_is_kcptuns() {
        for (line, mtu) in [
            ("--ds 0 --crypt aes", 1330),
            ("--ds 0 --crypt none", 1330),
            ("--ds 0 --crypt null", 1350),
            ("--ds 0 --crypt aes-128-gcm", 1322),
            ("--crypt aes", 1322 - 8),
            ("--crypt aes-128-gcm", 1314 - 8),
            ("--crypt null --mtu 2000 --ds 0", 1500),
        ] {
            let flags = match Line::try_parse_from(["x", "server"].into_iter().chain(line.split(' ')))
                .unwrap()
                .side
            {
                Side::Server(flags) => flags.common,
                Side::Client(_) => unreachable!(),
            };
            let crypt = Crypt::from_password(flags.crypt.parse().unwrap(), "x");
            let total = flags.mtu.min(LONGEST_PACKET).unsigned_abs() as usize;
            assert_eq!(layers(&flags, crypt).unwrap().kcp_mtu(total), Some(mtu), "{line}");
        }
    }

    #[test]
    fn the_rate_counts_headers_and_parity() {
        assert_eq!(server("").unwrap().common.rate, None);
        let rate = server("--ratelimit 1000 --crypt null --mtu 1224 --ds 0").unwrap().common.rate.unwrap();
        assert_eq!((rate.bytes, rate.factor), (1000.0, 1224.0 / 1200.0));
        let rate =
            server("--ratelimit 1000 --crypt null --mtu 1240 --ds 2 --ps 1").unwrap().common.rate.unwrap();
        assert_eq!(rate.factor, 1.5 * 1240.0 / 1200.0);
    }

    #[test]
    fn a_key_that_stays_is_not_made_again() {
        let first = server("--key a").unwrap().common;
        let Side::Server(flags) =
            Line::try_parse_from(["x", "server", "--key", "a", "--mtu", "1200"]).unwrap().side
        else {
            unreachable!()
        };
        let second = ServerSettings::read(&flags, Some(&first)).unwrap().common;
        assert!(second.key.crypt.is_clone_of(&first.key.crypt));
        let other = server("--key b").unwrap().common;
        assert!(!other.key.crypt.is_clone_of(&first.key.crypt));
    }
}
