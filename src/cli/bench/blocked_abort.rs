//! F5, bench: an agent that is blocked on a full pipe and restarts its write on SIGTERM is aborted.

use std::time::{Duration, Instant};

use agentpipe::{Agent, Limits};

use super::plain::{PATIENCE, Plain, timed};
use super::scenario::{Failed, Rounds};
use super::target::Target;

const FAKE: [&str; 4] = ["--flood", "--sigterm-restart", "--record-size", "4096"];

pub(super) fn open(target: &Target) -> Failed<Box<dyn Rounds + '_>> {
    Ok(Box::new(CloseBlocked(target)))
}

struct CloseBlocked<'a>(&'a Target);

impl Rounds for CloseBlocked<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let agent = stuck(self.0, &FAKE)?;
        Ok(timed(|| Ok(agent.abort_blocking()))?.0)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = Plain(self.0.spawn_plain(&FAKE)?);
        child.await_full()?;
        let end =
            || child.0.kill().and_then(|()| child.0.wait()).map_err(|error| error.to_string());
        Ok(timed(end)?.0)
    }
}

/// An agent whose output nobody takes: reading pauses at one byte, so its pipe fills.
pub(super) fn stuck(target: &Target, fake: &[&str]) -> Failed<Agent> {
    let agent = target.spawn(fake, Limits::new().inbox_high(1))?;
    // The pipe is the engine's. That its writer is blocked shows in its state: this agent sleeps
    // nowhere but in write(2). No event tells it.
    let stat = format!("/proc/{}/stat", agent.pid());
    let until = Instant::now() + PATIENCE;
    let mut asleep = 0;
    while asleep < 20 {
        if Instant::now() >= until {
            return Err("the built-in agent never blocked".to_owned());
        }
        let paused = agent.stats().pauses > 0;
        let sleeps = std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") S "));
        asleep = if paused && sleeps { asleep + 1 } else { 0 };
        std::thread::yield_now();
    }
    Ok(agent)
}
