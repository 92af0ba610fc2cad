//! Floor 4. What a Claude session does to the agent's input: user messages, the interrupt that a
//! close sends, the end.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::agent::AgentWriter;
use crate::error::Result;
use crate::record::Record;
use crate::session::dialect::{Observer, Seen};
use crate::session::host::{Alarm, Host};

use super::run::{Action, Happened};
use super::turns::Turns;

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
    host: Arc<Host>,
    turns: Mutex<Turns>,
    /// What there is once the session is.
    session: OnceLock<Bound>,
}

/// What the input has of its session.
#[derive(Debug)]
struct Bound {
    /// The request that a close sends while a turn is open, and its id.
    interrupt: (u64, Vec<u8>),
    alarm: Mutex<Alarm>,
}

impl Input {
    pub(super) fn new(writer: AgentWriter, host: Arc<Host>, ceiling: Option<Duration>) -> Self {
        let turns = Mutex::new(Turns::new(ceiling));
        Self { writer, host, turns, session: OnceLock::new() }
    }

    pub(super) fn bind(&self, interrupt: (u64, Vec<u8>), alarm: Alarm) {
        let _once = self.session.set(Bound { interrupt, alarm: Mutex::new(alarm) });
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock of the turns, so that two threads cannot leave it the wrong way round. Whether a
    /// turn ended without a result.
    fn carry_out(&self, turns: &Turns, actions: &[Action]) -> bool {
        let session = self.session.get();
        for action in actions {
            let interrupt = match action {
                Action::NoResult => continue,
                Action::EndInput => {
                    self.writer.end_input();
                    continue;
                }
                Action::TurnOpened => session.map(|session| session.interrupt.1.as_slice()),
                Action::TurnEnded => None,
            };
            if let Err(error) = self.writer.set_interrupt(interrupt) {
                crate::trace::warn!(agent = self.writer.label(), %error, "no interrupt is set");
            }
        }
        if let Some(session) = session {
            let mut alarm = session.alarm.lock().unwrap_or_else(PoisonError::into_inner);
            alarm.set(turns.deadline());
        }
        actions.contains(&Action::NoResult)
    }

    fn happened(&self, event: Happened) -> bool {
        let mut turns = self.turns();
        let actions = turns.happened(event, self.host.now());
        self.carry_out(&turns, &actions)
    }

    pub(super) async fn send(&self, message: &UserMessage) -> Result<()> {
        let record = message.record()?;
        let asked = Asked::new(self);
        self.writer.send(record).await?;
        asked.sent();
        Ok(())
    }

    pub(super) fn end_when_done(&self, needed: bool) {
        if needed {
            self.happened(Happened::EndWhenDone);
        } else {
            self.writer.end_input();
        }
    }
}

/// A message on its way. The turn opens before the agent can have it; if it never gets it, none is owed.
struct Asked<'a>(Option<&'a Input>);

impl<'a> Asked<'a> {
    fn new(input: &'a Input) -> Self {
        input.happened(Happened::Prompt);
        Self(Some(input))
    }

    fn sent(mut self) {
        self.0 = None;
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if let Some(input) = self.0 {
            input.happened(Happened::Unsent);
        }
    }
}

impl Observer for Input {
    fn saw(&self, record: &Record) -> Seen {
        let mut turns = self.turns();
        let meaning = turns.saw(record, self.host.now());
        let no_result = self.carry_out(&turns, &meaning.actions);
        Seen { no_result, keep: !meaning.for_host }
    }

    fn lost(&self, kind: Option<&str>) {
        let mut turns = self.turns();
        let actions = turns.lost(kind, self.host.now());
        self.carry_out(&turns, &actions);
    }

    fn replied(&self, id: u64) -> bool {
        let own = self.session.get().is_some_and(|session| session.interrupt.0 == id);
        if own {
            self.happened(Happened::InterruptAnswered);
        }
        own
    }

    fn asked(&self) {
        self.happened(Happened::Asked);
    }

    fn answered(&self) {
        self.happened(Happened::Answered);
    }

    fn deadline(&self) -> Option<Instant> {
        self.turns().deadline()
    }

    fn tick(&self, now: Instant) -> bool {
        let mut turns = self.turns();
        let actions = turns.happened(Happened::Tick, now);
        self.carry_out(&turns, &actions)
    }

    fn last_words(&self) -> Option<(String, Record)> {
        self.turns().last_error()
    }
}
