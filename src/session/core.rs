//! Floor 4. What the handles, the pump and the handler tasks of one session share.
//!
//! One lock, held for a few instructions. WaitList, slots and tasks are touched after it is given
//! back, so no code of a user ever runs under it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use crate::agent::{AgentReader, AgentWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::origin::foreign;
use crate::record::Event;
use crate::record::Record;
use crate::sync::SetOnce;
use crate::sync::Sole;

use super::dialect::{Dialect, Incoming, Observer, WireId};
use super::failure::RpcError;
use super::host::{Alarm, Host};
use super::pump::Reading;
use super::router::{Action, Pending, Router};
use super::serve::{Handlers, Owed, Served, Token, serve};
use super::settings::{Settings, Task};
use super::stats::SessionStats;
use super::unread::{Item, Readers};

/// Where the outcome of a request arrives.
pub(super) type Slot = Arc<SetOnce<Result<Record>>>;

#[derive(Debug)]
pub(super) struct Core {
    state: Mutex<State>,
    pub(super) writer: AgentWriter,
    pub(super) dialect: Box<dyn Dialect>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    handlers: Handlers,
    pub(super) settings: Settings,
    pub(super) alarm: Mutex<Alarm>,
    pub(super) host: Arc<Host>,
    /// The reading half, for the pump, and for a deadline that is due.
    pub(super) reading: Mutex<Reading>,
}

/// Wakes a session for its deadlines.
struct Deadlines(Weak<Core>);

impl Wake for Deadlines {
    fn wake(self: Arc<Self>) {
        if let Some(core) = self.0.upgrade() {
            core.deadline_due();
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) router: Router<Slot, Arc<Token>>,
    pub(super) inbox: VecDeque<Item>,
    /// Weight of the inbox.
    pub(super) unread: usize,
    /// Who waits for an event.
    pub(super) readers: Readers,
    /// No event will come any more.
    pub(super) ended: bool,
    /// Why no request is taken any more.
    pub(super) over: Option<Error>,
    /// A close is under way: the drain budget counts.
    pub(super) closing: bool,
    /// Too much is unread: the pump does not read, and no request is taken.
    pub(super) stalled: bool,
    /// Every handle is gone.
    pub(super) released: bool,
    pub(super) pump: Sole,
    /// When the alarm goes off.
    pub(super) armed: Option<Instant>,
    /// The alarm went off, and what is due is being looked after.
    pub(super) expiring: bool,
    /// The last record that was dropped, and the requests that may have waited for it: those below.
    pub(super) lost: Option<(String, u64)>,
    /// Records of ours that wait for room in the outbox.
    pub(super) posted: usize,
    pub(super) running: usize,
    pub(super) waiting: VecDeque<Served>,
    pub(super) stats: SessionStats,
}

impl State {
    /// A record was dropped: requests that are open now may have waited for it.
    pub(super) fn note_loss(&mut self, what: String) {
        self.lost = Some((what, self.router.next_id()));
    }
}

impl Core {
    pub(super) fn new(
        (reader, writer): (AgentReader, AgentWriter),
        dialect: Box<dyn Dialect>,
        observer: Option<Arc<dyn Observer>>,
        handlers: Handlers,
        settings: Settings,
    ) -> Result<Arc<Self>> {
        let state = State {
            router: Router::new(settings.router),
            inbox: VecDeque::new(),
            unread: 0,
            readers: Readers::default(),
            ended: false,
            over: None,
            closing: false,
            stalled: false,
            released: false,
            pump: Sole::default(),
            armed: None,
            expiring: false,
            lost: None,
            posted: 0,
            running: 0,
            waiting: VecDeque::new(),
            stats: SessionStats::default(),
        };
        let host = Host::get()?;
        let state = Mutex::new(state);
        Ok(Arc::new_cyclic(|core| {
            let waker = Waker::from(Arc::new(Deadlines(Weak::clone(core))));
            let alarm = Mutex::new(Alarm::new(Arc::clone(&host), waker));
            let reading = Mutex::new(Reading::new(reader));
            Self { state, writer, dialect, observer, handlers, settings, alarm, host, reading }
        }))
    }

    /// An alarm of its own for the observer's deadlines.
    #[cfg(feature = "claude")]
    pub(super) fn another_alarm(self: &Arc<Self>) -> Alarm {
        let waker = Waker::from(Arc::new(Deadlines(Arc::downgrade(self))));
        Alarm::new(Arc::clone(&self.host), waker)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock panics half-way; the data is good even if a task died.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spawn(&self, task: Task) {
        let Some(spawn) = &self.settings.spawn else { return self.host.spawn(task) };
        // The task is dropped by the unwinding, and its guards tell who must know.
        if catch_unwind(AssertUnwindSafe(|| spawn(task))).is_err() {
            crate::trace::error!(agent = self.writer.label(), "the spawn function panicked");
        }
    }

    pub(super) fn error(&self, kind: ErrorKind, what: impl Into<String>) -> Error {
        Error::new(kind, "request", what).on_agent(self.writer.label())
    }

    // Requests of ours.

    #[cfg(feature = "claude")]
    pub(super) fn reserve(&self) -> u64 {
        self.lock().router.reserve()
    }

    /// Opens a request, or says why not.
    pub(super) fn open(&self, method: &str, limit: Option<Duration>) -> Result<(u64, Slot)> {
        let deadline = limit.and_then(|limit| self.host.now().checked_add(limit));
        if !self.writer.is_here() {
            return Err(foreign("request").on_agent(self.writer.label()));
        }
        let slot: Slot = Arc::new(SetOnce::new());
        let mut state = self.lock();
        if let Some(over) = &state.over {
            return Err(over.clone());
        }
        if state.stalled {
            return Err(self.overloaded(&state));
        }
        let Some(id) = state.router.open(method, Arc::clone(&slot), deadline) else {
            let open = state.router.pending();
            return Err(self
                .error(ErrorKind::Overloaded, format!("`{method}`: {open} requests are open"))
                .remedy("await some of them, or raise Settings::pending_max"));
        };
        state.stats.asked += 1;
        let sooner = deadline.is_some_and(|at| state.armed.is_none_or(|armed| at < armed));
        drop(state);
        if sooner {
            self.arm();
        }
        Ok((id, slot))
    }

    pub(super) fn sent(&self, id: u64) {
        self.lock().router.sent(id);
    }

    /// Nobody waits for the answer any more.
    pub(super) fn withdraw(self: &Arc<Self>, id: u64) {
        if !self.writer.is_here() {
            return;
        }
        let pending = {
            let mut state = self.lock();
            let pending = state.router.withdraw(id);
            state.stats.withdrawn += u64::from(pending.is_some());
            pending
        };
        if let Some(pending) = pending {
            self.tell_withdrawn(id, &pending);
        }
    }

    pub(super) fn tell_withdrawn(self: &Arc<Self>, id: u64, pending: &Pending<Slot>) {
        if pending.sent
            && let Some(record) = self.dialect.withdraw(id, &pending.method)
        {
            self.post(record, None);
        }
    }

    // Records from the agent.

    pub(super) fn on_record(self: &Arc<Self>, record: Record) {
        let incoming = self.dialect.read(&record);
        if let (Incoming::Reply { id: Some(id), .. }, Some(observer)) = (&incoming, &self.observer)
            && observer.replied(*id)
        {
            return;
        }
        let action = {
            let mut state = self.lock();
            let action = state.router.route(incoming);
            match action {
                Action::Settle(..) => state.stats.settled += 1,
                Action::Stop { .. } => state.stats.cancelled += 1,
                _ => {}
            }
            action
        };
        match action {
            Action::Data => {
                let seen = self.observer.as_ref().map(|observer| observer.saw(&record));
                if seen.is_some_and(|seen| seen.no_result) {
                    self.on_data(Item::NoResult);
                }
                if seen.is_none_or(|seen| seen.keep) {
                    self.on_data(Item::Event(Event::Record(record)));
                }
            }
            Action::Settle(pending, outcome) => {
                let outcome = outcome.map_err(|failure| self.refused(&pending.method, &failure));
                pending.slot.set(outcome);
            }
            Action::Serve(job) => self.admit(Served { job, owed: Owed::new(self) }),
            Action::Stop { key, id, token } => {
                let waited = {
                    let mut state = self.lock();
                    let place = state.waiting.iter().position(|served| served.job.key == key);
                    place.and_then(|place| state.waiting.remove(place))
                };
                token.cancel();
                let answer = self.dialect.answer_withdrawn(&id);
                if let Some(record) = answer {
                    self.post(record, None);
                }
                drop(waited);
            }
            Action::Busy(id) => {
                let busy = RpcError::new("too many requests are open on this session");
                self.post(self.dialect.answer(&id, Err(&busy)), Some(Owed::new(self)));
            }
            Action::Answer(record, why) => {
                crate::trace::warn!(agent = self.writer.label(), why, "a record was refused");
                self.post(record, Some(Owed::new(self)));
            }
            Action::Nothing => {}
        }
    }

    fn refused(&self, method: &str, failure: &RpcError) -> Error {
        let error = self.error(ErrorKind::AgentError, format!("`{method}` was refused: {failure}"));
        match failure.as_json() {
            Some(json) => error.answered(json),
            None => error,
        }
    }

    // Requests of the agent.

    fn admit(self: &Arc<Self>, served: Served) {
        let job = &served.job;
        {
            let mut state = self.lock();
            if state.over.is_some() {
                // No answer can be sent any more: no handler runs for it.
                state.router.finish(job.key);
                return;
            }
        }
        let Some(handler) = self.handlers.find(&job.method) else {
            let failure = self.dialect.unknown(&job.method);
            if self.finish(job.key) {
                self.post(self.dialect.answer(&job.id, Err(&failure)), Some(served.owed));
            }
            return;
        };
        {
            let mut state = self.lock();
            if state.running >= self.settings.concurrency {
                state.waiting.push_back(served);
                return;
            }
            state.running += 1;
        }
        self.spawn(serve(Arc::clone(self), handler, served));
    }

    /// False where the request is not to be answered any more.
    pub(super) fn finish(&self, key: u64) -> bool {
        let mut state = self.lock();
        let wanted = state.router.finish(key);
        state.stats.answered += u64::from(wanted);
        wanted
    }

    /// A handler task is over: the next may run.
    pub(super) fn next_job(self: &Arc<Self>) {
        let served = {
            let mut state = self.lock();
            let served = state.waiting.pop_front();
            state.running -= usize::from(served.is_none());
            served
        };
        if let Some(served) = served {
            match self.handlers.find(&served.job.method) {
                Some(handler) => self.spawn(serve(Arc::clone(self), handler, served)),
                None => unreachable!("only requests that have a handler wait for it"),
            }
        }
    }

    /// A request of the agent that will not be handled.
    pub(super) fn give_up(self: &Arc<Self>, key: u64, id: &WireId) {
        if self.finish(key) {
            let failure = RpcError::new("the handler was dropped before it answered");
            self.post(self.dialect.answer(id, Err(&failure)), None);
        }
    }

    /// The runtime drops tasks that it never ran: it would do so with those that wait, each within
    /// the drop of the one before.
    pub(super) fn give_up_waiting(self: &Arc<Self>) {
        let waiting = {
            let mut state = self.lock();
            state.running -= 1;
            std::mem::take(&mut state.waiting)
        };
        for Served { job, owed } in waiting {
            self.give_up(job.key, &job.id);
            drop(owed);
        }
    }

    // The pump's view.

    /// Registers the pump for whatever changes. `None` once there is nobody left to pump for.
    pub(super) fn pump_may_read(&self, waker: &Waker) -> Option<bool> {
        let mut own = None;
        loop {
            {
                let mut state = self.lock();
                if state.pump.register(waker, &mut own) {
                    return (!state.released).then_some(!state.stalled);
                }
            }
            own = Some(waker.clone());
        }
    }

    pub(super) fn stats(&self) -> SessionStats {
        if !self.writer.is_here() {
            return SessionStats::default();
        }
        let state = self.lock();
        let strays = state.router.strays();
        SessionStats {
            pending: state.router.pending(),
            serving: state.router.serving(),
            running: state.running,
            unread: state.unread,
            late: strays.late,
            unknown: strays.unknown,
            duplicate: strays.duplicate,
            refused: strays.refused,
            ..state.stats
        }
    }
}
