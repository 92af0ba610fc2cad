//! Finds the waiter of a record that was dropped, from the first bytes of the record.
//!
//! A record above the limit, or one that is not JSON, may have been the answer to a request, a request
//! of the agent, or the end of a turn. Each of them has a waiter.

use std::fmt;
use std::sync::Arc;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind};
use crate::record::{Event, Preview};

use super::core::Core;
use super::dialect::WireId;
use super::failure::RpcError;

/// What a dropped record was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The answer to a request of ours.
    Answer(u64),
    /// A request of the agent.
    Request(WireId),
    /// Something else, of this type where that is known.
    Other(Option<Box<str>>),
}

/// What stands among the first bytes of a JSON object. A value counts once the next key is seen: one
/// at the end may be cut.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) kind: Option<Box<str>>,
    /// `id`, as the JSON it stands in.
    pub(crate) id: Option<Box<str>>,
    /// `request_id`, in the same form.
    pub(crate) request_id: Option<Box<str>>,
    /// `request_id` in the object `response`.
    pub(crate) answers: Option<Box<str>>,
    /// There is a `method` or `params`.
    pub(crate) calls: bool,
    /// There is a `result` or an `error`.
    pub(crate) replies: bool,
}

impl Head {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        let _cut = serde_json::Deserializer::from_slice(bytes).deserialize_map(Outer(&mut head));
        head
    }
}

struct Outer<'a>(&'a mut Head);

impl<'de> Visitor<'de> for Outer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(head) = self;
        let mut last: Option<(String, Box<RawValue>)> = None;
        loop {
            let next: Option<String> = map.next_key()?;
            if let Some((key, value)) = last.take() {
                match key.as_str() {
                    "type" => head.kind = text(&value),
                    "id" => head.id = Some(value.get().into()),
                    _ => head.request_id = Some(value.get().into()),
                }
            }
            let Some(key) = next else { return Ok(()) };
            head.calls |= matches!(key.as_str(), "method" | "params");
            head.replies |= matches!(key.as_str(), "result" | "error");
            match key.as_str() {
                "type" | "id" | "request_id" => last = Some((key, map.next_value()?)),
                "response" => map.next_value_seed(Response(&mut *head))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
    }
}

struct Response<'a>(&'a mut Head);

impl<'de> serde::de::DeserializeSeed<'de> for Response<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Response<'_> {
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

/// What to say of it, and what to do about it.
pub(super) struct Loss<'a> {
    pub(super) sample: &'a Preview,
    kind: ErrorKind,
    what: String,
    remedy: Option<&'static str>,
}

impl<'a> Loss<'a> {
    /// `None` for what is no loss of a record.
    pub(super) fn of(event: &'a Event, record_max: usize) -> Option<Self> {
        match event {
            Event::Oversized(sample) => Some(Self {
                sample,
                kind: ErrorKind::RecordTooLarge,
                what: format!(
                    "a record of {} bytes, above Limits::record_max of {record_max}, was dropped",
                    sample.len()
                ),
                remedy: Some("raise Limits::record_max"),
            }),
            Event::Malformed { reason, sample } => Some(Self {
                sample,
                kind: ErrorKind::InvalidRecord,
                what: format!(
                    "a record of {} bytes was dropped: {}",
                    sample.len(),
                    reason.as_str()
                ),
                remedy: None,
            }),
            _ => None,
        }
    }

    /// The error of who waited for the record. `whose` begins the sentence.
    pub(super) fn error(&self, core: &Core, stage: &'static str, whose: &str) -> Error {
        let error = Error::new(self.kind, stage, format!("{whose}{}", self.what));
        let error = error.on_agent(core.writer.label());
        match self.remedy {
            Some(remedy) => error.remedy(remedy),
            None => error,
        }
    }
}

impl Core {
    /// Tells who waits for a record that did not come, if that is known.
    pub(super) fn on_lost(self: &Arc<Self>, event: &Event) {
        let Some(loss) = Loss::of(event, self.writer.record_max()) else { return };
        match self.dialect.lost(&Head::of(loss.sample.head())) {
            Lost::Answer(id) => {
                let pending = {
                    let mut state = self.lock();
                    let pending = state.router.withdraw(id);
                    state.stats.settled += u64::from(pending.is_some());
                    pending
                };
                if let Some(pending) = pending {
                    let whose = format!("`{}` was answered, but ", pending.method);
                    pending.slot.set(Err(loss.error(self, "request", &whose)));
                }
            }
            Lost::Request(id) => {
                let refused = self.lock().router.refuse(&id);
                if refused {
                    let failure = RpcError::new(loss.what);
                    self.post(self.dialect.answer(&id, Err(&failure)), None);
                }
            }
            Lost::Other(kind) => {
                self.lock().note_loss(loss.what);
                if let Some(observer) = &self.observer {
                    observer.lost(kind.as_deref());
                }
            }
        }
    }

    /// Whether a record that was dropped may have been one of a turn, by what is left of it.
    #[cfg(feature = "claude")]
    pub(super) fn may_be_of_turn(&self, event: &Event) -> bool {
        let (Event::Oversized(sample) | Event::Malformed { sample, .. }) = event else {
            return false;
        };
        match self.dialect.lost(&Head::of(sample.head())) {
            // A line of a log may look like a broken record.
            Lost::Other(kind) => {
                matches!(event, Event::Oversized(_)) || kind.as_deref() == Some("result")
            }
            Lost::Answer(_) | Lost::Request(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Head;

    fn told(head: &Head) -> [Option<&str>; 4] {
        [&head.kind, &head.id, &head.request_id, &head.answers].map(Option::as_deref)
    }

    #[test]
    fn a_record_that_is_cut_anywhere_tells_nothing_that_is_not_so() {
        let whole = concat!(
            r#"{"type":"control_response","n":[1,{"id":7}],"id":1234,"request_id":"a\"b","#,
            r#""response":{"x":{"request_id":"no"},"request_id":"req_12","response":{}},"method":"m"}"#
        );
        let wanted = told(&Head::of(whole.as_bytes())).map(|found| found.map(str::to_owned));
        assert_eq!(
            wanted.each_ref().map(Option::as_deref),
            [Some("control_response"), Some("1234"), Some(r#""a\"b""#), Some("req_12")]
        );
        for end in 0..whole.len() {
            let head = Head::of(&whole.as_bytes()[..end]);
            for (found, wanted) in told(&head).into_iter().zip(&wanted) {
                assert!(found.is_none() || found == wanted.as_deref(), "{}", &whole[..end]);
            }
            assert!(!head.replies);
        }
        for odd in ["", "[1", "\u{1b}{", "{\"id\":", "{\"id\":1", "{\"id\":{\"id\":2}", "12", "{,"]
        {
            assert_eq!(told(&Head::of(odd.as_bytes())), [None; 4], "{odd}");
        }
    }
}
