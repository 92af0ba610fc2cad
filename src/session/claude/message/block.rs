//! The content of a message, and its blocks.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use super::fields::{ObjectFields, view};
use super::value::{FieldValue, Json, ViewError, elements};

/// A block of the content of a message, by its `type`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Block<'a> {
    /// `text`
    Text(TextBlock<'a>),
    /// `thinking`
    Thinking(ThinkingBlock<'a>),
    /// `tool_use`: the agent calls a tool.
    ToolUse(ToolUse<'a>),
    /// `tool_result`: the result of a tool.
    ToolResult(ToolResult<'a>),
    /// `server_tool_use`: a tool that the API itself runs.
    ServerToolUse(ServerToolUse<'a>),
    /// `advisor_tool_result`
    AdvisorToolResult(AdvisorToolResult<'a>),
    /// A block of another type, or without a type or a key that its view needs: `image`, and types of
    /// a later CLI.
    Other(Json<'a>),
}

view! {
    /// Text for the user.
    TextBlock: "type" = "text" {
        /// The text.
        text: Cow<'a, str> = needed "text",
    }
}

view! {
    /// The thinking of the model before its answer.
    ThinkingBlock: "type" = "thinking" {
        /// The text. It may be empty if the API withholds it.
        thinking: Cow<'a, str> = needed "thinking",
        /// Proves to the API that the thinking is its own. Other models than those of the vendor leave
        /// it out.
        signature: Option<Cow<'a, str>> = maybe "signature",
    }
}

view! {
    /// A call of a tool.
    ToolUse: "type" = "tool_use" {
        /// The id to which the [`ToolResult`] refers.
        id: Cow<'a, str> = needed "id",
        /// The tool: `Bash`, `mcp__server__tool`, ...
        name: Cow<'a, str> = needed "name",
        /// The input of the tool.
        input: Json<'a> = needed "input",
    }
}

view! {
    /// A call of a tool that runs on the server.
    ServerToolUse: "type" = "server_tool_use" {
        /// The id to which the result refers.
        id: Cow<'a, str> = needed "id",
        /// The tool: `web_search`, `advisor`, ...
        name: Cow<'a, str> = needed "name",
        /// The input of the tool.
        input: Json<'a> = needed "input",
    }
}

view! {
    /// The result of a tool.
    ToolResult: "type" = "tool_result" {
        /// The [`ToolUse::id`] that it answers.
        tool_use_id: Cow<'a, str> = needed "tool_use_id",
        /// A text or a list of blocks.
        content: Option<Json<'a>> = maybe "content",
        /// Whether the tool failed.
        is_error: Option<bool> = maybe "is_error",
    }
}

view! {
    /// The result of the advisor.
    AdvisorToolResult: "type" = "advisor_tool_result" {
        /// The [`ServerToolUse::id`] that it answers.
        tool_use_id: Cow<'a, str> = needed "tool_use_id",
        /// The text of the advisor, as an object.
        content: Json<'a> = needed "content",
    }
}

impl<'a> FieldValue<'a> for Block<'a> {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        let Ok(fields) = ObjectFields::of(json) else { return Ok((Self::Other(json), true)) };
        let Ok(kind) = fields.tag("type") else { return Ok((Self::Other(json), true)) };
        let block = match &*kind {
            "text" => TextBlock::of(fields).map(Self::Text),
            "thinking" => ThinkingBlock::of(fields).map(Self::Thinking),
            "tool_use" => ToolUse::of(fields).map(Self::ToolUse),
            "tool_result" => ToolResult::of(fields).map(Self::ToolResult),
            "server_tool_use" => ServerToolUse::of(fields).map(Self::ServerToolUse),
            "advisor_tool_result" => AdvisorToolResult::of(fields).map(Self::AdvisorToolResult),
            _ => Ok(Self::Other(json)),
        };
        // An odd block must not cost the view of the others.
        Ok((block.unwrap_or(Self::Other(json)), true))
    }
}

impl<'a> FieldValue<'a> for Vec<Block<'a>> {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        let blocks: Result<Self, ViewError> =
            elements(json)?.map(|json| Ok(Block::read(json)?.0)).collect();
        Ok((blocks?, true))
    }
}

impl Serialize for Block<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(block) => block.serialize(to),
            Self::Thinking(block) => block.serialize(to),
            Self::ToolUse(block) => block.serialize(to),
            Self::ToolResult(block) => block.serialize(to),
            Self::ServerToolUse(block) => block.serialize(to),
            Self::AdvisorToolResult(block) => block.serialize(to),
            Self::Other(json) => json.serialize(to),
        }
    }
}

/// The content of a message: a text, or a list of blocks.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Content<'a> {
    /// Plain text.
    Text(Cow<'a, str>),
    /// Blocks.
    Blocks(Vec<Block<'a>>),
    /// Neither.
    Other(Json<'a>),
}

impl<'a> Content<'a> {
    /// Returns the blocks. A plain text has none.
    #[must_use]
    pub fn blocks(&self) -> &[Block<'a>] {
        if let Self::Blocks(blocks) = self { blocks } else { &[] }
    }

    /// Returns the texts: the plain text, or that of each [`Block::Text`].
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let plain = if let Self::Text(text) = self { Some(&**text) } else { None };
        plain.into_iter().chain(self.blocks().iter().filter_map(|block| match block {
            Block::Text(block) => Some(&*block.text),
            _ => None,
        }))
    }
}

impl<'a> FieldValue<'a> for Content<'a> {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        match Cow::read(json) {
            Ok((text, whole)) => Ok((Self::Text(text), whole)),
            Err(_) => Ok(match Vec::read(json) {
                Ok((blocks, whole)) => (Self::Blocks(blocks), whole),
                Err(_) => (Self::Other(json), true),
            }),
        }
    }
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(to),
            Self::Blocks(blocks) => blocks.serialize(to),
            Self::Other(json) => json.serialize(to),
        }
    }
}
