//! F5, bench: from the spawn to the first record, which an own agent may have to be asked for.

use std::io::Write;
use std::time::Duration;

use agentpipe::Limits;

use super::plain::timed;
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, next_record};

/// The built-in agent speaks unasked.
const FAKE: [&str; 2] = ["--records", "1"];

pub(super) fn open<'a>(target: &'a Target, _: &'static Scenario) -> Failed<Box<dyn Rounds + 'a>> {
    Ok(Box::new(First(target)))
}

struct First<'a>(&'a Target);

impl First<'_> {
    /// An agent that has to be asked, and was not, is the likely cause.
    fn hint<T>(&self, result: Failed<T>) -> Failed<T> {
        let asked = self.0.ping.is_some() || self.0.own().is_none();
        let hint = if asked { "" } else { "; if it waits to be asked, give it a --ping RECORD" };
        result.map_err(|why| format!("{why}{hint}"))
    }
}

impl Rounds for First<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let start = || {
            let mut agent = self.0.spawn(&FAKE, Limits::new())?;
            if let Some(ping) = &self.0.ping {
                agent.send_blocking(ping).map_err(|error| error.to_string())?;
            }
            next_record(&mut agent)?;
            Ok(agent)
        };
        let (took, agent) = self.hint(timed(start))?;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let start = || {
            let mut child = self.0.spawn_plain(&FAKE)?;
            if let (Some(ping), Some(stdin)) = (&self.0.ping, &mut child.0.stdin) {
                writeln!(stdin, "{ping}").map_err(|error| error.to_string())?;
            }
            child.read_line(&mut Vec::new())?;
            Ok(child)
        };
        let (took, child) = self.hint(timed(start))?;
        drop(child);
        Ok(took)
    }
}
