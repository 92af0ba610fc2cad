//! Permissions: `can_use_tool`, with which the agent asks whether it may use a tool.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::handlers::AgentRequest;

use super::wire::{received, words};

/// The agent asks whether it may use a tool.
#[derive(Clone, Debug)]
pub struct PermissionRequest {
    tool_name: String,
    input: Record,
    suggestions: Vec<Record>,
    keys: PermissionKeys,
}

/// The required keys.
#[derive(Deserialize)]
struct RequiredKeys<'a> {
    tool_name: String,
    #[serde(borrow)]
    input: &'a RawValue,
}

received! {
    /// The keys that explain the request.
    PermissionKeys {
        permission_suggestions: Record = "permission_suggestions",
        tool_use_id: String = "tool_use_id",
        agent_id: String = "agent_id",
        blocked_path: String = "blocked_path",
        decision_reason: String = "decision_reason",
        decision_reason_type: String = "decision_reason_type",
        title: String = "title",
        display_name: String = "display_name",
        description: String = "description",
        mcp_server: McpOrigin = "mcp_server",
        matched_ask_rule: AskRule = "matched_ask_rule",
        classifier_approvable: bool = "classifier_approvable",
        suppress_always_allow_rule: bool = "suppress_always_allow_rule",
        default_to_no: bool = "default_to_no",
        requires_user_interaction: bool = "requires_user_interaction",
    }
}

received! {
    /// The MCP server of a tool.
    pub McpOrigin {
        /// Its name.
        name: String = "name",
        /// Where it is configured: `sdk`, `plugin`, `user`, `project`, ... An unknown word is never a
        /// server of this process.
        source: String = "source",
    }
}

received! {
    /// The rule of the settings because of which the agent asks.
    pub AskRule {
        /// Where the rule stands.
        source: String = "source",
        /// The tool that it names.
        tool_name: String = "tool_name",
        /// What it matches within the tool.
        rule_content: String = "rule_content",
    }
}

impl PermissionRequest {
    pub(super) fn new(request: &AgentRequest) -> Result<Self> {
        let body = request.body();
        let required: RequiredKeys<'_> =
            serde_json::from_slice(body.as_bytes()).map_err(|error| {
                let what = format!("can_use_tool without a tool_name and an input: {error}");
                Error::new(ErrorKind::InvalidRecord, "parse", what)
            })?;
        let input = body.part(required.input.get().as_bytes());
        // The other keys only explain the request. They may be absent, or of another type in a later
        // CLI, without making it an error.
        let keys = PermissionKeys::from(body.clone());
        let updates = keys.permission_suggestions.as_ref();
        let updates: Option<Vec<&RawValue>> =
            updates.and_then(|updates| serde_json::from_slice(updates.as_bytes()).ok());
        let part = |update: &RawValue| body.part(update.get().as_bytes());
        let suggestions = updates.unwrap_or_default().into_iter().map(part).collect();
        Ok(Self { tool_name: required.tool_name, input, suggestions, keys })
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
        &self.keys.record
    }

    /// Returns the id of the tool use, if the agent sent it.
    #[must_use]
    pub fn tool_use_id(&self) -> Option<&str> {
        self.keys.tool_use_id.as_deref()
    }

    /// Returns the id of the subagent that asks. `None` is the main agent.
    #[must_use]
    pub fn agent_id(&self) -> Option<&str> {
        self.keys.agent_id.as_deref()
    }

    /// Returns the path outside of the allowed folders, if that is why the agent asks.
    #[must_use]
    pub fn blocked_path(&self) -> Option<&str> {
        self.keys.blocked_path.as_deref()
    }

    /// Returns why the agent asks: a rule, a mode, a hook.
    #[must_use]
    pub fn decision_reason(&self) -> Option<&str> {
        self.keys.decision_reason.as_deref()
    }

    /// Returns the kind of [`decision_reason`](Self::decision_reason): `rule`, `mode`, `hook`,
    /// `safetyCheck`, `subcommandResults`, ...
    #[must_use]
    pub fn decision_reason_type(&self) -> Option<&str> {
        self.keys.decision_reason_type.as_deref()
    }

    /// Returns the MCP server of the tool, if the agent names it.
    #[must_use]
    pub fn mcp_server(&self) -> Option<&McpOrigin> {
        self.keys.mcp_server.as_ref()
    }

    /// Returns the rule of the settings because of which the agent asks, if there is one.
    #[must_use]
    pub fn matched_ask_rule(&self) -> Option<&AskRule> {
        self.keys.matched_ask_rule.as_ref()
    }

    /// Returns whether a classifier may approve a call that a safety check has stopped. `Some(false)`: a
    /// person has to. `None`: no safety check is the reason.
    #[must_use]
    pub fn classifier_approvable(&self) -> Option<bool> {
        self.keys.classifier_approvable
    }

    /// Returns whether a dialog must not offer to allow the tool for good.
    #[must_use]
    pub fn suppress_always_allow_rule(&self) -> bool {
        self.keys.suppress_always_allow_rule.unwrap_or(false)
    }

    /// Returns whether a dialog has to open on its refusal, so that one stray key does not approve.
    #[must_use]
    pub fn default_to_no(&self) -> bool {
        self.keys.default_to_no.unwrap_or(false)
    }

    /// Returns whether the user has to see the whole request: a plain yes or no is not enough.
    #[must_use]
    pub fn requires_user_interaction(&self) -> bool {
        self.keys.requires_user_interaction.unwrap_or(false)
    }

    /// Returns a heading for a dialog.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.keys.title.as_deref()
    }

    /// Returns the name of the tool for a dialog.
    #[must_use]
    pub fn display_name(&self) -> Option<&str> {
        self.keys.display_name.as_deref()
    }

    /// Returns a description of what the tool is about to do.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.keys.description.as_deref()
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

    /// Updates the permissions as well. `updates` is a list of [`PermissionUpdate`], or of
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
    pub(super) fn to_json(&self, request: &PermissionRequest) -> Result<Record> {
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
        match &self.0 {
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
        }
    }
}

words! {
    /// What happens to a tool call.
    PermissionBehavior {
        /// It is allowed.
        Allow = "allow",
        /// It is denied.
        Deny = "deny",
        /// The user decides.
        Ask = "ask",
    }
}

words! {
    /// Where a [`PermissionUpdate`] is kept.
    PermissionDestination {
        /// In memory, for the rest of the session.
        Session = "session",
        /// In the settings of the project that are not shared.
        LocalSettings = "localSettings",
        /// In the settings of the project.
        ProjectSettings = "projectSettings",
        /// In the settings of the user.
        UserSettings = "userSettings",
        /// With the arguments of the CLI.
        CliArg = "cliArg",
    }
}

words! {
    /// A permission mode.
    PermissionMode {
        /// Asks for what no rule decides.
        Default = "default",
        /// Allows changes of files.
        AcceptEdits = "acceptEdits",
        /// Plans, and changes nothing.
        Plan = "plan",
        /// Allows everything.
        BypassPermissions = "bypassPermissions",
        /// Denies in place of a question.
        DontAsk = "dontAsk",
        /// Lets a classifier decide.
        Auto = "auto",
    }
}

/// A rule of a [`PermissionUpdate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionRule {
    tool_name: String,
    // The CLI drops every update of an answer in which this key is `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_content: Option<String>,
}

impl PermissionRule {
    /// Creates a rule for every use of a tool.
    #[must_use]
    pub fn tool(name: impl Into<String>) -> Self {
        Self { tool_name: name.into(), rule_content: None }
    }

    /// Creates a rule for the uses of a tool that match: `PermissionRule::matching("Bash", "ls:*")`.
    #[must_use]
    pub fn matching(name: impl Into<String>, content: impl Into<String>) -> Self {
        Self { tool_name: name.into(), rule_content: Some(content.into()) }
    }
}

/// A change of the permissions, for [`Permission::updating`].
///
/// The CLI drops every update of an answer in which one lacks a key or has a `null`. These cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PermissionUpdate {
    #[serde(flatten)]
    change: PermissionChange,
    destination: PermissionDestination,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum PermissionChange {
    AddRules { rules: Vec<PermissionRule>, behavior: PermissionBehavior },
    ReplaceRules { rules: Vec<PermissionRule>, behavior: PermissionBehavior },
    RemoveRules { rules: Vec<PermissionRule>, behavior: PermissionBehavior },
    SetMode { mode: PermissionMode },
    AddDirectories { directories: Vec<String> },
    RemoveDirectories { directories: Vec<String> },
}

impl PermissionUpdate {
    /// Adds rules.
    #[must_use]
    pub fn add_rules(
        behavior: PermissionBehavior,
        rules: impl IntoIterator<Item = PermissionRule>,
    ) -> Self {
        Self::new(PermissionChange::AddRules { rules: rules.into_iter().collect(), behavior })
    }

    /// Replaces the rules of a behavior.
    #[must_use]
    pub fn replace_rules(
        behavior: PermissionBehavior,
        rules: impl IntoIterator<Item = PermissionRule>,
    ) -> Self {
        Self::new(PermissionChange::ReplaceRules { rules: rules.into_iter().collect(), behavior })
    }

    /// Removes rules.
    #[must_use]
    pub fn remove_rules(
        behavior: PermissionBehavior,
        rules: impl IntoIterator<Item = PermissionRule>,
    ) -> Self {
        Self::new(PermissionChange::RemoveRules { rules: rules.into_iter().collect(), behavior })
    }

    /// Sets the permission mode.
    #[must_use]
    pub fn set_mode(mode: PermissionMode) -> Self {
        Self::new(PermissionChange::SetMode { mode })
    }

    /// Adds working directories.
    #[must_use]
    pub fn add_directories(dirs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let directories = dirs.into_iter().map(Into::into).collect();
        Self::new(PermissionChange::AddDirectories { directories })
    }

    /// Removes working directories.
    #[must_use]
    pub fn remove_directories(dirs: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let directories = dirs.into_iter().map(Into::into).collect();
        Self::new(PermissionChange::RemoveDirectories { directories })
    }

    /// Sets where the update is kept. Default [`PermissionDestination::Session`].
    #[must_use]
    pub fn to(mut self, destination: PermissionDestination) -> Self {
        self.destination = destination;
        self
    }

    fn new(change: PermissionChange) -> Self {
        Self { change, destination: PermissionDestination::Session }
    }
}
