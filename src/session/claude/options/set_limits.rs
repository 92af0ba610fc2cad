//! Floor 4. Setters: how much the agent may do, and the form of its result.

use serde::Serialize;

use super::Options;

/// How the model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Thinking {
    /// As much as it finds necessary.
    Adaptive,
    /// Up to this many tokens.
    Enabled {
        /// Tokens.
        budget_tokens: u64,
    },
    /// Not at all.
    Disabled,
}

impl Options {
    /// Turns of the model after which a prompt ends with an error. Default 0: no limit, and
    /// nothing is sent. (`--max-turns`)
    #[must_use]
    pub fn max_turns(mut self, turns: u32) -> Self {
        self.max_turns = turns;
        self
    }

    /// US dollars after which the session ends with an error. Default: no limit.
    /// (`--max-budget-usd`)
    #[must_use]
    pub fn max_budget_usd(mut self, dollars: f64) -> Self {
        self.max_budget_usd = Some(dollars);
        self
    }

    /// Tokens that the model is to make do with. Default: unsaid. (`--task-budget`)
    #[must_use]
    pub fn task_budget(mut self, tokens: u64) -> Self {
        self.task_budget = Some(tokens);
        self
    }

    /// How the model thinks. Default: the CLI's. (`--thinking`, `--max-thinking-tokens`)
    #[must_use]
    pub fn thinking(mut self, thinking: Thinking) -> Self {
        self.thinking = Some(thinking);
        self
    }

    /// How thinking is shown (`summarized`, `omitted`); nothing unless
    /// [`thinking`](Self::thinking) is on. (`--thinking-display`)
    #[must_use]
    pub fn thinking_display(mut self, display: impl Into<String>) -> Self {
        self.thinking_display = display.into();
        self
    }

    /// The older way to say [`Thinking::Enabled`], which wins. (`--max-thinking-tokens`)
    #[must_use]
    pub fn max_thinking_tokens(mut self, tokens: u64) -> Self {
        self.max_thinking_tokens = Some(tokens);
        self
    }

    /// The JSON Schema of the result's `structured_output`, as it serializes. (`--json-schema`)
    #[must_use]
    pub fn json_schema(mut self, schema: impl Serialize) -> Self {
        self.json_schema = self.json("json_schema", &schema).or(self.json_schema);
        self
    }
}
