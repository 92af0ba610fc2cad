//! F5, bench: an agent that is blocked on a full pipe and never stops writing is closed
//! gracefully, by a policy with short stages: reading on frees it, SIGTERM ends it.

use std::time::Duration;

use agentpipe::ClosePolicy;

use super::blocked_abort::{FAKE, full, stuck};
use super::counts::{Counts, Ends};
use super::plain::timed;
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, ended};

/// How long each is given before SIGTERM.
const DRAIN: Duration = Duration::from_millis(40);

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
        let policy = ClosePolicy::graceful().drain(DRAIN).drain_total(DRAIN);
        let (took, report) = timed(|| ended(agent.close_with_blocking(policy)))?;
        self.ends.add(&report);
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = full(self.target, &FAKE)?;
        Ok(timed(|| child.end_reading(DRAIN))?.0)
    }

    fn peer(&mut self) -> Failed<Duration> {
        let mut child = full(self.target, &FAKE)?;
        Ok(timed(|| child.end_unread(DRAIN))?.0)
    }

    fn counts(&mut self) -> Failed<Counts> {
        Ok(self.ends.counts())
    }
}
