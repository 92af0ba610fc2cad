//! Encoding: checks an outgoing record and turns it into one frame.

use serde::de::IgnoredAny;

use crate::config::Limits;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::memcpy;
use crate::framing::Framing;
use crate::json;

use super::classify::why_not_json;

/// Appends `record` as one frame to `out`. Appends nothing on an error.
///
/// Always checks the JSON in full, also with [`JsonCheck::Shape`](crate::JsonCheck::Shape): a bad
/// record ends the session of many agents. Refuses a raw `\r` like a raw `\n`, because many readers
/// end a line at either.
///
/// # Errors
///
/// [`ErrorKind::RecordTooLarge`] above `record_max`; [`ErrorKind::InvalidRecord`] if the record is
/// empty, not UTF-8, not one JSON value, or (NDJSON) holds a raw line end.
pub(crate) fn encode(
    framing: Framing,
    record: &[u8],
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<()> {
    check(framing, record, limits)?;
    match framing {
        Framing::Ndjson | Framing::Auto => {
            out.reserve(record.len() + 1);
            memcpy::append(out, record);
            out.push(b'\n');
        }
        Framing::Concat => {
            let start = out.len();
            out.reserve(record.len() + 1);
            memcpy::append(out, record);
            // A raw line end in JSON is white space between tokens.
            for byte in &mut out[start..] {
                if matches!(byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
            out.push(b'\n');
        }
        Framing::ContentLength => {
            let header = format!("Content-Length: {}\r\n\r\n", record.len());
            out.reserve(header.len() + record.len());
            out.extend_from_slice(header.as_bytes());
            memcpy::append(out, record);
        }
    }
    Ok(())
}

/// Checks the cheapest property first.
fn check(framing: Framing, record: &[u8], limits: &Limits) -> Result<()> {
    if record.len() > limits.record_max {
        let (len, max) = (record.len(), limits.record_max);
        let what = format!("record of {len} bytes is above the limit of {max}");
        return Err(
            Error::new(ErrorKind::RecordTooLarge, "write", what).remedy("raise Limits::record_max")
        );
    }
    if record.is_empty() {
        return Err(refused("record is empty".into()));
    }
    if matches!(framing, Framing::Ndjson | Framing::Auto)
        && let Some(at) = memchr::memchr2(b'\n', b'\r', record)
    {
        let what = format!("record of {} bytes holds a raw line end at byte {at}", record.len());
        return Err(refused(what).remedy("write the JSON on one line"));
    }
    // The JSON pass does not check the encoding.
    let text = std::str::from_utf8(record).map_err(|error| {
        refused(format!("record of {} bytes is not UTF-8: {error}", record.len()))
    })?;
    if json::is_valid(record) {
        return Ok(());
    }
    // Parses again, with a parser that reports what is wrong and where.
    let why = serde_json::from_str::<IgnoredAny>(text).err();
    // The tests of `json` hold both parsers to the same texts, so a cause is always found.
    let why = why.map_or_else(|| "the cause is unknown".to_owned(), |error| error.to_string());
    let reason = why_not_json(record);
    Err(refused(format!("record of {} bytes is {reason}: {why}", record.len())))
}

fn refused(what: String) -> Error {
    Error::new(ErrorKind::InvalidRecord, "write", what)
}
