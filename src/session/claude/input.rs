//! The agent's input: the messages of the user, the interrupt that a close sends, and its end.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::agent::AgentWriter;
use crate::error::Result;
use crate::record::Record;
use crate::session::executor::{Executor, SessionAlarm};
use crate::session::protocol::{Observation, Observer};

use super::run::{RunAction, RunEvent};
use super::turns::TurnTracker;
use super::version::{CliVersion, VersionNeed};
use super::wire::{GivenJson, words};

words! {
    /// When the CLI takes a message that comes within a turn.
    MessagePriority {
        /// At once: the turn is interrupted.
        Now = "now",
        /// As soon as the turn can take it.
        Next = "next",
        /// After the turn.
        Later = "later",
    }
}

/// A message of the user.
#[derive(Clone, Debug)]
pub struct UserMessage {
    content: GivenJson,
    keys: MessageKeys,
}

/// The keys of a message beside its content.
#[derive(Clone, Debug, Default, Serialize)]
struct MessageKeys {
    parent_tool_use_id: Option<String>,
    session_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<MessagePriority>,
    #[serde(rename = "shouldQuery", skip_serializing_if = "Option::is_none")]
    should_query: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_composed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<GivenJson>,
    #[serde(rename = "isSynthetic", skip_serializing_if = "Option::is_none")]
    is_synthetic: Option<bool>,
}

impl UserMessage {
    /// Creates a message of plain text.
    #[must_use]
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::blocks(text.as_ref())
    }

    /// Creates a message of content blocks. `content` serializes to the list of blocks.
    #[must_use]
    pub fn blocks(content: impl Serialize) -> Self {
        let keys = MessageKeys { session_id: "default".into(), ..MessageKeys::default() };
        Self { content: GivenJson::new(content), keys }
    }

    /// Sets `session_id`. Default `default`.
    #[must_use]
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.keys.session_id = id.into();
        self
    }

    /// Sets `parent_tool_use_id`. Default none.
    #[must_use]
    pub fn parent_tool_use_id(mut self, id: impl Into<String>) -> Self {
        self.keys.parent_tool_use_id = Some(id.into());
        self
    }

    /// Sets the id of the message, a UUID. Default none. The result that answers it names it
    /// (`user_message_uuid`), and so do the answers of an interrupt.
    #[must_use]
    pub fn uuid(mut self, id: impl Into<String>) -> Self {
        self.keys.uuid = Some(id.into());
        self
    }

    /// Sets when the CLI takes the message. Default: that of the CLI.
    #[must_use]
    pub fn priority(mut self, priority: MessagePriority) -> Self {
        self.keys.priority = Some(priority);
        self
    }

    /// Sets whether the message begins a turn. Default on. Otherwise it becomes part of the next message
    /// that does. (`shouldQuery`)
    #[must_use]
    pub fn should_query(mut self, on: bool) -> Self {
        self.keys.should_query = Some(on);
        self
    }

    /// Sets the time of the message, in ISO 8601. Default none.
    #[must_use]
    pub fn timestamp(mut self, time: impl Into<String>) -> Self {
        self.keys.timestamp = Some(time.into());
        self
    }

    /// Sets whether no user typed the text, so that it is delivered as it is written. Default:
    /// [`Options::verbatim_prompts`](super::Options::verbatim_prompts). The CLI takes `true` only, and a
    /// `false` is not sent.
    #[must_use]
    pub fn client_composed(mut self, on: bool) -> Self {
        self.keys.client_composed = Some(on);
        self
    }

    /// Sets the origin of the message: an object with `kind`. Default none.
    #[must_use]
    pub fn origin(mut self, origin: impl Serialize) -> Self {
        self.keys.origin = Some(GivenJson::new(origin));
        self
    }

    /// Sets whether the host made the message up. Default: not sent. (`isSynthetic`)
    #[must_use]
    pub fn synthetic(mut self, on: bool) -> Self {
        self.keys.is_synthetic = Some(on);
        self
    }

    fn record(&self, verbatim: bool) -> Result<Record> {
        #[derive(Serialize)]
        struct UserRecord<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            message: UserContent<'a>,
            #[serde(flatten)]
            keys: &'a MessageKeys,
        }
        #[derive(Serialize)]
        struct UserContent<'a> {
            role: &'static str,
            content: &'a Record,
        }
        let mut keys = self.keys.clone();
        keys.client_composed = keys.client_composed.or(Some(verbatim)).filter(|on| *on);
        let content = self.content.record()?;
        Record::from_json(&UserRecord {
            kind: "user",
            message: UserContent { role: "user", content },
            keys: &keys,
        })
    }
}

impl From<&str> for UserMessage {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for UserMessage {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

/// The agent's input. As the observer of its session, it sees when a turn opens and ends.
#[derive(Debug)]
pub(super) struct SessionInput {
    writer: AgentWriter,
    executor: Arc<Executor>,
    turns: Mutex<TurnTracker>,
    version: OnceLock<CliVersion>,
    /// What the session uses of newer CLIs.
    needs: Vec<VersionNeed>,
    verbatim_prompts: bool,
    /// Set once the session exists.
    bound: OnceLock<BoundInput>,
}

/// The part of the session that the input needs.
#[derive(Debug)]
struct BoundInput {
    /// The id and record of the request that a close sends while a turn is open.
    interrupt: (u64, Vec<u8>),
    alarm: Mutex<SessionAlarm>,
}

impl SessionInput {
    pub(super) fn new(
        writer: AgentWriter,
        executor: Arc<Executor>,
        background_wait: Option<Duration>,
        needs: Vec<VersionNeed>,
        verbatim_prompts: bool,
    ) -> Self {
        let turns = Mutex::new(TurnTracker::new(background_wait));
        let (version, bound) = (OnceLock::new(), OnceLock::new());
        Self { writer, executor, turns, version, needs, verbatim_prompts, bound }
    }

    pub(super) fn bind(&self, interrupt: (u64, Vec<u8>), alarm: SessionAlarm) {
        let turns = self.turns();
        let _once = self.bound.set(BoundInput { interrupt, alarm: Mutex::new(alarm) });
        // The reader runs already, and the agent may have begun a turn.
        let opened = turns.run.is_open().then_some(RunAction::TurnOpened);
        self.carry_out(&turns, opened.as_slice());
    }

    pub(super) fn version(&self) -> Option<CliVersion> {
        self.version.get().copied()
    }

    /// Notes the version of the CLI, and warns once of what it is too old for.
    pub(super) fn learn_version(&self, version: CliVersion) {
        if self.version.set(version).is_err() {
            return;
        }
        for VersionNeed { what, since } in self.needs.iter().filter(|need| version < need.since) {
            let agent = self.writer.label();
            crate::trace::warn!(
                agent, %version, "this Claude Code is older than {since}, which {what} needs: update it"
            );
        }
    }

    /// Sends a message of the user.
    pub(super) async fn send(&self, message: &UserMessage) -> Result<()> {
        // A message without JSON fails before a turn opens for it.
        let record = message.record(self.verbatim_prompts)?;
        if message.keys.should_query == Some(false) {
            // No turn answers it.
            return self.writer.send(record).await;
        }
        // The turn opens before the record is queued. The other way round, its result could come
        // first, and the turn would then stay open.
        let prompt = UnsentPrompt::new(self);
        self.writer.send(record).await?;
        prompt.sent();
        Ok(())
    }

    /// Ends the input, or with handlers as soon as the agent does not need it.
    pub(super) fn end_when_done(&self, has_handlers: bool) {
        if has_handlers {
            self.handle(RunEvent::EndWhenDone);
        } else {
            self.writer.end_input();
        }
    }

    fn handle(&self, event: RunEvent) -> bool {
        let mut turns = self.turns();
        let actions = turns.run.handle(event, self.executor.now());
        self.carry_out(&turns, &actions)
    }

    /// Carries out actions, under the lock of the turns: otherwise two threads could do it in the
    /// wrong order. Returns whether a turn ended without a result.
    fn carry_out(&self, turns: &TurnTracker, actions: &[RunAction]) -> bool {
        let bound = self.bound.get();
        for action in actions {
            let interrupt = match action {
                RunAction::NoResult => continue,
                RunAction::EndInput => {
                    self.writer.end_input();
                    continue;
                }
                RunAction::TurnOpened => bound.map(|bound| bound.interrupt.1.as_slice()),
                RunAction::TurnEnded => None,
            };
            if let Err(error) = self.writer.set_interrupt(interrupt) {
                // The turn goes on all the same. Only a close in it does without the interrupt.
                crate::trace::warn!(agent = self.writer.label(), %error, "no interrupt is set");
            }
        }
        if let Some(bound) = bound {
            let mut alarm = bound.alarm.lock().unwrap_or_else(PoisonError::into_inner);
            alarm.set(turns.run.deadline());
        }
        actions.contains(&RunAction::NoResult)
    }

    fn turns(&self) -> MutexGuard<'_, TurnTracker> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A prompt on its way. Its turn opens before the agent can have it. If the prompt is never sent, no
/// turn is owed for it.
struct UnsentPrompt<'a>(Option<&'a SessionInput>);

impl<'a> UnsentPrompt<'a> {
    fn new(input: &'a SessionInput) -> Self {
        input.handle(RunEvent::Prompt);
        Self(Some(input))
    }

    fn sent(mut self) {
        self.0 = None;
    }
}

impl Drop for UnsentPrompt<'_> {
    fn drop(&mut self) {
        if let Some(input) = self.0 {
            input.handle(RunEvent::Unsent);
        }
    }
}

impl Observer for SessionInput {
    fn on_data(&self, record: &Record) -> Observation {
        let mut turns = self.turns();
        let seen = turns.on_message(record, self.executor.now());
        if let Some(version) = seen.version {
            self.learn_version(version);
        }
        let no_result = self.carry_out(&turns, &seen.actions);
        Observation { no_result, keep: !seen.for_host }
    }

    fn on_dropped(&self, kind: Option<&str>) {
        let mut turns = self.turns();
        let actions = turns.on_dropped(kind, self.executor.now());
        self.carry_out(&turns, &actions);
    }

    fn on_response(&self, id: u64) -> bool {
        // The id was reserved, so no request of the session has it.
        let own = self.bound.get().is_some_and(|bound| bound.interrupt.0 == id);
        if own {
            self.handle(RunEvent::InterruptAnswered);
        }
        own
    }

    fn on_request(&self) {
        self.handle(RunEvent::Asked);
    }

    fn on_answered(&self) {
        self.handle(RunEvent::Answered);
    }

    fn deadline(&self) -> Option<Instant> {
        self.turns().run.deadline()
    }

    fn on_deadline(&self, now: Instant) -> bool {
        let mut turns = self.turns();
        let actions = turns.run.handle(RunEvent::Tick, now);
        self.carry_out(&turns, &actions)
    }

    fn last_error(&self) -> Option<(String, Record)> {
        self.turns().last_error()
    }
}
