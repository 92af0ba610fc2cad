//! The framings: how records are separated on a pipe.

use std::fmt;

/// How records are separated on the agent's stdin and stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "kebab-case")
)]
#[non_exhaustive]
pub enum Framing {
    /// One JSON text per line, ended by `\n` (`\r\n` is accepted): Claude Code, MCP, ACP, Codex.
    #[default]
    Ndjson,
    /// `Content-Length: N`, a blank line, then N bytes: the base protocol of language servers.
    ContentLength,
}

impl Framing {
    /// Returns the name used on the command line and in reports: `ndjson` or `content-length`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::ContentLength => "content-length",
        }
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn framing_has_one_name_everywhere() {
        for framing in [Framing::Ndjson, Framing::ContentLength] {
            let text = serde_json::to_string(&framing).expect("text");
            assert_eq!(text, format!("\"{framing}\""));
        }
    }
}
