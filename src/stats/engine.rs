//! Floor 0. What an engine, or one of its threads, has done: the snapshot that users see.

use std::fmt;

use crate::close::CloseStage;
use crate::counters::IoCounters;
use crate::stats::Histogram;

/// What an engine, or one thread of it, has done since it was started. Agents that are gone are
/// counted as long as the engine lives. Sizes are bytes on the pipes.
///
/// Reading it takes no lock and wakes nobody. The numbers of a busy thread are at most one turn
/// old, each for itself: two of them may be from two turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Agents now: taken over by the engine, and their close not reported.
    pub agents: u64,
    /// Agents taken over since the start.
    pub spawned: u64,
    /// Records that came from agents, discarded ones included.
    pub records_in: u64,
    /// Bytes read from their stdout.
    pub bytes_in: u64,
    /// Records written to agents in full.
    pub records_out: u64,
    /// Bytes written to their stdin.
    pub bytes_out: u64,
    /// Records that nobody took.
    pub records_discarded: u64,
    /// The bytes of those records.
    pub bytes_discarded: u64,
    /// Times reading an agent was paused because its reader was slow.
    pub pauses: u64,
    /// What the ring did. Of an engine, all rings together, but for `buffers_free_min`: there it
    /// is the lowest of any.
    pub io: IoCounters,
    /// How long closes took, from their begin to their report.
    pub close_times: Histogram,
    pub(crate) closes: [u64; CloseStage::ALL.len()],
}

impl EngineStats {
    /// Closes reported.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.closes.iter().sum()
    }

    /// Closes in which the agent's exit was seen in this stage:
    /// [`CloseReport::stage`](crate::CloseReport::stage).
    #[must_use]
    pub fn closed_in(&self, stage: CloseStage) -> u64 {
        self.closes[stage as usize]
    }

    /// Adds another thread's.
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
        self.io.buffers_free_min = self.io.buffers_free_min.min(other.io.buffers_free_min);
        self.io.starved += other.io.starved;
        self.io.overflows += other.io.overflows;
        self.close_times.merge(&other.close_times);
        for (own, more) in self.closes.iter_mut().zip(other.closes) {
            *own += more;
        }
    }

    /// As a `tracing` event of the target `agentpipe::stats`.
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

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One line for a person: the closes by stage, where there were any, and what to look at first.
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
