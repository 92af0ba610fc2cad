//! `agentpipe run`: passes records from stdin to an agent, and its records to stdout.
//!
//! `event_loop` is the core: one thread that waits in poll(2). `descriptor` moves bytes without blocking,
//! `input`, `output` and `lines` are the three streams, and `agent_lines` prints the agent's stderr.
//! `signals` sets the signal state, `orphans` are the processes that the agent leaves behind, `absence` decides
//! about a reader that takes nothing, and `report` says what was lost.

mod absence;
mod agent_lines;
mod args;
mod descriptor;
mod event_loop;
mod input;
mod lines;
mod orphans;
mod output;
mod report;
mod signals;
mod sys;
mod user;

use std::cell::Cell;
use std::io;
use std::mem::ManuallyDrop;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, AgentStats, Engine, EngineBuilder, Error, ErrorKind};
use rustix::process::DumpableBehavior;

pub(crate) use args::RunArgs;

use super::{say, trace};
use descriptor::{LoopWaker, poll_for};
use event_loop::{EventLoop, RunEnd};
use lines::{Lines, Stderr};
use orphans::Orphans;
use report::ReportTarget;
use signals::Signals;

/// agentpipe itself failed, or the agent succeeded and records of it were lost.
const FAILED: u8 = 125;
/// The program exists and cannot be run, as in a shell.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such program, as in a shell.
const NOT_FOUND: u8 = 127;
/// The time from the first signal to the end while the agent is not spawned yet.
const HANGING_EXEC: Duration = Duration::from_millis(800);
/// The longest wait for a slow stderr to take the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);
/// stdout was closed: the code that a shell reports for a program killed by SIGPIPE.
const OUTPUT_GONE: u8 = 141;

pub(crate) fn main(args: &RunArgs) -> ExitCode {
    // Before the engine starts threads, because they inherit the signal mask.
    let started = Signals::take_over().and_then(|signals| Ok((signals, LoopWaker::new()?)));
    let (signals, waker) = match started {
        Ok(started) => started,
        Err(error) => {
            say(format_args!("start: no descriptor for signals: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    if !args.dumpable {
        // Otherwise an agent of the same user reaches the memory and the descriptors of this process
        // in `/proc`. The kernel does not refuse the call.
        let _always = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    let lines = Lines::new(Arc::clone(&waker));
    let mut stderr = Stderr::new(lines.clone());
    trace::start(move || lines.clone());
    let hangs = Cell::new(false);
    let code = match ReportTarget::open(args.report.as_deref()) {
        Ok(target) => {
            if let ReportTarget::Stderr = target {
                stderr.lines.expect_report();
            }
            let hangs = &hangs;
            Host { args, waker, signals: &signals, target: &target, hangs }.run(&mut stderr)
        }
        Err(why) => {
            stderr.lines.say(format_args!("{why}"));
            FAILED
        }
    };
    stderr.finish(lines::PATIENCE, LAST_LINES, &signals);
    if hangs.get() {
        // The end of `main` waits up to 5 s for an agent or a spawn that does not end.
        sys::exit_now(code);
    }
    ExitCode::from(code)
}

struct Host<'a> {
    args: &'a RunArgs,
    waker: Arc<LoopWaker>,
    signals: &'a Signals,
    target: &'a ReportTarget,
    /// An agent or its exec did not end in time.
    hangs: &'a Cell<bool>,
}

/// The error line and the exit code of a run without an agent.
struct NotStarted(String, u8);

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::ProgramNotFound => NOT_FOUND,
            ErrorKind::ProgramNotExecutable => NOT_EXECUTABLE,
            _ => FAILED,
        };
        Self(error.to_string(), code)
    }
}

impl Host<'_> {
    fn run(&self, stderr: &mut Stderr) -> u8 {
        // `exit` waits for the threads of an engine that was dropped, and they wait for an agent
        // that cannot be killed. So it is dropped only once its agent is known to have ended.
        let started = self.start(stderr);
        let (engine, mut orphans, agent, came) = match started {
            Ok(started) => started,
            Err(NotStarted(why, code)) => {
                stderr.lines.say(format_args!("{why}"));
                let error = serde_json::to_string(&why).unwrap_or_default();
                let reported = self.report(&format!("{{\"schema\":1,\"error\":{error}}}"), stderr);
                return if reported { code } else { FAILED };
            }
        };
        let pid = agent.pid();
        orphans.spare(pid);
        orphans.reap();
        let Self { args, target, signals, .. } = self;
        let waker = Arc::clone(&self.waker);
        let events = EventLoop::new(args, target, waker, signals, &mut orphans, stderr, agent);
        let mut end = events.run(came);
        if end.report.as_ref().is_some_and(|report| report.exit().shell_code().is_some()) {
            // The agent was reaped, so its engine thread has nothing left that could delay `exit`.
            drop(ManuallyDrop::into_inner(engine));
        } else {
            self.hangs.set(true);
        }
        if end.report.is_some() {
            end.losses.left_running = orphans.settled(pid, self.signals);
        }
        self.conclude(end, pid, stderr)
    }

    fn start(
        &self,
        stderr: &mut Stderr,
    ) -> Result<(ManuallyDrop<Engine>, Orphans, Agent, u32), NotStarted> {
        // First, because the engine opens descriptors, which are not those that the parent left.
        let command = self.args.agent().map_err(|why| NotStarted(why, FAILED))?;
        // There is one agent, so its own limit is enough.
        let engine =
            Engine::builder().drain_total_max(usize::MAX).backend(self.args.backend.into());
        let (engine, no_guard) = self.build(engine)?;
        let engine = ManuallyDrop::new(engine);
        // After the guard, which is not the agent's, and before the agent: its orphans would go elsewhere
        // until then.
        let orphans = Orphans::adopt();
        let (agent, came) = self.spawn(&engine, command, stderr)?;
        // Without an agent there is nothing to warn of.
        if let Some(error) = no_guard {
            let what = "the agent may outlive this command (--no-guard hides this line)";
            stderr.lines.say(format_args!("{error}; {what}"));
        }
        Ok((engine, orphans, agent, came))
    }

    /// Builds the engine with a guard, or without one if there can be none, because the records matter more
    /// than what is left if this process is killed. Returns why there is none.
    fn build(&self, engine: EngineBuilder) -> Result<(Engine, Option<Error>), Error> {
        match engine.clone().guard(!self.args.no_guard).build() {
            Err(error) if error.kind() == ErrorKind::GuardUnavailable => {
                Ok((engine.build()?, Some(error)))
            }
            built => Ok((built?, None)),
        }
    }

    /// Spawns the agent, and returns it with the number of signals that came meanwhile. After a signal the
    /// spawn is completed, because an exit at this point could leave the agent running. The wait is bounded:
    /// an exec may hang, for example on a dead network file system.
    fn spawn(
        &self,
        engine: &Engine,
        command: AgentCommand,
        stderr: &mut Stderr,
    ) -> Result<(Agent, u32), NotStarted> {
        let waker = Waker::from(Arc::clone(&self.waker));
        let context = &mut Context::from_waker(&waker);
        let mut spawning = pin!(engine.spawn(command));
        let mut signals = 0;
        let mut first: Option<(i32, Instant)> = None;
        loop {
            self.waker.reset();
            if let Poll::Ready(agent) = spawning.as_mut().poll(context) {
                return Ok((agent?, signals));
            }
            while let Some(signal) = self.signals.next() {
                signals += 1;
                first.get_or_insert_with(|| (signal, Instant::now()));
            }
            let left = first.map(|(_, came)| HANGING_EXEC.saturating_sub(came.elapsed()));
            if let Some((signal, _)) = first
                && left.is_some_and(|left| left.is_zero())
            {
                self.hangs.set(true);
                let why = format!("spawn: signal {signal} came, and the exec of the agent hangs");
                return Err(NotStarted(why, u8::try_from(128 + signal).unwrap_or(FAILED)));
            }
            stderr.flush(Instant::now());
            poll_for(&mut [self.waker.poll_fd(), self.signals.poll_fd()], left);
        }
    }

    fn conclude(&self, end: RunEnd, pid: u32, stderr: &mut Stderr) -> u8 {
        let RunEnd { report, mut losses, stdout_failed, hurried, left } = end;
        let patience = if hurried { Duration::ZERO } else { lines::PATIENCE };
        stderr.finish(patience, left, self.signals);
        stderr.give_up();

        let stats = report.as_ref().map(|report| *report.stats()).unwrap_or_default();
        // Counted last, because threads of the engine may add traces at any time.
        losses.undelivered_stderr_lines = stats.stderr_lines_dropped + stderr.undelivered();
        let lost = records_lost(&stats, losses.undelivered_records);
        let code = report.as_ref().and_then(|report| report.exit().shell_code());
        let mut code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED);
        match &report {
            Some(report) if !self.args.quiet => {
                stderr.lines.say_last(&format!("agentpipe: {report}{losses}"));
            }
            Some(_) => {}
            None => stderr.lines.say_last(&format!(
                "agentpipe: pid {pid} is not closed, and there is no more time for it{losses}"
            )),
        }
        match stdout_failed {
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => code = OUTPUT_GONE,
            Some(_) => code = FAILED,
            None => {}
        }
        if code == 0
            && let Some(lost) = lost
        {
            stderr.lines.say_last(&format!("agentpipe: exit code {FAILED} in place of 0: {lost}"));
            code = FAILED;
        }
        let reported = self.report(&losses.in_json(report.as_ref().ok_or(pid)), stderr);
        if reported { code } else { FAILED }
    }

    /// Writes the report. Returns false if it cannot be written, and prints why.
    fn report(&self, json: &str, stderr: &mut Stderr) -> bool {
        if let Err(why) = self.target.write(json) {
            stderr.lines.say_last(&format!("agentpipe: {why}"));
            return false;
        }
        if let ReportTarget::Stderr = self.target {
            stderr.lines.say_last(json);
            stderr.finish(lines::PATIENCE, LAST_LINES, self.signals);
            return stderr.is_written();
        }
        true
    }
}

/// Returns one line about records that the agent wrote and stdout did not get, if there are any.
fn records_lost(stats: &AgentStats, undelivered: u64) -> Option<String> {
    let counts = [
        (stats.oversized, "above the limit (--record-max)"),
        (stats.records_discarded, "discarded while the agent was closed"),
        (undelivered, "not taken by stdout"),
    ];
    let named = counts.iter().filter(|(count, _)| *count > 0);
    let named: Vec<String> = named.map(|(count, how)| format!("{count} {how}")).collect();
    (!named.is_empty()).then(|| format!("records of the agent were lost: {}", named.join(", ")))
}
