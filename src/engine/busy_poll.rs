//! How long an engine thread polls its ring for more before it sleeps. Pure.

use std::time::{Duration, Instant};

/// About as long as falling asleep and being woken may take where the processor sleeps, too.
const BRISK: Duration = Duration::from_micros(100);

/// A few events come close together by chance; this many in a row do not.
const STREAK: u32 = 8;

/// When an engine thread polls instead of sleeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BusyPoll {
    /// For this long after any event.
    Always(Duration),
    /// For [`BRISK`], while events come less than that apart.
    WhileBrisk,
}

impl BusyPoll {
    pub(super) const NEVER: Self = Self::Always(Duration::ZERO);
}

/// Notes when something happens and decides whether to poll once more.
#[derive(Debug)]
pub(super) struct BusyPoller {
    setting: BusyPoll,
    last: Instant,
    streak: u32,
    until: Instant,
}

impl BusyPoller {
    pub(super) fn new(setting: BusyPoll, now: Instant) -> Self {
        Self { setting, last: now, streak: 0, until: now }
    }

    /// Notes that something happened in this turn.
    pub(super) fn note(&mut self, now: Instant) {
        let brisk = now.saturating_duration_since(self.last) < BRISK;
        // One long gap ends the streak. Otherwise the short gaps of many agents, each at its own
        // pace, would add up to one.
        self.streak = if brisk { self.streak.saturating_add(1) } else { 0 };
        self.last = now;
        self.until = match self.setting {
            BusyPoll::Always(time) => now + time,
            BusyPoll::WhileBrisk if self.streak >= STREAK => now + BRISK,
            BusyPoll::WhileBrisk => now,
        };
    }

    /// Returns whether to poll once more instead of sleeping.
    pub(super) fn polls(&self, now: Instant) -> bool {
        // The comparison is strict: with a time of zero `until` is `now`, and the thread never
        // polls.
        now < self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(99);

    /// Returns how many of these gaps end in a poll.
    fn polls(poller: &mut BusyPoller, now: &mut Instant, gaps: &[Duration]) -> usize {
        let mut polls = 0;
        for gap in gaps {
            *now += *gap;
            poller.note(*now);
            polls += usize::from(poller.polls(*now));
        }
        polls
    }

    #[test]
    fn scattered_events_let_the_thread_sleep() {
        // A thousand agents that talk at their own pace would keep a processor busy in vain.
        let mut now = Instant::now();
        let mut poller = BusyPoller::new(BusyPoll::WhileBrisk, now);
        assert_eq!(polls(&mut poller, &mut now, &[BRISK; 1000]), 0);
        let by_chance = [[SHORT; 7].as_slice(), &[BRISK]].concat().repeat(100);
        assert_eq!(polls(&mut poller, &mut now, &by_chance), 0);
    }

    #[test]
    fn busy_poll_stops_after_one_empty_poll() {
        let mut now = Instant::now();
        let mut poller = BusyPoller::new(BusyPoll::WhileBrisk, now);
        assert_eq!(polls(&mut poller, &mut now, &[SHORT; 100]), 93);
        assert!(poller.polls(now + SHORT));
        assert!(!poller.polls(now + BRISK), "nothing came");
        assert_eq!(polls(&mut poller, &mut now, &[BRISK, SHORT, SHORT]), 0, "the streak is over");
    }

    #[test]
    fn given_time_is_kept_after_any_event() {
        let mut now = Instant::now();
        let mut poller = BusyPoller::new(BusyPoll::Always(Duration::from_millis(1)), now);
        assert!(!poller.polls(now), "nothing happened yet");
        assert_eq!(polls(&mut poller, &mut now, &[Duration::from_secs(1); 3]), 3);
        assert!(poller.polls(now + Duration::from_micros(999)));
        assert!(!poller.polls(now + Duration::from_millis(1)));
        let mut never = BusyPoller::new(BusyPoll::NEVER, now);
        assert_eq!(polls(&mut never, &mut now, &[SHORT; 100]), 0);
    }
}
