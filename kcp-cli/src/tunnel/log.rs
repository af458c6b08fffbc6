//! The log: lines with a time, to standard error or a file, as kcptun writes them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Zoned;

/// Lines of a kind that strangers can cause come no closer than this.
const SPARING: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// None: standard error.
    file: Mutex<Option<File>>,
    quiet: AtomicBool,
    sparing: Mutex<BTreeMap<&'static str, Sparing>>,
}

#[derive(Debug, Default)]
struct Sparing {
    last: Option<Instant>,
    skipped: u64,
}

impl Log {
    /// Opens the file (again): what another program has moved away is left to it.
    pub(crate) fn open(&self, path: Option<&Path>, quiet: bool) -> Result<()> {
        let file = match path {
            None => None,
            Some(path) => {
                let open = File::options().create(true).append(true).open(path);
                Some(open.with_context(|| format!("cannot write {}", path.display()))?)
            }
        };
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        self.quiet.store(quiet, Ordering::Relaxed);
        Ok(())
    }

    /// A line.
    pub(crate) fn line(&self, text: fmt::Arguments<'_>) {
        let line = format!("{} {text}\n", Zoned::now().strftime("%Y/%m/%d %H:%M:%S"));
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Nowhere to complain if it fails.
        let _ = match &mut *file {
            Some(file) => file.write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    /// A line about one stream, unless the log is quiet.
    pub(crate) fn stream(&self, text: fmt::Arguments<'_>) {
        if !self.quiet.load(Ordering::Relaxed) {
            self.line(text);
        }
    }

    /// A line of a kind that strangers can cause: at most one of it a second.
    pub(crate) fn sparing(&self, kind: &'static str, text: fmt::Arguments<'_>) {
        let skipped = {
            let mut kinds = self.sparing.lock().unwrap_or_else(PoisonError::into_inner);
            let sparing = kinds.entry(kind).or_default();
            if sparing.last.is_some_and(|last| last.elapsed() < SPARING) {
                sparing.skipped += 1;
                return;
            }
            sparing.last = Some(Instant::now());
            std::mem::take(&mut sparing.skipped)
        };
        if skipped > 0 {
            self.line(format_args!("{text} ({skipped} such lines were left out)"));
        } else {
            self.line(text);
        }
    }
}
