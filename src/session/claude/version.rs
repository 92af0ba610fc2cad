//! The version of a CLI. `claude -v` runs once for each file of a CLI, and never delays a session.
//!
//! It runs as an agent of the session's engine. If it ignores signals, floods its output or closes it,
//! the engine ends and reaps it like any other agent.

use std::ffi::OsString;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::command::AgentCommand;
use crate::config::Limits;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::framing::Framing;
use crate::origin::foreign;
use crate::process::Executable;
use crate::record::{Event, Preview};
use crate::session::executor::{Executor, with_deadline};
use crate::sync::SetOnce;

/// The limit from the spawn to the line with the version. A native build takes about 0.03 s, a Node
/// build 0.4 s.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of a line: room for a shim that prints more than the version.
const LINE_MAX: usize = 4 << 10;
/// CLIs whose versions are kept.
const KNOWN_MAX: usize = 256;
const OPERATION: &str = "version";

/// The version of Claude Code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct CliVersion {
    /// 2 in 2.1.330.
    pub major: u64,
    /// 1 in 2.1.330.
    pub minor: u64,
    /// 330 in 2.1.330.
    pub patch: u64,
}

impl CliVersion {
    /// The oldest version that sessions support, 2.0.0. A session with an older CLI logs a warning.
    pub const OLDEST: Self = Self { major: 2, minor: 0, patch: 0 };

    /// Parses three numbers with dots between them at the beginning of a text. The rest of the text
    /// is ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, rest) = leading_number(text)?;
        let (minor, rest) = leading_number(rest.strip_prefix('.')?)?;
        let (patch, _) = leading_number(rest.strip_prefix('.')?)?;
        Some(Self { major, minor, patch })
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

impl fmt::Display for CliVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Identifies a CLI: its file as it was executed, and the arguments before the options.
#[derive(Clone, Debug, PartialEq)]
struct CliKey {
    program: Executable,
    args: Vec<OsString>,
}

/// The version of one CLI, or the question for it.
#[derive(Debug)]
struct KnownVersion {
    key: CliKey,
    answer: SetOnce<Result<CliVersion>>,
    warned: AtomicBool,
}

static KNOWN: Mutex<Vec<Arc<KnownVersion>>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<Arc<KnownVersion>>> {
    // No code that holds this lock panics half-way.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the CLI of one session for its version.
#[derive(Clone, Debug)]
pub(super) struct VersionProbe(Arc<VersionQuery>);

#[derive(Debug)]
struct VersionQuery {
    engine: Engine,
    /// `claude -v`, in the session's environment.
    command: AgentCommand,
    program: Executable,
    executor: Arc<Executor>,
}

impl VersionProbe {
    pub(super) fn new(
        engine: &Engine,
        command: AgentCommand,
        program: &Executable,
        executor: &Arc<Executor>,
    ) -> Self {
        // The limits are small, because a CLI that floods its output must not fill the memory.
        let limits = Limits::new().record_max(LINE_MAX).inbox_high(LINE_MAX).drain_max(LINE_MAX);
        let command = command.limits(limits).framing(Framing::Ndjson).stderr_events(false);
        Self(Arc::new(VersionQuery {
            engine: engine.clone(),
            command,
            program: program.clone(),
            executor: Arc::clone(executor),
        }))
    }

    /// Returns the version, and runs `claude -v` if it is not known. Dropping the future does not stop
    /// that, because other tasks may wait for the same answer.
    pub(super) async fn version(&self) -> Result<CliVersion> {
        self.entry().answer.wait().await.unwrap_or_else(|| Err(foreign(OPERATION)))
    }

    /// Logs a warning if the CLI is old, once per CLI and in the background.
    pub(super) fn warn_if_old(&self) {
        let entry = self.entry();
        let executor = Arc::clone(&self.0.executor);
        match entry.answer.get() {
            Some(answer) => log_if_old(&entry, &answer),
            None => executor.spawn(Box::pin(async move {
                if let Some(answer) = entry.answer.wait().await {
                    log_if_old(&entry, &answer);
                }
            })),
        }
    }

    /// Returns the entry of the CLI. A new entry begins the question.
    fn entry(&self) -> Arc<KnownVersion> {
        let VersionQuery { command, program, executor, .. } = &*self.0;
        let key = CliKey { program: program.clone(), args: command.args.clone() };
        let entry = {
            // The look and the new entry share one lock, so sessions that start together ask once.
            let mut known = known();
            // In a forked child, the answer to a question of the parent arrives in the parent only.
            known.retain(|entry| entry.answer.is_here());
            if let Some(entry) = known.iter().find(|entry| entry.key == key) {
                return Arc::clone(entry);
            }
            // A file that was replaced does not come back.
            known.retain(|entry| entry.key.program.path() != program.path());
            if known.len() >= KNOWN_MAX {
                known.remove(0);
            }
            let entry =
                KnownVersion { key, answer: SetOnce::new(), warned: AtomicBool::new(false) };
            known.push(Arc::new(entry));
            Arc::clone(&known[known.len() - 1])
        };
        let (query, answer) = (Arc::clone(&self.0), AnswerGuard(Arc::clone(&entry)));
        executor.spawn(Box::pin(async move { answer.set(query.ask().await) }));
        entry
    }
}

/// Answers the question even if its task is dropped.
struct AnswerGuard(Arc<KnownVersion>);

impl AnswerGuard {
    fn set(&self, answer: Result<CliVersion>) {
        // An answer of the CLI is kept. If the question could not be asked, the next caller asks again.
        let is_kept = match &answer {
            Ok(_) => true,
            Err(error) => matches!(error.kind(), ErrorKind::Timeout | ErrorKind::InvalidRecord),
        };
        // Removed before the answer is set, so a caller that the answer wakes and that asks again
        // finds no old entry.
        if !is_kept {
            known().retain(|entry| !Arc::ptr_eq(entry, &self.0));
        }
        self.0.answer.set(answer);
    }
}

impl Drop for AnswerGuard {
    fn drop(&mut self) {
        if self.0.answer.get().is_none() {
            self.set(Err(Error::new(ErrorKind::Closed, OPERATION, "the question was dropped")));
        }
    }
}

fn log_if_old(entry: &KnownVersion, answer: &Result<CliVersion>) {
    let program = entry.key.program.path().display();
    match answer {
        Ok(version) if *version >= CliVersion::OLDEST => {}
        Ok(version) => {
            // Relaxed: the swap alone decides which caller logs, and no other memory depends on it.
            if !entry.warned.swap(true, Ordering::Relaxed) {
                let oldest = CliVersion::OLDEST;
                crate::trace::warn!(%version, %program, "this Claude Code is older than {oldest}: update it");
            }
        }
        Err(error) => crate::trace::debug!(%error, %program, "the version of the CLI is not known"),
    }
}

impl VersionQuery {
    async fn ask(&self) -> Result<CliVersion> {
        // One deadline for the spawn and the line together.
        let deadline = self.executor.now() + PROBE_TIMEOUT;
        let spawn = self.engine.spawn_aside(self.command.clone());
        let mut agent = self.with_deadline(deadline, spawn).await??;
        let answer = self.with_deadline(deadline, read_version(&mut agent)).await;
        // Kills the process group and reaps the CLI, whatever it does.
        let report = agent.abort().await;
        crate::trace::debug!(%report, "asked the CLI for its version");
        match answer? {
            Ok(version) => Ok(version),
            Err(error) => Err(error.stderr(report.stderr_tail())),
        }
    }

    async fn with_deadline<T>(
        &self,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Result<T> {
        with_deadline(&self.executor, deadline, future).await.ok_or_else(|| {
            let program = self.program.path().display();
            let what = format!("`{program} -v` printed no version within {PROBE_TIMEOUT:?}");
            Error::new(ErrorKind::Timeout, OPERATION, what)
        })
    }
}

/// Reads the version from the first line. An error that a later question would give as well is
/// `InvalidRecord`.
async fn read_version(agent: &mut Agent) -> Result<CliVersion> {
    let no_version = |printed: String| {
        let what = format!("the CLI printed no version, but {printed}");
        Err(Error::new(ErrorKind::InvalidRecord, OPERATION, what))
    };
    // The line with the version is not JSON, so it arrives as an event other than a record.
    match agent.next().await {
        Some(
            Event::Noise(preview)
            | Event::Truncated(preview)
            | Event::Oversized(preview)
            | Event::Malformed { sample: preview, .. },
        ) => match CliVersion::parse(String::from_utf8_lossy(preview.head()).trim_start()) {
            Some(version) => Ok(version),
            None => no_version(preview.to_string()),
        },
        Some(Event::Record(record)) => {
            no_version(Preview::new(record.len() as u64, record.as_bytes(), 160).to_string())
        }
        Some(Event::Exit(status)) => {
            let what = format!("the CLI printed no version and ended with {status}");
            Err(Error::new(ErrorKind::AgentError, OPERATION, what).exit(status))
        }
        _ => Err(Error::new(ErrorKind::Closed, OPERATION, "the CLI is gone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_three_leading_numbers() {
        // A parser that guesses would take a banner for a version, and warn of a new CLI.
        let version = CliVersion::parse("2.1.330 (Claude Code)").expect("a version");
        assert_eq!((version.major, version.minor, version.patch), (2, 1, 330));
        assert_eq!(version.to_string(), "2.1.330");
        assert_eq!(CliVersion::parse("1.0.9-beta.1").expect("a version").patch, 9);
        for text in
            ["", "v2.1.0", "2.1", "2..1", "Claude 2.1.0", "2.1.x", "99999999999999999999.0.0"]
        {
            assert_eq!(CliVersion::parse(text), None, "{text}");
        }
        let below = CliVersion::parse("1.99.99").expect("a version");
        assert!(below < CliVersion::OLDEST && version > CliVersion::OLDEST);
    }
}
