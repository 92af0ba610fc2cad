//! The clock of session deadlines. It leaves out the time in which this process did not run.
//!
//! A stopped, suspended or starved host cannot read an answer that is there; that time is not the
//! agent's. The thread that keeps the deadlines naps in short pieces and sees by each how late it was
//! woken, at the end of the nap or by a bell: by as much all deadlines move.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A nap is at least this long, if nothing happens.
const NAP_MIN: Duration = Duration::from_millis(20);
/// Who wakes up to this much late wakes as usual.
const LATE: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Nanoseconds in which the process did not run, though it should have.
    missed: AtomicU64,
}

impl Clock {
    /// Now, less all that was missed.
    pub(super) fn now(&self) -> Instant {
        let now = Instant::now();
        let missed = Duration::from_nanos(self.missed.load(Ordering::Relaxed));
        now.checked_sub(missed).unwrap_or(now)
    }

    /// How long to sleep where the next deadline is so far away: at most a quarter of the way. What is
    /// missed within a nap shows only beyond its end, so three quarters of each deadline are left even
    /// where a stop began with the nap.
    pub(super) fn nap(left: Duration) -> Duration {
        left.min(NAP_MIN.max(left / 4))
    }

    /// The thread was to wake at the first of these moments, and ran again at the second.
    pub(super) fn woken(&self, wanted: Instant, woken: Instant) {
        let late = woken.saturating_duration_since(wanted);
        if late > LATE {
            let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
            self.missed.fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_a_nap_was_late_by_moves_the_clock_and_with_it_every_deadline() {
        let clock = Clock::default();
        let before = clock.now();
        clock.woken(before, before + LATE);
        clock.woken(before + 20 * MS, before + 3 * MS);
        assert!(clock.now() >= before, "woken early, or hardly late");
        clock.woken(before, before + 3_600_000 * MS);
        assert!(clock.now() + 3_600_000 * MS >= before, "no more than that");
        assert!(clock.now() < before, "an hour was missed");
    }

    #[test]
    fn no_nap_spends_more_than_a_quarter_of_a_deadline() {
        assert_eq!(Clock::nap(60_000 * MS), 15_000 * MS);
        assert_eq!(Clock::nap(60 * MS), 20 * MS);
        assert_eq!(Clock::nap(7 * MS), 7 * MS);
        assert_eq!(Clock::nap(Duration::ZERO), Duration::ZERO);
        let (mut left, mut naps) = (Duration::from_secs(3600), 0);
        while !left.is_zero() {
            left -= Clock::nap(left);
            naps += 1;
        }
        assert!(naps < 60, "an hour costs {naps} wake-ups");
    }
}
