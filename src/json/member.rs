//! Members of the outermost object: a key and its value.

use memchr::memchr2;

use super::block::equal;

/// A key or a value, as far as the pass knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonValue<'a> {
    /// Text without escapes, without its quotes.
    Text(&'a [u8]),
    /// Text with escapes.
    Escaped,
    /// Not text.
    Other,
}

/// The tokens of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockTokens {
    /// The index of the block in the text.
    pub(super) at: usize,
    /// Opening and closing quotes.
    pub(super) quotes: u64,
    /// Opening quotes.
    pub(super) strings: u64,
    pub(super) tokens: u64,
    /// No string of the block has an escape.
    pub(super) plain: bool,
}

impl BlockTokens {
    /// Returns the string that begins at `place`, if it ends in this block.
    #[inline]
    fn text<'a>(&self, text: &'a [u8], place: usize) -> Option<&'a [u8]> {
        let end = behind(self.quotes, place)?;
        // The escape may be in another string of the block; `string` finds out.
        self.plain.then(|| &text[self.at + place + 1..self.at + end])
    }
}

/// Returns the first set bit above `place`.
#[inline]
fn behind(bits: u64, place: usize) -> Option<usize> {
    // Two shifts, because `place` may be 63 and a shift by 64 overflows.
    let bits = bits & (u64::MAX << place << 1);
    (bits != 0).then_some(bits.trailing_zeros() as usize)
}

/// A member. What is not inside the block of its key is parsed when it is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsonMember<'a> {
    text: &'a [u8],
    at: usize,
    key: Option<&'a [u8]>,
    value: Option<JsonValue<'a>>,
}

impl<'a> JsonMember<'a> {
    /// `place` is the position of the key's opening quote in its block.
    #[inline]
    pub(super) fn new(text: &'a [u8], place: usize, block: &BlockTokens) -> Self {
        // In a valid text the token after a key is its colon, and the next one begins the value. In
        // any other text the members mean nothing.
        let value = behind(block.tokens, place).and_then(|colon| behind(block.tokens, colon));
        let value = match value {
            Some(value) if block.strings >> value & 1 == 1 => {
                block.text(text, value).map(JsonValue::Text)
            }
            Some(_) => Some(JsonValue::Other),
            None => None,
        };
        Self { text, at: block.at + place, key: block.text(text, place), value }
    }

    #[inline]
    pub(crate) fn key(self) -> JsonValue<'a> {
        match self.key {
            Some(key) => JsonValue::Text(key),
            // No end means that the text is not JSON, and the pass refuses it later.
            None => string(self.text, self.at).map_or(JsonValue::Other, |(key, _)| key),
        }
    }

    #[inline]
    pub(crate) fn value(self) -> JsonValue<'a> {
        self.value.unwrap_or_else(|| self.value_elsewhere().unwrap_or(JsonValue::Other))
    }

    fn value_elsewhere(self) -> Option<JsonValue<'a>> {
        let behind = match self.key {
            Some(key) => self.at + key.len() + 2,
            None => string(self.text, self.at)?.1,
        };
        let colon = after_space(self.text, behind)?;
        let at = after_space(self.text, colon + 1)?;
        string(self.text, at).map(|(value, _)| value)
    }
}

/// Returns the string that begins at `at` and the index behind it.
fn string(text: &[u8], at: usize) -> Option<(JsonValue<'_>, usize)> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let start = at + 1;
    let (mut at, mut escaped) = (start, false);
    loop {
        at += plain(text.get(at..)?)?;
        if text[at] == b'"' {
            let value =
                if escaped { JsonValue::Escaped } else { JsonValue::Text(&text[start..at]) };
            return Some((value, at + 1));
        }
        escaped = true;
        // The byte behind a backslash never ends the string.
        at += 2;
    }
}

/// Returns the number of bytes before the next quote or backslash.
#[inline]
fn plain(text: &[u8]) -> Option<usize> {
    /// Keys and names end within this many words of eight bytes; a call of memchr costs more.
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
