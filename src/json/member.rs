//! Floor 0. A key of the outermost object, and what stands behind it.

use memchr::memchr2;

use super::block::equal;

/// What a key is, or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Text without escapes, between its quotes.
    Text(&'a [u8]),
    /// Text that has to be unescaped.
    Escaped,
    /// No text.
    Other,
}

/// Where a key begins. Nothing is read until it is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Member<'a> {
    /// `at` is the place of the key's opening quote.
    pub(super) fn new(text: &'a [u8], at: usize) -> Self {
        Self { text, at }
    }

    pub(crate) fn key(self) -> Value<'a> {
        string(self.text, self.at).map_or(Value::Other, |(key, _)| key)
    }

    pub(crate) fn value(self) -> Value<'a> {
        let value = || {
            let (_, behind) = string(self.text, self.at)?;
            let colon = after_space(self.text, behind)?;
            let at = after_space(self.text, colon + 1)?;
            string(self.text, at).map(|(value, _)| value)
        };
        value().unwrap_or(Value::Other)
    }
}

/// The string that begins here, and where it is over. `None` where none begins, or it never ends.
fn string(text: &[u8], at: usize) -> Option<(Value<'_>, usize)> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let start = at + 1;
    let (mut at, mut escaped) = (start, false);
    loop {
        at += plain(text.get(at..)?)?;
        if text[at] == b'"' {
            let value = if escaped { Value::Escaped } else { Value::Text(&text[start..at]) };
            return Some((value, at + 1));
        }
        escaped = true;
        at += 2;
    }
}

/// How many bytes come before the next quote or backslash.
#[inline]
fn plain(text: &[u8]) -> Option<usize> {
    /// Keys and names end within so many words of eight bytes; a call costs more than these.
    const WORDS: usize = 5;
    let (words, _) = text.as_chunks::<8>();
    for (index, word) in words.iter().take(WORDS).enumerate() {
        let word = u64::from_le_bytes(*word);
        let found = equal(word, b'"') | equal(word, b'\\');
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = words.len().min(WORDS) * 8;
    Some(at + memchr2(b'"', b'\\', &text[at..])?)
}

fn after_space(text: &[u8], at: usize) -> Option<usize> {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    Some(at + text.get(at..)?.iter().position(|byte| !space(byte))?)
}
