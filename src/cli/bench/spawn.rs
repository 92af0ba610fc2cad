//! F5, bench: spawning, up to the running program and its pipes.

use std::time::Duration;

use agentpipe::Limits;

use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds};
use super::target::Target;

pub(super) fn open(target: &Target) -> Failed<Box<dyn Rounds + '_>> {
    Ok(Box::new(Spawn(target)))
}

struct Spawn<'a>(&'a Target);

impl Rounds for Spawn<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let (took, agent) = timed(|| self.0.spawn(&[], Limits::new()))?;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let (took, child) = timed(|| self.0.spawn_plain(&[]))?;
        drop(Plain(child));
        Ok(took)
    }
}
