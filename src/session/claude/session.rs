//! A session with Claude Code: messages of the user, turns, and control requests.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::record::{Event, Record};
use crate::session;
use crate::session::dropped::{Loss, RecordHead};
use crate::session::inbox::InboxItem;
use crate::session::options::RequestOptions;
use crate::session::protocol::DroppedRecord;
use crate::session::state::SessionState;

use super::control::{self, ControlRequest};
use super::initialize::{Initialized, NeededAnswers};
use super::input::{SessionInput, UserMessage};
use super::protocol::has_subtype;
use super::version::CliVersion;

const OPERATION: &str = "initialize";

/// The control protocol of Claude Code with one agent. Cheap to clone.
///
/// The agent runs with `--input-format stream-json --output-format stream-json --verbose`. The
/// session dereferences to [`session::Session`], which has the calls that all sessions share. The
/// timeout, the errors and the cancel safety of each control request are those of
/// [`session::Session::request`].
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) base: session::Session,
    pub(super) input: Arc<SessionInput>,
    /// The body of `initialize`.
    pub(super) initialize: Record,
    pub(super) initialize_timeout: Option<Duration>,
    /// The response to the first `initialize`.
    pub(super) server_info: Arc<OnceLock<Initialized>>,
    pub(super) needed_answers: NeededAnswers,
    /// Whether there is a handler, so that the agent may send a request in the middle of a turn.
    pub(super) has_handlers: bool,
}

impl Deref for Session {
    type Target = session::Session;

    fn deref(&self) -> &session::Session {
        &self.base
    }
}

impl Session {
    /// Returns the session without its protocol. Its `request` takes any body, and its `send` any
    /// record.
    #[must_use]
    pub fn as_session(&self) -> &session::Session {
        &self.base
    }

    /// Sends `initialize`, the handshake: the hooks and options of the builder. The agent has
    /// [`Builder::initialize_timeout`](super::Builder::initialize_timeout) for its response.
    /// [`Builder::start`](super::Builder::start) does this. Cancel-safe.
    ///
    /// # Errors
    /// - [`Unsupported`](ErrorKind::Unsupported): the answer does not say that the CLI blocks if a hook
    ///   fails ([`HookMatcher::block_on_failure`](super::HookMatcher::block_on_failure)), or has taken
    ///   the MCP servers or plugins that came in `initialize`. Close the session.
    /// - Those of [`session::Session::request`].
    pub async fn initialize(&self) -> Result<Initialized> {
        let body = self.initialize.as_bytes();
        let options = RequestOptions::new().timeout(self.initialize_timeout);
        let answer = self.base.request_json(OPERATION, body, options).await?;
        let answer = Initialized::from(answer);
        if let Some(version) = answer.claude_code_version.as_deref().and_then(CliVersion::parse) {
            self.input.learn_version(version);
        }
        // Only the first response is kept, so a second one is not stored and not an error.
        let _first = self.server_info.set(answer.clone());
        self.needed_answers.check(&answer)?;
        Ok(answer)
    }

    /// Returns the agent's response to the first `initialize`: its commands, output style, models.
    /// `None` before. It stays after the agent is gone.
    #[must_use]
    pub fn server_info(&self) -> Option<&Initialized> {
        self.server_info.get()
    }

    /// Returns the version of the CLI, from its answer to `initialize`. An older CLI says it with its
    /// first turn (`system`, `init`). `None` before. It stays after the agent is gone.
    #[must_use]
    pub fn cli_version(&self) -> Option<CliVersion> {
        self.input.version()
    }

    /// Sends a message of the user: text, or a [`UserMessage`]. A turn is open from here to its
    /// `result`. A graceful close in between interrupts it.
    ///
    /// Resolves once the record is queued. There is no timeout: it waits while the outbox is full,
    /// and fails at once when the agent is gone. Cancel-safe: the record is queued whole or not at
    /// all.
    ///
    /// # Errors
    /// See [`AgentWriter::send`](crate::AgentWriter::send).
    pub async fn send(&self, message: impl Into<UserMessage>) -> Result<()> {
        self.input.send(&message.into()).await
    }

    /// Sends the messages that `next` returns until it returns `None`, and then ends the input as
    /// [`end_input_when_done`](Self::end_input_when_done) does. Returns the number of messages.
    ///
    /// A source that fails should return `None`, so that the turn under way completes. There is no
    /// timeout: it waits for `next` even if the agent is gone. Cancel-safe: dropping the future sends
    /// nothing more and leaves the input open.
    ///
    /// # Errors
    /// See [`send`](Self::send). The first message that cannot be sent ends the input as well.
    pub async fn send_all<M: Into<UserMessage>>(
        &self,
        mut next: impl AsyncFnMut() -> Option<M>,
    ) -> Result<u64> {
        let mut sent = 0;
        let outcome = loop {
            let Some(message) = next().await else { break Ok(sent) };
            match self.send(message).await {
                Ok(()) => sent += 1,
                Err(error) => break Err(error),
            }
        };
        // After an error, too: the turn that is under way still completes.
        self.end_input_when_done();
        outcome
    }

    /// Reads to the end of a turn. Calls `each` with every record before the `result`, and returns
    /// the `result`.
    ///
    /// There is no timeout. Drop the future, or call [`interrupt`](Self::interrupt), if a turn takes
    /// too long. Cancel-safe: no record is lost.
    ///
    /// # Errors
    /// - [`RecordTooLarge`](ErrorKind::RecordTooLarge): a record above
    ///   [`Limits::record_max`](crate::Limits::record_max) was dropped, and may have been the result.
    ///   A further call reads on.
    /// - [`InvalidRecord`](ErrorKind::InvalidRecord): the result was not JSON. A further call reads
    ///   on.
    /// - [`NoResult`](ErrorKind::NoResult): the agent is idle, and the turn had no result.
    /// - The [`close_reason`](session::Session::close_reason), if the agent ended first.
    pub async fn read_turn(&self, mut each: impl FnMut(&Record)) -> Result<Record> {
        let state = self.base.state();
        loop {
            match state.next().await {
                Some(InboxItem::Event(Event::Record(record))) => {
                    let envelope = record.envelope();
                    if envelope.is_ok_and(|found| found.kind.as_deref() == Some("result")) {
                        return Ok(record);
                    }
                    each(&record);
                }
                Some(InboxItem::Event(event)) => {
                    if may_belong_to_turn(state, &event)
                        && let Some(loss) = Loss::of(&event, state.writer.record_max())
                    {
                        let prefix = "the turn is incomplete: ";
                        return Err(loss.error(state.writer.label(), "turn", prefix));
                    }
                }
                Some(InboxItem::NoResult) => {
                    let what = "the agent is idle, and the turn had no result";
                    let error = Error::new(ErrorKind::NoResult, "turn", what);
                    return Err(error.on_agent(state.writer.label()));
                }
                None => {
                    let gone = || state.error(ErrorKind::Closed, "the agent is gone");
                    return Err(self.close_reason().unwrap_or_else(gone));
                }
            }
        }
    }

    /// Ends the agent's input as soon as the agent does not need it: at once if there is no handler
    /// or nothing is under way. Does not wait.
    ///
    /// A CLI that reports its state ends a run with `idle`, even if a background agent wakes it for
    /// another turn. With an older CLI, each `result` ends a run. The input ends after a run that
    /// leaves open neither a prompt, nor a background agent or workflow, nor a request of the agent.
    /// Each prompt begins a run. If a CLI may have answered two prompts in one run, the input ends
    /// after one second without a further turn.
    ///
    /// The only timeout is [`Builder::background_wait`](super::Builder::background_wait). It counts
    /// while the CLI reports that it runs, without a turn, a request, or a background agent that it
    /// has named. Shells and monitors may never end, so they are not waited for.
    pub fn end_input_when_done(&self) {
        self.input.end_when_done(self.has_handlers);
    }

    /// Returns why requests are refused. See [`session::Session::close_reason`].
    ///
    /// If the agent exited with an error status, or closed its stdout, right after a `result` that was
    /// an error, the reason is an [`AgentError`](ErrorKind::AgentError) with the text of that result.
    /// [`Error::response`] is then its record.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.base.close_reason()
    }

    /// Sends a control request of any subtype. `body` has its other keys; `()` has none. Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`], and [`InvalidRecord`](ErrorKind::InvalidRecord) if the body
    /// is not a JSON object.
    pub async fn request(&self, subtype: &str, body: impl Serialize) -> Result<Record> {
        let timeout = self.base.state().settings.get_request_timeout();
        self.request_with_timeout(subtype, body, timeout).await
    }

    /// Sends a [`request`](Self::request) with another timeout. `None` waits as long as the agent
    /// lives. Cancel-safe.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn request_with_timeout(
        &self,
        subtype: &str,
        body: impl Serialize,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<Record> {
        let body = Record::from_json(&body)?;
        // The keys of the body are written beside the subtype, which only works for those of an
        // object, and for each key once.
        let is_object = matches!(body.as_bytes(), [b'{', ..] | b"null");
        if !is_object || has_subtype(body.as_bytes()) {
            let what = "the body of a control request has to be a JSON object without a `subtype`";
            return Err(Error::new(ErrorKind::InvalidRecord, "request", what));
        }
        let options = RequestOptions::new().timeout(timeout);
        self.base.request_json(subtype, body.as_bytes(), options).await
    }

    /// Sends a control request: one of the types in [`control`]. Cancel-safe.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn control<R: ControlRequest>(&self, request: R) -> Result<R::Answer> {
        self.request(R::SUBTYPE, request).await.map(R::Answer::from)
    }

    /// Sends a [`control`](Self::control) request with another timeout. `None` waits as long as the
    /// agent lives. Cancel-safe.
    ///
    /// # Errors
    /// See [`request`](Self::request).
    pub async fn control_with_timeout<R: ControlRequest>(
        &self,
        request: R,
        timeout: impl Into<Option<Duration>>,
    ) -> Result<R::Answer> {
        self.request_with_timeout(R::SUBTYPE, request, timeout).await.map(R::Answer::from)
    }

    /// Interrupts the turn. Its `result` comes all the same. Cancel-safe.
    /// [`Interrupt::cancel_queued`](control::Interrupt::cancel_queued) also cancels queued messages.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn interrupt(&self) -> Result<control::Interrupted> {
        self.control(control::Interrupt::new()).await
    }

    /// Sets the permission mode: `default`, `acceptEdits`, `plan`, `bypassPermissions`, `dontAsk` or
    /// `auto`. Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn set_permission_mode(&self, mode: &str) -> Result<Record> {
        self.control(control::SetPermissionMode::new(mode)).await
    }

    /// Sets the model. `None` is the default one. Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn set_model(&self, model: Option<&str>) -> Result<Record> {
        self.control(control::SetModel::new(model)).await
    }

    /// Restores files to what they were at a user message. Needs
    /// [`Options::file_checkpointing`](super::Options::file_checkpointing). Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn rewind_files(&self, user_message_id: &str) -> Result<control::Rewound> {
        self.control(control::RewindFiles::new(user_message_id)).await
    }

    /// Returns the MCP servers of the session: `{"mcpServers": [...]}`. Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn mcp_status(&self) -> Result<Record> {
        self.control(control::McpStatus::new()).await
    }

    /// Reconnects an MCP server. Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn mcp_reconnect(&self, server: &str) -> Result<Record> {
        self.control(control::McpReconnect::new(server)).await
    }

    /// Turns an MCP server on or off. Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn mcp_toggle(&self, server: &str, enabled: bool) -> Result<Record> {
        self.control(control::McpToggle::new(server, enabled)).await
    }

    /// Stops a background task. A `task_notification` follows. Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn stop_task(&self, task_id: &str) -> Result<Record> {
        self.control(control::StopTask::new(task_id)).await
    }

    /// Returns what fills the context, in tokens. Cancel-safe.
    ///
    /// # Errors
    /// See [`session::Session::request`].
    pub async fn get_context_usage(&self) -> Result<Record> {
        self.control(control::GetContextUsage::new()).await
    }
}

/// Returns whether a dropped record may have belonged to a turn, judged by its first bytes.
fn may_belong_to_turn(state: &SessionState, event: &Event) -> bool {
    let (Event::Oversized(preview) | Event::Malformed { sample: preview, .. }) = event else {
        return false;
    };
    match state.protocol.identify(&RecordHead::of(preview.head())) {
        // A line of a log may look like a malformed record, so only a result counts there.
        DroppedRecord::Other(kind) => {
            matches!(event, Event::Oversized(_)) || kind.as_deref() == Some("result")
        }
        // The request that the record belongs to is completed or refused, and the turn misses
        // nothing.
        DroppedRecord::Response(_) | DroppedRecord::Request(_) => false,
    }
}
