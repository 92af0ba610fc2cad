//! Close, floor 2: how long an agent must have been silent before its input ends.
//!
//! Some agents throw away what they have not written yet when their input ends. Silence says that
//! there is nothing: at once where the agent is seen to sleep without more to do, after `settle`
//! where that cannot be seen, much later where it is seen at work.

use std::time::{Duration, Instant};

use super::{CloseAction, ClosePlan};
use crate::process::Rest;

/// A pipe's worth of reads while settling: there is a queue behind the pipe.
const BACKLOG_READS: u32 = 16;

/// How much longer the silence must be where a backlog was seen.
const BACKLOG_SETTLE: u32 = 4;

/// How much longer the silence must be where the agent is at work: on a busy machine one that
/// writes all the time may fall silent for that long.
const AT_WORK_SETTLE: u32 = 20;

/// After so much silence an agent is looked at: who has something to write and finds room for it
/// does not sleep. One at work is looked at again after twice the silence, and so on.
const LOOK_AFTER: Duration = Duration::from_micros(100);

impl ClosePlan {
    /// Bytes came while the output was to fall silent.
    pub(super) fn broke_silence(&mut self, now: Instant) {
        self.settling_reads += 1;
        self.known.backlog |= self.settling_reads >= BACKLOG_READS;
        self.await_silence(now);
    }

    /// Silence that is long whatever the agent does ends the input; any other is looked into.
    pub(super) fn await_silence(&mut self, now: Instant) {
        let most = self.silence_until(self.policy.settle * AT_WORK_SETTLE);
        let look_at = self.known.last_output + LOOK_AFTER.min(self.policy.settle);
        if self.known.outputs_ended || now >= most {
            self.end_input(now);
        } else if now < look_at {
            self.deadline = Some(look_at.min(most));
        } else {
            self.actions.push(CloseAction::Look);
            // The answer sets a nearer one.
            self.deadline = Some(most);
        }
    }

    /// How much silence is enough, for one that looks like this.
    pub(super) fn seen(&mut self, rest: Rest, now: Instant) {
        let settle = self.policy.settle;
        let backlog = if self.known.backlog { BACKLOG_SETTLE } else { 1 };
        let enough = self.silence_until(match rest {
            Rest::One => Duration::ZERO,
            Rest::Threads => settle,
            Rest::Unknown => settle * backlog,
            Rest::AtWork => settle * AT_WORK_SETTLE,
        });
        if now >= enough {
            self.end_input(now);
        } else if rest == Rest::AtWork {
            let silent = now.saturating_duration_since(self.known.last_output);
            let again = silent.max(LOOK_AFTER).min(settle);
            self.deadline = Some((now + again).min(enough));
        } else {
            self.deadline = Some(enough);
        }
    }

    /// The end of so much silence, or of what silence may cost.
    fn silence_until(&self, silence: Duration) -> Instant {
        let budget = self.policy.settle_max.min(self.policy.drain);
        (self.known.last_output + silence).min(self.entered + budget)
    }
}
