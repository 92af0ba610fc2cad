//! The driver of a local engine: what its handles share, and the one task that takes its turns.
//!
//! The task is woken by the backend, by its timer, and by handles, once for any number of
//! requests. A task that is woken goes behind those that are ready, so it runs after all tasks that
//! were woken together with the first one that requested something: one submission serves them all.
//!
//! A turn runs wakers of the user, and so do requests. A waker may call any method of an engine or
//! an agent: what it requests while the transport driver is borrowed is kept for the end of the turn.
//! No other cell is borrowed while a waker runs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::agent::Link;
use crate::backend::Found;
use crate::close::ShutdownReport;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::process::{SpawnPool, SpawnPoolGuard};
use crate::stats::{EngineStats, PublishedStats};
use crate::sync::{Permits, SetOnce};
use crate::transport::{Adoption, Channel, Driver, LiveAgents, Request};

use super::readiness::{Readiness, TimerFd};

/// The state that a local engine, the handles of its agents and its task share.
pub(super) struct LocalDriver {
    /// `None` once the task ends. Borrowed during a turn and during a request.
    transport: RefCell<Option<Driver>>,
    /// Commands that came while the transport driver was borrowed.
    deferred: RefCell<Vec<DeferredCommand>>,
    /// The statistics as of the last turn, for a waker that reads them during a turn.
    published: Arc<PublishedStats>,
    task: RefCell<Option<Waker>>,
    /// The task is going to run.
    awake: Cell<bool>,
    shutdown: RefCell<Option<LocalShutdown>>,
    phase: Cell<Phase>,
    /// How long nothing is collected after a turn that brought something.
    window: Duration,
    /// Polls while an agent streams large records.
    polls: bool,
    pub(super) spawn_pool: SpawnPool,
    _spawning: SpawnPoolGuard,
    pub(super) admission: Permits,
    pub(super) found: Found,
    pub(super) live: LiveAgents,
    pub(super) abandoned: Cell<u64>,
    /// No `LocalEngine` is left.
    pub(super) engine_gone: Cell<bool>,
    /// In a forked child the ring is not mapped, and the descriptors are the parent's.
    origin: Origin,
}

impl fmt::Debug for LocalDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalDriver").field("agents", &self.live.get()).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Driven,
    /// The task has ended and aborts what is left.
    Finishing,
    Finished,
}

enum DeferredCommand {
    Request(Arc<Channel>, Request),
    Adopt(Adoption),
    Shutdown(Duration),
}

/// A shutdown that was called for, and the calls that wait for it.
struct LocalShutdown {
    begun: Instant,
    /// The report, once the shutdown is over.
    report: ShutdownReport,
    waiting: Vec<Arc<SetOnce<ShutdownReport>>>,
}

/// The report of a shutdown that found no agent.
pub(super) const NO_AGENTS: ShutdownReport =
    ShutdownReport { agents: 0, aborted: 0, total: Duration::ZERO };

pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::EngineStopped, "spawn", "the engine was shut down")
}

/// For the engine and the handles.
impl LocalDriver {
    pub(super) fn new(
        transport: Driver,
        found: Found,
        window: Duration,
        (spawn_pool, spawning): (SpawnPool, SpawnPoolGuard),
        admission: Permits,
    ) -> Rc<Self> {
        let published = transport.published_stats();
        // On the only processor a polling task would keep the agents from running.
        let alone = std::thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        Rc::new(Self {
            transport: RefCell::new(Some(transport)),
            deferred: RefCell::default(),
            published,
            task: RefCell::new(None),
            awake: Cell::new(false),
            shutdown: RefCell::new(None),
            phase: Cell::new(Phase::Driven),
            window,
            polls: window.is_zero() && !alone,
            spawn_pool,
            _spawning: spawning,
            admission,
            found,
            live: LiveAgents::default(),
            abandoned: Cell::new(0),
            engine_gone: Cell::new(false),
            origin: Origin::here(),
        })
    }

    /// Requests something at once. What that queues is submitted by the task, after the tasks that
    /// are ready now: one call for all of them.
    fn request(&self, channel: &Arc<Channel>, request: Request) {
        match self.transport.try_borrow_mut() {
            Ok(mut transport) => match &mut *transport {
                Some(driver) => driver.request(channel, request, Instant::now()),
                // Every agent was closed with the driver.
                None => return,
            },
            // A waker that the driver runs makes this request. The turn, or the next one, carries
            // it out.
            Err(_) => self.defer(DeferredCommand::Request(Arc::clone(channel), request)),
        }
        self.wake();
    }

    /// Takes a child over. An engine that has ended or is ending kills and reaps it.
    pub(super) fn adopt(&self, mut adoption: Adoption) -> Result<()> {
        self.check()?;
        // The agent is counted also if it is deferred: it counts from the return of `spawn` on.
        adoption.count_among(&self.live);
        match self.transport.try_borrow_mut() {
            Ok(mut transport) => match &mut *transport {
                Some(driver) => driver.adopt(adoption, Instant::now()),
                // The adoption is dropped, which kills and reaps the child.
                None => return Err(stopped()),
            },
            Err(_) => self.defer(DeferredCommand::Adopt(adoption)),
        }
        self.wake();
        Ok(())
    }

    /// Returns why nothing can be spawned.
    pub(super) fn check(&self) -> Result<()> {
        self.origin.check("spawn")?;
        let stops = self.shutdown.borrow().is_some() || self.phase.get() != Phase::Driven;
        if stops { Err(stopped()) } else { Ok(()) }
    }

    /// Returns the published statistics with the present counters of the ring. During a turn the driver
    /// is borrowed, so the counters are those at the end of the turn before.
    pub(super) fn metrics(&self) -> EngineStats {
        if !self.origin.is_here() {
            return EngineStats::default();
        }
        let mut stats = self.published.read();
        if let Ok(transport) = self.transport.try_borrow() {
            stats.io = transport.as_ref().map(Driver::counters).unwrap_or_default();
        }
        stats
    }

    /// Shuts the engine down; the task carries it out. The value is set once it is over.
    pub(super) fn shutdown(&self, limit: Duration) -> Arc<SetOnce<ShutdownReport>> {
        let done = Arc::new(SetOnce::new());
        if !self.origin.is_here() {
            done.set(NO_AGENTS);
            return done;
        }
        if self.phase.get() == Phase::Finished {
            let report = self.shutdown.borrow().as_ref().map(|shutdown| shutdown.report);
            done.set(report.unwrap_or(NO_AGENTS));
            return done;
        }
        let begin =
            || LocalShutdown { begun: Instant::now(), report: NO_AGENTS, waiting: Vec::new() };
        let mut shutdown = self.shutdown.borrow_mut();
        shutdown.get_or_insert_with(begin).waiting.push(Arc::clone(&done));
        // The cell is released first: `wake` calls a waker and borrows only the cell that holds it.
        drop(shutdown);
        // The shutdown is left to the task, even if the driver is free: its turn also finds the end
        // and answers.
        self.defer(DeferredCommand::Shutdown(limit));
        self.wake();
        done
    }

    fn defer(&self, what: DeferredCommand) {
        self.deferred.borrow_mut().push(what);
    }

    /// Wakes the task, once for any number of calls before its next turn.
    pub(super) fn wake(&self) {
        // Before the first poll there is no waker, and none is needed: the runtime polls a new
        // task.
        if self.origin.is_here()
            && !self.awake.replace(true)
            && let Some(task) = &*self.task.borrow()
        {
            task.wake_by_ref();
        }
    }
}

/// The way from an agent's handles to its driver.
#[derive(Debug)]
pub(super) struct DirectLink(pub(super) Rc<LocalDriver>);

impl Link for DirectLink {
    fn request(&self, channel: &Arc<Channel>, request: Request) {
        self.0.request(channel, request);
    }

    fn note_abandoned(&self, _channel: &Channel) {
        self.0.abandoned.set(self.0.abandoned.get() + 1);
    }
}

/// The next step of the task after a turn.
enum AfterTurn {
    /// Run again as soon as the tasks that are ready have run.
    RunAgain,
    /// Wait for the eventfd, if it is armed, and at most until `until`.
    Wait { until: Option<Instant> },
    /// End: no agent is left, and none can come.
    End,
}

/// The task that drives a local engine.
pub(super) struct DriverTask {
    driver: Rc<LocalDriver>,
    /// The descriptors that the runtime watches for the task; taken only when the task is dropped.
    watched: Option<(Readiness, TimerFd)>,
    /// The end of the coalescing window, during which the eventfd is not armed.
    quiet_until: Option<Instant>,
}

impl DriverTask {
    pub(super) fn new(driver: Rc<LocalDriver>, eventfd: Readiness, timer: TimerFd) -> Self {
        Self { driver, watched: Some((eventfd, timer)), quiet_until: None }
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        let Self { driver, watched, quiet_until } = self;
        // In a forked child the ring is not mapped.
        let Some((eventfd, timer)) = watched.as_mut().filter(|_| driver.origin.is_here()) else {
            return Ok(Poll::Ready(()));
        };
        driver.note_task(context.waker());
        // Before the turn, so that no event during it is missed.
        eventfd.listen(context)?;
        let now = Instant::now();
        match driver.turn(quiet_until, now)? {
            AfterTurn::End => return Ok(Poll::Ready(())),
            AfterTurn::RunAgain => context.waker().wake_by_ref(),
            AfterTurn::Wait { until } => timer.wake_at(until, now, context)?,
        }
        Ok(Poll::Pending)
    }
}

impl Future for DriverTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.poll_turn(context).unwrap_or_else(|error| {
            // The ring cannot be used any more. The drop of the task aborts the agents that are left.
            crate::trace::error!(%error, "the driver of a local engine ends");
            Poll::Ready(())
        })
    }
}

/// Whatever ends the task, its own end or that of the runtime: agents are aborted, waiting calls are
/// answered.
impl Drop for DriverTask {
    fn drop(&mut self) {
        self.driver.finish();
        if !self.driver.origin.is_here() {
            // The poller of the runtime is the parent's, too: a descriptor that is deregistered here
            // would no longer be watched there.
            #[expect(clippy::mem_forget, reason = "in a forked child they are the parent's")]
            std::mem::forget(self.watched.take());
        }
    }
}

/// For the task.
impl LocalDriver {
    fn note_task(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        match &mut *task {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Submits what is queued, collects what is there and acts on it.
    fn turn(&self, quiet_until: &mut Option<Instant>, now: Instant) -> io::Result<AfterTurn> {
        // The flag is cleared before the turn: what is requested from here on may come too late for
        // it.
        self.awake.set(false);
        let mut slot = self.transport.borrow_mut();
        let Some(driver) = &mut *slot else { return Ok(AfterTurn::End) };
        // These two come before the submission, which takes along what they queue.
        self.do_deferred(driver, now);
        driver.prepare(now);
        driver.io().turn()?;
        let came = driver.dispatch(now).all;
        driver.end_turn(now);
        // `dispatch` and `end_turn` run wakers and close plans, which may have queued or deferred
        // more.
        let is_due = driver.io().wants_turn() || (self.polls && driver.is_streaming(now));
        if is_due || !self.deferred.borrow().is_empty() {
            return Ok(AfterTurn::RunAgain);
        }
        if driver.is_shut_down() || (self.engine_gone.get() && driver.open() == 0) {
            return Ok(AfterTurn::End);
        }
        let until = driver.until_deadline(now).map(|left| now + left);
        if !self.window.is_zero() {
            // An open window is not extended, so output is at most one window late.
            if came > 0 && quiet_until.is_none_or(|until| until <= now) {
                *quiet_until = Some(now + self.window);
            }
            if let Some(quiet) = quiet_until.filter(|quiet| *quiet > now) {
                // The eventfd stays disabled: what completes during the window waits for the timer.
                let until = until.map_or(quiet, |until| until.min(quiet));
                return Ok(AfterTurn::Wait { until: Some(until) });
            }
        }
        // A completion that came while the eventfd was disabled did not write it, so the task must
        // not wait for it.
        Ok(if driver.io().notify() { AfterTurn::Wait { until } } else { AfterTurn::RunAgain })
    }

    /// Does what was requested while the transport driver was borrowed.
    fn do_deferred(&self, driver: &mut Driver, now: Instant) {
        // The list is taken as a whole: the cell is not borrowed while wakers run, and what they
        // add is for the next turn.
        for deferred in self.deferred.take() {
            match deferred {
                DeferredCommand::Request(channel, request) => {
                    driver.request(&channel, request, now)
                }
                DeferredCommand::Adopt(adoption) => driver.adopt(adoption, now),
                DeferredCommand::Shutdown(limit) => driver.shutdown(limit, now),
            }
        }
    }

    /// Aborts the agents that are left, once the task has ended, and answers the calls that wait for
    /// a shutdown.
    fn finish(&self) {
        let Some(mut driver) = self.transport.take() else { return };
        self.phase.set(Phase::Finishing);
        if !self.origin.is_here() {
            #[expect(clippy::mem_forget, reason = "in a forked child the ring is not mapped")]
            std::mem::forget(driver);
            return;
        }
        // Children that were deferred are taken over, so that they are aborted and reported with
        // the rest.
        self.do_deferred(&mut driver, Instant::now());
        driver.abort_all();
        // Operations outlive the descriptor of the ring, so none may be left when it is dropped.
        driver.drain();
        let counts = driver.shutdown_counts();
        // The ring is dropped before the answers: a caller whose shutdown has returned finds no
        // ring.
        drop(driver);
        self.phase.set(Phase::Finished);
        let (report, waiting) = match &mut *self.shutdown.borrow_mut() {
            Some(shutdown) => {
                let total = shutdown.begun.elapsed();
                let (agents, aborted) = (counts.agents, counts.aborted);
                shutdown.report = ShutdownReport { agents, aborted, total };
                (shutdown.report, std::mem::take(&mut shutdown.waiting))
            }
            None => return,
        };
        // The answers come outside of the borrow, because the wakers may call `shutdown` again.
        for done in waiting {
            done.set(report);
        }
    }
}
