//! F5, bench: an agent that waits for input is closed gracefully.

use std::io::Read;
use std::time::Duration;

use agentpipe::{ExitStatus, Limits};

use super::plain::{Plain, stays, timed};
use super::scenario::{Failed, Rounds};
use super::target::Target;

/// An idle agent has been silent for longer than a close waits for silence.
const SILENCE: Duration = Duration::from_millis(6);

/// The built-in agent says that it has started.
const FAKE: [&str; 2] = ["--records", "1"];

pub(super) fn open(target: &Target) -> Failed<Box<dyn Rounds + '_>> {
    Ok(Box::new(CloseIdle(target)))
}

struct CloseIdle<'a>(&'a Target);

impl CloseIdle<'_> {
    /// Silence is no event: only time shows it. That the agent leaves is one, and too early.
    fn fall_silent(&self, pid: u32) -> Failed<()> {
        let own = self.0.own().is_some();
        stays(pid, if own { self.0.warm_up.max(SILENCE) } else { SILENCE })
    }
}

impl Rounds for CloseIdle<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let mut agent = self.0.spawn(&FAKE, Limits::new())?;
        if self.0.own().is_none() && agent.next_record_blocking().is_none() {
            return Err("the built-in agent said nothing".to_owned());
        }
        self.fall_silent(agent.pid())?;
        let (took, report) = timed(|| Ok(agent.close_blocking()))?;
        match report.exit() {
            ExitStatus::Unknown | ExitStatus::StillRunning => Err(report.to_string()),
            _ => Ok(took),
        }
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = Plain(self.0.spawn_plain(&FAKE)?);
        if self.0.own().is_none()
            && let Some(stdout) = &mut child.0.stdout
        {
            let mut first = [0; 2048];
            stdout.read(&mut first).map_err(|error| error.to_string())?;
        }
        self.fall_silent(child.0.id())?;
        Ok(timed(|| child.end())?.0)
    }
}
