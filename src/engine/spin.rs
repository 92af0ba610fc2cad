//! Floor 3. How long an engine thread looks for more before it sleeps.

use std::time::{Duration, Instant};

/// As long as falling asleep and being woken may take, where a processor sleeps, too.
const BRISK: Duration = Duration::from_micros(100);

/// A few things come close together by chance, so many in a row do not.
const STREAK: u32 = 8;

/// When it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spin {
    /// For so long after anything that happened.
    Always(Duration),
    /// For [`BRISK`], while things come no further apart than that.
    WhileBrisk,
}

impl Spin {
    pub(super) const NEVER: Self = Self::Always(Duration::ZERO);
}

/// Is told what happens and when, and says whether to look on.
#[derive(Debug)]
pub(super) struct Lookout {
    spin: Spin,
    last: Instant,
    streak: u32,
    until: Instant,
}

impl Lookout {
    pub(super) fn new(spin: Spin, now: Instant) -> Self {
        Self { spin, last: now, streak: 0, until: now }
    }

    /// Something happened in this turn.
    pub(super) fn note(&mut self, now: Instant) {
        let brisk = now.saturating_duration_since(self.last) < BRISK;
        self.streak = if brisk { self.streak.saturating_add(1) } else { 0 };
        self.last = now;
        self.until = match self.spin {
            Spin::Always(time) => now + time,
            Spin::WhileBrisk if self.streak >= STREAK => now + BRISK,
            Spin::WhileBrisk => now,
        };
    }

    /// Whether to look once more instead of sleeping.
    pub(super) fn looks(&self, now: Instant) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(99);

    /// How many of these gaps end in a look, and the lookout afterwards.
    fn looks(lookout: &mut Lookout, now: &mut Instant, gaps: &[Duration]) -> usize {
        let mut looks = 0;
        for gap in gaps {
            *now += *gap;
            lookout.note(*now);
            looks += usize::from(lookout.looks(*now));
        }
        looks
    }

    /// The story: a thousand agents that talk at their own pace kept a processor at work in vain.
    #[test]
    fn what_comes_slowly_or_together_by_chance_lets_it_sleep() {
        let mut now = Instant::now();
        let mut lookout = Lookout::new(Spin::WhileBrisk, now);
        assert_eq!(looks(&mut lookout, &mut now, &[BRISK; 1000]), 0);
        let by_chance = [[SHORT; 7].as_slice(), &[BRISK]].concat().repeat(100);
        assert_eq!(looks(&mut lookout, &mut now, &by_chance), 0);
    }

    #[test]
    fn what_comes_fast_keeps_it_awake_and_a_look_in_vain_is_the_last() {
        let mut now = Instant::now();
        let mut lookout = Lookout::new(Spin::WhileBrisk, now);
        assert_eq!(looks(&mut lookout, &mut now, &[SHORT; 100]), 93);
        assert!(lookout.looks(now + SHORT));
        assert!(!lookout.looks(now + BRISK), "in vain");
        assert_eq!(looks(&mut lookout, &mut now, &[BRISK, SHORT, SHORT]), 0, "it begins anew");
    }

    #[test]
    fn a_time_that_was_given_is_kept_after_anything() {
        let mut now = Instant::now();
        let mut lookout = Lookout::new(Spin::Always(Duration::from_millis(1)), now);
        assert!(!lookout.looks(now), "nothing happened yet");
        assert_eq!(looks(&mut lookout, &mut now, &[Duration::from_secs(1); 3]), 3);
        assert!(lookout.looks(now + Duration::from_micros(999)));
        assert!(!lookout.looks(now + Duration::from_millis(1)));
        let mut never = Lookout::new(Spin::NEVER, now);
        assert_eq!(looks(&mut never, &mut now, &[SHORT; 100]), 0);
    }
}
