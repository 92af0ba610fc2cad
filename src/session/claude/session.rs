//! Floor 4. A Claude session: what a host asks of the CLI.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Event;
use crate::record::Record;
use crate::session::handle::{Session as Base, delegate};
use crate::session::lost::Loss;
use crate::session::unread::Item;

use super::builder::Builder;
use super::input::{Input, UserMessage};
use super::probe::Probe;
use super::version::CliVersion;

/// The control protocol of Claude Code with one agent. Cheap to clone. See
/// [`session::Session`](Base) for what all sessions share.
///
/// The agent runs with `--input-format stream-json --output-format stream-json --verbose`.
/// Deadline, errors, cancel-safety of each request here and what happens to it when the agent
/// dies: [`session::Session::request`](Base::request).
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) base: Base,
    pub(super) input: Arc<Input>,
    /// The body of `initialize`.
    pub(super) initialize: Record,
    pub(super) handshake: Option<Duration>,
    pub(super) reply: Arc<OnceLock<Record>>,
    /// Whether the agent may ask something in the middle of a turn.
    pub(super) needs_input: bool,
    /// How to ask the CLI for its version, where this is one with options.
    pub(super) probe: Option<Probe>,
}

impl Session {
    /// Settings and handlers first.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The handshake: hooks and options of the builder go to the agent, which has
    /// [`Builder::initialize_timeout`] for its answer. [`Builder::start`] does it.
    ///
    /// Cancel-safety, and what happens when the agent dies: as
    /// [`session::Session::request`](Base::request).
    ///
    /// # Errors
    /// As there.
    pub async fn initialize(&self) -> Result<Record> {
        let body = self.initialize.as_bytes();
        let reply = self.base.ask("initialize", body, self.handshake).await?;
        let _first = self.reply.set(reply.clone());
        Ok(reply)
    }

    /// What the agent answered to the first `initialize`: its commands, output style, models.
    /// `None` before. It is kept here: nothing is asked, and it stays after the agent is gone.
    #[must_use]
    pub fn server_info(&self) -> Option<&Record> {
        self.reply.get()
    }

    /// The version of the CLI, for a session that was started on [`Options`](super::Options).
    ///
    /// The first to ask runs `claude -v` in the same environment, for 2 s at the most; it takes no
    /// place of [`EngineBuilder::max_agents`](crate::EngineBuilder::max_agents). The answer is kept
    /// for the process as long as the file has the same time and size. It is asked as a process of
    /// its own, so it is answered after the session's agent died, too. Cancel-safe.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), [`InvalidRecord`](ErrorKind::InvalidRecord) where the CLI
    /// says something else (both are kept like a version), [`AgentError`](ErrorKind::AgentError)
    /// where it says nothing and leaves, [`InvalidCommand`](ErrorKind::InvalidCommand) for a session
    /// that was started on a command of another kind, and those of
    /// [`Engine::spawn`](crate::Engine::spawn).
    pub async fn cli_version(&self) -> Result<CliVersion> {
        match &self.probe {
            Some(probe) => probe.version().await,
            None => {
                let what = "only a session that was started on Options knows its CLI";
                Err(Error::new(ErrorKind::InvalidCommand, "version", what))
            }
        }
    }

    /// Sends a message of the user: text, or a [`UserMessage`]. A turn is open from here to its
    /// `result`; a graceful close in between interrupts it.
    ///
    /// Resolves once the record is queued. It has no deadline: it waits while the outbox is full,
    /// and fails at once when the agent goes. Cancel-safe: it is queued whole or not at all.
    ///
    /// # Errors
    /// As [`AgentWriter::send`](crate::AgentWriter::send).
    pub async fn send(&self, message: impl Into<UserMessage>) -> Result<()> {
        self.input.send(&message.into()).await
    }

    /// Sends the messages that `next` gives, one after another, until it gives `None`; then ends
    /// the input as [`end_input_when_done`](Self::end_input_when_done) does: at once if nothing
    /// was sent, else with the turn. A source that fails gives `None`, so that the turn under way
    /// completes. Returns the number of messages.
    ///
    /// It has no deadline: it waits for `next`, also when the agent dies meanwhile, and then as
    /// [`send`](Self::send) does.
    ///
    /// Cancel-safe: dropping it sends nothing more and leaves the input open.
    ///
    /// # Errors
    /// As [`send`](Self::send), at the first message that cannot be sent; the input then ends the
    /// same way.
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
        self.end_input_when_done();
        outcome
    }

    /// Reads to the end of a turn: `each` sees every record before the `result`, which is
    /// returned. It has no deadline: drop it, or [`interrupt`](Self::interrupt), where a turn takes too
    /// long.
    ///
    /// Cancel-safe: a record is seen, or still there.
    ///
    /// # Errors
    /// [`RecordTooLarge`](ErrorKind::RecordTooLarge) where a record above
    /// [`Limits::record_max`](crate::Limits::record_max) was dropped, which may have been the result,
    /// and [`InvalidRecord`](ErrorKind::InvalidRecord) for a result that is not JSON: the turn may be
    /// over with that, and a further call reads on. [`NoResult`](ErrorKind::NoResult) where the agent
    /// says that it is idle, and the turn had no result. Where the agent ended first,
    /// [`close_reason`](Self::close_reason).
    pub async fn read_turn(&self, mut each: impl FnMut(&Record)) -> Result<Record> {
        let core = self.base.core();
        loop {
            match core.next().await {
                Some(Item::Event(Event::Record(record))) => {
                    let envelope = record.envelope();
                    if envelope.is_ok_and(|found| found.kind.as_deref() == Some("result")) {
                        return Ok(record);
                    }
                    each(&record);
                }
                Some(Item::Event(event)) => {
                    if core.may_be_of_turn(&event)
                        && let Some(loss) = Loss::of(&event, core.writer.record_max())
                    {
                        return Err(loss.error(core, "turn", "it is not whole: "));
                    }
                }
                Some(Item::NoResult) => {
                    let what = "the agent is idle, and the turn had no result";
                    let error = Error::new(ErrorKind::NoResult, "turn", what);
                    return Err(error.on_agent(core.writer.label()));
                }
                None => {
                    let ended = || core.error(ErrorKind::Closed, "the agent is gone");
                    return Err(self.close_reason().unwrap_or_else(ended));
                }
            }
        }
    }

    /// Ends the agent's input as soon as nothing needs it: at once where no handler is set or nothing is
    /// under way. Does not wait. Of an agent that is gone, nothing is ended.
    ///
    /// A CLI that tells its state ends a run with `idle`, also where a background agent wakes it for
    /// another turn; for an older one a run ends with each `result`. The input ends with a run that leaves
    /// no prompt, no background agent or workflow, and no request of the agent open. Each prompt owes
    /// a run of its own; where two may have been answered in one, a second without a further turn decides.
    ///
    /// There is no time limit but [`Builder::background_wait`]: it counts while the CLI says that it is
    /// running and there is neither a turn, nor a request, nor a background agent that it has named.
    /// Shells, monitors and the like may never end, and are not waited for.
    pub fn end_input_when_done(&self) {
        self.input.end_when_done(self.needs_input);
    }

    /// Why no request is taken any more. See [`session::Session::close_reason`](Base::close_reason).
    ///
    /// Where the agent left with an error status, or closed its stdout, right after a `result` that
    /// was an error, it is an [`AgentError`](ErrorKind::AgentError) with the words of that result, and
    /// [`Error::response`] is the record.
    #[must_use]
    pub fn close_reason(&self) -> Option<Error> {
        self.base.close_reason()
    }

    /// A control request of any subtype; `body` has its other keys, `()` if there are none.
    /// Deadline, cancel-safety, the agent's death: as [`session::Session::request`](Base::request).
    ///
    /// # Errors
    /// As [`session::Session::request`](Base::request), and
    /// [`InvalidRecord`](ErrorKind::InvalidRecord) where the body is no JSON object.
    pub async fn request(&self, subtype: &str, body: impl Serialize) -> Result<Record> {
        self.request_with_timeout(subtype, body, self.base.core().settings.deadline).await
    }

    /// [`request`](Self::request) with a deadline of its own; `None` waits as long as the agent
    /// lives. Otherwise as that.
    ///
    /// # Errors
    /// As `request`.
    pub async fn request_with_timeout(
        &self,
        subtype: &str,
        body: impl Serialize,
        deadline: impl Into<Option<Duration>>,
    ) -> Result<Record> {
        let body = Record::from_json(&body)?;
        if !matches!(body.as_bytes().first(), Some(b'{')) && body.as_bytes() != b"null" {
            let what = "the body of a control request is a JSON object";
            return Err(Error::new(ErrorKind::InvalidRecord, "request", what));
        }
        self.base.ask(subtype, body.as_bytes(), deadline.into()).await
    }
}

/// The keys of the requests below.
#[derive(Default, Serialize)]
struct Keys<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_message_id: Option<&'a str>,
    #[serde(rename = "serverName", skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<&'a str>,
}

macro_rules! request {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) => $keys:expr) => {
        impl Session {
            $(#[$doc])*
            ///
            /// Deadline, cancel-safety, the agent's death: as
            /// [`session::Session::request`](Base::request).
            ///
            /// # Errors
            /// As there.
            pub async fn $name(&self, $($arg: $type),*) -> Result<Record> {
                self.request(stringify!($name), $keys).await
            }
        }
    };
}

request! {
    /// Interrupts the turn. Its `result` comes all the same.
    interrupt() => ()
}
request! {
    /// `default`, `acceptEdits`, `plan`, `bypassPermissions`, `dontAsk`, `auto`.
    set_permission_mode(mode: &str) => Keys { mode: Some(mode), ..Keys::default() }
}
request! {
    /// Another model; `None` is the default one.
    set_model(model: Option<&str>) => Keys { model: Some(model), ..Keys::default() }
}
request! {
    /// Files as they were at that user message. Needs file checkpointing.
    rewind_files(user_message_id: &str) =>
        Keys { user_message_id: Some(user_message_id), ..Keys::default() }
}
request! {
    /// The MCP servers of the session: `{"mcpServers": [...]}`.
    mcp_status() => ()
}
request! {
    /// Connects an MCP server again.
    mcp_reconnect(server: &str) => Keys { server: Some(server), ..Keys::default() }
}
request! {
    /// Turns an MCP server on or off.
    mcp_toggle(server: &str, enabled: bool) =>
        Keys { server: Some(server), enabled: Some(enabled), ..Keys::default() }
}
request! {
    /// Stops a background task; a `task_notification` follows.
    stop_task(task_id: &str) => Keys { task_id: Some(task_id), ..Keys::default() }
}
request! {
    /// What fills the context, in tokens.
    get_context_usage() => ()
}

delegate!(Session);
