//! The envelope: the few routing keys that are common to agent protocols, found in the one pass that
//! checks the JSON.
//!
//! A host routes a record by its type, its request and its session, and most records are not parsed
//! any further. `parent_tool_use_id` is among the keys because a record of a subagent is routed by it.
//! The check of the JSON visits every key anyway, so noting these five costs almost nothing, while a
//! second pass costs as much as the first.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;

use crate::json::{self, JsonSummary, JsonValue};

#[cfg(test)]
mod tests;

/// The routing keys of a message. See [`Record::envelope`](crate::Record::envelope).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Envelope<'a> {
    /// The value of `type`.
    #[serde(borrow, default, rename = "type", deserialize_with = "text")]
    pub kind: Option<Cow<'a, str>>,
    /// The value of `subtype`.
    #[serde(borrow, default, deserialize_with = "text")]
    pub subtype: Option<Cow<'a, str>>,
    /// The value of `request_id`.
    #[serde(borrow, default, deserialize_with = "text")]
    pub request_id: Option<Cow<'a, str>>,
    /// The value of `session_id`.
    #[serde(borrow, default, deserialize_with = "text")]
    pub session_id: Option<Cow<'a, str>>,
    /// The value of `parent_tool_use_id`.
    #[serde(borrow, default, deserialize_with = "text")]
    pub parent_tool_use_id: Option<Cow<'a, str>>,
}

/// The positions of the values of the routing keys in a record, as found by the check of its JSON. 32 bytes,
/// without a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    starts: [u32; KEYS],
    /// [`ABSENT`] if there is no such key, or its value is not text.
    lens: [u16; KEYS],
    known: bool,
    is_ascii: bool,
}

/// In the order of the fields of [`Envelope`].
const KEYS: usize = 5;
const ABSENT: u16 = u16::MAX;

impl Outline {
    /// No outline: the record was not checked, or needs a parser.
    pub(crate) const UNKNOWN: Self =
        Self { starts: [0; KEYS], lens: [0; KEYS], known: false, is_ascii: false };

    /// Checks the JSON in one pass without allocation. Returns `None` if it is not valid.
    ///
    /// The outline is unknown if the text is not an object, if an outermost key or a routing value has
    /// escapes, if a routing key occurs twice, or if a routing value is longer than any id.
    pub(crate) fn of(text: &[u8]) -> Option<Self> {
        let mut outline = Self { lens: [ABSENT; KEYS], ..Self::UNKNOWN };
        let mut seen = [false; KEYS];
        let mut plain = true;
        let mut object = false;
        let JsonSummary { is_ascii } = json::validate(text, &mut |member| {
            object = true;
            let JsonValue::Text(key) = member.key() else {
                plain = false;
                return;
            };
            let index = match key {
                b"type" => 0,
                b"subtype" => 1,
                b"request_id" => 2,
                b"session_id" => 3,
                b"parent_tool_use_id" => 4,
                _ => return,
            };
            // A key that occurs twice is an error of the parser, so the record is left to it.
            plain &= !std::mem::replace(&mut seen[index], true);
            match member.value() {
                JsonValue::Other => {}
                JsonValue::Escaped => plain = false,
                JsonValue::Text(value) => {
                    // `value` is a slice of `text`, so the difference is its index.
                    let start = value.as_ptr().addr() - text.as_ptr().addr();
                    match (u32::try_from(start), u16::try_from(value.len())) {
                        (Ok(start), Ok(len)) if len != ABSENT => {
                            outline.starts[index] = start;
                            outline.lens[index] = len;
                        }
                        _ => plain = false,
                    }
                }
            }
        })?;
        // An empty object shows no member and is left to the parser, too.
        outline.known = plain && object;
        outline.is_ascii = is_ascii;
        Some(outline)
    }

    /// Whether all bytes are known to be ASCII.
    pub(crate) fn is_ascii(&self) -> bool {
        self.is_ascii
    }

    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// Returns the envelope of `record`, whose outline this is, or `None` if it is unknown.
    pub(crate) fn envelope<'a>(&self, record: &'a [u8]) -> Option<Envelope<'a>> {
        if !self.known {
            return None;
        }
        let text = |index: usize| {
            if self.lens[index] == ABSENT {
                return Some(None);
            }
            let start = self.starts[index] as usize;
            // An outline that is not of these bytes must not panic. The caller then asks the
            // parser.
            let text = record.get(start..start + usize::from(self.lens[index]))?;
            Some(Some(Cow::Borrowed(str::from_utf8(text).ok()?)))
        };
        Some(Envelope {
            kind: text(0)?,
            subtype: text(1)?,
            request_id: text(2)?,
            session_id: text(3)?,
            parent_tool_use_id: text(4)?,
        })
    }
}

/// Deserializes text, and any other value as `None`: a key of another type is not an error.
fn text<'de: 'a, 'a, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Cow<'a, str>>, D::Error> {
    struct TextVisitor;
    impl<'de> serde::de::Visitor<'de> for TextVisitor {
        type Value = Option<Cow<'de, str>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
            Ok(Some(text.into()))
        }
        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned().into()))
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(
            self,
            mut seq: A,
        ) -> Result<Self::Value, A::Error> {
            // serde requires a visitor to consume all elements.
            while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            Ok(None)
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
            Ok(None)
        }
    }
    deserializer.deserialize_any(TextVisitor)
}
