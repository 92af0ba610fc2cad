//! The stage EndInput: has the agent written all that it has?
//!
//! Some programs drop what they have not written yet when their input ends. An agent that still has
//! output and finds room for it runs, or waits for a processor or a disk; so its input ends once it is
//! seen asleep with nothing unread. Silence without that look proves nothing: on a busy host a
//! runnable process may be silent for a tenth of a second and more.

use std::time::{Duration, Instant};

use super::{CloseAction, ClosePlan};
use crate::close::Activity;
use crate::close::CloseStage;

/// The silence after which an agent is looked at for the first time.
const CHECK_AFTER: Duration = Duration::from_micros(100);

/// The longest pause between two looks at an agent that is busy.
const CHECK_INTERVAL_MAX: Duration = Duration::from_millis(5);

/// The pause where a turn had no time left for a look.
const DEFERRED_CHECK: Duration = Duration::from_millis(1);

/// How much longer the silence must be where `/proc` does not show the agent, in quiet periods.
const UNSEEN_QUIET_PERIODS: u32 = 20;

impl ClosePlan {
    /// Goes on once the agent is quiet: waits for more silence, asks for a look, or gives up.
    pub(super) fn await_quiet(&mut self, now: Instant) {
        if self.known.outputs_ended || !self.known.input_open {
            // Nothing can be lost any more, or the end of the input is not ours.
            return self.end_input(Some(false), now);
        }
        if self.policy.quiet_period.is_zero() {
            return self.end_input(None, now);
        }
        let limit = self.quiet_limit();
        if now >= limit {
            return self.end_input(self.busy_at_limit(now), now);
        }
        let look_at = self.known.last_output + CHECK_AFTER.min(self.policy.quiet_period);
        if now < look_at {
            self.deadline = Some(look_at.min(limit));
        } else {
            self.actions.push(CloseAction::CheckActivity);
            // The answer sets a nearer one.
            self.deadline = Some(limit);
        }
    }

    /// Bytes are in the pipe: they come with the next turn, and with them the silence begins anew.
    pub(super) fn await_unread(&mut self, now: Instant) {
        if self.stage == CloseStage::EndInput {
            self.deadline = Some((now + self.policy.quiet_period).min(self.quiet_limit()));
        }
    }

    pub(super) fn check_again_next_turn(&mut self, now: Instant) {
        if self.stage == CloseStage::EndInput {
            self.deadline = Some((now + DEFERRED_CHECK).min(self.quiet_limit()));
        }
    }

    pub(super) fn on_activity(&mut self, activity: Activity, now: Instant) {
        self.stopped |= activity == Activity::Stopped;
        if self.stage != CloseStage::EndInput {
            return;
        }
        self.activity = Some(activity);
        let quiet = self.policy.quiet_period;
        let silence = match activity {
            Activity::Asleep => Duration::ZERO,
            Activity::AllAsleep => quiet,
            Activity::Unknown => quiet * UNSEEN_QUIET_PERIODS,
            Activity::Busy | Activity::Stopped => return self.check_again(now),
            // Its exit is on the way here.
            Activity::Gone if !self.known.exited => return self.check_again(now),
            Activity::Gone => {
                self.actions.push(CloseAction::FindHolders);
                return self.check_again(now);
            }
        };
        let quiet_at = self.known.last_output + silence;
        if now >= quiet_at {
            let known = (activity != Activity::Unknown).then_some(false);
            self.end_input(known, now);
        } else {
            self.deadline = Some(quiet_at.min(self.quiet_limit()));
        }
    }

    /// After as much time again as it has been silent for: soon at first, then less often.
    fn check_again(&mut self, now: Instant) {
        let silent = now.saturating_duration_since(self.known.last_output);
        let pause = silent.clamp(CHECK_AFTER, CHECK_INTERVAL_MAX);
        self.deadline = Some((now + pause).min(self.quiet_limit()));
    }

    /// When the input ends whatever is seen: no byte for `drain`, or so late that the agent would
    /// have less than half of `drain` left to act on it.
    fn quiet_limit(&self) -> Instant {
        let last = self.reading_until.checked_sub(self.policy.drain / 2);
        let silent = self.progress + self.policy.drain;
        last.map_or(silent, |last| last.max(self.entered).min(silent))
    }

    /// What is known of the agent when the wait for its silence is over without one.
    fn busy_at_limit(&self, now: Instant) -> Option<bool> {
        let is_writing = now < self.progress + self.policy.drain;
        match self.activity {
            _ if is_writing && self.progress > self.entered => Some(true),
            Some(Activity::Busy | Activity::Stopped) => Some(true),
            _ => None,
        }
    }
}
