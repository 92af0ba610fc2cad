//! Floor 4. What the handles, the pump and the handler tasks of one session share.
//!
//! One lock, held for a few instructions. Wakers, slots and tasks are touched after it is given
//! back, so no code of a user ever runs under it.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::engine::AgentWriter;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::latch::Latch;
use crate::record::Record;

use super::dialect::{Dialect, Observer};
use super::failure::Failure;
use super::host::Host;
use super::router::{Action, Job, Pending, Router};
use super::serve::{Handlers, Token, serve};
use super::settings::{Settings, Task};
use super::stats::SessionStats;

/// Where the outcome of a request arrives.
pub(super) type Slot = Arc<Latch<Result<Record>>>;

/// Records of ours that wait for room in the outbox, at most, before the session stops reading.
const POSTED_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Core {
    state: Mutex<State>,
    pub(super) writer: AgentWriter,
    pub(super) dialect: Box<dyn Dialect>,
    observer: Option<Arc<dyn Observer>>,
    handlers: Handlers,
    pub(super) settings: Settings,
    pub(super) host: Arc<Host>,
}

#[derive(Debug)]
struct State {
    router: Router<Slot, Arc<Token>>,
    inbox: VecDeque<Event>,
    /// Weight of the inbox.
    unread: usize,
    readers: Vec<Waker>,
    /// No event will come any more.
    ended: bool,
    /// Why no request is taken any more.
    over: Option<Error>,
    /// A close is under way: the drain budget counts.
    closing: bool,
    /// Too much is unread: the pump does not read, and no request is taken.
    stalled: bool,
    /// Every handle is gone.
    released: bool,
    pump: Option<Waker>,
    /// The moment by which the pump will look at the deadlines.
    armed: Option<Instant>,
    /// Records of ours that wait for room in the outbox.
    posted: usize,
    running: usize,
    waiting: VecDeque<Job<Arc<Token>>>,
    stats: SessionStats,
}

impl Core {
    pub(super) fn new(
        writer: AgentWriter,
        dialect: Box<dyn Dialect>,
        observer: Option<Arc<dyn Observer>>,
        handlers: Handlers,
        settings: Settings,
    ) -> Result<Arc<Self>> {
        let state = State {
            router: Router::new(settings.router),
            inbox: VecDeque::new(),
            unread: 0,
            readers: Vec::new(),
            ended: false,
            over: None,
            closing: false,
            stalled: false,
            released: false,
            pump: None,
            armed: None,
            posted: 0,
            running: 0,
            waiting: VecDeque::new(),
            stats: SessionStats::default(),
        };
        let host = Host::get()?;
        let state = Mutex::new(state);
        Ok(Arc::new(Self { state, writer, dialect, observer, handlers, settings, host }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock panics half-way; the data is good even if a task died.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spawn(&self, task: Task) {
        let Some(spawn) = &self.settings.spawn else { return self.host.spawn(task) };
        // The task is dropped by the unwinding, and its guards tell who must know.
        if catch_unwind(AssertUnwindSafe(|| spawn(task))).is_err() {
            tracing::error!(agent = self.writer.label(), "the spawn function panicked");
        }
    }

    pub(super) fn error(&self, kind: ErrorKind, what: impl Into<String>) -> Error {
        Error::new(kind, "request", what).on_agent(self.writer.label())
    }

    // Requests of ours.

    pub(super) fn reserve(&self) -> u64 {
        self.lock().router.reserve()
    }

    /// Opens a request, or says why not.
    pub(super) fn open(&self, method: &str, limit: Option<Duration>) -> Result<(u64, Slot)> {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let slot: Slot = Arc::new(Latch::new());
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
        // The pump looks at the deadlines by `armed`; an earlier one is news to it.
        let news = deadline.filter(|at| state.armed.is_none_or(|armed| *at < armed));
        let pump = news.and_then(|_| state.pump.take());
        drop(state);
        wake(pump);
        Ok((id, slot))
    }

    pub(super) fn sent(&self, id: u64) {
        self.lock().router.sent(id);
    }

    /// Nobody waits for the answer any more.
    pub(super) fn withdraw(self: &Arc<Self>, id: u64) {
        let pending = self.lock().router.withdraw(id);
        if let Some(pending) = pending {
            self.tell_withdrawn(id, &pending);
        }
    }

    fn tell_withdrawn(self: &Arc<Self>, id: u64, pending: &Pending<Slot>) {
        if pending.sent
            && let Some(record) = self.dialect.withdraw(id, &pending.method)
        {
            self.post(record);
        }
    }

    /// Fails what is due. Gives the moment at which to look again.
    pub(super) fn expire(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let mut due = Vec::new();
        let next = {
            let mut state = self.lock();
            due.extend(std::iter::from_fn(|| state.router.expire(now)));
            state.stats.timeouts += due.len() as u64;
            state.armed = state.router.next_deadline();
            state.armed
        };
        for (id, pending) in due {
            let what = format!("`{}` was not answered in time", pending.method);
            let stage =
                if pending.sent { "" } else { "; the agent has not taken it from its input" };
            let error = self.error(ErrorKind::Timeout, what + stage);
            pending.slot.set(Err(error.remedy("give it a longer deadline")));
            self.tell_withdrawn(id, &pending);
        }
        next
    }

    /// Sends a record that nobody waits for, behind the caller's back if there is no room now.
    pub(super) fn post(self: &Arc<Self>, record: Vec<u8>) {
        let writer = self.writer.clone();
        let mut sending = Box::pin(async move { writer.send(record).await });
        if sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
        let stalled = {
            let mut state = self.lock();
            state.posted += 1;
            self.stall(&mut state)
        };
        self.fail(stalled, true);
        let posted = Posted(Arc::clone(self));
        self.spawn(Box::pin(async move {
            let _refused = sending.await;
            drop(posted);
        }));
    }

    // Records from the agent, on the pump.

    pub(super) fn on_record(self: &Arc<Self>, record: Record) {
        let incoming = self.dialect.read(&record);
        let action = self.lock().router.route(incoming);
        match action {
            Action::Data => {
                if let Some(observer) = &self.observer {
                    observer.saw(&record);
                }
                self.on_data(Event::Record(record));
            }
            Action::Settle(pending, outcome) => {
                let outcome = outcome.map_err(|failure| self.refused(&pending.method, &failure));
                pending.slot.set(outcome);
            }
            Action::Serve(job) => self.admit(job),
            Action::Stop { key, id, token } => {
                self.lock().waiting.retain(|job| job.key != key);
                token.cancel();
                if let Some(record) = self.dialect.answer_withdrawn(&id) {
                    self.post(record);
                }
            }
            Action::Busy(id) => {
                let busy = Failure::new("too many requests are open on this session");
                self.post(self.dialect.answer(&id, Err(&busy)));
            }
            Action::Answer(record, why) => {
                tracing::warn!(agent = self.writer.label(), why, "a record was refused");
                self.post(record);
            }
            Action::Nothing => {}
        }
    }

    fn refused(&self, method: &str, failure: &Failure) -> Error {
        let error = self.error(ErrorKind::AgentError, format!("`{method}` was refused: {failure}"));
        match failure.as_json() {
            Some(json) => error.answered(json),
            None => error,
        }
    }

    pub(super) fn on_data(self: &Arc<Self>, event: Event) {
        let (readers, stalled) = {
            let mut state = self.lock();
            if let Event::Record(record) = &event {
                state.stats.data_records += 1;
                state.stats.data_bytes += record.len() as u64;
            }
            if self.settings.discard_data && !matches!(event, Event::Exit(_)) {
                return;
            }
            state.unread += event.weight();
            state.inbox.push_back(event);
            (std::mem::take(&mut state.readers), self.stall(&mut state))
        };
        readers.into_iter().for_each(Waker::wake);
        self.fail(stalled, true);
    }

    // Requests of the agent.

    fn admit(self: &Arc<Self>, job: Job<Arc<Token>>) {
        let Some(handler) = self.handlers.find(&job.method) else {
            let failure = self.dialect.unknown(&job.method);
            if self.finish(job.key) {
                self.post(self.dialect.answer(&job.id, Err(&failure)));
            }
            return;
        };
        {
            let mut state = self.lock();
            if state.running >= self.settings.concurrency {
                state.waiting.push_back(job);
                return;
            }
            state.running += 1;
        }
        self.spawn(serve(Arc::clone(self), handler, job));
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
        let job = {
            let mut state = self.lock();
            let job = state.waiting.pop_front();
            state.running -= usize::from(job.is_none());
            job
        };
        if let Some(job) = job {
            match self.handlers.find(&job.method) {
                Some(handler) => self.spawn(serve(Arc::clone(self), handler, job)),
                None => unreachable!("only requests that have a handler wait for it"),
            }
        }
    }

    // Too much unread.

    /// Stops reading if too much is unread; then gives the requests to be failed.
    fn stall(&self, state: &mut State) -> Vec<(u64, Pending<Slot>)> {
        if state.stalled || (state.unread <= self.unread_max(state) && state.posted < POSTED_MAX) {
            return Vec::new();
        }
        state.stalled = true;
        state.stats.stalls += 1;
        state.router.take_pending()
    }

    /// Reads on if the readers caught up: the waker of the pump, then.
    fn unstall(&self, state: &mut State) -> Option<Waker> {
        let caught_up =
            state.unread <= self.unread_max(state) / 2 && state.posted <= POSTED_MAX / 2;
        if !state.stalled || !caught_up {
            return None;
        }
        state.stalled = false;
        state.pump.take()
    }

    fn unread_max(&self, state: &State) -> usize {
        let budget = self.settings.unread_max;
        if state.closing { budget.max(self.writer.drain_max()) } else { budget }
    }

    fn overloaded(&self, state: &State) -> Error {
        if state.posted >= POSTED_MAX / 2 {
            let what = format!("the agent leaves {} answers unread", state.posted);
            return self.error(ErrorKind::Overloaded, what);
        }
        let what = format!(
            "nobody reads {} bytes of data, above the budget of {}, so no answer can come through",
            state.unread, self.settings.unread_max
        );
        self.error(ErrorKind::Overloaded, what)
            .remedy("read the session on, raise Settings::unread_max or set Settings::discard_data")
    }

    /// Fails requests that a stall took out of the table.
    fn fail(self: &Arc<Self>, stalled: Vec<(u64, Pending<Slot>)>, tell: bool) {
        if stalled.is_empty() {
            return;
        }
        let error = self.overloaded(&self.lock());
        for (id, pending) in stalled {
            pending.slot.set(Err(error.clone()));
            if tell {
                self.tell_withdrawn(id, &pending);
            }
        }
    }

    // The end.

    /// The agent is on its way out: what it still says is kept up to the drain budget.
    pub(super) fn drain(&self) {
        let pump = {
            let mut state = self.lock();
            state.closing = true;
            self.unstall(&mut state)
        };
        wake(pump);
    }

    /// No request is taken from now on, and none will be answered. The first reason stays.
    pub(super) fn end(&self, why: Error) {
        let (over, pending, serving, pump) = {
            let mut state = self.lock();
            let over = state.over.get_or_insert(why).clone();
            state.closing = true;
            state.waiting.clear();
            let pending = state.router.take_pending();
            let serving = state.router.take_serving();
            let reads_on = self.unstall(&mut state);
            (over, pending, serving, reads_on.or_else(|| state.pump.take()))
        };
        wake(pump);
        serving.iter().for_each(|token| token.cancel());
        for (_, pending) in pending {
            pending.slot.set(Err(over.clone()));
        }
    }

    /// Nothing will come from the agent any more. This reason replaces a poorer one.
    pub(super) fn finished(&self, why: Error, last: Option<Event>) {
        let readers = {
            let mut state = self.lock();
            state.over = Some(why.clone());
            state.ended = true;
            state.inbox.extend(last);
            std::mem::take(&mut state.readers)
        };
        self.end(why);
        readers.into_iter().for_each(Waker::wake);
    }

    /// The last handle is gone.
    pub(super) fn release(&self) {
        let inbox = {
            let mut state = self.lock();
            state.released = true;
            std::mem::take(&mut state.inbox)
        };
        drop(inbox);
        self.end(self.error(ErrorKind::Closed, "every handle of the session was dropped"));
        self.writer.abandon();
    }

    pub(super) fn why_over(&self) -> Option<Error> {
        self.lock().over.clone()
    }

    pub(super) fn last_words(&self) -> Option<(String, Record)> {
        self.observer.as_ref().and_then(|observer| observer.last_words())
    }

    // The pump's view.

    /// Registers the pump for whatever changes. `None` once there is nobody left to pump for.
    pub(super) fn pump_may_read(&self, waker: &Waker) -> Option<bool> {
        let mut state = self.lock();
        match &mut state.pump {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        (!state.released).then_some(!state.stalled)
    }

    // The readers' view.

    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.lock();
        if let Some(event) = state.inbox.pop_front() {
            state.unread = state.unread.saturating_sub(event.weight());
            let pump = self.unstall(&mut state);
            drop(state);
            wake(pump);
            return Poll::Ready(Some(event));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        if !state.readers.iter().any(|known| known.will_wake(context.waker())) {
            state.readers.push(context.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn stats(&self) -> SessionStats {
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

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A record on its way past a full outbox.
struct Posted(Arc<Core>);

impl Drop for Posted {
    fn drop(&mut self) {
        let pump = {
            let mut state = self.0.lock();
            state.posted -= 1;
            self.0.unstall(&mut state)
        };
        wake(pump);
    }
}
