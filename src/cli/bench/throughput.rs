//! Group `throughput`: records as fast as an agent can write them. `throughput_*` takes records of one
//! size from the built-in agent; `pipeline_1k` also classifies each record.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use agentpipe::{Agent, AgentCommand, JsonCheck, Limits, Record};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::Receiver;
use tokio::runtime::{Builder, Runtime};

use super::alloc::counted;
use super::child::PlainChild;
use super::counts::{Counts, RingUse, allocations_per_record, each, median, received};
use super::frame::message;
use super::read_buffer::ReadBuffer;
use super::scenario::{Run, Scenario};
use super::setup::{Setup, next_record};
use super::stopwatch::Took;
use super::wait::{BenchResult, PATIENCE, timed, within};

/// Rounds of counting; the median of each count is reported.
const COUNTING_ROUNDS: usize = 5;

pub(super) fn open_flood<'a>(
    setup: &'a Setup,
    scenario: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    let (records, size) = (scenario.records, scenario.record_bytes);
    Ok(Box::new(Flood { setup, records, size, size_word: size.to_string() }))
}

struct Flood<'a> {
    setup: &'a Setup,
    records: u64,
    /// With the newline.
    size: u64,
    size_word: String,
}

impl Flood<'_> {
    fn fake(&self) -> [&str; 4] {
        ["--flood", "--never-read-stdin", "--record-size", &self.size_word]
    }

    /// An agent that has written its first record.
    fn agent(&self) -> BenchResult<Agent> {
        // The limit and the peer parse nothing, so agentpipe checks only the shape of records here.
        let limits = Limits::new().json_check(JsonCheck::Shape);
        let mut agent = self.setup.spawn(&self.fake(), limits)?;
        next_record(&mut agent)?;
        Ok(agent)
    }

    fn take(&self, agent: &mut Agent) -> BenchResult<()> {
        take(agent, self.records, |record| match record.len() as u64 + 1 == self.size {
            true => Ok(()),
            false => Err("a record is of the wrong size".into()),
        })
    }

    fn counting_round(&self) -> BenchResult<Counts> {
        let mut agent = self.agent()?;
        // Pipes, queues and buffers grow to their full size first.
        self.take(&mut agent)?;
        let (ring, first) = (RingUse::of(&self.setup.engine), agent.stats());
        let before = agent.stats();
        let (made, taken) = counted(|| self.take(&mut agent));
        taken?;
        let after = agent.stats();
        let (ring_after, last) = (RingUse::of(&self.setup.engine), agent.stats());
        agent.abort_blocking();
        let (records, bytes) = received(before, after);
        let mut counts = allocations_per_record(made, records, bytes);
        counts.extend(ring_after.per_record(ring, received(first, last).0));
        Ok(counts)
    }
}

impl Run for Flood<'_> {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        let mut agent = self.agent()?;
        let (took, ()) = timed(|| self.take(&mut agent))?;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> BenchResult<Took> {
        read_lines(&mut self.setup.spawn_plain(&self.fake())?, self.records, self.size)
    }

    fn peer(&mut self) -> BenchResult<Took> {
        let mut lines = TokioLines::of(self.setup.spawn_plain(&self.fake())?)?;
        lines.take(self.records, |line| match line.len() as u64 + 1 == self.size {
            true => Ok(()),
            false => Err("a line is of the wrong size".into()),
        })
    }

    fn counts(&mut self) -> BenchResult<Counts> {
        let rounds = (0..COUNTING_ROUNDS).map(|_| self.counting_round());
        Ok(median(rounds.collect::<BenchResult<_>>()?))
    }
}

pub(super) fn open_pipeline<'a>(
    setup: &'a Setup,
    scenario: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    let size = usize::try_from(scenario.record_bytes)?;
    // One more than is timed, because the first is taken before the clock starts.
    let count = usize::try_from(scenario.records + 1)?;
    let text = (message(size) + "\n").repeat(count);
    let memory = rustix::fs::memfd_create("messages", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut messages = File::from(memory);
    messages.write_all(text.as_bytes())?;
    Ok(Box::new(Pipeline { setup, messages, records: scenario.records, size: size as u64 }))
}

/// Messages as an agent sends them, because the cost of a parser depends on its input. `cat` writes
/// them, which is faster than any agent.
struct Pipeline<'a> {
    setup: &'a Setup,
    messages: File,
    records: u64,
    /// With the newline.
    size: u64,
}

impl Pipeline<'_> {
    /// A path to the messages for another process of this user.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.messages.as_raw_fd())
    }

    fn agent(&self) -> BenchResult<Agent> {
        let command = AgentCommand::new("cat").arg(self.path());
        let mut agent = self.setup.engine.spawn_blocking(command)?;
        next_record(&mut agent)?;
        Ok(agent)
    }

    fn child(&self) -> BenchResult<PlainChild> {
        let mut command = Command::new("cat");
        command.arg(self.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        PlainChild::spawn(&mut command)
    }

    fn envelopes(&self, agent: &mut Agent) -> BenchResult<()> {
        take(agent, self.records, |record| is_the_message(record.envelope()?.kind.as_deref()))
    }
}

fn is_the_message(kind: Option<&str>) -> BenchResult<()> {
    match kind {
        Some("assistant") => Ok(()),
        _ => Err("the record is not what was written".into()),
    }
}

impl Run for Pipeline<'_> {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        let mut agent = self.agent()?;
        let (took, ()) = timed(|| self.envelopes(&mut agent))?;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> BenchResult<Took> {
        read_lines(&mut self.child()?, self.records, self.size)
    }

    fn peer(&mut self) -> BenchResult<Took> {
        TokioLines::of(self.child()?)?.take(self.records, |line| {
            let value: serde_json::Value = serde_json::from_str(line)?;
            is_the_message(value["type"].as_str())
        })
    }

    fn counts(&mut self) -> BenchResult<Counts> {
        let mut agent = self.agent()?;
        let (before, (made, taken)) = (agent.stats(), counted(|| self.envelopes(&mut agent)));
        taken?;
        let (_, bytes) = received(before, agent.stats());
        agent.abort_blocking();
        Ok(allocations_per_record(made, self.records, bytes))
    }
}

/// Takes `count` records and checks each.
fn take(
    agent: &mut Agent,
    count: u64,
    check: impl Fn(&Record) -> BenchResult<()>,
) -> BenchResult<()> {
    let take_all = async {
        for _ in 0..count {
            check(&agent.next_record().await.ok_or("a record is missing")?)?;
        }
        Ok(())
    };
    let late = || Err(format!("the records did not come within {} s", PATIENCE.as_secs()).into());
    within(PATIENCE, take_all).unwrap_or_else(late)
}

/// The limit: read(2) that blocks, and a count of newlines. The first read precedes the clock.
fn read_lines(child: &mut PlainChild, records: u64, size: u64) -> BenchResult<Took> {
    let mut stdout = child.take_stdout()?;
    let mut buffer = ReadBuffer::new();
    let buffer = buffer.bytes();
    let mut read = || -> BenchResult<_> {
        match stdout.read(buffer)? {
            0 => Err("the output ended".into()),
            count => Ok((count as u64, memchr::memchr_iter(b'\n', &buffer[..count]).count())),
        }
    };
    let (mut bytes, mut lines) = read()?;
    let first = bytes;
    let end = (records + 1) * size;
    let read_all = || {
        while bytes < end {
            let (count, more) = read()?;
            (bytes, lines) = (bytes + count, lines + more);
        }
        Ok(())
    };
    let (took, ()) = timed(read_all)?;
    if (lines as u64) < records {
        return Err(format!("{lines} lines of {records}").into());
    }
    // Scaled up by the part of the first read, which was not timed.
    Ok(took.mul_f64(each(records * size, end - first)))
}

/// The peer: tokio's `lines()` on one thread, as most hosts read.
struct TokioLines {
    runtime: Runtime,
    lines: Lines<BufReader<Receiver>>,
    /// Killed when its lines are dropped.
    _child: PlainChild,
}

impl TokioLines {
    /// Starts to read a child, and takes its first line.
    fn of(mut child: PlainChild) -> BenchResult<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let stdout = OwnedFd::from(child.take_stdout()?);
        let entered = runtime.enter();
        let lines = BufReader::new(Receiver::from_owned_fd(stdout)?).lines();
        drop(entered);
        let mut lines = Self { runtime, lines, _child: child };
        lines.take(1, |_| Ok(()))?;
        Ok(lines)
    }

    /// Measures how long it takes to read and check `count` lines.
    fn take(&mut self, count: u64, check: impl Fn(&str) -> BenchResult<()>) -> BenchResult<Took> {
        let Self { runtime, lines, .. } = self;
        let all = async {
            for _ in 0..count {
                check(&lines.next_line().await?.ok_or("the output ended")?)?;
            }
            Ok(())
        };
        let late = |_| format!("the lines did not come within {} s", PATIENCE.as_secs());
        let bounded = async { tokio::time::timeout(PATIENCE, all).await.map_err(late)? };
        Ok(timed(|| runtime.block_on(bounded))?.0)
    }
}
