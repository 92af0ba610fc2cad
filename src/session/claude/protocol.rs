//! The records of the control protocol of Claude Code.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::frame::memcpy;
use crate::record::Record;
use crate::session::dropped::RecordHead;
use crate::session::protocol::{
    DroppedRecord, Incoming, Protocol, RpcError, WireId, object, object_of,
};

use super::dialog::USER_DIALOG;

/// The control protocol: records of the types `control_request`, `control_response` and
/// `control_cancel_request`. All others are data.
#[derive(Debug, Default)]
pub(super) struct ControlProtocol {
    /// The kinds of dialogs that this process shows. A request for another one is not for this process,
    /// and gets no response, not even an error: that would close the dialog of another client. `None`: all
    /// are for this process.
    pub(super) dialogs: Option<Vec<String>>,
}

/// The prefix of the ids of this session. The ids of the agent are a separate name space.
const ID_PREFIX: &str = "req_";

#[derive(Deserialize)]
struct ControlRecord<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ReceivedResponse<'a> {
    #[serde(borrow)]
    subtype: Cow<'a, str>,
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RequestSubtype<'a> {
    #[serde(borrow)]
    subtype: Cow<'a, str>,
}

/// Returns a control request of this session. `body` is an object with its other keys, or `null`.
pub(super) fn control_request(id: u64, subtype: &str, body: &[u8]) -> Vec<u8> {
    // The CLI would take the last of two subtypes.
    let mut without = None;
    if has_subtype(body)
        && let Some(mut keys) = object_of::<BTreeMap<String, &RawValue>>(body)
    {
        keys.remove("subtype");
        without = serde_json::to_vec(&keys).ok();
    }
    let body = without.as_deref().unwrap_or(body);
    let subtype = serde_json::to_string(subtype).expect("text has JSON");
    // The keys of the body follow the subtype, so its opening brace is replaced.
    // `null`, which is no body, has no brace, and leaves an object without further keys.
    let rest = body.trim_ascii().strip_prefix(b"{").unwrap_or(b"}").trim_ascii_start();
    let comma = if rest == b"}" { "" } else { "," };
    let mut out = format!(
        "{{\"type\":\"control_request\",\"request_id\":\"{ID_PREFIX}{id}\",\
         \"request\":{{\"subtype\":{subtype}{comma}"
    )
    .into_bytes();
    memcpy::append(&mut out, rest);
    out.push(b'}');
    out
}

/// Returns whether the body of a request has the key that names the request.
pub(super) fn has_subtype(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct BodyKeys {
        #[serde(default)]
        subtype: Option<IgnoredAny>,
    }
    object_of::<BodyKeys>(body).is_some_and(|keys| keys.subtype.is_some())
}

/// Returns the number in an id of this session. `None` for an id that it cannot have sent.
fn own_id(id: &str) -> Option<u64> {
    let digits = id.strip_prefix(ID_PREFIX)?;
    let number: u64 = digits.parse().ok()?;
    // Neither `+7` nor `007`: ids are compared as they were sent.
    (number.to_string() == digits).then_some(number)
}

fn error_text(error: Option<&RawValue>) -> String {
    match error {
        None => "no reason was given".into(),
        Some(raw) => serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into()),
    }
}

#[derive(Serialize)]
struct SentResponse<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    response: SentOutcome<'a>,
}

#[derive(Serialize)]
struct SentOutcome<'a> {
    subtype: &'static str,
    request_id: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Returns the response to a request of the agent. `id` is JSON text.
fn response_to(id: &str, outcome: Result<&[u8], &str>) -> Vec<u8> {
    let request_id = serde_json::from_str(id).expect("an id is kept as the JSON it came as");
    let (subtype, response, error) = match outcome {
        Ok(body) => ("success", serde_json::from_slice(body).ok(), None),
        Err(error) => ("error", None, Some(error)),
    };
    let response = SentOutcome { subtype, request_id, response, error };
    serde_json::to_vec(&SentResponse { kind: "control_response", response })
        .expect("text and raw JSON always have JSON")
}

impl ControlProtocol {
    fn request_of(&self, record: &Record, wire: &ControlRecord<'_>) -> Incoming {
        // A request without an id cannot be answered. The reader may know what it is.
        let Some(id) = wire.request_id else { return Incoming::Data };
        let subtype = wire.request.and_then(|raw| {
            let subtype: RequestSubtype<'_> = object(raw)?;
            Some((raw, subtype.subtype))
        });
        match subtype {
            Some((raw, subtype)) if subtype == USER_DIALOG && !self.shows(raw) => Incoming::Ignored,
            Some((raw, subtype)) => Incoming::Request {
                id: WireId(id.get().into()),
                method: subtype.into(),
                body: record.part(raw.get().as_bytes()),
            },
            None => {
                let why = "a control request without a subtype";
                Incoming::Refused { response: response_to(id.get(), Err(why)), why }
            }
        }
    }

    /// Returns whether this process shows the dialog of a request.
    fn shows(&self, request: &RawValue) -> bool {
        #[derive(Deserialize)]
        struct DialogKind<'a> {
            #[serde(borrow)]
            dialog_kind: Cow<'a, str>,
        }
        let Some(kinds) = &self.dialogs else { return true };
        let asked: Option<DialogKind<'_>> = object(request);
        asked.is_some_and(|asked| kinds.iter().any(|kind| *kind == asked.dialog_kind))
    }

    fn response_of(record: &Record, wire: &ControlRecord<'_>) -> Incoming {
        let Some(response) = wire.response.and_then(object::<ReceivedResponse<'_>>) else {
            return Incoming::Data;
        };
        let outcome = if response.subtype == "success" {
            Ok(match response.response {
                Some(body) => record.part(body.get().as_bytes()),
                None => Record::from(b"{}".to_vec()),
            })
        } else {
            Err(RpcError::new(error_text(response.error)))
        };
        Incoming::Response { id: own_id(&response.request_id), outcome }
    }
}

impl Protocol for ControlProtocol {
    fn classify(&self, record: &Record) -> Incoming {
        // Most records are data. For them the type in the envelope decides, without a second parse.
        let control = |kind: &Cow<'_, str>| kind.starts_with("control_");
        if record.envelope().is_ok_and(|envelope| !envelope.kind.as_ref().is_some_and(control)) {
            return Incoming::Data;
        }
        let Some(wire) = object_of::<ControlRecord<'_>>(record.as_bytes()) else {
            return Incoming::Data;
        };
        match &*wire.kind {
            "control_request" => self.request_of(record, &wire),
            "control_response" => Self::response_of(record, &wire),
            "control_cancel_request" => match wire.request_id {
                Some(id) => Incoming::Cancel { id: WireId(id.get().into()) },
                None => Incoming::Data,
            },
            _ => Incoming::Data,
        }
    }

    fn request(&self, id: u64, method: &str, body: &[u8]) -> Vec<u8> {
        control_request(id, method, body)
    }

    /// The protocol has no record for it.
    fn cancellation(&self, _id: u64, _method: &str) -> Option<Vec<u8>> {
        None
    }

    fn response(&self, to: &WireId, outcome: Result<&[u8], &RpcError>) -> Vec<u8> {
        response_to(&to.0, outcome.map_err(RpcError::message))
    }

    fn unknown_method(&self, method: &str) -> RpcError {
        RpcError::new(format!("no handler for control requests of the subtype {method}"))
    }

    fn identify(&self, head: &RecordHead) -> DroppedRecord {
        if let Some(id) = head.answers.as_deref().and_then(own_id) {
            return DroppedRecord::Response(id);
        }
        match (head.kind.as_deref(), &head.request_id) {
            (Some("control_request"), Some(id)) => DroppedRecord::Request(WireId(id.clone())),
            _ => DroppedRecord::Other(head.kind.clone()),
        }
    }
}
