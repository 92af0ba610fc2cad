//! Floor 0. How long something took, counted in buckets: fixed memory, no allocation, any range.

use std::time::Duration;

/// Buckets up to 4 us hold one microsecond each; above, each doubling has four.
const STEPS: u64 = 4;

/// Up to 2^28 us, four and a half minutes; what is longer is counted in the last.
pub(crate) const BUCKETS: usize = 108;

/// A distribution of durations, in microseconds.
///
/// A quantile is exact to a quarter of its value, always towards the longer; the count, the sum
/// and the maximum are exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    pub(crate) counts: [u64; BUCKETS],
    pub(crate) total_us: u64,
    pub(crate) max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total_us: 0, max_us: 0 }
    }
}

/// The bucket that a duration falls into.
pub(crate) fn bucket_of(us: u64) -> usize {
    let index = if us < STEPS {
        us
    } else {
        let doubling = u64::from(us.ilog2());
        STEPS * (doubling - 1) + ((us >> (doubling - 2)) & (STEPS - 1))
    };
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// The first microsecond that is beyond a bucket.
fn end_of(bucket: usize) -> u64 {
    let next = bucket as u64 + 1;
    if next < STEPS { next } else { (STEPS + next % STEPS) << (next / STEPS - 1) }
}

impl Histogram {
    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.total_us)
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// The time within which this share of them ended: 0.5 for the median, 0.99 and so on. At
    /// most a quarter too long. Zero where nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let count = self.count();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank between 1 and count"
        )]
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= rank {
                let last = bucket + 1 == BUCKETS;
                let end = if last { self.max_us } else { end_of(bucket).min(self.max_us) };
                return Duration::from_micros(end);
            }
        }
        Duration::ZERO
    }

    /// The buckets that hold anything, shortest first: the end of each and its own count. What
    /// a monitoring system needs for a histogram of its own.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let held = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        held.map(|(bucket, count)| (Duration::from_micros(end_of(bucket)), *count))
    }

    /// Adds another one's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.total_us += other.total_us;
        self.max_us = self.max_us.max(other.max_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_no_wider_than_a_quarter_of_what_it_holds() {
        // The story: an alert on p99 that is twice too long, or too short, wakes somebody up.
        let mut before = 0;
        let mut us = 0;
        while us < 1 << 28 {
            let bucket = bucket_of(us);
            assert!(bucket == before || bucket == before + 1, "{us}: {before}, {bucket}");
            assert!(us < end_of(bucket), "{us} in {bucket}, which ends at {}", end_of(bucket));
            assert!(end_of(bucket) - us <= (us / 4).max(1), "{us}: {}", end_of(bucket));
            before = bucket;
            us += 1 + us / 97;
        }
        assert_eq!((bucket_of((1 << 28) - 1), bucket_of(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn quantiles_of_known_times() {
        let mut all = Histogram::default();
        for us in 1..=1000 {
            all.counts[bucket_of(us)] += 1;
            all.total_us += us;
            all.max_us = all.max_us.max(us);
        }
        let mut twice = all.clone();
        twice.merge(&all);
        for histogram in [all, twice] {
            let p50 = histogram.quantile(0.5).as_micros();
            assert!((500..=625).contains(&p50), "{p50}");
            assert_eq!(histogram.quantile(1.0), Duration::from_millis(1), "never beyond the max");
            assert_eq!(histogram.quantile(0.0).as_micros(), 2, "the end of the first bucket");
            assert_eq!(histogram.buckets().map(|(_, n)| n).sum::<u64>(), histogram.count());
        }
        assert_eq!(Histogram::default().quantile(0.99), Duration::ZERO);
    }
}
