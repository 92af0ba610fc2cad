//! F5, bench: spawning, up to the running program and its pipes.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use agentpipe::Limits;

use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds, Scenario};
use super::target::Target;

pub(super) fn open<'a>(target: &'a Target, _: &'static Scenario) -> Failed<Box<dyn Rounds + 'a>> {
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
        drop(child);
        Ok(took)
    }

    /// With a uid, even one's own, std copies the whole address space.
    fn peer(&mut self) -> Failed<Duration> {
        let spawn = || {
            let mut command = self.0.plain_command(&[])?;
            Plain::spawn(command.uid(rustix::process::getuid().as_raw()))
        };
        let (took, child) = timed(spawn)?;
        drop(child);
        Ok(took)
    }
}
