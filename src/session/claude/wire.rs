//! How the values of the protocol are written and read: words, values that a user gave, and objects that
//! the agent sends. The macros turn tables of keys into types.

use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::record::Record;

/// A value that a user gave. One without JSON is an error of whatever it is written into.
#[derive(Clone, Debug)]
pub(super) struct GivenJson(Result<Record>);

impl GivenJson {
    pub(super) fn new(value: impl Serialize) -> Self {
        Self(Record::from_json(&value))
    }

    pub(super) fn invalid(error: Error) -> Self {
        Self(Err(error))
    }

    pub(super) fn record(&self) -> Result<&Record> {
        self.0.as_ref().map_err(Clone::clone)
    }
}

impl Serialize for GivenJson {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.as_ref().map_err(S::Error::custom)?.serialize(to)
    }
}

/// Declares an enum of words by a table: the variant and its word.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every word.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the word of the protocol.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(
                &self,
                to: S,
            ) -> std::result::Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    };
}
pub(super) use words;

/// A type that a key of a received object can have.
pub(super) trait ReceivedValue: Sized {
    /// Returns the value, or `None` if the JSON is of another type. `record` contains the JSON.
    fn receive(record: &Record, json: &RawValue) -> Option<Self>;
}

impl<T: DeserializeOwned> ReceivedValue for T {
    fn receive(_record: &Record, json: &RawValue) -> Option<Self> {
        serde_json::from_str(json.get()).ok()
    }
}

impl ReceivedValue for Record {
    fn receive(record: &Record, json: &RawValue) -> Option<Self> {
        (json.get() != "null").then(|| record.part(json.get().as_bytes()))
    }
}

/// Declares an object that the agent sends, by a table of its keys. A key that is absent, `null` or of
/// another type is `None`: a later CLI may change one, and the others still count.
macro_rules! received {
    (
        $(#[$doc:meta])*
        $vis:vis $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $key:literal,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        $vis struct $name {
            $($(#[$field_doc])* $vis $field: Option<$type>,)*
            /// The whole object, byte for byte, with the keys that have no field.
            $vis record: $crate::record::Record,
        }

        impl From<$crate::record::Record> for $name {
            fn from(record: $crate::record::Record) -> Self {
                use $crate::session::claude::wire::ReceivedValue;
                let keys: std::collections::HashMap<
                    std::borrow::Cow<'_, str>,
                    &serde_json::value::RawValue,
                > = serde_json::from_slice(record.as_bytes()).unwrap_or_default();
                let get = |key: &str| keys.get(key).copied();
                Self {
                    $($field: get($key).and_then(|json| ReceivedValue::receive(&record, json)),)*
                    record: record.clone(),
                }
            }
        }

        impl $crate::session::claude::wire::ReceivedValue for $name {
            fn receive(
                record: &$crate::record::Record,
                json: &serde_json::value::RawValue,
            ) -> Option<Self> {
                $crate::record::Record::receive(record, json).map(Self::from)
            }
        }
    };
}
pub(super) use received;
