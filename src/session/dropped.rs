//! Dropped records: identifies a record from its first bytes, so that the task that waits for it
//! gets an error instead of a timeout.
//!
//! A record that is above the limit, or not JSON, may have been a response, a request of the agent,
//! or the end of a turn. A task waits for each of these.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind};
use crate::record::{Event, Preview};

/// The keys among the first bytes of a JSON object. A value counts only once the next key follows,
/// because the last value may be cut.
#[derive(Debug, Default)]
pub(crate) struct RecordHead {
    /// The text of `type`.
    pub(crate) kind: Option<Box<str>>,
    /// The JSON text of `id`.
    pub(crate) id: Option<Box<str>>,
    /// The JSON text of `request_id`.
    pub(crate) request_id: Option<Box<str>>,
    /// The text of `request_id` in the object `response`.
    pub(crate) answers: Option<Box<str>>,
    /// Whether `method` or `params` is there.
    pub(crate) calls: bool,
    /// Whether `result` or `error` is there.
    pub(crate) replies: bool,
}

impl RecordHead {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        // The error at the cut is expected; the keys before it are in `head`.
        let _cut =
            serde_json::Deserializer::from_slice(bytes).deserialize_map(HeadVisitor(&mut head));
        head
    }
}

struct HeadVisitor<'a>(&'a mut RecordHead);

impl<'de> Visitor<'de> for HeadVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(head) = self;
        let mut last: Option<(String, Box<RawValue>)> = None;
        loop {
            // An error here discards the value in `last`, which may be cut.
            let next: Option<String> = map.next_key()?;
            if let Some((key, value)) = last.take() {
                match key.as_str() {
                    "type" => head.kind = text(&value),
                    "id" => head.id = Some(value.get().into()),
                    _ => head.request_id = Some(value.get().into()),
                }
            }
            let Some(key) = next else { return Ok(()) };
            // The presence of the key decides, so its value may be cut.
            head.calls |= matches!(key.as_str(), "method" | "params");
            head.replies |= matches!(key.as_str(), "result" | "error");
            match key.as_str() {
                "type" | "id" | "request_id" => last = Some((key, map.next_value()?)),
                "response" => map.next_value_seed(ResponseVisitor(&mut *head))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
    }
}

struct ResponseVisitor<'a>(&'a mut RecordHead);

impl<'de> serde::de::DeserializeSeed<'de> for ResponseVisitor<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ResponseVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut last: Option<Box<RawValue>> = None;
        loop {
            let next: Option<String> = map.next_key()?;
            if let Some(value) = last.take() {
                self.0.answers = text(&value);
            }
            match next.as_deref() {
                None => return Ok(()),
                Some("request_id") => last = Some(map.next_value()?),
                Some(_) => drop(map.next_value::<IgnoredAny>()?),
            }
        }
    }
}

fn text(value: &RawValue) -> Option<Box<str>> {
    serde_json::from_str(value.get()).ok()
}

/// The loss of a record, as an error for the task that waited for it.
pub(super) struct Loss<'a> {
    pub(super) preview: &'a Preview,
    kind: ErrorKind,
    pub(super) what: String,
    remedy: Option<&'static str>,
}

impl<'a> Loss<'a> {
    /// Returns `None` for an event that is not the loss of a record.
    pub(super) fn of(event: &'a Event, record_max: usize) -> Option<Self> {
        match event {
            Event::Oversized(preview) => Some(Self {
                preview,
                kind: ErrorKind::RecordTooLarge,
                what: format!(
                    "a record of {} bytes, above Limits::record_max of {record_max}, was dropped",
                    preview.len()
                ),
                remedy: Some("raise Limits::record_max"),
            }),
            Event::Malformed { reason, sample: preview } => Some(Self {
                preview,
                kind: ErrorKind::InvalidRecord,
                what: format!(
                    "a record of {} bytes was dropped: {}",
                    preview.len(),
                    reason.as_str()
                ),
                remedy: None,
            }),
            _ => None,
        }
    }

    /// Returns the remedy for a request whose response this may have been.
    pub(super) fn remedy_of_timeout(&self) -> Option<&'static str> {
        self.remedy
            .map(|_| "raise Limits::record_max if that was the response, or raise the timeout")
    }

    /// Returns the error for the waiting task. `prefix` begins its sentence.
    pub(super) fn error(&self, agent: &str, operation: &'static str, prefix: &str) -> Error {
        let error = Error::new(self.kind, operation, format!("{prefix}{}", self.what));
        let error = error.on_agent(agent);
        match self.remedy {
            Some(remedy) => error.remedy(remedy),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RecordHead;

    fn values(head: &RecordHead) -> [Option<&str>; 4] {
        [&head.kind, &head.id, &head.request_id, &head.answers].map(Option::as_deref)
    }

    #[test]
    fn cut_record_yields_no_wrong_value() {
        // A value that is cut reads as another value: `12` of `1234` is the id of another request,
        // which would fail in its place.
        let whole = concat!(
            r#"{"type":"control_response","n":[1,{"id":7}],"id":1234,"request_id":"a\"b","#,
            r#""response":{"x":{"request_id":"no"},"request_id":"req_12","response":{}},"method":"m"}"#
        );
        let wanted =
            values(&RecordHead::of(whole.as_bytes())).map(|found| found.map(str::to_owned));
        assert_eq!(
            wanted.each_ref().map(Option::as_deref),
            [Some("control_response"), Some("1234"), Some(r#""a\"b""#), Some("req_12")]
        );
        for end in 0..whole.len() {
            let head = RecordHead::of(&whole.as_bytes()[..end]);
            for (found, wanted) in values(&head).into_iter().zip(&wanted) {
                assert!(found.is_none() || found == wanted.as_deref(), "{}", &whole[..end]);
            }
            assert!(!head.replies);
        }
        for odd in ["", "[1", "\u{1b}{", "{\"id\":", "{\"id\":1", "{\"id\":{\"id\":2}", "12", "{,"]
        {
            assert_eq!(values(&RecordHead::of(odd.as_bytes())), [None; 4], "{odd}");
        }
    }
}
