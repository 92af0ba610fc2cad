//! F5, bench: the engine under test and the agent it runs, built-in or the user's own.

use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentpipe::{Agent, AgentCommand, Engine, IoCounters, Limits};

use super::scenario::Failed;

/// What all scenarios share.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) engine: Engine,
    own: Vec<OsString>,
    pub(super) warm_up: Duration,
}

/// A few numbers of the ring at one moment, summed over the engine's threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingUse {
    pub(super) enters: u64,
    pub(super) completions: u64,
}

impl Target {
    pub(super) fn new(own: &[OsString], warm_up: Duration) -> Failed<Self> {
        let engine = Engine::new().map_err(|error| error.to_string())?;
        Ok(Self { engine, own: own.to_vec(), warm_up })
    }

    /// The user's own agent.
    pub(super) fn own(&self) -> Option<Vec<String>> {
        let words = self.own.iter().map(|word| word.to_string_lossy().into_owned());
        (!self.own.is_empty()).then(|| words.collect())
    }

    /// Program and arguments: the user's, or this program as `agentpipe fake`.
    fn words(&self, fake: &[&str]) -> Failed<Vec<OsString>> {
        if !self.own.is_empty() {
            return Ok(self.own.clone());
        }
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut words = vec![program.into_os_string(), "fake".into()];
        words.extend(fake.iter().map(OsString::from));
        Ok(words)
    }

    /// The agent in the engine.
    pub(super) fn spawn(&self, fake: &[&str], limits: Limits) -> Failed<Agent> {
        let words = self.words(fake)?;
        let command = AgentCommand::new(&words[0]).args(&words[1..]).limits(limits);
        self.engine.spawn_blocking(command).map_err(|error| error.to_string())
    }

    /// The same agent as a plain child with pipes.
    pub(super) fn spawn_plain(&self, fake: &[&str]) -> Failed<Child> {
        let words = self.words(fake)?;
        Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot spawn {}: {error}", words[0].display()))
    }

    pub(super) fn ring_use(&self) -> RingUse {
        let all: Vec<IoCounters> = self.engine.counters_blocking();
        RingUse {
            enters: all.iter().map(|ring| ring.enters).sum(),
            completions: all.iter().map(|ring| ring.completions).sum(),
        }
    }
}
