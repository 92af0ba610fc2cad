//! Floor 3. The engine as its users hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::command::AgentCommand;
use crate::counters::KernelFeatures;
use crate::counters::{Backend, IoCounters};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Departure;
use crate::origin::Origin;
use crate::process::{SpawnPool, SpawnPoolGuard, Spawned, spawn_admitted};
use crate::stats::Capacity;
use crate::sync::{Permit, Permits, SetOnce, oneshot};
use crate::transport::Adoption;

use super::agent::Agent;
use super::builder::EngineBuilder;
use super::control::Control;
use super::mailbox::{Command, Reply, Ringing};
use super::placement::{Load, lightest};
use super::pool::{WarmPools, spawn_evicting};
use super::spin::Spin;
use super::thread::Thread;

/// How long a blocking shutdown waits for the spawning threads, of which one may be in an exec that
/// hangs.
const SPAWN_POOL_MAX: Duration = Duration::from_millis(250);

/// Hosts agents on threads of its own. `Send`, `Sync`, cheap to clone; usable from any runtime
/// and from none.
///
/// Its threads live until the last `Engine` and the last [`Agent`] are dropped. That last drop
/// aborts the agents that are left and returns at once: the threads abort, reap and end by
/// themselves, within an abort's worst case, and a process that ends by `exit` or by returning from
/// `main` waits for them, at most 5 s. A process that ends otherwise (`_exit`, a signal, an exec)
/// does not. To wait for the end, or to close the agents gracefully:
/// [`shutdown`](Self::shutdown) in async code, [`shutdown_blocking`](Self::shutdown_blocking)
/// elsewhere.
///
/// In a forked child every call on the handles of the parent's engine fails with
/// [`EngineStopped`](ErrorKind::EngineStopped), or does nothing where it returns no error; no agent
/// is signalled there. An engine made in the child works (docs/operating.md, *A host that forks*).
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) threads: Vec<(Thread, Arc<AtomicUsize>)>,
    /// Its threads end after the engine threads.
    pub(super) spawn_pool: SpawnPool,
    pub(super) admission: Permits,
    pub(super) pools: WarmPools,
    pub(super) stopped: AtomicBool,
    /// Agents whose handles were all dropped without a close.
    pub(super) abandoned: Arc<AtomicU64>,
    pub(super) origin: Origin,
}

impl Engine {
    /// An engine with one thread and the default settings.
    ///
    /// # Errors
    /// See [`EngineBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Settings first.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    pub(super) fn start(settings: &EngineBuilder) -> Result<Self> {
        let (spawn_pool, spawning) = SpawnPool::start()?;
        let mut inner = Inner {
            threads: Vec::with_capacity(settings.threads),
            spawn_pool,
            admission: Permits::new(settings.max_agents),
            pools: WarmPools::default(),
            stopped: AtomicBool::new(false),
            abandoned: Arc::default(),
            origin: Origin::here(),
        };
        // What was started is ended before the error is told: the next try needs its memory.
        if let Err(error) = inner.fill(settings, spawning) {
            inner.threads.iter().for_each(|(thread, _)| drop(thread.shutdown(Duration::ZERO)));
            inner.join();
            return Err(error);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Which kernel interface carries the pipes.
    #[must_use]
    pub fn backend(&self) -> Backend {
        Backend::IoUring
    }

    /// What the kernel was found to offer when the engine started.
    #[must_use]
    pub fn kernel_features(&self) -> KernelFeatures {
        self.inner.threads.first().map(|(thread, _)| thread.features).unwrap_or_default()
    }

    /// Spawns an agent.
    ///
    /// Cancel-safe: if the future is dropped, the agent is killed and reaped in the background.
    ///
    /// # Errors
    /// By cause: [`InvalidCommand`](ErrorKind::InvalidCommand),
    /// [`ProgramNotFound`](ErrorKind::ProgramNotFound),
    /// [`ProgramNotExecutable`](ErrorKind::ProgramNotExecutable),
    /// [`BadWorkingDirectory`](ErrorKind::BadWorkingDirectory),
    /// [`NotPermitted`](ErrorKind::NotPermitted),
    /// [`CgroupUnavailable`](ErrorKind::CgroupUnavailable),
    /// [`ResourceLimit`](ErrorKind::ResourceLimit), [`EngineStopped`](ErrorKind::EngineStopped).
    /// Nothing is left of an agent that could not be spawned.
    ///
    /// If a limit is reached and a [`WarmPool`](super::WarmPool) has idle agents, some of them are
    /// aborted to make room. The spawn waits for that, at most an abort's worst case for each.
    pub async fn spawn(&self, command: AgentCommand) -> Result<Agent> {
        self.inner.check()?;
        if !self.inner.pools.is_empty() {
            return spawn_evicting(self, command).await;
        }
        self.spawn_with(command, self.inner.admission.acquire()?).await
    }

    /// [`spawn`](Self::spawn) for callers without a runtime. Blocks the thread, which spawns the
    /// agent itself and so saves the way to another: the agent has the priority, the processors
    /// and what else Linux keeps by thread from the caller, as with [`std::process::Command`]. With
    /// `spawn` it has them from the thread that built the engine; here too where there are spares
    /// or it is to [die with its parent](AgentCommand::die_with_parent), which must not be a thread
    /// that passes.
    ///
    /// # Errors
    /// As `spawn`.
    pub fn spawn_blocking(&self, command: AgentCommand) -> Result<Agent> {
        self.inner.check()?;
        if !self.inner.pools.is_empty() || command.die_with_parent {
            return pollster::block_on(self.spawn(command));
        }
        let permit = self.inner.admission.acquire()?;
        let child = spawn_admitted(&command, permit)?;
        let (agent, _ringing) = Arc::clone(&self.inner).hand_over(child, command)?;
        Ok(agent)
    }

    /// An agent that takes no place of [`max_agents`](EngineBuilder::max_agents): one that this
    /// crate needs for a moment, and its user did not ask for.
    #[cfg(feature = "claude")]
    pub(crate) async fn spawn_aside(&self, command: AgentCommand) -> Result<Agent> {
        self.spawn_with(command, Permits::new(None).acquire()?).await
    }

    /// Spawns on the spawn pool. Evicts no idle agent if a limit is reached.
    pub(super) async fn spawn_with(&self, command: AgentCommand, permit: Permit) -> Result<Agent> {
        self.inner.check()?;
        let inner = Arc::clone(&self.inner);
        let (sender, receiver) = oneshot::channel();
        // The future may be dropped before the child is there, and the process be about to end.
        let departure = Departure::begin();
        self.inner.spawn_pool.spawn(command, permit, move |spawned| {
            match spawned.and_then(|(child, command)| inner.hand_over(child, command)) {
                Ok((agent, ringing)) => {
                    sender.send(Ok(agent));
                    // The caller was woken first: the engine thread competes for the processor.
                    drop(ringing);
                }
                Err(error) => sender.send(Err(error)),
            }
            drop(departure);
        });
        receiver.await.unwrap_or_else(|| Err(self.gone()))
    }

    /// Why there was no answer.
    pub(super) fn gone(&self) -> Error {
        self.inner.check().err().unwrap_or_else(stopped)
    }

    /// How many more agents the limits of this process, its user and its host allow now, and which
    /// of them comes first. Reads `/proc`: some milliseconds on a busy host.
    #[must_use]
    pub fn capacity() -> Capacity {
        crate::process::capacity()
    }

    /// Agents whose last handle is still there.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.inner.threads.iter().map(|(_, load)| load.load(Ordering::Relaxed)).sum()
    }

    /// Agents whose handles were dropped without a close, since the start. Each was aborted.
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.inner.abandoned.load(Ordering::Relaxed)
    }

    /// The counters of each ring, asked of its thread: exact, and it wakes the thread. All 0 for a
    /// thread that has ended, and in a forked child.
    /// [`thread_stats`](Self::thread_stats) has them without a wake-up.
    pub async fn counters(&self) -> Vec<IoCounters> {
        let mut all = vec![IoCounters::default(); self.inner.threads.len()];
        for ((thread, _), counters) in self.inner.threads.iter().zip(&mut all) {
            if self.inner.origin.is_here() {
                let reply = Arc::new(SetOnce::new());
                thread.mailbox.send(Command::Counters(Reply(Arc::clone(&reply))));
                *counters = reply.wait().await.unwrap_or_default();
            }
        }
        all
    }

    /// [`counters`](Self::counters) for callers without a runtime.
    #[must_use]
    pub fn counters_blocking(&self) -> Vec<IoCounters> {
        pollster::block_on(self.counters())
    }
}

impl Inner {
    fn fill(&mut self, settings: &EngineBuilder, spawning: SpawnPoolGuard) -> Result<()> {
        let spawning = Arc::new(spawning);
        // On the only processor it would keep the agent from running.
        let alone = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        let spin = if alone { Spin::NEVER } else { settings.spin };
        for index in 0..settings.threads {
            let thread = Thread::start(index, settings.ring, spin, Arc::clone(&spawning))?;
            self.threads.push((thread, Arc::new(AtomicUsize::new(0))));
        }
        if let Some(wanted) = settings.max_agents {
            crate::process::capacity().must_fit(wanted)?;
        }
        Ok(())
    }

    /// Waits until the threads have ended, once they were shut down.
    pub(super) fn join(&self) {
        for (thread, _) in &self.threads {
            thread.join();
        }
        self.spawn_pool.wait_for_end(SPAWN_POOL_MAX);
    }

    /// Why nothing can be spawned: in another process, after a shutdown, and where no engine thread
    /// is left.
    pub(super) fn check(&self) -> Result<()> {
        self.origin.check("spawn")?;
        if self.stopped.load(Ordering::SeqCst) {
            return Err(stopped());
        }
        if self.threads.iter().any(|(thread, _)| thread.mailbox.adopts()) {
            return Ok(());
        }
        let what = "every thread of the engine has ended";
        Err(Error::new(ErrorKind::EngineStopped, "spawn", what)
            .remedy("the log has the reason; make another engine"))
    }

    /// Runs on the thread that spawned: picks the engine thread with the least to do, which is
    /// woken when the second is dropped. A child that no thread takes is killed and reaped here.
    pub(super) fn hand_over(
        self: Arc<Self>,
        child: Spawned,
        command: AgentCommand,
    ) -> Result<(Agent, Ringing)> {
        let program = child.executable().clone();
        let mut adoption = Adoption::new(child, command);
        let channel = Arc::clone(&adoption.channel);
        loop {
            self.check()?;
            let now = Instant::now();
            let loads = self.threads.iter().map(|(thread, load)| {
                let agents = load.load(Ordering::Relaxed);
                thread.mailbox.adopts().then(|| Load { agents, pace: thread.board.pace(now) })
            });
            let Some(index) = lightest(loads) else { continue };
            let (thread, load) = &self.threads[index];
            load.fetch_add(1, Ordering::Relaxed);
            match thread.mailbox.adopt(adoption) {
                Ok(ringing) => {
                    let (mailbox, load) = (thread.mailbox.clone(), Arc::clone(load));
                    let agent = Agent::new(Control::new(channel, program, mailbox, load, self));
                    return Ok((agent, ringing));
                }
                // It ended just now.
                Err(back) => adoption = back,
            }
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::EngineStopped, "spawn", "the engine was shut down")
}
