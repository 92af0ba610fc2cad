//! The sums over all agents of one thread, those that are gone included: kept by the thread and published
//! once a turn.

use std::sync::Arc;

use crate::close::CloseReport;
use crate::counters::{AgentStats, IoCounters};
use crate::stats::{EngineStats, PublishedStats};

#[derive(Debug, Default)]
pub(super) struct Tally {
    stats: EngineStats,
    published: Arc<PublishedStats>,
    /// Taken over, and their close not reported.
    agents: usize,
}

impl Tally {
    pub(super) fn published(&self) -> Arc<PublishedStats> {
        Arc::clone(&self.published)
    }

    pub(super) fn open(&self) -> usize {
        self.agents
    }

    pub(super) fn adopted(&mut self) {
        self.agents += 1;
        self.stats.spawned += 1;
    }

    /// Adds what an agent did since `tallied`.
    pub(super) fn advance(&mut self, tallied: &mut AgentStats, stats: &AgentStats) {
        if tallied != stats {
            self.stats.add_difference(tallied, stats);
            *tallied = *stats;
        }
    }

    pub(super) fn closed(&mut self, report: &CloseReport) {
        self.agents -= 1;
        self.stats.note_close(report.stage(), report.total());
    }

    pub(super) fn publish(&mut self, io: &IoCounters) {
        self.stats.agents = self.agents as u64;
        self.stats.io = *io;
        self.published.publish(&self.stats);
    }
}
