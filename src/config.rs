//! How bytes become records, and how many bytes one agent may hold in this process.

use crate::error::{Error, ErrorKind, Result};

/// How thoroughly the framer checks that a line or body is a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum JsonCheck {
    /// Checks that the whole text is one JSON value. The check needs one bit of memory for each level
    /// of nesting.
    #[default]
    Syntax,
    /// Checks only that the text is valid UTF-8, begins with `{` or `[`, and ends with the matching
    /// byte. Meant for hosts that parse every record anyway and want the error there.
    Shape,
}

/// How much one agent may hold in this process. Sizes are in bytes.
///
/// Every limit applies to one record or one agent; none adds up over the life of an agent. The engine has
/// limits for all its agents together.
/// `usize::MAX` means no limit. A value below the minimum of its setter is an
/// [`InvalidSettings`](crate::ErrorKind::InvalidSettings) error of the spawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Limits {
    pub(crate) record_max: usize,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) header_max: usize,
    pub(crate) inbox_high: usize,
    pub(crate) outbox_high: usize,
    pub(crate) drain_max: usize,
    pub(crate) stderr_tail: usize,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) stderr_line_max: usize,
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) preview: usize,
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
            preview: 160,
            json_check: JsonCheck::Syntax,
        }
    }
}

impl Limits {
    /// Creates the default limits: 16 MiB per record, 1 MiB unread, 1 MiB unsent, and 64 MiB kept
    /// while closing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the largest record in bytes, in both directions. Default 16 MiB; at least 64 bytes.
    ///
    /// A larger record from the agent becomes [`Event::Oversized`](crate::Event::Oversized), and the
    /// stream goes on. A larger record to the agent is refused before a byte is sent.
    #[must_use]
    pub fn record_max(mut self, bytes: usize) -> Self {
        self.record_max = bytes;
        self
    }

    /// Returns the value set by [`record_max`](Self::record_max).
    #[must_use]
    pub fn get_record_max(&self) -> usize {
        self.record_max
    }

    /// Sets how many unread bytes make the engine stop reading stdout, so that the agent blocks.
    /// Default 1 MiB; at least 1. Reading resumes below half of it.
    ///
    /// The engine may hold what it reads in one turn in addition: the buffer pool of its thread (512 KiB
    /// by default) and the record that completes.
    #[must_use]
    pub fn inbox_high(mut self, bytes: usize) -> Self {
        self.inbox_high = bytes;
        self
    }

    /// Returns the value set by [`inbox_high`](Self::inbox_high).
    #[must_use]
    pub fn get_inbox_high(&self) -> usize {
        self.inbox_high
    }

    /// Sets how many unsent bytes make a writer wait. Default 1 MiB; at least 1. A record counts for 64
    /// bytes more than its length. One record more may be held.
    #[must_use]
    pub fn outbox_high(mut self, bytes: usize) -> Self {
        self.outbox_high = bytes;
        self
    }

    /// Returns the value set by [`outbox_high`](Self::outbox_high).
    #[must_use]
    pub fn get_outbox_high(&self) -> usize {
        self.outbox_high
    }

    /// Sets how many unread bytes are kept for the reader while the agent is being closed. Default
    /// 64 MiB. The larger of this and [`inbox_high`](Self::inbox_high) holds. Output beyond it is read,
    /// counted as discarded, and dropped. All closing agents of an engine share a sum:
    /// [`EngineBuilder::drain_total_max`](crate::EngineBuilder::drain_total_max).
    #[must_use]
    pub fn drain_max(mut self, bytes: usize) -> Self {
        self.drain_max = bytes;
        self
    }

    /// Returns the value set by [`drain_max`](Self::drain_max).
    #[must_use]
    pub fn get_drain_max(&self) -> usize {
        self.drain_max
    }

    /// Sets how many bytes of the end of stderr are kept for reports and errors. Default 8 KiB.
    #[must_use]
    pub fn stderr_tail(mut self, bytes: usize) -> Self {
        self.stderr_tail = bytes;
        self
    }

    /// Returns the value set by [`stderr_tail`](Self::stderr_tail).
    #[must_use]
    pub fn get_stderr_tail(&self) -> usize {
        self.stderr_tail
    }

    /// Sets how records from the agent are checked. Default [`JsonCheck::Syntax`].
    #[must_use]
    pub fn json_check(mut self, check: JsonCheck) -> Self {
        self.json_check = check;
        self
    }

    /// Returns the value set by [`json_check`](Self::json_check).
    #[must_use]
    pub fn get_json_check(&self) -> JsonCheck {
        self.json_check
    }

    /// Returns an error that names the first limit below its minimum.
    pub(crate) fn check(&self) -> Result<()> {
        let minimums = [
            ("record_max", self.record_max, 64),
            ("inbox_high", self.inbox_high, 1),
            ("outbox_high", self.outbox_high, 1),
        ];
        for (name, value, least) in minimums {
            if value < least {
                let what = format!("Limits::{name} is {value} bytes; the minimum is {least}");
                return Err(Error::new(ErrorKind::InvalidSettings, "spawn", what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_below_its_minimum_is_named() {
        let checked = [
            Limits::new().record_max(63).check(),
            Limits::new().inbox_high(0).check(),
            Limits::new().outbox_high(0).check(),
        ];
        for (outcome, name) in checked.into_iter().zip(["record_max", "inbox_high", "outbox_high"])
        {
            let error = outcome.expect_err("too small");
            assert_eq!(error.kind(), ErrorKind::InvalidSettings);
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(Limits::new().record_max(64).inbox_high(1).outbox_high(1).check().is_ok());
    }

    #[cfg(feature = "serde")]
    #[test]
    fn settings_in_a_file_may_leave_out_what_has_a_default() {
        use crate::close::{CloseMode, ClosePolicy};

        let limits: Limits = serde_json::from_str(r#"{"record_max":1000}"#).expect("valid");
        assert_eq!(limits, Limits::new().record_max(1000));
        let policy = r#"{"mode":"abort","drain":{"secs":7,"nanos":0}}"#;
        let policy: ClosePolicy = serde_json::from_str(policy).expect("valid");
        assert_eq!((policy.mode(), policy.get_drain().as_secs()), (CloseMode::Abort, 7));
        let text = serde_json::to_string(&policy).expect("numbers");
        assert_eq!(serde_json::from_str::<ClosePolicy>(&text).expect("its own text"), policy);
    }
}
