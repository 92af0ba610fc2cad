//! Floor 3. What the driver and all handles of a local engine share, on one thread.
//!
//! A turn runs wakers of the user, and so do requests. A waker may call any method of an engine or
//! an agent: while the core is borrowed, what it asks for is kept for the end of the turn. No other
//! cell is borrowed while a waker runs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::close::CloseMode;
use crate::close::{CloseReason, ShutdownReport};
use crate::counters::IoCounters;
use crate::counters::KernelFeatures;
use crate::deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::process::{SpawnPool, SpawnPoolGuard};
use crate::stats::Board;
use crate::sync::Permits;
use crate::sync::SetOnce;
use crate::transport::{Adoption, Channel, Driver, Request};

/// Cancelled pipe operations end within microseconds; a second says that something is broken.
const DRAIN_MAX: Duration = Duration::from_secs(1);

pub(super) struct Hub {
    /// None once the driver ends. Borrowed during a turn and during a request.
    core: RefCell<Option<Driver>>,
    /// What was asked for while the core was borrowed.
    late: RefCell<Vec<Late>>,
    /// The counts of the core, which a waker may ask for during a turn.
    board: Arc<Board>,
    driver: RefCell<Option<Waker>>,
    /// The driver is going to run.
    awake: Cell<bool>,
    ending: RefCell<Option<Ending>>,
    phase: Cell<Phase>,
    /// After a turn that brought something, nothing is listened to for so long.
    window: Duration,
    pub(super) spawn_pool: SpawnPool,
    _spawning: SpawnPoolGuard,
    pub(super) admission: Permits,
    pub(super) features: KernelFeatures,
    /// Agents whose last handle is still there.
    pub(super) agents: Cell<usize>,
    pub(super) abandoned: Cell<u64>,
    /// No `LocalEngine` is left.
    pub(super) engine_gone: Cell<bool>,
    /// In a forked child the ring is not mapped, and the descriptors are the parent's.
    pub(super) origin: Origin,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("agents", &self.agents).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Driven,
    /// The driver has ended and aborts what is left.
    Finishing,
    Finished,
}

enum Late {
    Request(Arc<Channel>, Request),
    Adopt(Adoption),
}

/// A shutdown under way.
struct Ending {
    begun: Instant,
    /// It was carried out: the agents are being closed.
    carried_out: bool,
    at_once: bool,
    /// When what is left is aborted; `None` once it was.
    abort_at: Option<Instant>,
    report: ShutdownReport,
    done: Vec<Arc<SetOnce<ShutdownReport>>>,
}

/// What the driver is to do after a turn.
pub(super) enum Next {
    /// Run again as soon as the tasks that are ready have run.
    Again,
    /// Wait for the eventfd, if it was asked for, and at most until `until`.
    Wait { until: Option<Instant> },
    /// Nobody is left.
    End,
}

pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::EngineStopped, "spawn", "the engine was shut down")
}

impl Hub {
    pub(super) fn new(
        core: Driver,
        features: KernelFeatures,
        window: Duration,
        (spawn_pool, spawning): (SpawnPool, SpawnPoolGuard),
        admission: Permits,
    ) -> Rc<Self> {
        let board = core.board();
        Rc::new(Self {
            core: RefCell::new(Some(core)),
            late: RefCell::default(),
            board,
            driver: RefCell::new(None),
            awake: Cell::new(false),
            ending: RefCell::new(None),
            phase: Cell::new(Phase::Driven),
            window,
            spawn_pool,
            _spawning: spawning,
            admission,
            features,
            agents: Cell::new(0),
            abandoned: Cell::new(0),
            engine_gone: Cell::new(false),
            origin: Origin::here(),
        })
    }

    // The handles' side.

    /// Asks the core at once. What that queues is submitted by the driver, after the tasks that
    /// are ready now: one call for all of them.
    pub(super) fn request(&self, channel: &Arc<Channel>, request: Request) {
        if !self.origin.is_here() {
            return;
        }
        match self.core.try_borrow_mut() {
            Ok(mut core) => match &mut *core {
                Some(core) => core.request(channel, request, Instant::now()),
                // Every agent was closed with it.
                None => return,
            },
            Err(_) => self.late.borrow_mut().push(Late::Request(Arc::clone(channel), request)),
        }
        self.nudge();
    }

    /// Takes a child over. Where the engine has ended or is ending it is killed and reaped.
    pub(super) fn adopt(&self, adoption: Adoption) -> Result<()> {
        self.check()?;
        match self.core.try_borrow_mut() {
            Ok(mut core) => match &mut *core {
                Some(core) => core.adopt(adoption, Instant::now()),
                None => return Err(stopped()),
            },
            Err(_) => self.late.borrow_mut().push(Late::Adopt(adoption)),
        }
        self.nudge();
        Ok(())
    }

    /// Why nothing can be spawned.
    pub(super) fn check(&self) -> Result<()> {
        self.origin.check("spawn")?;
        let stops = self.ending.borrow().is_some() || self.phase.get() != Phase::Driven;
        if stops { Err(stopped()) } else { Ok(()) }
    }

    /// During a turn, those at the end of the one before.
    pub(super) fn counters(&self) -> IoCounters {
        if !self.origin.is_here() {
            return IoCounters::default();
        }
        match self.core.try_borrow() {
            Ok(core) => core.as_ref().map(Driver::counters).unwrap_or_default(),
            Err(_) => self.board.read().io,
        }
    }

    /// The first shutdown closes; a later one may only hurry it. The driver carries it out.
    pub(super) fn shutdown(&self, limit: Duration) -> Arc<SetOnce<ShutdownReport>> {
        let done = Arc::new(SetOnce::new());
        if !self.origin.is_here() {
            done.set(NOTHING);
            return done;
        }
        let now = Instant::now();
        let at = deadline::after(now, limit);
        if self.phase.get() == Phase::Finished {
            let known = self.ending.borrow().as_ref().map(|ending| ending.report);
            done.set(known.unwrap_or(NOTHING));
            return done;
        }
        let mut ending = self.ending.borrow_mut();
        let ending = ending.get_or_insert_with(|| Ending {
            begun: now,
            carried_out: false,
            at_once: limit.is_zero(),
            abort_at: Some(at),
            report: NOTHING,
            done: Vec::new(),
        });
        ending.abort_at = ending.abort_at.map(|before| before.min(at));
        ending.done.push(Arc::clone(&done));
        self.nudge();
        done
    }

    /// Wakes the driver, once however many ask.
    pub(super) fn nudge(&self) {
        if self.origin.is_here()
            && !self.awake.replace(true)
            && let Some(driver) = &*self.driver.borrow()
        {
            driver.wake_by_ref();
        }
    }

    // The driver's side.

    /// Notes whom to wake.
    pub(super) fn driven_by(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        match &mut *driver {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Submits what is queued, collects what is there and acts on it.
    pub(super) fn turn(&self, quiet_until: &mut Option<Instant>, now: Instant) -> io::Result<Next> {
        self.awake.set(false);
        let mut slot = self.core.borrow_mut();
        let Some(core) = &mut *slot else { return Ok(Next::End) };
        self.catch_up(core, now);
        let abort_at = self.abort_if_due(core, now);
        core.prepare(now);
        core.io().turn()?;
        let came = core.dispatch(now);
        core.settle(now);
        if core.io().wants_turn() || !self.late.borrow().is_empty() {
            return Ok(Next::Again);
        }
        let ending = self.ending.borrow().is_some();
        if (ending || self.is_forgotten()) && core.open() == 0 {
            return Ok(Next::End);
        }
        let due = core.until_deadline(now).map(|left| now + left);
        let until = [due, abort_at].into_iter().flatten().min();
        if !self.window.is_zero() {
            if came > 0 && quiet_until.is_none_or(|until| until <= now) {
                *quiet_until = Some(now + self.window);
            }
            if let Some(quiet) = quiet_until.filter(|quiet| *quiet > now) {
                let until = until.map_or(quiet, |until| until.min(quiet));
                return Ok(Next::Wait { until: Some(until) });
            }
        }
        if core.io().arm() { Ok(Next::Wait { until }) } else { Ok(Next::Again) }
    }

    /// Does what was asked for while the core was borrowed, and begins a shutdown.
    fn catch_up(&self, core: &mut Driver, now: Instant) {
        for late in self.late.take() {
            match late {
                Late::Request(channel, request) => core.request(&channel, request, now),
                Late::Adopt(adoption) => core.adopt(adoption, now),
            }
        }
        let close = match &mut *self.ending.borrow_mut() {
            Some(ending) if !ending.carried_out => {
                ending.carried_out = true;
                ending.report.agents = core.open();
                !ending.at_once
            }
            _ => false,
        };
        if close {
            core.close_all(None, CloseReason::Shutdown, now);
        }
    }

    /// Neither an engine nor an agent is left; the driver alone is.
    fn is_forgotten(&self) -> bool {
        self.agents.get() == 0 && self.engine_gone.get()
    }

    fn abort_if_due(&self, core: &mut Driver, now: Instant) -> Option<Instant> {
        // Time in which this thread did not run is not charged to the agents.
        let abort_at = self.ending.borrow().as_ref()?.abort_at? + core.stalled();
        if abort_at > now {
            return Some(abort_at);
        }
        if let Some(ending) = &mut *self.ending.borrow_mut() {
            ending.abort_at = None;
            ending.report.aborted = core.open();
        }
        core.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, now);
        None
    }

    /// The driver ends, with its runtime or by itself: aborts what is left, waits for it, and
    /// leaves nothing in the kernel. Bounded by an abort's worst case.
    pub(super) fn finish(&self) {
        let Some(mut core) = self.core.take() else { return };
        self.phase.set(Phase::Finishing);
        if !self.origin.is_here() {
            #[expect(clippy::mem_forget, reason = "in a forked child the ring is not mapped")]
            std::mem::forget(core);
            return;
        }
        let mut now = Instant::now();
        self.catch_up(&mut core, now);
        if core.open() > 0 {
            core.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, now);
        }
        loop {
            core.settle(now);
            if core.open() == 0 {
                break;
            }
            let timeout = core.until_deadline(now);
            if let Err(error) = core.wait(timeout) {
                // Dropping the core kills and reports.
                crate::trace::error!(%error, "io_uring_enter failed; the local engine ends");
                break;
            }
            now = Instant::now();
            core.dispatch(now);
        }
        if !core.drain(DRAIN_MAX) {
            crate::trace::error!("the kernel still holds operations of a finished engine");
        }
        drop(core);
        self.phase.set(Phase::Finished);
        let (report, done) = match &mut *self.ending.borrow_mut() {
            Some(ending) => {
                ending.report.total = ending.begun.elapsed();
                (ending.report, std::mem::take(&mut ending.done))
            }
            None => return,
        };
        for done in done {
            done.set(report);
        }
    }
}

/// The report of a shutdown that found nothing.
pub(super) const NOTHING: ShutdownReport =
    ShutdownReport { agents: 0, aborted: 0, total: Duration::ZERO };
