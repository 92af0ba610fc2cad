//! How long each stage of a close may take. Read by the close plan.

use std::time::Duration;

/// Which of the two ways an agent is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CloseMode {
    /// Flush, end the input, keep reading, and only then use force. Loses nothing that a
    /// cooperating agent still has to say.
    #[default]
    Graceful,
    /// Cut the pipes at once, kill after a short grace.
    Abort,
}

impl CloseMode {
    /// `graceful` or `abort`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Abort => "abort",
        }
    }
}

/// How long each stage of a close may take.
///
/// A policy belongs to an agent ([`AgentCommand::close_policy`](crate::AgentCommand::close_policy)) or to
/// one close ([`Agent::close_with`](crate::Agent::close_with) and its like). No stage can be set to more
/// than one hour; a longer duration counts as an hour.
///
/// All limits count time in which the engine thread ran. While the host is stopped, suspended or
/// starved, nothing is charged to the agent: the limits move by that time, and the report has it as
/// [`stalled`](crate::CloseReport::stalled).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub(crate) kill_group: bool,
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
            exit_drain: Duration::from_millis(1500),
            kill_group: true,
        }
    }
}

macro_rules! setter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, limit: Duration) -> Self {
            self.$name = limit.min(Self::STAGE_MAX);
            self
        }
    };
}

impl ClosePolicy {
    /// How long Release may take. The kernel has never been seen to keep a cancelled pipe
    /// operation; a close that could wait for it without limit would not be bounded.
    pub(crate) const RELEASE_MAX: Duration = Duration::from_secs(1);

    /// The longest that any one stage may be set to.
    const STAGE_MAX: Duration = Duration::from_secs(3600);

    /// Flush, end the input, drain, SIGTERM, cut, SIGKILL.
    #[must_use]
    pub fn graceful() -> Self {
        Self::default()
    }

    /// Cut at once, SIGKILL after [`abort_grace`](Self::abort_grace).
    #[must_use]
    pub fn abort() -> Self {
        Self { mode: CloseMode::Abort, ..Self::default() }
    }

    /// Graceful or abort.
    #[must_use]
    pub fn mode(&self) -> CloseMode {
        self.mode
    }

    setter! {
        /// Flush: how long queued writes may still go out. Default 500 ms.
        flush
    }
    setter! {
        /// EndInput: how long the output of an agent with several threads or processes must have
        /// been silent before its stdin is closed. Default 5 ms. Zero closes stdin without looking
        /// at the agent.
        ///
        /// Silence alone never ends the input. The agent must also be seen asleep in `/proc`, all
        /// threads and processes of it, with nothing unread in its pipes: an agent that is running,
        /// waiting for a processor, in an uninterruptible sleep or stopped may still have output to
        /// write, and some programs (Node ones, for example) drop what they have queued when their
        /// input ends. An agent of one thread needs 100 us of silence. Where `/proc` does not show the
        /// agent, 20 times this is waited, and the report says that it could not be known.
        ///
        /// The wait ends with the limits of [`drain`](Self::drain) and
        /// [`drain_total`](Self::drain_total) at the latest.
        quiet_period
    }
    setter! {
        /// Interrupt: how long a turn in flight may take to end after the interrupt request.
        /// Default 1 s. Turns are those of Claude sessions and of
        /// [`AgentWriter::set_interrupt`](crate::AgentWriter::set_interrupt).
        interrupt
    }
    setter! {
        /// EndInput and Drain: how long the agent may go without writing a byte, once before the
        /// end of its input and once after it. Each byte starts the time anew, up to
        /// [`drain_total`](Self::drain_total). Default 2 s.
        drain
    }

    /// EndInput and Drain: how long both may take together, counted from the begin of the close,
    /// however much the agent writes. Default two and a half times [`drain`](Self::drain): 5 s.
    ///
    /// The input of an agent that never falls silent ends when this less half of `drain` has
    /// passed, so that it has time to act on it. After a long flush at least `drain` is left.
    #[must_use]
    pub fn drain_total(mut self, limit: Duration) -> Self {
        self.drain_total = Some(limit.min(Self::STAGE_MAX));
        self
    }

    setter! {
        /// Terminate: how long the agent and its process group may take after SIGTERM, still being
        /// read. Default 1 s.
        terminate
    }
    setter! {
        /// The outputs are never cut sooner than this after EndInput or Terminate. Default 20 ms:
        /// a CLI whose pipe breaks before it saw the end of input waits out a timer of 2 s.
        min_drain
    }
    setter! {
        /// Cut: how long an agent whose pipes are gone may take before SIGKILL. Default 250 ms.
        cut
    }
    setter! {
        /// The same for an abort. Default 50 ms.
        abort_grace
    }
    setter! {
        /// Kill and Reap: how long to wait for a killed process to be reapable. Default 2 s. A
        /// process in an uninterruptible sleep, or one that is held by a debugger, outlives it; the
        /// report then says "still running".
        kill
    }
    setter! {
        /// How long the outputs are still read in silence once the agent has exited and another
        /// process holds them. Default 1.5 s.
        ///
        /// A launcher (`sh -c`, `npx`) may leave before the real agent. As long as a process of the
        /// agent's group writes or is busy, the limits of the stage hold as if the launcher were
        /// still there; this is for one that sleeps. After it, the group gets SIGTERM and the time of
        /// [`terminate`](Self::terminate). A process outside the group that holds an output costs
        /// this much, whatever it writes.
        exit_drain
    }

    /// Whether the agent's process group gets the signals of a close, or its own process alone. With
    /// true, which is the default, what is left of the group is killed before the close ends. With
    /// false, what the agent has started is left alone.
    #[must_use]
    pub fn kill_group(mut self, on: bool) -> Self {
        self.kill_group = on;
        self
    }

    /// How long EndInput and Drain may take together.
    pub(crate) fn reading_limit(&self) -> Duration {
        let by_default = || (self.drain * 5 / 2).min(Self::STAGE_MAX);
        self.drain_total.unwrap_or_else(by_default)
    }

    /// The sum of the stages: no close takes longer, whatever the agent does. Time in which the
    /// engine thread did not run comes on top.
    #[must_use]
    pub fn max_duration(&self) -> Duration {
        match self.mode {
            CloseMode::Abort => self.abort_grace + self.kill + Self::RELEASE_MAX,
            CloseMode::Graceful => {
                self.flush
                    + self.interrupt
                    + self.reading_limit().max(self.drain)
                    + self.min_drain
                    + self.exit_drain
                    + self.terminate.max(self.min_drain)
                    + self.cut
                    + self.kill
                    + Self::RELEASE_MAX
            }
        }
    }
}
