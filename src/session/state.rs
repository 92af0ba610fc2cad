//! The state of a session, shared by its handles, its reader and its handler tasks: one lock and
//! the tables behind it.
//!
//! The lock is held for a few instructions. Wakers are woken, slots set and tasks dropped after it
//! is released, so no code of a user runs under it. reader.rs has the methods for records from the
//! agent.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::agent::{AgentReader, AgentWriter};
use crate::error::{Error, ErrorKind, Result};
use crate::origin::foreign;
use crate::record::{Event, Record};
use crate::sync::{SetOnce, Sole, WaitKey, wake};

use super::config::{SessionStats, Settings, Task};
use super::executor::{Executor, SessionAlarm};
use super::handlers::{CancelToken, Handlers};
use super::inbox::{InboxItem, SessionInbox};
use super::options::RequestOptions;
use super::protocol::{Observer, Protocol, RpcError, WireId};
use super::remarks::{RemarkKind, Remarks};
use super::router::{IncomingRequest, PendingRequest, Renewal, Router};

/// Records of this session that may wait for room in the outbox before the session stops reading.
const POSTED_MAX: usize = 1024;

/// The slot in which the outcome of a request arrives.
pub(super) type RequestSlot = Arc<SetOnce<Result<Record>>>;

#[derive(Debug)]
pub(super) struct SessionState {
    tables: Mutex<Tables>,
    pub(super) writer: AgentWriter,
    pub(super) protocol: Box<dyn Protocol>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) handlers: Handlers,
    pub(super) settings: Settings,
    pub(super) executor: Arc<Executor>,
    alarm: Mutex<SessionAlarm>,
    /// The reading half of the agent: for the reader, and for a deadline that is due.
    pub(super) reading: Mutex<ReadingHalf>,
}

/// The state that the lock protects.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) router: Router<RequestSlot, Arc<CancelToken>>,
    inbox: SessionInbox,
    /// The last event is in the inbox.
    ended: bool,
    /// Why requests are refused, once they are.
    pub(super) over: Option<Error>,
    /// A close is under way: unread data may grow to the drain budget.
    closing: bool,
    /// Too much is unread: the session does not read, and refuses requests.
    stalled: bool,
    /// Every handle is dropped.
    released: bool,
    /// The waker of the reader.
    reader: Sole,
    /// The time of the alarm.
    armed: Option<Instant>,
    /// A task looks after the deadlines that are due.
    pub(super) expiring: bool,
    pub(super) remarks: Remarks,
    /// The id of the request that a close sends as a farewell.
    farewell: Option<u64>,
    /// Records of this session that wait for room in the outbox.
    posted: usize,
    /// Handler tasks that run.
    pub(super) running: usize,
    /// Requests of the agent that wait for a handler task to end.
    pub(super) waiting: VecDeque<AcceptedRequest>,
    pub(super) stats: SessionStats,
}

/// The reading half of the agent. The holder of its lock routes the events, so their order is kept.
#[derive(Debug)]
pub(super) struct ReadingHalf {
    /// `None` once the reader task is gone.
    pub(super) reader: Option<AgentReader>,
    /// The last event, kept back until the report of the close is there.
    pub(super) exit: Option<Event>,
    pub(super) ended: bool,
    /// The waker of the reader task. Other tasks that read register it, too.
    pub(super) waker: Waker,
}

/// A request of the agent on its way to its handler.
#[derive(Debug)]
pub(super) struct AcceptedRequest {
    pub(super) request: IncomingRequest<Arc<CancelToken>>,
    pub(super) owed: OwedResponse,
}

/// The agent waits for a response, and needs its input until the response is queued and this is
/// dropped.
#[derive(Debug)]
pub(super) struct OwedResponse(Arc<SessionState>);

impl OwedResponse {
    pub(super) fn new(state: &Arc<SessionState>) -> Self {
        if let Some(observer) = &state.observer {
            observer.on_request();
        }
        Self(Arc::clone(state))
    }
}

impl Drop for OwedResponse {
    fn drop(&mut self) {
        if let Some(observer) = &self.0.observer {
            observer.on_answered();
        }
    }
}

impl SessionState {
    /// Creates the state of a session. `deadline_waker` makes the waker that looks after deadlines
    /// that are due.
    pub(super) fn new(
        (reader, writer): (AgentReader, AgentWriter),
        protocol: Box<dyn Protocol>,
        observer: Option<Arc<dyn Observer>>,
        (handlers, settings): (Handlers, Settings),
        deadline_waker: fn(&Weak<Self>) -> Waker,
    ) -> Result<Arc<Self>> {
        let tables = Tables {
            router: Router::new(settings.router_limits()),
            inbox: SessionInbox::default(),
            ended: false,
            over: None,
            closing: false,
            stalled: false,
            released: false,
            reader: Sole::default(),
            armed: None,
            expiring: false,
            remarks: Remarks::default(),
            farewell: None,
            posted: 0,
            running: 0,
            waiting: VecDeque::new(),
            stats: SessionStats::default(),
        };
        let waker = Waker::noop().clone();
        let reading = ReadingHalf { reader: Some(reader), exit: None, ended: false, waker };
        let executor = Executor::get()?;
        Ok(Arc::new_cyclic(|state| Self {
            tables: Mutex::new(tables),
            writer,
            protocol,
            observer,
            handlers,
            settings,
            alarm: Mutex::new(SessionAlarm::new(Arc::clone(&executor), deadline_waker(state))),
            executor,
            reading: Mutex::new(reading),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        // No code that holds this lock panics half-way, so the tables are whole even if a task died.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spawns a task where the settings say, or on the session thread.
    pub(super) fn spawn(&self, task: Task) {
        match &self.settings.executor {
            Some(spawn) => self.spawn_with(&**spawn, task),
            None => self.executor.spawn(task),
        }
    }

    /// Spawns the task of a handler where the settings say, or on a handler thread.
    pub(super) fn spawn_handler(&self, task: Task) {
        match &self.settings.executor {
            Some(spawn) => self.spawn_with(&**spawn, task),
            None => self.executor.spawn_handler(task),
        }
    }

    fn spawn_with(&self, spawn: &dyn Fn(Task), task: Task) {
        // If the function panics, unwinding drops the task, and the guards of the task report that.
        if catch_unwind(AssertUnwindSafe(|| spawn(task))).is_err() {
            crate::trace::error!(agent = self.writer.label(), "the spawn function panicked");
        }
    }

    pub(super) fn error(&self, kind: ErrorKind, what: impl Into<String>) -> Error {
        Error::new(kind, "request", what).on_agent(self.writer.label())
    }

    // Requests of this session, in the order of their life.

    /// Takes a request id for a record that the session does not track.
    pub(super) fn reserve(&self) -> u64 {
        self.lock().router.reserve()
    }

    /// Opens a request, or returns why none may be opened.
    pub(super) fn open(&self, method: &str, options: RequestOptions) -> Result<(u64, RequestSlot)> {
        let now = self.executor.now();
        let timeout = options.timeout_or(self.settings.get_request_timeout());
        // A timeout beyond the range of the clock is the same as none.
        let latest = options.progress_max.and_then(|max| now.checked_add(max));
        let first = timeout.and_then(|timeout| now.checked_add(timeout));
        let deadline = [first, latest].into_iter().flatten().min();
        let renewal = latest.zip(timeout).map(|(latest, timeout)| Renewal {
            token: None,
            timeout,
            latest,
            reports: 0,
        });
        // In a forked child a lock may be held for good by a thread that does not exist there, so
        // no lock is taken.
        if !self.writer.is_here() {
            return Err(foreign("request").on_agent(self.writer.label()));
        }
        let slot: RequestSlot = Arc::new(SetOnce::new());
        let mut tables = self.lock();
        if let Some(over) = &tables.over {
            return Err(over.clone());
        }
        if tables.stalled {
            // Nothing is read while the session is stalled, so the response could not arrive.
            return Err(self.overloaded(&tables));
        }
        let Some(id) = tables.router.open(method, Arc::clone(&slot), deadline, renewal) else {
            let open = tables.router.pending();
            return Err(self
                .error(ErrorKind::Overloaded, format!("`{method}`: {open} requests are open"))
                .remedy("await some of them, or raise Settings::pending_max"));
        };
        tables.stats.asked += 1;
        let is_first = deadline.is_some_and(|at| tables.armed.is_none_or(|armed| at < armed));
        // `arm` takes the lock of the alarm and then this one, so this one has to be free.
        drop(tables);
        if is_first {
            self.arm();
        }
        Ok((id, slot))
    }

    /// Sets the alarm to the earliest deadline.
    pub(super) fn arm(&self) {
        // Two tasks may do this at once. The lock of the alarm is held while the table is read, so
        // the task that sets the alarm last has also read the table last.
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let next = {
            let mut tables = self.lock();
            tables.armed = tables.router.next_deadline();
            tables.armed
        };
        alarm.set(next);
    }

    /// Returns the body of an open request whose progress renews its deadline.
    pub(super) fn with_progress(&self, id: u64, body: &[u8]) -> Result<Vec<u8>> {
        let (body, token) = self.protocol.with_progress(id, body).map_err(|why| {
            self.error(ErrorKind::InvalidRecord, why).remedy("leave renewed_by_progress out")
        })?;
        self.lock().router.set_token(id, token);
        Ok(body)
    }

    pub(super) fn mark_sent(&self, id: u64) {
        self.lock().router.mark_sent(id);
    }

    /// Removes a request whose caller is gone, and tells the agent.
    pub(super) fn withdraw(self: &Arc<Self>, id: u64) {
        if !self.writer.is_here() {
            return;
        }
        let pending = {
            let mut tables = self.lock();
            // If there is no entry, the request had its outcome, and the agent has nothing to
            // cancel.
            let pending = tables.router.withdraw(id);
            tables.stats.withdrawn += u64::from(pending.is_some());
            pending
        };
        if let Some(pending) = pending {
            self.send_cancellation(id, &pending);
        }
    }

    /// Tells the agent that a request is cancelled, if the agent may know of it.
    pub(super) fn send_cancellation(
        self: &Arc<Self>,
        id: u64,
        pending: &PendingRequest<RequestSlot>,
    ) {
        if pending.sent
            && let Some(record) = self.protocol.cancellation(id, &pending.method)
        {
            self.post(record, None);
        }
    }

    /// Keeps what may explain why the open requests get no response.
    pub(super) fn note(
        &self,
        kind: RemarkKind,
        what: impl FnOnce() -> String,
        remedy: Option<&'static str>,
    ) {
        // A flood of noise costs nothing while no request is open.
        if self.lock().router.pending() > 0 {
            let what = what();
            let mut tables = self.lock();
            let below = tables.router.next_id();
            tables.remarks.note(kind, what, remedy, below);
        }
    }

    // Responses of this session.

    /// Removes a request of the agent that is about to be answered. Returns false if it may not be
    /// answered any more.
    pub(super) fn finish(&self, key: u64) -> bool {
        let mut tables = self.lock();
        let wanted = tables.router.finish(key);
        tables.stats.answered += u64::from(wanted);
        wanted
    }

    /// Refuses a request of the agent.
    pub(super) fn refuse(
        self: &Arc<Self>,
        id: &WireId,
        error: &RpcError,
        owed: Option<OwedResponse>,
    ) {
        self.post(self.protocol.response(id, Err(error)), owed);
    }

    /// Sends a record without waiting: if the outbox is full, a task sends it later. `owed` is kept
    /// until the record is queued.
    pub(super) fn post(self: &Arc<Self>, record: Vec<u8>, owed: Option<OwedResponse>) {
        let writer = self.writer.clone();
        let mut sending = Box::pin(async move { writer.send(record).await });
        // If there is room, no task is needed. Room that comes after this poll wakes no task, but
        // the first poll of the task below finds it. No caller waits for the outcome, so an error
        // is ignored.
        if sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
        let stalled = {
            let mut tables = self.lock();
            tables.posted += 1;
            self.stall(&mut tables)
        };
        self.fail_overloaded(stalled);
        // The task owns both guards, so they are dropped even if it never runs.
        let posted = PostedRecord(Arc::clone(self));
        self.spawn(Box::pin(async move {
            let _refused = sending.await;
            drop((posted, owed));
        }));
    }

    /// Sets the request that a graceful close sends before it ends the input, and the notifications
    /// that follow its response.
    pub(super) fn set_farewell(&self, request: &str, then: &[Vec<u8>]) -> Result<()> {
        let id = self.reserve();
        self.lock().farewell = Some(id);
        self.writer.set_farewell(&self.protocol.request(id, request, b"null"), then)
    }

    /// Returns whether a response answers the farewell. The close then goes on.
    pub(super) fn ends_farewell(&self, id: u64) -> bool {
        let is_it = self.lock().farewell.take_if(|farewell| *farewell == id).is_some();
        if is_it && let Err(error) = self.writer.set_interrupt(None) {
            crate::trace::warn!(agent = self.writer.label(), %error, "the farewell goes on");
        }
        is_it
    }

    // Data for the readers of the session, and back-pressure.

    pub(super) fn on_data(self: &Arc<Self>, item: InboxItem) {
        let (readers, stalled) = {
            let mut tables = self.lock();
            // The exit is the last entry: a deadline may find only now that a turn had no result.
            if tables.ended {
                return;
            }
            if let InboxItem::Event(Event::Record(record)) = &item {
                tables.stats.data_records += 1;
                tables.stats.data_bytes += record.len() as u64;
            }
            // Discarded data is counted like any other.
            if self.settings.discard_data && !matches!(item, InboxItem::Event(Event::Exit(_))) {
                return;
            }
            tables.inbox.push(item);
            (tables.inbox.take_readers(), self.stall(&mut tables))
        };
        // Every reader is woken, and one gets the entry. A caller of `poll_next` may have given up
        // without deregistering, so to wake a single one could wake none that reads.
        readers.wake();
        self.fail_overloaded(stalled);
    }

    pub(super) fn next(&self) -> NextItem<'_> {
        NextItem { state: self, key: WaitKey::default() }
    }

    /// Takes the next entry of the inbox. Without a key, the waker is kept until the next event.
    pub(super) fn poll_next(
        &self,
        mut key: Option<&mut WaitKey>,
        context: &mut Context<'_>,
    ) -> Poll<Option<InboxItem>> {
        if !self.writer.is_here() {
            return Poll::Ready(None);
        }
        let mut own = None;
        loop {
            {
                let mut tables = self.lock();
                // The entries come before the end, so data that arrived before a close is still
                // read.
                if let Some(item) = tables.inbox.pop() {
                    let reader = self.unstall(&mut tables);
                    drop(tables);
                    wake(reader);
                    return Poll::Ready(Some(item));
                }
                if tables.ended {
                    return Poll::Ready(None);
                }
                if tables.inbox.register(key.as_deref_mut(), context.waker(), &mut own) {
                    return Poll::Pending;
                }
            }
            // Cloning a waker runs code of the user, so the lock is free meanwhile. The loop looks
            // again, because an entry may have come in that time.
            own = Some(context.waker().clone());
        }
    }

    /// Deregisters a task that waits for an event, so that a task that gave up is not kept until
    /// the agent says something.
    pub(super) fn forget_reader(&self, key: &mut WaitKey) {
        if !self.writer.is_here() {
            return;
        }
        let waker = self.lock().inbox.forget(key);
        // The guard is dropped above: the destructor of a waker is code of the user.
        drop(waker);
    }

    /// Registers the reader task for every change. Returns whether it may read, or `None` once every
    /// handle is dropped.
    pub(super) fn may_read(&self, waker: &Waker) -> Option<bool> {
        let mut own = None;
        loop {
            {
                let mut tables = self.lock();
                // The waker is registered under the lock under which the flags are read, so each
                // later change of a flag wakes the reader.
                if tables.reader.register(waker, &mut own) {
                    return (!tables.released).then_some(!tables.stalled);
                }
            }
            own = Some(waker.clone());
        }
    }

    /// Stops reading if too much is unread, and returns the requests that fail with that.
    fn stall(&self, tables: &mut Tables) -> Vec<(u64, PendingRequest<RequestSlot>)> {
        let fits = tables.inbox.weight() <= self.unread_max(tables) && tables.posted < POSTED_MAX;
        if tables.stalled || fits {
            return Vec::new();
        }
        // No response can be read while the session is stalled, so the requests fail now and not at
        // their timeouts.
        tables.stalled = true;
        tables.stats.stalls += 1;
        let pending = tables.router.take_pending();
        tables.stats.failed += pending.len() as u64;
        pending
    }

    /// Lets the reader go on once half of the data is read. Returns its waker then.
    fn unstall(&self, tables: &mut Tables) -> Option<Waker> {
        // The session goes on at half of a limit. At the limit itself, the next event could stall
        // it again, and fail its requests again.
        let caught_up =
            tables.inbox.weight() <= self.unread_max(tables) / 2 && tables.posted <= POSTED_MAX / 2;
        if !tables.stalled || !caught_up {
            return None;
        }
        tables.stalled = false;
        tables.reader.take()
    }

    fn unread_max(&self, tables: &Tables) -> usize {
        let budget = self.settings.unread_max;
        // The larger one counts: a close must not stall a session that was within its limit.
        if tables.closing { budget.max(self.writer.drain_max()) } else { budget }
    }

    fn overloaded(&self, tables: &Tables) -> Error {
        if tables.posted >= POSTED_MAX / 2 {
            let what = format!("the agent leaves {} responses unread", tables.posted);
            return self.error(ErrorKind::Overloaded, what);
        }
        let what = format!(
            "{} bytes of data are unread, above the limit of {}, so no response can come through",
            tables.inbox.weight(),
            self.settings.unread_max
        );
        self.error(ErrorKind::Overloaded, what)
            .remedy("read the session on, raise Settings::unread_max or set Settings::discard_data")
    }

    /// Fails requests that a stall took out of the table.
    fn fail_overloaded(self: &Arc<Self>, requests: Vec<(u64, PendingRequest<RequestSlot>)>) {
        if requests.is_empty() {
            return;
        }
        // The guard is gone at the end of this statement. Setting a slot wakes a task, and a
        // cancellation takes the lock again.
        let error = self.overloaded(&self.lock());
        for (id, pending) in requests {
            pending.slot.set(Err(error.clone()));
            self.send_cancellation(id, &pending);
        }
    }

    // The end of the session, in the order of its steps. Whatever begins it, all open requests fail
    // at once.

    /// Prepares for the end of the agent: what it still says is kept up to the drain budget.
    pub(super) fn drain(&self) {
        let reader = {
            let mut tables = self.lock();
            tables.closing = true;
            self.unstall(&mut tables)
        };
        wake(reader);
    }

    /// Refuses requests from now on and fails the open ones. The first reason stays.
    pub(super) fn end(&self, why: Error) {
        let (over, pending, serving, waiting, reader) = {
            let mut tables = self.lock();
            // All of this happens under one lock, so no request can be opened after the table was
            // emptied and before requests are refused.
            let over = tables.over.get_or_insert(why).clone();
            tables.closing = true;
            let waiting = std::mem::take(&mut tables.waiting);
            let pending = tables.router.take_pending();
            tables.stats.failed += pending.len() as u64;
            // A handler that completes from here on finds no entry, and sends no response.
            let serving = tables.router.take_serving();
            let reader = self.unstall(&mut tables);
            (over, pending, serving, waiting, reader)
        };
        wake(reader);
        // Dropped without the lock: each entry tells the observer that its response is not owed any
        // more, and the observer may end the agent's input.
        drop(waiting);
        serving.iter().for_each(|token| token.cancel());
        for (_, pending) in pending {
            pending.slot.set(Err(over.clone()));
        }
    }

    /// Ends the session once nothing more can come from the agent. This reason knows the exit status,
    /// so it replaces an earlier one.
    pub(super) fn on_agent_gone(&self, why: Error, last: Option<Event>) {
        let readers = {
            let mut tables = self.lock();
            // Set together with `ended`: a reader that sees the end asks for the reason next.
            tables.over = Some(why.clone());
            tables.ended = true;
            if let Some(last) = last {
                tables.inbox.push_last(last);
            }
            tables.inbox.take_readers()
        };
        self.end(why);
        readers.wake();
    }

    /// Ends the session whose last handle was dropped, and aborts the agent.
    pub(super) fn release(&self) {
        let (items, reader) = {
            let mut tables = self.lock();
            tables.released = true;
            // The entries are dropped below, without the lock, because they may be many.
            (tables.inbox.take_items(), tables.reader.take())
        };
        drop(items);
        wake(reader);
        self.end(self.error(ErrorKind::Closed, "every handle of the session was dropped"));
        // The tasks of the session may hold halves of the agent for longer, so the abort does not
        // wait until these are dropped.
        self.writer.abandon();
    }

    pub(super) fn close_reason(&self) -> Option<Error> {
        if self.writer.is_here() { self.lock().over.clone() } else { Some(foreign("request")) }
    }

    pub(super) fn metrics(&self) -> SessionStats {
        if !self.writer.is_here() {
            return SessionStats::default();
        }
        let agent = self.writer.stats();
        let tables = self.lock();
        let strays = tables.router.strays();
        SessionStats {
            pending: tables.router.pending(),
            serving: tables.router.serving(),
            running: tables.running,
            unread: tables.inbox.weight(),
            late: strays.late,
            unknown: strays.unknown,
            duplicate: strays.duplicate,
            refused: strays.refused,
            agent,
            ..tables.stats
        }
    }
}

/// A future of the next entry of the inbox.
pub(super) struct NextItem<'a> {
    state: &'a SessionState,
    key: WaitKey,
}

impl Future for NextItem<'_> {
    type Output = Option<InboxItem>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { state, key } = &mut *self;
        state.poll_next(Some(key), context)
    }
}

impl Drop for NextItem<'_> {
    fn drop(&mut self) {
        self.state.forget_reader(&mut self.key);
    }
}

/// A record that waits for room in the outbox.
struct PostedRecord(Arc<SessionState>);

impl Drop for PostedRecord {
    fn drop(&mut self) {
        let reader = {
            let mut tables = self.0.lock();
            tables.posted -= 1;
            self.0.unstall(&mut tables)
        };
        wake(reader);
    }
}
