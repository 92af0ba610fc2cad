//! Floor 3. How many spares, how old they may become, and what becomes of what they say before.

use std::time::Duration;

/// Settings of a [`WarmPool`](super::WarmPool).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WarmPoolSettings {
    pub(super) spares: usize,
    pub(super) max_age: Duration,
    pub(super) keep_output: bool,
}

/// Each spare is a whole process that does nothing, and a refill starts as many as are missing
/// within milliseconds of each other: more would be a burst that the host feels.
const SPARES_MAX: usize = 64;

/// A shorter life is a process started every moment for nobody.
const AGE_MIN: Duration = Duration::from_secs(1);

/// A month stands for ever; a moment further off may have no name.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

impl Default for WarmPoolSettings {
    fn default() -> Self {
        Self { spares: 1, max_age: Duration::from_secs(600), keep_output: true }
    }
}

impl WarmPoolSettings {
    /// The defaults: one spare, ten minutes, output kept.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// So many agents stand ready. Default 1; 0 to 64, and more are set to 64. With 0 every agent is a
    /// cold one.
    #[must_use]
    pub fn size(mut self, spares: usize) -> Self {
        self.spares = spares.min(SPARES_MAX);
        self
    }

    /// A spare that was not taken for so long is closed and replaced: its login, its cache and its
    /// view of the world are as old as it is. Default 10 minutes; 1 s to 30 days, and a value outside of
    /// that is set to the nearer end.
    #[must_use]
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age.clamp(AGE_MIN, AGE_MAX);
        self
    }

    /// Whoever takes a spare does not get what it wrote before: the events that are there at that
    /// moment are dropped, their records counted
    /// ([`WarmPoolStats::records_discarded`](super::WarmPoolStats)). Default: they are kept, and come first.
    ///
    /// Either way an unread spare is held to [`Limits::inbox_high`](crate::Limits::inbox_high), as
    /// every agent is: what it writes beyond that stays in its pipe, and comes after the take.
    #[must_use]
    pub fn discard_startup_output(mut self) -> Self {
        self.keep_output = false;
        self
    }
}
