//! Records: one message from an agent, and a lazy view of its JSON.

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

mod envelope;
mod event;

pub use envelope::Envelope;
pub(crate) use envelope::Outline;
pub use event::{Event, MalformedReason, Preview, StderrLine};

/// The bytes of exactly one message, without its framing.
///
/// A clone shares the bytes. The JSON is not parsed before a method needs it.
#[derive(Clone)]
pub struct Record {
    bytes: Bytes,
    /// Found by the framer's check, so that the envelope needs no second pass.
    outline: Outline,
}

impl Record {
    /// `outline` is that of these bytes, or [`Outline::UNKNOWN`].
    pub(crate) fn new(bytes: Bytes, outline: Outline) -> Self {
        Self { bytes, outline }
    }

    /// Returns the message, byte for byte.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the message as text. Records from an agent are always UTF-8.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRecord`] if a record made by the caller is not UTF-8.
    pub fn as_str(&self) -> Result<&str> {
        std::str::from_utf8(&self.bytes)
            .map_err(|error| Error::new(ErrorKind::InvalidRecord, "parse", error.to_string()))
    }

    /// Returns the length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns true if the record has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Parses the whole message as `T`. Of a key that occurs twice, `serde_json::Value` and maps keep the
    /// last value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRecord`] if it is not JSON or not a `T`. Also if `T` has to hold a string with
    /// half of a surrogate pair: JSON allows it, as the escape `\ud83d` alone, and a Rust string cannot
    /// hold it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.bytes).map_err(|error| self.not_json(&error))
    }

    /// Returns the routing keys of the message: the few keys that say what it is. Other values are
    /// skipped and not built. A routing key whose value is not text is `None`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRecord`] if the message is not a JSON object or holds a routing key twice.
    pub fn envelope(&self) -> Result<Envelope<'_>> {
        let outlined = match self.outline.is_known() {
            true => self.outline.envelope(&self.bytes),
            false => Outline::of(&self.bytes).and_then(|found| found.envelope(&self.bytes)),
        };
        if let Some(envelope) = outlined {
            return Ok(envelope);
        }
        // Rare: escapes, and errors, which serde describes best.
        serde_json::from_slice(&self.bytes).map_err(|error| self.not_json(&error))
    }

    /// Returns a part of this record without a copy. The part keeps the bytes of its parent alive.
    ///
    /// `part` must be a slice of this record, as a borrowed parse returns it.
    pub(crate) fn part(&self, part: &[u8]) -> Self {
        // The positions in the outline are those of the parent.
        Self::new(self.bytes.slice_ref(part), Outline::UNKNOWN)
    }

    /// Serializes a value as a record.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRecord`] if the value has no JSON form, such as a map whose keys are not text.
    pub fn from_json(value: &(impl serde::Serialize + ?Sized)) -> Result<Self> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::new(ErrorKind::InvalidRecord, "encode", error.to_string()))?;
        Ok(bytes.into())
    }

    fn not_json(&self, error: &serde_json::Error) -> Error {
        let what = format!("record of {} bytes does not parse: {error}", self.bytes.len());
        if error.is_data() || !has_lone_surrogate(&self.bytes) {
            return Error::new(ErrorKind::InvalidRecord, "parse", what);
        }
        let what =
            format!("{what}; it holds half of a surrogate pair, as an escape without its pair");
        Error::new(ErrorKind::InvalidRecord, "parse", what)
            .remedy("use as_str or as_bytes, or parse that string as serde_json's RawValue")
    }
}

/// Whether a JSON text has an escape for half of a surrogate pair, without the other half.
fn has_lone_surrogate(mut text: &[u8]) -> bool {
    let unit = |text: &[u8]| {
        let digits = text.strip_prefix(b"\\u")?.get(..4)?;
        u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
    };
    while let Some(at) = memchr::memchr(b'\\', text) {
        text = &text[at..];
        let used = match unit(text) {
            Some(0xD800..=0xDBFF) => match unit(&text[6..]) {
                Some(0xDC00..=0xDFFF) => 12,
                _ => return true,
            },
            Some(0xDC00..=0xDFFF) => return true,
            Some(_) => 6,
            None => 2,
        };
        text = text.get(used..).unwrap_or_default();
    }
    false
}

/// Compares the bytes.
impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Record {}

impl Hash for Record {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Vec<u8>> for Record {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes.into(), Outline::UNKNOWN)
    }
}

/// Shows at most 160 bytes, because records may be large and logs should not be.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.bytes[..self.bytes.len().min(160)];
        write!(f, "Record({} bytes: {:?})", self.bytes.len(), String::from_utf8_lossy(shown))
    }
}

/// Serializes the JSON unchanged.
impl serde::Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let raw: &serde_json::value::RawValue =
            serde_json::from_slice(&self.bytes).map_err(serde::ser::Error::custom)?;
        raw.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogate_is_named() {
        for text in [
            r#"{"a":"\ud83d"}"#,
            r#"{"\ud800type":1}"#,
            r#"{"a":"\uDC00\ud83d"}"#,
            r#"{"a":"\ud83d\ud83d\ude00"}"#,
            r#"{"a":"\\\ud83dx"}"#,
        ] {
            let record = Record::from(text.as_bytes().to_vec());
            let error = record.json::<serde_json::Value>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidRecord);
            let error = error.to_string();
            assert!(
                error.contains("half of a surrogate pair") && error.contains("as_bytes"),
                "{error}"
            );
            // The way that the error names.
            let raw = record.json::<Box<serde_json::value::RawValue>>().expect("JSON");
            assert_eq!(raw.get(), text);
            assert_eq!(record.as_str().expect("text"), text);
        }
        for text in [
            r#"{"a":"\ud83d\ude00""#,
            r#"{"a":"\\ud83d""#,
            r#"{"a":"\u00e9","#,
            "{\"a\":\"\\",
            "{\"a\":\"\\u12",
        ] {
            let record = Record::from(text.as_bytes().to_vec());
            let error = record.json::<serde_json::Value>().expect_err("cut").to_string();
            assert!(!error.contains("surrogate pair"), "{error}");
        }
    }

    #[test]
    fn key_that_occurs_twice_is_not_guessed() {
        let record = Record::from(br#"{"type":"a","x":1,"x":2,"type":"b"}"#.to_vec());
        let error = record.envelope().expect_err("which one?").to_string();
        assert!(error.contains("duplicate field `type`"), "{error}");
        let last: serde_json::Value = record.json().expect("JSON");
        assert_eq!((&last["type"], &last["x"]), (&"b".into(), &2.into()));
        let record = Record::from(br#"{"type":"a","x":1,"x":2}"#.to_vec());
        assert_eq!(record.envelope().expect("one type").kind.as_deref(), Some("a"));
    }
}
