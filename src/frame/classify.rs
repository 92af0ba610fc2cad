//! Classification: whether a line or a body is a record. One pass, without recursion.

use crate::config::JsonCheck;
use crate::record::{MalformedReason, Outline};

/// The kind of a complete line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    Blank,
    Record(Outline),
    Noise,
    Malformed(MalformedReason),
    /// Only the last line, the one without a newline.
    Truncated,
}

/// Classifies a line that ended with a newline.
///
/// A line that begins with `{` is a record or a malformed one. A line that begins with `[` may
/// be a log line (`[debug] ...`), so it is noise if it is not a record.
pub(super) fn line(bytes: &[u8], check: JsonCheck) -> LineKind {
    let text = trimmed(bytes);
    match text.first() {
        None => LineKind::Blank,
        Some(b'{') => match verify(bytes, check) {
            Ok(outline) => LineKind::Record(outline),
            Err(reason) => LineKind::Malformed(reason),
        },
        Some(b'[') => match verify(bytes, check) {
            Ok(outline) => LineKind::Record(outline),
            Err(_) => LineKind::Noise,
        },
        Some(_) => LineKind::Noise,
    }
}

/// Classifies the last line, cut off by the end of the output. Always checks it in full: a cut can
/// leave a `}` at the end by chance, and then the shape is right although the record is not.
pub(super) fn tail(bytes: &[u8]) -> LineKind {
    match line(bytes, JsonCheck::Syntax) {
        LineKind::Malformed(_) => LineKind::Truncated,
        // A cut array is no valid JSON, so `line` takes it for a log line.
        LineKind::Noise if may_be_array(trimmed(bytes)) => LineKind::Truncated,
        kind => kind,
    }
}

/// Checks a body whose length was given. Any JSON value is a record here, scalars included: the
/// header already says that it is a message.
pub(super) fn body(bytes: &[u8], check: JsonCheck) -> Result<Outline, MalformedReason> {
    let text = trimmed(bytes);
    match text.first() {
        Some(b'{' | b'[') => verify(bytes, check),
        // A scalar has no brackets that a check of the shape could look at.
        _ => verify(bytes, JsonCheck::Syntax),
    }
}

/// Checks encoding and JSON. Reports bad UTF-8 first where both are wrong.
fn verify(bytes: &[u8], check: JsonCheck) -> Result<Outline, MalformedReason> {
    let (outline, is_ascii) = match check {
        JsonCheck::Syntax => {
            let outline = Outline::of(bytes);
            (outline, outline.is_some_and(|outline| outline.is_ascii()))
        }
        JsonCheck::Shape => {
            let text = trimmed(bytes);
            let has_shape = match text.first() {
                Some(b'{') => text.last() == Some(&b'}'),
                _ => text.last() == Some(&b']') && may_be_array(text),
            };
            (has_shape.then_some(Outline::UNKNOWN), bytes.is_ascii())
        }
    };
    // The JSON pass does not check UTF-8, but it knows whether all is ASCII, as most records are.
    if !is_ascii {
        std::str::from_utf8(bytes).map_err(|_| MalformedReason::Utf8)?;
    }
    outline.ok_or_else(|| why_not_json(bytes))
}

/// Returns what is wrong with a text that is not JSON, by its first fault that has a name.
pub(super) fn why_not_json(text: &[u8]) -> MalformedReason {
    let (mut depth, mut in_string, mut at) = (0_usize, false, 0);
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            0x00..=0x1F if in_string => return MalformedReason::ControlCharacter,
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    let rest = trimmed(&text[at..]);
                    // Text that is complete and followed by nothing has a fault without a name.
                    let named = !rest.is_empty();
                    return if named { MalformedReason::SecondText } else { MalformedReason::Json };
                }
            }
            b'N' | b'I' => {
                let word = &text[at - 1..];
                let len = word.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
                if matches!(&word[..len], b"NaN" | b"Infinity") {
                    return MalformedReason::NotFinite;
                }
                at += len - 1;
            }
            _ => {}
        }
    }
    if depth > 0 || in_string { MalformedReason::Unfinished } else { MalformedReason::Json }
}

/// Whether the text is `[` followed by nothing yet or by what can begin an array. `[debug]` is not.
fn may_be_array(text: &[u8]) -> bool {
    let Some((b'[', rest)) = text.split_first() else { return false };
    match rest.iter().find(|&&byte| !is_space(byte)) {
        None => true,
        Some(b'{' | b'[' | b']' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => true,
        Some(_) => false,
    }
}

/// Returns the text without the JSON whitespace around it.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let Some(first) = bytes.iter().position(|&byte| !is_space(byte)) else { return &[] };
    let last = bytes.iter().rposition(|&byte| !is_space(byte)).unwrap_or(first);
    &bytes[first..=last]
}

/// Whether the byte is whitespace in JSON. Other whitespace (NBSP, form feed) is content.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}
