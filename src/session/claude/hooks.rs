//! Hooks: registered in `initialize`, called back by id.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::Result;
use crate::record::Record;
use crate::session::handlers::{AgentRequest, Handler, HandlerResult};
use crate::session::protocol::RpcError;

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

/// All hooks of a session. Their ids are `hook_0`, `hook_1`, ... in the order of registration.
#[derive(Clone, Default)]
pub(super) struct Hooks {
    events: BTreeMap<String, Vec<HookMatcher>>,
    by_id: HashMap<String, Handler<HookRequest>>,
}

/// A hook as `initialize` registers it.
#[derive(Clone, Debug, Serialize)]
struct HookMatcher {
    matcher: Option<String>,
    #[serde(rename = "hookCallbackIds")]
    ids: Vec<String>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
}

impl Hooks {
    pub(super) fn add(
        &mut self,
        event: &str,
        matcher: Option<&str>,
        timeout: Option<Duration>,
        hook: Handler<HookRequest>,
    ) {
        let id = format!("hook_{}", self.by_id.len());
        self.events.entry(event.into()).or_default().push(HookMatcher {
            matcher: matcher.map(Into::into),
            ids: vec![id.clone()],
            timeout: timeout.map(|limit| limit.as_secs_f64()),
        });
        self.by_id.insert(id, hook);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the key `hooks` of `initialize`; `None`, which is sent as `null`, without any hook.
    pub(super) fn registration(&self) -> Option<impl Serialize> {
        (!self.is_empty()).then_some(&self.events)
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
        let input = match call.input {
            Some(input) => body.part(input.get().as_bytes()),
            None => b"null".to_vec().into(),
        };
        hook(HookRequest { input, tool_use_id: call.tool_use_id }).await
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
/// use agentpipe::session::claude::HookOutput;
/// use serde_json::json;
///
/// let output = HookOutput::new()
///     .message("Not in this folder")
///     .specific("PreToolUse", json!({"permissionDecision": "deny"}));
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
pub struct HookOutput(BTreeMap<String, Result<Record>>);

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

    /// Sets `hookSpecificOutput`, the keys of one event, with its `hookEventName`. `keys` serializes
    /// to a JSON object.
    ///
    /// `PreToolUse` has `permissionDecision`, `updatedInput` and `additionalContext`; `PostToolUse` an
    /// updated output; `PermissionRequest` a `decision`.
    #[must_use]
    pub fn specific(self, event: &str, keys: impl Serialize) -> Self {
        #[derive(Serialize)]
        struct SpecificOutput<'a, T> {
            #[serde(rename = "hookEventName")]
            event: &'a str,
            #[serde(flatten)]
            keys: T,
        }
        self.field("hookSpecificOutput", SpecificOutput { event, keys })
    }

    /// Sets any other key. A value without JSON is an error of the response: the agent gets it.
    #[must_use]
    pub fn field(mut self, key: impl Into<String>, value: impl Serialize) -> Self {
        self.0.insert(key.into(), Record::from_json(&value));
        self
    }
}

impl Serialize for HookOutput {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, OutputField(value))))
    }
}

struct OutputField<'a>(&'a Result<Record>);

impl Serialize for OutputField<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.as_ref().map_err(S::Error::custom)?.serialize(to)
    }
}
