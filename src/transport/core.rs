//! Floor 2. All agents of one thread on one ring: dispatches what happened, then settles the turn.
//!
//! It has no clock and does not wait by itself: a driver (an engine thread, or the caller's own)
//! passes `now`, calls [`Core::wait`], and feeds commands.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::board::Board;
use crate::close_policy::{CloseMode, ClosePolicy};
use crate::close_report::CloseReason;
use crate::command::AgentCommand;
use crate::metrics::IoCounters;
use crate::pipe_io::{Completion, EndId, PipeIo, Role, Tag};
use crate::process::{REAP_MAX, Spawned};

use super::arena::Arena;
use super::close_plan::CloseEvent;
use super::shared::Shared;
use super::state::Transport;
use super::tally::Tally;

/// What a handle wants of its agent.
#[derive(Debug)]
pub(crate) enum Request {
    /// Frames were queued.
    Write,
    /// The reader caught up, or is gone.
    Resume,
    /// End the input once everything accepted is written.
    EndInput,
    /// The turn that was open is over.
    TurnEnded,
    /// Close it.
    Close(CloseLimits, CloseReason),
}

/// How long the stages of a close may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CloseLimits {
    /// As the agent's command says, in this mode.
    Own(CloseMode),
    Given(ClosePolicy),
}

impl CloseLimits {
    fn policy(self, own: ClosePolicy) -> ClosePolicy {
        match self {
            Self::Own(mode) => ClosePolicy { mode, ..own },
            Self::Given(policy) => policy,
        }
    }
}

impl Request {
    /// Its bit among the requests of an agent that wait in the mailbox. One says as much as many;
    /// a close has its own policy, so each goes by itself.
    pub(crate) fn bit(&self) -> Option<u8> {
        match self {
            Self::Write => Some(1),
            Self::Resume => Some(2),
            Self::EndInput => Some(4),
            Self::TurnEnded => Some(8),
            Self::Close(..) => None,
        }
    }
}

/// Threads of agents looked at in one turn, at some 10 us each.
const LOOKS: usize = 64;

/// All agents of one thread.
pub(crate) struct Core {
    io: Box<dyn PipeIo>,
    agents: Slab<Transport>,
    /// When which agent wants a tick.
    timers: BTreeSet<(Instant, usize)>,
    armed: Slab<Option<Instant>>,
    arena: Arena,
    /// Agents to be settled at the end of this turn; may hold one twice.
    touched: Vec<usize>,
    tally: Tally,
    wake: Option<EndId>,
    woken: bool,
}

impl Core {
    pub(crate) fn new(io: Box<dyn PipeIo>) -> Self {
        Self {
            io,
            agents: Slab::new(),
            timers: BTreeSet::new(),
            armed: Slab::new(),
            arena: Arena::default(),
            touched: Vec::new(),
            tally: Tally::default(),
            wake: None,
            woken: false,
        }
    }

    /// Watches an eventfd by which other threads end a wait.
    pub(crate) fn listen(&mut self, wake: OwnedFd) {
        let end = self.io.adopt(wake, Tag { agent: u32::MAX, role: Role::Wake });
        self.io.watch(end);
        self.wake = Some(end);
    }

    /// Whether the eventfd fired since the last call. It is watched again.
    pub(crate) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Watches the eventfd again, after it was read.
    pub(crate) fn rewatch(&mut self) {
        if let Some(end) = self.wake {
            self.io.watch(end);
        }
    }

    /// Agents whose close is not reported yet.
    pub(crate) fn open(&self) -> usize {
        self.tally.open()
    }

    /// Where the counts of this thread can be read, by anybody and without a lock.
    pub(crate) fn board(&self) -> Arc<Board> {
        self.tally.board()
    }

    pub(crate) fn counters(&self) -> IoCounters {
        self.io.counters()
    }

    /// Takes a spawned child over.
    pub(crate) fn adopt(
        &mut self,
        spawned: Spawned,
        command: &AgentCommand,
        shared: &Arc<Shared>,
        now: Instant,
    ) {
        let entry = self.agents.vacant_entry();
        let slot = entry.key();
        shared.adopted(slot, &self.arena.batches);
        // A slab index fits: descriptors run out long before 2^32 agents.
        let tag = u32::try_from(slot).expect("fewer than 2^32 agents");
        let shared = Arc::clone(shared);
        entry.insert(Transport::connect(&mut *self.io, tag, spawned, command, shared, now));
        let armed = self.armed.insert(None);
        debug_assert_eq!(armed, slot, "both slabs are filled and emptied together");
        self.tally.adopted();
        self.touched.push(slot);
    }

    /// A request of a handle. One for an agent that is over is passed over.
    pub(crate) fn request(&mut self, shared: &Arc<Shared>, request: Request, now: Instant) {
        // Before it is acted on: what is asked for from now on may come too late for this one.
        shared.begin_request(request.bit());
        let slot = shared.slot();
        let Some(agent) = self.agents.get_mut(slot) else { return };
        if !Arc::ptr_eq(&agent.shared, shared) {
            return;
        }
        self.touched.push(slot);
        match request {
            Request::Write => agent.pump_writes(&mut *self.io, now),
            Request::Resume => agent.resume(&mut *self.io, now),
            Request::EndInput => agent.end_input_when_flushed(&mut *self.io, now),
            Request::TurnEnded => agent.plan_event(CloseEvent::TurnEnded, now),
            Request::Close(limits, reason) => {
                agent.begin_close(limits.policy(agent.policy), reason, now);
            }
        }
    }

    /// Closes every agent: with its own policy, or in the mode given.
    pub(crate) fn close_all(&mut self, mode: Option<CloseMode>, reason: CloseReason, now: Instant) {
        for (slot, agent) in &mut self.agents {
            let mut policy = agent.policy;
            policy.mode = mode.unwrap_or(policy.mode);
            agent.begin_close(policy, reason, now);
            self.touched.push(slot);
        }
    }

    /// Acts on everything that was collected: how much was it?
    pub(crate) fn dispatch(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some(completion) = self.io.next() {
            self.dispatch_one(completion, now);
            count += 1;
        }
        count
    }

    fn dispatch_one(&mut self, completion: Completion, now: Instant) {
        let tag = match &completion {
            Completion::Data { tag, .. }
            | Completion::ReadEnd { tag, .. }
            | Completion::Wrote { tag, .. }
            | Completion::Ready { tag, .. }
            | Completion::Closed { tag, .. } => *tag,
        };
        if tag.role == Role::Wake {
            self.woken |= matches!(completion, Completion::Ready { .. });
            return;
        }
        let slot = tag.agent as usize;
        let Some(agent) = self.agents.get_mut(slot) else {
            // A place is given up only after its last completion.
            tracing::error!(?completion, "a completion for nobody");
            if let Completion::Data { lease, .. } = completion {
                self.io.take_bytes(lease, &mut |_| {});
            }
            return;
        };
        self.touched.push(slot);
        let io = &mut *self.io;
        match completion {
            Completion::Data { lease, .. } => {
                agent.on_data(io, &mut self.arena, tag.role, lease, now);
            }
            Completion::ReadEnd { why, .. } => {
                agent.on_read_end(&mut self.arena, tag.role, why, now);
            }
            Completion::Wrote { buf, result, .. } => agent.on_wrote(io, buf, result, now),
            Completion::Ready { .. } if tag.role == Role::Cgroup => agent.on_cgroup_event(io),
            Completion::Ready { result, .. } => {
                if let Err(error) = result {
                    let agent = agent.shared.label.as_str();
                    tracing::warn!(agent, %error, "the exit watch failed; taken for the exit");
                }
                agent.on_exit(io, now);
            }
            Completion::Closed { .. } => agent.on_closed(tag.role, now),
        }
    }

    /// Ends the turn: ticks what is due, carries plans out, hands events over, frees what is over.
    pub(crate) fn settle(&mut self, now: Instant) {
        self.tick(now);
        if self.touched.is_empty() {
            // Nothing was done but calls that brought nothing.
            self.tally.publish(&self.io.counters(), now);
            return;
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for slot in &touched {
            if let Some(agent) = self.agents.get_mut(*slot) {
                agent.carry_out(&mut *self.io, &mut self.arena, now);
                self.tally.advance(&mut agent.tallied, &agent.intake.stats);
            }
        }
        // Who sees a record finds it counted.
        self.tally.publish(&self.io.counters(), now);
        self.look(&touched, now);
        self.reap(&touched, now);
        for slot in touched.drain(..) {
            self.settle_one(slot, now);
        }
        // Keeps its capacity for the next turn.
        touched.append(&mut self.touched);
        self.touched = touched;
        self.tally.publish(&self.io.counters(), now);
    }

    fn settle_one(&mut self, slot: usize, now: Instant) {
        let Some(agent) = self.agents.get_mut(slot) else { return };
        agent.carry_out(&mut *self.io, &mut self.arena, now);
        self.tally.advance(&mut agent.tallied, &agent.intake.stats);
        if let Some(report) = agent.take_report() {
            // Whoever waits for the report finds it counted.
            self.tally.closed(&report);
            self.tally.publish(&self.io.counters(), now);
            agent.tell(report);
        }
        if agent.is_over() {
            self.arm(slot, None);
            self.agents.remove(slot);
            self.armed.remove(slot);
            return;
        }
        agent.deliver(&mut *self.io);
        self.tally.advance(&mut agent.tallied, &agent.intake.stats);
        let deadline = agent.deadline();
        self.arm(slot, deadline);
    }

    fn tick(&mut self, now: Instant) {
        while let Some((deadline, slot)) = self.timers.first().copied() {
            if deadline > now {
                return;
            }
            self.arm(slot, None);
            self.touched.push(slot);
            if let Some(agent) = self.agents.get_mut(slot) {
                agent.on_mute(now);
                agent.plan_event(CloseEvent::Tick, now);
            }
        }
    }

    fn arm(&mut self, slot: usize, deadline: Option<Instant>) {
        let Some(armed) = self.armed.get_mut(slot) else { return };
        if *armed == deadline {
            return;
        }
        if let Some(old) = std::mem::replace(armed, deadline) {
            self.timers.remove(&(old, slot));
        }
        if let Some(new) = deadline {
            self.timers.insert((new, slot));
        }
    }

    /// Who is closed and was at work a moment ago: is it at rest? A look takes its time, so of
    /// many only some are looked at in one turn; of the others nothing is known.
    fn look(&mut self, touched: &[usize], now: Instant) {
        let mut budget = LOOKS;
        for slot in touched {
            let Some(agent) = self.agents.get_mut(*slot) else { continue };
            if agent.takes_look() {
                agent.look(&mut *self.io, &mut budget, now);
            }
        }
    }

    /// Looks at the agents of this turn only: of a thousand that end, each has a turn.
    fn reap(&mut self, touched: &[usize], now: Instant) {
        let wants = |slot: &usize| self.agents.get(*slot).is_some_and(Transport::wants_reap);
        let slots: Vec<usize> = touched.iter().copied().filter(wants).collect();
        if !slots.is_empty() {
            super::close_reap::reap(&mut self.agents, &slots, now);
        }
    }

    /// How long a wait may last.
    pub(crate) fn until_deadline(&self, now: Instant) -> Option<Duration> {
        self.timers.first().map(|(deadline, _)| deadline.saturating_duration_since(now))
    }

    /// Submits, waits and collects. See [`PipeIo::wait`].
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.io.wait(timeout)
    }

    /// What a driver needs that waits elsewhere: see `turn`, `arm` and their like there.
    #[cfg(feature = "local")]
    pub(crate) fn io(&mut self) -> &mut dyn PipeIo {
        &mut *self.io
    }

    /// After the last agent: nothing may stay in the kernel.
    pub(crate) fn drain(&mut self, limit: Duration) -> bool {
        self.wake = None;
        self.io.drain(limit)
    }
}

/// The last resort, where the thread is unwinding: no child outlives its engine.
impl Drop for Core {
    fn drop(&mut self) {
        // All are killed before the first is waited for: they die side by side.
        let until = Instant::now() + REAP_MAX;
        let mut left: Vec<_> = self.agents.iter_mut().map(|(_, agent)| agent).collect();
        left.retain(|agent| !agent.is_over());
        for agent in &left {
            agent.child.kill();
        }
        for agent in left {
            agent.destroy(until);
        }
    }
}
