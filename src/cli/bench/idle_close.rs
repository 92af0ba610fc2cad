//! F5, bench: an agent that waits for input is closed gracefully.

use std::time::Duration;

use agentpipe::Limits;

use super::counts::{Counts, Ends};
use super::plain::{stays, timed};
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, ended, next_record};

/// An idle agent has been silent for longer than a close waits for silence.
const SILENCE: Duration = Duration::from_millis(6);

/// The built-in agent says that it has started.
const FAKE: [&str; 2] = ["--records", "1"];

pub(super) fn open<'a>(target: &'a Target, _: &'static Scenario) -> Failed<Box<dyn Rounds + 'a>> {
    Ok(Box::new(Idle { target, ends: Ends::default() }))
}

struct Idle<'a> {
    target: &'a Target,
    ends: Ends,
}

impl Idle<'_> {
    /// Silence is no event: only time shows it. That the agent leaves is one, and too early.
    fn fall_silent(&self, pid: u32) -> Failed<()> {
        let own = self.target.own().is_some();
        stays(pid, if own { self.target.warm_up.max(SILENCE) } else { SILENCE })
    }
}

impl Rounds for Idle<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let mut agent = self.target.spawn(&FAKE, Limits::new())?;
        if self.target.own().is_none() {
            next_record(&mut agent)?;
        }
        self.fall_silent(agent.pid())?;
        let (took, report) = timed(|| ended(agent.close_blocking()))?;
        self.ends.add(&report);
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = self.target.spawn_plain(&FAKE)?;
        if self.target.own().is_none() {
            child.read_line(&mut Vec::new())?;
        }
        self.fall_silent(child.0.id())?;
        Ok(timed(|| child.end())?.0)
    }

    fn counts(&mut self) -> Failed<Counts> {
        Ok(self.ends.counts())
    }
}
