//! Group `shutdown`: from the decision to close until the agent is reaped.

use std::time::Duration;

use agentpipe::{Agent, ClosePolicy, CloseReport, Limits};

use super::child::{PlainChild, await_alive, await_blocked};
use super::counts::{Closes, Counts, ProcessUse, each};
use super::scenario::{Run, Scenario};
use super::setup::{Setup, exited, next_record};
use super::stopwatch::Took;
use super::wait::{BenchResult, all, timed, within};

/// An idle agent has been silent for longer than the quiet period of a close.
const SILENCE: Duration = Duration::from_millis(6);

/// Bytes that the agent of `flush_1m` writes.
const FLUSH: u64 = 1 << 20;

/// How long the peer of `flush_1m` waits at each stage; other programs wait for seconds.
const FLUSH_WAIT: Duration = Duration::from_millis(20);

/// How long every contestant of `close_blocked_graceful` waits before SIGTERM.
const GRACEFUL_WAIT: Duration = Duration::from_millis(40);

/// Agents of `close_100`.
const AGENTS: u64 = 100;

/// On a busy machine some of the hundred wait for a CPU for longer than the default grace of an abort.
/// A kill has to mean that a pipe was not closed.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// A hundred closes of 300 ms each, one after another, are a figure for the gate, not a failure.
const HUNDRED_MAX: Duration = Duration::from_secs(60);

/// The built-in agent says once that it has started.
const IDLE: [&str; 2] = ["--records", "1"];
const FLUSHING: [&str; 5] = ["--flood", "1m", "--sigterm-restart", "--record-size", "4096"];
/// Blocked on a full pipe; restarts its write on SIGTERM.
const BLOCKED: [&str; 4] = ["--flood", "--sigterm-restart", "--record-size", "4096"];

pub(super) fn open_idle<'a>(
    setup: &'a Setup,
    _: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    Ok(Box::new(Idle { setup, closes: Closes::default() }))
}

/// An agent that waits for input is closed gracefully.
struct Idle<'a> {
    setup: &'a Setup,
    closes: Closes,
}

impl Idle<'_> {
    /// Waits until the agent counts as idle. Fails if it exits meanwhile.
    fn await_idle(&self, pid: u32) -> BenchResult<()> {
        let time = if self.setup.is_own() { self.setup.warm_up.max(SILENCE) } else { SILENCE };
        await_alive(pid, time)
    }
}

impl Run for Idle<'_> {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        let mut agent = self.setup.spawn(&IDLE, Limits::new())?;
        if !self.setup.is_own() {
            next_record(&mut agent)?;
        }
        self.await_idle(agent.pid())?;
        let (took, report) = timed(|| exited(agent.close_blocking()))?;
        self.closes.add(&report);
        Ok(took)
    }

    fn limit(&mut self) -> BenchResult<Took> {
        let mut child = self.setup.spawn_plain(&IDLE)?;
        if !self.setup.is_own() {
            child.read_line(&mut Vec::new())?;
        }
        self.await_idle(child.0.id())?;
        Ok(timed(|| child.end())?.0)
    }

    fn counts(&mut self) -> BenchResult<Counts> {
        Ok(self.closes.counts())
    }
}

/// How one agent that is blocked in write(2) is closed.
struct Blocked<'a> {
    setup: &'a Setup,
    way: &'static Way,
    closes: Closes,
}

/// The differences between the scenarios with one blocked agent.
struct Way {
    fake: &'static [&'static str],
    agentpipe: fn(&Agent) -> CloseReport,
    limit: fn(&mut PlainChild) -> BenchResult<()>,
    peer: fn(&mut PlainChild) -> BenchResult<()>,
    /// Bytes that must arrive, if the close is to lose nothing.
    bytes: Option<u64>,
}

/// Aborts an agent that restarts its write on SIGTERM.
static ABORT: Way = Way {
    fake: &BLOCKED,
    agentpipe: |agent| agent.abort_blocking(),
    limit: PlainChild::end_killed,
    peer: PlainChild::end_broken,
    bytes: None,
};

/// Closes gracefully, with a short drain, an agent that never stops writing. Reading frees it, and
/// SIGTERM ends it.
static GRACEFUL: Way = Way {
    fake: &BLOCKED,
    agentpipe: |agent| {
        let policy = ClosePolicy::graceful().drain(GRACEFUL_WAIT).drain_total(GRACEFUL_WAIT);
        agent.close_with_blocking(policy)
    },
    limit: |child| child.end_reading(GRACEFUL_WAIT),
    peer: |child| child.end_unread(GRACEFUL_WAIT),
    bytes: None,
};

/// Closes gracefully an agent that still has 1 MiB to write. No byte may be lost.
static LOSSLESS: Way = Way {
    fake: &FLUSHING,
    agentpipe: |agent| agent.close_blocking(),
    limit: |child| all_arrived(child.end()?),
    peer: |child| child.end_unread(FLUSH_WAIT),
    bytes: Some(FLUSH),
};

pub(super) fn open_abort<'a>(
    setup: &'a Setup,
    _: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    Ok(Box::new(Blocked { setup, way: &ABORT, closes: Closes::default() }))
}

pub(super) fn open_graceful<'a>(
    setup: &'a Setup,
    _: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    Ok(Box::new(Blocked { setup, way: &GRACEFUL, closes: Closes::default() }))
}

pub(super) fn open_flush<'a>(
    setup: &'a Setup,
    _: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    Ok(Box::new(Blocked { setup, way: &LOSSLESS, closes: Closes::default() }))
}

impl Blocked<'_> {
    fn plain(&self, end: fn(&mut PlainChild) -> BenchResult<()>) -> BenchResult<Took> {
        let mut child = self.setup.spawn_plain(self.way.fake)?;
        child.await_full()?;
        Ok(timed(|| end(&mut child))?.0)
    }
}

impl Run for Blocked<'_> {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        let agent = spawn_unread(self.setup, self.way.fake)?;
        await_paused(&agent)?;
        let (took, report) = timed(|| exited((self.way.agentpipe)(&agent)))?;
        if self.way.bytes.is_some() {
            all_arrived(report.stats().bytes_in)?;
        }
        self.closes.add(&report);
        Ok(took)
    }

    fn limit(&mut self) -> BenchResult<Took> {
        self.plain(self.way.limit)
    }

    fn peer(&mut self) -> BenchResult<Took> {
        self.plain(self.way.peer)
    }

    fn counts(&mut self) -> BenchResult<Counts> {
        Ok(self.closes.counts())
    }
}

fn all_arrived(bytes: u64) -> BenchResult<()> {
    match bytes {
        FLUSH => Ok(()),
        _ => Err(format!("{bytes} of {FLUSH} bytes came").into()),
    }
}

/// Spawns an agent whose output is not taken: reading pauses at one byte, so its pipe fills.
fn spawn_unread(setup: &Setup, fake: &[&str]) -> BenchResult<Agent> {
    // During the close the engine keeps no more than limit and peer do.
    setup.spawn(fake, Limits::new().inbox_high(1).drain_max(2 << 20))
}

/// Waits until the agent is blocked. The engine owns the pipe, which fills some time after the pause.
fn await_paused(agent: &Agent) -> BenchResult<()> {
    await_blocked(agent.pid(), || Ok(agent.stats().pauses > 0))
}

pub(super) fn open_hundred<'a>(
    setup: &'a Setup,
    _: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    Ok(Box::new(Hundred { setup, closes: Closes::default() }))
}

/// A hundred blocked agents are aborted at once.
struct Hundred<'a> {
    setup: &'a Setup,
    closes: Closes,
}

impl Hundred<'_> {
    fn agents(&self) -> BenchResult<Vec<Agent>> {
        let spawned = (0..AGENTS).map(|_| spawn_unread(self.setup, &BLOCKED));
        let agents = spawned.collect::<BenchResult<Vec<_>>>()?;
        agents.iter().try_for_each(await_paused)?;
        Ok(agents)
    }

    fn children(&self) -> BenchResult<Vec<PlainChild>> {
        let spawned = (0..AGENTS).map(|_| self.setup.spawn_plain(&BLOCKED));
        let children = spawned.collect::<BenchResult<Vec<_>>>()?;
        children.iter().try_for_each(PlainChild::await_full)?;
        Ok(children)
    }

    fn abort(&mut self, agents: &[Agent]) -> BenchResult<Took> {
        let policy = ClosePolicy::abort().abort_grace(ABORT_GRACE);
        let aborted = all(agents.iter().map(|agent| agent.close_with(policy)));
        let abort_all = || match within(HUNDRED_MAX, aborted) {
            Some(reports) => Ok(reports),
            None => {
                Err(format!("a hundred aborts took longer than {} s", HUNDRED_MAX.as_secs()).into())
            }
        };
        let (took, reports) = timed(abort_all)?;
        for report in reports {
            self.closes.add(&exited(report)?);
        }
        Ok(took)
    }
}

impl Run for Hundred<'_> {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        let agents = self.agents()?;
        self.abort(&agents)
    }

    fn limit(&mut self) -> BenchResult<Took> {
        let mut children = self.children()?;
        let end_all = || {
            children.iter_mut().try_for_each(|child| child.0.kill())?;
            children.iter_mut().try_for_each(PlainChild::reap)
        };
        Ok(timed(end_all)?.0)
    }

    fn peer(&mut self) -> BenchResult<Took> {
        let mut children = self.children()?;
        let end_all = || {
            children.iter_mut().for_each(|child| drop(child.0.stdout.take()));
            children.iter_mut().try_for_each(PlainChild::reap)
        };
        Ok(timed(end_all)?.0)
    }

    /// Counts what an agent holds in this process, and what is left after its close.
    fn counts(&mut self) -> BenchResult<Counts> {
        let before = ProcessUse::now()?;
        let agents = self.agents()?;
        let with = ProcessUse::now()?;
        self.abort(&agents)?;
        drop(agents);
        let after = ProcessUse::now()?;
        let more = |now: u64, then: u64| now.saturating_sub(then);
        let mut counts = self.closes.counts();
        counts.extend([
            ("fds_per_agent".to_owned(), each(more(with.descriptors, before.descriptors), AGENTS)),
            ("threads_per_agent".to_owned(), each(more(with.threads, before.threads), AGENTS)),
            ("fds_left".to_owned(), each(more(after.descriptors, before.descriptors), 1)),
        ]);
        Ok(counts)
    }
}
