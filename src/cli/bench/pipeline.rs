//! F5, bench: from the pipe to what a record is. Messages as an agent sends them, because what a
//! parser costs depends on them; `cat` writes them, faster than any agent.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use agentpipe::{Agent, AgentCommand};

use super::alloc::counted;
use super::counts::{Counts, asked_per_record, came};
use super::envelope::message;
use super::patience::{PATIENCE, within};
use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, next_record};
use super::throughput::read_lines;
use super::tokio_lines::TokioLines;

pub(super) fn open<'a>(
    target: &'a Target,
    scenario: &'static Scenario,
) -> Failed<Box<dyn Rounds + 'a>> {
    let size = usize::try_from(scenario.record_bytes).map_err(|error| error.to_string())?;
    // One more for the first, which is taken before the clock starts.
    let count = usize::try_from(scenario.records + 1).map_err(|error| error.to_string())?;
    let text = (message(size) + "\n").repeat(count);
    let mut messages = memory()?;
    messages.write_all(text.as_bytes()).map_err(|error| error.to_string())?;
    Ok(Box::new(Pipeline { target, messages, records: scenario.records, size: size as u64 }))
}

fn memory() -> Failed<File> {
    let made = rustix::fs::memfd_create("messages", rustix::fs::MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|error| error.to_string())
}

struct Pipeline<'a> {
    target: &'a Target,
    messages: File,
    records: u64,
    /// Newline included.
    size: u64,
}

impl Pipeline<'_> {
    /// Under this name every process of this user can read them.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.messages.as_raw_fd())
    }

    fn agent(&self) -> Failed<Agent> {
        let command = AgentCommand::new("cat").arg(self.path());
        let spawned = self.target.engine.spawn_blocking(command);
        let mut agent = spawned.map_err(|error| error.to_string())?;
        next_record(&mut agent)?;
        Ok(agent)
    }

    fn child(&self) -> Failed<Plain> {
        let mut command = Command::new("cat");
        command.arg(self.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        Plain::spawn(&mut command)
    }

    fn envelopes(&self, agent: &mut Agent) -> Failed<()> {
        let all = async {
            for _ in 0..self.records {
                let record = agent.next_record().await.ok_or("a record is missing")?;
                let envelope = record.envelope().map_err(|error| error.to_string())?;
                is_the_message(envelope.kind.as_deref())?;
            }
            Ok(())
        };
        let late = || Err(format!("the records did not come within {} s", PATIENCE.as_secs()));
        within(all).unwrap_or_else(late)
    }
}

fn is_the_message(kind: Option<&str>) -> Failed<()> {
    match kind {
        Some("assistant") => Ok(()),
        _ => Err("the record is not what was written".to_owned()),
    }
}

impl Rounds for Pipeline<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let mut agent = self.agent()?;
        let (took, ()) = timed(|| self.envelopes(&mut agent))?;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        read_lines(&mut self.child()?, self.records, self.size)
    }

    fn peer(&mut self) -> Failed<Duration> {
        TokioLines::of(self.child()?)?.take(self.records, |line| {
            let value: serde_json::Value =
                serde_json::from_str(line).map_err(|error| error.to_string())?;
            is_the_message(value["type"].as_str())
        })
    }

    fn counts(&mut self) -> Failed<Counts> {
        let mut agent = self.agent()?;
        let (before, (asked, taken)) = (agent.stats(), counted(|| self.envelopes(&mut agent)));
        taken?;
        let (_, bytes) = came(before, agent.stats());
        agent.abort_blocking();
        Ok(asked_per_record(asked, self.records, bytes))
    }
}
