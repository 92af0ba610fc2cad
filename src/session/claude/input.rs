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

/// A message of the user.
#[derive(Clone, Debug)]
pub struct UserMessage {
    content: Result<Record>,
    session_id: String,
    parent_tool_use_id: Option<String>,
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
        let content = Record::from_json(&content);
        Self { content, session_id: "default".into(), parent_tool_use_id: None }
    }

    /// Sets `session_id`. Default `default`.
    #[must_use]
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = id.into();
        self
    }

    /// Sets `parent_tool_use_id`. Default none.
    #[must_use]
    pub fn parent_tool_use_id(mut self, id: impl Into<String>) -> Self {
        self.parent_tool_use_id = Some(id.into());
        self
    }

    fn record(&self) -> Result<Record> {
        #[derive(Serialize)]
        struct UserRecord<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            message: UserContent<'a>,
            parent_tool_use_id: &'a Option<String>,
            session_id: &'a str,
        }
        #[derive(Serialize)]
        struct UserContent<'a> {
            role: &'static str,
            content: &'a Record,
        }
        let content = self.content.as_ref().map_err(Clone::clone)?;
        Record::from_json(&UserRecord {
            kind: "user",
            message: UserContent { role: "user", content },
            parent_tool_use_id: &self.parent_tool_use_id,
            session_id: &self.session_id,
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
    ) -> Self {
        let turns = Mutex::new(TurnTracker::new(background_wait));
        Self { writer, executor, turns, version: OnceLock::new(), needs, bound: OnceLock::new() }
    }

    pub(super) fn bind(&self, interrupt: (u64, Vec<u8>), alarm: SessionAlarm) {
        let turns = self.turns();
        let _once = self.bound.set(BoundInput { interrupt, alarm: Mutex::new(alarm) });
        // The reader runs already, and the agent may have begun a turn.
        let opened = turns.is_open().then_some(RunAction::TurnOpened);
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
        let record = message.record()?;
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
        let actions = turns.handle(event, self.executor.now());
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
            alarm.set(turns.deadline());
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
        self.turns().deadline()
    }

    fn on_deadline(&self, now: Instant) -> bool {
        let mut turns = self.turns();
        let actions = turns.handle(RunEvent::Tick, now);
        self.carry_out(&turns, &actions)
    }

    fn last_error(&self) -> Option<(String, Record)> {
        self.turns().last_error()
    }
}
