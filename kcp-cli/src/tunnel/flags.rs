//! kcptun's flags, and the JSON file that overrides them.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::{ArgAction, Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Which end of the tunnel.
#[derive(Debug, Subcommand)]
pub(crate) enum Side {
    /// Listens for TCP and carries it to a server.
    ///
    /// Flags and file are kcptun's; `-name` means `--name`, and the last of several counts. A file given with `-c` overrides flags, and is read again at SIGHUP: new
    /// sessions follow it, those that live go on. SIGINT and SIGTERM let streams finish, SIGUSR1 logs the counters.
    #[command(args_override_self = true)]
    Client(Box<ClientFlags>),
    /// Takes what clients carry, to a TCP target.
    ///
    /// Flags and file are kcptun's; `-name` means `--name`, and the last of several counts. A file given with `-c` overrides flags, and is read again at SIGHUP: new
    /// sessions follow it, those that live go on. SIGINT and SIGTERM let streams finish, SIGUSR1 logs the counters.
    #[command(args_override_self = true)]
    Server(Box<ServerFlags>),
}

/// Of a client.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientFlags {
    /// Where to listen for TCP: host:port, :port, or the path of a Unix socket.
    #[arg(short = 'l', long, default_value = ":12948")]
    pub(crate) localaddr: String,
    /// The server: host:port, or host:min-max for a random port of these with each dial.
    #[arg(short = 'r', long, default_value = "vps:29900")]
    pub(crate) remoteaddr: String,
    /// UDP sessions, which streams take in turn.
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) conn: i64,
    /// Seconds after which a session takes no more streams and another is dialled; 0: never.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) autoexpire: i64,
    /// Seconds that an expired session may live on with its streams.
    #[arg(long, default_value_t = 600, allow_negative_numbers = true)]
    pub(crate) scavengettl: i64,
    #[command(flatten)]
    pub(crate) common: CommonFlags,
}

/// Of a server.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerFlags {
    /// Where to listen for KCP: host:port, :port, or host:min-max for all these ports.
    #[arg(short = 'l', long, default_value = ":29900")]
    pub(crate) listen: String,
    /// Where streams go: host:port, or the path of a Unix socket.
    #[arg(short = 't', long, default_value = "127.0.0.1:12948")]
    pub(crate) target: String,
    #[command(flatten)]
    pub(crate) common: CommonFlags,
}

/// Of both.
#[derive(Clone, Debug, Args)]
pub(crate) struct CommonFlags {
    /// Secret of client and server. In the environment it is seen by fewer.
    #[arg(
        long,
        env = "KCPTUN_KEY",
        hide_env_values = true,
        allow_hyphen_values = true,
        default_value = "it's a secrect"
    )]
    pub(crate) key: String,
    /// aes-128-gcm (authenticates), aes, aes-128, aes-192, salsa20, twofish, sm4, blowfish, cast5, 3des, tea, xtea, xor, none, null;
    /// aes-256-gcm (not in kcptun). Any other name means aes.
    #[arg(long, default_value = "aes")]
    pub(crate) crypt: String,
    /// fast3, fast2, fast, normal, or manual, which leaves nodelay, interval, resend and nc as they are given.
    #[arg(long, default_value = "fast")]
    pub(crate) mode: String,
    /// Longest UDP payload in bytes, all headers of the tunnel included; 1500 at most.
    #[arg(long, default_value_t = 1350, allow_negative_numbers = true)]
    pub(crate) mtu: i64,
    /// Bytes per second that one session sends at most; 0: no limit.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) ratelimit: i64,
    /// Packets in flight at most [default: client 128, server 1024].
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) sndwnd: Option<i64>,
    /// Packets received and unread at most [default: client 512, server 1024].
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) rcvwnd: Option<i64>,
    /// Packets in a group of the error correction; 0 turns it off.
    #[arg(long, visible_alias = "ds", default_value_t = 10, allow_negative_numbers = true)]
    pub(crate) datashard: i64,
    /// Packets that are added to each group; 0 turns it off.
    #[arg(long, visible_alias = "ps", default_value_t = 3, allow_negative_numbers = true)]
    pub(crate) parityshard: i64,
    /// Class of service of packets (DSCP), 0 to 63.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) dscp: i64,
    /// No compression. Must be as at the peer.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) nocomp: bool,
    /// Acknowledge at once.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) acknodelay: bool,
    /// Mode manual: 0, or 1 for short timeouts.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) nodelay: i64,
    /// Mode manual: milliseconds that acknowledgements wait at most, 10 to 5000.
    #[arg(long, default_value_t = 50, allow_negative_numbers = true)]
    pub(crate) interval: i64,
    /// Mode manual: a packet counts as lost when so many later ones were acknowledged; 0: only after its timeout.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) resend: i64,
    /// Mode manual: 1 turns congestion control off.
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) nc: i64,
    /// Kernel buffer of each socket and direction, in bytes.
    #[arg(long, default_value_t = 4 << 20, allow_negative_numbers = true)]
    pub(crate) sockbuf: i64,
    /// Version of the multiplexer, 1 or 2. Must be as at the peer; kcptun before 2022 has 1 by default.
    #[arg(long, default_value_t = 2, allow_negative_numbers = true)]
    pub(crate) smuxver: i64,
    /// Bytes that all streams of a session hold received and unread.
    #[arg(long, default_value_t = 4 << 20, allow_negative_numbers = true)]
    pub(crate) smuxbuf: i64,
    /// Longest frame of the multiplexer, in bytes: shorter ones are fairer among streams.
    #[arg(long, default_value_t = 8192, allow_negative_numbers = true)]
    pub(crate) framesize: i64,
    /// Bytes that one stream holds received and unread (smuxver 2).
    #[arg(long, default_value_t = 2 << 20, allow_negative_numbers = true)]
    pub(crate) streambuf: i64,
    /// Seconds between signs of life, 30 at most. After 30 s without any the session ends.
    #[arg(long, default_value_t = 10, allow_negative_numbers = true)]
    pub(crate) keepalive: i64,
    /// Seconds that a connection of which one direction has ended may be quiet; 0: 10 minutes [default: client 0, server 30].
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) closewait: Option<i64>,
    /// File that the counters go to, as CSV; its name may hold a date in Go's way, as in snmp-20060102.log.
    #[arg(long, default_value = "")]
    pub(crate) snmplog: String,
    /// Seconds between its lines.
    #[arg(long, default_value_t = 60, allow_negative_numbers = true)]
    pub(crate) snmpperiod: i64,
    /// File that the log goes to instead of standard error; opened again at SIGHUP.
    #[arg(long, default_value = "")]
    pub(crate) log: String,
    /// No lines about streams that open and close.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) quiet: bool,
    /// Seconds that streams have to finish after SIGINT or SIGTERM; a second signal ends at once. Not in kcptun.
    #[arg(long, default_value_t = 30, allow_negative_numbers = true)]
    pub(crate) grace: i64,
    /// JSON file with any of these flags, which it overrides.
    #[arg(short = 'c', value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Packets that look like TCP: refused, since it takes raw sockets.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) tcp: bool,
    /// Profiling server: refused; use the system's profiler.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) pprof: bool,
    /// "Quantum permutation pads": refused, this has none.
    #[arg(long = "QPP", alias = "qpp", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = ArgAction::Set)]
    pub(crate) qpp: bool,
    /// Their number: of no effect without them.
    #[arg(long = "QPPCount", alias = "qpp-count", default_value_t = 61, allow_negative_numbers = true)]
    pub(crate) qpp_count: i64,
}

/// Fields that a file may set.
pub(crate) trait Fields {
    /// The flags of both sides.
    fn common(&mut self) -> &mut CommonFlags;

    /// Sets the field of this name in lower case, if it has one.
    fn set(&mut self, name: &str, value: Value) -> Result<bool>;
}

impl Fields for ClientFlags {
    fn common(&mut self) -> &mut CommonFlags {
        &mut self.common
    }

    fn set(&mut self, name: &str, value: Value) -> Result<bool> {
        match name {
            "localaddr" => put(&mut self.localaddr, value),
            "remoteaddr" => put(&mut self.remoteaddr, value),
            "conn" => put(&mut self.conn, value),
            "autoexpire" => put(&mut self.autoexpire, value),
            "scavengettl" => put(&mut self.scavengettl, value),
            _ => self.common.set(name, value),
        }
    }
}

impl Fields for ServerFlags {
    fn common(&mut self) -> &mut CommonFlags {
        &mut self.common
    }

    fn set(&mut self, name: &str, value: Value) -> Result<bool> {
        match name {
            "listen" => put(&mut self.listen, value),
            "target" => put(&mut self.target, value),
            _ => self.common.set(name, value),
        }
    }
}

impl CommonFlags {
    fn set(&mut self, name: &str, value: Value) -> Result<bool> {
        match name {
            "key" => put(&mut self.key, value),
            "crypt" => put(&mut self.crypt, value),
            "mode" => put(&mut self.mode, value),
            "mtu" => put(&mut self.mtu, value),
            "ratelimit" => put(&mut self.ratelimit, value),
            "sndwnd" => put_some(&mut self.sndwnd, value),
            "rcvwnd" => put_some(&mut self.rcvwnd, value),
            "datashard" => put(&mut self.datashard, value),
            "parityshard" => put(&mut self.parityshard, value),
            "dscp" => put(&mut self.dscp, value),
            "nocomp" => put(&mut self.nocomp, value),
            "acknodelay" => put(&mut self.acknodelay, value),
            "nodelay" => put(&mut self.nodelay, value),
            "interval" => put(&mut self.interval, value),
            "resend" => put(&mut self.resend, value),
            "nc" => put(&mut self.nc, value),
            "sockbuf" => put(&mut self.sockbuf, value),
            "smuxver" => put(&mut self.smuxver, value),
            "smuxbuf" => put(&mut self.smuxbuf, value),
            "framesize" => put(&mut self.framesize, value),
            "streambuf" => put(&mut self.streambuf, value),
            "keepalive" => put(&mut self.keepalive, value),
            "closewait" => put_some(&mut self.closewait, value),
            "snmplog" => put(&mut self.snmplog, value),
            "snmpperiod" => put(&mut self.snmpperiod, value),
            "log" => put(&mut self.log, value),
            "quiet" => put(&mut self.quiet, value),
            "grace" => put(&mut self.grace, value),
            "tcp" => put(&mut self.tcp, value),
            "pprof" => put(&mut self.pprof, value),
            "qpp" => put(&mut self.qpp, value),
            "qpp-count" => put(&mut self.qpp_count, value),
            _ => Ok(false),
        }
    }
}

/// As Go does, `null` leaves a field as it is.
fn put<T: DeserializeOwned>(field: &mut T, value: Value) -> Result<bool> {
    if !value.is_null() {
        *field = serde_json::from_value(value)?;
    }
    Ok(true)
}

fn put_some<T: DeserializeOwned>(field: &mut Option<T>, value: Value) -> Result<bool> {
    if !value.is_null() {
        *field = Some(serde_json::from_value(value)?);
    }
    Ok(true)
}

/// The flags with what their file says; and the keys in it that mean nothing.
pub(crate) fn read<F: Fields + Clone>(flags: &F) -> Result<(F, Vec<String>)> {
    let mut flags = flags.clone();
    let Some(path) = flags.common().config.clone() else { return Ok((flags, Vec::new())) };
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let unknown = overlay(&mut flags, &text).with_context(|| format!("{} is wrong", path.display()))?;
    Ok((flags, unknown))
}

fn overlay(flags: &mut impl Fields, text: &[u8]) -> Result<Vec<String>> {
    let object: Map<String, Value> = serde_json::from_slice(text)?;
    let mut unknown = Vec::new();
    for (name, value) in object {
        let known =
            flags.set(&name.to_ascii_lowercase(), value).map_err(|error| anyhow!("{name}: {error}"))?;
        if !known {
            unknown.push(name);
        }
    }
    Ok(unknown)
}

/// Go's flags take one dash or two: `-mode fast3`, `-nocomp`. Only names that `tunnel client` or `tunnel server` has are meant.
pub(crate) fn spelled_out(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    if args.get(1).map(OsString::as_os_str) != Some(OsStr::new("tunnel")) {
        return args;
    }
    let known = long_names();
    for arg in args.iter_mut().skip(3) {
        let Some(text) = arg.to_str().and_then(|text| text.strip_prefix('-')) else { continue };
        let name = text.split_once('=').map_or(text, |(name, _)| name);
        if known.iter().any(|known| known == name) {
            *arg = format!("--{text}").into();
        }
    }
    args
}

fn long_names() -> Vec<String> {
    let command = Side::augment_subcommands(clap::Command::new("tunnel"));
    let flags = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let names = flags.flat_map(|flag| flag.get_long_and_visible_aliases().unwrap_or_default());
    names.map(str::to_owned).chain(["help".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn client(args: &[&str]) -> ClientFlags {
        let args = ["kcp", "tunnel", "client"].iter().chain(args).map(OsString::from);
        match Args::try_parse_from(spelled_out(args)).unwrap().command {
            Command::Tunnel { side: Side::Client(flags) } => *flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_of_kcptuns_documentation_are_understood() {
        let line =
            "-r KCP_SERVER_IP:4000 -l :8388 -mode fast3 -nocomp -autoexpire 900 -sockbuf 16777217 -dscp 46";
        let flags = client(&line.split(' ').collect::<Vec<_>>());
        assert_eq!((flags.remoteaddr.as_str(), flags.localaddr.as_str()), ("KCP_SERVER_IP:4000", ":8388"));
        let common = &flags.common;
        assert_eq!((common.mode.as_str(), common.nocomp, flags.autoexpire), ("fast3", true, 900));
        assert_eq!((common.sockbuf, common.dscp, common.quiet), (16_777_217, 46, false));
        let flags = client(&[
            "--ds=0",
            "-ps",
            "0",
            "--nocomp=false",
            "-quiet=true",
            "-QPP=false",
            "-key",
            "-secret",
            "-c",
            "x.json",
        ]);
        let common = &flags.common;
        assert_eq!((common.datashard, common.parityshard, common.key.as_str()), (0, 0, "-secret"));
        assert_eq!((common.nocomp, common.quiet, common.qpp), (false, true, false));
        assert_eq!(common.config.as_deref(), Some(Path::new("x.json")));
    }

    #[test]
    fn a_file_overrides_flags_whatever_the_case_of_its_keys() {
        let mut flags = client(&["--mtu", "1200", "--crypt", "xor", "--key", "flag"]);
        let text =
            br#"{"LocalAddr": ":1", "MTU": 1300, "Key": "file", "nocomp": true, "SmuxVer": 1, "closewait": 7,
            "_comment": "x", "qpp-count": 61, "crypt": null, "conn": 3}"#;
        let unknown = overlay(&mut flags, text).unwrap();
        assert_eq!(unknown, ["_comment"]);
        let common = &flags.common;
        assert_eq!(
            (flags.localaddr.as_str(), common.mtu, common.key.as_str(), flags.conn),
            (":1", 1300, "file", 3)
        );
        assert_eq!((common.crypt.as_str(), common.nocomp, common.smuxver), ("xor", true, 1));
        assert_eq!((common.closewait, common.sndwnd), (Some(7), None));
    }

    #[test]
    fn a_wrong_file_says_where() {
        let mut flags = client(&[]);
        for (text, expected) in [
            (r#"{"mtu": "1300"}"#, "mtu: "),
            (r#"{"mtu": 13.5}"#, "mtu: "),
            (r#"{"nocomp": 1}"#, "nocomp: "),
            (r#"{"mtu": 1300"#, "EOF"),
            (r#"[1]"#, "map"),
        ] {
            let error = overlay(&mut flags, text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
