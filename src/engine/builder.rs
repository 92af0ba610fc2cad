//! Floor 3. How an engine is set up.

use std::time::Duration;

use crate::error::Result;
use crate::ring::RingConfig;

use super::Engine;
use super::busy_poll::BusyPoll;

/// Settings of an engine; [`Engine::builder`] makes one.
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    pub(super) threads: usize,
    pub(super) ring: RingConfig,
    pub(super) max_agents: Option<usize>,
    pub(super) busy_poll: BusyPoll,
}

/// More engine threads than this are a mistake, not a setting.
const THREADS_MAX: usize = 256;

/// A longer spin keeps a processor busy for agents that have nothing to say.
const SPIN_MAX: Duration = Duration::from_millis(1);

impl EngineBuilder {
    pub(super) fn new() -> Self {
        Self {
            threads: 1,
            ring: RingConfig::default(),
            max_agents: None,
            busy_poll: BusyPoll::WhileBrisk,
        }
    }

    /// Engine threads, each with a ring of its own; agents are spread over them by number. Default
    /// 1; 1 to 256, and a value outside of that is set to the nearer end. One thread
    /// carries hundreds of agents (docs/guide/operating.md).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.clamp(1, THREADS_MAX);
        self
    }

    /// Pool buffers of 4 KiB for each engine thread, shared by its agents. Default 128; rounded
    /// up to a power of two, from 8 to 4096, and a value outside of that is set to the nearer end.
    #[must_use]
    pub fn buffers(mut self, buffers: u16) -> Self {
        self.ring.buffers = RingConfig::buffers_in_range(buffers);
        self
    }

    /// The most agents at a time, those being spawned and closed included. A spawn beyond it is
    /// refused with [`ResourceLimit`](crate::ErrorKind::ResourceLimit) before anything is made.
    /// Default: no number, so the limits of the host decide.
    ///
    /// [`build`](Self::build) then fails if RLIMIT_NOFILE, RLIMIT_NPROC, `pids.max` or another
    /// limit of [`Engine::capacity`] does not leave room for so many. 0 is set to 1.
    #[must_use]
    pub fn max_agents(mut self, agents: usize) -> Self {
        self.max_agents = Some(agents.max(1));
        self
    }

    /// A coalescing window: an engine thread that was woken goes on sleeping until this has passed
    /// since it fell asleep, and one wake-up serves all that came meanwhile. Default: none. A longer
    /// one than 100 ms is set to that.
    ///
    /// Saves CPU where many agents write at scattered times. Its price is latency: bytes, exits
    /// and ends of output are seen up to one window late. Where nothing came for a window, the
    /// next thing that comes ends the sleep at once, so a lone event after a pause pays nothing.
    /// What handles ask for (records to write, closes) is acted upon at once.
    ///
    /// Needs nothing of the kernel; one call fewer per turn from Linux 6.12 on
    /// ([`KernelFeatures::min_wait`](crate::KernelFeatures::min_wait)).
    #[must_use]
    pub fn batch_window(mut self, window: Duration) -> Self {
        self.ring.window = RingConfig::window_in_range(window);
        self
    }

    /// How long an engine thread looks for more, without a system call, before it sleeps. Default:
    /// 100 us, and only while the last eight things came less than that apart, so that sleeping
    /// would be the longer way. With a time: so long after anything that happened, a longer
    /// one than 1 ms being set to that; zero: never.
    ///
    /// Saves the wake-up of the thread, twice a round trip, where answers come within that time. Its
    /// price is a processor: the thread is busy until nothing happened for so long. Not worth it
    /// with as many threads at work as there are processors; passed over where there is but one.
    #[must_use]
    pub fn busy_poll(mut self, spin: Duration) -> Self {
        self.busy_poll = BusyPoll::Always(spin.min(SPIN_MAX));
        self
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// [`BackendDenied`](crate::ErrorKind::BackendDenied) or
    /// [`BackendUnsupported`](crate::ErrorKind::BackendUnsupported) where io_uring is not to be
    /// had, [`ResourceLimit`](crate::ErrorKind::ResourceLimit) where memory, descriptors or
    /// threads ran out, or do not suffice for [`max_agents`](Self::max_agents). The message names
    /// the likely cause and the remedy.
    pub fn build(self) -> Result<Engine> {
        Engine::start(&self)
    }
}
