//! Floor 4. The control protocol of Claude Code as a dialect.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::frame::memcpy;
use crate::record::Record;
use crate::session::dialect::{Dialect, Incoming, WireId, object, object_of};
use crate::session::failure::RpcError;
use crate::session::lost::{Head, Lost};

/// `control_request`, `control_response`, `control_cancel_request`; all else is data.
#[derive(Debug)]
pub(super) struct Control;

/// Every request id of ours begins like this; the agent's are a name space of their own.
const PREFIX: &str = "req_";

#[derive(Deserialize)]
struct Wire<'a> {
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
struct Response<'a> {
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
struct Subtype<'a> {
    #[serde(borrow)]
    subtype: Cow<'a, str>,
}

/// A control request of ours; the interrupt that a close sends is one, too.
pub(super) fn control_request(id: u64, subtype: &str, body: &[u8]) -> Vec<u8> {
    let subtype = serde_json::to_string(subtype).expect("text has JSON");
    // The body's own keys follow the subtype.
    let rest = body.trim_ascii().strip_prefix(b"{").unwrap_or(b"}").trim_ascii_start();
    let comma = if rest == b"}" { "" } else { "," };
    let mut out = format!(
        "{{\"type\":\"control_request\",\"request_id\":\"{PREFIX}{id}\",\
         \"request\":{{\"subtype\":{subtype}{comma}"
    )
    .into_bytes();
    memcpy::append(&mut out, rest);
    out.push(b'}');
    out
}

/// The number in an id of ours, if it is one.
fn own_id(id: &str) -> Option<u64> {
    let digits = id.strip_prefix(PREFIX)?;
    let number: u64 = digits.parse().ok()?;
    // No `+7` and no `007`: ids are compared as they were sent.
    (number.to_string() == digits).then_some(number)
}

fn error_text(error: Option<&RawValue>) -> String {
    match error {
        None => "no reason was given".into(),
        Some(raw) => serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().into()),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    response: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    subtype: &'static str,
    request_id: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

fn answer(id: &str, outcome: Result<&[u8], &str>) -> Vec<u8> {
    let request_id = serde_json::from_str(id).expect("an id is kept as the JSON it came as");
    let (subtype, response, error) = match outcome {
        Ok(body) => ("success", serde_json::from_slice(body).ok(), None),
        Err(error) => ("error", None, Some(error)),
    };
    let response = Inner { subtype, request_id, response, error };
    serde_json::to_vec(&Answer { kind: "control_response", response })
        .expect("text and raw JSON always have JSON")
}

impl Control {
    fn asked(record: &Record, wire: &Wire<'_>) -> Incoming {
        // Without an id there is nobody to answer; the reader may know what it is.
        let Some(id) = wire.request_id else { return Incoming::Data };
        let subtype = wire.request.and_then(|raw| {
            let subtype: Subtype<'_> = object(raw)?;
            Some((raw, subtype.subtype))
        });
        match subtype {
            Some((raw, subtype)) => Incoming::Request {
                id: WireId(id.get().into()),
                method: subtype.into(),
                body: record.part(raw.get().as_bytes()),
            },
            None => {
                let why = "a control request without a subtype";
                Incoming::Refused { answer: answer(id.get(), Err(why)), why }
            }
        }
    }

    fn answered(record: &Record, wire: &Wire<'_>) -> Incoming {
        let Some(response) = wire.response.and_then(object::<Response<'_>>) else {
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
        Incoming::Reply { id: own_id(&response.request_id), outcome }
    }
}

impl Dialect for Control {
    fn read(&self, record: &Record) -> Incoming {
        // Most records are data, and for them the type is all that is looked at.
        let control = |kind: &Cow<'_, str>| kind.starts_with("control_");
        if record.envelope().is_ok_and(|envelope| !envelope.kind.as_ref().is_some_and(control)) {
            return Incoming::Data;
        }
        let Some(wire) = object_of::<Wire<'_>>(record.as_bytes()) else { return Incoming::Data };
        match &*wire.kind {
            "control_request" => Self::asked(record, &wire),
            "control_response" => Self::answered(record, &wire),
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

    /// The protocol has no word for it.
    fn withdraw(&self, _id: u64, _method: &str) -> Option<Vec<u8>> {
        None
    }

    fn answer(&self, to: &WireId, outcome: Result<&[u8], &RpcError>) -> Vec<u8> {
        answer(&to.0, outcome.map_err(RpcError::message))
    }

    fn unknown(&self, method: &str) -> RpcError {
        RpcError::new(format!("nobody handles control requests of the subtype {method}"))
    }

    fn lost(&self, head: &Head) -> Lost {
        if let Some(id) = head.answers.as_deref().and_then(own_id) {
            return Lost::Answer(id);
        }
        match (head.kind.as_deref(), &head.request_id) {
            (Some("control_request"), Some(id)) => Lost::Request(WireId(id.clone())),
            _ => Lost::Other(head.kind.clone()),
        }
    }
}
