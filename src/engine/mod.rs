//! Agents on engine threads, with handles that are `Send` and `Sync`.
//!
//! [`SpawnPool`] spawns, `thread.rs` runs one ring and its agents, `mailbox.rs` carries requests to it;
//! answers come back through the agent's [`Channel`]. `pool/` keeps idle
//! agents. No type of any runtime is named here: futures are woken by plain wakers.

mod builder;
mod busy_poll;
mod mailbox;
mod pool;
mod thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::agent::{Agent, Link};
use crate::backend::Found;
use crate::close::ShutdownReport;
use crate::command::AgentCommand;
use crate::counters::{Backend, IoCounters, KernelFeatures};
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Departure;
use crate::origin::Origin;
use crate::process::{Guard, SpawnPool, SpawnPoolGuard, Spawned, spawn_admitted};
use crate::stats::{Capacity, EngineStats};
use crate::sync::{Permit, Permits, SetOnce, oneshot};
use crate::transport::{Adoption, Channel, Request};

use busy_poll::BusyPoll;
use mailbox::{Command, Mailbox, Reply, WakeGuard};
use pool::{WarmPools, spawn_evicting};
use thread::{Thread, ThreadSettings};

pub use builder::EngineBuilder;
pub use pool::{Acquired, WarmPool, WarmPoolSettings, WarmPoolStats};

/// How long a blocking shutdown waits for the spawning threads, of which one may be in an exec that
/// hangs.
const SPAWN_POOL_MAX: Duration = Duration::from_millis(250);

/// Hosts agents on threads of its own. `Send`, `Sync`, cheap to clone; usable from any runtime
/// and from none.
///
/// The threads live until the last `Engine` and the last [`Agent`] are dropped. That last drop
/// aborts the agents that are left and returns at once: the threads abort, reap and end by
/// themselves, within the [`max_duration`](crate::ClosePolicy::max_duration) of an abort. A process
/// that ends by `exit` or by returning from `main` waits for them, at most 5 s; one that ends
/// otherwise (`_exit`, a signal, an exec) does not. To wait for the end, or to close the agents
/// gracefully, use [`shutdown`](Self::shutdown) in async code and
/// [`shutdown_blocking`](Self::shutdown_blocking) elsewhere.
///
/// In a forked child every call on the handles of the parent's engine fails with
/// [`EngineStopped`](ErrorKind::EngineStopped), or does nothing if it returns no error; no agent
/// is signalled there. An engine made in the child works (docs/guide/operating.md, *A host that forks*).
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<EngineShared>,
}

/// The state that the clones of an engine, its pools and the handles of its agents share. The threads
/// end with the last of them.
#[derive(Debug)]
struct EngineShared {
    threads: Vec<Thread>,
    /// The backend of all threads.
    found: Found,
    /// Its threads end after the engine threads.
    spawn_pool: SpawnPool,
    admission: Permits,
    pools: WarmPools,
    stopped: AtomicBool,
    /// Agents whose handles were all dropped without a close.
    abandoned: AtomicU64,
    origin: Origin,
}

impl Engine {
    /// Starts an engine with one thread and the default settings.
    ///
    /// # Errors
    /// See [`EngineBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Returns a builder with the default settings.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    fn start(
        threads: usize,
        settings: ThreadSettings,
        max_agents: Option<usize>,
        guard: bool,
    ) -> Result<Self> {
        // Before anything else: the watcher has a copy of what this process has by then.
        let guard = guard.then(Guard::start).transpose()?;
        let (spawn_pool, spawning) = SpawnPool::start(guard)?;
        let mut shared = EngineShared {
            threads: Vec::with_capacity(threads),
            found: Found::default(),
            spawn_pool,
            admission: Permits::new(max_agents),
            pools: WarmPools::default(),
            stopped: AtomicBool::new(false),
            abandoned: AtomicU64::new(0),
            origin: Origin::here(),
        };
        // The limit is checked last, when what the engine itself needs is in use and counted.
        let started = shared.start_threads(threads, settings, spawning).and_then(|()| {
            max_agents.map_or(Ok(()), |wanted| crate::process::capacity().must_fit(wanted))
        });
        if let Err(error) = started {
            // The threads that did start have to be gone when the error is returned: the caller's next
            // attempt needs their memory.
            shared.threads.iter().for_each(|thread| drop(thread.shutdown(Duration::ZERO)));
            shared.join();
            return Err(error);
        }
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns which kernel interface carries the pipes.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.kernel_features().backend
    }

    /// Returns why the engine has fallen back to epoll, with the cause and the remedy; `None` if it has
    /// not, or if epoll was set.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.shared.found.fallback.as_deref()
    }

    /// Returns what the kernel was found to offer when the engine started.
    #[must_use]
    pub fn kernel_features(&self) -> KernelFeatures {
        self.shared.found.features
    }

    /// Returns how many more agents the limits of this process, its user and its host allow now, and
    /// which of them is reached first. Reads `/proc`, which takes some milliseconds on a busy host.
    #[must_use]
    pub fn capacity() -> Capacity {
        crate::process::capacity()
    }

    /// Spawns an agent.
    ///
    /// Cancel-safe: if the future is dropped, the agent is killed and reaped in the background.
    ///
    /// If a limit is reached and a [`WarmPool`] has idle agents, some of them are aborted to make room.
    /// The spawn waits for that, at most the [`max_duration`](crate::ClosePolicy::max_duration) of an
    /// abort for each.
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
    pub async fn spawn(&self, command: AgentCommand) -> Result<Agent> {
        self.shared.check()?;
        // Only an engine with warm pools can make room. A spawn there keeps the command for another
        // attempt.
        if !self.shared.pools.is_empty() {
            return spawn_evicting(self, command).await;
        }
        self.spawn_with(command, self.shared.admission.acquire()?).await
    }

    /// Spawns an agent on the calling thread, without handing the job to a spawning thread.
    ///
    /// As with [`std::process::Command`], the agent inherits the priority and the CPU affinity of the
    /// caller. With [`spawn`](Self::spawn) it inherits those of the thread that built the engine.
    ///
    /// If the engine has a [`WarmPool`], or the agent is to
    /// [die with its parent](AgentCommand::die_with_parent), a spawning thread is used all the same:
    /// `PR_SET_PDEATHSIG` fires when the spawning *thread* exits (prctl(2)).
    ///
    /// # Errors
    /// See [`spawn`](Self::spawn).
    pub fn spawn_blocking(&self, command: AgentCommand) -> Result<Agent> {
        self.shared.check()?;
        if !self.shared.pools.is_empty() || command.die_with_parent {
            return pollster::block_on(self.spawn(command));
        }
        let permit = self.shared.admission.acquire()?;
        let guard = self.shared.spawn_pool.guard();
        let child = spawn_admitted(&command, guard.as_ref(), permit)?;
        let (agent, wake) = Arc::clone(&self.shared).hand_over(child, command)?;
        wake.wake();
        Ok(agent)
    }

    /// Spawns on the spawn pool. Evicts no idle agent if a limit is reached.
    async fn spawn_with(&self, command: AgentCommand, permit: Permit) -> Result<Agent> {
        // `spawn_evicting` and the warm pools have waited before this call, and the engine may have
        // been shut down meanwhile.
        self.shared.check()?;
        let shared = Arc::clone(&self.shared);
        let (sender, receiver) = oneshot::channel();
        // The future may be dropped before the child is there, and the process may be about to exit.
        let departure = Departure::begin();
        self.shared.spawn_pool.spawn(command, permit, move |spawned| {
            match spawned.and_then(|(child, command)| shared.hand_over(child, command)) {
                Ok((agent, wake)) => {
                    sender.send(Ok(agent));
                    // The caller was woken first: the engine thread competes for the processor.
                    wake.wake();
                }
                Err(error) => sender.send(Err(error)),
            }
            // This comes last: an agent that no future takes was dropped above, and holds a
            // departure itself by now.
            drop(departure);
        });
        // There is no answer if the pool has ended, which drops its jobs, and in a forked child.
        receiver.await.unwrap_or_else(|| Err(self.gone()))
    }

    /// Returns why a spawn had no answer.
    fn gone(&self) -> Error {
        self.shared.check().err().unwrap_or_else(stopped)
    }

    /// Returns the number of living agents of this engine, idle agents of its pools included.
    ///
    /// An agent counts from the moment it is spawned, before [`spawn`](Self::spawn) returns it, until
    /// its [`CloseReport`](crate::CloseReport) is there. Whether handles of it are left does not
    /// matter.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.shared.threads.iter().map(|thread| thread.live.get()).sum()
    }

    /// Returns how many agents were aborted because all their handles were dropped without a close,
    /// since the engine started.
    #[must_use]
    pub fn abandoned(&self) -> u64 {
        self.shared.abandoned.load(Ordering::Relaxed)
    }

    /// Returns what the engine has done since it started, in total and for each thread.
    ///
    /// Wakes no thread, so it may be called often. The numbers of a thread are as old
    /// as its last turn: see [`counters`](Self::counters) for exact ones of the rings.
    #[must_use]
    pub fn metrics(&self) -> EngineMetrics {
        let threads = self.shared.threads.iter().map(|thread| thread.published.read());
        let threads: Vec<EngineStats> = threads.collect();
        let mut total = threads.first().cloned().unwrap_or_default();
        threads.iter().skip(1).for_each(|thread| total.merge(thread));
        EngineMetrics { total, threads }
    }

    /// Returns the counters of each ring, in the order of the threads: exact, because it asks the
    /// threads, which wakes them. All 0 for a thread that has ended, and in a forked child.
    /// [`metrics`](Self::metrics) has the counters of the last turn without a wake-up.
    pub async fn counters(&self) -> Vec<IoCounters> {
        let mut all = vec![IoCounters::default(); self.shared.threads.len()];
        for (thread, counters) in self.shared.threads.iter().zip(&mut all) {
            // In a forked child the send would write the eventfd of the parent, and no thread would
            // reply.
            if self.shared.origin.is_here() {
                let reply = Arc::new(SetOnce::new());
                thread.mailbox.send(Command::Counters(Reply(Arc::clone(&reply))));
                *counters = reply.wait().await.unwrap_or_default();
            }
        }
        all
    }

    /// Blocking form of [`counters`](Self::counters), for callers without a runtime.
    #[must_use]
    pub fn counters_blocking(&self) -> Vec<IoCounters> {
        pollster::block_on(self.counters())
    }

    /// Closes every agent by its own policy, all at once, and aborts those that are left after
    /// `limit`; zero aborts at once, `Duration::MAX` never. Spawns are refused from now on.
    ///
    /// Returns when no agent, no ring and no descriptor of the engine is left: at most after `limit`
    /// and the [`max_duration`](crate::ClosePolicy::max_duration) of an abort. An agent that was
    /// spawned while the shutdown began is either closed with the others or refused with
    /// [`EngineStopped`](ErrorKind::EngineStopped). Does nothing in a forked child.
    ///
    /// Cancel-safe: the shutdown runs in the engine. A second one may only shorten the limit.
    pub async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        let begun = Instant::now();
        let mut report = ShutdownReport { agents: 0, aborted: 0, total: Duration::ZERO };
        if !self.shared.origin.is_here() {
            return report;
        }
        // The flag is set before the threads refuse children: a spawn that finds none to take its
        // child reports the shutdown, and not threads that have died.
        self.shared.stopped.store(true, Ordering::SeqCst);
        let threads = &self.shared.threads;
        // Every thread begins before the first wait, so all agents are closed at once.
        let ends: Vec<_> = threads.iter().map(|thread| thread.shutdown(limit)).collect();
        for end in ends {
            let end = end.wait().await.unwrap_or_default();
            report.agents += end.agents;
            report.aborted += end.aborted;
        }
        report.total = begun.elapsed();
        report
    }

    /// Blocking form of [`shutdown`](Self::shutdown). Waits for the threads of the engine as well, but
    /// not for a spawning thread in an `exec` that hangs.
    pub fn shutdown_blocking(&self, limit: Duration) -> ShutdownReport {
        let report = pollster::block_on(self.shutdown(limit));
        if self.shared.origin.is_here() {
            self.shared.join();
        }
        report
    }
}

/// The statistics of an engine since its start. Returned by [`Engine::metrics`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct EngineMetrics {
    /// All threads together.
    pub total: EngineStats,
    /// Each thread, in the order of their names: `agentpipe-0` and so on.
    pub threads: Vec<EngineStats>,
}

impl EngineMetrics {
    /// Sends the metrics to `tracing`, as events of the target `agentpipe::stats`: one per thread and
    /// one in total. The engine does that only for a thread that ends; call it from a timer.
    pub fn trace(&self) {
        for (index, stats) in self.threads.iter().enumerate() {
            stats.trace(&format!("agentpipe-{index}"));
        }
        self.total.trace("engine");
    }
}

impl EngineShared {
    fn start_threads(
        &mut self,
        threads: usize,
        mut settings: ThreadSettings,
        spawning: SpawnPoolGuard,
    ) -> Result<()> {
        let spawning = Arc::new(spawning);
        // On the only processor a polling thread would keep the agents from running.
        let alone = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        if alone {
            settings.busy_poll = BusyPoll::NEVER;
        }
        for index in 0..threads {
            let (thread, found) = Thread::start(index, settings.clone(), Arc::clone(&spawning))?;
            self.threads.push(thread);
            // The others must have the backend of the first, and its reason is the one to tell.
            if index == 0 {
                settings.backend = settings.backend.like(&found);
                self.found = found;
            }
        }
        Ok(())
    }

    /// Waits until the threads have ended, once they were shut down.
    fn join(&self) {
        // The engine threads go first: the last of them ends the spawn pool.
        self.threads.iter().for_each(Thread::join);
        self.spawn_pool.wait_for_end(SPAWN_POOL_MAX);
    }

    /// Returns why nothing can be spawned: in a forked child, after a shutdown, and if no engine
    /// thread is left.
    fn check(&self) -> Result<()> {
        self.origin.check("spawn")?;
        if self.stopped.load(Ordering::SeqCst) {
            return Err(stopped());
        }
        if self.threads.iter().any(|thread| thread.mailbox.accepts_agents()) {
            return Ok(());
        }
        let what = "every thread of the engine has ended";
        Err(Error::new(ErrorKind::EngineStopped, "spawn", what)
            .remedy("the log has the reason; make another engine"))
    }

    /// Hands a spawned child to the engine thread with the fewest agents. Runs on the thread that
    /// spawned. The engine thread is woken by the guard; a child that no thread takes is killed and
    /// reaped here.
    fn hand_over(
        self: Arc<Self>,
        child: Spawned,
        command: AgentCommand,
    ) -> Result<(Agent, WakeGuard)> {
        let mut adoption = Adoption::new(child, command, &self.found);
        let channel = Arc::clone(&adoption.channel);
        loop {
            // This is the way out of the loop once no thread takes children. The adoption is
            // dropped then, which kills and reaps the child.
            self.check()?;
            let agents = self
                .threads
                .iter()
                .map(|thread| thread.mailbox.accepts_agents().then(|| thread.live.get()));
            // The last thread ended since the check, so the next check fails.
            let Some(index) = least_loaded(agents) else { continue };
            let Thread { mailbox, live, .. } = &self.threads[index];
            // The agent is counted before it is queued, so that spawns on other threads see it when
            // they choose.
            adoption.count_among(live);
            match mailbox.adopt(adoption) {
                Ok(wake) => {
                    let link = MailboxLink { mailbox: mailbox.clone(), engine: self };
                    return Ok((Agent::remote(channel, link), wake));
                }
                // That thread ended since it was chosen.
                Err(back) => adoption = back,
            }
        }
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::EngineStopped, "spawn", "the engine was shut down")
}

/// The way from an agent's handles to its engine thread.
#[derive(Debug)]
struct MailboxLink {
    mailbox: Mailbox,
    /// Keeps the engine threads while a handle is there.
    engine: Arc<EngineShared>,
}

impl Link for MailboxLink {
    fn request(&self, channel: &Arc<Channel>, request: Request) {
        // A request that is on its way covers this one: the driver clears its bit before it acts on
        // it.
        if channel.note_request(request.bit()) {
            self.mailbox.send(Command::Agent(Arc::clone(channel), request));
        }
    }

    fn note_abandoned(&self, channel: &Channel) {
        // `exit` waits until the driver has ended the inbox, which comes after the abort.
        channel.inbox.keep_process(Departure::begin());
        // Relaxed: the count guards no other data.
        self.engine.abandoned.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns the thread with the fewest agents, the first of equals. `None` stands for a thread that has
/// ended: without agents it would otherwise get every new one.
fn least_loaded(agents: impl IntoIterator<Item = Option<usize>>) -> Option<usize> {
    let counts =
        agents.into_iter().enumerate().filter_map(|(index, agents)| Some((index, agents?)));
    counts.min_by_key(|(_, agents)| *agents).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_get_equally_many_agents() {
        let mut agents = [10, 0, 4];
        for _ in 0..13 {
            agents[least_loaded(agents.map(Some)).expect("there are threads")] += 1;
        }
        assert_eq!(agents, [10, 9, 8]);
        assert_eq!(least_loaded([]), None);
    }

    #[test]
    fn ended_thread_gets_no_agent() {
        assert_eq!(least_loaded([None, Some(1000), None]), Some(1));
        assert_eq!(least_loaded([None, None]), None);
    }
}
