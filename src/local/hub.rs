//! Floor 3. What the driver and all handles of a local engine share, on one thread.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::admission::Admission;
use crate::close_policy::CloseMode;
use crate::close_report::{CloseReason, ShutdownReport};
use crate::command::AgentCommand;
use crate::features::Features;
use crate::latch::Latch;
use crate::metrics::IoCounters;
use crate::process::{Spawned, Spawner};
use crate::transport::{Core, Request, Shared};

/// Cancelled pipe operations end within microseconds; a second says that something is broken.
const DRAIN_MAX: Duration = Duration::from_secs(1);

pub(super) struct Hub {
    /// None once the driver has ended.
    core: RefCell<Option<Core>>,
    /// What was asked for while the core was at work: a waker or a drop may run anybody's code.
    late: RefCell<Vec<(Arc<Shared>, Request)>>,
    driver: RefCell<Option<Waker>>,
    /// The driver is going to run.
    awake: Cell<bool>,
    ending: RefCell<Option<Ending>>,
    /// After a turn that brought something, nothing is listened to for so long.
    window: Duration,
    pub(super) spawner: Spawner,
    pub(super) admission: Admission,
    pub(super) features: Features,
    /// Agents whose last handle is still there.
    pub(super) agents: Cell<usize>,
    pub(super) abandoned: Cell<u64>,
    /// No `LocalEngine` is left.
    pub(super) engine_gone: Cell<bool>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("agents", &self.agents).finish_non_exhaustive()
    }
}

/// A shutdown under way.
struct Ending {
    begun: Instant,
    /// When what is left is aborted; `None` once it was.
    abort_at: Option<Instant>,
    report: ShutdownReport,
    done: Vec<Arc<Latch<ShutdownReport>>>,
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

impl Hub {
    pub(super) fn new(
        core: Core,
        features: Features,
        window: Duration,
        spawner: Spawner,
        admission: Admission,
    ) -> Rc<Self> {
        Rc::new(Self {
            core: RefCell::new(Some(core)),
            late: RefCell::default(),
            driver: RefCell::new(None),
            awake: Cell::new(false),
            ending: RefCell::new(None),
            window,
            spawner,
            admission,
            features,
            agents: Cell::new(0),
            abandoned: Cell::new(0),
            engine_gone: Cell::new(false),
        })
    }

    // The handles' side.

    /// Asks the core at once. What that queues is submitted by the driver, after the tasks that
    /// are ready now: one call for all of them.
    pub(super) fn request(&self, shared: &Arc<Shared>, request: Request) {
        match self.core.try_borrow_mut() {
            Ok(mut core) => match &mut *core {
                Some(core) => core.request(shared, request, Instant::now()),
                // Every agent was closed with it.
                None => return,
            },
            Err(_) => self.late.borrow_mut().push((Arc::clone(shared), request)),
        }
        self.nudge();
    }

    /// Takes a child over. False where the engine has ended or is ending: it is dropped, and that
    /// kills it.
    pub(super) fn adopt(
        &self,
        child: Spawned,
        command: &AgentCommand,
        shared: &Arc<Shared>,
    ) -> bool {
        if self.is_stopped() {
            return false;
        }
        let mut core = self.core.borrow_mut();
        let Some(core) = &mut *core else { return false };
        core.adopt(child, command, shared, Instant::now());
        self.nudge();
        true
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.ending.borrow().is_some() || self.core.try_borrow().is_ok_and(|core| core.is_none())
    }

    pub(super) fn counters(&self) -> IoCounters {
        self.core.borrow().as_ref().map(Core::counters).unwrap_or_default()
    }

    /// The first shutdown closes; a later one may only hurry it.
    pub(super) fn shutdown(&self, limit: Duration) -> Arc<Latch<ShutdownReport>> {
        let done = Arc::new(Latch::new());
        let now = Instant::now();
        let mut core = self.core.borrow_mut();
        let mut ending = self.ending.borrow_mut();
        let report = ShutdownReport { agents: 0, aborted: 0, total: Duration::ZERO };
        let Some(core) = &mut *core else {
            let report = ending.as_ref().map_or(report, |ending| ending.report);
            done.set(report);
            return done;
        };
        let agents = core.open();
        let ending = ending.get_or_insert_with(|| {
            if !limit.is_zero() {
                core.close_all(None, CloseReason::Shutdown, now);
            }
            let report = ShutdownReport { agents, ..report };
            Ending { begun: now, abort_at: Some(now + limit), report, done: Vec::new() }
        });
        ending.abort_at = ending.abort_at.map(|before| before.min(now + limit));
        ending.done.push(Arc::clone(&done));
        self.nudge();
        done
    }

    /// Wakes the driver, once however many ask.
    pub(super) fn nudge(&self) {
        if !self.awake.replace(true)
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
        for (shared, request) in self.late.take() {
            core.request(&shared, request, now);
        }
        let abort_at = self.abort_if_due(core, now);
        core.prepare(now);
        core.io().turn()?;
        let came = core.dispatch(now);
        core.settle(now);
        if core.io().wants_turn() || !self.late.borrow().is_empty() {
            return Ok(Next::Again);
        }
        let ending = abort_at.is_some() || self.ending.borrow().is_some();
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

    /// Neither an engine nor an agent is left; the driver alone is.
    fn is_forgotten(&self) -> bool {
        self.agents.get() == 0 && self.engine_gone.get()
    }

    fn abort_if_due(&self, core: &mut Core, now: Instant) -> Option<Instant> {
        let mut ending = self.ending.borrow_mut();
        let ending = ending.as_mut()?;
        if ending.abort_at? <= now {
            ending.abort_at = None;
            ending.report.aborted = core.open();
            core.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, now);
        }
        ending.abort_at
    }

    /// The driver ends, with its runtime or by itself: aborts what is left, waits for it, and
    /// leaves nothing in the kernel. Bounded by an abort's worst case.
    pub(super) fn finish(&self) {
        let Some(mut core) = self.core.take() else { return };
        let mut now = Instant::now();
        for (shared, request) in self.late.take() {
            core.request(&shared, request, now);
        }
        if core.open() > 0 {
            core.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, now);
        }
        loop {
            core.settle(now);
            if core.open() == 0 {
                break;
            }
            if let Err(error) = core.wait(core.until_deadline(now)) {
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
        if let Some(ending) = &mut *self.ending.borrow_mut() {
            ending.report.total = ending.begun.elapsed();
            for done in ending.done.drain(..) {
                done.set(ending.report);
            }
        }
    }
}
