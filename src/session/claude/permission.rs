//! Permissions: `can_use_tool`, with which the agent asks whether it may use a tool.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::handlers::{AgentRequest, HandlerResult};

/// The agent asks whether it may use a tool.
#[derive(Clone, Debug)]
pub struct PermissionRequest {
    body: Record,
    tool_name: String,
    input: Record,
    suggestions: Vec<Record>,
    texts: PermissionTexts,
}

/// The required keys.
#[derive(Deserialize)]
struct RequiredKeys<'a> {
    tool_name: String,
    #[serde(borrow)]
    input: &'a RawValue,
}

#[derive(Deserialize)]
struct SuggestionKeys<'a> {
    #[serde(borrow)]
    permission_suggestions: Vec<&'a RawValue>,
}

/// The keys that are text. A value of another type counts as absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PermissionTexts {
    #[serde(deserialize_with = "text")]
    tool_use_id: Option<String>,
    #[serde(deserialize_with = "text")]
    agent_id: Option<String>,
    #[serde(deserialize_with = "text")]
    blocked_path: Option<String>,
    #[serde(deserialize_with = "text")]
    decision_reason: Option<String>,
    #[serde(deserialize_with = "text")]
    title: Option<String>,
    #[serde(deserialize_with = "text")]
    display_name: Option<String>,
    #[serde(deserialize_with = "text")]
    description: Option<String>,
}

fn text<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

impl PermissionRequest {
    pub(super) fn new(request: &AgentRequest) -> Result<Self> {
        let body = request.body().clone();
        let required: RequiredKeys<'_> =
            serde_json::from_slice(body.as_bytes()).map_err(|error| {
                let what = format!("can_use_tool without a tool_name and an input: {error}");
                Error::new(ErrorKind::InvalidRecord, "parse", what)
            })?;
        let input = body.part(required.input.get().as_bytes());
        // The other keys only explain the request. They may be absent, or of another type in a later
        // CLI, without making it an error.
        let suggestions = serde_json::from_slice::<SuggestionKeys<'_>>(body.as_bytes())
            .map(|found| found.permission_suggestions)
            .unwrap_or_default();
        let suggestions =
            suggestions.into_iter().map(|update| body.part(update.get().as_bytes())).collect();
        let texts = body.json().unwrap_or_default();
        Ok(Self { tool_name: required.tool_name, input, suggestions, texts, body })
    }

    /// Returns the tool: `Bash`, `Edit`, `mcp__server__tool`, ...
    #[must_use]
    pub fn tool_name(&self) -> &str {
        &self.tool_name
    }

    /// Returns the input of the tool, byte for byte as the agent wrote it.
    #[must_use]
    pub fn input(&self) -> &Record {
        &self.input
    }

    /// Returns the updates of the permissions that the agent proposes, each byte for byte.
    /// [`Permission::updating`] sends the chosen ones back.
    #[must_use]
    pub fn suggestions(&self) -> &[Record] {
        &self.suggestions
    }

    /// Returns the whole request, including keys that have no accessor here.
    #[must_use]
    pub fn body(&self) -> &Record {
        &self.body
    }

    /// Returns the id of the tool use, if the agent sent it.
    #[must_use]
    pub fn tool_use_id(&self) -> Option<&str> {
        self.texts.tool_use_id.as_deref()
    }

    /// Returns the id of the subagent that asks. `None` is the main agent.
    #[must_use]
    pub fn agent_id(&self) -> Option<&str> {
        self.texts.agent_id.as_deref()
    }

    /// Returns the path outside of the allowed folders, if that is why the agent asks.
    #[must_use]
    pub fn blocked_path(&self) -> Option<&str> {
        self.texts.blocked_path.as_deref()
    }

    /// Returns why the agent asks: a rule, a mode, a hook.
    #[must_use]
    pub fn decision_reason(&self) -> Option<&str> {
        self.texts.decision_reason.as_deref()
    }

    /// Returns a heading for a dialog.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.texts.title.as_deref()
    }

    /// Returns the name of the tool for a dialog.
    #[must_use]
    pub fn display_name(&self) -> Option<&str> {
        self.texts.display_name.as_deref()
    }

    /// Returns a description of what the tool is about to do.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.texts.description.as_deref()
    }
}

/// The response to a [`PermissionRequest`].
#[derive(Clone, Debug)]
pub struct Permission(PermissionDecision);

#[derive(Clone, Debug)]
enum PermissionDecision {
    Allow { input: Option<Result<Record>>, permissions: Option<Result<Record>> },
    Deny { message: String, interrupt: bool },
}

impl Permission {
    /// Allows the tool with the input of the request.
    #[must_use]
    pub fn allow() -> Self {
        Self(PermissionDecision::Allow { input: None, permissions: None })
    }

    /// Allows the tool with another input.
    #[must_use]
    pub fn allow_with(input: impl Serialize) -> Self {
        Self(PermissionDecision::Allow {
            input: Some(Record::from_json(&input)),
            permissions: None,
        })
    }

    /// Updates the permissions of the session as well. `updates` is a list, for example of
    /// [`PermissionRequest::suggestions`]. Has no effect on a [`deny`](Self::deny).
    #[must_use]
    pub fn updating(mut self, updates: impl Serialize) -> Self {
        if let PermissionDecision::Allow { permissions, .. } = &mut self.0 {
            *permissions = Some(Record::from_json(&updates));
        }
        self
    }

    /// Denies the tool. The model reads the message.
    #[must_use]
    pub fn deny(message: impl Into<String>) -> Self {
        Self(PermissionDecision::Deny { message: message.into(), interrupt: false })
    }

    /// Ends the turn as well. Has no effect on an [`allow`](Self::allow).
    #[must_use]
    pub fn interrupting(mut self) -> Self {
        if let PermissionDecision::Deny { interrupt, .. } = &mut self.0 {
            *interrupt = true;
        }
        self
    }

    /// Returns the body of the response.
    pub(super) fn to_json(&self, request: &PermissionRequest) -> HandlerResult {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Allowed {
            behavior: &'static str,
            updated_input: Record,
            #[serde(skip_serializing_if = "Option::is_none")]
            updated_permissions: Option<Record>,
        }
        #[derive(Serialize)]
        struct Denied<'a> {
            behavior: &'static str,
            message: &'a str,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            interrupt: bool,
        }
        let record = match &self.0 {
            PermissionDecision::Allow { input, permissions } => Record::from_json(&Allowed {
                behavior: "allow",
                // Sent even if it is unchanged: the agent would otherwise run the tool without an
                // input.
                updated_input: input.clone().unwrap_or_else(|| Ok(request.input.clone()))?,
                updated_permissions: permissions.clone().transpose()?,
            }),
            PermissionDecision::Deny { message, interrupt } => {
                Record::from_json(&Denied { behavior: "deny", message, interrupt: *interrupt })
            }
        };
        Ok(record?)
    }
}
