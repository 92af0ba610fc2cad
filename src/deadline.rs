//! Deadlines from durations that a user chooses, without overflow.

use std::time::{Duration, Instant};

/// The longest timeout, which stands for "never": 30 years, as in tokio. No process runs that long, and
/// neither an `Instant` nor a timer of the kernel overflows.
pub(crate) const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Returns the deadline `limit` after `now`. Every `limit` is valid.
pub(crate) fn after(now: Instant, limit: Duration) -> Instant {
    now + limit.min(NEVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_overflows() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::from_secs(1)), now + Duration::from_secs(1));
        for limit in [NEVER, Duration::from_secs(1 << 62), Duration::MAX] {
            assert_eq!(after(now, limit), now + NEVER);
        }
    }
}
