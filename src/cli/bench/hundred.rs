//! F5, bench: a hundred blocked agents are aborted at once.

use std::time::Duration;

use agentpipe::{Agent, ClosePolicy};

use super::blocked_abort::{FAKE, await_stuck, unread};
use super::counts::{Counts, Ends, Held, each};
use super::patience::{all, within_for};
use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, ended};

const AGENTS: u64 = 100;

/// On a busy machine some of a hundred wait for a processor for longer than the 50 ms that an abort
/// gives them. A kill is to mean that a pipe was not closed.
const GRACE: Duration = Duration::from_secs(1);

/// Closes that are slow one after another, 300 ms each, are a figure for the gate and no failure
/// of the bench.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn open<'a>(target: &'a Target, _: &'static Scenario) -> Failed<Box<dyn Rounds + 'a>> {
    Ok(Box::new(Hundred { target, ends: Ends::default() }))
}

struct Hundred<'a> {
    target: &'a Target,
    ends: Ends,
}

impl Hundred<'_> {
    fn stuck(&self) -> Failed<Vec<Agent>> {
        let spawned = (0..AGENTS).map(|_| unread(self.target, &FAKE));
        let agents = spawned.collect::<Failed<Vec<_>>>()?;
        agents.iter().try_for_each(await_stuck)?;
        Ok(agents)
    }

    fn full(&self) -> Failed<Vec<Plain>> {
        let spawned = (0..AGENTS).map(|_| self.target.spawn_plain(&FAKE));
        let children = spawned.collect::<Failed<Vec<_>>>()?;
        children.iter().try_for_each(Plain::await_full)?;
        Ok(children)
    }

    fn abort(&mut self, agents: &[Agent]) -> Failed<Duration> {
        let policy = ClosePolicy::abort().abort_grace(GRACE);
        let aborted = all(agents.iter().map(|agent| agent.close_with(policy)));
        let late = || format!("a hundred aborts took longer than {} s", PATIENCE.as_secs());
        let (took, reports) = timed(|| within_for(PATIENCE, aborted).ok_or_else(late))?;
        for report in reports {
            self.ends.add(&ended(report)?);
        }
        Ok(took)
    }
}

impl Rounds for Hundred<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let agents = self.stuck()?;
        self.abort(&agents)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut children = self.full()?;
        let end_all = || {
            children.iter_mut().try_for_each(|child| child.0.kill().map_err(|e| e.to_string()))?;
            children.iter_mut().try_for_each(Plain::reap)
        };
        Ok(timed(end_all)?.0)
    }

    fn peer(&mut self) -> Failed<Duration> {
        let mut children = self.full()?;
        let end_all = || {
            children.iter_mut().for_each(|child| drop(child.0.stdout.take()));
            children.iter_mut().try_for_each(Plain::reap)
        };
        Ok(timed(end_all)?.0)
    }

    /// What an agent holds in this process, and what is left of it.
    fn counts(&mut self) -> Failed<Counts> {
        let before = Held::now()?;
        let agents = self.stuck()?;
        let with = Held::now()?;
        self.abort(&agents)?;
        drop(agents);
        let after = Held::now()?;
        let more = |now: u64, then: u64| now.saturating_sub(then);
        let mut counts = self.ends.counts();
        counts.extend([
            ("fds_per_agent".to_owned(), each(more(with.descriptors, before.descriptors), AGENTS)),
            ("threads_per_agent".to_owned(), each(more(with.threads, before.threads), AGENTS)),
            ("fds_left".to_owned(), each(more(after.descriptors, before.descriptors), 1)),
        ]);
        Ok(counts)
    }
}
