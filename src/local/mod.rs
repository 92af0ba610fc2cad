//! Agents on the caller's own thread, inside tokio's current-thread runtime or tokio-uring's. The
//! same [`Driver`](crate::transport::Driver) as on engine threads, without the hop between threads.
//!
//! ```text
//! handle -> driver.rs: the transport driver is called directly, and the task is woken
//! driver.rs: one task of the caller's LocalSet; runs after the tasks that woke it, submits what all
//!            of them requested in one call, and delivers what came
//! readiness.rs: the ring's eventfd and a timer, watched by the caller's runtime
//! ```
//!
//! Nothing here is `Send`. The locks of a [`Channel`](crate::transport::Channel) are never contended
//! here: to lock and unlock is two atomic instructions. docs/guide/local.md has a first program.

mod builder;
mod driver;
mod readiness;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::{Agent, AgentReader, AgentWriter, Local};
use crate::close::ShutdownReport;
use crate::command::AgentCommand;
use crate::counters::{Backend, KernelFeatures};
use crate::error::Result;
use crate::stats::EngineStats;
use crate::sync::oneshot;
use crate::transport::Adoption;

use driver::{DirectLink, LocalDriver, NO_AGENTS, stopped};

pub use builder::LocalEngineBuilder;

/// A running agent of a [`LocalEngine`]. Not `Send`.
pub type LocalAgent = Agent<Local>;

/// The reading half of a [`LocalAgent`].
pub type LocalAgentReader = AgentReader<Local>;

/// The writing half of a [`LocalAgent`].
pub type LocalAgentWriter = AgentWriter<Local>;

/// Hosts agents on the caller's own thread, inside a tokio current-thread runtime with a
/// `LocalSet`, or inside `tokio_uring::start`. Cheap to clone. Not `Send`:
///
/// ```compile_fail
/// fn must_be_send<T: Send>() {}
/// must_be_send::<agentpipe::LocalEngine>();
/// ```
///
/// Wakers may call its methods and those of its agents. The driver runs wakers in the middle of a
/// turn; what they request then is done at the end of it.
///
/// Only a spawn crosses threads: a spawning thread does it, so that no slow search or `exec` stalls
/// this one. There are no blocking methods: blocking this thread stops the engine.
///
/// The engine runs as a task of the `LocalSet` until the last `LocalEngine` is dropped and every
/// agent is closed. A runtime that ends first takes it along: the agents are aborted then, and the
/// drop of the runtime waits for that, at most the
/// [`max_duration`](crate::ClosePolicy::max_duration) of an abort.
///
/// ```
/// use agentpipe::{AgentCommand, LocalEngine};
///
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// tokio::task::LocalSet::new().block_on(&runtime, async {
///     let engine = LocalEngine::new()?;
///     let mut agent = engine.spawn(AgentCommand::new("cat")).await?;
///     agent.send(r#"{"question":1}"#).await?;
///     let answer = agent.next_record().await.expect("cat answers");
///     assert_eq!(answer.as_bytes(), br#"{"question":1}"#);
///     assert!(agent.close().await.exit().success());
///     Ok::<(), agentpipe::Error>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct LocalEngine {
    shared: Rc<EngineLease>,
}

/// The state that the clones of a local engine share. The last one tells the driver that no agent will come.
#[derive(Debug)]
struct EngineLease(Rc<LocalDriver>);

impl Drop for EngineLease {
    fn drop(&mut self) {
        self.0.engine_gone.set(true);
        // Without agents nothing else wakes the task, which has to find out that it may end.
        self.0.wake();
    }
}

impl LocalEngine {
    /// Starts a local engine with the default settings.
    ///
    /// # Errors
    /// See [`LocalEngineBuilder::build`].
    ///
    /// # Panics
    /// See [`LocalEngineBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Returns a builder with the default settings.
    #[must_use]
    pub fn builder() -> LocalEngineBuilder {
        LocalEngineBuilder::new()
    }

    fn with_driver(driver: Rc<LocalDriver>) -> Self {
        Self { shared: Rc::new(EngineLease(driver)) }
    }

    fn driver(&self) -> &Rc<LocalDriver> {
        &self.shared.0
    }

    /// Returns which kernel interface carries the pipes.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.driver().found.features.backend
    }

    /// Returns why the engine has fallen back to epoll. See
    /// [`Engine::fallback`](crate::Engine::fallback).
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.driver().found.fallback.as_deref()
    }

    /// Returns what the kernel was found to offer when the engine started.
    #[must_use]
    pub fn kernel_features(&self) -> KernelFeatures {
        self.driver().found.features
    }

    /// Spawns an agent. This thread goes on meanwhile.
    ///
    /// Cancel-safe: if the future is dropped, the agent is killed and reaped.
    ///
    /// # Errors
    /// See [`Engine::spawn`](crate::Engine::spawn).
    pub async fn spawn(&self, command: AgentCommand) -> Result<LocalAgent> {
        let driver = self.driver();
        driver.check()?;
        let permit = driver.admission.acquire()?;
        let (sender, receiver) = oneshot::channel();
        // The adoption is made on the spawning thread: if this future is gone, it is dropped there,
        // which kills and reaps the child.
        let found = driver.found.clone();
        driver.spawn_pool.spawn(command, permit, move |spawned| {
            sender.send(spawned.map(|(child, command)| Adoption::new(child, command, &found)));
        });
        let no_answer = || Err(driver.check().err().unwrap_or_else(stopped));
        let adoption = receiver.await.unwrap_or_else(no_answer)?;
        let channel = Arc::clone(&adoption.channel);
        driver.adopt(adoption)?;
        let link = DirectLink(Rc::clone(driver));
        Ok(LocalAgent::local(channel, link))
    }

    /// Returns the number of living agents of this engine.
    ///
    /// An agent counts from the moment [`spawn`](Self::spawn) returns it until its
    /// [`CloseReport`](crate::CloseReport) is there. Whether handles of it are left does not matter.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.driver().live.get()
    }

    /// Returns how many agents were aborted because all their handles were dropped without a close,
    /// since the engine started.
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.driver().abandoned.get()
    }

    /// Returns what the engine has done since it started.
    ///
    /// The counters of agents are as old as the last turn. Those of the ring
    /// ([`EngineStats::io`]) are exact, and all 0 once the engine has ended; a waker that the engine
    /// calls gets those at the end of the turn before.
    #[must_use]
    pub fn metrics(&self) -> EngineStats {
        self.driver().metrics()
    }

    /// Closes every agent by its own policy, all at once, and aborts those that are left after
    /// `limit`; zero aborts at once, `Duration::MAX` never. Spawns are refused from now on.
    /// Returns when no agent is left: at most after `limit` and the
    /// [`max_duration`](crate::ClosePolicy::max_duration) of an abort.
    ///
    /// Cancel-safe: the driver carries it out. A second one may only shorten the limit.
    pub async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        let done = self.driver().shutdown(limit);
        done.wait().await.unwrap_or(NO_AGENTS)
    }
}
