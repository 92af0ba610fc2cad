//! Floor 4. JSON that nobody has looked at yet, borrowed from its record.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

/// A JSON value as it stands in the record, byte for byte. A borrow: free to copy.
#[derive(Clone, Copy)]
pub struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    pub(super) fn of(record: &'a Record) -> serde_json::Result<Self> {
        serde_json::from_slice(record.as_bytes()).map(Self)
    }

    pub(super) fn new(raw: &'a RawValue) -> Self {
        Self(raw)
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0.get()
    }

    /// The value as `T`, which may borrow from the record.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where it is no `T`.
    pub fn parse<T: Deserialize<'a>>(self) -> Result<T> {
        serde_json::from_str(self.as_str()).map_err(|error| {
            let what = format!("JSON of {} bytes: {error}", self.as_str().len());
            Error::new(ErrorKind::InvalidRecord, "parse", what)
        })
    }

    pub(super) fn is_null(self) -> bool {
        self.as_str() == "null"
    }
}

/// By their text: `1` and `1.0` differ.
impl PartialEq for Json<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// At most about 160 bytes of it.
impl fmt::Debug for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.as_str();
        let cut = text.char_indices().map(|(at, _)| at).find(|at| *at >= 160);
        let cut = cut.unwrap_or(text.len());
        f.write_str(&text[..cut])?;
        if cut < text.len() { write!(f, "... ({} bytes)", text.len()) } else { Ok(()) }
    }
}

/// The JSON as it stands.
impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// What an object holds beside the fields of its view, in the order of the record.
///
/// That is: keys that nobody knows; keys whose value is `null` or no value for their field; and
/// what a field cannot hold in full (a fraction, half of a surrogate pair, a repeated key).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra<'a>(pub(super) Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Extra<'a> {
    /// The value of a key; the last one where it is there twice.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Json<'a>> {
        self.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Keys and values.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, Json<'a>)> + ExactSizeIterator {
        self.0.iter().map(|(key, value)| (&**key, *value))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the fields hold everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
