//! Floor 4. `can_use_tool`: the agent asks whether it may.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::Result;
use crate::record::Record;
use crate::session::failure::RpcError;
use crate::session::serve::AgentRequest;

/// The agent wants to use a tool.
#[derive(Clone, Debug)]
pub struct PermissionRequest {
    body: Record,
    tool_name: String,
    input: Record,
    suggestions: Vec<Record>,
    texts: Texts,
}

#[derive(Deserialize)]
struct Asked<'a> {
    tool_name: String,
    #[serde(borrow)]
    input: &'a RawValue,
}

#[derive(Deserialize)]
struct Suggested<'a> {
    #[serde(borrow)]
    permission_suggestions: Vec<&'a RawValue>,
}

impl PermissionRequest {
    pub(super) fn new(request: &AgentRequest) -> Result<Self> {
        let body = request.body().clone();
        let asked: Asked<'_> = serde_json::from_slice(body.as_bytes()).map_err(|error| {
            let what = format!("can_use_tool without a tool_name and an input: {error}");
            crate::error::Error::new(crate::error::ErrorKind::InvalidRecord, "parse", what)
        })?;
        let input = body.part(asked.input.get().as_bytes());
        // What else there is only explains: it may be missing, or of another type some day.
        let suggestions = serde_json::from_slice::<Suggested<'_>>(body.as_bytes())
            .map(|found| found.permission_suggestions)
            .unwrap_or_default();
        let suggestions =
            suggestions.into_iter().map(|update| body.part(update.get().as_bytes())).collect();
        let texts = body.json().unwrap_or_default();
        Ok(Self { tool_name: asked.tool_name, input, suggestions, texts, body })
    }

    /// The tool: `Bash`, `Edit`, `mcp__server__tool`, ...
    #[must_use]
    pub fn tool_name(&self) -> &str {
        &self.tool_name
    }

    /// What the tool is to be called with, byte for byte as the agent wrote it.
    #[must_use]
    pub fn input(&self) -> &Record {
        &self.input
    }

    /// The updates of the permissions that the agent proposes, each byte for byte as it came. The
    /// chosen ones go back with [`Permission::updating`].
    #[must_use]
    pub fn suggestions(&self) -> &[Record] {
        &self.suggestions
    }

    /// The whole request, with the keys that are to come.
    #[must_use]
    pub fn body(&self) -> &Record {
        &self.body
    }
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident),*) => {
        /// Keys that are text; a value of another type counts as absent.
        #[derive(Clone, Debug, Default, Deserialize)]
        struct Texts {
            $(#[serde(default, deserialize_with = "text")]
            $name: Option<String>),*
        }

        impl PermissionRequest {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> Option<&str> {
                self.texts.$name.as_deref()
            })*
        }
    };
}

texts! {
    /// The tool use it is about.
    tool_use_id,
    /// The subagent that asks; `None` is the main one.
    agent_id,
    /// The path outside of the allowed folders, if that is why it asks.
    blocked_path,
    /// Why it asks: a rule, a mode, a hook.
    decision_reason,
    /// A heading for a dialog.
    title,
    /// What the tool is called in a dialog.
    display_name,
    /// What the tool is about to do, in words.
    description
}

fn text<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

/// The answer to a [`PermissionRequest`].
#[derive(Clone, Debug)]
pub struct Permission(Verdict);

#[derive(Clone, Debug)]
enum Verdict {
    Allow { input: Option<Result<Record>>, permissions: Option<Result<Record>> },
    Deny { message: String, interrupt: bool },
}

impl Permission {
    /// Yes, with the input as it is.
    #[must_use]
    pub fn allow() -> Self {
        Self(Verdict::Allow { input: None, permissions: None })
    }

    /// Yes, with another input.
    #[must_use]
    pub fn allow_with(input: impl Serialize) -> Self {
        Self(Verdict::Allow { input: Some(Record::from_json(&input)), permissions: None })
    }

    /// Changes the permissions of the session, too: the list of updates, those of
    /// [`PermissionRequest::suggestions`] for instance. No effect on a [`deny`](Self::deny).
    #[must_use]
    pub fn updating(mut self, updates: impl Serialize) -> Self {
        if let Verdict::Allow { permissions, .. } = &mut self.0 {
            *permissions = Some(Record::from_json(&updates));
        }
        self
    }

    /// No, and why: the model reads it.
    #[must_use]
    pub fn deny(message: impl Into<String>) -> Self {
        Self(Verdict::Deny { message: message.into(), interrupt: false })
    }

    /// Ends the turn as well. No effect on an [`allow`](Self::allow).
    #[must_use]
    pub fn interrupting(mut self) -> Self {
        if let Verdict::Deny { interrupt, .. } = &mut self.0 {
            *interrupt = true;
        }
        self
    }

    pub(super) fn answer(
        self,
        request: &PermissionRequest,
    ) -> std::result::Result<Record, RpcError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Allow {
            behavior: &'static str,
            updated_input: Record,
            #[serde(skip_serializing_if = "Option::is_none")]
            updated_permissions: Option<Record>,
        }
        #[derive(Serialize)]
        struct Deny {
            behavior: &'static str,
            message: String,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            interrupt: bool,
        }
        let record = match self.0 {
            Verdict::Allow { input, permissions } => Record::from_json(&Allow {
                behavior: "allow",
                updated_input: input.unwrap_or_else(|| Ok(request.input.clone()))?,
                updated_permissions: permissions.transpose()?,
            }),
            Verdict::Deny { message, interrupt } => {
                Record::from_json(&Deny { behavior: "deny", message, interrupt })
            }
        };
        Ok(record?)
    }
}
