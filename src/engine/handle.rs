//! Floor 3. The engine as its users hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crate::admission::{Admission, Permit};
use crate::capacity::Capacity;
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::latch::Latch;
use crate::metrics::{Backend, IoCounters};
use crate::process::{Answer, Spawned, Spawner, open_parcel, spawn_admitted};
use crate::transport::{Shared, label};

use super::agent::Agent;
use super::builder::EngineBuilder;
use super::control::Control;
use super::mailbox::{Adoption, Command, Reply, Ringing};
use super::placement::{Load, lightest};
use super::spin::Spin;
use super::thread::Thread;
use super::warm::{Pools, spawn_before_spares};

/// Hosts agents on threads of its own. `Send`, `Sync`, cheap to clone; usable from any runtime
/// and from none.
///
/// The threads live until the last `Engine` and the last [`Agent`] are gone. That last drop
/// aborts what is left and waits for it (an abort's worst case); call
/// [`shutdown`](Self::shutdown) first to choose otherwise.
#[derive(Clone, Debug)]
pub struct Engine {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) threads: Vec<(Thread, Arc<AtomicUsize>)>,
    /// Goes after the engine threads, and so after their agents: one that dies with its parent dies
    /// with the thread that spawned it. No child can be on its way then: each spawn holds this.
    pub(super) spawner: Spawner,
    pub(super) admission: Admission,
    pub(super) pools: Pools,
    pub(super) stopped: AtomicBool,
    /// Agents whose handles were all dropped without a close.
    pub(super) abandoned: Arc<AtomicU64>,
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
        let mut threads = Vec::with_capacity(settings.threads);
        // On the only processor it would keep the agent from running.
        let alone = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        let spin = if alone { Spin::NEVER } else { settings.spin };
        for index in 0..settings.threads {
            let thread = Thread::start(index, settings.ring, spin)?;
            threads.push((thread, Arc::new(AtomicUsize::new(0))));
        }
        let inner = Inner {
            threads,
            spawner: Spawner::start()?,
            admission: Admission::new(settings.max_agents),
            pools: Pools::default(),
            stopped: AtomicBool::new(false),
            abandoned: Arc::default(),
        };
        if let Some(wanted) = settings.max_agents {
            crate::process::capacity().must_fit(wanted)?;
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
    pub fn features(&self) -> Features {
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
    /// Where a limit is reached and there are spares ([`Warm`](super::Warm)), one is closed to make
    /// room: at most an abort's worst case for each.
    pub async fn spawn(&self, command: AgentCommand) -> Result<Agent> {
        if self.inner.pools.are_there() {
            return spawn_before_spares(self, command).await;
        }
        self.spawn_with(command, &self.inner.admission).await
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
        if self.inner.pools.are_there() || command.die_with_parent {
            return pollster::block_on(self.spawn(command));
        }
        let permit = self.admit(&self.inner.admission)?;
        let child = spawn_admitted(&command, permit)?;
        let (agent, _ringing) = Arc::clone(&self.inner).hand_over(child, &command);
        Ok(agent)
    }

    /// An agent that takes no place of [`max_agents`](EngineBuilder::max_agents): one that this
    /// crate needs for a moment, and its user did not ask for.
    pub(crate) async fn spawn_aside(&self, command: AgentCommand) -> Result<Agent> {
        self.spawn_with(command, &Admission::new(None)).await
    }

    /// With a place of these, and as it is: no spare makes room.
    async fn spawn_with(&self, command: AgentCommand, places: &Admission) -> Result<Agent> {
        let parcel = self.order(command, places)?.wait().await;
        open_parcel(&parcel).unwrap_or_else(|| Err(stopped()))
    }

    pub(super) fn order(&self, command: AgentCommand, places: &Admission) -> Result<Answer<Agent>> {
        let permit = self.admit(places)?;
        let inner = Arc::clone(&self.inner);
        let hand_over = move |child, command: &AgentCommand| inner.hand_over(child, command);
        Ok(self.inner.spawner.spawn(command, permit, hand_over))
    }

    fn admit(&self, places: &Admission) -> Result<Permit> {
        if self.inner.stopped.load(Ordering::SeqCst) { Err(stopped()) } else { places.admit() }
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

    /// The counters of each ring, asked of its thread: exact, and it wakes the thread.
    /// [`thread_stats`](Self::thread_stats) has them without.
    pub async fn counters(&self) -> Vec<IoCounters> {
        let mut all = Vec::with_capacity(self.inner.threads.len());
        for (thread, _) in &self.inner.threads {
            let reply = Arc::new(Latch::new());
            if thread.mailbox.send(Command::Counters(Reply(Arc::clone(&reply)))) {
                all.push(reply.wait().await);
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
    /// Runs on the thread that spawned: picks the engine thread with the least to do, which is
    /// woken when the second is dropped.
    pub(super) fn hand_over(
        self: Arc<Self>,
        child: Spawned,
        command: &AgentCommand,
    ) -> (Agent, Option<Ringing>) {
        let (label, program) = (label(&child), child.file().clone());
        let shared = Arc::new(Shared::new(child.pid(), label, command.framing, command.limits));
        let now = Instant::now();
        let loads = self.threads.iter().map(|(thread, load)| Load {
            agents: load.load(Ordering::Relaxed),
            pace: thread.board.pace(now),
        });
        let index = lightest(loads).expect("an engine has at least one thread");
        let (thread, load) = &self.threads[index];
        load.fetch_add(1, Ordering::Relaxed);
        let mailbox = thread.mailbox.clone();
        let adoption = Adoption::new(child, command.clone(), Arc::clone(&shared));
        let ringing = mailbox.leave(Command::Adopt(adoption));
        let load = Arc::clone(load);
        (Agent::new(Control::new(shared, program, mailbox, load, self)), ringing)
    }
}

pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::EngineStopped, "spawn", "the engine was shut down")
}
