//! Floor 0. How bytes become records, and how many of them may be held.

/// How records are told apart on the agent's stdin and stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Framing {
    /// One JSON text a line, `\n` after each (`\r\n` is accepted). Claude Code, MCP, ACP, Codex.
    #[default]
    Ndjson,
    /// `Content-Length: N`, a blank line, then N bytes (Language Server Protocol, base protocol).
    ContentLength,
}

impl Framing {
    /// The name used on the command line and in reports: `ndjson` or `content-length`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::ContentLength => "content-length",
        }
    }
}

/// How much of a record is looked at before it is called one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum JsonCheck {
    /// The whole text must be one JSON value. docs/benchmarks.md has what it costs (`checked`
    /// against `framed`); while it runs it keeps a bit for each level of nesting.
    #[default]
    Syntax,
    /// Only the outside is looked at: valid UTF-8, a first `{` or `[` and the matching last
    /// byte. For hosts that parse every record anyway and want the error there.
    Shape,
}

/// What one agent may hold in this process. All sizes are bytes.
///
/// Every limit is per record or per agent; none is summed over a session's life. `usize::MAX` is no
/// limit. A value below the least that a setter names is set to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) record_max: usize,
    pub(crate) header_max: usize,
    pub(crate) inbox_high: usize,
    pub(crate) outbox_high: usize,
    pub(crate) drain_max: usize,
    pub(crate) stderr_tail: usize,
    pub(crate) stderr_line_max: usize,
    pub(crate) sample: usize,
    pub(crate) json_check: JsonCheck,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record_max: 16 << 20,
            header_max: 8 << 10,
            inbox_high: 1 << 20,
            outbox_high: 1 << 20,
            drain_max: 64 << 20,
            stderr_tail: 8 << 10,
            stderr_line_max: 64 << 10,
            sample: 160,
            json_check: JsonCheck::Syntax,
        }
    }
}

impl Limits {
    /// The defaults: 16 MiB a record, 1 MiB unread, 1 MiB unsent, 64 MiB kept while closing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The largest record, either way. Default 16 MiB; at least 64 bytes.
    ///
    /// A larger one becomes [`Event::Oversized`](crate::Event::Oversized) and the stream goes
    /// on. Going out it is refused before a byte is sent.
    #[must_use]
    pub fn record_max(mut self, bytes: usize) -> Self {
        self.record_max = bytes.max(64);
        self
    }

    /// Unread bytes at which the engine stops reading stdout, so that the agent blocks. Default
    /// 1 MiB; at least 1. Reading goes on below half of it. A turn's worth more may be held: the pool of its
    /// engine thread (512 KiB by default) and the record that completes.
    #[must_use]
    pub fn inbox_high(mut self, bytes: usize) -> Self {
        self.inbox_high = bytes.max(1);
        self
    }

    /// Unsent bytes at which a writer waits; a record counts for 64 more than it has. Default
    /// 1 MiB; at least 1. One record more may be held.
    #[must_use]
    pub fn outbox_high(mut self, bytes: usize) -> Self {
        self.outbox_high = bytes.max(1);
        self
    }

    /// Unread bytes kept for the reader while the agent is being closed. Default 64 MiB; less
    /// than [`inbox_high`](Self::inbox_high) counts as that. What comes beyond it is read, counted
    /// as discarded and dropped.
    #[must_use]
    pub fn drain_max(mut self, bytes: usize) -> Self {
        self.drain_max = bytes;
        self
    }

    /// How much of the end of stderr is kept for reports and errors. Default 8 KiB.
    #[must_use]
    pub fn stderr_tail(mut self, bytes: usize) -> Self {
        self.stderr_tail = bytes;
        self
    }

    /// How records are checked as they come in. Default [`JsonCheck::Syntax`].
    #[must_use]
    pub fn json_check(mut self, check: JsonCheck) -> Self {
        self.json_check = check;
        self
    }
}
