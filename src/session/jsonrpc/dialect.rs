//! Floor 4. JSON-RPC 2.0 as a dialect.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::record::Record;
use crate::session::dialect::{Dialect, Incoming, WireId, object, object_of};
use crate::session::failure::RpcError;
use crate::session::lost::{Head, Lost};

const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
/// Language servers answer a request that was withdrawn with this.
const REQUEST_CANCELLED: i64 = -32800;

/// How a request is withdrawn. JSON-RPC itself has no way; the protocols on it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Cancellation {
    /// Not at all: an answer that comes too late is counted and dropped.
    #[default]
    None,
    /// `$/cancelRequest` with `id`. A request that the agent withdraws is answered with -32800.
    /// Language servers, ACP.
    Lsp,
    /// `notifications/cancelled` with `requestId`. MCP. A withdrawn request is not answered, and
    /// `initialize` is never withdrawn.
    Mcp,
}

impl Cancellation {
    fn method(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Lsp => Some("$/cancelRequest"),
            Self::Mcp => Some("notifications/cancelled"),
        }
    }
}

/// JSON-RPC 2.0. Its framing is the agent's.
#[derive(Debug)]
pub(super) struct JsonRpc {
    pub(super) cancellation: Cancellation,
}

/// Values as they stand: not one of them is built.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// `null` is a value like any other here, not an absent one.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

#[derive(Serialize)]
struct Out<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RawValue>,
}

impl Out<'_> {
    const EMPTY: Self =
        Self { jsonrpc: "2.0", id: None, method: None, params: None, result: None, error: None };

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and raw JSON always have JSON")
    }
}

/// JSON that is known to be JSON.
fn raw(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

/// A notification, or with an id a request.
pub(super) fn call(id: Option<u64>, method: &str, params: &[u8]) -> Vec<u8> {
    let id = id.map(|id| id.to_string());
    let id = id.as_deref().and_then(|id| raw(id.as_bytes()));
    let params = raw(params).filter(|params| params.get() != "null");
    Out { id, method: Some(method), params, ..Out::EMPTY }.bytes()
}

fn refusal(id: &str, failure: &RpcError) -> Vec<u8> {
    let error = failure.as_json();
    let error = error.as_deref().and_then(|error| raw(error.as_bytes()));
    Out { id: raw(id.as_bytes()), error, ..Out::EMPTY }.bytes()
}

/// A text or a number can be an id.
fn wire_id(id: &RawValue) -> Option<WireId> {
    let text = id.get();
    let fine = text.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
    fine.then(|| WireId(text.into()))
}

impl JsonRpc {
    fn called(&self, record: &Record, method: &str, wire: &Wire<'_>) -> Incoming {
        let Some(id) = wire.id else {
            return match self.cancelled(method, wire) {
                Some(id) => Incoming::Cancel { id },
                None => Incoming::Data,
            };
        };
        match wire_id(id) {
            Some(id) => {
                let body = match wire.params {
                    Some(params) => record.part(params.get().as_bytes()),
                    None => Record::from(b"null".to_vec()),
                };
                Incoming::Request { id, method: method.into(), body }
            }
            None => {
                let why = "the id of a request is a string or a number";
                let failure = RpcError::new(why).with_code(INVALID_REQUEST);
                Incoming::Refused { answer: refusal("null", &failure), why }
            }
        }
    }

    /// The id in a notification that withdraws a request.
    fn cancelled(&self, method: &str, wire: &Wire<'_>) -> Option<WireId> {
        #[derive(Deserialize)]
        struct Params<'a> {
            #[serde(borrow, alias = "requestId")]
            id: &'a RawValue,
        }
        if Some(method) != self.cancellation.method() {
            return None;
        }
        let params: Params<'_> = object(wire.params?)?;
        wire_id(params.id)
    }
}

/// An array: refused, and said so if a request in it waits for an answer.
fn batch(record: &Record) -> Incoming {
    let calls: Vec<&RawValue> = serde_json::from_slice(record.as_bytes()).unwrap_or_default();
    let mut calls = calls.into_iter().filter_map(object::<Wire<'_>>);
    if !calls.any(|call| call.method.is_some() && call.id.is_some()) {
        return Incoming::Data;
    }
    let why = "batches are not supported: send one request a record";
    let failure = RpcError::new(why).with_code(INVALID_REQUEST);
    Incoming::Refused { answer: refusal("null", &failure), why }
}

/// The error object of a response, or what stands in its place.
fn failure(record: &Record, error: &RawValue) -> RpcError {
    #[derive(Deserialize)]
    struct Object<'a> {
        code: Option<i64>,
        message: Option<Cow<'a, str>>,
        #[serde(borrow, default, deserialize_with = "present")]
        data: Option<&'a RawValue>,
    }
    match object::<Object<'_>>(error) {
        Some(object) => RpcError {
            message: object.message.unwrap_or_default().into_owned(),
            code: object.code,
            data: object.data.map(|data| record.part(data.get().as_bytes())),
        },
        None => RpcError::new("an error that is no error object")
            .with_data(record.part(error.get().as_bytes())),
    }
}

impl Dialect for JsonRpc {
    fn read(&self, record: &Record) -> Incoming {
        if record.as_bytes().trim_ascii_start().first() == Some(&b'[') {
            return batch(record);
        }
        let Some(wire) = object_of::<Wire<'_>>(record.as_bytes()) else { return Incoming::Data };
        if let Some(method) = &wire.method {
            return self.called(record, method, &wire);
        }
        let outcome = match (wire.result, wire.error) {
            // Some agents send both, with a null for the one that is not meant.
            (_, Some(error)) if error.get() != "null" => Err(failure(record, error)),
            (Some(result), _) => Ok(record.part(result.get().as_bytes())),
            _ => return Incoming::Data,
        };
        match wire.id.map(RawValue::get) {
            None | Some("null") => Incoming::Data,
            Some(id) => Incoming::Reply { id: id.parse().ok(), outcome },
        }
    }

    fn request(&self, id: u64, method: &str, body: &[u8]) -> Vec<u8> {
        call(Some(id), method, body)
    }

    fn withdraw(&self, id: u64, method: &str) -> Option<Vec<u8>> {
        let params = match self.cancellation {
            Cancellation::None => return None,
            Cancellation::Mcp if method == "initialize" => return None,
            Cancellation::Mcp => format!("{{\"requestId\":{id}}}"),
            Cancellation::Lsp => format!("{{\"id\":{id}}}"),
        };
        Some(call(None, self.cancellation.method()?, params.as_bytes()))
    }

    fn answer(&self, to: &WireId, outcome: Result<&[u8], &RpcError>) -> Vec<u8> {
        match outcome {
            Ok(result) => {
                Out { id: raw(to.0.as_bytes()), result: raw(result), ..Out::EMPTY }.bytes()
            }
            Err(failure) => refusal(&to.0, failure),
        }
    }

    fn answer_withdrawn(&self, to: &WireId) -> Option<Vec<u8>> {
        let failure = RpcError::new("the request was cancelled").with_code(REQUEST_CANCELLED);
        (self.cancellation == Cancellation::Lsp).then(|| refusal(&to.0, &failure))
    }

    fn unknown(&self, method: &str) -> RpcError {
        RpcError::new(format!("no such method: {method}")).with_code(METHOD_NOT_FOUND)
    }

    fn lost(&self, head: &Head) -> Lost {
        let Some(id) = head.id.as_deref() else { return Lost::Other(None) };
        if head.calls {
            let id = raw(id.as_bytes()).and_then(wire_id);
            return id.map_or(Lost::Other(None), Lost::Request);
        }
        match id.parse() {
            Ok(id) if head.replies => Lost::Answer(id),
            _ => Lost::Other(None),
        }
    }
}
