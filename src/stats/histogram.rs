//! A histogram of durations: counts in buckets, with fixed memory and without allocation.

use std::time::Duration;

/// Buckets up to 4 us hold one microsecond each; above, each doubling has this many.
const STEPS: u64 = 4;

/// Buckets up to 2^28 us, four and a half minutes. Longer durations count in the last.
const BUCKETS: usize = 108;

/// A distribution of durations, in microseconds.
///
/// A quantile is at most a quarter too long, and never too short; the count, the sum and the maximum are
/// exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    total_us: u64,
    max_us: u64,
}

/// Serializes the count, the sum, the maximum, and the end and count of each bucket that is not empty.
/// Times are in microseconds.
#[cfg(feature = "serde")]
impl serde::Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;

        let held = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        let buckets: Vec<(u64, u64)> =
            held.map(|(bucket, count)| (end_of(bucket), *count)).collect();
        let mut fields = serializer.serialize_struct("Histogram", 4)?;
        fields.serialize_field("count", &self.count())?;
        fields.serialize_field("total_us", &self.total_us)?;
        fields.serialize_field("max_us", &self.max_us)?;
        fields.serialize_field("buckets", &buckets)?;
        fields.end()
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total_us: 0, max_us: 0 }
    }
}

/// Returns the bucket of a duration in microseconds.
fn bucket_of(us: u64) -> usize {
    let index = if us < STEPS {
        us
    } else {
        // The two bits after the leading one are the step within the doubling: STEPS is 4.
        let doubling = u64::from(us.ilog2());
        STEPS * (doubling - 1) + ((us >> (doubling - 2)) & (STEPS - 1))
    };
    usize::try_from(index).map_or(BUCKETS - 1, |index| index.min(BUCKETS - 1))
}

/// Returns the first microsecond beyond a bucket.
fn end_of(bucket: usize) -> u64 {
    // This inverts `bucket_of` for the next bucket, whose first microsecond is the end of this one.
    let next = bucket as u64 + 1;
    if next < STEPS { next } else { (STEPS + next % STEPS) << (next / STEPS - 1) }
}

impl Histogram {
    /// Counts a duration.
    pub(crate) fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket_of(us)] += 1;
        self.total_us = self.total_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }

    /// Returns how many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of the durations.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.total_us)
    }

    /// Returns the longest duration.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// Returns the duration that this share does not exceed: 0.5 for the median, 0.99 for the 99th
    /// percentile. At most a quarter too long; zero if nothing was counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let count = self.count();
        // A share of 0 asks for the shortest duration, which has rank 1.
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
                // The last bucket also holds what is beyond the range, so its end is the maximum.
                // In any other, the end may exceed the longest duration.
                let last = bucket + 1 == BUCKETS;
                let end = if last { self.max_us } else { end_of(bucket).min(self.max_us) };
                return Duration::from_micros(end);
            }
        }
        Duration::ZERO
    }

    /// Returns the buckets that are not empty, shortest first: the end of each and its count, as a
    /// monitoring system takes them.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let held = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        held.map(|(bucket, count)| (Duration::from_micros(end_of(bucket)), *count))
    }

    /// Adds the counts of another histogram.
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
    fn bucket_is_at_most_a_quarter_wide() {
        // A p99 that is twice too long, or too short, raises a false alert.
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
    fn quantiles_of_known_durations() {
        let mut all = Histogram::default();
        for us in 1..=1000 {
            all.record(Duration::from_micros(us));
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
