//! What a Claude session reads in its messages: states, turns, background tasks, and the last
//! error. Pure: records and moments in, actions out.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::record::Record;

use super::run::{Action, Happened, Run, State};

/// Background tasks that are remembered at once. One more is passed over.
const TASKS_MAX: usize = 4096;

/// One session's memory.
#[derive(Debug)]
pub(super) struct Turns {
    run: Run,
    tasks: HashSet<Box<str>>,
    last_error: Option<Record>,
}

/// What a message means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) actions: Vec<Action>,
    /// It was meant for the host alone.
    pub(super) for_host: bool,
}

impl Turns {
    /// `ceiling`: how long a CLI may be running between turns before its input ends all the same.
    pub(super) fn new(ceiling: Option<Duration>) -> Self {
        Self { run: Run::new(ceiling), tasks: HashSet::new(), last_error: None }
    }

    pub(super) fn happened(&mut self, event: Happened, now: Instant) -> Vec<Action> {
        self.run.handle(event, now)
    }

    /// When a [`Happened::Tick`] is wanted.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.run.deadline()
    }

    /// A message came.
    pub(super) fn saw(&mut self, record: &Record, now: Instant) -> Meaning {
        let mut meaning = Meaning::default();
        let Ok(envelope) = record.envelope() else { return meaning };
        let subtype = envelope.subtype.as_deref().unwrap_or_default();
        let kind = envelope.kind.as_deref().unwrap_or_default();
        let event = match kind {
            // What the CLI says beside its messages.
            "keep_alive" | "transcript_mirror" => return meaning,
            "system" if subtype == "session_state_changed" => {
                let (state, for_host) = state(record);
                meaning.for_host = for_host;
                state.map(Happened::Said)
            }
            "result" => {
                let result = Outcome::of(record);
                self.last_error = result.is_error.then(|| record.clone());
                Some(Happened::Result { queue_empty: result.queue_empty })
            }
            _ => {
                self.last_error = None;
                match kind {
                    "system" if subtype == "init" => Some(Happened::Turn),
                    "system" if subtype.starts_with("task_") => self.task(subtype, record),
                    // Those of a subagent may come between turns.
                    "assistant" | "stream_event" if envelope.parent_tool_use_id.is_none() => {
                        Some(Happened::Turn)
                    }
                    _ => None,
                }
            }
        };
        if let Some(event) = event {
            meaning.actions = self.run.handle(event, now);
        }
        meaning
    }

    /// A record was dropped. `kind` is its type, where what is left of it says so.
    pub(super) fn lost(&mut self, kind: Option<&str>, now: Instant) -> Vec<Action> {
        match kind {
            Some("result") => self.run.handle(Happened::Lost { result: true }, now),
            None => self.run.handle(Happened::Lost { result: false }, now),
            Some(_) => Vec::new(),
        }
    }

    /// The ledger. Only agents and workflows are in it: shells, monitors and the like may never
    /// end, and a session must not wait for them.
    fn task(&mut self, subtype: &str, record: &Record) -> Option<Happened> {
        #[derive(Deserialize)]
        struct Task {
            #[serde(default)]
            task_id: Value,
            #[serde(default)]
            task_type: Value,
            #[serde(default)]
            status: Value,
            #[serde(default)]
            patch: Value,
        }
        let task = record.json::<Task>().ok()?;
        let id = task.task_id.as_str()?;
        let status = match subtype {
            "task_started" => {
                let counts =
                    matches!(task.task_type.as_str(), Some("local_agent" | "local_workflow"));
                let first = self.tasks.is_empty();
                if counts && self.tasks.len() < TASKS_MAX {
                    self.tasks.insert(id.into());
                    return first.then_some(Happened::TasksBegan);
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
        (was_there && self.tasks.is_empty()).then_some(Happened::TasksOver { stopped })
    }

    /// The last result, if it was an error and nothing came after it: its words, and itself.
    pub(super) fn last_error(&self) -> Option<(String, Record)> {
        let record = self.last_error.as_ref()?;
        Some((words(record), record.clone()))
    }

    #[cfg(test)]
    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

/// The state that a record tells, if it is one that is known, and whether it is meant for the host alone.
fn state(record: &Record) -> (Option<State>, bool) {
    #[derive(Deserialize)]
    struct Changed {
        #[serde(default)]
        state: Value,
        #[serde(default)]
        sdk_host_only: Value,
    }
    let Ok(changed) = record.json::<Changed>() else { return (None, false) };
    let state = match changed.state.as_str() {
        Some("requires_action") => Some(State::NeedsAnswer),
        Some("idle") => Some(State::Idle),
        // A state to come is not idle.
        Some(_) => Some(State::Running),
        None => None,
    };
    (state, changed.sdk_host_only == Value::Bool(true))
}

/// What of a result matters here.
#[derive(Default)]
struct Outcome {
    is_error: bool,
    queue_empty: bool,
}

impl Outcome {
    fn of(record: &Record) -> Self {
        #[derive(Deserialize)]
        struct Result {
            #[serde(default)]
            is_error: Value,
            #[serde(default)]
            queued_turn_count: Value,
        }
        let Ok(result) = record.json::<Result>() else { return Self::default() };
        Self {
            is_error: result.is_error == Value::Bool(true),
            queue_empty: result.queued_turn_count.as_u64() == Some(0),
        }
    }
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
