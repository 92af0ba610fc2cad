//! The idle agents of one pool, and the decisions about each of them.
//!
//! The lock is held for a few instructions: never while an agent is spawned, closed or woken.

use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::agent::{Agent, AgentWriter};
use crate::close::{ClosePolicy, CloseReason};
use crate::command::AgentCommand;
use crate::deadline;
use crate::error::Result;
use crate::exit::Departure;
use crate::process::CommandFingerprint;
use crate::record::Event;
use crate::sync::SetOnce;

use super::super::Engine;
use super::settings::{WarmPoolSettings, WarmPoolStats};

/// An idle agent that ends by itself is replaced at once only if it lived this long: at most one start
/// in this time for each place, whatever the program does.
const LIVED_MIN: Duration = Duration::from_secs(10);

/// The state that the handles, the thread and the acquires of a pool share.
#[derive(Debug)]
pub(super) struct PoolShared {
    pub(super) engine: Engine,
    pub(super) command: AgentCommand,
    settings: WarmPoolSettings,
    state: Mutex<PoolState>,
    /// Wakes the thread of the pool.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Oldest first.
    idle: VecDeque<IdleAgent>,
    /// Agents that are ordered and have not arrived.
    pending: usize,
    /// Set when the next of those has arrived or failed.
    arrived: Arc<SetOnce<()>>,
    /// The last handle is gone.
    ended: bool,
    /// Without `ready` and `pending`.
    stats: WarmPoolStats,
}

/// How the place of an idle agent becomes free.
pub(super) enum Room {
    /// This agent is being closed.
    Closing(AgentWriter),
    /// An agent that may be evicted next is being spawned.
    Pending(Arc<SetOnce<()>>),
}

/// Why an idle agent is not handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    Ended,
    Expired,
    Changed,
}

impl PoolShared {
    pub(super) fn new(
        engine: Engine,
        command: AgentCommand,
        settings: WarmPoolSettings,
    ) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { engine, command, settings, state, changed })
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False in a forked child, where the lock may be taken for good and the agents are the parent's.
    fn is_here(&self) -> bool {
        self.engine.shared.origin.is_here()
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut WarmPoolStats)) {
        add(&mut self.lock().stats);
    }

    pub(super) fn stats(&self) -> WarmPoolStats {
        if !self.is_here() {
            return WarmPoolStats::default();
        }
        let state = self.lock();
        WarmPoolStats { ready: state.idle.len(), pending: state.pending, ..state.stats }
    }

    /// Orders the missing agents from the thread of the pool.
    pub(super) fn refill(&self) {
        // The check comes before the lock, which may be taken for good in a forked child: it fails
        // there.
        if self.engine.shared.check().is_err() {
            return;
        }
        let mut state = self.lock();
        let missing = self.settings.size.saturating_sub(state.idle.len() + state.pending);
        if missing > 0 && !state.ended {
            // They are counted before they are spawned, so that acquires at the same time do not
            // order them again.
            state.pending += missing;
            self.changed.notify_all();
        }
    }

    /// The thread of the pool: removes unfit agents and spawns the ordered ones until the pool ends.
    pub(super) fn maintain(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.ended {
            let now = Instant::now();
            let unfit = state.remove_unfit(self.settings.max_age, now);
            if !unfit.is_empty() {
                // `replace` takes the lock itself. It also logs, and the subscriber is code of the
                // user.
                drop(state);
                self.replace(unfit, now);
                state = self.lock();
            } else if state.pending > 0 {
                drop(state);
                self.spawn_one();
                state = self.lock();
            } else {
                // All have the same maximum age, so the oldest expires first.
                let expiry = state.idle.front().map(|oldest| oldest.expiry(self.settings.max_age));
                state = match expiry.map(|at| at.saturating_duration_since(now)) {
                    None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    Some(left) => {
                        let woken = self.changed.wait_timeout(state, left);
                        woken.unwrap_or_else(PoisonError::into_inner).0
                    }
                };
            }
        }
    }

    fn replace(&self, unfit: Vec<(IdleAgent, Unfit)>, now: Instant) {
        let mut refill = false;
        for (agent, why) in unfit {
            refill |= why == Unfit::Expired || agent.age(now) >= LIVED_MIN;
            self.discard(agent, why);
        }
        if refill {
            self.refill();
        }
    }

    fn spawn_one(self: &Arc<Self>) {
        // The pool may end meanwhile, and its process: `exit` waits until the agent is closed.
        let _departure = Departure::begin();
        let spawned = self.try_spawn();
        // This is logged before the lock is taken: the subscriber is code of the user.
        if let Err(error) = &spawned {
            crate::trace::warn!(%error, "a warm pool cannot spawn; it tries again at the next acquire");
        }
        let mut unwanted = None;
        let mut state = self.lock();
        state.pending -= 1;
        // The value is replaced under the lock: a spawn that finds an agent pending from here on
        // waits for the next arrival.
        let arrived = mem::take(&mut state.arrived);
        match spawned {
            // `end` took the idle agents before this one was there.
            Ok(Some(agent)) if state.ended => unwanted = Some(agent),
            Ok(Some(agent)) => {
                state.stats.spawned += 1;
                state.idle.push_back(agent);
            }
            // The order lapses. The next refill sees that the agent is missing.
            Ok(None) => {}
            Err(_) => state.stats.failed += 1,
        }
        drop(state);
        if let Some(agent) = unwanted {
            agent.close(self.command.close);
        }
        // This comes last, and without the lock: it wakes spawns, which look for the agent at once.
        arrived.set(());
    }

    /// `None` if there is no place for an idle agent.
    fn try_spawn(self: &Arc<Self>) -> Result<Option<IdleAgent>> {
        let shared = &self.engine.shared;
        if shared.check().is_err() || self.lock().ended {
            return Ok(None);
        }
        let Some(permit) = shared.pools.permit(&self.engine) else { return Ok(None) };
        // Taken before the exec: a file that is replaced in between makes the agent differ from it.
        let fingerprint = CommandFingerprint::of(&self.command)?;
        let spawn = self.engine.spawn_with(self.command.clone(), permit);
        let agent = pollster::block_on(spawn)?;
        // The watch is weak: the pool owns the agent, whose channel keeps the waker. A strong
        // pointer would be a cycle.
        let watch = Arc::new(EndWatch(Arc::downgrade(self)));
        Ok(Some(IdleAgent::new(agent, fingerprint, watch)))
    }

    /// Takes the oldest agent that is fit out of the pool. Searches for the program's file: may block.
    pub(super) fn pick(self: &Arc<Self>) -> Option<Checkout> {
        // A program that is not found now matches no idle agent. All are closed, and the spawn that
        // follows reports the reason.
        let fingerprint = CommandFingerprint::of(&self.command).ok();
        loop {
            // The agent is taken out first and judged without the lock. No other acquire can get it
            // meanwhile.
            let mut agent = self.lock().idle.pop_front()?;
            let mut unfit = agent.unfit(self.settings.max_age, Instant::now());
            if unfit.is_none() && Some(&agent.fingerprint) != fingerprint.as_ref() {
                unfit = Some(Unfit::Changed);
            }
            if unfit.is_none() && self.settings.discard_startup_output {
                let records = agent.discard_output();
                self.count(|stats| stats.records_discarded += records);
                // The exit may have been among what was discarded.
                unfit = agent.close_reason().map(|_| Unfit::Ended);
            }
            match unfit {
                None => return Some(Checkout { agent: Some(agent), pool: Arc::clone(self) }),
                Some(why) => self.discard(agent, why),
            }
        }
    }

    fn discard(&self, agent: IdleAgent, why: Unfit) {
        // Agents that a shutdown of the engine closes did not end by themselves.
        let shut_down = agent.close_reason() == Some(CloseReason::Shutdown);
        self.count(|stats| match why {
            Unfit::Ended if shut_down => stats.unused += 1,
            Unfit::Ended => stats.died += 1,
            Unfit::Expired => stats.expired += 1,
            Unfit::Changed => stats.changed += 1,
        });
        let writer = agent.close(self.command.close);
        crate::trace::debug!(pid = writer.pid(), ?why, "an idle agent is not handed out");
    }

    /// Aborts the oldest agent. `None` if there is none and none will come.
    pub(super) fn evict(&self) -> Option<Room> {
        let mut state = self.lock();
        let Some(agent) = state.idle.pop_front() else {
            // It is cloned under the lock that `spawn_one` takes to replace it, so the arrival
            // cannot be missed.
            return (state.pending > 0).then(|| Room::Pending(Arc::clone(&state.arrived)));
        };
        state.stats.evicted += 1;
        drop(state);
        Some(Room::Closing(agent.close(ClosePolicy::abort())))
    }

    /// Ends the thread of the pool and closes all idle agents.
    pub(super) fn end(&self) {
        if !self.is_here() {
            return;
        }
        let mut state = self.lock();
        // A spawn that is under way reads this under the same lock and closes its agent itself.
        state.ended = true;
        let idle = mem::take(&mut state.idle);
        drop(state);
        self.changed.notify_all();
        for agent in idle {
            agent.close(self.command.close);
        }
    }
}

impl PoolState {
    /// Removes the agents that have ended or are too old.
    fn remove_unfit(&mut self, max_age: Duration, now: Instant) -> Vec<(IdleAgent, Unfit)> {
        let mut removed = Vec::new();
        for agent in mem::take(&mut self.idle) {
            match agent.unfit(max_age, now) {
                Some(why) => removed.push((agent, why)),
                None => self.idle.push_back(agent),
            }
        }
        removed
    }
}

/// Wakes the thread of the pool when an idle agent has ended. Called by an engine thread.
#[derive(Debug)]
struct EndWatch(Weak<PoolShared>);

impl Wake for EndWatch {
    fn wake(self: Arc<Self>) {
        if let Some(pool) = self.0.upgrade() {
            // Waits for a thread that has just looked, so that it does not miss the notification.
            drop(pool.lock());
            pool.changed.notify_all();
        }
    }
}

/// An agent that is ready to be acquired.
struct IdleAgent {
    agent: Agent,
    /// Of its command, when it was spawned.
    fingerprint: CommandFingerprint,
    born: Instant,
    /// Registers the waker for the begin of the agent's close; dropped, it deregisters it.
    _watch: Pin<Box<dyn Future<Output = CloseReason> + Send>>,
}

impl std::fmt::Debug for IdleAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdleAgent").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl IdleAgent {
    fn new(agent: Agent, fingerprint: CommandFingerprint, watch: Arc<EndWatch>) -> Self {
        let writer = agent.writer().clone();
        let mut closing: Pin<Box<dyn Future<Output = CloseReason> + Send>> =
            Box::pin(async move { writer.close_begun().await });
        // If it has ended already, the thread of the pool sees that when it looks next.
        let waker = Waker::from(watch);
        if closing.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            closing = Box::pin(std::future::pending());
        }
        Self { agent, fingerprint, born: Instant::now(), _watch: closing }
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    fn expiry(&self, max_age: Duration) -> Instant {
        deadline::after(self.born, max_age)
    }

    /// Why its close began, if it did.
    fn close_reason(&self) -> Option<CloseReason> {
        self.agent.writer().close_reason()
    }

    fn unfit(&self, max_age: Duration, now: Instant) -> Option<Unfit> {
        if self.close_reason().is_some() {
            return Some(Unfit::Ended);
        }
        (self.expiry(max_age) <= now).then_some(Unfit::Expired)
    }

    /// Drops the events that are there. Returns how many of them were records.
    fn discard_output(&mut self) -> u64 {
        let mut records = 0;
        // The acquire does not wait for more, so there is no task to wake.
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(event)) = self.agent.reader_mut().poll_next(&mut context) {
            records += u64::from(matches!(event, Event::Record(_)));
        }
        records
    }

    /// Closes it in the engine, without waiting. A close that has begun keeps its own policy.
    fn close(self, policy: ClosePolicy) -> AgentWriter {
        // Both arms release the agent before its last handle is dropped: it is not counted as
        // abandoned.
        let writer = self.agent.writer().clone();
        match self.close_reason() {
            Some(_) => writer.release(),
            None => writer.close_unattended(policy),
        }
        writer
    }
}

/// An idle agent on its way to an acquire. If the acquire is dropped, the agent is closed: it cannot
/// go back, because its output may have been discarded.
pub(super) struct Checkout {
    agent: Option<IdleAgent>,
    pool: Arc<PoolShared>,
}

impl Checkout {
    pub(super) fn hand_out(mut self) -> Agent {
        let idle = self.agent.take().expect("taken once, by value");
        self.pool.count(|stats| stats.warm += 1);
        idle.agent
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take()
            && self.pool.is_here()
        {
            self.pool.count(|stats| stats.unused += 1);
            agent.close(self.pool.command.close);
            self.pool.refill();
        }
    }
}
