//! Floor 4. Setters: what the agent may use.

use std::ffi::OsStr;
use std::path::Path;

use serde::Serialize;

use super::skills::Skills;
use super::{Options, path_of, strings};

impl Options {
    /// The built-in tools there are, in place of the CLI's default set. (`--tools`)
    #[must_use]
    pub fn tools<I, S>(mut self, tools: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.tools = Some(strings(tools));
        self
    }

    /// No built-in tool at all. (`--tools ""`)
    #[must_use]
    pub fn no_tools(mut self) -> Self {
        self.tools = Some(Vec::new());
        self
    }

    /// The default set of tools, said aloud. (`--tools default`)
    #[must_use]
    pub fn default_tools(self) -> Self {
        self.tools(["default"])
    }

    /// Tools and rules (`Bash(git log:*)`) that need no permission. (`--allowedTools`)
    #[must_use]
    pub fn allowed_tools<I, S>(mut self, rules: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.allowed_tools = strings(rules);
        self
    }

    /// Tools and rules that are denied. (`--disallowedTools`)
    #[must_use]
    pub fn disallowed_tools<I, S>(mut self, rules: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.disallowed_tools = strings(rules);
        self
    }

    /// The skills that the main agent has, by name. Each is allowed as a tool, and the user's and
    /// the project's settings are read unless [`setting_sources`](Self::setting_sources) says
    /// otherwise. An empty list: none. Default: unsaid. (`initialize`: `skills`)
    ///
    /// A name that would mean something else inside a rule is refused: one with a delimiter, a
    /// wildcard, a backslash or a control character, with blanks around it, or with a leading
    /// slash.
    #[must_use]
    pub fn skills<I, S>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.skills = Some(Skills::Named(strings(names)));
        self
    }

    /// All skills that are found, as with [`skills`](Self::skills).
    #[must_use]
    pub fn all_skills(mut self) -> Self {
        self.skills = Some(Skills::All);
        self
    }

    /// `default`, `acceptEdits`, `plan`, `bypassPermissions`, `dontAsk`, `auto`. Default: what the
    /// settings say. (`--permission-mode`)
    #[must_use]
    pub fn permission_mode(mut self, mode: impl Into<String>) -> Self {
        self.permission_mode = mode.into();
        self
    }

    /// The MCP tool that is asked for permission. (`--permission-prompt-tool`)
    ///
    /// With [`can_use_tool`](super::super::Builder::can_use_tool) this is `stdio` by itself, and
    /// setting it, too, is an error.
    #[must_use]
    pub fn permission_prompt_tool(mut self, tool: impl Into<String>) -> Self {
        self.prompt_tool = tool.into();
        self
    }

    /// An MCP server: its name and configuration, as it serializes (`command` and `args`, or
    /// `type` and `url`). The last one of a name counts. (`--mcp-config`)
    ///
    /// The configuration stands in the arguments, which other users of the host can read: a secret
    /// belongs into a file ([`mcp_config`](Self::mcp_config)) or into the environment.
    ///
    /// Servers of this process ([`mcp_server`](super::super::Builder::mcp_server) of the session)
    /// need no entry here. Of an entry with `"type": "sdk"` the key `instance` is left out.
    #[must_use]
    pub fn mcp_server(mut self, name: impl Into<String>, config: impl Serialize) -> Self {
        let name = name.into();
        if let Some(config) = self.json("mcp_server", &config) {
            self.mcp_servers.retain(|(known, _)| *known != name);
            self.mcp_servers.push((name, config));
        }
        self
    }

    /// The MCP servers as a path, or as JSON, passed on as it is. Excludes
    /// [`mcp_server`](Self::mcp_server). (`--mcp-config`)
    #[must_use]
    pub fn mcp_config(mut self, config: impl AsRef<OsStr>) -> Self {
        self.mcp_config = config.as_ref().to_owned();
        self
    }

    /// Only these MCP servers, none from settings. Default off. (`--strict-mcp-config`)
    #[must_use]
    pub fn strict_mcp_config(mut self, on: bool) -> Self {
        self.strict_mcp = on;
        self
    }

    /// A folder with a plugin; may be called several times. (`--plugin-dir`)
    #[must_use]
    pub fn plugin_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.plugin_dirs.push(path_of(dir));
        self
    }

    /// The sandbox of commands, as it serializes (`enabled`, `network`, ...). It becomes the key
    /// `sandbox` of the [`settings`](Self::settings). (`--settings`)
    #[must_use]
    pub fn sandbox(mut self, sandbox: impl Serialize) -> Self {
        self.sandbox = self.json("sandbox", &sandbox).or(self.sandbox);
        self
    }
}
