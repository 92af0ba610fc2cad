//! The settings of a local engine.

use std::rc::Rc;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::process::{SpawnPool, capacity};
use crate::ring::{Ring, RingConfig, block_sigpipe};
use crate::sync::Permits;
use crate::transport::Driver;

use super::LocalEngine;
use super::driver::{DriverTask, LocalDriver};
use super::readiness::{RingEventFd, TimerFd};

/// Settings of a local engine; [`LocalEngine::builder`] makes one.
#[derive(Clone, Debug)]
pub struct LocalEngineBuilder {
    ring: RingConfig,
    window: Duration,
    max_agents: Option<usize>,
}

impl LocalEngineBuilder {
    pub(super) fn new() -> Self {
        Self { ring: RingConfig::default(), window: Duration::ZERO, max_agents: None }
    }

    /// Pool buffers of 4 KiB, shared by the agents:
    /// [`EngineBuilder::buffers`](crate::EngineBuilder::buffers).
    #[must_use]
    pub fn buffers(mut self, buffers: u16) -> Self {
        self.ring.buffers = RingConfig::buffers_in_range(buffers);
        self
    }

    /// The most agents at a time: [`EngineBuilder::max_agents`](crate::EngineBuilder::max_agents).
    /// Default: no number, so the limits of the host decide.
    #[must_use]
    pub fn max_agents(mut self, agents: usize) -> Self {
        self.max_agents = Some(agents.max(1));
        self
    }

    /// A coalescing window: after a turn that brought something, the next looks at the agents
    /// only when this has passed, and serves all that came meanwhile. Default: none. A longer one
    /// than 100 ms is set to that.
    ///
    /// Saves CPU where many agents write at scattered times. Its price is latency: bytes, exits
    /// and ends of output are seen up to one window late; what comes after a pause of a window or
    /// longer is seen at once. What handles ask for (records to write, closes) is submitted at once.
    /// Costs a system call a window for a timer, since the caller's runtime is what waits.
    #[must_use]
    pub fn batch_window(mut self, window: Duration) -> Self {
        self.window = RingConfig::window_in_range(window);
        self
    }

    /// Starts the engine on this thread.
    ///
    /// On a kernel older than 6.18, SIGPIPE is blocked in this thread from now on.
    ///
    /// # Errors
    /// [`EngineStopped`](ErrorKind::EngineStopped) outside a tokio runtime; otherwise as
    /// [`EngineBuilder::build`](crate::EngineBuilder::build).
    ///
    /// # Panics
    /// Outside a `LocalSet` (`tokio_uring::start` brings one), and in a runtime built without
    /// `enable_io`.
    pub fn build(self) -> Result<LocalEngine> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(
                ErrorKind::EngineStopped,
                "start",
                "no tokio runtime drives this thread",
            )
            .remedy("build it inside tokio_uring::start or LocalSet::block_on, or use Engine"));
        }
        let ring = self.open()?;
        self.attach(ring)
    }

    /// The ring needs no runtime, and its refusals are those worth explaining.
    pub(super) fn open(&self) -> Result<Ring> {
        let ring = Ring::new(&self.ring)?;
        if !ring.kernel_features().nosignal
            && let Err(error) = block_sigpipe()
        {
            crate::trace::warn!(%error, "SIGPIPE could not be blocked on a local engine's thread");
        }
        Ok(ring)
    }

    /// Hands the ring to a driver in the runtime that is running.
    pub(super) fn attach(&self, ring: Ring) -> Result<LocalEngine> {
        let failed = |what: &str, error: std::io::Error| {
            Error::new(ErrorKind::ResourceLimit, "start", what.to_owned())
                .cause(error)
                .remedy("raise RLIMIT_NOFILE of this process")
        };
        let eventfd =
            RingEventFd::new().map_err(|error| failed("cannot watch an eventfd", error))?;
        let timer = TimerFd::new().map_err(|error| failed("cannot watch a timer", error))?;
        let features = ring.kernel_features();
        let mut transport = Driver::new(Box::new(ring));
        transport
            .io()
            .register_eventfd(eventfd.descriptor())
            .map_err(|error| failed("cannot register an eventfd", error))?;
        let spawn_pool = SpawnPool::start()?;
        if let Some(wanted) = self.max_agents {
            capacity().must_fit(wanted)?;
        }
        let admission = Permits::new(self.max_agents);
        let driver = LocalDriver::new(transport, features, self.window, spawn_pool, admission);
        let engine = LocalEngine::with_driver(Rc::clone(&driver));
        tokio::task::spawn_local(DriverTask::new(driver, eventfd, timer));
        Ok(engine)
    }
}
