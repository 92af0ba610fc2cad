//! The version of a CLI, which the session itself tells, and what needs a certain one.

use std::fmt;

/// The version of Claude Code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct CliVersion {
    /// 2 in 2.1.330.
    pub major: u64,
    /// 1 in 2.1.330.
    pub minor: u64,
    /// 330 in 2.1.330.
    pub patch: u64,
}

impl CliVersion {
    /// The oldest version that sessions support, 2.0.0. A session with an older CLI logs a warning.
    pub const OLDEST: Self = Self::new(2, 0, 0);

    pub(super) const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self { major, minor, patch }
    }

    /// Parses three numbers with dots between them at the beginning of a text. The rest of the text
    /// is ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, rest) = leading_number(text)?;
        let (minor, rest) = leading_number(rest.strip_prefix('.')?)?;
        let (patch, _) = leading_number(rest.strip_prefix('.')?)?;
        Some(Self { major, minor, patch })
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

impl fmt::Display for CliVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A part of a session that only newer CLIs have. An older one ignores it, which a warning tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct VersionNeed {
    pub(super) what: &'static str,
    pub(super) since: CliVersion,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_three_leading_numbers() {
        // A parser that guesses would take a banner for a version, and warn of a new CLI.
        let version = CliVersion::parse("2.1.330 (Claude Code)").expect("a version");
        assert_eq!((version.major, version.minor, version.patch), (2, 1, 330));
        assert_eq!(version.to_string(), "2.1.330");
        assert_eq!(CliVersion::parse("1.0.9-beta.1").expect("a version").patch, 9);
        for text in
            ["", "v2.1.0", "2.1", "2..1", "Claude 2.1.0", "2.1.x", "99999999999999999999.0.0"]
        {
            assert_eq!(CliVersion::parse(text), None, "{text}");
        }
        let below = CliVersion::parse("1.99.99").expect("a version");
        assert!(below < CliVersion::OLDEST && version > CliVersion::OLDEST);
    }
}
