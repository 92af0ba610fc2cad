//! Floor 3. What became of the spares.

use std::fmt;

/// What a [`WarmPool`](super::WarmPool) has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmPoolStats {
    /// Spares that stand ready now.
    pub ready: usize,
    /// Spares that are being spawned now.
    pub pending: usize,
    /// Takes that got a spare.
    pub warm: u64,
    /// Takes that found none and spawned.
    pub misses: u64,
    /// Spares spawned. Each is ready, was taken, or is counted in one of the next five.
    pub spawned: u64,
    /// Spares that ended by themselves.
    pub died: u64,
    /// Spares closed because they were too old.
    pub expired: u64,
    /// Spares closed because their command means something else by now: another file, another
    /// environment.
    pub changed: u64,
    /// Spares closed to make room for a spawn.
    pub evicted: u64,
    /// Spares closed with their `WarmPool`, or handed to a take that was given up.
    pub unused: u64,
    /// Spares that could not be spawned.
    pub failed: u64,
    /// Records of spares that were discarded, as
    /// [`WarmPoolSettings::discard_startup_output`](super::WarmPoolSettings::discard_startup_output) asks for.
    pub records_discarded: u64,
}

/// One line for a person.
impl fmt::Display for WarmPoolStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ready, {} pending; {} taken warm, {} misses; of {} spares {} died, {} grew expired, \
             {} changed, {} given up, {} unused; {} could not be spawned; {} records discarded",
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
