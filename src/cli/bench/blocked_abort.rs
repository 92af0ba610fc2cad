//! F5, bench: an agent that is blocked on a full pipe and restarts its write on SIGTERM is aborted.

use std::time::Duration;

use agentpipe::{Agent, Limits};

use super::asleep::await_blocked;
use super::counts::{Counts, Ends};
use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, ended};

pub(super) const FAKE: [&str; 4] = ["--flood", "--sigterm-restart", "--record-size", "4096"];

pub(super) fn open<'a>(target: &'a Target, _: &'static Scenario) -> Failed<Box<dyn Rounds + 'a>> {
    Ok(Box::new(Blocked { target, ends: Ends::default() }))
}

struct Blocked<'a> {
    target: &'a Target,
    ends: Ends,
}

impl Rounds for Blocked<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let agent = stuck(self.target, &FAKE)?;
        let (took, report) = timed(|| ended(agent.abort_blocking()))?;
        self.ends.add(&report);
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = full(self.target, &FAKE)?;
        Ok(timed(|| child.end_killed())?.0)
    }

    fn peer(&mut self) -> Failed<Duration> {
        let mut child = full(self.target, &FAKE)?;
        Ok(timed(|| child.end_broken())?.0)
    }

    fn counts(&mut self) -> Failed<Counts> {
        Ok(self.ends.counts())
    }
}

/// A plain child whose output nobody takes.
pub(super) fn full(target: &Target, fake: &[&str]) -> Failed<Plain> {
    let child = target.spawn_plain(fake)?;
    child.await_full()?;
    Ok(child)
}

/// An agent whose output nobody takes: reading pauses at one byte, so its pipe fills.
pub(super) fn stuck(target: &Target, fake: &[&str]) -> Failed<Agent> {
    let agent = unread(target, fake)?;
    await_stuck(&agent)?;
    Ok(agent)
}

/// An agent that will be stuck.
pub(super) fn unread(target: &Target, fake: &[&str]) -> Failed<Agent> {
    // While it is closed no more is kept than the others keep.
    target.spawn(fake, Limits::new().inbox_high(1).drain_max(2 << 20))
}

/// The pipe is the engine's: it is full some time after the reading has paused.
pub(super) fn await_stuck(agent: &Agent) -> Failed<()> {
    await_blocked(agent.pid(), || Ok(agent.stats().pauses > 0))
}
