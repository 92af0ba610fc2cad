//! The settings of an engine.

use std::time::Duration;

use crate::backend::Choice;
use crate::counters::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::ring::RingConfig;
use crate::sync::Permits;
use crate::transport::{DRAIN_TOTAL_MAX, DrainBudget};

use super::Engine;
use super::busy_poll::BusyPoll;
use super::thread::ThreadSettings;

/// The most engine threads. More than this are a mistake.
const THREADS_MAX: usize = 256;

/// The longest busy poll. A longer one keeps a processor busy for agents that have nothing to say.
const BUSY_POLL_MAX: Duration = Duration::from_millis(1);

/// Settings of an [`Engine`]. Made by [`Engine::builder`].
///
/// [`build`](Self::build) refuses values out of their range with
/// [`InvalidSettings`](ErrorKind::InvalidSettings).
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    threads: usize,
    backend: Backend,
    buffers: u16,
    batch_window: Duration,
    max_agents: Option<usize>,
    busy_poll: Option<Duration>,
    guard: bool,
    drain_total_max: usize,
}

impl EngineBuilder {
    pub(super) fn new() -> Self {
        Self {
            threads: 1,
            backend: Backend::Auto,
            buffers: RingConfig::BUFFERS,
            batch_window: Duration::ZERO,
            max_agents: None,
            busy_poll: None,
            guard: false,
            drain_total_max: DRAIN_TOTAL_MAX,
        }
    }

    /// Sets the number of engine threads: 1 to 256, default 1.
    ///
    /// Each has its own ring; agents are spread over the threads by number. One thread carries hundreds of
    /// agents (docs/guide/operating.md).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets which backend the engine may use. Default [`Backend::Auto`]: io_uring, and epoll where the
    /// host denies or lacks it. [`Engine::backend`] and [`Engine::fallback`] tell which one it is and
    /// why; a fallback is a warning in the log, too.
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Forbids the fallback to epoll: the same as [`backend`](Self::backend) with
    /// [`Backend::IoUring`].
    #[must_use]
    pub fn require_io_uring(self) -> Self {
        self.backend(Backend::IoUring)
    }

    /// Sets the number of read buffers of each engine thread, which its agents share: 8 to 4096,
    /// default 128. Rounded up to a power of two. A buffer has 4 KiB, and 16 KiB where the kernel has no
    /// multishot reads. With epoll a thread has one buffer of 64 KiB, whatever this says.
    #[must_use]
    pub fn buffers(mut self, buffers: u16) -> Self {
        self.buffers = buffers;
        self
    }

    /// Sets the most agents at a time, those being spawned and closed included: at least 1. By default
    /// the limits of the host decide.
    ///
    /// A spawn beyond it fails with [`ResourceLimit`](ErrorKind::ResourceLimit) before anything is
    /// made. [`build`](Self::build) fails with the same kind if `RLIMIT_NOFILE`, `RLIMIT_NPROC`,
    /// `pids.max` or another limit of [`Engine::capacity`] leaves no room for that many agents.
    #[must_use]
    pub fn max_agents(mut self, agents: usize) -> Self {
        self.max_agents = Some(agents);
        self
    }

    /// Sets a batch window: at most 100 ms, by default none. An engine thread that is woken goes on
    /// sleeping until the window has passed since it fell asleep, and one wake-up serves everything
    /// that came meanwhile.
    ///
    /// A window saves CPU time if many agents write at scattered times. In exchange the engine sees
    /// output, exits and ends of output up to one window late. After a pause of a window the next event
    /// ends the sleep at once, so a lone event is not delayed. Requests of handles (records to write,
    /// closes) are acted upon at once.
    ///
    /// A window works on every supported kernel; from Linux 6.12 on it costs one system call less per turn
    /// ([`KernelFeatures::min_wait`](crate::KernelFeatures::min_wait)).
    #[must_use]
    pub fn batch_window(mut self, window: Duration) -> Self {
        self.batch_window = window;
        self
    }

    /// Sets how long an engine thread polls for new completions, without a system call (with epoll by
    /// calls that do not wait), before it sleeps: at most 1 ms after any event; zero disables it. By
    /// default it polls for 100 us, and only while the last eight events came less than 100 us apart; small
    /// records of an agent in a burst do not count, because a sleep lets one read collect many of them.
    ///
    /// Polling saves a wake-up of the thread, twice per round trip, if answers come within that time. In
    /// exchange the thread keeps a processor busy while it polls, so polling does not pay off on a host
    /// whose processors are all in use. The setting is ignored on a host with one processor.
    #[must_use]
    pub fn busy_poll(mut self, time: Duration) -> Self {
        self.busy_poll = Some(time);
        self
    }

    /// Sets whether a guard kills the agents when this process ends, however it ends. Default off: the
    /// agents see the end of their input, and those that ignore it live on.
    ///
    /// The guard is a process beside this one. When this process is killed, crashes, exits with agents
    /// left, or executes another program, it kills the agents and what they have started, also what has
    /// left their group and session, and removes their cgroups. It ends with the engine.
    /// docs/guide/operating.md (*A host that dies*) has its limits. It takes the place of
    /// [`AgentCommand::die_with_parent`](crate::AgentCommand::die_with_parent), which has no effect then.
    #[must_use]
    pub fn guard(mut self, on: bool) -> Self {
        self.guard = on;
        self
    }

    /// Sets how many unread bytes all closing agents together may hold for their readers. Default
    /// 128 MiB; `usize::MAX` means no limit.
    ///
    /// One agent holds at most half of what the others leave of it, beside its own
    /// [`Limits::drain_max`](crate::Limits::drain_max), so an agent with a short last answer has room
    /// beside any number of agents that flood. 256 KiB of each agent are kept in any case. Output beyond
    /// it is read, counted as discarded in the report of its agent, and dropped.
    #[must_use]
    pub fn drain_total_max(mut self, bytes: usize) -> Self {
        self.drain_total_max = bytes;
        self
    }

    /// Starts the engine's threads.
    ///
    /// # Errors
    /// [`InvalidSettings`](ErrorKind::InvalidSettings) for a value out of its range;
    /// [`BackendDenied`](ErrorKind::BackendDenied) or
    /// [`BackendUnsupported`](ErrorKind::BackendUnsupported) if io_uring is not available and
    /// [`backend`](Self::backend) allows no other;
    /// [`ResourceLimit`](ErrorKind::ResourceLimit) if memory, descriptors or threads run out, or do
    /// not suffice for [`max_agents`](Self::max_agents);
    /// [`GuardUnavailable`](ErrorKind::GuardUnavailable) if the [`guard`](Self::guard) cannot be
    /// started. The message names the likely cause and the remedy.
    pub fn build(self) -> Result<Engine> {
        // All settings are checked before the first thread starts, so a refusal leaves nothing
        // behind.
        let backend = Choice::new(self.backend)?;
        let ring = RingConfig::with(self.buffers, self.batch_window)?;
        let busy_poll = match self.busy_poll {
            None => BusyPoll::WhileBrisk,
            Some(time) if time <= BUSY_POLL_MAX => BusyPoll::Always(time),
            Some(time) => {
                let what = format!("busy_poll is {time:?}, and may be at most {BUSY_POLL_MAX:?}");
                return Err(invalid(what));
            }
        };
        if !(1..=THREADS_MAX).contains(&self.threads) {
            let threads = self.threads;
            return Err(invalid(format!("threads is {threads}, and must be 1 to {THREADS_MAX}")));
        }
        Permits::check(self.max_agents)?;
        let drain = DrainBudget::new(self.drain_total_max);
        let settings = ThreadSettings { backend, ring, busy_poll, drain };
        Engine::start(self.threads, settings, self.max_agents, self.guard)
    }
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidSettings, "start", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_errors() {
        // A host that sets a limit by mistake must not run with another one.
        let builder = EngineBuilder::new;
        let wrong = [
            builder().threads(0),
            builder().threads(THREADS_MAX + 1),
            builder().buffers(7),
            builder().buffers(4097),
            builder().max_agents(0),
            builder().batch_window(Duration::from_millis(101)),
            builder().busy_poll(BUSY_POLL_MAX + Duration::from_nanos(1)),
        ];
        for settings in wrong {
            let error = settings.clone().build().expect_err("out of range");
            assert_eq!(error.kind(), ErrorKind::InvalidSettings, "{settings:?}: {error}");
        }
    }
}
