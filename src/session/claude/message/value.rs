//! The values of a view: JSON that is borrowed from its record, and the types that a field can have.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::{self, Error, ErrorKind};
use crate::record::Record;

/// A JSON value of a record, byte for byte. It borrows from the record, so a copy is free.
#[derive(Clone, Copy)]
pub struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    pub(super) fn of(record: &'a Record) -> serde_json::Result<Self> {
        serde_json::from_slice(record.as_bytes()).map(Self)
    }

    pub(super) fn new(raw: &'a RawValue) -> Self {
        Self(raw)
    }

    /// Returns the JSON text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0.get()
    }

    /// Parses the value as `T`, which may borrow from the record.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] if the value is not a `T`.
    pub fn parse<T: Deserialize<'a>>(self) -> error::Result<T> {
        serde_json::from_str(self.as_str()).map_err(|error| {
            let what = format!("JSON of {} bytes: {error}", self.as_str().len());
            Error::new(ErrorKind::InvalidRecord, "parse", what)
        })
    }

    pub(super) fn is_null(self) -> bool {
        self.as_str() == "null"
    }
}

/// Compares the text: `1` and `1.0` differ.
impl PartialEq for Json<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// Shows at most about 160 bytes.
impl fmt::Debug for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.as_str();
        let cut = text.char_indices().map(|(at, _)| at).find(|at| *at >= 160);
        let cut = cut.unwrap_or(text.len());
        f.write_str(&text[..cut])?;
        if cut < text.len() { write!(f, "... ({} bytes)", text.len()) } else { Ok(()) }
    }
}

/// Writes the JSON unchanged.
impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// The keys of an object that the fields of its view do not hold, in the order of the record.
///
/// These are: unknown keys; keys whose value is `null` or of another type than their field; and values
/// that a field cannot hold in full (a fraction, half of a surrogate pair, a repeated key).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra<'a>(pub(super) Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Extra<'a> {
    /// Returns the value of a key, and the last value of a repeated key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Json<'a>> {
        self.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Returns the keys and values, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, Json<'a>)> + ExactSizeIterator {
        self.0.iter().map(|(key, value)| (&**key, *value))
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the fields hold the whole object.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a record has no view: the place, and the defect.
#[derive(Debug)]
pub(super) struct ViewError(String);

impl ViewError {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// Adds the place in which the error occurred: a type or a key of the record.
    pub(super) fn inside(self, place: impl fmt::Display) -> Self {
        Self(format!("`{place}`: {}", self.0))
    }
}

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A type that a field can have.
pub(super) trait FieldValue<'a>: Sized {
    /// Returns the value, and whether it holds all of the JSON. If not, the JSON is kept in `extra`.
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError>;
}

/// A text that is borrowed if it has no escapes.
#[derive(Deserialize)]
pub(super) struct BorrowedText<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'a> FieldValue<'a> for Json<'a> {
    fn read(json: Self) -> Result<(Self, bool), ViewError> {
        Ok((json, true))
    }
}

impl<'a> FieldValue<'a> for Cow<'a, str> {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        if let Ok(BorrowedText(text)) = serde_json::from_str(json.as_str()) {
            return Ok((text, true));
        }
        // A JavaScript string may be cut within a character. JSON can express that, UTF-8 cannot.
        let LossyText(text) = parse(json, "a string")?;
        Ok((text.into(), false))
    }
}

impl<'a> FieldValue<'a> for bool {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        Ok((parse(json, "true or false")?, true))
    }
}

impl<'a> FieldValue<'a> for u64 {
    /// Rounds a fraction, and reads a negative number as zero. The number itself is then kept as well.
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        if let Ok(number) = serde_json::from_str(json.as_str()) {
            return Ok((number, true));
        }
        let number: f64 = parse(json, "a number")?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        Ok((number.round() as Self, false))
    }
}

impl<'a> FieldValue<'a> for f64 {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        let text = json.as_str();
        // Each JSON value that Rust parses as a float is a number, but a number may overflow to infinity.
        let number: Option<Self> = text.parse().ok().filter(|number: &Self| number.is_finite());
        // A long integer may have more digits than a float can hold.
        let whole = text.len() <= 15 || text.contains(['.', 'e', 'E']);
        Ok((number.ok_or_else(|| ViewError::new("expected a number"))?, whole))
    }
}

impl<'a> FieldValue<'a> for Vec<Cow<'a, str>> {
    fn read(json: Json<'a>) -> Result<(Self, bool), ViewError> {
        let texts = parse::<Vec<BorrowedText<'a>>>(json, "a list of strings")?;
        Ok((texts.into_iter().map(|BorrowedText(text)| text).collect(), true))
    }
}

/// Returns the elements of a list.
pub(super) fn elements(json: Json<'_>) -> Result<impl Iterator<Item = Json<'_>>, ViewError> {
    let elements: Vec<&RawValue> = parse(json, "a list")?;
    Ok(elements.into_iter().map(Json::new))
}

fn parse<'a, T: Deserialize<'a>>(json: Json<'a>, what: &str) -> Result<T, ViewError> {
    serde_json::from_str(json.as_str()).map_err(|_| ViewError::new(format!("expected {what}")))
}

/// A string in which halves of surrogate pairs are replaced.
struct LossyText(String);

impl<'de> Deserialize<'de> for LossyText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = LossyText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<LossyText, E> {
                Ok(LossyText(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        from.deserialize_bytes(BytesVisitor)
    }
}
