//! F5, bench: records of one size as fast as the built-in agent can write them; taken as lines
//! are, or (`pipeline`) known to be JSON and looked into.

use std::io::Read;
use std::time::Duration;

use agentpipe::{Agent, JsonCheck, Limits, Record};

use super::alloc::counted;
use super::counts::{Counts, asked_per_record, came, middle};
use super::patience::{PATIENCE, within};
use super::plain::timed;
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, next_record};
use super::tokio_lines::TokioLines;

/// What is counted is counted so often.
const COUNTING_ROUNDS: usize = 5;

pub(super) fn open<'a>(
    target: &'a Target,
    scenario: &'static Scenario,
) -> Failed<Box<dyn Rounds + 'a>> {
    // The limit and the peer parse nothing, so records are known by their outside here, too.
    Ok(Box::new(Throughput::new(target, scenario, JsonCheck::Shape, |_| Ok(()), |_| Ok(()))))
}

pub(super) fn open_pipeline<'a>(
    target: &'a Target,
    scenario: &'static Scenario,
) -> Failed<Box<dyn Rounds + 'a>> {
    Ok(Box::new(Throughput::new(target, scenario, JsonCheck::Syntax, envelope, value)))
}

fn envelope(record: &Record) -> Failed<()> {
    let envelope = record.envelope().map_err(|error| error.to_string())?;
    is_flood(envelope.kind.as_deref())
}

fn value(line: &str) -> Failed<()> {
    let value: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    is_flood(value["type"].as_str())
}

fn is_flood(kind: Option<&str>) -> Failed<()> {
    if kind == Some("flood") { Ok(()) } else { Err("a record is not the agent's".to_owned()) }
}

struct Throughput<'a> {
    target: &'a Target,
    records: u64,
    /// Newline included.
    size: u64,
    size_word: String,
    check: JsonCheck,
    look: fn(&Record) -> Failed<()>,
    peer_looks: fn(&str) -> Failed<()>,
}

impl<'a> Throughput<'a> {
    fn new(
        target: &'a Target,
        scenario: &'static Scenario,
        check: JsonCheck,
        look: fn(&Record) -> Failed<()>,
        peer_looks: fn(&str) -> Failed<()>,
    ) -> Self {
        let (records, size) = (scenario.records, scenario.record_bytes);
        Self { target, records, size, size_word: size.to_string(), check, look, peer_looks }
    }

    fn fake(&self) -> [&str; 4] {
        ["--flood", "--never-read-stdin", "--record-size", &self.size_word]
    }

    /// An agent in mid-stream.
    fn agent(&self) -> Failed<Agent> {
        let limits = Limits::new().json_check(self.check);
        let mut agent = self.target.spawn(&self.fake(), limits)?;
        next_record(&mut agent)?;
        Ok(agent)
    }

    fn take(&self, agent: &mut Agent, records: u64) -> Failed<()> {
        let take_all = async {
            for _ in 0..records {
                match agent.next_record().await {
                    Some(record) if record.len() as u64 + 1 == self.size => (self.look)(&record)?,
                    _ => return Err("a record is missing or of the wrong size".to_owned()),
                }
            }
            Ok(())
        };
        let late = || Err(format!("the records did not come within {} s", PATIENCE.as_secs()));
        within(take_all).unwrap_or_else(late)
    }

    fn counting_round(&self) -> Failed<Counts> {
        let mut agent = self.agent()?;
        // Until pipes, queues and buffers are as large as they get.
        self.take(&mut agent, self.records)?;
        let (ring, first) = (self.target.ring_use(), agent.stats());
        let before = agent.stats();
        let (asked, taken) = counted(|| self.take(&mut agent, self.records));
        taken?;
        let after = agent.stats();
        let (ring_after, last) = (self.target.ring_use(), agent.stats());
        agent.abort_blocking();
        let (records, bytes) = came(before, after);
        let mut counts = asked_per_record(asked, records, bytes);
        counts.extend(ring_after.per_record(ring, came(first, last).0));
        Ok(counts)
    }
}

impl Rounds for Throughput<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let mut agent = self.agent()?;
        let (took, ()) = timed(|| self.take(&mut agent, self.records))?;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = self.target.spawn_plain(&self.fake())?;
        let mut stdout = child.stdout()?;
        let mut buffer = vec![0; 64 << 10];
        let mut read = || match stdout.read(&mut buffer).map_err(|error| error.to_string())? {
            0 => Err("the output ended".to_owned()),
            count => Ok((count as u64, memchr::memchr_iter(b'\n', &buffer[..count]).count())),
        };
        let (mut bytes, _) = read()?;
        let end = bytes + self.records * self.size;
        let read_all = || {
            let mut lines = 0;
            while bytes < end {
                let (count, more) = read()?;
                (bytes, lines) = (bytes + count, lines + more);
            }
            Ok(lines)
        };
        let (took, lines) = timed(read_all)?;
        if (lines as u64) + 1 < self.records {
            return Err(format!("{lines} lines of {}", self.records));
        }
        Ok(took)
    }

    fn peer(&mut self) -> Failed<Duration> {
        let mut lines = TokioLines::of(self.target.spawn_plain(&self.fake())?)?;
        lines.take(self.records, |line| match line.len() as u64 + 1 == self.size {
            true => (self.peer_looks)(line),
            false => Err("a line is of the wrong size".to_owned()),
        })
    }

    fn counts(&mut self) -> Failed<Counts> {
        let rounds = (0..COUNTING_ROUNDS).map(|_| self.counting_round());
        Ok(middle(rounds.collect::<Failed<_>>()?))
    }
}
