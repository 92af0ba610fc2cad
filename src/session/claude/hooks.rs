//! Hooks: registered in `initialize`, called back by id.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::record::Record;
use crate::session::handlers::{AgentRequest, Handler, HandlerResult};
use crate::session::protocol::{RpcError, part_of};

use super::permission::PermissionBehavior;
use super::wire::{GivenJson, words};

/// A call of a hook.
#[derive(Clone, Debug)]
pub struct HookRequest {
    input: Record,
    tool_use_id: Option<String>,
}

impl HookRequest {
    /// Returns the input of the hook, byte for byte: `hook_event_name`, `tool_name`, ...
    #[must_use]
    pub fn input(&self) -> &Record {
        &self.input
    }

    /// Returns the id of the tool use, if the event is about one.
    #[must_use]
    pub fn tool_use_id(&self) -> Option<&str> {
        self.tool_use_id.as_deref()
    }
}

words! {
    /// An event at which a hook runs, for [`HookMatcher`]. The keys that it understands in
    /// [`HookOutput::specific`] follow in parentheses. The CLI calls `SessionStart` and `SessionEnd` hooks
    /// of its settings only.
    HookKind {
        /// Before a tool runs (`permissionDecision`, `permissionDecisionReason`, `updatedInput`,
        /// `additionalContext`).
        PreToolUse = "PreToolUse",
        /// After a tool ran (`additionalContext`, `updatedToolOutput`, `classifierContext`).
        PostToolUse = "PostToolUse",
        /// After a tool failed (`additionalContext`).
        PostToolUseFailure = "PostToolUseFailure",
        /// After all tool calls of a message (`additionalContext`).
        PostToolBatch = "PostToolBatch",
        /// With a notification (`additionalContext`).
        Notification = "Notification",
        /// Before a prompt is taken (`additionalContext`, `sessionTitle`, `suppressOriginalPrompt`).
        UserPromptSubmit = "UserPromptSubmit",
        /// Before a slash command becomes a prompt (`additionalContext`, `suppressOriginalPrompt`).
        UserPromptExpansion = "UserPromptExpansion",
        /// At the beginning of a session (`additionalContext`, `initialUserMessage`, `sessionTitle`,
        /// `watchPaths`, `reloadSkills`).
        SessionStart = "SessionStart",
        /// At the end of a session.
        SessionEnd = "SessionEnd",
        /// Before a turn ends (`additionalContext`).
        Stop = "Stop",
        /// After a turn failed.
        StopFailure = "StopFailure",
        /// Before a subagent begins (`additionalContext`).
        SubagentStart = "SubagentStart",
        /// Before a subagent ends (`additionalContext`).
        SubagentStop = "SubagentStop",
        /// Before the conversation is compacted.
        PreCompact = "PreCompact",
        /// After the conversation was compacted.
        PostCompact = "PostCompact",
        /// Before the model changes (`permissionDecision`, `permissionDecisionReason`).
        PreModelSwitch = "PreModelSwitch",
        /// After the model has changed (`additionalContext`).
        PostModelSwitch = "PostModelSwitch",
        /// With the question for a permission (`decision`).
        PermissionRequest = "PermissionRequest",
        /// After a permission was denied (`retry`).
        PermissionDenied = "PermissionDenied",
        /// At the setup of a project (`additionalContext`).
        Setup = "Setup",
        /// Before a teammate is idle.
        TeammateIdle = "TeammateIdle",
        /// After a task was created.
        TaskCreated = "TaskCreated",
        /// Before a task is complete.
        TaskCompleted = "TaskCompleted",
        /// Before an MCP server asks the user (`action`, `content`).
        Elicitation = "Elicitation",
        /// Before the MCP server has the user's answer (`action`, `content`).
        ElicitationResult = "ElicitationResult",
        /// After a settings file changed.
        ConfigChange = "ConfigChange",
        /// In place of the creation of a worktree (`worktreePath`).
        WorktreeCreate = "WorktreeCreate",
        /// Before a worktree is removed.
        WorktreeRemove = "WorktreeRemove",
        /// After instructions were loaded.
        InstructionsLoaded = "InstructionsLoaded",
        /// After the working directory changed (`watchPaths`).
        CwdChanged = "CwdChanged",
        /// After a watched file changed (`watchPaths`).
        FileChanged = "FileChanged",
        /// After a working directory was added.
        DirectoryAdded = "DirectoryAdded",
        /// Before a text is shown (`displayContent`).
        MessageDisplay = "MessageDisplay",
        /// Before a skill runs a command (`permissionDecision`, `permissionDecisionReason`,
        /// `updatedInput`).
        PreSkillShellCommand = "PreSkillShellCommand",
    }
}

/// The calls for which a hook runs. A [`HookKind`], or a text for an event of a later CLI, stands for all
/// calls of that event.
#[derive(Clone, Debug, Serialize)]
#[must_use]
pub struct HookMatcher {
    #[serde(skip)]
    event: String,
    matcher: Option<String>,
    #[serde(rename = "hookCallbackIds")]
    ids: Vec<String>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
    #[serde(rename = "onFailure", skip_serializing_if = "Option::is_none")]
    on_failure: Option<&'static str>,
}

impl HookMatcher {
    /// Creates a matcher for all calls of an event.
    pub fn new(event: impl AsRef<str>) -> Self {
        let event = event.as_ref().into();
        Self { event, matcher: None, ids: Vec::new(), timeout: None, on_failure: None }
    }

    /// Selects calls, mostly by the name of the tool: `Bash|Edit`. Default: all.
    pub fn matching(mut self, pattern: impl Into<String>) -> Self {
        self.matcher = Some(pattern.into());
        self
    }

    /// Sets when the CLI gives the hook up. Default: that of the CLI.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit.as_secs_f64());
        self
    }

    /// Blocks the action if the hook fails, panics or returns an invalid output. Default: the action goes
    /// ahead, so a hook that guards a tool does not guard it.
    ///
    /// Needs a CLI that knows this: with an older one,
    /// [`Session::initialize`](super::Session::initialize) fails. Has no effect on `Stop`,
    /// `SubagentStop`, `TaskCompleted` and `TeammateIdle`. (`onFailure`)
    pub fn block_on_failure(mut self) -> Self {
        self.on_failure = Some("block");
        self
    }
}

impl From<HookKind> for HookMatcher {
    fn from(event: HookKind) -> Self {
        Self::new(event)
    }
}

impl From<&str> for HookMatcher {
    fn from(event: &str) -> Self {
        Self::new(event)
    }
}

/// All hooks of a session. Their ids are `hook_0`, `hook_1`, ... in the order of registration.
#[derive(Clone, Default)]
pub(super) struct Hooks {
    events: BTreeMap<String, Vec<HookMatcher>>,
    by_id: HashMap<String, Handler<HookRequest>>,
}

impl Hooks {
    pub(super) fn add(&mut self, mut on: HookMatcher, hook: Handler<HookRequest>) {
        let id = format!("hook_{}", self.by_id.len());
        on.ids.push(id.clone());
        self.events.entry(on.event.clone()).or_default().push(on);
        self.by_id.insert(id, hook);
    }

    /// Returns whether a hook has to block if it fails.
    pub(super) fn must_block(&self) -> bool {
        self.events.values().flatten().any(|on| on.on_failure.is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the key `hooks` of `initialize`.
    pub(super) fn registration(&self) -> Result<Record> {
        Record::from_json(&self.events)
    }

    /// Handles `hook_callback`.
    pub(super) async fn call(self: Arc<Self>, request: AgentRequest) -> HandlerResult {
        #[derive(Deserialize)]
        struct HookCallback<'a> {
            callback_id: String,
            #[serde(borrow, default)]
            input: Option<&'a RawValue>,
            #[serde(default)]
            tool_use_id: Option<String>,
        }
        let body = request.body();
        let call: HookCallback<'_> = serde_json::from_slice(body.as_bytes()).map_err(|error| {
            RpcError::new(format!("hook_callback without a callback_id: {error}"))
        })?;
        let Some(hook) = self.by_id.get(&call.callback_id) else {
            return Err(RpcError::new(format!("no hook has the id {}", call.callback_id)));
        };
        hook(HookRequest { input: part_of(body, call.input), tool_use_id: call.tool_use_id }).await
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events.fmt(f)
    }
}

/// The output of a hook, for [`Builder::hook`](super::Builder::hook). By default it lets the agent
/// go on.
///
/// A hook may also return any type that serializes to the keys of the CLI: a `json!`, or a struct
/// whose fields serde names `continue` and `async`.
///
/// ```
/// use agentpipe::session::claude::{HookKind, HookOutput};
/// use serde_json::json;
///
/// let output = HookOutput::new()
///     .message("Not in this folder")
///     .specific(HookKind::PreToolUse, json!({"permissionDecision": "deny"}));
/// assert_eq!(
///     serde_json::to_value(&output)?,
///     json!({
///         "systemMessage": "Not in this folder",
///         "hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "deny"},
///     })
/// );
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct HookOutput(BTreeMap<String, GivenJson>);

impl HookOutput {
    /// Creates an output that lets the agent go on: `{}`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an output for a hook that goes on in the background. The agent does not wait for its
    /// result. Sets `async`, and with a limit `asyncTimeout` in whole milliseconds.
    #[must_use]
    pub fn in_background(limit: Option<Duration>) -> Self {
        let output = Self::new().field("async", true);
        match limit {
            Some(limit) => output.field("asyncTimeout", limit.as_millis()),
            None => output,
        }
    }

    /// Stops the agent after this hook, and shows the reason to its user. Sets `continue` and
    /// `stopReason`.
    #[must_use]
    pub fn stop(self, why: impl AsRef<str>) -> Self {
        self.field("continue", false).field("stopReason", why.as_ref())
    }

    /// Blocks the action of the event, and shows the reason to the model. Sets `decision` and
    /// `reason`.
    #[must_use]
    pub fn block(self, why: impl AsRef<str>) -> Self {
        self.field("decision", "block").field("reason", why.as_ref())
    }

    /// Shows a message to the user. Sets `systemMessage`.
    #[must_use]
    pub fn message(self, text: impl AsRef<str>) -> Self {
        self.field("systemMessage", text.as_ref())
    }

    /// Keeps the output of the hook out of the transcript. Sets `suppressOutput`.
    #[must_use]
    pub fn quiet(self) -> Self {
        self.field("suppressOutput", true)
    }

    /// Decides on the action: with [`HookKind::PreToolUse`], [`HookKind::PreModelSwitch`] and
    /// [`HookKind::PreSkillShellCommand`]. Sets `permissionDecision` and `permissionDecisionReason`.
    #[must_use]
    pub fn decide(
        self,
        event: impl AsRef<str>,
        decision: PermissionBehavior,
        why: impl AsRef<str>,
    ) -> Self {
        let (decision, why) = (decision.as_str(), why.as_ref());
        let keys = json!({"permissionDecision": decision, "permissionDecisionReason": why});
        self.specific(event, keys)
    }

    /// Tells the model something. Sets `additionalContext`.
    #[must_use]
    pub fn context(self, event: impl AsRef<str>, text: impl AsRef<str>) -> Self {
        self.specific(event, json!({"additionalContext": text.as_ref()}))
    }

    /// Sets keys of `hookSpecificOutput`, which one event has, and its `hookEventName`. `keys` serializes
    /// to a JSON object. A further call adds its keys. [`HookKind`] lists the keys of each event.
    #[must_use]
    pub fn specific(mut self, event: impl AsRef<str>, keys: impl Serialize) -> Self {
        const KEY: &str = "hookSpecificOutput";
        let keys = GivenJson::new(keys);
        let merged = (|| {
            let mut all: Map<String, Value> = match self.0.get(KEY) {
                Some(earlier) => earlier.record()?.json()?,
                None => Map::new(),
            };
            all.extend(keys.record()?.json::<Map<String, Value>>()?);
            // Written last, and once: keys that name another event would hide the output.
            all.insert("hookEventName".into(), event.as_ref().into());
            Ok(all)
        })();
        let merged = match merged {
            Ok(keys) => GivenJson::new(keys),
            Err(error) => GivenJson::invalid(error),
        };
        self.0.insert(KEY.into(), merged);
        self
    }

    /// Sets any other key. A value without JSON is an error of the response: the agent gets it.
    #[must_use]
    pub fn field(mut self, key: impl Into<String>, value: impl Serialize) -> Self {
        self.0.insert(key.into(), GivenJson::new(value));
        self
    }
}

impl Serialize for HookOutput {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(&self.0)
    }
}
