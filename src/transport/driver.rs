//! All agents of one ring: dispatches completions, then ends the turn.
//!
//! It has no clock and does not wait by itself: an engine thread, or the task of a local engine,
//! passes `now`, calls [`Driver::wait`], and passes requests on.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use slab::Slab;

use crate::close::{CloseEvent, CloseMode, CloseReason, CloseReport};
use crate::command::AgentCommand;
use crate::contain::contain;
use crate::counters::{AgentStats, IoCounters};
use crate::deadline;
use crate::io::{Completion, EndId, PipeIo, Role, Tag};
use crate::process::{AgentProcess, Parts, REAP_MAX};
use crate::stats::{EngineStats, PublishedStats};

use super::Transport;
use super::adoption::{Adoption, LiveAgent};
use super::buffers::ReadBuffers;
use super::bulk::Pace;
use super::channel::Channel;
use super::close::CloseTurn;
use super::drain_budget::DrainBudget;
use super::reap::{TagSearches, destroy, reap};
use super::request::{PendingCatchUp, Request};

/// How many threads of closing agents are checked in one turn, at about 10 us each.
const CHECKS_PER_TURN: usize = 64;

/// The shortest wait towards a deadline that is further off. A stop of the host shorter than this may go
/// unmeasured.
const WAIT_MIN: Duration = Duration::from_millis(20);

/// How late a wait may end without being taken for a stop of the host.
const LATE_MAX: Duration = Duration::from_millis(5);

/// How long a local engine polls for the next read of an agent that streams large records.
#[cfg(feature = "local")]
const STREAM_POLL: Duration = Duration::from_micros(50);

/// Cancelled pipe operations end within microseconds; a second says that something is broken.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// The result of a shutdown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShutdownCounts {
    /// Agents that were open when it began.
    pub(crate) agents: usize,
    /// Those of them that were not closed when the limit passed.
    pub(crate) aborted: usize,
}

/// What a driver has acted on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dispatched {
    /// Completions.
    pub(crate) all: usize,
    /// Those of them after which it is worth to poll for the next instead of sleeping.
    pub(crate) brisk: usize,
}

/// A shutdown under way.
struct Shutdown {
    counts: ShutdownCounts,
    /// When the agents that are left are aborted; `None` once they were.
    abort_at: Option<Instant>,
}

/// All agents of one thread.
pub(crate) struct Driver {
    pub(super) io: Box<dyn PipeIo>,
    pub(super) agents: Slab<Transport>,
    /// The deadline of each slot that has one, the nearest first.
    timers: BTreeSet<(Instant, usize)>,
    armed: Slab<Option<Instant>>,
    pub(super) buffers: ReadBuffers,
    /// Agents of this turn; may hold one twice.
    pub(super) touched: Vec<usize>,
    /// Agents whose plans want to know what the agent is doing.
    pub(super) checks: Vec<usize>,
    /// Agents to be reaped.
    pub(super) reaps: Vec<usize>,
    searches: TagSearches,
    totals: Totals,
    /// The eventfd by which other threads end a wait.
    wake: Option<EndId>,
    woken: bool,
    /// When the last wait was to end at the latest.
    wait_until: Option<Instant>,
    /// The processor time of this thread when the turn began, if a deadline was set by then.
    turn_began: Option<Duration>,
    /// Returns the processor time of this thread.
    processor_time: fn() -> Duration,
    /// When large records last came from a bulk read.
    streamed_at: Option<Instant>,
    shutdown: Option<Shutdown>,
    pub(super) catching_up: Vec<PendingCatchUp>,
}

impl Driver {
    pub(crate) fn new(io: Box<dyn PipeIo>, drain: Arc<DrainBudget>) -> Self {
        Self {
            io,
            agents: Slab::new(),
            timers: BTreeSet::new(),
            armed: Slab::new(),
            buffers: ReadBuffers::new(drain),
            touched: Vec::new(),
            checks: Vec::new(),
            reaps: Vec::new(),
            searches: TagSearches::default(),
            totals: Totals::default(),
            wake: None,
            woken: false,
            wait_until: None,
            turn_began: None,
            processor_time,
            streamed_at: None,
            shutdown: None,
            catching_up: Vec::new(),
        }
    }

    /// Watches an eventfd by which other threads end a wait.
    pub(crate) fn listen(&mut self, wake: OwnedFd) {
        let end = self.io.adopt(wake, Tag { agent: u32::MAX, role: Role::Wake });
        self.io.watch(end);
        self.wake = Some(end);
    }

    /// Returns whether the eventfd fired since the last call. The caller
    /// calls [`rewatch`](Self::rewatch) next.
    pub(crate) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    /// Watches the eventfd again, after it was read.
    pub(crate) fn rewatch(&mut self) {
        if let Some(end) = self.wake {
            self.io.watch(end);
        }
    }

    /// Returns the number of agents whose close is not reported yet.
    pub(crate) fn open(&self) -> usize {
        self.totals.agents
    }

    /// Returns where the counters of this driver are published.
    pub(crate) fn published_stats(&self) -> Arc<PublishedStats> {
        Arc::clone(&self.totals.published)
    }

    pub(crate) fn counters(&self) -> IoCounters {
        self.io.counters()
    }

    /// Takes a spawned child over.
    pub(crate) fn adopt(&mut self, mut adoption: Adoption, now: Instant) {
        let Some((child, live)) = adoption.take() else { return };
        let (spawned, command) = *child;
        self.host(spawned.into_parts(), &command, &adoption.channel, live, now);
    }

    /// Takes the parts of a child over. Its handles have the channel.
    pub(super) fn host<C: AgentProcess + 'static>(
        &mut self,
        parts: Parts<C>,
        command: &AgentCommand,
        channel: &Arc<Channel>,
        live: Option<LiveAgent>,
        now: Instant,
    ) {
        let entry = self.agents.vacant_entry();
        let slot = entry.key();
        channel.note_adopted(slot, &self.buffers.queues);
        // A slab index fits: descriptors run out long before 2^32 agents.
        let tag = u32::try_from(slot).expect("fewer than 2^32 agents");
        let channel = Arc::clone(channel);
        let mut agent = Transport::connect(&mut *self.io, tag, parts, command, channel, now);
        agent.live = live;
        entry.insert(agent);
        // `deliver` removes from both slabs in the same order, so both hand out the same key.
        let armed = self.armed.insert(None);
        debug_assert_eq!(armed, slot, "both slabs are filled and emptied together");
        self.totals.agents += 1;
        self.totals.stats.spawned += 1;
        self.touched.push(slot);
    }

    /// Closes every agent by its own policy and aborts those that are left after `limit`; zero aborts
    /// at once. Only the first call closes; a later one may shorten the limit.
    pub(crate) fn shutdown(&mut self, limit: Duration, now: Instant) {
        let abort_at = deadline::after(now, limit);
        if let Some(shutdown) = &mut self.shutdown {
            // `None` stays `None`: the agents were aborted, and an abort is not repeated.
            shutdown.abort_at = shutdown.abort_at.map(|before| before.min(abort_at));
            return;
        }
        let counts = ShutdownCounts { agents: self.open(), aborted: 0 };
        self.shutdown = Some(Shutdown { counts, abort_at: Some(abort_at) });
        // With a limit of zero `end_shutdown` aborts all of them at the end of this turn.
        if !limit.is_zero() {
            self.close_all(None, CloseReason::Shutdown, now);
        }
    }

    /// Returns whether a shutdown has begun and no agent is left.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.shutdown.is_some() && self.open() == 0
    }

    /// Returns what the shutdown found and did so far; zeroes if there is none.
    pub(crate) fn shutdown_counts(&self) -> ShutdownCounts {
        self.shutdown.as_ref().map(|shutdown| shutdown.counts).unwrap_or_default()
    }

    /// Aborts what a shutdown has left when its limit is over.
    fn end_shutdown(&mut self, now: Instant) {
        // Counted before the abort: these are the agents that the limit did not suffice for.
        let left = self.open();
        if let Some(Shutdown { counts, abort_at }) = &mut self.shutdown
            && abort_at.is_some_and(|at| now >= at)
        {
            *abort_at = None;
            counts.aborted = left;
            self.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, now);
        }
    }

    /// Does what a handle requests. A request for an agent that is gone is ignored.
    pub(crate) fn request(&mut self, channel: &Arc<Channel>, request: Request, now: Instant) {
        // Before the request is acted on: a later one may come too late for this turn.
        channel.begin_request(request.bit());
        let slot = channel.slot();
        let Some(agent) = self.agents.get_mut(slot) else { return };
        // The slot may have been given to another agent.
        if !Arc::ptr_eq(&agent.channel, channel) {
            return;
        }
        self.touched.push(slot);
        match request {
            Request::Write => agent.pump_writes(&mut *self.io, now),
            Request::Resume => agent.resume(&mut *self.io, &mut self.buffers),
            Request::HoldStderr => agent.hold_or_read_stderr(&mut *self.io),
            Request::EndInput => {
                agent.stdin.close_stdin_after_flush();
                agent.pump_writes(&mut *self.io, now);
            }
            Request::TurnEnded => agent.turn_ended(&mut *self.io, now),
            Request::CatchUp(question) => {
                let (channel, bytes_in) = (Arc::clone(channel), agent.intake.stats.bytes_in);
                let pending = PendingCatchUp::new(slot, channel, bytes_in, question);
                self.catching_up.push(pending);
            }
            Request::Close(limits, reason) => {
                agent.begin_close(limits.policy(agent.policy), reason, now);
            }
        }
    }

    /// Closes every agent: with its own policy, or in the mode given.
    pub(super) fn close_all(&mut self, mode: Option<CloseMode>, reason: CloseReason, now: Instant) {
        for (slot, agent) in &mut self.agents {
            let mut policy = agent.policy;
            policy.mode = mode.unwrap_or(policy.mode);
            agent.begin_close(policy, reason, now);
            self.touched.push(slot);
        }
    }

    /// Acts on everything that was collected. Comes before any deadline is
    /// acted upon, so that what was in a pipe before a deadline counts as before it.
    pub(crate) fn dispatch(&mut self, now: Instant) -> Dispatched {
        // First, because it moves the marks of the close plans, too. A mark that a completion of
        // this turn sets to `now` would be moved into the future.
        self.excuse_stall(now);
        self.turn_began = (!self.timers.is_empty()).then(self.processor_time);
        let mut came = Dispatched::default();
        while let Some(completion) = self.io.next() {
            came.all += 1;
            came.brisk += usize::from(self.dispatch_one(completion, now));
        }
        came
    }

    /// Returns whether large records came in the last moments, so that a sleep would take longer than
    /// the next of them.
    #[cfg(feature = "local")]
    pub(crate) fn is_streaming(&self, now: Instant) -> bool {
        self.streamed_at.is_some_and(|at| now.saturating_duration_since(at) < STREAM_POLL)
    }

    /// Returns whether it is worth to poll for the next completion.
    fn dispatch_one(&mut self, completion: Completion, now: Instant) -> bool {
        let tag = match &completion {
            Completion::Data { tag, .. }
            | Completion::Filled { tag, .. }
            | Completion::ReadEnd { tag, .. }
            | Completion::Wrote { tag, .. }
            | Completion::Ready { tag, .. }
            | Completion::Closed { tag, .. } => *tag,
        };
        if tag.role == Role::Wake {
            // The eventfd belongs to no agent. Its close, at the drain, needs no action.
            self.woken |= matches!(completion, Completion::Ready { .. });
            return true;
        }
        let slot = tag.agent as usize;
        let Some(agent) = self.agents.get_mut(slot) else {
            // A slot is freed only after its last completion.
            crate::trace::error!(?completion, "a completion without an owner");
            if let Completion::Data { lease, .. } = completion {
                self.io.give_back(lease);
            }
            return true;
        };
        self.touched.push(slot);
        let io = &mut *self.io;
        match completion {
            Completion::Data { lease, .. } => {
                agent.on_data(io, &mut self.buffers, tag.role, lease, now);
            }
            Completion::Filled { buf, .. } => match agent.on_filled(&mut self.buffers, buf, now) {
                Pace::Still => {}
                Pace::Small => return false,
                Pace::Large => self.streamed_at = Some(now),
            },
            Completion::ReadEnd { why, .. } => {
                agent.on_read_end(&mut self.buffers, tag.role, why, now);
            }
            Completion::Wrote { buf, result, .. } => agent.on_wrote(io, buf, result, now),
            Completion::Ready { .. } if tag.role == Role::Cgroup => {
                CloseTurn { agent, io, now }.on_cgroup_event();
            }
            Completion::Ready { .. } if tag.role == Role::Container => {
                agent.plan_event(CloseEvent::ContainerRemoved, now);
            }
            Completion::Ready { result, .. } => {
                if let Err(error) = result {
                    let agent = agent.channel.label.as_str();
                    crate::trace::warn!(agent, %error, "the exit watch failed; treated as the exit");
                }
                agent.on_exit(io, now);
            }
            Completion::Closed { .. } => agent.on_closed(tag.role, now),
        }
        true
    }

    /// Queues what was requested, so that the next submission takes it along. Deadlines wait for
    /// [`end_turn`](Self::end_turn), which comes after what is in the pipes.
    pub(crate) fn prepare(&mut self, now: Instant) {
        for slot in &self.touched {
            if let Some(agent) = self.agents.get_mut(*slot) {
                let mut turn = CloseTurn { agent, io: &mut *self.io, now };
                let deferred = turn.carry_out(&mut self.buffers);
                if deferred.check {
                    self.checks.push(*slot);
                }
                if deferred.reap {
                    self.reaps.push(*slot);
                }
            }
        }
    }

    /// Ends the turn: acts on deadlines, carries plans out, delivers events and reports, and frees the
    /// slots of agents that are gone.
    pub(crate) fn end_turn(&mut self, now: Instant) {
        // This call and the next add agents to `touched`, so both come before it is sorted.
        self.end_shutdown(now);
        self.tick(now);
        // Checks and reaps that the plans wanted at the end of the turn before.
        self.touched.extend(self.checks.iter().chain(&self.reaps));
        self.touched.sort_unstable();
        self.touched.dedup();
        self.prepare(now);
        if self.touched.is_empty() {
            // Only calls that brought nothing were made.
            self.totals.publish(&self.io.counters());
            self.answer_catch_ups();
            return;
        }
        // After the first `prepare`, which collects what to check and reap, and before the second,
        // which carries out what the answers lead to: those actions go with the next submission,
        // too.
        self.check_activity(now);
        self.reap(now);
        self.prepare(now);
        let mut touched = std::mem::take(&mut self.touched);
        for slot in &touched {
            let Some(agent) = self.agents.get_mut(*slot) else { continue };
            self.totals.advance(&mut agent.tallied, &agent.intake.stats);
            if let Some(report) = agent.unsent_report() {
                self.totals.note_close(report);
                // Before the report is sent: its closers find the agent not counted any more.
                agent.live = None;
            }
        }
        // Before events and reports: a task that sees one of them finds it counted.
        self.totals.publish(&self.io.counters());
        let mut paused = false;
        for slot in touched.drain(..) {
            paused |= self.deliver(slot);
        }
        // Each pause is counted while the events are delivered, after the counters were published.
        if paused {
            self.totals.publish(&self.io.counters());
        }
        // Keeps its capacity for the next turn.
        touched.append(&mut self.touched);
        self.touched = touched;
        self.answer_catch_ups();
    }

    /// Delivers the events of an agent, and its report, and frees its slot if it is gone. Returns
    /// whether reading it is paused by that.
    fn deliver(&mut self, slot: usize) -> bool {
        let Some(agent) = self.agents.get_mut(slot) else { return false };
        // Before the slot is freed: `is_over` does not ask whether the report was sent.
        agent.send_report();
        if agent.is_over() {
            // Its chunk may have come back with the last completion.
            agent.end_bulk_reads(&mut self.buffers);
            // A timer that stayed would tick the next agent of this slot. Both slabs are emptied
            // together, so that they hand out the same key again.
            self.arm(slot, None);
            self.agents.remove(slot);
            self.armed.remove(slot);
            return false;
        }
        let paused = agent.hand_over_events(&mut *self.io);
        agent.read_on(&mut *self.io, &mut self.buffers);
        if paused {
            self.totals.advance(&mut agent.tallied, &agent.intake.stats);
        }
        let deadline = agent.deadline();
        self.arm(slot, deadline);
        paused
    }

    fn tick(&mut self, now: Instant) {
        while let Some((deadline, slot)) = self.timers.first().copied() {
            if deadline > now {
                return;
            }
            // Disarmed first, or this loop would find the same timer again. The agent is of this
            // turn now, so `deliver` arms what its plan wants next.
            self.arm(slot, None);
            self.touched.push(slot);
            if let Some(agent) = self.agents.get_mut(slot) {
                agent.on_tick(&mut *self.io, now);
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

    /// Checks what closing agents are doing. Each check takes about 10 us per thread, so one turn has a
    /// budget; the plans of the other agents try again in the next turn.
    fn check_activity(&mut self, now: Instant) {
        let mut budget = CHECKS_PER_TURN;
        let mut slots = std::mem::take(&mut self.checks);
        // An agent may be here twice, and a second check would only spend the budget.
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            if let Some(agent) = self.agents.get_mut(slot) {
                CloseTurn { agent, io: &mut *self.io, now }.check_activity(&mut budget);
            }
        }
    }

    /// Reaps the agents whose plans want it, together.
    fn reap(&mut self, now: Instant) {
        let mut slots = std::mem::take(&mut self.reaps);
        slots.sort_unstable();
        slots.dedup();
        if !slots.is_empty() {
            reap(&mut *self.io, &mut self.agents, &slots, &mut self.searches, now);
        }
    }

    /// Returns how long a wait may last.
    ///
    /// At most a quarter of the time to the next deadline: if the host is stopped meanwhile, the agent
    /// that the deadline belongs to has three quarters of its time left afterwards.
    pub(crate) fn until_deadline(&mut self, now: Instant) -> Option<Duration> {
        // No completion announces this work, so a wait without an end could follow.
        let has_work = !self.checks.is_empty() || !self.reaps.is_empty();
        if has_work || !self.catching_up.is_empty() {
            return Some(Duration::ZERO);
        }
        let timer = self.timers.first().map(|(deadline, _)| {
            let left = deadline.saturating_duration_since(now);
            left.min(WAIT_MIN.max(left / 4))
        });
        let abort_at = self.shutdown.as_ref().and_then(|shutdown| shutdown.abort_at);
        let abort = abort_at.map(|at| at.saturating_duration_since(now));
        let wait = [timer, abort].into_iter().flatten().min();
        // The work of this turn is no stop of the host: turns that take long would otherwise move a
        // deadline away again and again.
        let work =
            self.turn_began.take().map(|began| (self.processor_time)().saturating_sub(began));
        self.wait_until = wait.map(|wait| now + work.unwrap_or_default() + wait);
        wait
    }

    /// Moves all deadlines by the time in which this thread did not run: if the last wait, or the turn
    /// before it, took longer than it was to, the host was stopped, suspended or starved.
    fn excuse_stall(&mut self, now: Instant) {
        let Some(until) = self.wait_until.take() else { return };
        let gap = now.saturating_duration_since(until);
        // A wait may always end a little late. Without this tolerance every wait would move all
        // deadlines.
        if gap < LATE_MAX {
            return;
        }
        if let Some(Shutdown { abort_at: Some(abort_at), .. }) = &mut self.shutdown {
            *abort_at += gap;
        }
        let moved = std::mem::take(&mut self.timers);
        self.timers = moved.into_iter().map(|(deadline, slot)| (deadline + gap, slot)).collect();
        // `arm` finds a timer by the time that is kept here, so both move by the same time.
        for (_, deadline) in &mut self.armed {
            *deadline = deadline.map(|deadline| deadline + gap);
        }
        for (_, agent) in &mut self.agents {
            // The plan arms its deadlines again at the end of each turn of its agent. Without this
            // it would arm the old ones.
            agent.postpone(gap);
        }
    }

    /// Submits, waits and collects. See [`PipeIo::wait`].
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.io.wait(timeout)
    }

    /// Returns the ring, for a local engine, which waits elsewhere.
    #[cfg(feature = "local")]
    pub(crate) fn io(&mut self) -> &mut dyn PipeIo {
        &mut *self.io
    }

    /// Aborts every agent and waits until they are closed, for a driver whose thread ends without a
    /// shutdown.
    #[cfg(feature = "local")]
    pub(crate) fn abort_all(&mut self) {
        let mut now = Instant::now();
        self.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, now);
        loop {
            self.end_turn(now);
            if self.open() == 0 {
                return;
            }
            let timeout = self.until_deadline(now);
            if let Err(error) = self.wait(timeout) {
                // Dropping the driver kills and reports.
                crate::trace::error!(%error, "the wait for the kernel failed; the local engine ends");
                return;
            }
            now = Instant::now();
            self.dispatch(now);
        }
    }

    /// Waits, after the last agent, until nothing is left in the kernel.
    pub(crate) fn drain(&mut self) {
        // The drain closes the eventfd with all other descriptors, so it must not be watched again.
        self.wake = None;
        if !self.io.drain(DRAIN_MAX) {
            crate::trace::error!("the kernel still holds operations of a finished engine");
        }
    }

    /// Answers questions at the end of a turn whose events are delivered.
    fn answer_catch_ups(&mut self) {
        let Self { agents, io, catching_up, .. } = self;
        catching_up.retain_mut(|pending| {
            let agent = agents.get(pending.slot);
            // The slot may have been given to another agent since the question came.
            let agent = agent.filter(|agent| Arc::ptr_eq(&agent.channel, &pending.channel));
            !pending.try_answer(agent, &mut **io)
        });
    }
}

/// The last resort, if the thread is unwinding: no child outlives its driver.
impl Drop for Driver {
    fn drop(&mut self) {
        // All are killed before the first is waited for, so that they die side by side.
        let until = Instant::now() + REAP_MAX;
        let mut left: Vec<_> = self.agents.iter_mut().map(|(_, agent)| agent).collect();
        left.retain(|agent| !agent.is_over());
        for agent in &left {
            agent.child.kill(agent.ends.pidfd(&*self.io));
        }
        for agent in left {
            // An agent that cannot be reported does not keep the others from it.
            contain("the end of an agent", || destroy(agent, until));
        }
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The sums of all agents of a driver, including agents that are gone. Published once a turn.
#[derive(Debug, Default)]
struct Totals {
    stats: EngineStats,
    published: Arc<PublishedStats>,
    /// Taken over, and their close not reported.
    agents: usize,
}

impl Totals {
    /// Adds what an agent did since `tallied`.
    fn advance(&mut self, tallied: &mut AgentStats, stats: &AgentStats) {
        if tallied != stats {
            self.stats.add_difference(tallied, stats);
            *tallied = *stats;
        }
    }

    fn note_close(&mut self, report: &CloseReport) {
        self.agents -= 1;
        self.stats.note_close(report.stage(), report.total());
    }

    fn publish(&mut self, io: &IoCounters) {
        self.stats.agents = self.agents as u64;
        self.stats.io = *io;
        self.published.publish(&self.stats);
    }
}
