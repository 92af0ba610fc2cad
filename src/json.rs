//! Floor 0. One pass over a JSON text: whether it is one, and what its outermost keys say.
//!
//! Strings are skipped eight bytes and more at a time and nothing is built, so a pass costs a
//! fraction of a parse. No recursion: nesting is a bit per level, so depth is no danger. Whether
//! the bytes are UTF-8 is not looked at. `tests` holds it against `serde_json`.

#[cfg(test)]
mod tests;

/// What stands behind an outermost key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Text without escapes, between its quotes.
    Text(&'a [u8]),
    /// Text that has to be unescaped.
    Escaped,
    /// No text.
    Other,
}

/// Whether the bytes are one JSON value, with white space around it or none.
pub(crate) fn is_valid(text: &[u8]) -> bool {
    Pass { bytes: text, at: 0 }.whole(&mut |_, _| {}).is_some()
}

/// Shows each key of the outermost object, if it is one, and what stands behind it. `None` for
/// what is no JSON.
pub(crate) fn keys<'a>(text: &'a [u8], see: &mut impl FnMut(Value<'a>, Value<'a>)) -> Option<()> {
    Pass { bytes: text, at: 0 }.whole(see)
}

/// JSON's own white space.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Which brackets are open: a bit for each, set for an object.
#[derive(Default)]
struct Nesting {
    innermost: u64,
    depth: usize,
    /// The 64 levels outside of `innermost`, and so on. Empty for anything a sane agent says.
    outer: Vec<u64>,
}

impl Nesting {
    fn open(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.innermost);
        }
        self.innermost = self.innermost << 1 | u64::from(object);
        self.depth += 1;
    }

    fn close(&mut self) {
        self.innermost >>= 1;
        self.depth -= 1;
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.innermost = self.outer.pop().unwrap_or_default();
        }
    }

    /// Whether the innermost bracket is an object's.
    fn in_object(&self) -> bool {
        self.innermost & 1 == 1
    }
}

struct Pass<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Each step is `None` where the text is not JSON.
impl<'a> Pass<'a> {
    fn whole(mut self, see: &mut impl FnMut(Value<'a>, Value<'a>)) -> Option<()> {
        let mut nesting = Nesting::default();
        // The outermost key whose value comes next.
        let mut key = None;
        loop {
            // A value.
            match self.after_space()? {
                open @ (b'{' | b'[') => {
                    if let Some(key) = key.take() {
                        see(key, Value::Other);
                    }
                    self.at += 1;
                    let object = open == b'{';
                    nesting.open(object);
                    // The other bracket has the code of this one plus two.
                    if self.after_space()? != open + 2 {
                        if object {
                            key = self.key(&nesting)?;
                        }
                        continue;
                    }
                }
                b'"' => {
                    let text = self.string()?;
                    if let Some(key) = key.take() {
                        see(key, text);
                    }
                }
                first => {
                    self.scalar(first)?;
                    if let Some(key) = key.take() {
                        see(key, Value::Other);
                    }
                }
            }
            // What follows a value.
            loop {
                if nesting.depth == 0 {
                    self.space();
                    return (self.at == self.bytes.len()).then_some(());
                }
                let object = nesting.in_object();
                match self.after_space()? {
                    b',' => {
                        self.at += 1;
                        if object {
                            self.space();
                            key = self.key(&nesting)?;
                        }
                        break;
                    }
                    b'}' if object => {}
                    b']' if !object => {}
                    _ => return None,
                }
                self.at += 1;
                nesting.close();
            }
        }
    }

    /// A key and its colon; given back only of the outermost object.
    fn key(&mut self, nesting: &Nesting) -> Option<Option<Value<'a>>> {
        if self.peek()? != b'"' {
            return None;
        }
        let key = self.string()?;
        if self.after_space()? != b':' {
            return None;
        }
        self.at += 1;
        Some((nesting.depth == 1).then_some(key))
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// The next byte that is no white space.
    fn after_space(&mut self) -> Option<u8> {
        self.space();
        self.peek()
    }

    /// From quote to quote.
    fn string(&mut self) -> Option<Value<'a>> {
        let start = self.at + 1;
        self.at = start;
        let mut escaped = false;
        loop {
            self.at += plain(self.bytes.get(self.at..)?);
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.at += 1;
                    self.escape()?;
                }
                _ => return None,
            }
        }
        let text = &self.bytes[start..self.at];
        self.at += 1;
        Some(if escaped { Value::Escaped } else { Value::Text(text) })
    }

    /// What follows a backslash. Half of a surrogate pair is text as good as any here.
    fn escape(&mut self) -> Option<()> {
        let len = match self.peek()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 1,
            b'u' => {
                let digits = self.bytes.get(self.at + 1..self.at + 5)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                5
            }
            _ => return None,
        };
        self.at += len;
        Some(())
    }

    fn scalar(&mut self, first: u8) -> Option<()> {
        match first {
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then_some(())?;
        self.at += word.len();
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Some(())
    }

    /// At least one.
    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }
}

/// How many bytes come before the first quote, backslash or control character.
fn plain(bytes: &[u8]) -> usize {
    /// Most strings are keys and names: found in the first words.
    const SHORT: usize = 16;
    let mut at = 0;
    // Long ones by blocks that the compiler turns into vector compares.
    if bytes.len() > SHORT {
        at = words(&bytes[..SHORT]);
        if at < SHORT {
            return at;
        }
        let (blocks, _) = bytes[at..].as_chunks::<32>();
        for block in blocks {
            let mut found = false;
            for byte in block {
                found |= is_special(*byte);
            }
            if found {
                break;
            }
            at += 32;
        }
    }
    at + words(&bytes[at..])
}

/// [`plain`] by words of eight bytes.
fn words(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    /// The high bit of each byte below `least`; wrong only above the first that is right.
    fn below(word: u64, least: u8) -> u64 {
        word.wrapping_sub(ONES * u64::from(least)) & !word & HIGHS
    }
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = quote | backslash | below(word, 0x20);
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let at = rest.iter().position(|byte| is_special(*byte));
    words.len() * 8 + at.unwrap_or(rest.len())
}

/// What ends a run of plain text.
fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}
