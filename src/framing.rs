//! The framings: how records are separated on a pipe.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

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
    /// JSON texts one after another, with or without white space between them: pretty-printed JSON,
    /// several texts on a line, JSON text sequences (RFC 7464). Records are written as lines; line
    /// ends between their tokens become spaces.
    Concat,
    /// Reads what comes: headers if a `Content-Length` header comes before the first record, else
    /// lines. Writes lines, until
    /// [`AgentWriter::set_framing`](crate::AgentWriter::set_framing) says otherwise: an agent may
    /// read in one framing and write in another, and a language server says nothing before it has
    /// read a message.
    Auto,
}

impl Framing {
    /// By the number that stands for each in a cell.
    const ALL: [Self; 4] = [Self::Ndjson, Self::ContentLength, Self::Concat, Self::Auto];

    /// Returns the name used on the command line and in reports: `ndjson`,
    /// `content-length`, `concat` or `auto`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::ContentLength => "content-length",
            Self::Concat => "concat",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A framing that can be changed while other threads use it.
#[derive(Debug)]
pub(crate) struct FramingCell(AtomicU8);

impl FramingCell {
    pub(crate) fn new(framing: Framing) -> Self {
        Self(AtomicU8::new(framing as u8))
    }

    // Relaxed in both, because no other memory depends on it.
    pub(crate) fn set(&self, framing: Framing) {
        self.0.store(framing as u8, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Framing {
        let number = usize::from(self.0.load(Ordering::Relaxed));
        Framing::ALL.get(number).copied().unwrap_or_default()
    }
}

#[cfg(all(test, feature = "serde"))]
mod tests {
    use super::*;

    #[test]
    fn framing_has_one_name_everywhere() {
        for framing in Framing::ALL {
            let text = serde_json::to_string(&framing).expect("text");
            assert_eq!(text, format!("\"{framing}\""));
            assert_eq!(FramingCell::new(framing).get(), framing);
        }
    }
}
