//! The statistics of an engine: a snapshot for the user, and the cell in which an engine thread publishes
//! its own.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::close::CloseStage;
use crate::counters::{AgentStats, IoCounters};
use crate::origin::Origin;

use super::histogram::Histogram;

/// The statistics of an engine, or of one of its threads, since its start. They include agents that are
/// gone.
/// Sizes are bytes on the pipes.
///
/// Reading it wakes no thread. The numbers of a thread are at most one turn old. All zero in a forked
/// child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct EngineStats {
    /// Agents now: taken over by the engine thread, and their close not reported.
    pub agents: u64,
    /// Agents taken over since the start.
    pub spawned: u64,
    /// Records read from agents, discarded ones included.
    pub records_in: u64,
    /// Bytes read from their stdout.
    pub bytes_in: u64,
    /// Records written to agents in full.
    pub records_out: u64,
    /// Bytes written to their stdin.
    pub bytes_out: u64,
    /// Records without a reader, or beyond the drain buffer.
    pub records_discarded: u64,
    /// The bytes of those records.
    pub bytes_discarded: u64,
    /// Times reading an agent was paused because its reader was slow.
    pub pauses: u64,
    /// The counters of the ring. For an engine the sum of all rings, and the lowest `buffers_free_min`.
    pub io: IoCounters,
    /// How long closes took, from the request to the report.
    pub close_times: Histogram,
    #[cfg_attr(feature = "serde", serde(serialize_with = "serialize_closes"))]
    pub(crate) closes: [u64; CloseStage::ALL.len()],
}

/// Serializes the closes as a map from the stage to its count, without empty stages.
#[cfg(feature = "serde")]
fn serialize_closes<S: serde::Serializer>(
    closes: &[u64; CloseStage::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let counts = CloseStage::ALL.iter().zip(closes).filter(|(_, count)| **count > 0);
    serializer.collect_map(counts.map(|(stage, count)| (stage.as_str(), count)))
}

impl EngineStats {
    /// Returns the number of closes reported.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.closes.iter().sum()
    }

    /// Returns the number of closes in which the agent exited in this stage: see
    /// [`CloseReport::stage`](crate::CloseReport::stage).
    #[must_use]
    pub fn closed_in(&self, stage: CloseStage) -> u64 {
        self.closes[stage as usize]
    }

    /// Adds what an agent did between two readings of its counters.
    pub(crate) fn add_difference(&mut self, before: &AgentStats, after: &AgentStats) {
        self.records_in += after.records_in - before.records_in;
        self.bytes_in += after.bytes_in - before.bytes_in;
        self.records_out += after.records_out - before.records_out;
        self.bytes_out += after.bytes_out - before.bytes_out;
        self.records_discarded += after.records_discarded - before.records_discarded;
        self.bytes_discarded += after.bytes_discarded - before.bytes_discarded;
        self.pauses += after.pauses - before.pauses;
    }

    /// Counts a reported close.
    pub(crate) fn note_close(&mut self, stage: CloseStage, took: Duration) {
        self.closes[stage as usize] += 1;
        self.close_times.record(took);
    }

    /// Adds the statistics of another thread.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.agents += other.agents;
        self.spawned += other.spawned;
        self.records_in += other.records_in;
        self.bytes_in += other.bytes_in;
        self.records_out += other.records_out;
        self.bytes_out += other.bytes_out;
        self.records_discarded += other.records_discarded;
        self.bytes_discarded += other.bytes_discarded;
        self.pauses += other.pauses;
        self.io.queued += other.io.queued;
        self.io.in_kernel += other.io.in_kernel;
        self.io.enters += other.io.enters;
        self.io.submitted += other.io.submitted;
        self.io.completions += other.io.completions;
        self.io.stale += other.io.stale;
        self.io.buffers += other.io.buffers;
        self.io.buffers_free += other.io.buffers_free;
        // Rings share no buffers, so only the lowest number shows that one of them ran short.
        self.io.buffers_free_min = self.io.buffers_free_min.min(other.io.buffers_free_min);
        self.io.starved += other.io.starved;
        self.io.overflows += other.io.overflows;
        self.close_times.merge(&other.close_times);
        for (own, more) in self.closes.iter_mut().zip(other.closes) {
            *own += more;
        }
    }

    /// Sends a `tracing` event with the target `agentpipe::stats`.
    pub(crate) fn trace(&self, of: &str) {
        let Self { agents, spawned, records_in, bytes_in, .. } = *self;
        let Self { records_out, bytes_out, records_discarded, pauses, .. } = *self;
        let IoCounters { enters, completions, starved, overflows, .. } = self.io;
        crate::trace::info!(
            target: "agentpipe::stats",
            of, agents, spawned, records_in, bytes_in, records_out, bytes_out, records_discarded,
            pauses, enters, completions, starved, overflows,
            buffers_free_min = self.io.buffers_free_min,
            closed = self.closed(),
            killed = self.closed_in(CloseStage::Kill),
            close_p50_us = micros(self.close_times.quantile(0.5)),
            close_p99_us = micros(self.close_times.quantile(0.99)),
            close_max_us = micros(self.close_times.max()),
            "stats"
        );
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One line for a log, with the number of closes by stage.
impl fmt::Display for EngineStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} agents of {}, {} records in ({} bytes), {} out ({} bytes), {} discarded, \
             {} pauses, {} enters, {} completions, {} starved, {} of {} buffers free at least, \
             {} closed",
            self.agents,
            self.spawned,
            self.records_in,
            self.bytes_in,
            self.records_out,
            self.bytes_out,
            self.records_discarded,
            self.pauses,
            self.io.enters,
            self.io.completions,
            self.io.starved,
            self.io.buffers_free_min,
            self.io.buffers,
            self.closed(),
        )?;
        for stage in CloseStage::ALL {
            if self.closed_in(stage) > 0 {
                write!(f, ", {} in {stage}", self.closed_in(stage))?;
            }
        }
        Ok(())
    }
}

/// The statistics that an engine thread publishes once a turn, for any thread to read. The lock is held
/// for one copy, so a reader delays a turn by less than a microsecond.
#[derive(Debug)]
pub(crate) struct PublishedStats {
    stats: Mutex<EngineStats>,
    origin: Origin,
}

impl Default for PublishedStats {
    fn default() -> Self {
        Self { stats: Mutex::default(), origin: Origin::here() }
    }
}

impl PublishedStats {
    fn lock(&self) -> MutexGuard<'_, EngineStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the statistics at the end of a turn.
    pub(crate) fn publish(&self, stats: &EngineStats) {
        self.lock().clone_from(stats);
    }

    /// Returns the statistics of the last turn. All zero in a forked child, where the lock may be taken
    /// for good.
    pub(crate) fn read(&self) -> EngineStats {
        if self.origin.is_here() { self.lock().clone() } else { EngineStats::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_stats_are_read() {
        let before = AgentStats { records_in: 3, bytes_in: 5, ..AgentStats::default() };
        let after = AgentStats { records_in: 4, bytes_in: 7, pauses: 7, ..AgentStats::default() };
        let io = IoCounters { enters: 3, buffers_free_min: 4, ..IoCounters::default() };
        let mut stats = EngineStats { agents: 5, spawned: 6, io, ..EngineStats::default() };
        stats.add_difference(&before, &after);
        stats.note_close(CloseStage::Drain, Duration::from_micros(90));
        stats.note_close(CloseStage::Kill, Duration::from_micros(30));
        let published = PublishedStats::default();
        published.publish(&stats);
        let read = published.read();
        assert_eq!((read.agents, read.spawned, read.records_in, read.bytes_in), (5, 6, 1, 2));
        assert_eq!((read.pauses, read.io), (7, io));
        assert_eq!((read.closed(), read.closed_in(CloseStage::Kill)), (2, 1));
        assert_eq!(read.close_times.total(), Duration::from_micros(120));
        assert_eq!(read.close_times.max(), Duration::from_micros(90));
        let mut both = read.clone();
        both.merge(&read);
        assert_eq!((both.closed(), both.agents, both.io.enters), (4, 10, 6));
        assert_eq!(both.io.buffers_free_min, 4, "the lowest, not the sum");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn stats_serialize_with_named_stages() {
        let mut stats = EngineStats::default();
        stats.note_close(CloseStage::Drain, Duration::from_micros(3));
        let json = serde_json::to_value(&stats).expect("numbers and names");
        assert_eq!(json["closes"], serde_json::json!({"drain": 1}));
        assert_eq!(json["close_times"]["buckets"], serde_json::json!([[4, 1]]));
        assert_eq!((&json["io"]["enters"], &json["close_times"]["max_us"]), (&0.into(), &3.into()));
    }
}
