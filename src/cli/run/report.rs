//! The report of a run: where it is written, and what this command could not pass on.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentpipe::CloseReport;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags, fstat, ftruncate, open};
use rustix::io::{pwrite, write};
use rustix::stdio::{stderr, stdout};

use super::descriptor::poll_for;

/// The most pids that the summary lists.
const PIDS_SHOWN: usize = 8;

/// How long to wait for a pipe to accept the report.
const PATIENCE: Duration = Duration::from_millis(500);

/// The destination of the report.
pub(super) enum ReportTarget {
    Nowhere,
    Stderr,
    File { path: PathBuf, file: OwnedFd, regular: bool },
}

impl ReportTarget {
    /// Opens and empties the file, before the agent is spawned, so that a failure has no side effect. A FIFO
    /// must have a reader already, because a wait for one might never end. A name of stderr is stderr; one of
    /// stdout is refused, because the report is no record.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::Nowhere) };
        if path == Path::new("-") {
            return Ok(Self::Stderr);
        }
        // Not emptied before it is known to be no file of the agent's output.
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::from_raw_mode(0o666));
        let file = file.map_err(|errno| cannot_write(path, &errno.into()))?;
        let stat = fstat(&file).map_err(|errno| cannot_write(path, &errno.into()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is = |stream: BorrowedFd<'_>| {
            // /dev/null is one file for every user of it, and carries nothing.
            (kind != FileType::CharacterDevice || file.is_terminal())
                && fstat(stream)
                    .is_ok_and(|other| (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino))
        };
        if is(stderr()) {
            return Ok(Self::Stderr);
        }
        if is(stdout()) {
            let path = path.display();
            return Err(format!(
                "cannot write the report to {path}: it is stdout, which carries records; `-` is stderr"
            ));
        }
        let regular = kind == FileType::RegularFile;
        if regular {
            ftruncate(&file, 0).map_err(|errno| cannot_write(path, &errno.into()))?;
        }
        Ok(Self::File { path: path.to_owned(), file, regular })
    }

    /// Writes a preliminary report to a regular file before stdout has accepted everything, in case this
    /// process is killed. A pipe or stderr gets one report, at the end.
    pub(super) fn write_ahead(&self, json: &str) {
        if let Self::File { file, regular: true, .. } = self {
            let _tried_again_at_the_end = replace(file, json);
        }
    }

    /// Writes the report, unless it goes to stderr.
    pub(super) fn write(&self, json: &str) -> Result<(), String> {
        let Self::File { path, file, regular } = self else { return Ok(()) };
        let written = if *regular { replace(file, json) } else { write_in_time(file, json) };
        written.map_err(|error| cannot_write(path, &error))
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write the report to {}: {error}", path.display())
}

fn replace(file: &OwnedFd, json: &str) -> io::Result<()> {
    let line = format!("{json}\n");
    let mut written = 0;
    while written < line.len() {
        written += match pwrite(file, &line.as_bytes()[written..], written as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            len => len,
        };
    }
    // The rest is cut off afterwards: the report ahead of this one may be longer, and a file that
    // is emptied first would have no report if this process is killed in between.
    Ok(ftruncate(file, line.len() as u64)?)
}

/// Writes to a file that was opened with O_NONBLOCK, within [`PATIENCE`].
fn write_in_time(file: &OwnedFd, json: &str) -> io::Result<()> {
    let line = format!("{json}\n");
    let mut left = line.as_bytes();
    let until = Instant::now() + PATIENCE;
    while !left.is_empty() {
        match write(file, left) {
            Ok(len) => left = &left[len..],
            Err(rustix::io::Errno::AGAIN) => {
                let time = until.saturating_duration_since(Instant::now());
                if time.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                poll_for(&mut [PollFd::new(file, PollFlags::OUT)], Some(time));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// The losses of this command itself. The losses inside the engine are in the [`CloseReport`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Losses {
    pub(super) undelivered_records: u64,
    pub(super) undelivered_bytes: u64,
    pub(super) undelivered_stderr_lines: u64,
    pub(super) stdin_refused_records: u64,
    pub(super) stdin_unsent_bytes: u64,
    /// Processes of the agent that live on. `None`: not known.
    pub(super) left_running: Option<BTreeSet<u32>>,
}

impl Losses {
    fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("undelivered_records", self.undelivered_records),
            ("undelivered_bytes", self.undelivered_bytes),
            ("undelivered_stderr_lines", self.undelivered_stderr_lines),
            ("stdin_refused_records", self.stdin_refused_records),
            ("stdin_unsent_bytes", self.stdin_unsent_bytes),
        ]
    }

    /// Returns the report of a close with these counts added. Without a report the JSON names the agent and
    /// says that it is not closed.
    pub(super) fn in_json(&self, report: Result<&CloseReport, u32>) -> String {
        let mut json = match report {
            Ok(report) => report.to_json(),
            Err(pid) => format!("{{\"schema\":1,\"pid\":{pid},\"closed\":false}}"),
        };
        if json.ends_with('}') {
            json.pop();
        }
        for (name, count) in self.named() {
            json.push_str(&format!(",\"{name}\":{count}"));
        }
        let known = report.ok().and_then(CloseReport::left_running);
        match (&self.left_running, known) {
            // Without a guard the engine knows some of them only.
            (Some(pids), Some(known)) if pids.len() as u64 > known => {
                let (some, all) = (format!("\"left_running\":{known}"), pids.len());
                json = json.replacen(&some, &format!("\"left_running\":{all}"), 1);
                json.push('}');
            }
            (_, Some(_)) => json.push('}'),
            (Some(pids), None) => {
                json.push_str(&format!(",\"left_running\":{}}}", pids.len()));
            }
            (None, None) => json.push_str(",\"left_running\":null}"),
        }
        json
    }
}

/// Continues the one-line summary of the close.
impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.undelivered_records > 0 {
            let (records, bytes) = (self.undelivered_records, self.undelivered_bytes);
            write!(f, "; stdout did not take {records} records ({bytes} bytes)")?;
        }
        if self.undelivered_stderr_lines > 0 {
            write!(f, "; stderr did not take {} lines", self.undelivered_stderr_lines)?;
        }
        if self.stdin_refused_records > 0 {
            write!(f, "; {} records on stdin refused", self.stdin_refused_records)?;
        }
        if self.stdin_unsent_bytes > 0 {
            write!(f, "; {} bytes of stdin not sent", self.stdin_unsent_bytes)?;
        }
        if let Some(pids) = self.left_running.as_ref().filter(|pids| !pids.is_empty()) {
            let shown: Vec<String> = pids.iter().take(PIDS_SHOWN).map(u32::to_string).collect();
            let more = if pids.len() > PIDS_SHOWN { ", ..." } else { "" };
            let (count, shown) = (pids.len(), shown.join(", "));
            write!(f, "; {count} processes of it left running (pids {shown}{more})")?;
        }
        Ok(())
    }
}
