//! The stage EndInput: decides when the agent has written everything it has to write.
//!
//! Some programs drop queued output when their input ends. A process that still has output to write,
//! and room in the pipe, is running, waiting for a processor, or in uninterruptible sleep. So the
//! input ends once the agent is seen asleep with nothing unread. Silence alone proves nothing: on a
//! busy host a runnable process may stay silent for more than a tenth of a second.

use std::time::{Duration, Instant};

use super::{CloseAction, ClosePlan};
use crate::close::{Activity, CloseStage};

/// How long the agent must be silent before its first check.
const CHECK_AFTER: Duration = Duration::from_micros(100);

/// The longest pause between two checks of a busy agent.
const CHECK_INTERVAL_MAX: Duration = Duration::from_millis(5);

/// The pause after a turn of the driver that had no budget left for a check.
const DEFERRED_CHECK: Duration = Duration::from_millis(1);

/// How many quiet periods an agent must be silent that `/proc` does not show.
const UNSEEN_QUIET_PERIODS: u32 = 20;

impl ClosePlan {
    /// Waits for more silence, requests a check, or ends the input.
    pub(super) fn await_quiet(&mut self, now: Instant) {
        if self.known.outputs_ended || !self.known.input_open {
            // Nothing more can be lost, or the input has ended already.
            return self.end_input(Some(false), now);
        }
        if self.policy.quiet_period.is_zero() {
            // The agent is not looked at, so whether it is busy is not known.
            return self.end_input(None, now);
        }
        let limit = self.quiet_limit();
        if now >= limit {
            return self.end_input(self.busy_at_limit(now), now);
        }
        // A check costs about 10 us per thread, so an agent that is in the middle of its output is
        // not checked after each read.
        let look_at = self.known.last_output + CHECK_AFTER.min(self.policy.quiet_period);
        if now < look_at {
            self.deadline = Some(look_at.min(limit));
        } else {
            self.actions.push(CloseAction::CheckActivity);
            // The answer sets a nearer deadline.
            self.deadline = Some(limit);
        }
    }

    /// Waits for bytes that are still in a pipe. They arrive in the next turn, and the silence starts
    /// anew.
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
        // Before the test of the stage: the report mentions a stop that is seen late, too.
        self.stopped |= activity == Activity::Stopped;
        if self.stage != CloseStage::EndInput {
            return;
        }
        self.activity = Some(activity);
        let quiet = self.policy.quiet_period;
        let silence = match activity {
            // The one thread was silent for `CHECK_AFTER`, sleeps and has left nothing unread, so
            // it has nothing queued that it could write now.
            Activity::Asleep => Duration::ZERO,
            Activity::AllAsleep => quiet,
            Activity::Unknown => quiet * UNSEEN_QUIET_PERIODS,
            Activity::Busy | Activity::Stopped => return self.check_again(now),
            // The event of its exit is still to come.
            Activity::Gone if !self.known.exited => return self.check_again(now),
            Activity::Gone => {
                // The members that were known are gone. Others of the group may still hold an
                // output.
                self.actions.push(CloseAction::FindHolders);
                return self.check_again(now);
            }
        };
        let quiet_at = self.known.last_output + silence;
        if now >= quiet_at {
            // Silence without a look proves nothing, so the report says that it is not known.
            let known = (activity != Activity::Unknown).then_some(false);
            self.end_input(known, now);
        } else {
            self.deadline = Some(quiet_at.min(self.quiet_limit()));
        }
    }

    /// Checks again after a pause as long as the silence so far: soon at first, then less often.
    fn check_again(&mut self, now: Instant) {
        let silent = now.saturating_duration_since(self.known.last_output);
        let pause = silent.clamp(CHECK_AFTER, CHECK_INTERVAL_MAX);
        self.deadline = Some((now + pause).min(self.quiet_limit()));
    }

    /// Returns when the input ends even if the agent is busy: after `drain` without a byte, or when
    /// only half of `drain` would be left for the agent to react.
    fn quiet_limit(&self) -> Instant {
        let last = self.reading_until.checked_sub(self.policy.drain / 2);
        let silent = self.progress + self.policy.drain;
        last.map_or(silent, |last| last.max(self.entered).min(silent))
    }

    /// Returns whether the agent is busy when the wait for its silence has failed.
    fn busy_at_limit(&self, now: Instant) -> Option<bool> {
        let is_writing = now < self.progress + self.policy.drain;
        match self.activity {
            _ if is_writing && self.progress > self.entered => Some(true),
            Some(Activity::Busy | Activity::Stopped) => Some(true),
            _ => None,
        }
    }
}
