//! The settings of a local engine.

use std::rc::Rc;
use std::time::Duration;

use crate::backend::{self, Choice, Found};
use crate::counters::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::io::PipeIo;
use crate::process::{Guard, SpawnPool, capacity};
use crate::ring::{RingConfig, block_sigpipe};
use crate::sync::Permits;
use crate::transport::{DRAIN_TOTAL_MAX, DrainBudget, Driver};

use super::LocalEngine;
use super::driver::{DriverTask, LocalDriver};
use super::readiness::{Readiness, TimerFd};

/// Settings of a [`LocalEngine`]. Made by [`LocalEngine::builder`].
///
/// [`build`](Self::build) refuses values out of their range with
/// [`InvalidSettings`](ErrorKind::InvalidSettings).
#[derive(Clone, Debug)]
pub struct LocalEngineBuilder {
    backend: Backend,
    buffers: u16,
    batch_window: Duration,
    max_agents: Option<usize>,
    guard: bool,
    drain_total_max: usize,
}

impl LocalEngineBuilder {
    pub(super) fn new() -> Self {
        Self {
            backend: Backend::Auto,
            buffers: RingConfig::BUFFERS,
            batch_window: Duration::ZERO,
            max_agents: None,
            guard: false,
            drain_total_max: DRAIN_TOTAL_MAX,
        }
    }

    /// Sets which backend the engine may use. Default [`Backend::Auto`]. See
    /// [`EngineBuilder::backend`](crate::EngineBuilder::backend).
    #[must_use]
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    /// Forbids the fallback to epoll. See
    /// [`EngineBuilder::require_io_uring`](crate::EngineBuilder::require_io_uring).
    #[must_use]
    pub fn require_io_uring(self) -> Self {
        self.backend(Backend::IoUring)
    }

    /// Sets the number of read buffers, which the agents share: 8 to 4096, default 128. See
    /// [`EngineBuilder::buffers`](crate::EngineBuilder::buffers).
    #[must_use]
    pub fn buffers(mut self, buffers: u16) -> Self {
        self.buffers = buffers;
        self
    }

    /// Sets the most agents at a time: at least 1. By default the limits of the host decide. See
    /// [`EngineBuilder::max_agents`](crate::EngineBuilder::max_agents).
    #[must_use]
    pub fn max_agents(mut self, agents: usize) -> Self {
        self.max_agents = Some(agents);
        self
    }

    /// Sets a batch window: at most 100 ms, by default none. After a turn that brought something, the
    /// next turn collects only when the window has passed, and serves everything that came meanwhile.
    ///
    /// A window saves CPU time if many agents write at scattered times. In exchange the engine sees
    /// output, exits and ends of output up to one window late. An event after a pause of a window or
    /// longer is seen at once. Requests of handles (records to write, closes) are submitted at once.
    /// A window costs one system call for a timer, because the caller's runtime does the waiting.
    #[must_use]
    pub fn batch_window(mut self, window: Duration) -> Self {
        self.batch_window = window;
        self
    }

    /// Sets whether a guard kills the agents when this process ends, however it ends. Default off. See
    /// [`EngineBuilder::guard`](crate::EngineBuilder::guard).
    #[must_use]
    pub fn guard(mut self, on: bool) -> Self {
        self.guard = on;
        self
    }

    /// Sets how many unread bytes all closing agents together may hold for their readers. Default
    /// 128 MiB. See [`EngineBuilder::drain_total_max`](crate::EngineBuilder::drain_total_max).
    #[must_use]
    pub fn drain_total_max(mut self, bytes: usize) -> Self {
        self.drain_total_max = bytes;
        self
    }

    /// Starts the engine on this thread.
    ///
    /// On a kernel older than 6.18, and with epoll, SIGPIPE is blocked in this thread from now on.
    ///
    /// # Errors
    /// [`EngineStopped`](ErrorKind::EngineStopped) outside a tokio runtime; otherwise see
    /// [`EngineBuilder::build`](crate::EngineBuilder::build).
    ///
    /// # Panics
    /// Outside a `LocalSet` (`tokio_uring::start` brings one), and in a runtime built without
    /// `enable_io`.
    pub fn build(self) -> Result<LocalEngine> {
        // Outside a runtime the registration of a descriptor panics.
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(
                ErrorKind::EngineStopped,
                "start",
                "no tokio runtime drives this thread",
            )
            .remedy("build it inside tokio_uring::start or LocalSet::block_on, or use Engine"));
        }
        let opened = self.open()?;
        self.start(opened)
    }

    /// Checks the settings and opens the backend, which needs no runtime.
    pub(super) fn open(&self) -> Result<(Box<dyn PipeIo>, Found)> {
        Permits::check(self.max_agents)?;
        let choice = Choice::new(self.backend)?;
        let config = RingConfig::with(self.buffers, self.batch_window)?;
        // The window is kept by the task: the backend does not wait here.
        let config = RingConfig { window: Duration::ZERO, ..config };
        let (io, found) = backend::open(choice, &config)?;
        // The thread belongs to the caller: its signal mask is left alone if the kernel can write
        // without SIGPIPE.
        if !found.features.nosignal
            && let Err(error) = block_sigpipe()
        {
            crate::trace::warn!(%error, "SIGPIPE could not be blocked on a local engine's thread");
        }
        Ok((io, found))
    }

    /// Starts the task that drives the backend, in the runtime that is running.
    pub(super) fn start(&self, (mut io, found): (Box<dyn PipeIo>, Found)) -> Result<LocalEngine> {
        let failed = |what: &str, error: std::io::Error| {
            Error::new(ErrorKind::ResourceLimit, "start", what.to_owned())
                .cause(error)
                .remedy("raise RLIMIT_NOFILE of this process")
        };
        let readiness = io.readiness().and_then(Readiness::new);
        let readiness = readiness.map_err(|error| failed("cannot watch an eventfd", error))?;
        let timer = TimerFd::new().map_err(|error| failed("cannot watch a timer", error))?;
        let transport = Driver::new(io, DrainBudget::new(self.drain_total_max));
        let spawn_pool = SpawnPool::start(self.guard.then(Guard::start).transpose()?)?;
        // The limit is checked last, when the descriptors and threads of the engine are counted as
        // used.
        if let Some(wanted) = self.max_agents {
            capacity().must_fit(wanted)?;
        }
        let admission = Permits::new(self.max_agents);
        let driver = LocalDriver::new(transport, found, self.batch_window, spawn_pool, admission);
        let engine = LocalEngine::with_driver(Rc::clone(&driver));
        // The handle of the task is dropped, which detaches it. The task ends by itself: see
        // `AfterTurn::End`.
        tokio::task::spawn_local(DriverTask::new(driver, readiness, timer));
        Ok(engine)
    }
}
