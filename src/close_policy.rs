//! Close, floor 0: how long each stage may take. Read by the close plan.

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
    pub fn name(self) -> &'static str {
        match self {
            Self::Graceful => "graceful",
            Self::Abort => "abort",
        }
    }
}

/// How long each stage of a close may take. All settable per close; the longest is one hour.
///
/// Of an agent: [`AgentCommand::close_policy`](crate::AgentCommand::close_policy). Of one close:
/// [`Agent::close_with`](crate::Agent::close_with) and its likes.
///
/// The worst case of a close is the sum of its stages ([`worst_case`](Self::worst_case)),
/// whatever the agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosePolicy {
    pub(crate) mode: CloseMode,
    pub(crate) flush: Duration,
    pub(crate) settle: Duration,
    pub(crate) settle_max: Duration,
    pub(crate) interrupt: Duration,
    pub(crate) drain: Duration,
    pub(crate) terminate: Duration,
    pub(crate) gap: Duration,
    pub(crate) cut: Duration,
    pub(crate) abort_grace: Duration,
    pub(crate) kill: Duration,
    pub(crate) after_exit: Duration,
    pub(crate) sweep_group: bool,
}

impl Default for ClosePolicy {
    fn default() -> Self {
        Self {
            mode: CloseMode::Graceful,
            flush: Duration::from_millis(500),
            settle: Duration::from_millis(5),
            settle_max: Duration::from_millis(500),
            interrupt: Duration::from_secs(1),
            drain: Duration::from_secs(2),
            terminate: Duration::from_secs(1),
            gap: Duration::from_millis(20),
            cut: Duration::from_millis(250),
            abort_grace: Duration::from_millis(50),
            kill: Duration::from_secs(2),
            after_exit: Duration::from_millis(100),
            sweep_group: true,
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

    /// The longest any one stage may be set to: one hour.
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
        /// EndInput: how long the output must have been silent before stdin is closed, because an
        /// agent that drops its queue at end of input (Node programs do) may still be filling
        /// the pipe. Default 5 ms; zero waits for no silence.
        ///
        /// What `/proc` shows of the agent changes the wait. At rest (one thread, no children,
        /// asleep): 100 us are enough. At work (a thread runs, or is in an uninterruptible sleep):
        /// 20 times this, 100 ms. Several threads that all sleep: this. Where it cannot be told:
        /// this, and four times this where a backlog was seen. docs/close.md has the tests.
        settle
    }
    setter! {
        /// EndInput: the longest wait for that silence, however busy the agent is; taken from the
        /// drain budget. Default 500 ms.
        settle_max
    }
    setter! {
        /// Interrupt: how long a turn in flight may take to end after the interrupt request.
        /// Default 1 s. Turns are those of Claude sessions and of
        /// [`AgentWriter::set_interrupt`](crate::AgentWriter::set_interrupt).
        interrupt
    }
    setter! {
        /// Drain: how long the agent may go on writing after end of input. Default 2 s.
        drain
    }
    setter! {
        /// Terminate: how long it may take after SIGTERM, still being read. Default 1 s.
        terminate
    }
    setter! {
        /// The outputs are never cut sooner than this after EndInput or Terminate. Default 20 ms:
        /// a CLI whose pipe breaks before it saw the end of input waits out a timer of 2 s.
        gap
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
        /// Kill: how long to wait for a killed process to be reapable. Default 2 s. A process in
        /// an uninterruptible sleep outlives it; the report then says "still running".
        kill
    }
    setter! {
        /// How long the outputs are still read once the agent has exited but somebody else holds
        /// its pipes. Default 100 ms.
        after_exit
    }

    /// Whether what is left of the agent's process group is killed before the agent is reaped.
    /// Default true.
    #[must_use]
    pub fn sweep_group(mut self, on: bool) -> Self {
        self.sweep_group = on;
        self
    }

    /// The sum of the stages: no close takes longer, whatever blocks.
    #[must_use]
    pub fn worst_case(&self) -> Duration {
        match self.mode {
            CloseMode::Abort => self.abort_grace + self.kill + self.after_exit + Self::RELEASE_MAX,
            CloseMode::Graceful => {
                self.flush
                    + self.interrupt
                    + self.drain.max(self.drain.min(self.settle_max) + self.gap)
                    + self.terminate.max(self.gap)
                    + self.cut
                    + self.kill
                    + self.after_exit
                    + Self::RELEASE_MAX
            }
        }
    }
}
