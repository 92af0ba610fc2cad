//! F5, bench: the engine under test and the agent it runs, built-in or the user's own.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Duration;

use agentpipe::{Agent, AgentCommand, CloseReport, Engine, Limits, Record};

use super::counts::RingUse;
use super::patience::{PATIENCE, within};
use super::plain::Plain;
use super::scenario::Failed;

/// What all scenarios share.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) engine: Engine,
    own: Vec<OsString>,
    /// A record that the own agent answers with one record.
    pub(super) ping: Option<String>,
    pub(super) warm_up: Duration,
}

impl Target {
    pub(super) fn new(own: &[OsString], ping: Option<String>, warm_up: Duration) -> Failed<Self> {
        let engine = Engine::new().map_err(|error| error.to_string())?;
        Ok(Self { engine, own: own.to_vec(), ping, warm_up })
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

    /// A command for the same agent as a plain child with pipes.
    pub(super) fn plain_command(&self, fake: &[&str]) -> Failed<Command> {
        let words = self.words(fake)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::null());
        Ok(command)
    }

    /// The same agent as a plain child.
    pub(super) fn spawn_plain(&self, fake: &[&str]) -> Failed<Plain> {
        Plain::spawn(&mut self.plain_command(fake)?)
    }

    pub(super) fn ring_use(&self) -> RingUse {
        RingUse::of(&self.engine)
    }
}

/// The agent's next record.
pub(super) fn next_record(agent: &mut Agent) -> Failed<Record> {
    match within(agent.next_record()) {
        Some(Some(record)) => Ok(record),
        Some(None) => Err(match agent.close_report() {
            Some(report) => format!("the agent left instead of answering: {report}"),
            None => "the agent left instead of answering".to_owned(),
        }),
        None => Err(format!("no record came within {} s", PATIENCE.as_secs())),
    }
}

/// The agent is gone, and it is known how.
pub(super) fn ended(report: CloseReport) -> Failed<CloseReport> {
    use agentpipe::ExitStatus;
    match report.exit() {
        ExitStatus::Unknown | ExitStatus::StillRunning => Err(report.to_string()),
        _ => Ok(report),
    }
}
