//! Questions to the user that are no permissions: elicitations of MCP servers, and dialogs of tools.

use serde::Serialize;

use crate::record::Record;

use super::wire::{GivenJson, received};

/// The subtype of a request for a dialog.
pub(super) const USER_DIALOG: &str = "request_user_dialog";
/// The key of `initialize` that tells which dialogs this process shows.
pub(super) const DIALOG_KINDS: &str = "supportedDialogKinds";

received! {
    /// An MCP server asks the user for something, for [`Builder::elicitation`](super::Builder::elicitation).
    pub Elicitation {
        /// The MCP server.
        server: String = "mcp_server_name",
        /// The question.
        message: String = "message",
        /// `form`, or `url` for a page to open.
        mode: String = "mode",
        /// The page.
        url: String = "url",
        /// The id that an `elicitation_complete` message names, for a page.
        elicitation_id: String = "elicitation_id",
        /// The JSON Schema of the answer, for a form.
        requested_schema: Record = "requested_schema",
        /// The keys of the form, in order.
        property_order: Vec<String> = "property_order",
        /// A heading.
        title: String = "title",
        /// The name of the server for a dialog.
        display_name: String = "display_name",
        /// A description.
        description: String = "description",
    }
}

/// The answer to an [`Elicitation`].
#[derive(Clone, Debug, Serialize)]
pub struct ElicitationAnswer {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<GivenJson>,
}

impl ElicitationAnswer {
    /// Gives what was asked for: an object that fits the schema.
    #[must_use]
    pub fn accept(content: impl Serialize) -> Self {
        Self { action: "accept", content: Some(GivenJson::new(content)) }
    }

    /// Agrees to open the page.
    #[must_use]
    pub fn accept_url() -> Self {
        Self { action: "accept", content: None }
    }

    /// Says that the user does not want to answer.
    #[must_use]
    pub fn decline() -> Self {
        Self { action: "decline", content: None }
    }

    /// Says that the user has closed the dialog.
    #[must_use]
    pub fn cancel() -> Self {
        Self { action: "cancel", content: None }
    }
}

received! {
    /// A tool asks for a dialog, for [`Builder::user_dialog`](super::Builder::user_dialog).
    pub UserDialog {
        /// The kind of dialog.
        kind: String = "dialog_kind",
        /// The contents. Their form is up to the kind.
        payload: Record = "payload",
        /// The tool call.
        tool_use_id: String = "tool_use_id",
    }
}

/// The answer to a [`UserDialog`].
#[derive(Clone, Debug, Serialize)]
pub struct DialogAnswer {
    behavior: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<GivenJson>,
}

impl DialogAnswer {
    /// Gives the choice of the user. Its form is up to the kind of dialog.
    #[must_use]
    pub fn completed(result: impl Serialize) -> Self {
        Self { behavior: "completed", result: Some(GivenJson::new(result)) }
    }

    /// Lets the CLI do what it does without a dialog.
    #[must_use]
    pub fn cancelled() -> Self {
        Self { behavior: "cancelled", result: None }
    }
}
