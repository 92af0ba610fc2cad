//! Serving the agent's requests. A separate task handles each request, so that no handler delays the
//! reader.

use std::sync::Arc;

use crate::record::Record;

use super::config::Task;
use super::handler_threads::HandlerLabel;
use super::handlers::{AgentRequest, ContainedHandler, Handler, HandlerFuture, HandlerResult};
use super::protocol::{RpcError, WireId};
use super::router::IncomingRequest;
use super::state::{AcceptedRequest, OwedResponse, SessionState};

/// Starts the handler of a request, queues the request if too many handlers run, or refuses it if
/// it has no handler.
pub(super) fn admit(state: &Arc<SessionState>, accepted: AcceptedRequest) {
    let request = &accepted.request;
    {
        let mut tables = state.lock();
        if tables.over.is_some() {
            // No response can be sent any more, so no handler runs.
            tables.router.finish(request.key);
            return;
        }
    }
    let Some(handler) = state.handlers.find(&request.method) else {
        let error = state.protocol.unknown_method(&request.method);
        // The entry is gone if the session has ended since the check above.
        if state.finish(request.key) {
            state.refuse(&request.id, &error, Some(accepted.owed));
        }
        return;
    };
    {
        // The session may have ended since the check above. Its end cancels the token, so the
        // handler does not run on.
        let mut tables = state.lock();
        if tables.running >= state.settings.concurrency {
            tables.waiting.push_back(accepted);
            return;
        }
        tables.running += 1;
    }
    state.spawn_handler(handler_task(Arc::clone(state), handler, accepted));
}

/// Returns the task of one request.
fn handler_task(
    state: Arc<SessionState>,
    handler: Handler<AgentRequest>,
    accepted: AcceptedRequest,
) -> Task {
    let AcceptedRequest { request, owed } = accepted;
    let IncomingRequest { key, id, method, body, token } = request;
    let label = HandlerLabel { agent: state.writer.label().into(), method: method.clone() };
    let executor = Arc::clone(&state.executor);
    let request = AgentRequest::new(method, body);
    // The handler is called at the first poll and not here, on the task that reads the agent.
    let work: HandlerFuture = Box::pin(async move { handler(request).await });
    // The task owns the guard from the start, so a task that is dropped before its first poll
    // refuses its request, too.
    let mut open = OpenRequest { state, key, id, begun: false, unsent: None, owed: Some(owed) };
    Box::pin(async move {
        open.begun = true;
        if let Some(outcome) = ContainedHandler::new(work, token).watched(executor, label).await {
            open.respond(outcome).await;
        }
    })
}

/// A request of the agent with a handler task. It is refused if the task is dropped before the
/// response.
struct OpenRequest {
    state: Arc<SessionState>,
    key: u64,
    id: WireId,
    /// Whether the task has been polled.
    begun: bool,
    /// The response, until it is queued.
    unsent: Option<Vec<u8>>,
    /// Kept until a response or a refusal is queued.
    owed: Option<OwedResponse>,
}

impl OpenRequest {
    async fn respond(&mut self, outcome: HandlerResult) {
        let Self { state, key, id, unsent, .. } = self;
        // The entry leaves the table before the response is sent, so neither the destructor nor the
        // end of the session responds as well. There is none if the agent has cancelled the
        // request.
        if !state.finish(*key) {
            return;
        }
        let outcome = outcome.as_ref().map(Record::as_bytes);
        // A runtime may drop this task while it waits for room. Its destructor then has the response
        // to send.
        let response = unsent.insert(state.protocol.response(id, outcome));
        if let Err(error) = state.writer.send(&*response).await
            && !error.is_closed()
        {
            // It was refused before a byte was sent: too large, or not on one line.
            let error = RpcError::new(format!("the response cannot be sent: {error}"));
            *response = state.protocol.response(id, Err(&error));
            // A second error means that no response can be sent at all.
            let _agent_gone = state.writer.send(&*response).await;
        }
        *unsent = None;
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        // Otherwise without effect: there is no entry, and the response is queued.
        match self.unsent.take() {
            Some(response) => self.state.post(response, self.owed.take()),
            None => give_up(&self.state, self.key, &self.id, self.owed.take()),
        }
        if self.begun {
            start_next(&self.state);
        } else {
            give_up_waiting(&self.state);
        }
    }
}

/// Starts the handler of the next request that waits.
fn start_next(state: &Arc<SessionState>) {
    let accepted = {
        let mut tables = state.lock();
        let accepted = tables.waiting.pop_front();
        // The place of the handler that ended passes to the next one, so no request that comes
        // meanwhile takes it.
        tables.running -= usize::from(accepted.is_none());
        accepted
    };
    if let Some(accepted) = accepted {
        match state.handlers.find(&accepted.request.method) {
            Some(handler) => {
                state.spawn_handler(handler_task(Arc::clone(state), handler, accepted))
            }
            None => unreachable!("only requests that have a handler wait for it"),
        }
    }
}

/// Refuses all requests that wait, because the runtime drops tasks that it never ran. If each of them
/// got a task, that task would be dropped within the drop of the one before, and so on.
fn give_up_waiting(state: &Arc<SessionState>) {
    let waiting = {
        let mut tables = state.lock();
        tables.running -= 1;
        std::mem::take(&mut tables.waiting)
    };
    for AcceptedRequest { request, owed } in waiting {
        give_up(state, request.key, &request.id, Some(owed));
    }
}

/// Refuses a request whose handler will not answer, unless it is answered already. The agent's input
/// may end once `owed` is dropped, so it is kept until the refusal is queued.
fn give_up(state: &Arc<SessionState>, key: u64, id: &WireId, owed: Option<OwedResponse>) {
    if state.finish(key) {
        let error = RpcError::new("the handler was dropped before it answered");
        state.refuse(id, &error, owed);
    }
}
