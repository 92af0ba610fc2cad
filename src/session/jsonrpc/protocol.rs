//! The records of JSON-RPC 2.0.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::record::Record;
use crate::session::dropped::RecordHead;
use crate::session::protocol::{
    DroppedRecord, Incoming, Protocol, RpcError, WireId, object, object_of,
};

const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
/// The code with which language servers answer a cancelled request.
const REQUEST_CANCELLED: i64 = -32800;

/// How a request is cancelled. JSON-RPC itself has no way; the protocols on it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Cancellation {
    /// Not at all. A response that comes too late is counted and dropped.
    #[default]
    None,
    /// With `$/cancelRequest` and the `id`, as language servers and ACP do. A request that the agent
    /// cancels is answered with -32800.
    Lsp,
    /// With `notifications/cancelled` and the `requestId`, as MCP does. A cancelled request is not
    /// answered, and `initialize` is never cancelled.
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

/// JSON-RPC 2.0.
#[derive(Debug)]
pub(in crate::session) struct JsonRpcProtocol {
    pub(in crate::session) cancellation: Cancellation,
}

/// A record from the agent. Its values stay JSON text, so none of them is built.
#[derive(Deserialize)]
struct ReceivedRecord<'a> {
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

/// Reads `null` as a value like any other, and not as an absent one.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

#[derive(Serialize)]
struct SentRecord<'a> {
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

impl SentRecord<'_> {
    const EMPTY: Self =
        Self { jsonrpc: "2.0", id: None, method: None, params: None, result: None, error: None };

    fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and raw JSON always have JSON")
    }
}

/// Returns the text of bytes that are known to be JSON.
fn raw(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

/// Returns a notification, or with an id a request.
pub(in crate::session) fn call(id: Option<u64>, method: &str, params: &[u8]) -> Vec<u8> {
    let id = id.map(|id| id.to_string());
    let id = id.as_deref().and_then(|id| raw(id.as_bytes()));
    // Some servers refuse `"params":null`, so the key is left out.
    let params = raw(params).filter(|params| params.get() != "null");
    SentRecord { id, method: Some(method), params, ..SentRecord::EMPTY }.bytes()
}

/// Returns an error response. `id` is JSON text.
fn error_response(id: &str, error: &RpcError) -> Vec<u8> {
    let error = error.to_json();
    let error = error.as_deref().and_then(|error| raw(error.as_bytes()));
    SentRecord { id: raw(id.as_bytes()), error, ..SentRecord::EMPTY }.bytes()
}

/// Returns the id of a request, which has to be a text or a number.
fn wire_id(id: &RawValue) -> Option<WireId> {
    let text = id.get();
    let is_id = text.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
    is_id.then(|| WireId(text.into()))
}

impl JsonRpcProtocol {
    /// Classifies a record with a method: a request, a cancellation, or a notification.
    fn call_of(&self, record: &Record, method: &str, wire: &ReceivedRecord<'_>) -> Incoming {
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
                let error = RpcError::new(why).with_code(INVALID_REQUEST);
                // JSON-RPC has `null` for the id of a request whose id cannot be read.
                Incoming::Refused { response: error_response("null", &error), why }
            }
        }
    }

    /// Returns the id in a notification that cancels a request.
    fn cancelled(&self, method: &str, wire: &ReceivedRecord<'_>) -> Option<WireId> {
        #[derive(Deserialize)]
        struct CancelParams<'a> {
            // LSP calls the key `id`, and MCP `requestId`.
            #[serde(borrow, alias = "requestId")]
            id: &'a RawValue,
        }
        if Some(method) != self.cancellation.method() {
            return None;
        }
        let params: CancelParams<'_> = object(wire.params?)?;
        wire_id(params.id)
    }
}

/// Classifies an array. It is refused if a request in it waits for a response.
fn batch(record: &Record) -> Incoming {
    let calls: Vec<&RawValue> = serde_json::from_slice(record.as_bytes()).unwrap_or_default();
    let mut calls = calls.into_iter().filter_map(object::<ReceivedRecord<'_>>);
    // Without a request in it the agent waits for nothing, so the reader gets the array.
    if !calls.any(|call| call.method.is_some() && call.id.is_some()) {
        return Incoming::Data;
    }
    let why = "batches are not supported: send one request a record";
    let error = RpcError::new(why).with_code(INVALID_REQUEST);
    Incoming::Refused { response: error_response("null", &error), why }
}

/// Reads the error object of a response, or whatever stands in its place.
fn rpc_error(record: &Record, error: &RawValue) -> RpcError {
    #[derive(Deserialize)]
    struct ReceivedError<'a> {
        code: Option<i64>,
        message: Option<Cow<'a, str>>,
        #[serde(borrow, default, deserialize_with = "present")]
        data: Option<&'a RawValue>,
    }
    match object::<ReceivedError<'_>>(error) {
        Some(object) => {
            let mut error = RpcError::new(object.message.unwrap_or_default());
            if let Some(code) = object.code {
                error = error.with_code(code);
            }
            match object.data {
                Some(data) => error.with_data(record.part(data.get().as_bytes())),
                None => error,
            }
        }
        None => RpcError::new("the error is not an error object")
            .with_data(record.part(error.get().as_bytes())),
    }
}

impl Protocol for JsonRpcProtocol {
    fn classify(&self, record: &Record) -> Incoming {
        // Derived structs also read an array, field by field, so arrays are sorted out first.
        if record.as_bytes().trim_ascii_start().first() == Some(&b'[') {
            return batch(record);
        }
        let Some(wire) = object_of::<ReceivedRecord<'_>>(record.as_bytes()) else {
            return Incoming::Data;
        };
        if let Some(method) = &wire.method {
            return self.call_of(record, method, &wire);
        }
        let outcome = match (wire.result, wire.error) {
            // Some agents send both keys, with `null` for the one that does not apply.
            (_, Some(error)) if error.get() != "null" => Err(rpc_error(record, error)),
            (Some(result), _) => Ok(record.part(result.get().as_bytes())),
            _ => return Incoming::Data,
        };
        match wire.id.map(RawValue::get) {
            // An error with the id `null` is about a record that the agent could not read. It does
            // not say which request that was.
            None | Some("null") => Incoming::Data,
            // Ids of this session are numbers. The same digits as text are another id, and do not
            // parse because of their quotes.
            Some(id) => Incoming::Response { id: id.parse().ok(), outcome },
        }
    }

    fn request(&self, id: u64, method: &str, body: &[u8]) -> Vec<u8> {
        call(Some(id), method, body)
    }

    fn cancellation(&self, id: u64, method: &str) -> Option<Vec<u8>> {
        let params = match self.cancellation {
            Cancellation::None => return None,
            Cancellation::Mcp if method == "initialize" => return None,
            Cancellation::Mcp => format!("{{\"requestId\":{id}}}"),
            Cancellation::Lsp => format!("{{\"id\":{id}}}"),
        };
        Some(call(None, self.cancellation.method()?, params.as_bytes()))
    }

    fn response(&self, to: &WireId, outcome: Result<&[u8], &RpcError>) -> Vec<u8> {
        match outcome {
            Ok(result) => {
                SentRecord { id: raw(to.0.as_bytes()), result: raw(result), ..SentRecord::EMPTY }
                    .bytes()
            }
            Err(error) => error_response(&to.0, error),
        }
    }

    fn cancelled_response(&self, to: &WireId) -> Option<Vec<u8>> {
        let error = RpcError::new("the request was cancelled").with_code(REQUEST_CANCELLED);
        (self.cancellation == Cancellation::Lsp).then(|| error_response(&to.0, &error))
    }

    fn unknown_method(&self, method: &str) -> RpcError {
        RpcError::new(format!("no such method: {method}")).with_code(METHOD_NOT_FOUND)
    }

    fn identify(&self, head: &RecordHead) -> DroppedRecord {
        let Some(id) = head.id.as_deref() else { return DroppedRecord::Other(None) };
        // Requests of the agent and responses have the same key for the id. The other keys tell
        // them apart.
        if head.calls {
            let id = raw(id.as_bytes()).and_then(wire_id);
            return id.map_or(DroppedRecord::Other(None), DroppedRecord::Request);
        }
        match id.parse() {
            Ok(id) if head.replies => DroppedRecord::Response(id),
            _ => DroppedRecord::Other(None),
        }
    }
}
