//! Floor 4. An object is cut into its keys once; its view takes what it knows, the rest stays.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::json::{Extra, Json};

/// Why there is no view: where, and what is wrong there.
#[derive(Debug)]
pub(super) struct Wrong(String);

impl Wrong {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// `place` is a type or a key: what the reader of the error looks for in the record.
    pub(super) fn inside(self, place: impl fmt::Display) -> Self {
        Self(format!("`{place}`: {}", self.0))
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a field can hold.
pub(super) trait Value<'a>: Sized {
    /// The value, and whether it is all that the JSON says; if not, the JSON is kept beside it.
    fn read(json: Json<'a>) -> Result<(Self, bool), Wrong>;
}

/// The keys of an object that nobody has taken yet.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Fields<'a> {
    pub(super) fn of(json: Json<'a>) -> Result<Self, Wrong> {
        let Object(entries) = serde_json::from_str(json.as_str())
            .map_err(|error| Wrong::new(format!("expected an object: {error}")))?;
        Ok(Self(entries))
    }

    fn find(&self, key: &str) -> Option<(usize, Json<'a>)> {
        let at = self.0.iter().rposition(|(name, _)| name == key)?;
        Some((at, self.0[at].1))
    }

    /// Of a key that comes twice nothing is taken away: which of the two was meant?
    fn take_away(&mut self, at: usize) {
        let key = &self.0[at].0;
        if self.0[..at].iter().all(|(name, _)| name != key) {
            self.0.remove(at);
        }
    }

    /// A key whose value is known already: that of a tag.
    pub(super) fn known(&mut self, key: &str) {
        if let Some((at, _)) = self.find(key) {
            self.take_away(at);
        }
    }

    /// The text of a tag, which stays.
    pub(super) fn tag(&self, key: &str) -> Result<Cow<'a, str>, Wrong> {
        let (_, json) = self.find(key).ok_or_else(|| missing(key))?;
        serde_json::from_str::<Text<'_>>(json.as_str())
            .map(|Text(text)| text)
            .map_err(|_| Wrong::new("expected a string").inside(key))
    }

    /// A required key.
    pub(super) fn needed<T: Value<'a>>(&mut self, key: &str) -> Result<T, Wrong> {
        let (at, json) = self.find(key).ok_or_else(|| missing(key))?;
        let (value, whole) = T::read(json).map_err(|wrong| wrong.inside(key))?;
        if whole {
            self.take_away(at);
        }
        Ok(value)
    }

    /// An optional key. A value that is none for it stays, and is no error.
    pub(super) fn maybe<T: Value<'a>>(&mut self, key: &str) -> Result<Option<T>, Wrong> {
        let Some((at, json)) = self.find(key).filter(|(_, json)| !json.is_null()) else {
            return Ok(None);
        };
        let Ok((value, whole)) = T::read(json) else { return Ok(None) };
        if whole {
            self.take_away(at);
        }
        Ok(Some(value))
    }

    pub(super) fn rest(self) -> Extra<'a> {
        Extra(self.0)
    }
}

fn missing(key: &str) -> Wrong {
    Wrong::new(format!("the key `{key}` is missing"))
}

/// The entries of an object, repeated ones included; an array is none.
struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

/// Borrowed where it has no escapes.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(Cow<'de, str>, Json<'de>)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(key), raw)) = map.next_entry::<_, &RawValue>()? {
                    entries.push((key, Json::new(raw)));
                }
                Ok(entries)
            }
        }
        from.deserialize_map(Entries).map(Self)
    }
}

/// Writes a view back: its fields, and what stood beside them.
pub(super) struct Writer<'x, M> {
    map: M,
    extra: &'x Extra<'x>,
}

impl<'x, M: SerializeMap> Writer<'x, M> {
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
        // What is kept beside the field says more.
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

/// A view of an object, from the table of its keys: `field: Type = needed "key"`, or `maybe` for
/// an optional one. Tags are keys whose value is the type's own.
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
            /// What the fields above do not hold.
            pub extra: $crate::session::claude::message::Extra<'a>,
        }

        impl<'a> $name<'a> {
            pub(super) fn of(
                mut fields: $crate::session::claude::message::fields::Fields<'a>,
            ) -> Result<Self, $crate::session::claude::message::fields::Wrong> {
                $($(fields.known($tag);)+)?
                Ok(Self { $($field: fields.$how($key)?,)* extra: fields.rest() })
            }
        }

        impl<'a> $crate::session::claude::message::fields::Value<'a> for $name<'a> {
            fn read(
                json: $crate::session::claude::message::Json<'a>,
            ) -> Result<(Self, bool), $crate::session::claude::message::fields::Wrong> {
                let fields = $crate::session::claude::message::fields::Fields::of(json)?;
                Ok((Self::of(fields)?, true))
            }
        }

        /// The object it was read from; its keys may stand in another order.
        impl serde::Serialize for $name<'_> {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                use $crate::session::claude::message::fields::Writer;
                let mut to = Writer::new(to, &self.extra)?;
                $($(to.needed($tag, $is)?;)+)?
                $(to.$how($key, &self.$field)?;)*
                to.end()
            }
        }
    };
}
pub(super) use view;
