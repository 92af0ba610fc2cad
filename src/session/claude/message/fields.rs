//! How a view is read from an object and written back. An object is split into its keys once. Its
//! view takes the keys that it knows, and the rest stays in `extra`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::value::{BorrowedText, Extra, FieldValue, Json, ViewError};

/// The keys of an object that no field has taken yet.
#[derive(Debug)]
pub(super) struct ObjectFields<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> ObjectFields<'a> {
    pub(super) fn of(json: Json<'a>) -> Result<Self, ViewError> {
        let ObjectEntries(entries) = serde_json::from_str(json.as_str())
            .map_err(|error| ViewError::new(format!("expected an object: {error}")))?;
        Ok(Self(entries))
    }

    fn find(&self, key: &str) -> Option<(usize, Json<'a>)> {
        let at = self.0.iter().rposition(|(name, _)| name == key)?;
        Some((at, self.0[at].1))
    }

    /// Removes a key that a field holds. A repeated key stays, because the field holds only the last
    /// value.
    fn take(&mut self, at: usize) {
        let key = &self.0[at].0;
        if self.0[..at].iter().all(|(name, _)| name != key) {
            self.0.remove(at);
        }
    }

    /// Removes a tag, whose value the type of the view implies.
    pub(super) fn known(&mut self, key: &str) {
        if let Some((at, _)) = self.find(key) {
            self.take(at);
        }
    }

    /// Returns the text of a tag, which stays.
    pub(super) fn tag(&self, key: &str) -> Result<Cow<'a, str>, ViewError> {
        let (_, json) = self.find(key).ok_or_else(|| missing(key))?;
        serde_json::from_str::<BorrowedText<'_>>(json.as_str())
            .map(|BorrowedText(text)| text)
            .map_err(|_| ViewError::new("expected a string").inside(key))
    }

    /// Takes a required key.
    pub(super) fn needed<T: FieldValue<'a>>(&mut self, key: &str) -> Result<T, ViewError> {
        let (at, json) = self.find(key).ok_or_else(|| missing(key))?;
        let (value, whole) = T::read(json).map_err(|wrong| wrong.inside(key))?;
        if whole {
            self.take(at);
        }
        Ok(value)
    }

    /// Takes an optional key. A value of another type stays, and is not an error.
    pub(super) fn maybe<T: FieldValue<'a>>(&mut self, key: &str) -> Result<Option<T>, ViewError> {
        let Some((at, json)) = self.find(key).filter(|(_, json)| !json.is_null()) else {
            return Ok(None);
        };
        let Ok((value, whole)) = T::read(json) else { return Ok(None) };
        if whole {
            self.take(at);
        }
        Ok(Some(value))
    }

    pub(super) fn rest(self) -> Extra<'a> {
        Extra(self.0)
    }
}

fn missing(key: &str) -> ViewError {
    ViewError::new(format!("the key `{key}` is missing"))
}

/// The entries of an object, including repeated keys.
struct ObjectEntries<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for ObjectEntries<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Vec<(Cow<'de, str>, Json<'de>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((BorrowedText(key), raw)) = map.next_entry::<_, &RawValue>()? {
                    entries.push((key, Json::new(raw)));
                }
                Ok(entries)
            }
        }
        from.deserialize_map(EntriesVisitor).map(Self)
    }
}

/// Writes a view back: its fields, and `extra`.
pub(super) struct ViewWriter<'x, M> {
    map: M,
    extra: &'x Extra<'x>,
}

impl<'x, M: SerializeMap> ViewWriter<'x, M> {
    pub(super) fn new<S>(to: S, extra: &'x Extra<'x>) -> Result<Self, S::Error>
    where
        S: Serializer<SerializeMap = M>,
    {
        Ok(Self { map: to.serialize_map(None)?, extra })
    }

    pub(super) fn needed<T>(&mut self, key: &str, value: &T) -> Result<(), M::Error>
    where
        T: Serialize + ?Sized,
    {
        // The value in `extra` is more exact than the field.
        if self.extra.get(key).is_some() { Ok(()) } else { self.map.serialize_entry(key, value) }
    }

    pub(super) fn maybe<T>(&mut self, key: &str, value: &Option<T>) -> Result<(), M::Error>
    where
        T: Serialize,
    {
        value.as_ref().map_or(Ok(()), |value| self.needed(key, value))
    }

    pub(super) fn end(mut self) -> Result<M::Ok, M::Error> {
        for (key, value) in self.extra.iter() {
            self.map.serialize_entry(key, &value)?;
        }
        self.map.end()
    }
}

/// Declares a view of an object by a table of its keys: `field: Type = needed "key"`, or `maybe` for an
/// optional key. A tag is a key whose value the type implies.
macro_rules! view {
    (
        $(#[$doc:meta])*
        $name:ident $(: $($tag:literal = $is:literal),+)? {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $how:ident $key:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub struct $name<'a> {
            $($(#[$field_doc])* pub $field: $type,)*
            /// The keys that the fields above do not hold.
            pub extra: $crate::session::claude::message::Extra<'a>,
        }

        impl<'a> $name<'a> {
            pub(super) fn of(
                mut fields: $crate::session::claude::message::fields::ObjectFields<'a>,
            ) -> Result<Self, $crate::session::claude::message::value::ViewError> {
                $($(fields.known($tag);)+)?
                Ok(Self { $($field: fields.$how($key)?,)* extra: fields.rest() })
            }
        }

        impl<'a> $crate::session::claude::message::value::FieldValue<'a> for $name<'a> {
            fn read(
                json: $crate::session::claude::message::Json<'a>,
            ) -> Result<(Self, bool), $crate::session::claude::message::value::ViewError> {
                let fields = $crate::session::claude::message::fields::ObjectFields::of(json)?;
                Ok((Self::of(fields)?, true))
            }
        }

        /// Writes the object that the view was read from. The order of its keys may differ.
        impl serde::Serialize for $name<'_> {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                use $crate::session::claude::message::fields::ViewWriter;
                let mut to = ViewWriter::new(to, &self.extra)?;
                $($(to.needed($tag, $is)?;)+)?
                $(to.$how($key, &self.$field)?;)*
                to.end()
            }
        }
    };
}
pub(super) use view;
