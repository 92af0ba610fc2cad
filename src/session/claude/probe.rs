//! Floor 4. Asks a CLI for its version: once for each file, and never on the way of a session.
//!
//! The CLI is an agent of the session's engine like any other, so that one which ignores signals,
//! floods its output or closes it is ended and reaped as such.

use std::ffi::OsString;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::command::AgentCommand;
use crate::config::{Framing, Limits};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::foreign;
use crate::process::Executable;
use crate::record::{Event, Preview};
use crate::session::host::{Host, within};
use crate::sync::SetOnce;

use super::version::CliVersion;

/// From the spawn to the line with the version. The real one takes 0.03 s, its Node build 0.4 s.
const LIMIT: Duration = Duration::from_secs(2);
/// The line, and room for a shim that says more.
const LINE_MAX: usize = 4 << 10;
/// So many CLIs are remembered.
const KNOWN_MAX: usize = 256;
const STAGE: &str = "version";

/// Which CLI: its file as it was executed, and what comes before the options.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    program: Executable,
    args: Vec<OsString>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    answer: SetOnce<Result<CliVersion>>,
    warned: AtomicBool,
}

static KNOWN: Mutex<Vec<Arc<Entry>>> = Mutex::new(Vec::new());

fn known() -> MutexGuard<'static, Vec<Arc<Entry>>> {
    // No code that holds this lock panics half-way.
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How to ask the CLI of one session.
#[derive(Clone, Debug)]
pub(super) struct Probe(Arc<Asking>);

#[derive(Debug)]
struct Asking {
    engine: Engine,
    /// `claude -v`, in the session's environment.
    command: AgentCommand,
    program: Executable,
    host: Arc<Host>,
}

impl Probe {
    pub(super) fn new(
        engine: &Engine,
        command: AgentCommand,
        program: &Executable,
        host: &Arc<Host>,
    ) -> Self {
        let limits = Limits::new().record_max(LINE_MAX).inbox_high(LINE_MAX).drain_max(LINE_MAX);
        let command = command.limits(limits).framing(Framing::Ndjson).stderr_events(false);
        let (engine, program, host) = (engine.clone(), program.clone(), Arc::clone(host));
        Self(Arc::new(Asking { engine, command, program, host }))
    }

    /// The version, asked for if it is not known. Dropping this future stops nothing: somebody
    /// else may wait for the same answer.
    pub(super) async fn version(&self) -> Result<CliVersion> {
        self.entry().answer.wait().await.unwrap_or_else(|| Err(foreign(STAGE)))
    }

    /// Warns of an old CLI, once for each, in the background.
    pub(super) fn check(&self) {
        let entry = self.entry();
        let host = Arc::clone(&self.0.host);
        match entry.answer.get() {
            Some(answer) => warn(&entry, &answer),
            None => host.spawn(Box::pin(async move {
                if let Some(answer) = entry.answer.wait().await {
                    warn(&entry, &answer);
                }
            })),
        }
    }

    fn entry(&self) -> Arc<Entry> {
        let Asking { command, program, host, .. } = &*self.0;
        let key = Key { program: program.clone(), args: command.args.clone() };
        let entry = {
            let mut known = known();
            // What the process that this one was forked from has asked is answered there.
            known.retain(|entry| entry.answer.is_here());
            if let Some(entry) = known.iter().find(|entry| entry.key == key) {
                return Arc::clone(entry);
            }
            // The file that was there before will not come back.
            known.retain(|entry| entry.key.program.path() != program.path());
            if known.len() >= KNOWN_MAX {
                known.remove(0);
            }
            let entry = Entry { key, answer: SetOnce::new(), warned: AtomicBool::new(false) };
            known.push(Arc::new(entry));
            Arc::clone(&known[known.len() - 1])
        };
        let (asking, answering) = (Arc::clone(&self.0), Answering(Arc::clone(&entry)));
        host.spawn(Box::pin(async move { answering.set(asking.ask().await) }));
        entry
    }
}

/// Whoever waits gets an answer, also where the task is dropped.
struct Answering(Arc<Entry>);

impl Answering {
    fn set(&self, answer: Result<CliVersion>) {
        // What the CLI said will be said again; what kept us from asking may be over next time.
        let lasting = answer.as_ref().map_or_else(|error| error.kind(), |_| ErrorKind::Timeout);
        if !matches!(lasting, ErrorKind::Timeout | ErrorKind::InvalidRecord) {
            known().retain(|entry| !Arc::ptr_eq(entry, &self.0));
        }
        self.0.answer.set(answer);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.0.answer.get().is_none() {
            self.set(Err(Error::new(ErrorKind::Closed, STAGE, "the question was dropped")));
        }
    }
}

fn warn(entry: &Entry, answer: &Result<CliVersion>) {
    let program = entry.key.program.path().display();
    match answer {
        Ok(version) if *version >= CliVersion::OLDEST => {}
        Ok(version) => {
            if !entry.warned.swap(true, Ordering::Relaxed) {
                let oldest = CliVersion::OLDEST;
                crate::trace::warn!(%version, %program, "this Claude Code is older than {oldest}: update it");
            }
        }
        Err(error) => crate::trace::debug!(%error, %program, "the version of the CLI is not known"),
    }
}

impl Asking {
    async fn ask(&self) -> Result<CliVersion> {
        let deadline = self.host.now() + LIMIT;
        let spawn = self.engine.spawn_aside(self.command.clone());
        let mut agent = self.within(deadline, spawn).await??;
        let answer = self.within(deadline, version_of(&mut agent)).await;
        // Whatever it does: killed with its group, and reaped.
        let report = agent.abort().await;
        crate::trace::debug!(%report, "asked the CLI for its version");
        match answer? {
            Ok(version) => Ok(version),
            Err(error) => Err(error.stderr(report.stderr_tail())),
        }
    }

    async fn within<T>(&self, deadline: Instant, future: impl Future<Output = T>) -> Result<T> {
        within(&self.host, deadline, future).await.ok_or_else(|| {
            let what =
                format!("`{} -v` did not say it within {LIMIT:?}", self.program.path().display());
            Error::new(ErrorKind::Timeout, STAGE, what)
        })
    }
}

/// From the first line. Errors that a later try would give, too, are `InvalidRecord`.
async fn version_of(agent: &mut Agent) -> Result<CliVersion> {
    let no_version = |said: String| {
        let what = format!("the CLI does not begin with its version, but with {said}");
        Err(Error::new(ErrorKind::InvalidRecord, STAGE, what))
    };
    match agent.next().await {
        Some(
            Event::Noise(sample)
            | Event::Truncated(sample)
            | Event::Oversized(sample)
            | Event::Malformed { sample, .. },
        ) => match CliVersion::parse(String::from_utf8_lossy(sample.head()).trim_start()) {
            Some(version) => Ok(version),
            None => no_version(sample.to_string()),
        },
        Some(Event::Record(record)) => {
            no_version(Preview::new(record.len() as u64, record.as_bytes(), 160).to_string())
        }
        Some(Event::Exit(status)) => {
            let what = format!("the CLI did not say it and left with {status}");
            Err(Error::new(ErrorKind::AgentError, STAGE, what).exit(status))
        }
        _ => Err(Error::new(ErrorKind::Closed, STAGE, "the CLI is gone")),
    }
}
