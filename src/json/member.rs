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

/// The strings of a block, and its other tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strings {
    /// Where the block begins in the text.
    pub(super) at: usize,
    /// Opening and closing ones.
    pub(super) quotes: u64,
    /// Their opening quotes.
    pub(super) strings: u64,
    pub(super) tokens: u64,
    /// No string has an escape here.
    pub(super) plain: bool,
}

impl Strings {
    /// What is between the quotes of the string that begins at this place, if it ends here.
    #[inline]
    fn text<'a>(&self, text: &'a [u8], place: usize) -> Option<&'a [u8]> {
        let end = behind(self.quotes, place)?;
        self.plain.then(|| &text[self.at + place + 1..self.at + end])
    }
}

/// The first of the bits above this one.
#[inline]
fn behind(bits: u64, place: usize) -> Option<usize> {
    let bits = bits & (u64::MAX << place << 1);
    (bits != 0).then_some(bits.trailing_zeros() as usize)
}

/// A key and where it stands. What its block does not hold is read when it is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    text: &'a [u8],
    at: usize,
    key: Option<&'a [u8]>,
    value: Option<Value<'a>>,
}

impl<'a> Member<'a> {
    /// `place` is that of the key's opening quote in its block.
    #[inline]
    pub(super) fn new(text: &'a [u8], place: usize, block: &Strings) -> Self {
        let value = behind(block.tokens, place).and_then(|colon| behind(block.tokens, colon));
        let value = match value {
            Some(value) if block.strings >> value & 1 == 1 => {
                block.text(text, value).map(Value::Text)
            }
            Some(_) => Some(Value::Other),
            None => None,
        };
        Self { text, at: block.at + place, key: block.text(text, place), value }
    }

    #[inline]
    pub(crate) fn key(self) -> Value<'a> {
        match self.key {
            Some(key) => Value::Text(key),
            None => string(self.text, self.at).map_or(Value::Other, |(key, _)| key),
        }
    }

    #[inline]
    pub(crate) fn value(self) -> Value<'a> {
        self.value.unwrap_or_else(|| self.value_elsewhere().unwrap_or(Value::Other))
    }

    fn value_elsewhere(self) -> Option<Value<'a>> {
        let behind = match self.key {
            Some(key) => self.at + key.len() + 2,
            None => string(self.text, self.at)?.1,
        };
        let colon = after_space(self.text, behind)?;
        let at = after_space(self.text, colon + 1)?;
        string(self.text, at).map(|(value, _)| value)
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
