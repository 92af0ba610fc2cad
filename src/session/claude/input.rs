//! Floor 4. What a Claude session does to the agent's input: user messages, the interrupt that a
//! close sends, the end.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde::Serialize;

use crate::engine::AgentWriter;
use crate::error::Result;
use crate::record::Record;
use crate::session::dialect::Observer;

use super::turns::{Effect, Turns};

/// A message of the user, as it is sent.
#[derive(Clone, Debug)]
pub struct UserMessage {
    content: Result<Record>,
    session_id: String,
    parent_tool_use_id: Option<String>,
}

impl UserMessage {
    /// A message of plain text.
    #[must_use]
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::blocks(text.as_ref())
    }

    /// A message of content blocks: whatever serializes to the list of them.
    #[must_use]
    pub fn blocks(content: impl Serialize) -> Self {
        let content = Record::from_json(&content);
        Self { content, session_id: "default".into(), parent_tool_use_id: None }
    }

    /// The `session_id`. Default `default`.
    #[must_use]
    pub fn session_id(mut self, id: impl Into<String>) -> Self {
        self.session_id = id.into();
        self
    }

    /// The `parent_tool_use_id`. Default none.
    #[must_use]
    pub fn parent_tool_use_id(mut self, id: impl Into<String>) -> Self {
        self.parent_tool_use_id = Some(id.into());
        self
    }

    fn record(&self) -> Result<Record> {
        #[derive(Serialize)]
        struct Frame<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            message: Message<'a>,
            parent_tool_use_id: &'a Option<String>,
            session_id: &'a str,
        }
        #[derive(Serialize)]
        struct Message<'a> {
            role: &'static str,
            content: &'a Record,
        }
        let content = self.content.as_ref().map_err(Clone::clone)?;
        Record::from_json(&Frame {
            kind: "user",
            message: Message { role: "user", content },
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

/// The agent's input, and what the session's messages mean for it.
#[derive(Debug)]
pub(super) struct Input {
    writer: AgentWriter,
    turns: Mutex<Turns>,
    /// The request that a close sends while a turn is open.
    interrupt: OnceLock<Vec<u8>>,
}

impl Input {
    pub(super) fn new(writer: AgentWriter) -> Self {
        Self { writer, turns: Mutex::default(), interrupt: OnceLock::new() }
    }

    pub(super) fn set_interrupt(&self, request: Vec<u8>) {
        let _once = self.interrupt.set(request);
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock of the turns, so that two threads cannot leave it the wrong way round.
    fn carry_out(&self, effect: Effect) {
        let interrupt = match effect {
            Effect::EndInput => return self.writer.end_input(),
            Effect::TurnOpened => self.interrupt.get().map(Vec::as_slice),
            Effect::TurnEnded => None,
        };
        if let Err(error) = self.writer.set_interrupt(interrupt) {
            crate::trace::warn!(agent = self.writer.label(), %error, "no interrupt is set");
        }
    }

    pub(super) async fn send(&self, message: &UserMessage) -> Result<()> {
        let record = message.record()?;
        let asked = Asked::new(self);
        self.writer.send(record).await?;
        asked.sent();
        Ok(())
    }

    pub(super) fn end_when_done(&self, needed: bool) {
        let mut turns = self.turns();
        if let Some(effect) = turns.end_when_done(needed) {
            self.carry_out(effect);
        }
    }
}

/// A message on its way. The turn opens before the agent can have it; if it never gets it, the
/// turn is closed again.
struct Asked<'a> {
    input: &'a Input,
    number: Option<u64>,
}

impl<'a> Asked<'a> {
    fn new(input: &'a Input) -> Self {
        let mut turns = input.turns();
        let (effect, number) = turns.asked();
        if let Some(effect) = effect {
            input.carry_out(effect);
        }
        Self { input, number: Some(number) }
    }

    fn sent(mut self) {
        self.number = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut turns = self.input.turns();
        if let Some(effect) = turns.not_asked(number) {
            self.input.carry_out(effect);
        }
    }
}

impl Observer for Input {
    fn saw(&self, record: &Record) {
        let mut turns = self.turns();
        for effect in turns.saw(record) {
            self.carry_out(effect);
        }
    }

    fn last_words(&self) -> Option<(String, Record)> {
        self.turns().last_error()
    }
}
