//! Floor 4. The blocks that the content of a message is made of.

use std::borrow::Cow;

use serde::{Serialize, Serializer};

use super::fields::{Fields, Value, Wrong, view};
use super::json::Json;
use super::value::elements;

/// One block of a message's content, by its `type`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Block<'a> {
    /// `text`
    Text(TextBlock<'a>),
    /// `thinking`
    Thinking(Thinking<'a>),
    /// `tool_use`: the agent calls a tool.
    ToolUse(ToolUse<'a>),
    /// `tool_result`: what the tool gave.
    ToolResult(ToolResult<'a>),
    /// `server_tool_use`: a tool that the API itself runs.
    ServerToolUse(ServerToolUse<'a>),
    /// `advisor_tool_result`
    AdvisorToolResult(AdvisorToolResult<'a>),
    /// A block of another type, or of none: `image` and all that is to come.
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
    /// What the model thought before it answered.
    Thinking: "type" = "thinking" {
        /// The thought; may be empty where it is withheld.
        thinking: Cow<'a, str> = needed "thinking",
        /// Proves to the API that the thought is its own.
        signature: Cow<'a, str> = needed "signature",
    }
}

view! {
    /// A call of a tool.
    ToolUse: "type" = "tool_use" {
        /// What the [`ToolResult`] refers to.
        id: Cow<'a, str> = needed "id",
        /// The tool: `Bash`, `mcp__server__tool`, ...
        name: Cow<'a, str> = needed "name",
        /// What it is called with.
        input: Json<'a> = needed "input",
    }
}

view! {
    /// A call of a tool that runs on the server.
    ServerToolUse: "type" = "server_tool_use" {
        /// What its result refers to.
        id: Cow<'a, str> = needed "id",
        /// The tool: `web_search`, `advisor`, ...
        name: Cow<'a, str> = needed "name",
        /// What it is called with.
        input: Json<'a> = needed "input",
    }
}

view! {
    /// What a tool gave.
    ToolResult: "type" = "tool_result" {
        /// The [`ToolUse::id`] it answers.
        tool_use_id: Cow<'a, str> = needed "tool_use_id",
        /// A text or a list of blocks.
        content: Option<Json<'a>> = maybe "content",
        /// Whether the tool failed.
        is_error: Option<bool> = maybe "is_error",
    }
}

view! {
    /// What the advisor said.
    AdvisorToolResult: "type" = "advisor_tool_result" {
        /// The [`ServerToolUse::id`] it answers.
        tool_use_id: Cow<'a, str> = needed "tool_use_id",
        /// Its words, as an object.
        content: Json<'a> = needed "content",
    }
}

impl<'a> Value<'a> for Block<'a> {
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong> {
        let Ok(fields) = Fields::of(json) else { return Ok((Self::Other(json), true)) };
        let Ok(kind) = fields.tag("type") else { return Ok((Self::Other(json), true)) };
        let block = match &*kind {
            "text" => TextBlock::of(fields).map(Self::Text),
            "thinking" => Thinking::of(fields).map(Self::Thinking),
            "tool_use" => ToolUse::of(fields).map(Self::ToolUse),
            "tool_result" => ToolResult::of(fields).map(Self::ToolResult),
            "server_tool_use" => ServerToolUse::of(fields).map(Self::ServerToolUse),
            "advisor_tool_result" => AdvisorToolResult::of(fields).map(Self::AdvisorToolResult),
            _ => Ok(Self::Other(json)),
        };
        Ok((block.map_err(|wrong| wrong.inside(kind))?, true))
    }
}

impl<'a> Value<'a> for Vec<Block<'a>> {
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong> {
        let blocks: Result<Self, Wrong> = elements(json)?
            .enumerate()
            .map(|(at, json)| Ok(Block::read(json).map_err(|wrong| wrong.inside(at))?.0))
            .collect();
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
