//! The settings and the statistics of a warm pool.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Settings of a [`WarmPool`](super::WarmPool).
///
/// [`WarmPool::new`](super::WarmPool::new) refuses values out of their range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct WarmPoolSettings {
    pub(super) size: usize,
    pub(super) max_age: Duration,
    pub(super) discard_startup_output: bool,
}

/// Each idle agent is a whole process, and a refill starts all that are missing one after the other.
const SIZE_MAX: usize = 64;

/// A pool whose agents live less long would do little but start processes.
const MAX_AGE_MIN: Duration = Duration::from_secs(1);

impl Default for WarmPoolSettings {
    fn default() -> Self {
        Self { size: 1, max_age: Duration::from_secs(600), discard_startup_output: false }
    }
}

impl WarmPoolSettings {
    /// The defaults: one idle agent, ten minutes, startup output kept.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many idle agents are kept ready: 0 to 64, default 1. With 0 every acquire spawns.
    #[must_use]
    pub fn size(mut self, agents: usize) -> Self {
        self.size = agents;
        self
    }

    /// Sets the age at which an idle agent is closed and replaced, because its login, its caches and
    /// its view of the world are as old as it is. At least 1 s, default 10 minutes; with
    /// `Duration::MAX` agents never expire.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// Sets whether an acquire drops the events that the engine has read from an idle agent by then.
    /// The dropped records are counted in
    /// [`WarmPoolStats::records_discarded`](super::WarmPoolStats::records_discarded). Default: false;
    /// the startup output comes first.
    ///
    /// Either way an idle agent is held to [`Limits::inbox_high`](crate::Limits::inbox_high) like any
    /// agent: what it writes beyond that stays in its pipe and comes after the acquire.
    #[must_use]
    pub fn discard_startup_output(mut self, on: bool) -> Self {
        self.discard_startup_output = on;
        self
    }

    /// Returns the [`size`](Self::size).
    #[must_use]
    pub fn get_size(&self) -> usize {
        self.size
    }

    /// Returns the [`max_age`](Self::max_age).
    #[must_use]
    pub fn get_max_age(&self) -> Duration {
        self.max_age
    }

    /// Returns whether [startup output is discarded](Self::discard_startup_output).
    #[must_use]
    pub fn get_discard_startup_output(&self) -> bool {
        self.discard_startup_output
    }

    pub(super) fn check(&self) -> Result<()> {
        let what = if self.size > SIZE_MAX {
            format!("the size of a warm pool is {}, and may be at most {SIZE_MAX}", self.size)
        } else if self.max_age < MAX_AGE_MIN {
            format!("the max_age of a warm pool is {:?}, and must be at least 1 s", self.max_age)
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidSettings, "start", what))
    }
}

/// The statistics of a [`WarmPool`](super::WarmPool) since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct WarmPoolStats {
    /// Idle agents that are ready now.
    pub ready: usize,
    /// Idle agents that are ordered or being spawned now.
    pub pending: usize,
    /// Acquires that got an idle agent.
    pub warm: u64,
    /// Acquires that found none and spawned an agent.
    pub misses: u64,
    /// Idle agents spawned. Each is ready, was acquired, or is counted in one of the next five.
    pub spawned: u64,
    /// Idle agents that ended by themselves.
    pub died: u64,
    /// Idle agents closed because they were too old.
    pub expired: u64,
    /// Idle agents closed because the executable or environment of their command has changed.
    pub changed: u64,
    /// Idle agents closed to make room for a spawn.
    pub evicted: u64,
    /// Idle agents closed with their pool or their engine, or on their way to a dropped acquire.
    pub unused: u64,
    /// Idle agents that could not be spawned.
    pub failed: u64,
    /// Records dropped because of
    /// [`WarmPoolSettings::discard_startup_output`](super::WarmPoolSettings::discard_startup_output).
    pub records_discarded: u64,
}

/// One line for a log.
impl fmt::Display for WarmPoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ready, {} pending; {} acquired warm, {} misses; of {} spawned {} died, {} expired, \
             {} changed, {} evicted, {} unused; {} failed to spawn; {} records discarded",
            self.ready,
            self.pending,
            self.warm,
            self.misses,
            self.spawned,
            self.died,
            self.expired,
            self.changed,
            self.evicted,
            self.unused,
            self.failed,
            self.records_discarded,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_out_of_range_are_refused() {
        // A pool of 1000 was one of 64 without a word.
        let default = WarmPoolSettings::new();
        for good in [default, default.size(0), default.size(64), default.max_age(Duration::MAX)] {
            good.check().expect("in range");
        }
        for bad in [default.size(65), default.max_age(Duration::from_millis(999))] {
            assert_eq!(bad.check().expect_err("out of range").kind(), ErrorKind::InvalidSettings);
        }
    }
}
