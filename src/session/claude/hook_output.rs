//! Floor 4. What a hook answers, with the keys as the CLI reads them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::Error as _;
use serde::{Serialize, Serializer};

use crate::error::Result;
use crate::record::Record;

/// The answer of a hook, for [`Builder::hook`](super::Builder::hook). As it is, it says "go on".
///
/// A hook may as well return anything that serializes to the CLI's own keys: a `json!`, or a
/// struct whose fields `r#continue` and `r#async` serde writes as `continue` and `async`.
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
    /// Go on: `{}`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The hook goes on in the background, and the agent does not wait for what it comes to:
    /// `async`, and `asyncTimeout` in whole milliseconds where there is a limit.
    #[must_use]
    pub fn in_background(limit: Option<Duration>) -> Self {
        let output = Self::new().field("async", true);
        match limit {
            Some(limit) => output.field("asyncTimeout", limit.as_millis()),
            None => output,
        }
    }

    /// The agent stops after this hook, and its user is told why: `continue` and `stopReason`.
    #[must_use]
    pub fn stop(self, why: impl AsRef<str>) -> Self {
        self.field("continue", false).field("stopReason", why.as_ref())
    }

    /// What the hook is about is blocked, and the model is told why: `decision` and `reason`.
    #[must_use]
    pub fn block(self, why: impl AsRef<str>) -> Self {
        self.field("decision", "block").field("reason", why.as_ref())
    }

    /// A message for the user: `systemMessage`.
    #[must_use]
    pub fn message(self, text: impl AsRef<str>) -> Self {
        self.field("systemMessage", text.as_ref())
    }

    /// The hook's output stays out of the transcript: `suppressOutput`.
    #[must_use]
    pub fn quiet(self) -> Self {
        self.field("suppressOutput", true)
    }

    /// What only this event knows: `hookSpecificOutput`, with its `hookEventName`. `PreToolUse`
    /// has `permissionDecision`, `updatedInput`, `additionalContext`; `PostToolUse` an updated
    /// output; `PermissionRequest` a `decision`. `keys` serializes to a JSON object.
    #[must_use]
    pub fn specific(self, event: &str, keys: impl Serialize) -> Self {
        #[derive(Serialize)]
        struct Specific<'a, T> {
            #[serde(rename = "hookEventName")]
            event: &'a str,
            #[serde(flatten)]
            keys: T,
        }
        self.field("hookSpecificOutput", Specific { event, keys })
    }

    /// Any other key. What has no JSON is told where the output is sent: the agent gets an error.
    #[must_use]
    pub fn field(mut self, key: impl Into<String>, value: impl Serialize) -> Self {
        self.0.insert(key.into(), Record::from_json(&value));
        self
    }
}

impl Serialize for HookOutput {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, Field(value))))
    }
}

struct Field<'a>(&'a Result<Record>);

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.as_ref().map_err(S::Error::custom)?.serialize(to)
    }
}
