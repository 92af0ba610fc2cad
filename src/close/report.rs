//! What a close did. Filled in by the transport, given to every closer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::close::CloseMode;
use crate::close::ExitStatus;
use crate::counters::{AgentStats, Backend};

/// The stages of a close, in order. A close may pass one over; it never goes back, and never
/// passes over `Release`. docs/close.md has a row for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum CloseStage {
    /// New writes are refused.
    Refuse,
    /// Queued writes go out.
    Flush,
    /// A turn in flight is interrupted.
    Interrupt,
    /// The output falls silent, then stdin is closed.
    EndInput,
    /// The outputs are read on.
    Drain,
    /// SIGTERM was sent; the outputs are read on.
    Terminate,
    /// The pending operations are cancelled and the pipes closed.
    Cut,
    /// SIGKILL was sent.
    Kill,
    /// The rest of the group is killed and the exit status collected.
    Reap,
    /// Every operation is seen final, every descriptor closed.
    Release,
    /// Nothing is left.
    Done,
}

impl CloseStage {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Refuse,
        Self::Flush,
        Self::Interrupt,
        Self::EndInput,
        Self::Drain,
        Self::Terminate,
        Self::Cut,
        Self::Kill,
        Self::Reap,
        Self::Release,
        Self::Done,
    ];

    /// The name in reports, traces and docs/close.md: `end_input` and so on.
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
            Self::Release => "release",
            Self::Done => "done",
        }
    }
}

impl fmt::Display for CloseStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a close began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// `close()`, `abort()` or `close_with()` was called.
    Requested,
    /// The agent exited by itself.
    Exited,
    /// The agent closed its stdout and lived on: nobody could hear it any more.
    OutputEnded,
    /// Every handle was dropped without a close.
    Dropped,
    /// The engine was shut down.
    Shutdown,
    /// Nothing was closed: this process is a fork of the engine's, and the agent was left to its
    /// own.
    Forked,
}

impl CloseReason {
    /// `requested`, `exited`, `output_ended`, `dropped`, `shutdown` or `forked`.
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

/// What a close did. Cheap to clone; every closer of an agent gets the same one.
#[derive(Clone, PartialEq)]
pub struct CloseReport(pub(crate) Arc<Closing>);

/// The report's content while it is being written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Closing {
    pub(crate) backend: Backend,
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
    pub(crate) input_ended_while_busy: Option<bool>,
    pub(crate) output_may_be_lost: bool,
    pub(crate) stats: AgentStats,
    pub(crate) unsent_bytes: u64,
    pub(crate) unsent_records: u64,
    pub(crate) killed_extra: u64,
    pub(crate) outputs_held: Option<bool>,
    pub(crate) stderr_tail: String,
}

impl CloseReport {
    /// The agent's process id. It may belong to somebody else by now: never signal it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The program that ran.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.0.command
    }

    /// Which kernel interface carried the pipes.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.0.backend
    }

    /// Graceful or abort; abort where a graceful close was cut short by one.
    #[must_use]
    pub fn mode(&self) -> CloseMode {
        self.0.mode
    }

    /// Why the close began.
    #[must_use]
    pub fn reason(&self) -> CloseReason {
        self.0.reason
    }

    /// The stage in which the agent's exit was seen; `Refuse` if it was gone before.
    #[must_use]
    pub fn stage(&self) -> CloseStage {
        self.0.ended_by
    }

    /// The stages passed through, in order, with the time spent in each.
    #[must_use]
    pub fn stages(&self) -> &[(CloseStage, Duration)] {
        &self.0.stages
    }

    /// From the first stage to the last.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.0.stages.iter().map(|(_, spent)| *spent).sum()
    }

    /// How the agent ended.
    #[must_use]
    pub fn exit(&self) -> ExitStatus {
        self.0.exit
    }

    /// Why the exit status is not known, where it is [`Unknown`](ExitStatus::Unknown).
    #[must_use]
    pub fn exit_note(&self) -> Option<&str> {
        self.0.exit_note.as_deref()
    }

    /// Time in which the engine thread did not run although a limit of the close was near or past:
    /// the host was stopped, suspended or starved. It was not charged to the agent; the limits moved.
    #[must_use]
    pub fn stalled(&self) -> Duration {
        self.0.stalled
    }

    /// Whether the agent was seen to be stopped (SIGSTOP, a debugger) while the end of its input was
    /// due. SIGTERM, where it comes to that, is followed by SIGCONT.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.0.stopped
    }

    /// Whether the agent was still at work, or still writing, when its input was ended because the
    /// time for that was over. `None` is not known: the agent could not be seen (a hidden `/proc`, a
    /// [`quiet_period`](crate::ClosePolicy::quiet_period) of zero), or its input was cut by an abort.
    #[must_use]
    pub fn input_ended_while_busy(&self) -> Option<bool> {
        self.0.input_ended_while_busy
    }

    /// Whether the agent may have had output that was never read, beyond what
    /// [`stats`](Self::stats) counts: its input was ended while it was at work or could not be seen,
    /// it was made to leave by a signal, or its pipes were cut while it could still write.
    ///
    /// False says that the agent was seen to be done, or ended its output by itself.
    #[must_use]
    pub fn output_may_be_lost(&self) -> bool {
        self.0.output_may_be_lost
    }

    /// Everything counted over the agent's life.
    #[must_use]
    pub fn stats(&self) -> &AgentStats {
        &self.0.stats
    }

    /// Bytes of accepted writes that never reached the pipe.
    #[must_use]
    pub fn unsent_bytes(&self) -> u64 {
        self.0.unsent_bytes
    }

    /// Records not sent in full.
    #[must_use]
    pub fn unsent_records(&self) -> u64 {
        self.0.unsent_records
    }

    /// Processes of the agent's group, beside the agent itself, that were alive when the close
    /// signalled them and were seen dead after it. Those that were dead already do not count. A
    /// process whose parent had left before the agent was killed may be missed.
    #[must_use]
    pub fn killed_extra(&self) -> u64 {
        self.0.killed_extra
    }

    /// Whether another process held stdout or stderr after the agent had exited, and did not let go
    /// of it within [`exit_drain`](crate::ClosePolicy::exit_drain). `None` is not known: the agent
    /// itself was still alive when the outputs were cut, or an abort did not wait to see it.
    #[must_use]
    pub fn outputs_held(&self) -> Option<bool> {
        self.0.outputs_held
    }

    /// The end of what the agent said on stderr; invalid UTF-8 is replaced.
    #[must_use]
    pub fn stderr_tail(&self) -> &str {
        &self.0.stderr_tail
    }

    /// The report as JSON, schema 1, on one line. Times are microseconds.
    #[must_use]
    pub fn to_json(&self) -> String {
        let inner = &*self.0;
        let stats = &inner.stats;
        let wire = Wire {
            schema: 1,
            backend: inner.backend.as_str(),
            pid: inner.pid,
            command: &inner.command,
            close: WireClose {
                mode: inner.mode.as_str(),
                reason: inner.reason.as_str(),
                stage: inner.ended_by.as_str(),
                total_us: micros(self.total()),
                stalled_us: micros(inner.stalled),
                stages: inner
                    .stages
                    .iter()
                    .map(|(stage, spent)| WireStage { stage: stage.as_str(), us: micros(*spent) })
                    .collect(),
            },
            exit: WireExit {
                code: inner.exit.code(),
                signal: inner.exit.signal(),
                unknown: matches!(inner.exit, ExitStatus::Unknown).then_some(true),
                still_running: matches!(inner.exit, ExitStatus::StillRunning).then_some(true),
                note: inner.exit_note.as_deref(),
            },
            stopped: inner.stopped,
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
            unsent_bytes: inner.unsent_bytes,
            unsent_records: inner.unsent_records,
            killed_extra: inner.killed_extra,
            outputs_held: inner.outputs_held,
            stderr_bytes: stats.stderr_bytes,
            stderr_lines_dropped: stats.stderr_lines_dropped,
            stderr_tail: &inner.stderr_tail,
        };
        // A struct of numbers and text always serialises.
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

impl fmt::Debug for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One line for a person: how the agent ended, and everything that was lost or may have been.
impl fmt::Display for CloseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        let stats = &inner.stats;
        if inner.reason == CloseReason::Forked {
            return write!(
                f,
                "pid {} not closed: it is an agent of the process that this one was forked from",
                inner.pid
            );
        }
        write!(
            f,
            "pid {} closed ({}, {}) in {:.1} ms at stage {}: {}",
            inner.pid,
            inner.mode.as_str(),
            inner.backend.as_str(),
            self.total().as_secs_f64() * 1e3,
            inner.ended_by,
            inner.exit,
        )?;
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
        if inner.input_ended_while_busy == Some(true) {
            f.write_str("; its input was ended while it was at work")?;
        }
        if inner.stopped {
            f.write_str("; it was stopped")?;
        }
        if inner.killed_extra > 0 {
            write!(f, "; {} more of its group killed", inner.killed_extra)?;
        }
        if inner.outputs_held == Some(true) {
            f.write_str("; its output was still held by another process")?;
        }
        if inner.stalled >= Duration::from_millis(100) {
            write!(f, "; the host did not run for {:.0} ms", inner.stalled.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
struct Wire<'a> {
    schema: u32,
    backend: &'a str,
    pid: u32,
    command: &'a str,
    close: WireClose<'a>,
    exit: WireExit<'a>,
    stopped: bool,
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
    unsent_bytes: u64,
    unsent_records: u64,
    killed_extra: u64,
    outputs_held: Option<bool>,
    stderr_bytes: u64,
    stderr_lines_dropped: u64,
    stderr_tail: &'a str,
}

#[derive(Serialize)]
struct WireClose<'a> {
    mode: &'a str,
    reason: &'a str,
    stage: &'a str,
    total_us: u64,
    stalled_us: u64,
    stages: Vec<WireStage<'a>>,
}

#[derive(Serialize)]
struct WireStage<'a> {
    stage: &'a str,
    us: u64,
}

#[derive(Serialize)]
struct WireExit<'a> {
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

/// What a shutdown did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Agents alive when it began.
    pub agents: usize,
    /// Those that were not closed when the deadline passed and were aborted.
    pub aborted: usize,
    /// From the call to the last agent gone.
    pub total: Duration,
}
