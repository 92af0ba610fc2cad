//! F5, bench: records of one size as fast as the built-in agent can write them.

use std::io::Read;
use std::time::Duration;

use agentpipe::{Agent, JsonCheck, Limits};

use super::alloc::counted;
use super::counts::{Counts, asked_per_record, came, each, middle};
use super::patience::{PATIENCE, within};
use super::plain::{Plain, timed};
use super::read_buffer::ReadBuffer;
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, next_record};
use super::tokio_lines::TokioLines;

/// What is counted is counted so often.
const COUNTING_ROUNDS: usize = 5;

pub(super) fn open<'a>(
    target: &'a Target,
    scenario: &'static Scenario,
) -> Failed<Box<dyn Rounds + 'a>> {
    Ok(Box::new(Throughput {
        target,
        records: scenario.records,
        size: scenario.record_bytes,
        size_word: scenario.record_bytes.to_string(),
    }))
}

struct Throughput<'a> {
    target: &'a Target,
    records: u64,
    /// Newline included.
    size: u64,
    size_word: String,
}

impl Throughput<'_> {
    fn fake(&self) -> [&str; 4] {
        ["--flood", "--never-read-stdin", "--record-size", &self.size_word]
    }

    /// An agent in mid-stream.
    fn agent(&self) -> Failed<Agent> {
        // The limit and the peer parse nothing, so records are known by their outside here, too.
        let limits = Limits::new().json_check(JsonCheck::Shape);
        let mut agent = self.target.spawn(&self.fake(), limits)?;
        next_record(&mut agent)?;
        Ok(agent)
    }

    fn take(&self, agent: &mut Agent, records: u64) -> Failed<()> {
        let take_all = async {
            for _ in 0..records {
                match agent.next_record().await {
                    Some(record) if record.len() as u64 + 1 == self.size => {}
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
        read_lines(&mut self.target.spawn_plain(&self.fake())?, self.records, self.size)
    }

    fn peer(&mut self) -> Failed<Duration> {
        let mut lines = TokioLines::of(self.target.spawn_plain(&self.fake())?)?;
        lines.take(self.records, |line| match line.len() as u64 + 1 == self.size {
            true => Ok(()),
            false => Err("a line is of the wrong size".to_owned()),
        })
    }

    fn counts(&mut self) -> Failed<Counts> {
        let rounds = (0..COUNTING_ROUNDS).map(|_| self.counting_round());
        Ok(middle(rounds.collect::<Failed<_>>()?))
    }
}

/// The limit: blocking read(2), and a count of newlines. The first read is before the clock starts.
pub(super) fn read_lines(child: &mut Plain, records: u64, size: u64) -> Failed<Duration> {
    let mut stdout = child.stdout()?;
    let mut buffer = ReadBuffer::new();
    let buffer = buffer.bytes();
    let mut read = || match stdout.read(buffer).map_err(|error| error.to_string())? {
        0 => Err("the output ended".to_owned()),
        count => Ok((count as u64, memchr::memchr_iter(b'\n', &buffer[..count]).count())),
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
        return Err(format!("{lines} lines of {records}"));
    }
    // What came before the clock started is taken to be as fast as the rest.
    Ok(took.mul_f64(each(records * size, end - first)))
}
