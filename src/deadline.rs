//! Deadlines from durations that a user chooses.

use std::time::{Duration, Instant};

/// The latest deadline, which stands for "never": 30 years, as in tokio. Far enough for any
/// process, and near enough that neither an `Instant` nor a timer of the kernel overflows.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// `limit` from `now`, whatever `limit` is. `Duration::MAX` is as long as it takes.
pub(crate) fn after(now: Instant, limit: Duration) -> Instant {
    now + limit.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_duration_overflows() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::from_secs(1)), now + Duration::from_secs(1));
        for limit in [FAR, Duration::from_secs(1 << 62), Duration::MAX] {
            assert_eq!(after(now, limit), now + FAR);
        }
    }
}
