//! Numbers, literals and escapes, byte by byte. `None` means that the text is not JSON.

use super::places;

/// Checks the scalar that begins at `at` and the byte that ends it.
#[inline]
pub(super) fn check(text: &[u8], at: usize) -> Option<()> {
    let text = text.get(at..)?;
    // Fewer than eight bytes are left near the end of the text.
    match text.first_chunk() {
        Some(word) if is_short_number(word) => Some(()),
        _ => check_any(text),
    }
}

#[inline(never)]
fn check_any(text: &[u8]) -> Option<()> {
    let len = match text.first()? {
        b't' => literal(text, b"true")?,
        b'f' => literal(text, b"false")?,
        b'n' => literal(text, b"null")?,
        _ => number(text)?,
    };
    let end = text.get(len).copied().unwrap_or(b' ');
    matches!(end, b' ' | b'\t' | b'\n' | b'\r' | b',' | b'}' | b']').then_some(())
}

/// Whether the bytes are a number of up to seven digits and its end. False for many other numbers.
fn is_short_number(bytes: &[u8; 8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // A digit xor '0' has its high bits clear, and adding 6 keeps them clear.
    let digits = u64::from_le_bytes(*bytes) ^ (ONES * u64::from(b'0'));
    let others = (digits | (digits & (ONES * 0x0f)).wrapping_add(ONES * 6)) & (ONES * 0xf0);
    let count = others.trailing_zeros() as usize / 8;
    // Eight digits give 8, where no byte is, and such a number is checked the long way.
    let ends = matches!(bytes.get(count), Some(b',' | b'}' | b']'));
    count > 0 && ends && (count == 1 || bytes[0] != b'0')
}

fn literal(text: &[u8], word: &[u8]) -> Option<usize> {
    text.starts_with(word).then_some(word.len())
}

fn number(text: &[u8]) -> Option<usize> {
    let is = |at: usize, byte: u8| text.get(at) == Some(&byte);
    let mut at = usize::from(is(0, b'-'));
    // A digit behind a leading zero is not taken, and the check of the end refuses it.
    at = if is(at, b'0') { at + 1 } else { digits(text, at)? };
    if is(at, b'.') {
        at = digits(text, at + 1)?;
    }
    if is(at, b'e') || is(at, b'E') {
        at += 1;
        at += usize::from(is(at, b'+') || is(at, b'-'));
        at = digits(text, at)?;
    }
    Some(at)
}

/// Returns the index behind one or more digits.
fn digits(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while text.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    (at > start).then_some(at)
}

/// Checks the escaped bytes at these positions, counted from `at`. A lone surrogate is accepted, as
/// JSON allows it.
pub(super) fn check_escapes(text: &[u8], at: usize, escaped: u64) -> Option<()> {
    for place in places(escaped) {
        let at = at + place;
        // The text may end with the backslash.
        match text.get(at)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
            b'u' => {
                // The digits are read from the text, because they may be in the next block. A
                // string that ends among them fails, because a quote is no digit.
                let digits = text.get(at + 1..at + 5)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
            }
            _ => return None,
        }
    }
    Some(())
}
