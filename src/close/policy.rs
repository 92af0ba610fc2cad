//! How long each stage of a close may take. The close plan reads it.

use std::fmt;
use std::time::Duration;

use crate::deadline;

/// The two ways to close an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum CloseMode {
    /// Flushes, ends the input, keeps reading, and only then uses force. Loses nothing that a
    /// cooperating agent still has to write.
    #[default]
    Graceful,
    /// Cuts the pipes at once and kills the agent after a short grace.
    Abort,
}

impl CloseMode {
    /// Returns `graceful` or `abort`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Abort => "abort",
        }
    }
}

impl fmt::Display for CloseMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How long each stage of a close may take.
///
/// A policy belongs to an agent ([`AgentCommand::close_policy`](crate::AgentCommand::close_policy)) or to
/// one close ([`Agent::close_with`](crate::Agent::close_with)). Every `Duration` is accepted; one of 30
/// years or more never passes, and a close with such a limit may wait for its agent without end.
///
/// All limits count time in which the engine thread ran. While the host is stopped, suspended or
/// starved of processor time, nothing is charged to the agent: the limits move by that time, and the
/// report states it as [`stalled`](crate::CloseReport::stalled).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct ClosePolicy {
    pub(crate) mode: CloseMode,
    pub(crate) flush: Duration,
    pub(crate) quiet_period: Duration,
    pub(crate) interrupt: Duration,
    pub(crate) drain: Duration,
    pub(crate) drain_total: Option<Duration>,
    pub(crate) terminate: Duration,
    pub(crate) min_drain: Duration,
    pub(crate) cut: Duration,
    pub(crate) abort_grace: Duration,
    pub(crate) kill: Duration,
    pub(crate) exit_drain: Duration,
    pub(crate) remove: Duration,
    pub(crate) kill_group: bool,
    /// The agent is the client of a container, which the close removes. Set for a command, not by a
    /// policy.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) container: bool,
}

impl Default for ClosePolicy {
    fn default() -> Self {
        Self {
            mode: CloseMode::Graceful,
            flush: Duration::from_millis(500),
            quiet_period: Duration::from_millis(5),
            interrupt: Duration::from_secs(1),
            drain: Duration::from_secs(2),
            drain_total: None,
            terminate: Duration::from_secs(1),
            min_drain: Duration::from_millis(20),
            cut: Duration::from_millis(250),
            abort_grace: Duration::from_millis(50),
            kill: Duration::from_secs(2),
            // More than a second, because some agents leave by a timer and must not be taken for a
            // helper of their launcher: the ESLint language server sleeps for 1 s after its input
            // ended.
            exit_drain: Duration::from_millis(1500),
            // A busy daemon takes seconds.
            remove: Duration::from_secs(5),
            kill_group: true,
            container: false,
        }
    }
}

impl ClosePolicy {
    /// How long Release may take. The kernel has never been seen to keep a cancelled pipe
    /// operation, but a close that waited for it without a limit would not be bounded.
    pub(crate) const RELEASE_MAX: Duration = Duration::from_secs(1);

    /// Creates the default policy: flush, end the input, drain, SIGTERM, cut, SIGKILL.
    #[must_use]
    pub fn graceful() -> Self {
        Self::default()
    }

    /// Creates a policy that cuts the pipes at once and sends SIGKILL after
    /// [`abort_grace`](Self::abort_grace).
    #[must_use]
    pub fn abort() -> Self {
        Self { mode: CloseMode::Abort, ..Self::default() }
    }

    /// Returns whether the policy is graceful or an abort.
    #[must_use]
    pub fn mode(&self) -> CloseMode {
        self.mode
    }

    /// Flush: sets how long queued writes may still take. Default 500 ms.
    #[must_use]
    pub fn flush(mut self, limit: Duration) -> Self {
        self.flush = limit;
        self
    }

    /// Returns the limit set by [`flush`](Self::flush).
    #[must_use]
    pub fn get_flush(&self) -> Duration {
        self.flush
    }

    /// EndInput: sets how long the output of an agent with several threads or processes must have been
    /// silent before its stdin is closed. Default 5 ms. Zero closes stdin without checking the agent.
    ///
    /// Silence alone never ends the input. The agent must also be seen asleep in `/proc`, with all its
    /// threads and processes, and with nothing unread in its pipes. An agent that is running, waiting
    /// for a processor, in an uninterruptible sleep or stopped may still have output to write, and some
    /// programs, among them Node ones, drop what they have queued when their input ends. An agent with one
    /// thread needs 100 us of silence. Where `/proc` does not show the agent, the wait is 20 times as
    /// long, and the report says that the state of the agent is unknown.
    ///
    /// The wait ends with the limits of [`drain`](Self::drain) and [`drain_total`](Self::drain_total) at
    /// the latest.
    #[must_use]
    pub fn quiet_period(mut self, limit: Duration) -> Self {
        self.quiet_period = limit;
        self
    }

    /// Returns the limit set by [`quiet_period`](Self::quiet_period).
    #[must_use]
    pub fn get_quiet_period(&self) -> Duration {
        self.quiet_period
    }

    /// Interrupt: sets how long a turn in flight may take to end after the interrupt request, and how
    /// long the answer to the farewell of a session may take. Default 1 s.
    ///
    /// Turns are those of Claude sessions and of
    /// [`AgentWriter::set_interrupt`](crate::AgentWriter::set_interrupt).
    #[must_use]
    pub fn interrupt(mut self, limit: Duration) -> Self {
        self.interrupt = limit;
        self
    }

    /// Returns the limit set by [`interrupt`](Self::interrupt).
    #[must_use]
    pub fn get_interrupt(&self) -> Duration {
        self.interrupt
    }

    /// EndInput and Drain: sets how long the agent may go without writing a byte, once before the end of
    /// its input and once after it. Default 2 s. Each byte starts the time anew, up to
    /// [`drain_total`](Self::drain_total).
    #[must_use]
    pub fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Returns the limit set by [`drain`](Self::drain).
    #[must_use]
    pub fn get_drain(&self) -> Duration {
        self.drain
    }

    /// EndInput and Drain: sets how long both may take together, counted from the begin of the close,
    /// however much the agent writes. Default two and a half times [`drain`](Self::drain): 5 s.
    ///
    /// The input of an agent that never falls silent ends when this time less half of `drain` has
    /// passed, so that the agent has time to act on it. After a long flush at least `drain` is left.
    #[must_use]
    pub fn drain_total(mut self, limit: Duration) -> Self {
        self.drain_total = Some(limit);
        self
    }

    /// Returns how long EndInput and Drain may take together: the limit set by
    /// [`drain_total`](Self::drain_total), or its default.
    #[must_use]
    pub fn get_drain_total(&self) -> Duration {
        // Derived from `drain` when it is read, so that a longer `drain` is not cut off by the
        // total.
        self.drain_total.unwrap_or_else(|| self.drain.saturating_mul(5) / 2)
    }

    /// Terminate: sets how long the agent and its process group may take after SIGTERM. Their output is
    /// still read. Default 1 s.
    #[must_use]
    pub fn terminate(mut self, limit: Duration) -> Self {
        self.terminate = limit;
        self
    }

    /// Returns the limit set by [`terminate`](Self::terminate).
    #[must_use]
    pub fn get_terminate(&self) -> Duration {
        self.terminate
    }

    /// Sets the shortest time between EndInput or Terminate and the cut of the outputs. Default 20 ms: a
    /// CLI whose pipe breaks before it has seen the end of its input waits for a timer of 2 s.
    #[must_use]
    pub fn min_drain(mut self, limit: Duration) -> Self {
        self.min_drain = limit;
        self
    }

    /// Returns the limit set by [`min_drain`](Self::min_drain).
    #[must_use]
    pub fn get_min_drain(&self) -> Duration {
        self.min_drain
    }

    /// Cut: sets how long an agent whose pipes are closed may take before SIGKILL. Default 250 ms.
    #[must_use]
    pub fn cut(mut self, limit: Duration) -> Self {
        self.cut = limit;
        self
    }

    /// Returns the limit set by [`cut`](Self::cut).
    #[must_use]
    pub fn get_cut(&self) -> Duration {
        self.cut
    }

    /// Cut, of an abort: sets how long the agent may take before SIGKILL. Default 50 ms.
    #[must_use]
    pub fn abort_grace(mut self, limit: Duration) -> Self {
        self.abort_grace = limit;
        self
    }

    /// Returns the limit set by [`abort_grace`](Self::abort_grace).
    #[must_use]
    pub fn get_abort_grace(&self) -> Duration {
        self.abort_grace
    }

    /// Kill and Reap: sets how long to wait until the killed process can be reaped. Default 2 s. A process
    /// in an uninterruptible sleep, or held by a debugger, may outlive this; the report then says "still
    /// running".
    #[must_use]
    pub fn kill(mut self, limit: Duration) -> Self {
        self.kill = limit;
        self
    }

    /// Returns the limit set by [`kill`](Self::kill).
    #[must_use]
    pub fn get_kill(&self) -> Duration {
        self.kill
    }

    /// Sets how long the outputs are read in silence once the agent has exited while another process
    /// holds them. Default 1.5 s.
    ///
    /// A launcher (`sh -c`, `npx`) may leave before the real agent. While a process of the agent's
    /// group writes or is busy, the limits of the stage hold as if the launcher were still there; this limit
    /// is for a group that sleeps. After it, the group gets SIGTERM and the time of
    /// [`terminate`](Self::terminate). A process outside the group that holds an output delays the close
    /// by this much, whatever it writes.
    #[must_use]
    pub fn exit_drain(mut self, limit: Duration) -> Self {
        self.exit_drain = limit;
        self
    }

    /// Returns the limit set by [`exit_drain`](Self::exit_drain).
    #[must_use]
    pub fn get_exit_drain(&self) -> Duration {
        self.exit_drain
    }

    /// Remove: sets how long the removal of a container may take, after everything else. Default 5 s.
    /// Only for commands of [`AgentCommand::container`](crate::AgentCommand::container).
    #[must_use]
    pub fn remove(mut self, limit: Duration) -> Self {
        self.remove = limit;
        self
    }

    /// Returns the limit set by [`remove`](Self::remove).
    #[must_use]
    pub fn get_remove(&self) -> Duration {
        self.remove
    }

    /// Sets whether the signals of a close go to the agent's process group, or to its leader alone.
    ///
    /// With true, the default, what is left of the group is killed before the close ends. With
    /// false, processes that the agent has started are left running.
    #[must_use]
    pub fn kill_group(mut self, on: bool) -> Self {
        self.kill_group = on;
        self
    }

    /// Returns whether the process group gets the signals of a close.
    #[must_use]
    pub fn get_kill_group(&self) -> bool {
        self.kill_group
    }

    /// Returns the sum of the stages. No close takes longer, whatever the agent does, except for
    /// time in which the engine thread did not run. [`remove`](Self::remove) counts in the policy of a
    /// container command ([`get_close_policy`](crate::AgentCommand::get_close_policy)) only.
    #[must_use]
    pub fn max_duration(&self) -> Duration {
        let remove = if self.container { self.remove } else { Duration::ZERO };
        // Kill and Reap share one limit.
        let stages = [self.kill, remove, Self::RELEASE_MAX];
        stages.iter().fold(self.max_duration_to_cut(), |sum, stage| sum.saturating_add(*stage))
    }

    /// Returns the sum of the stages up to Cut.
    pub(crate) fn max_duration_to_cut(&self) -> Duration {
        let stages: &[Duration] = match self.mode {
            CloseMode::Abort => &[self.abort_grace],
            CloseMode::Graceful => &[
                self.flush,
                self.interrupt,
                // After a long Flush the plan leaves at least `drain`, whatever the total is.
                self.get_drain_total().max(self.drain),
                self.min_drain,
                self.exit_drain,
                self.terminate.max(self.min_drain),
                self.cut,
            ],
        };
        stages.iter().fold(Duration::ZERO, |sum, stage| sum.saturating_add(*stage))
    }

    /// Returns the policy with limits that can be added to an `Instant`.
    pub(crate) fn without_overflow(mut self) -> Self {
        for limit in [
            &mut self.flush,
            &mut self.quiet_period,
            &mut self.interrupt,
            &mut self.drain,
            &mut self.terminate,
            &mut self.min_drain,
            &mut self.cut,
            &mut self.abort_grace,
            &mut self.kill,
            &mut self.exit_drain,
            &mut self.remove,
        ] {
            *limit = (*limit).min(deadline::NEVER);
        }
        // Made explicit after `drain` was limited, because its default is a multiple of `drain`.
        self.drain_total = Some(self.get_drain_total().min(deadline::NEVER));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_close_of_any_policy_overflows_nothing() {
        let endless = ClosePolicy::graceful().drain(Duration::MAX).flush(Duration::MAX);
        assert_eq!(endless.max_duration(), Duration::MAX);
        assert_eq!(endless.without_overflow().get_drain_total(), deadline::NEVER);
    }

    #[test]
    fn getters_return_what_the_setters_set() {
        let policy = ClosePolicy::graceful().drain(Duration::from_secs(4)).kill_group(false);
        assert_eq!((policy.get_drain(), policy.get_kill_group()), (Duration::from_secs(4), false));
        assert_eq!(policy.get_drain_total(), Duration::from_secs(10), "by default");
        let policy = policy.drain_total(Duration::from_secs(7));
        assert_eq!(policy.get_drain_total(), Duration::from_secs(7));
    }
}
