//! Floor 0. One message from an agent, and a lazy view of it.

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

mod envelope;
mod event;

pub use envelope::Envelope;
pub(crate) use envelope::Outline;
pub use event::{Event, MalformedReason, Preview};

/// The bytes of exactly one message, without its framing. Cheap to clone: a shared slice.
///
/// The JSON in it is not parsed until asked for.
#[derive(Clone)]
pub struct Record {
    bytes: Bytes,
    /// Found by the framer's check, so that the envelope costs no second pass.
    outline: Outline,
}

impl Record {
    /// `outline`: of these bytes, or [`Outline::UNKNOWN`].
    pub(crate) fn new(bytes: Bytes, outline: Outline) -> Self {
        Self { bytes, outline }
    }

    /// The message, byte for byte.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message as text. Records from an agent are checked to be UTF-8.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where it is not UTF-8 (a record you made yourself).
    pub fn as_str(&self) -> Result<&str> {
        std::str::from_utf8(&self.bytes)
            .map_err(|error| Error::new(ErrorKind::InvalidRecord, "parse", error.to_string()))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The whole message as `T`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where it is not JSON or not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.bytes).map_err(|error| self.not_json(&error))
    }

    /// The few keys that say what a message is, borrowed where they need no unescaping; all
    /// other values are skipped, not built. Keys of another type than text are passed over.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where it is not a JSON object, and where one of those keys
    /// stands there twice.
    pub fn envelope(&self) -> Result<Envelope<'_>> {
        let outlined = match self.outline.is_known() {
            true => self.outline.envelope(&self.bytes),
            false => Outline::of(&self.bytes).and_then(|found| found.envelope(&self.bytes)),
        };
        if let Some(envelope) = outlined {
            return Ok(envelope);
        }
        // Escapes and everything that is wrong: rare, and serde says best what it is.
        serde_json::from_slice(&self.bytes).map_err(|error| self.not_json(&error))
    }

    /// A part of this record, without a copy: the parent's bytes live as long as the part.
    ///
    /// `part` must be a slice of this record, as a borrowed parse gives it.
    pub(crate) fn part(&self, part: &[u8]) -> Self {
        Self::new(self.bytes.slice_ref(part), Outline::UNKNOWN)
    }

    /// Any value as a record of JSON.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where the value has no JSON: a map with keys that are no text.
    pub fn from_json(value: &(impl serde::Serialize + ?Sized)) -> Result<Self> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::new(ErrorKind::InvalidRecord, "encode", error.to_string()))?;
        Ok(bytes.into())
    }

    fn not_json(&self, error: &serde_json::Error) -> Error {
        let what = format!("record of {} bytes does not parse: {error}", self.bytes.len());
        Error::new(ErrorKind::InvalidRecord, "parse", what)
    }
}

/// By the bytes.
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

/// At most 160 bytes of it: records may be large, logs should not.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.bytes[..self.bytes.len().min(160)];
        write!(f, "Record({} bytes: {:?})", self.bytes.len(), String::from_utf8_lossy(shown))
    }
}

/// The JSON as it stands.
impl serde::Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let raw: &serde_json::value::RawValue =
            serde_json::from_slice(&self.bytes).map_err(serde::ser::Error::custom)?;
        raw.serialize(to)
    }
}
