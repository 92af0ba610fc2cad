//! Floor 3. The local engine as its users hold it.

use std::rc::Rc;
use std::sync::Arc;

use crate::command::AgentCommand;
use crate::counters::KernelFeatures;
use crate::counters::{Backend, IoCounters};
use crate::error::Result;
use crate::sync::oneshot;
use crate::transport::Adoption;

use super::agent::LocalAgent;
use super::builder::LocalEngineBuilder;
use super::control::Control;
use super::hub::{Hub, stopped};

/// Hosts agents on the caller's own thread, inside a tokio current-thread runtime with a
/// `LocalSet`, or inside `tokio_uring::start`. Cheap to clone. Not `Send`:
///
/// ```compile_fail
/// fn must_be_send<T: Send>() {}
/// must_be_send::<agentpipe::LocalEngine>();
/// ```
///
/// Its methods and those of its agents may be called by wakers, which its driver runs in the middle of
/// a turn: what they ask for is then done at the end of it.
///
/// Nothing crosses threads but a spawn, which an own thread does so that no slow search or exec
/// stalls this one. There are no blocking twins: whoever blocks this thread stops the engine.
///
/// It runs as a task of the `LocalSet` until the last `LocalEngine` and the last [`LocalAgent`] are
/// gone and what they left is aborted. A runtime that ends first takes it along: the agents are
/// aborted then and there, and its drop waits for that (an abort's worst case).
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
    seat: Rc<Seat>,
}

/// The last one of these tells the driver that no agent will come any more.
#[derive(Debug)]
struct Seat(Rc<Hub>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.engine_gone.set(true);
        self.0.nudge();
    }
}

impl LocalEngine {
    /// A local engine with the default settings.
    ///
    /// # Errors
    /// See [`LocalEngineBuilder::build`].
    ///
    /// # Panics
    /// As there.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Settings first.
    #[must_use]
    pub fn builder() -> LocalEngineBuilder {
        LocalEngineBuilder::new()
    }

    pub(super) fn over(hub: Rc<Hub>) -> Self {
        Self { seat: Rc::new(Seat(hub)) }
    }

    pub(super) fn hub(&self) -> &Rc<Hub> {
        &self.seat.0
    }

    /// Which kernel interface carries the pipes.
    #[must_use]
    pub fn backend(&self) -> Backend {
        Backend::IoUring
    }

    /// What the kernel was found to offer when the engine started.
    #[must_use]
    pub fn kernel_features(&self) -> KernelFeatures {
        self.hub().features
    }

    /// Spawns an agent. This thread goes on meanwhile.
    ///
    /// Cancel-safe: if the future is dropped, the agent is killed and reaped.
    ///
    /// # Errors
    /// As [`Engine::spawn`](crate::Engine::spawn).
    pub async fn spawn(&self, command: AgentCommand) -> Result<LocalAgent> {
        let hub = self.hub();
        hub.check()?;
        let permit = hub.admission.acquire()?;
        let (sender, receiver) = oneshot::channel();
        hub.spawn_pool.spawn(command, permit, |spawned| {
            sender.send(spawned.map(|(child, command)| Adoption::new(child, command)));
        });
        let no_answer = || Err(hub.check().err().unwrap_or_else(stopped));
        let adoption = receiver.await.unwrap_or_else(no_answer)?;
        let channel = Arc::clone(&adoption.channel);
        hub.adopt(adoption)?;
        Ok(LocalAgent::new(Control::new(channel, hub)))
    }

    /// Agents whose last handle is still there.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.hub().agents.get()
    }

    /// Agents whose handles were dropped without a close, since the start. Each was aborted.
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.hub().abandoned.get()
    }

    /// The counters of the ring; all 0 once the engine has ended. Asked by a waker, those at the end
    /// of the turn before.
    #[must_use]
    pub fn counters(&self) -> IoCounters {
        self.hub().counters()
    }
}
