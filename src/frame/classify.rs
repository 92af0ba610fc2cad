//! Floor 1. Is it a record? Looks at each byte a fixed number of times and never recurses.

use crate::config::JsonCheck;
use crate::record::MalformedReason;
use crate::record::Outline;

/// What a complete line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Blank,
    Record(Outline),
    Noise,
    Malformed(MalformedReason),
    /// Only for the last line, the one without a newline.
    Truncated,
}

/// JSON's own whitespace. Others (NBSP, form feed) are content here, as they are in JSON.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The text without the JSON whitespace around it.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let Some(first) = bytes.iter().position(|&byte| !is_space(byte)) else { return &[] };
    let last = bytes.iter().rposition(|&byte| !is_space(byte)).unwrap_or(first);
    &bytes[first..=last]
}

/// A line that ended with a newline.
///
/// `{` promises a record, so what follows it is a record or a malformed one. `[` may as well
/// begin a log line (`[debug] ...`), so what is no record there is noise.
pub(super) fn line(bytes: &[u8], check: JsonCheck) -> Verdict {
    let text = trimmed(bytes);
    match text.first() {
        None => Verdict::Blank,
        Some(b'{') => match verify(bytes, check) {
            Ok(outline) => Verdict::Record(outline),
            Err(reason) => Verdict::Malformed(reason),
        },
        Some(b'[') => match verify(bytes, check) {
            Ok(outline) => Verdict::Record(outline),
            Err(_) => Verdict::Noise,
        },
        Some(_) => Verdict::Noise,
    }
}

/// The last line, cut off by the end of the output. Always checked in full: a cut can leave a
/// `}` at the end by chance, and then its shape is right and the record is not.
pub(super) fn tail(bytes: &[u8]) -> Verdict {
    match line(bytes, JsonCheck::Syntax) {
        Verdict::Malformed(_) => Verdict::Truncated,
        Verdict::Noise if may_be_array(trimmed(bytes)) => Verdict::Truncated,
        verdict => verdict,
    }
}

/// A body whose length was given. There any JSON value is a record: the header says so.
pub(super) fn body(bytes: &[u8], check: JsonCheck) -> Result<Outline, MalformedReason> {
    let text = trimmed(bytes);
    match text.first() {
        Some(b'{' | b'[') => verify(bytes, check),
        _ => verify(bytes, JsonCheck::Syntax),
    }
}

/// The JSON pass sees where all is ASCII; what else it takes may be no UTF-8, and that is said
/// first of what is neither.
fn verify(bytes: &[u8], check: JsonCheck) -> Result<Outline, MalformedReason> {
    let (seen, is_ascii) = match check {
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
    // Most are, and that is seen faster.
    if !is_ascii {
        std::str::from_utf8(bytes).map_err(|_| MalformedReason::Utf8)?;
    }
    seen.ok_or(MalformedReason::Json)
}

/// `[`, and then nothing yet or what an array can begin with. `[debug]` is not.
fn may_be_array(text: &[u8]) -> bool {
    let Some((b'[', rest)) = text.split_first() else { return false };
    match rest.iter().find(|&&byte| !is_space(byte)) {
        None => true,
        Some(b'{' | b'[' | b']' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => true,
        Some(_) => false,
    }
}
