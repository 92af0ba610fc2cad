//! Floor 1. An outgoing record becomes one frame, in one piece, or is refused.

use serde::de::IgnoredAny;

use crate::config::{Framing, Limits};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::memcpy;
use crate::json;

/// Appends `record` as one frame to `out`. On an error nothing is appended.
///
/// The check is always in full, whatever [`Limits::json_check`] says: a bad record going out
/// costs the agent its session, and it is cheaper to say so here. A raw `\r` is refused like a
/// raw `\n`: many readers end a line at either.
///
/// # Errors
/// [`ErrorKind::RecordTooLarge`] above `record_max`; [`ErrorKind::InvalidRecord`] where it is
/// empty, not UTF-8, not one JSON value, or (NDJSON) holds a raw line end.
pub(crate) fn encode(
    framing: Framing,
    record: &[u8],
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<()> {
    check(framing, record, limits)?;
    match framing {
        Framing::Ndjson => {
            out.reserve(record.len() + 1);
            memcpy::append(out, record);
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

/// Cheapest first: the size is known without looking.
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
    if framing == Framing::Ndjson
        && let Some(at) = memchr::memchr2(b'\n', b'\r', record)
    {
        let what = format!("record of {} bytes holds a raw line end at byte {at}", record.len());
        return Err(refused(what).remedy("write the JSON on one line"));
    }
    let text = std::str::from_utf8(record).map_err(|error| {
        refused(format!("record of {} bytes is not UTF-8: {error}", record.len()))
    })?;
    if json::is_valid(record) {
        return Ok(());
    }
    // Once more, by the parser that can say what is wrong and where.
    let why = serde_json::from_str::<IgnoredAny>(text).err();
    let why = why.map_or_else(|| "no more is known".to_owned(), |error| error.to_string());
    Err(refused(format!("record of {} bytes is not one JSON value: {why}", record.len())))
}

fn refused(what: String) -> Error {
    Error::new(ErrorKind::InvalidRecord, "write", what)
}
