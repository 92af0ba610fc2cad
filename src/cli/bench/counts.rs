//! Numbers that a busy machine does not change: system calls, allocations, descriptors, kills.

use std::collections::BTreeMap;

use agentpipe::{AgentStats, CloseReport, Engine, IoCounters};

use super::alloc::Allocations;
use super::wait::BenchResult;

/// Name and value, as a limits file names them.
pub(super) type Counts = BTreeMap<String, f64>;

/// The ring's counters at one moment, summed over the engine's threads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RingUse {
    enters: u64,
    submitted: u64,
    completions: u64,
}

impl RingUse {
    pub(super) fn of(engine: &Engine) -> Self {
        let all: Vec<IoCounters> = engine.counters_blocking();
        Self {
            enters: all.iter().map(|ring| ring.enters).sum(),
            submitted: all.iter().map(|ring| ring.submitted).sum(),
            completions: all.iter().map(|ring| ring.completions).sum(),
        }
    }

    /// Returns what the ring did for each record since `before`.
    pub(super) fn per_record(self, before: Self, records: u64) -> Counts {
        Counts::from([
            ("enters_per_record".to_owned(), each(self.enters - before.enters, records)),
            ("sqes_per_record".to_owned(), each(self.submitted - before.submitted, records)),
            ("cqes_per_record".to_owned(), each(self.completions - before.completions, records)),
        ])
    }
}

/// Returns what the allocator did for `records` of `bytes` in all.
pub(super) fn allocations_per_record(made: Allocations, records: u64, bytes: u64) -> Counts {
    Counts::from([
        ("allocations_per_1000_records".to_owned(), each(made.calls, records) * 1000.0),
        ("allocated_bytes_per_byte".to_owned(), each(made.bytes, bytes)),
    ])
}

/// Returns the records and bytes that arrived between two readings.
pub(super) fn received(before: AgentStats, after: AgentStats) -> (u64, u64) {
    (after.records_in - before.records_in, after.bytes_in - before.bytes_in)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn each(sum: u64, of: u64) -> f64 {
    sum as f64 / of.max(1) as f64
}

/// How the closes of a scenario ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Closes {
    closes: u64,
    kills: u64,
}

impl Closes {
    pub(super) fn add(&mut self, report: &CloseReport) {
        const SIGKILL: i32 = 9;
        self.closes += 1;
        self.kills += u64::from(report.exit().signal() == Some(SIGKILL));
    }

    /// Returns the share of closes that needed a SIGKILL, the last and slowest resort.
    pub(super) fn counts(self) -> Counts {
        Counts::from([("kills_per_close".to_owned(), each(self.kills, self.closes))])
    }
}

/// Descriptors and threads of this process.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessUse {
    pub(super) descriptors: u64,
    pub(super) threads: u64,
}

impl ProcessUse {
    pub(super) fn now() -> BenchResult<Self> {
        let entries = |path: &str| {
            let folder = std::fs::read_dir(path).map_err(|error| format!("{path}: {error}"))?;
            Ok::<_, String>(folder.count() as u64)
        };
        Ok(Self { descriptors: entries("/proc/self/fd")?, threads: entries("/proc/self/task")? })
    }
}

/// Returns the median of each count: a busy machine changes one round, a defect changes all.
pub(super) fn median(rounds: Vec<Counts>) -> Counts {
    let mut series: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in rounds.into_iter().flatten() {
        series.entry(name).or_default().push(value);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    series.into_iter().map(|(name, values)| (name, median(values))).collect()
}
