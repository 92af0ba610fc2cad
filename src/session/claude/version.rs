//! Floor 4. The version of a CLI, as it says it.

use std::fmt;

/// The version of Claude Code. Ordered.
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
    /// The oldest one that sessions are made for, 2.0.0. An older one is warned of.
    pub const OLDEST: Self = Self { major: 2, minor: 0, patch: 0 };

    /// Three numbers with dots between them, at the beginning of a text; what follows is passed over.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, rest) = number(text)?;
        let (minor, rest) = number(rest.strip_prefix('.')?)?;
        let (patch, _) = number(rest.strip_prefix('.')?)?;
        Some(Self { major, minor, patch })
    }
}

fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

impl fmt::Display for CliVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_three_numbers_at_the_beginning() {
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
