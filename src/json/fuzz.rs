//! The validator compared with `serde_json` on any bytes: the body of a fuzz target.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{ByWords, JsonValue, validate, validate_with};

/// Checks that both block scanners accept what `serde_json` accepts, and find the members that it finds.
pub(crate) fn target(data: &[u8]) {
    let (mut members, mut by_words) = (Vec::new(), Vec::new());
    let valid = validate(data, &mut |member| members.push((member.key(), member.value())));
    let also = validate_with::<ByWords>(data, &mut |member| {
        by_words.push((member.key(), member.value()));
    });
    assert_eq!(also, valid);
    // UTF-8 is not checked by the pass, so other bytes have no reference.
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert_eq!(valid.is_some(), is_json(text), "{text}");
    let Some(summary) = valid else { return };
    assert_eq!(summary.is_ascii, text.is_ascii());
    assert_eq!(members, by_words);
    let expected = serde_json::from_str(text).map_or_else(|_| Vec::new(), |Members(found)| found);
    assert_eq!(members, expected, "{text}");
}

/// Whether `serde_json` accepts the text.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The members of an object as a parser finds them.
struct Members<'a>(Vec<(JsonValue<'a>, JsonValue<'a>)>);

/// A key, which the parser borrows unless it has an escape. Taken as bytes: a surrogate without its other
/// half is JSON, and is no text.
struct Key<'a>(JsonValue<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AnyKey;
        impl<'de> Visitor<'de> for AnyKey {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_bytes<E>(self, text: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Key(JsonValue::Text(text)))
            }
            fn visit_bytes<E>(self, _: &[u8]) -> Result<Self::Value, E> {
                Ok(Key(JsonValue::Escaped))
            }
        }
        from.deserialize_bytes(AnyKey)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AllMembers;
        impl<'de> Visitor<'de> for AllMembers {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some((Key(key), value)) = from.next_entry::<Key<'de>, &'de RawValue>()? {
                    let text = value.get().strip_prefix('"').and_then(|it| it.strip_suffix('"'));
                    let value = match text {
                        Some(text) if text.contains('\\') => JsonValue::Escaped,
                        Some(text) => JsonValue::Text(text.as_bytes()),
                        None => JsonValue::Other,
                    };
                    found.push((key, value));
                }
                Ok(Members(found))
            }
        }
        from.deserialize_map(AllMembers)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_bytes_are_judged_as_serde_does() {
        crate::fuzz_driver::run("json", super::target);
    }
}
