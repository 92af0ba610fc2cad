//! What the messages of the CLI say about its work: states, turns, background tasks, and the last error.
//! Pure: it takes records and times and returns actions.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::record::Record;

use super::run::{CliState, Run, RunAction, RunEvent};
use super::version::CliVersion;

/// Background tasks that are tracked at once. A further one is ignored.
const TASKS_MAX: usize = 4096;

/// Tracks the turns and tasks of one session.
#[derive(Debug)]
pub(super) struct TurnTracker {
    pub(super) run: Run,
    tasks: HashSet<Box<str>>,
    last_error: Option<Record>,
}

/// The effects of a message on the session.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SeenMessage {
    pub(super) actions: Vec<RunAction>,
    /// The message is meant for the host alone, so the reader does not get it.
    pub(super) for_host: bool,
    /// The version of the CLI, which the beginning of a turn names.
    pub(super) version: Option<CliVersion>,
}

impl TurnTracker {
    /// `ceiling` is how long a CLI may be running between turns before its input ends all the same.
    pub(super) fn new(ceiling: Option<Duration>) -> Self {
        Self { run: Run::new(ceiling), tasks: HashSet::new(), last_error: None }
    }

    pub(super) fn on_message(&mut self, record: &Record, now: Instant) -> SeenMessage {
        let mut seen = SeenMessage::default();
        let Ok(envelope) = record.envelope() else { return seen };
        let subtype = envelope.subtype.as_deref().unwrap_or_default();
        let kind = envelope.kind.as_deref().unwrap_or_default();
        let event = match kind {
            // Records beside the conversation do not change the last error.
            "keep_alive" | "transcript_mirror" => return seen,
            "system" if subtype == "session_state_changed" => {
                let (state, for_host) = state(record);
                seen.for_host = for_host;
                state.map(RunEvent::State)
            }
            "result" => {
                let result: ResultKeys = record.json().unwrap_or_default();
                self.last_error = (result.is_error == true).then(|| record.clone());
                Some(RunEvent::Result { queue_empty: result.queued_turn_count == 0 })
            }
            _ => {
                // The agent went on after the error, so the error does not explain a later end.
                self.last_error = None;
                match kind {
                    "system" if subtype == "init" => {
                        seen.version = version(record);
                        Some(RunEvent::Turn)
                    }
                    "system" if subtype.starts_with("task_") => self.task(subtype, record),
                    // Records of a subagent may come between turns.
                    "assistant" | "stream_event" if envelope.parent_tool_use_id.is_none() => {
                        Some(RunEvent::Turn)
                    }
                    _ => None,
                }
            }
        };
        if let Some(event) = event {
            seen.actions = self.run.handle(event, now);
        }
        seen
    }

    /// Handles a dropped record. `kind` is its type, if the remaining bytes tell.
    pub(super) fn on_dropped(&mut self, kind: Option<&str>, now: Instant) -> Vec<RunAction> {
        match kind {
            Some("result") => self.run.handle(RunEvent::Dropped { result: true }, now),
            None => self.run.handle(RunEvent::Dropped { result: false }, now),
            // A record of another known type is not a result, so the turn goes on.
            Some(_) => Vec::new(),
        }
    }

    /// Tracks a background task. Only agents and workflows count: shells and monitors may never end, and
    /// the session must not wait for them.
    fn task(&mut self, subtype: &str, record: &Record) -> Option<RunEvent> {
        // Each key may have any type: one that changes in a later CLI must not hide the others.
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct TaskKeys {
            task_id: Value,
            task_type: Value,
            status: Value,
            patch: Value,
        }
        let task = record.json::<TaskKeys>().ok()?;
        let id = task.task_id.as_str()?;
        let status = match subtype {
            "task_started" => {
                let counts =
                    matches!(task.task_type.as_str(), Some("local_agent" | "local_workflow"));
                let first = self.tasks.is_empty();
                // An agent that begins tasks without end must not fill the memory of this process.
                if counts && self.tasks.len() < TASKS_MAX {
                    self.tasks.insert(id.into());
                    return first.then_some(RunEvent::TasksBegan);
                }
                return None;
            }
            "task_notification" => task.status.as_str(),
            "task_updated" => {
                let over = ["completed", "failed", "stopped", "killed"];
                Some(task.patch.get("status")?.as_str().filter(|status| over.contains(status))?)
            }
            _ => return None,
        };
        let was_there = self.tasks.remove(id);
        let stopped = matches!(status, Some("stopped" | "killed"));
        (was_there && self.tasks.is_empty()).then_some(RunEvent::TasksOver { stopped })
    }

    /// Returns the last result, if it was an error and no message came after it: its message, and the
    /// record.
    pub(super) fn last_error(&self) -> Option<(String, Record)> {
        let record = self.last_error.as_ref()?;
        Some((error_message(record), record.clone()))
    }

    #[cfg(test)]
    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

/// Returns the state that a record reports, and whether the record is meant for the host alone.
fn state(record: &Record) -> (Option<CliState>, bool) {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct StateKeys {
        state: Value,
        sdk_host_only: Value,
    }
    let Ok(changed) = record.json::<StateKeys>() else { return (None, false) };
    let state = match changed.state.as_str() {
        Some("requires_action") => Some(CliState::NeedsAnswer),
        Some("idle") => Some(CliState::Idle),
        // A state of a later CLI is not idle.
        Some(_) => Some(CliState::Running),
        None => None,
    };
    (state, changed.sdk_host_only == Value::Bool(true))
}

/// Returns the version that the beginning of a turn names.
fn version(record: &Record) -> Option<CliVersion> {
    #[derive(Deserialize)]
    struct VersionKey {
        #[serde(default)]
        claude_code_version: Value,
    }
    CliVersion::parse(record.json::<VersionKey>().ok()?.claude_code_version.as_str()?)
}

/// The keys of a result that say how it ended.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ResultKeys {
    is_error: Value,
    queued_turn_count: Value,
}

/// Returns the errors of a result, or else its text, its subtype, or the HTTP status.
fn error_message(record: &Record) -> String {
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
