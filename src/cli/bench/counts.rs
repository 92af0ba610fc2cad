//! F5, bench: numbers that are the same on a busy machine.

use std::collections::BTreeMap;

use agentpipe::{AgentStats, CloseReport, Engine, IoCounters};

use super::alloc::Asked;
use super::scenario::Failed;

/// Name and value, as a limits file names them.
pub(super) type Counts = BTreeMap<String, f64>;

/// A few numbers of the ring at one moment, summed over the engine's threads.
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

    /// What the ring did for each record since `before`.
    pub(super) fn per_record(self, before: Self, records: u64) -> Counts {
        Counts::from([
            ("enters_per_record".to_owned(), each(self.enters - before.enters, records)),
            ("sqes_per_record".to_owned(), each(self.submitted - before.submitted, records)),
            ("cqes_per_record".to_owned(), each(self.completions - before.completions, records)),
        ])
    }
}

/// What the allocator did for `records`, which had `bytes` in all.
pub(super) fn asked_per_record(asked: Asked, records: u64, bytes: u64) -> Counts {
    Counts::from([
        ("allocations_per_1000_records".to_owned(), each(asked.calls, records) * 1000.0),
        ("allocated_bytes_per_byte".to_owned(), each(asked.bytes, bytes)),
    ])
}

/// Records and bytes that came between two looks.
pub(super) fn came(before: AgentStats, after: AgentStats) -> (u64, u64) {
    (after.records_in - before.records_in, after.bytes_in - before.bytes_in)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn each(sum: u64, of: u64) -> f64 {
    sum as f64 / of.max(1) as f64
}

/// How closes ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    closes: u64,
    kills: u64,
}

impl Ends {
    pub(super) fn add(&mut self, report: &CloseReport) {
        const SIGKILL: i32 = 9;
        self.closes += 1;
        self.kills += u64::from(report.exit().signal() == Some(SIGKILL));
    }

    /// How many of them took a SIGKILL: the last resort, and slow.
    pub(super) fn counts(self) -> Counts {
        Counts::from([("kills_per_close".to_owned(), each(self.kills, self.closes))])
    }
}

/// Descriptors and threads that this process has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) descriptors: u64,
    pub(super) threads: u64,
}

impl Held {
    pub(super) fn now() -> Failed<Self> {
        let entries = |path: &str| {
            let folder = std::fs::read_dir(path).map_err(|error| format!("{path}: {error}"))?;
            Ok::<_, String>(folder.count() as u64)
        };
        Ok(Self { descriptors: entries("/proc/self/fd")?, threads: entries("/proc/self/task")? })
    }
}

/// The middle one of each count: a busy machine spoils one round, a defect spoils all.
pub(super) fn middle(rounds: Vec<Counts>) -> Counts {
    let mut series: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in rounds.into_iter().flatten() {
        series.entry(name).or_default().push(value);
    }
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    series.into_iter().map(|(name, values)| (name, middle(values))).collect()
}
