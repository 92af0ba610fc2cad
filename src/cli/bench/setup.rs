//! The engine under test and the agent that it runs: the built-in one or the user's.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Duration;

use agentpipe::{Agent, AgentCommand, Backend, CloseReport, Engine, ExitStatus, Limits, Record};

use super::child::PlainChild;
use super::wait::{BenchResult, PATIENCE, within};

/// The setup that all scenarios share.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) engine: Engine,
    /// The same with the epoll backend, unless the engine has that.
    pub(super) epoll: Option<Box<Self>>,
    /// The user's agent with its arguments. Empty stands for the built-in agent.
    command: Vec<OsString>,
    /// A record that the user's agent answers with one record.
    pub(super) ping: Option<String>,
    /// How long the user's agent may take to start.
    pub(super) warm_up: Duration,
}

impl Setup {
    pub(super) fn new(
        command: &[OsString],
        ping: Option<String>,
        warm_up: Duration,
    ) -> BenchResult<Self> {
        let with = |engine, epoll| Self {
            engine,
            epoll,
            command: command.to_vec(),
            ping: ping.clone(),
            warm_up,
        };
        let engine = Engine::new()?;
        let epoll = match engine.backend() {
            Backend::IoUring => {
                let engine = Engine::builder().backend(Backend::Epoll).build()?;
                Some(Box::new(with(engine, None)))
            }
            _ => None,
        };
        Ok(with(engine, epoll))
    }

    /// Returns the words of the user's agent, or `None` for the built-in one.
    pub(super) fn own_command(&self) -> Option<Vec<String>> {
        let words = self.command.iter().map(|word| word.to_string_lossy().into_owned());
        self.is_own().then(|| words.collect())
    }

    /// Whether the user named an agent.
    pub(super) fn is_own(&self) -> bool {
        !self.command.is_empty()
    }

    /// Spawns the agent in the engine. `fake` are the options of the built-in one.
    pub(super) fn spawn(&self, fake: &[&str], limits: Limits) -> BenchResult<Agent> {
        let words = self.words(fake)?;
        let command = AgentCommand::new(&words[0]).args(&words[1..]).limits(limits);
        Ok(self.engine.spawn_blocking(command)?)
    }

    /// Spawns the same agent as a plain child.
    pub(super) fn spawn_plain(&self, fake: &[&str]) -> BenchResult<PlainChild> {
        PlainChild::spawn(&mut self.plain_command(fake)?)
    }

    /// Returns the command for a plain child, with pipes.
    pub(super) fn plain_command(&self, fake: &[&str]) -> BenchResult<Command> {
        let words = self.words(fake)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(Stdio::null());
        Ok(command)
    }

    fn words(&self, fake: &[&str]) -> BenchResult<Vec<OsString>> {
        if self.is_own() {
            return Ok(self.command.clone());
        }
        let program = std::env::current_exe()?;
        let mut words = vec![program.into_os_string(), "fake".into()];
        words.extend(fake.iter().map(OsString::from));
        Ok(words)
    }
}

/// Waits for the agent's next record.
pub(super) fn next_record(agent: &mut Agent) -> BenchResult<Record> {
    match within(PATIENCE, agent.next_record()) {
        Some(Some(record)) => Ok(record),
        Some(None) => Err(match agent.close_report() {
            Some(report) => format!("the agent left instead of answering: {report}").into(),
            None => "the agent left instead of answering".into(),
        }),
        None => Err(format!("no record came within {} s", PATIENCE.as_secs()).into()),
    }
}

/// Fails unless the agent has exited with a known status.
pub(super) fn exited(report: CloseReport) -> BenchResult<CloseReport> {
    match report.exit() {
        ExitStatus::Unknown | ExitStatus::StillRunning => Err(report.to_string().into()),
        _ => Ok(report),
    }
}
