//! Floor 4. Setters: what the model is, and what it is told before the first message.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::record::Record;

use super::{Options, Prompt, path_of, strings};

impl Options {
    /// The system prompt, in place of the CLI's own. Default: an empty one. One argument, so below
    /// 128 KiB; [`system_prompt_file`](Self::system_prompt_file) has no limit. (`--system-prompt`)
    #[must_use]
    pub fn system_prompt(mut self, text: impl Into<String>) -> Self {
        self.prompt = Prompt::Text(text.into());
        self
    }

    /// The system prompt, read by the CLI from a file. (`--system-prompt-file`)
    #[must_use]
    pub fn system_prompt_file(mut self, path: impl AsRef<Path>) -> Self {
        self.prompt = Prompt::File(path_of(path));
        self
    }

    /// The system prompt that the CLI has by itself.
    #[must_use]
    pub fn claude_code_prompt(mut self) -> Self {
        self.prompt = Prompt::Preset(String::new());
        self
    }

    /// The CLI's own system prompt, and this after it. (`--append-system-prompt`)
    #[must_use]
    pub fn append_system_prompt(mut self, text: impl Into<String>) -> Self {
        self.prompt = Prompt::Preset(text.into());
        self
    }

    /// Whether the CLI's own system prompt leaves out what differs between machines and days, so
    /// that it can be cached. Default: unsaid. (`initialize`: `excludeDynamicSections`)
    #[must_use]
    pub fn exclude_dynamic_sections(mut self, on: bool) -> Self {
        self.exclude_dynamic_sections = Some(on);
        self
    }

    /// A subagent: its name, and its definition as it serializes (`description`, `prompt`, `tools`,
    /// `model`, ...), keys that are `null` left out. Of any size: it goes over stdin and never
    /// into the arguments. The last definition of a name counts. (`initialize`: `agents`)
    #[must_use]
    pub fn agent(mut self, name: impl Into<String>, definition: impl Serialize) -> Self {
        let name = name.into();
        if let Some(definition) = self.json("agent", &definition) {
            self.agents.retain(|(known, _)| *known != name);
            self.agents.push((name, without_nulls(definition)));
        }
        self
    }

    /// Whether the text and the thinking of subagents come as messages, too. Default off.
    /// (`initialize`: `forwardSubagentText`)
    #[must_use]
    pub fn forward_subagent_text(mut self, on: bool) -> Self {
        self.forward_subagent_text = on;
        self
    }

    /// An alias (`opus`) or the full name of a model. Default: the CLI's. (`--model`)
    #[must_use]
    pub fn model(mut self, model: impl Into<String>) -> Self {
        self.model = model.into();
        self
    }

    /// The model to be used while the other one is overloaded. (`--fallback-model`)
    #[must_use]
    pub fn fallback_model(mut self, model: impl Into<String>) -> Self {
        self.fallback_model = model.into();
        self
    }

    /// `low`, `medium`, `high`, `xhigh`, `max`. Default: the model's. (`--effort`)
    #[must_use]
    pub fn effort(mut self, effort: impl Into<String>) -> Self {
        self.effort = effort.into();
        self
    }

    /// Beta features of the API, by the names of their headers. (`--betas`)
    #[must_use]
    pub fn betas<I, S>(mut self, betas: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.betas = strings(betas);
        self
    }
}

fn without_nulls(definition: Record) -> Record {
    let Ok(Value::Object(mut keys)) = definition.json() else { return definition };
    if !keys.values().any(Value::is_null) {
        return definition;
    }
    keys.retain(|_, value| !value.is_null());
    Record::from(Value::Object(keys).to_string().into_bytes())
}
