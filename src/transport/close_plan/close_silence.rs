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

    /// No silence ends the input unseen: whoever listens may not have run, and the pipe be full.
    pub(super) fn await_silence(&mut self, now: Instant) {
        let look_at = self.known.last_output + LOOK_AFTER.min(self.policy.settle);
        let waits = !self.policy.settle.is_zero() && now < self.patience();
        if self.known.outputs_ended || !waits {
            self.end_input(now);
        } else if now < look_at {
            self.deadline = Some(look_at.min(self.patience()));
        } else {
            self.actions.push(CloseAction::Look);
            // The answer sets a nearer one.
            self.deadline = Some(self.patience());
        }
    }

    /// The bytes come with the next turn, and with them the silence begins anew.
    pub(super) fn await_unread(&mut self, now: Instant) {
        self.deadline = Some((now + self.policy.settle).min(self.patience()));
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
        (self.known.last_output + silence).min(self.patience())
    }

    /// Then the input ends whatever is heard or seen.
    fn patience(&self) -> Instant {
        self.entered + self.policy.settle_max.min(self.policy.drain)
    }
}
