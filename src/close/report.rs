//! The report of a close. The transport fills it in; every task that waits for the close gets it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::close::{CloseMode, ExitStatus};
use crate::counters::{AgentStats, Backend};
use crate::framing::Framing;

/// The stages of a close, in order.
///
/// A close may skip a stage. It never goes back, and it never skips `Release`. docs/guide/close.md
/// describes each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CloseStage {
    /// New writes are refused. A report names this stage where the agent had exited before.
    Refuse,
    /// Queued writes are sent.
    Flush,
    /// A turn in flight is interrupted.
    Interrupt,
    /// The agent falls silent, then stdin is closed.
    EndInput,
    /// The outputs are read until they end.
    Drain,
    /// SIGTERM was sent. The outputs are still read.
    Terminate,
    /// Pending operations are cancelled and the pipes closed.
    Cut,
    /// SIGKILL was sent.
    Kill,
    /// The rest of the group is killed and the exit status is collected.
    Reap,
    /// The container that the agent is the client of is removed.
    Remove,
    /// Every operation has completed and every descriptor is closed.
    Release,
    /// The close is over.
    Done,
}

impl CloseStage {
    /// All stages, in order.
    pub const ALL: [Self; 12] = [
        Self::Refuse,
        Self::Flush,
        Self::Interrupt,
        Self::EndInput,
        Self::Drain,
        Self::Terminate,
        Self::Cut,
        Self::Kill,
        Self::Reap,
        Self::Remove,
        Self::Release,
        Self::Done,
    ];

    /// Returns the name in reports and traces, such as `end_input`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Flush => "flush",
            Self::Interrupt => "interrupt",
            Self::EndInput => "end_input",
            Self::Drain => "drain",
            Self::Terminate => "terminate",
            Self::Cut => "cut",
            Self::Kill => "kill",
            Self::Reap => "reap",
            Self::Remove => "remove",
            Self::Release => "release",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for CloseStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason why a close began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// `close()`, `abort()` or `close_with()` was called.
    Requested,
    /// The agent exited by itself.
    Exited,
    /// The agent closed its stdout but did not exit.
    OutputEnded,
    /// All handles of the agent were dropped without a close.
    Dropped,
    /// The engine was shut down.
    Shutdown,
    /// Nothing was closed: this process is a fork of the one that owns the engine. The agent runs on.
    Forked,
}

impl CloseReason {
    /// Returns `requested`, `exited`, `output_ended`, `dropped`, `shutdown` or `forked`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Exited => "exited",
            Self::OutputEnded => "output_ended",
            Self::Dropped => "dropped",
            Self::Shutdown => "shutdown",
            Self::Forked => "forked",
        }
    }
}

/// The report of a close: which stage ended it, the exit status, and what was lost.
///
/// All tasks that close an agent get the same report. It is cheap to clone.
#[derive(Clone, PartialEq)]
pub struct CloseReport(pub(crate) Arc<ReportData>);

/// How the removal of an agent's container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerEnd {
    /// `None`: not known.
    pub(crate) removed: Option<bool>,
    pub(crate) note: Option<String>,
}

/// The content of a report, while the transport fills it in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReportData {
    pub(crate) backend: Backend,
    pub(crate) fallback: Option<Arc<str>>,
    pub(crate) pid: u32,
    pub(crate) command: String,
    pub(crate) mode: CloseMode,
    pub(crate) reason: CloseReason,
    pub(crate) ended_by: CloseStage,
    pub(crate) stages: Vec<(CloseStage, Duration)>,
    pub(crate) stalled: Duration,
    pub(crate) exit: ExitStatus,
    pub(crate) exit_note: Option<String>,
    pub(crate) stopped: bool,
    pub(crate) interrupt_answered: Option<bool>,
    pub(crate) input_ended_while_busy: Option<bool>,
    pub(crate) output_may_be_lost: bool,
    pub(crate) stats: AgentStats,
    pub(crate) unsent_bytes: u64,
    pub(crate) unsent_records: u64,
    pub(crate) killed_extra: u64,
    pub(crate) strays_killed: u64,
    pub(crate) left_running: Option<u64>,
    pub(crate) signals_refused: Option<String>,
    pub(crate) outputs_held: Option<bool>,
    /// `None` if the agent is no client of a container.
    pub(crate) container: Option<ContainerEnd>,
    pub(crate) stderr_tail: String,
}

impl CloseReport {
    /// Returns the agent's process id. The kernel may have given it to another process: never signal it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Returns the program that ran.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.0.command
    }

    /// Returns the kernel interface that carried the pipes.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.0.backend
    }

    /// Returns why the engine has fallen back to epoll; `None` if it has not.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.0.fallback.as_deref()
    }

    /// Returns the mode: abort if an abort cut a graceful close short.
    #[must_use]
    pub fn mode(&self) -> CloseMode {
        self.0.mode
    }

    /// Returns why the close began.
    #[must_use]
    pub fn reason(&self) -> CloseReason {
        self.0.reason
    }

    /// Returns the stage in which the agent exited: `Refuse` if it had exited before the close.
    #[must_use]
    pub fn stage(&self) -> CloseStage {
        self.0.ended_by
    }

    /// Returns the stages of the close, in order, with the time spent in each.
    #[must_use]
    pub fn stages(&self) -> &[(CloseStage, Duration)] {
        &self.0.stages
    }

    /// Returns the duration of the close, from the first stage to the last.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.0.stages.iter().map(|(_, spent)| *spent).sum()
    }

    /// Returns how the agent ended.
    #[must_use]
    pub fn exit(&self) -> ExitStatus {
        self.0.exit
    }

    /// Returns why the exit status is [`Unknown`](ExitStatus::Unknown), if it is.
    #[must_use]
    pub fn exit_note(&self) -> Option<&str> {
        self.0.exit_note.as_deref()
    }

    /// Returns the time in which the engine thread did not run although a limit of the close was near
    /// or past, because the host was stopped, suspended or starved of processor time. The limits
    /// moved by this time; it was not charged to the agent.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        self.0.stalled
    }

    /// Returns whether the agent was stopped, by SIGSTOP or a debugger, when its input was to end.
    /// If the close gets as far as SIGTERM, SIGCONT follows it.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.0.stopped
    }

    /// Returns whether the agent ended its turn after the interrupt of its session, or answered the
    /// farewell of its session. `None` if the close sent neither.
    #[must_use]
    pub fn interrupt_answered(&self) -> Option<bool> {
        self.0.interrupt_answered
    }

    /// Returns whether the agent was still busy or writing when its input ended, because the time
    /// limit had passed. `None` means unknown: the agent could not be observed (a hidden `/proc`, or
    /// a [`quiet_period`](crate::ClosePolicy::quiet_period) of zero), writes were still queued, or an abort
    /// cut its input.
    #[must_use]
    pub fn input_ended_while_busy(&self) -> Option<bool> {
        self.0.input_ended_while_busy
    }

    /// Returns whether the agent may have had output that was never read, beyond what
    /// [`stats`](Self::stats) counts. That is so if its input ended while it was busy or could not be
    /// observed, if it exited on a signal or its exit status is unknown, or if its pipes were cut while
    /// it, or another process that had them, could still write.
    ///
    /// `false` means that the agent was seen to be idle, or ended its output by itself, and that all of its
    /// output was read.
    #[must_use]
    pub fn output_may_be_lost(&self) -> bool {
        self.0.output_may_be_lost
    }

    /// Returns the counters of the agent's whole life.
    #[must_use]
    pub fn stats(&self) -> &AgentStats {
        &self.0.stats
    }

    /// Returns how many bytes of accepted writes never reached the pipe.
    #[must_use]
    pub fn unsent_bytes(&self) -> u64 {
        self.0.unsent_bytes
    }

    /// Returns how many accepted records were not sent in full.
    #[must_use]
    pub fn unsent_records(&self) -> u64 {
        self.0.unsent_records
    }

    /// Returns how many processes of the agent's group, besides the agent itself, were alive when the
    /// close signalled them and were dead afterwards. A process whose parent had exited before the
    /// agent was killed may be missed.
    #[must_use]
    pub fn killed_extra(&self) -> u64 {
        self.0.killed_extra
    }

    /// Returns which signals of the close the kernel refused to send, such as `SIGTERM was refused:
    /// EPERM`, or `None` if it refused none. The agent, or its first process, runs as another user
    /// then, as `sudo` does, and this process may not signal it.
    #[must_use]
    pub fn signals_refused(&self) -> Option<&str> {
        self.0.signals_refused.as_deref()
    }

    /// Returns how many processes outside the agent's group, such as background jobs and daemons, were
    /// alive when the agent had exited and were killed. Only an engine with a
    /// [`guard`](crate::EngineBuilder::guard) kills them.
    #[must_use]
    pub fn strays_killed(&self) -> u64 {
        self.0.strays_killed
    }

    /// Returns how many processes outside the agent's group live on. `None` means unknown: without a
    /// [`guard`](crate::EngineBuilder::guard) only descendants are known that the close has met.
    #[must_use]
    pub fn left_running(&self) -> Option<u64> {
        self.0.left_running
    }

    /// Returns whether another process kept stdout or stderr open for longer than
    /// [`exit_drain`](crate::ClosePolicy::exit_drain) after the agent had exited. `None` means
    /// unknown: the agent was still alive when the outputs were cut, or an abort did not wait.
    #[must_use]
    pub fn outputs_held(&self) -> Option<bool> {
        self.0.outputs_held
    }

    /// Returns whether the container of the agent is gone. `None` means unknown, or that the agent is
    /// no [container](crate::AgentCommand::container).
    #[must_use]
    pub fn container_removed(&self) -> Option<bool> {
        self.0.container.as_ref()?.removed
    }

    /// Returns why the container of the agent is not known to be gone, if it is not.
    #[must_use]
    pub fn container_note(&self) -> Option<&str> {
        self.0.container.as_ref()?.note.as_deref()
    }

    /// Returns the end of the agent's stderr. Invalid UTF-8 is replaced.
    #[must_use]
    pub fn stderr_tail(&self) -> &str {
        &self.0.stderr_tail
    }

    /// Returns the report as one line of JSON, schema 1. Times are microseconds.
    #[must_use]
    pub fn to_json(&self) -> String {
        // A struct of numbers and text always serializes.
        serde_json::to_string(&self.json()).unwrap_or_default()
    }

    fn json(&self) -> JsonReport<'_> {
        let inner = &*self.0;
        let stats = &inner.stats;
        JsonReport {
            schema: 1,
            backend: inner.backend.as_str(),
            fallback: inner.fallback.as_deref(),
            pid: inner.pid,
            command: &inner.command,
            close: JsonClose {
                mode: inner.mode.as_str(),
                reason: inner.reason.as_str(),
                stage: inner.ended_by.as_str(),
                total_us: micros(self.total()),
                stalled_us: micros(inner.stalled),
                stages: inner
                    .stages
                    .iter()
                    .map(|(stage, spent)| JsonStage { stage: stage.as_str(), us: micros(*spent) })
                    .collect(),
            },
            exit: JsonExit {
                code: inner.exit.code(),
                signal: inner.exit.signal(),
                unknown: matches!(inner.exit, ExitStatus::Unknown).then_some(true),
                still_running: matches!(inner.exit, ExitStatus::StillRunning).then_some(true),
                note: inner.exit_note.as_deref(),
            },
            stopped: inner.stopped,
            interrupt_answered: inner.interrupt_answered,
            input_ended_while_busy: inner.input_ended_while_busy,
            output_may_be_lost: inner.output_may_be_lost,
            records_in: stats.records_in,
            bytes_in: stats.bytes_in,
            records_out: stats.records_out,
            bytes_out: stats.bytes_out,
            records_discarded: stats.records_discarded,
            bytes_discarded: stats.bytes_discarded,
            noise: stats.noise,
            malformed: stats.malformed,
            oversized: stats.oversized,
            truncated: stats.truncated,
            truncated_tail_bytes: stats.truncated_tail_bytes,
            output_framing: stats.output_framing.map(Framing::as_str),
            framing_mismatch: stats.framing_mismatch.map(Framing::as_str),
            unsent_bytes: inner.unsent_bytes,
            unsent_records: inner.unsent_records,
            killed_extra: inner.killed_extra,
            strays_killed: inner.strays_killed,
            left_running: inner.left_running,
            signals_refused: inner.signals_refused.as_deref(),
            outputs_held: inner.outputs_held,
            container_removed: inner.container.as_ref().map(|container| container.removed),
            container_note: self.container_note(),
            stderr_bytes: stats.stderr_bytes,
            stderr_lines_dropped: stats.stderr_lines_dropped,
            stderr_tail: &inner.stderr_tail,
        }
    }
}

/// Serializes the report as [`to_json`](CloseReport::to_json) writes it.
#[cfg(feature = "serde")]
impl Serialize for CloseReport {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json().serialize(serializer)
    }
}

impl fmt::Debug for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Writes one line for a person: how the agent ended, and everything that was lost or may have been.
impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        let stats = &inner.stats;
        if inner.reason == CloseReason::Forked {
            return write!(
                f,
                "pid {} not closed: the agent belongs to the process that this one was forked from",
                inner.pid
            );
        }
        write!(
            f,
            "pid {} closed ({}, {}) in {:.1} ms ",
            inner.pid,
            inner.mode.as_str(),
            inner.backend.as_str(),
            self.total().as_secs_f64() * 1e3,
        )?;
        match inner.ended_by {
            CloseStage::Refuse => f.write_str("after the agent had exited")?,
            stage => write!(f, "at stage {stage}")?,
        }
        write!(f, ": {}", inner.exit)?;
        if let Some(note) = &inner.exit_note {
            write!(f, " ({note})")?;
        }
        write!(
            f,
            "; {} records in ({} bytes), {} discarded, {} bytes unsent",
            stats.records_in, stats.bytes_in, stats.records_discarded, inner.unsent_bytes,
        )?;
        let counts = [
            (stats.oversized, "oversized"),
            (stats.malformed, "malformed"),
            (stats.noise, "lines of noise"),
            (stats.truncated, "truncated"),
            (stats.stderr_lines_dropped, "lines of stderr dropped"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, ", {count} {what}")?;
        }
        if inner.output_may_be_lost {
            f.write_str("; output may be lost")?;
        }
        if inner.interrupt_answered == Some(false) {
            f.write_str("; it left the interrupt unanswered")?;
        }
        if inner.input_ended_while_busy == Some(true) {
            f.write_str("; its input ended while it was busy")?;
        }
        if inner.stopped {
            f.write_str("; it was stopped")?;
        }
        if inner.killed_extra > 0 {
            write!(f, "; {} more processes of its group killed", inner.killed_extra)?;
        }
        if inner.strays_killed > 0 {
            write!(f, "; {} background processes of it killed", inner.strays_killed)?;
        }
        if let Some(refused) = &inner.signals_refused {
            write!(f, "; {refused}")?;
        }
        if inner.outputs_held == Some(true) {
            f.write_str("; another process still held its output")?;
        }
        if let Some(note) = self.container_note() {
            write!(f, "; its container may be left: {note}")?;
        }
        if inner.stalled >= Duration::from_millis(100) {
            write!(f, "; the host did not run for {:.0} ms", inner.stalled.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    // `u64` holds more than 500,000 years of microseconds, so the fallback is never seen.
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
struct JsonReport<'a> {
    schema: u32,
    backend: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<&'a str>,
    pid: u32,
    command: &'a str,
    close: JsonClose<'a>,
    exit: JsonExit<'a>,
    stopped: bool,
    interrupt_answered: Option<bool>,
    input_ended_while_busy: Option<bool>,
    output_may_be_lost: bool,
    records_in: u64,
    bytes_in: u64,
    records_out: u64,
    bytes_out: u64,
    records_discarded: u64,
    bytes_discarded: u64,
    noise: u64,
    malformed: u64,
    oversized: u64,
    truncated: u64,
    truncated_tail_bytes: u64,
    output_framing: Option<&'static str>,
    framing_mismatch: Option<&'static str>,
    unsent_bytes: u64,
    unsent_records: u64,
    killed_extra: u64,
    strays_killed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_running: Option<u64>,
    signals_refused: Option<&'a str>,
    outputs_held: Option<bool>,
    /// Left out for an agent that is no container; null if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    container_removed: Option<Option<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_note: Option<&'a str>,
    stderr_bytes: u64,
    stderr_lines_dropped: u64,
    stderr_tail: &'a str,
}

#[derive(Serialize)]
struct JsonClose<'a> {
    mode: &'a str,
    reason: &'a str,
    stage: &'a str,
    total_us: u64,
    stalled_us: u64,
    stages: Vec<JsonStage<'a>>,
}

#[derive(Serialize)]
struct JsonStage<'a> {
    stage: &'a str,
    us: u64,
}

#[derive(Serialize)]
struct JsonExit<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    still_running: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

/// The report of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(Serialize))]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Agents that were alive when the shutdown began.
    pub agents: usize,
    /// Agents that were aborted because the limit passed before they had closed.
    pub aborted: usize,
    /// The time from the call until the last agent was closed.
    pub total: Duration,
}
