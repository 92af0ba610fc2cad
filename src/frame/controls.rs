//! Terminal control sequences around a record: a window title, a cursor move, the end of a colour.
//!
//! A program that takes its stdout for a terminal writes them beside its records. They are not JSON,
//! and they are no reason to lose the record on the same line.

use std::ops::Range;

use super::classify::is_space;
use super::ndjson::BYTE_ORDER_MARK;

const ESCAPE: u8 = 0x1B;

/// Returns the part of a line between control sequences if there are any: from the first byte that
/// may begin a record to the next control character. Outside of it are controls and white space,
/// and text that the record overwrites.
pub(super) fn text_between(line: &[u8]) -> Option<Range<usize>> {
    let start = controls(line);
    if matches!(line.get(start), Some(b'{')) {
        return text_from(line, start);
    }
    text_from(line, start).or_else(|| {
        let overwritten = overwritten(line);
        text_from(line, overwritten + controls(&line[overwritten..]))
    })
}

/// Returns the text that begins at `start` and has controls around it.
fn text_from(line: &[u8], start: usize) -> Option<Range<usize>> {
    let text = &line[start..];
    if !matches!(text.first(), Some(b'{' | b'[')) {
        return None;
    }
    // JSON text holds no raw control character but white space, so the first one ends the text.
    let len = text.iter().position(|&byte| byte < b' ' && !is_space(byte)).unwrap_or(text.len());
    let around = start > 0 || len < text.len();
    let rest = &text[len..];
    (around && controls(rest) == rest.len()).then_some(start..start + len)
}

/// Returns the length of the text that a terminal overwrites with the rest: a progress bar or a
/// spinner, up to the last return to the first column.
fn overwritten(line: &[u8]) -> usize {
    let behind = |mark: &[u8]| memchr::memmem::rfind(line, mark).map_or(0, |at| at + mark.len());
    behind(b"\r").max(behind(b"\x1b[G")).max(behind(b"\x1b[1G"))
}

/// Returns the length of the control sequences at the start, with the white space among them.
fn controls(bytes: &[u8]) -> usize {
    let mut at = 0;
    while at < bytes.len() {
        let len = if is_space(bytes[at]) { 1 } else { control(&bytes[at..]) };
        if len == 0 {
            break;
        }
        at += len;
    }
    at
}

/// Returns the length of the control character or sequence at the start, or 0 (ECMA-48).
fn control(bytes: &[u8]) -> usize {
    match bytes {
        [ESCAPE, b'[', ..] => sequence(bytes, 2),
        // OSC, DCS, SOS, PM, APC, and the title of screen(1).
        [ESCAPE, b']' | b'P' | b'X' | b'^' | b'_' | b'k', ..] => string(bytes),
        [ESCAPE, b' '..=b'/', ..] => sequence(bytes, 1),
        // An escape character that was cut off, in front of a record.
        [ESCAPE, b'{', ..] => 1,
        [ESCAPE, b'0'..=b'~', ..] => 2,
        // The same sequences, each begun by one character of its own.
        [0xC2, 0x9B, ..] => sequence(bytes, 2),
        [0xC2, 0x90 | 0x98 | 0x9D..=0x9F, ..] => string(bytes),
        [0xC2, 0x80..=0x9F, ..] => 2,
        [0x01..=0x1F | 0x7F, ..] => 1,
        _ if bytes.starts_with(BYTE_ORDER_MARK) => BYTE_ORDER_MARK.len(),
        _ => 0,
    }
}

/// Returns the length of a sequence of parameters and one final byte. One without its final byte
/// ends where it breaks off.
fn sequence(bytes: &[u8], parameters: usize) -> usize {
    let is_parameter = |byte: &&u8| matches!(byte, b' '..=b'?');
    let end = parameters + bytes[parameters..].iter().take_while(is_parameter).count();
    match bytes.get(end) {
        // No sequence in use ends in a brace, but a record begins with one.
        Some(b'{') | None => end,
        Some(b'0'..=b'~') => end + 1,
        Some(_) => end,
    }
}

/// Returns the length of a string: with its ST, or up to BEL. CAN, SUB and another escape sequence
/// abort it, and a string without an end takes the whole line.
fn string(bytes: &[u8]) -> usize {
    for at in 2..bytes.len() {
        match bytes[at..] {
            [ESCAPE, b'\\', ..] | [0xC2, 0x9C, ..] => return at + 2,
            // Each is a control of its own.
            [0x07 | 0x18 | 0x1A | ESCAPE, ..] => return at,
            _ => {}
        }
    }
    bytes.len()
}
