//! Group `spawn`: `spawn` ends when the program runs, `first_record` when it has written a record.

use std::io::Write;
use std::os::unix::process::CommandExt;

use agentpipe::Limits;

use super::child::PlainChild;
use super::scenario::{Run, Scenario};
use super::setup::{Setup, next_record};
use super::stopwatch::Took;
use super::wait::{BenchResult, timed};

/// The built-in agent writes its first record without being asked.
const FAKE: [&str; 2] = ["--records", "1"];

pub(super) fn open_spawn<'a>(
    setup: &'a Setup,
    _: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    Ok(Box::new(Spawn(setup)))
}

struct Spawn<'a>(&'a Setup);

impl Run for Spawn<'_> {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        let (took, agent) = timed(|| self.0.spawn(&[], Limits::new()))?;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> BenchResult<Took> {
        Ok(timed(|| self.0.spawn_plain(&[]))?.0)
    }

    /// With a uid, even its own, the standard library forks, which copies the address space.
    fn peer(&mut self) -> BenchResult<Took> {
        let spawn = || {
            let mut command = self.0.plain_command(&[])?;
            PlainChild::spawn(command.uid(rustix::process::getuid().as_raw()))
        };
        Ok(timed(spawn)?.0)
    }
}

pub(super) fn open_first_record<'a>(
    setup: &'a Setup,
    _: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    Ok(Box::new(FirstRecord(setup)))
}

struct FirstRecord<'a>(&'a Setup);

impl FirstRecord<'_> {
    /// Adds the likely cause: the user's agent waits for a record.
    fn with_hint<T>(&self, result: BenchResult<T>) -> BenchResult<T> {
        let needs_hint = self.0.is_own() && self.0.ping.is_none();
        let hint =
            if needs_hint { "; if it waits to be asked, give it a --ping RECORD" } else { "" };
        result.map_err(|why| format!("{why}{hint}").into())
    }
}

impl Run for FirstRecord<'_> {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        let start = || {
            let mut agent = self.0.spawn(&FAKE, Limits::new())?;
            if let Some(ping) = &self.0.ping {
                agent.send_blocking(ping)?;
            }
            next_record(&mut agent)?;
            Ok(agent)
        };
        let (took, agent) = self.with_hint(timed(start))?;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> BenchResult<Took> {
        let start = || {
            let mut child = self.0.spawn_plain(&FAKE)?;
            if let (Some(ping), Some(stdin)) = (&self.0.ping, &mut child.0.stdin) {
                writeln!(stdin, "{ping}")?;
            }
            child.read_line(&mut Vec::new())?;
            Ok(child)
        };
        Ok(self.with_hint(timed(start))?.0)
    }
}
