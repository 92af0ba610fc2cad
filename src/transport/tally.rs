//! Floor 2. The sums of one thread: kept by the thread, shown on its board once a turn.

use std::sync::Arc;
use std::time::Instant;

use crate::close::CloseReport;
use crate::counters::{AgentStats, IoCounters, Work};
use crate::stats::{Board, Meter};

/// What all agents of a thread did, those that are gone included.
#[derive(Debug, Default)]
pub(super) struct Tally {
    board: Arc<Board>,
    /// Taken over, and their close not reported.
    agents: usize,
    spawned: u64,
    work: Work,
    meter: Meter,
}

impl Tally {
    pub(super) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    pub(super) fn open(&self) -> usize {
        self.agents
    }

    pub(super) fn adopted(&mut self) {
        self.agents += 1;
        self.spawned += 1;
    }

    /// Adds what an agent did since `tallied`.
    pub(super) fn advance(&mut self, tallied: &mut Work, stats: &AgentStats) {
        let done = Work::from(stats);
        if done != *tallied {
            self.work.add_difference(tallied, &done);
            *tallied = done;
        }
    }

    pub(super) fn closed(&mut self, report: &CloseReport) {
        self.agents -= 1;
        self.board.note_close(report.stage(), report.total());
    }

    /// Shows everything. The owner alone writes, so these are plain stores.
    pub(super) fn publish(&mut self, io: &IoCounters, now: Instant) {
        self.meter.advance(self.work.units(), now);
        self.board.publish(self.agents as u64, self.spawned, &self.work, io, self.meter);
    }
}
