//! Floor 4. What a Claude session remembers of its messages: whether a turn is open, which tasks
//! run in the background, and the last error. Pure: records in, effects out.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use crate::record::Record;

/// Background tasks remembered at once. One more is passed over.
const TASKS_MAX: usize = 4096;

/// What is to be done about the agent's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// A turn is open: a close has to interrupt it.
    TurnOpened,
    /// No turn is open.
    TurnEnded,
    /// Nothing needs the input any more.
    EndInput,
}

/// One session's memory.
#[derive(Debug, Default)]
pub(super) struct Turns {
    open: bool,
    /// Counts the openings, so that one that did not happen can be taken back.
    opened: u64,
    tasks: HashSet<Box<str>>,
    last_error: Option<Record>,
    /// The input ends with the first result that finds no task in flight.
    ending: bool,
}

impl Turns {
    /// A user message is about to be sent. The number is for [`not_asked`](Self::not_asked).
    pub(super) fn asked(&mut self) -> (Option<Effect>, u64) {
        self.opened += 1;
        (self.opens(), self.opened)
    }

    /// That message was not sent after all.
    pub(super) fn not_asked(&mut self, number: u64) -> Option<Effect> {
        (self.opened == number).then(|| self.ends()).flatten()
    }

    /// The input may end once nothing needs it.
    pub(super) fn end_when_done(&mut self, needed: bool) -> Option<Effect> {
        self.ending = needed && (self.open || !self.tasks.is_empty());
        (!self.ending).then_some(Effect::EndInput)
    }

    /// A message came.
    pub(super) fn saw(&mut self, record: &Record) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Ok(envelope) = record.envelope() else { return effects };
        let subtype = envelope.subtype.as_deref().unwrap_or_default();
        let kind = envelope.kind.as_deref().unwrap_or_default();
        match kind {
            // What the CLI says beside its messages.
            "keep_alive" | "transcript_mirror" => return effects,
            "system" if subtype == "session_state_changed" => return effects,
            _ => self.last_error = None,
        }
        match kind {
            "result" => {
                self.last_error = is_error(record).then(|| record.clone());
                effects.extend(self.ends());
                if self.ending && self.tasks.is_empty() {
                    self.ending = false;
                    effects.push(Effect::EndInput);
                }
            }
            "system" if subtype == "init" => effects.extend(self.opens()),
            "system" if subtype.starts_with("task_") => self.task(subtype, record),
            // Those of a subagent may come between turns.
            "assistant" | "stream_event" if envelope.parent_tool_use_id.is_none() => {
                effects.extend(self.opens());
            }
            _ => {}
        }
        effects
    }

    fn opens(&mut self) -> Option<Effect> {
        (!std::mem::replace(&mut self.open, true)).then_some(Effect::TurnOpened)
    }

    fn ends(&mut self) -> Option<Effect> {
        std::mem::take(&mut self.open).then_some(Effect::TurnEnded)
    }

    /// The ledger. Only agents and workflows are in it: shells, monitors and the like may never
    /// end, and a session must not wait for them.
    fn task(&mut self, subtype: &str, record: &Record) {
        #[derive(Deserialize)]
        struct Task {
            #[serde(default)]
            task_id: Value,
            #[serde(default)]
            task_type: Value,
            #[serde(default)]
            patch: Value,
        }
        let Ok(task) = record.json::<Task>() else { return };
        let Some(id) = task.task_id.as_str() else { return };
        match subtype {
            "task_started" => {
                let counts =
                    matches!(task.task_type.as_str(), Some("local_agent" | "local_workflow"));
                if counts && self.tasks.len() < TASKS_MAX {
                    self.tasks.insert(id.into());
                }
            }
            "task_notification" => {
                self.tasks.remove(id);
            }
            "task_updated" => {
                let status = task.patch.get("status").and_then(Value::as_str);
                if matches!(status, Some("completed" | "failed" | "stopped" | "killed")) {
                    self.tasks.remove(id);
                }
            }
            _ => {}
        }
    }

    /// The last result, if it was an error and nothing came after it: its words, and itself.
    pub(super) fn last_error(&self) -> Option<(String, Record)> {
        let record = self.last_error.as_ref()?;
        Some((words(record), record.clone()))
    }

    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    #[cfg(test)]
    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

fn is_error(record: &Record) -> bool {
    #[derive(Deserialize)]
    struct Result {
        #[serde(default)]
        is_error: Value,
    }
    record.json::<Result>().is_ok_and(|result| result.is_error == Value::Bool(true))
}

/// The errors, else the result's text, else its subtype, else the HTTP status.
fn words(record: &Record) -> String {
    let result: Value = record.json().unwrap_or_default();
    let text =
        |value: &Value| value.as_str().map(str::trim).filter(|t| !t.is_empty()).map(String::from);
    let errors: Vec<String> =
        result["errors"].as_array().into_iter().flatten().filter_map(text).collect();
    if !errors.is_empty() {
        return errors.join("; ");
    }
    if let Some(said) = text(&result["result"]) {
        return said;
    }
    if let Some(subtype) = text(&result["subtype"]).filter(|subtype| subtype != "success") {
        return subtype;
    }
    match &result["api_error_status"] {
        Value::Null => "the last result was an error".into(),
        status => format!("the API answered with status {status}"),
    }
}
