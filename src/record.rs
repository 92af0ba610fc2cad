//! Floor 0. One message from an agent, and a lazy view of it.

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::json::{self, Value};

/// The bytes of exactly one message, without its framing. Cheap to clone: a shared slice.
///
/// The JSON in it is not parsed until asked for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Record(Bytes);

impl Record {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The message, byte for byte.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The message as text. Records from an agent are checked to be UTF-8.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where it is not UTF-8 (a record you made yourself).
    pub fn as_str(&self) -> Result<&str> {
        std::str::from_utf8(&self.0)
            .map_err(|error| Error::new(ErrorKind::InvalidRecord, "parse", error.to_string()))
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The whole message as `T`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where it is not JSON or not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.0).map_err(|error| self.not_json(&error))
    }

    /// The few keys that say what a message is, borrowed where they need no unescaping; all
    /// other values are skipped, not built. Keys of another type than text are passed over.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where it is not a JSON object, and where one of those keys
    /// stands there twice.
    pub fn envelope(&self) -> Result<Envelope<'_>> {
        if let Some(envelope) = Envelope::of_plain(&self.0) {
            return Ok(envelope);
        }
        // Escapes and everything that is wrong: rare, and serde says best what it is.
        serde_json::from_slice(&self.0).map_err(|error| self.not_json(&error))
    }

    /// A part of this record, without a copy: the parent's bytes live as long as the part.
    ///
    /// `part` must be a slice of this record, as a borrowed parse gives it.
    pub(crate) fn part(&self, part: &[u8]) -> Self {
        Self(self.0.slice_ref(part))
    }

    /// Any value as a record of JSON.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRecord`] where the value has no JSON: a map with keys that are no text.
    pub fn from_json(value: &(impl serde::Serialize + ?Sized)) -> Result<Self> {
        let bytes = serde_json::to_vec(value)
            .map_err(|error| Error::new(ErrorKind::InvalidRecord, "encode", error.to_string()))?;
        Ok(Self(bytes.into()))
    }

    fn not_json(&self, error: &serde_json::Error) -> Error {
        let what = format!("record of {} bytes does not parse: {error}", self.0.len());
        Error::new(ErrorKind::InvalidRecord, "parse", what)
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Record {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

/// At most 160 bytes of it: records may be large, logs should not.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(160)];
        write!(f, "Record({} bytes: {:?})", self.0.len(), String::from_utf8_lossy(shown))
    }
}

/// What a message is, without the rest of it. See [`Record::envelope`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Envelope<'a> {
    /// `type`
    #[serde(borrow, default, rename = "type", deserialize_with = "text")]
    pub kind: Option<std::borrow::Cow<'a, str>>,
    /// `subtype`
    #[serde(borrow, default, deserialize_with = "text")]
    pub subtype: Option<std::borrow::Cow<'a, str>>,
    /// `request_id`
    #[serde(borrow, default, deserialize_with = "text")]
    pub request_id: Option<std::borrow::Cow<'a, str>>,
    /// `session_id`
    #[serde(borrow, default, deserialize_with = "text")]
    pub session_id: Option<std::borrow::Cow<'a, str>>,
    /// `parent_tool_use_id`
    #[serde(borrow, default, deserialize_with = "text")]
    pub parent_tool_use_id: Option<std::borrow::Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// One pass without allocation, for an object whose keys and envelope hold no escapes and no
    /// key of the envelope twice: nearly all of them. `None` for all others.
    fn of_plain(text: &'a [u8]) -> Option<Self> {
        let mut found: [Option<Value<'a>>; 5] = [None; 5];
        let mut twice = false;
        let object = json::keys(text, &mut |key, value| {
            let index = match key {
                b"type" => 0,
                b"subtype" => 1,
                b"request_id" => 2,
                b"session_id" => 3,
                b"parent_tool_use_id" => 4,
                _ => return,
            };
            twice |= found[index].replace(value).is_some();
        })?;
        if twice || !object {
            return None;
        }
        let text = |value| match value {
            Some(Value::Text(text)) => str::from_utf8(text).ok().map(|text| Some(text.into())),
            Some(Value::Escaped) => None,
            Some(Value::Other) | None => Some(None),
        };
        let [kind, subtype, request_id, session_id, parent_tool_use_id] = found;
        Some(Self {
            kind: text(kind)?,
            subtype: text(subtype)?,
            request_id: text(request_id)?,
            session_id: text(session_id)?,
            parent_tool_use_id: text(parent_tool_use_id)?,
        })
    }
}

/// Text as it stands, `None` for anything else; a key of the wrong type is not an error here.
fn text<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<std::borrow::Cow<'a, str>>, D::Error> {
    struct Text;
    impl<'de> serde::de::Visitor<'de> for Text {
        type Value = Option<std::borrow::Cow<'de, str>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
            Ok(Some(text.into()))
        }
        fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
            Ok(Some(text.to_owned().into()))
        }
        fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_bool<E>(self, _: bool) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_i64<E>(self, _: i64) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_u64<E>(self, _: u64) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_f64<E>(self, _: f64) -> std::result::Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut seq: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            Ok(None)
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> std::result::Result<Self::Value, A::Error> {
            while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
            Ok(None)
        }
    }
    deserializer.deserialize_any(Text)
}

/// The JSON as it stands.
impl serde::Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let raw: &serde_json::value::RawValue =
            serde_json::from_slice(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(to)
    }
}
