//! The reader: the task that reads the agent for a session and routes each event. It waits for the
//! agent and for room in the inbox, and runs no code of a user but wakers.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use crate::close::{CloseReason, CloseReport, ExitStatus};
use crate::error::{Error, ErrorKind};
use crate::record::{Event, Record};
use crate::sync::WaitKey;

use super::dropped::{Loss, RecordHead};
use super::inbox::InboxItem;
use super::protocol::{DroppedRecord, Incoming, RpcError, WireId};
use super::remarks::RemarkKind;
use super::router::RouterAction;
use super::serving;
use super::state::{AcceptedRequest, OwedResponse, ReadingHalf, SessionState};

/// Events routed in one turn, before other tasks of the thread get theirs.
const EVENTS_PER_TURN: usize = 256;

/// How a turn of routing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoutedTurn {
    /// There are no more events now. `some`: there was at least one.
    All { some: bool },
    /// The turn is over, and there may be more events.
    More,
    /// Too much is unread, so nothing may be read.
    Stalled,
    /// The agent's output is at its end.
    AtEnd,
    /// Every handle of the session is dropped.
    Released,
}

impl SessionState {
    /// Routes the events of one turn.
    pub(super) fn route(self: &Arc<Self>, reading: &mut ReadingHalf) -> RoutedTurn {
        // Whichever task routes, the reader task is the one to be woken for the next event.
        let waker = reading.waker.clone();
        let Some(reader) = reading.reader.as_mut().filter(|_| !reading.ended) else {
            return RoutedTurn::AtEnd;
        };
        for count in 0..EVENTS_PER_TURN {
            // Checked for each event, because any one may exceed the limit of unread data.
            match self.may_read(&waker) {
                None => return RoutedTurn::Released,
                Some(false) => return RoutedTurn::Stalled,
                Some(true) => {}
            }
            match reader.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Pending => return RoutedTurn::All { some: count > 0 },
                Poll::Ready(Some(Event::Record(record))) => self.on_record(record),
                Poll::Ready(Some(exit @ Event::Exit(_))) => {
                    reading.exit = Some(exit);
                    reading.ended = true;
                    return RoutedTurn::AtEnd;
                }
                Poll::Ready(Some(other)) => {
                    if let Event::Noise(line) = &other {
                        let what = || format!("a line came that is not a record ({line})");
                        self.note(RemarkKind::Noise, what, None);
                    }
                    self.on_dropped(&other);
                    self.on_data(InboxItem::Event(other));
                }
                Poll::Ready(None) => {
                    reading.ended = true;
                    return RoutedTurn::AtEnd;
                }
            }
        }
        RoutedTurn::More
    }

    fn on_record(self: &Arc<Self>, record: Record) {
        let incoming = self.protocol.classify(&record);
        // The farewell and the observer's own request have an id but no entry, so the router would
        // count their responses as late.
        if let Incoming::Response { id: Some(id), .. } = &incoming
            && (self.ends_farewell(*id)
                || self.observer.as_ref().is_some_and(|observer| observer.on_response(*id)))
        {
            return;
        }
        if let Incoming::Request { id, method, .. } = &incoming
            && self.answer_itself(id, method)
        {
            return;
        }
        if let Incoming::Complaint(error) = &incoming {
            let what = || format!("the agent said that it could not read a record: {error}");
            self.note(RemarkKind::Complaint, what, None);
        }
        let now = self.executor.now();
        let action = {
            let mut tables = self.lock();
            let action = tables.router.route(incoming, now);
            match action {
                // Counted under the lock that removed the entry, so a snapshot shows each request
                // as pending or with its outcome, never as neither.
                RouterAction::Complete(..) => tables.stats.settled += 1,
                RouterAction::Cancel { .. } => tables.stats.cancelled += 1,
                _ => {}
            }
            action
        };
        match action {
            RouterAction::Deliver => self.deliver(record),
            // A record of a batch is never a batch, so this does not nest.
            RouterAction::RouteEach(records) => {
                records.into_iter().for_each(|record| self.on_record(record));
            }
            RouterAction::Complete(pending, outcome) => {
                let outcome = outcome.map_err(|error| self.agent_error(&pending.method, &error));
                pending.slot.set(outcome);
            }
            RouterAction::Serve(request) => {
                // The response is owed before its handler runs, so the agent's input cannot end in
                // between.
                let owed = OwedResponse::new(self);
                serving::admit(self, AcceptedRequest { request, owed });
            }
            RouterAction::Cancel { key, id, token } => {
                let waiting = {
                    let mut tables = self.lock();
                    // A request that waits has no task yet, so its token stops nothing. A handler
                    // that runs cannot respond any more, because its entry left the table in
                    // `route`.
                    let found = tables.waiting.iter().position(|it| it.request.key == key);
                    found.and_then(|found| tables.waiting.remove(found))
                };
                token.cancel();
                if let Some(record) = self.protocol.cancelled_response(&id) {
                    self.post(record, None);
                }
                // Only now the agent's input may end: the response is queued.
                drop(waiting);
            }
            RouterAction::RefuseBusy(id) => {
                let busy = RpcError::new("too many requests are open on this session");
                self.refuse(&id, &busy, Some(OwedResponse::new(self)));
            }
            RouterAction::Refuse(response, why) => {
                crate::trace::warn!(agent = self.writer.label(), why, "a record was refused");
                self.note(RemarkKind::Complaint, || format!("a record was refused: {why}"), None);
                self.post(response, Some(OwedResponse::new(self)));
            }
            RouterAction::Stray(outcome) => {
                let what = || match outcome {
                    Ok(_) => "a response came whose id is that of no request".to_owned(),
                    Err(error) => {
                        format!("an error came whose id is that of no request: {error}")
                    }
                };
                self.note(RemarkKind::Complaint, what, None);
            }
            RouterAction::Ignore => {}
        }
    }

    /// Answers a request that the protocol itself answers, such as the `ping` of MCP. It takes no place
    /// among the requests that are open: an agent whose `ping` is refused gives the session up.
    fn answer_itself(self: &Arc<Self>, id: &WireId, method: &str) -> bool {
        let Some(result) = self.protocol.own_result(method) else { return false };
        if self.handlers.has(method) {
            return false;
        }
        {
            let mut tables = self.lock();
            // Nothing can be sent any more.
            if tables.over.is_some() {
                return true;
            }
            tables.stats.answered += 1;
        }
        let response = self.protocol.response(id, Ok(result));
        self.post(response, Some(OwedResponse::new(self)));
        true
    }

    /// Puts a data record into the inbox, unless it is meant for the observer alone.
    fn deliver(self: &Arc<Self>, record: Record) {
        let seen = self.observer.as_ref().map(|observer| observer.on_data(&record));
        // The turn without a result was over before this record came, so its end goes first.
        if seen.is_some_and(|seen| seen.no_result) {
            self.on_data(InboxItem::NoResult);
        }
        if seen.is_none_or(|seen| seen.keep) {
            self.on_data(InboxItem::Event(Event::Record(record)));
        }
    }

    fn agent_error(&self, method: &str, rpc: &RpcError) -> Error {
        let error = self.error(ErrorKind::AgentError, format!("`{method}` was refused: {rpc}"));
        match rpc.to_json() {
            Some(json) => error.answered(json),
            None => error,
        }
    }

    /// Tells the task that waits for a dropped record, if the record can be identified.
    fn on_dropped(self: &Arc<Self>, event: &Event) {
        let Some(loss) = Loss::of(event, self.writer.record_max()) else { return };
        match self.protocol.identify(&RecordHead::of(loss.preview.head())) {
            DroppedRecord::Response(id) => {
                let pending = {
                    let mut tables = self.lock();
                    let pending = tables.router.withdraw(id);
                    // The agent did answer, so the request does not count as failed.
                    tables.stats.settled += u64::from(pending.is_some());
                    pending
                };
                if let Some(pending) = pending {
                    let prefix = format!("`{}` was answered, but ", pending.method);
                    let error = loss.error(self.writer.label(), "request", &prefix);
                    pending.slot.set(Err(error));
                }
            }
            DroppedRecord::Request(id) => {
                let refused = self.lock().router.refuse_dropped(&id);
                if refused {
                    self.refuse(&id, &RpcError::new(loss.what), Some(OwedResponse::new(self)));
                }
            }
            DroppedRecord::Other(kind) => {
                let what = || format!("{}, and may have been the response", loss.what);
                self.note(RemarkKind::Dropped, what, loss.remedy_of_timeout());
                if let Some(observer) = &self.observer {
                    observer.on_dropped(kind.as_deref());
                }
            }
        }
    }
}

/// The reader task. It reads until the end of the output, and then waits for the report of the
/// close.
#[derive(Debug)]
pub(super) struct ReaderTask {
    state: Arc<SessionState>,
    /// The keys with which the task waits for the beginning of a close, and for its report.
    closing: WaitKey,
    closed: WaitKey,
    /// The beginning of a close was handled.
    knows_closing: bool,
    over: bool,
}

impl ReaderTask {
    pub(super) fn new(state: Arc<SessionState>) -> Self {
        let (closing, closed) = (WaitKey::default(), WaitKey::default());
        Self { state, closing, closed, knows_closing: false, over: false }
    }

    /// Ends the session or lets it drain once a close has begun. If the agent began it, a response may
    /// still be on its way, so everything that is there is read first.
    fn poll_closing(&mut self, context: &mut Context<'_>, all_read: bool) {
        if self.knows_closing {
            return;
        }
        if let Poll::Ready(reason) = self.state.writer.poll_closing(&mut self.closing, context) {
            // Further events wait, so this task is polled again and comes back here.
            if !all_read && matches!(reason, CloseReason::Exited | CloseReason::OutputEnded) {
                return;
            }
            self.knows_closing = true;
            match early_reason(&self.state, reason) {
                Some(why) => self.state.end(why),
                // `on_agent_gone` fails the requests of an agent that exited, with its status.
                None => self.state.drain(),
            }
        }
    }
}

impl Future for ReaderTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        let routed = {
            let mut reading = lock_reading(&task.state);
            reading.waker.clone_from(context.waker());
            task.state.route(&mut reading)
        };
        match routed {
            // The destructor does the rest.
            RoutedTurn::Released => Poll::Ready(()),
            RoutedTurn::More => {
                // A close by the user ends the session even while the agent never stops writing.
                task.poll_closing(context, false);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            RoutedTurn::All { .. } | RoutedTurn::Stalled => {
                task.poll_closing(context, true);
                Poll::Pending
            }
            RoutedTurn::AtEnd => {
                // Registers the task for the release of the session, which may come before the
                // report.
                if task.state.may_read(context.waker()).is_none() {
                    return Poll::Ready(());
                }
                let report = ready!(task.state.writer.poll_closed(&mut task.closed, context));
                let exit = lock_reading(&task.state).exit.take();
                // The output may have ended without this event. The report has the status then, and
                // `Exit` is always the last event of a session.
                let exit = exit.or(Some(Event::Exit(report.exit())));
                task.over = true;
                task.state.on_agent_gone(final_reason(&task.state, &report), exit);
                Poll::Ready(())
            }
        }
    }
}

/// Runs in each case: at the end, when the runtime drops its tasks, in a panic, and once every handle
/// is dropped.
impl Drop for ReaderTask {
    fn drop(&mut self) {
        let (reader, exit) = {
            let mut reading = lock_reading(&self.state);
            (reading.reader.take(), reading.exit.take())
        };
        drop(reader);
        if !self.over {
            let what = "the runtime that ran the session dropped its tasks";
            // After a release no handle is left that could read this reason, and a second `abandon`
            // has no effect.
            let error = self.state.error(ErrorKind::Closed, what);
            let error = error.remedy("close its sessions before a runtime ends");
            self.state.on_agent_gone(error, exit);
            self.state.writer.abandon();
        }
    }
}

fn lock_reading(state: &SessionState) -> MutexGuard<'_, ReadingHalf> {
    // A waker of a user may have panicked under this lock. The events that were read are routed all
    // the same.
    state.reading.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns why no response can come any more, before the agent is reaped. `None` for an exit: its
/// status is known a moment later.
fn early_reason(state: &SessionState, reason: CloseReason) -> Option<Error> {
    let (kind, what) = match reason {
        CloseReason::Exited => return None,
        CloseReason::Shutdown => (ErrorKind::EngineStopped, "the engine was shut down"),
        CloseReason::Forked => (ErrorKind::EngineStopped, "the engine belongs to another process"),
        CloseReason::OutputEnded => return Some(own_end(state, "the agent closed its stdout")),
        CloseReason::Requested | CloseReason::Dropped => {
            (ErrorKind::Closed, "the session was closed")
        }
    };
    Some(state.error(kind, what))
}

/// Returns why the session is over, with the exit status and the end of stderr.
fn final_reason(state: &SessionState, report: &CloseReport) -> Error {
    let exit = report.exit();
    let error = match early_reason(state, report.reason()) {
        Some(why) => why,
        None if exit.success() => {
            state.error(ErrorKind::Closed, format!("the agent ended: {exit}"))
        }
        None => own_end(state, &format!("the agent ended: {exit}")),
    };
    let error = if exit == ExitStatus::Unknown { error } else { error.exit(exit) };
    error.stderr(report.stderr_tail())
}

/// Returns the reason of an end that the agent began. Its last error explains it best.
fn own_end(state: &SessionState, what: &str) -> Error {
    match state.observer.as_ref().and_then(|observer| observer.last_error()) {
        Some((message, record)) => {
            let response = String::from_utf8_lossy(record.as_bytes()).into_owned();
            state.error(ErrorKind::AgentError, format!("{message}; {what}")).answered(response)
        }
        None => state.error(ErrorKind::Closed, what),
    }
}
