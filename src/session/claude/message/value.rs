//! Floor 4. What the fields of a view can hold: text, numbers, words of a list that may grow.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::fields::{Text, Value, Wrong};
use super::json::Json;

impl<'a> Value<'a> for Json<'a> {
    fn read(json: Self) -> Result<(Self, bool), Wrong> {
        Ok((json, true))
    }
}

impl<'a> Value<'a> for Cow<'a, str> {
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong> {
        if let Ok(Text(text)) = serde_json::from_str(json.as_str()) {
            return Ok((text, true));
        }
        // A JavaScript string may be cut in the middle of a character, which JSON can say and
        // UTF-8 cannot.
        let Cut(text) = parse(json, "a string")?;
        Ok((text.into(), false))
    }
}

impl<'a> Value<'a> for bool {
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong> {
        Ok((parse(json, "true or false")?, true))
    }
}

impl<'a> Value<'a> for u64 {
    /// A fraction is rounded, what is below zero is zero; the number itself is then kept, too.
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong> {
        if let Ok(number) = serde_json::from_str(json.as_str()) {
            return Ok((number, true));
        }
        let number: f64 = parse(json, "a number")?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        Ok((number.round() as Self, false))
    }
}

impl<'a> Value<'a> for f64 {
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong> {
        let text = json.as_str();
        // Of the JSON values that Rust reads as a float all are numbers; not every number is finite.
        let number: Option<Self> = text.parse().ok().filter(|number: &Self| number.is_finite());
        // A long integer may have more digits than fit.
        let whole = text.len() <= 15 || text.contains(['.', 'e', 'E']);
        Ok((number.ok_or_else(|| Wrong::new("expected a number"))?, whole))
    }
}

impl<'a> Value<'a> for Vec<Cow<'a, str>> {
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong> {
        let texts = parse::<Vec<Text<'a>>>(json, "a list of strings")?;
        Ok((texts.into_iter().map(|Text(text)| text).collect(), true))
    }
}

/// The elements of a list.
pub(super) fn elements(json: Json<'_>) -> Result<impl Iterator<Item = Json<'_>>, Wrong> {
    let elements: Vec<&RawValue> = parse(json, "a list")?;
    Ok(elements.into_iter().map(Json::new))
}

fn parse<'a, T: Deserialize<'a>>(json: Json<'a>, what: &str) -> Result<T, Wrong> {
    serde_json::from_str(json.as_str()).map_err(|_| Wrong::new(format!("expected {what}")))
}

/// A string with halves of surrogate pairs, which are replaced.
struct Cut(String);

impl<'de> Deserialize<'de> for Cut {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Cut;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Cut, E> {
                Ok(Cut(String::from_utf8_lossy(bytes).into_owned()))
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// One of several words, and room for those to come.
macro_rules! words {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name<'a> {
            $($(#[$word_doc])* $variant,)*
            /// A word that is not known here.
            Other(std::borrow::Cow<'a, str>),
        }

        impl $name<'_> {
            /// The word, as it stands in the record.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                }
            }
        }

        impl<'a> $crate::session::claude::message::fields::Value<'a> for $name<'a> {
            fn read(
                json: $crate::session::claude::message::Json<'a>,
            ) -> Result<(Self, bool), $crate::session::claude::message::fields::Wrong> {
                let (word, whole) = std::borrow::Cow::read(json)?;
                let word = match &*word {
                    $($word => Self::$variant,)*
                    _ => Self::Other(word),
                };
                Ok((word, whole))
            }
        }

        impl serde::Serialize for $name<'_> {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    };
}
pub(super) use words;

/// A list of views, or a text in place of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Content<'a> {
    /// Plain text.
    Text(Cow<'a, str>),
    /// Blocks.
    Blocks(Vec<super::Block<'a>>),
}

impl<'a> Value<'a> for Content<'a> {
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong> {
        match Cow::read(json) {
            Ok((text, whole)) => Ok((Self::Text(text), whole)),
            Err(_) => Vec::read(json).map(|(blocks, whole)| (Self::Blocks(blocks), whole)),
        }
    }
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(to),
            Self::Blocks(blocks) => blocks.serialize(to),
        }
    }
}
