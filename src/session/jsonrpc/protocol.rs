//! The records of JSON-RPC 2.0.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::record::Record;
use crate::session::dropped::RecordHead;
use crate::session::protocol::{
    DroppedRecord, Incoming, Protocol, RpcError, WireId, object, object_of, part_of,
};
use crate::session::wire_id::number;

const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
/// The code with which LSP and ACP answer a cancelled request.
const REQUEST_CANCELLED: i64 = -32800;
/// Records in a batch. The records of one batch are copies, which no other limit holds back.
const BATCH_MAX: usize = 4096;

/// How a request is cancelled, and with it the protocol above JSON-RPC, which itself has no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Cancellation {
    /// Not at all. A response that comes too late is counted and dropped.
    #[default]
    None,
    /// With `$/cancelRequest` and the `id`, as language servers do. A request that the agent cancels
    /// is answered with -32800. Progress is `$/progress`.
    Lsp,
    /// With `notifications/cancelled` and the `requestId`, as MCP does. A cancelled request is not
    /// answered, and `initialize` is never cancelled. Progress is `notifications/progress`, and a
    /// `ping` of the server is answered without a handler.
    Mcp,
    /// With `$/cancel_request` and the `requestId`, as the Agent Client Protocol does. A request that
    /// the agent cancels is answered with -32800. The end of a prompt turn, `session/cancel`, is a
    /// notification of its own, which the session does not send.
    Acp,
}

impl Cancellation {
    fn method(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Lsp => Some("$/cancelRequest"),
            Self::Mcp => Some("notifications/cancelled"),
            Self::Acp => Some("$/cancel_request"),
        }
    }

    /// Returns the notification of progress.
    fn progress_method(self) -> Option<&'static str> {
        match self {
            Self::None | Self::Acp => None,
            Self::Lsp => Some("$/progress"),
            Self::Mcp => Some("notifications/progress"),
        }
    }
}

/// JSON-RPC 2.0.
#[derive(Debug)]
pub(in crate::session) struct JsonRpcProtocol {
    cancellation: Cancellation,
    /// Becomes true once the agent may send no requests and gets no responses, as a server of MCP
    /// 2026-07-28. A request that it sends all the same is data. So is a cancellation, which ends a
    /// subscription there.
    pub(in crate::session) is_one_way: Option<Arc<AtomicBool>>,
}

/// A record from the agent. Its values stay JSON text, so none of them is built.
#[derive(Deserialize)]
struct ReceivedRecord<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    jsonrpc: Option<&'a RawValue>,
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
    pub(in crate::session) const fn new(cancellation: Cancellation) -> Self {
        Self { cancellation, is_one_way: None }
    }

    fn read(&self, record: &Record) -> Incoming {
        // Derived structs also read an array, field by field, so arrays are sorted out first.
        if record.as_bytes().trim_ascii_start().first() == Some(&b'[') {
            return batch(record);
        }
        let Some(wire) = object_of::<ReceivedRecord<'_>>(record.as_bytes()) else {
            return Incoming::Data;
        };
        let replies = wire.result.is_some() || wire.error.is_some_and(|it| it.get() != "null");
        // Some servers repeat the method in the response, or write an empty one.
        if let Some(method) = wire.method.as_deref().filter(|it| !it.is_empty() && !replies) {
            return self.call_of(record, method, &wire);
        }
        let outcome = match (wire.result, wire.error) {
            // Some agents send both keys, with `null` for the one that does not apply.
            (_, Some(error)) if error.get() != "null" => Err(rpc_error(record, error)),
            (Some(result), _) => Ok(record.part(result.get().as_bytes())),
            // Serializers that leave `null` out send a result of `null` as neither of the keys. A log
            // line with an id is not a response: it has other keys, and none of JSON-RPC.
            (None, _) if wire.jsonrpc.is_some() || is_bare(record) => {
                Ok(Record::from(b"null".to_vec()))
            }
            _ => return Incoming::Data,
        };
        match wire.id.map(RawValue::get) {
            // An error with the id `null` is about a record that the agent could not read. It does
            // not say which request that was.
            None | Some("null") => match outcome {
                Err(error) => Incoming::Complaint(error),
                Ok(_) => Incoming::Data,
            },
            Some(id) => Incoming::Response { id: number(id), outcome },
        }
    }

    /// Classifies a record with a method: a request, a cancellation, or a notification.
    fn call_of(&self, record: &Record, method: &str, wire: &ReceivedRecord<'_>) -> Incoming {
        let Some(id) = wire.id else {
            return self.notification(method, wire).unwrap_or(Incoming::Data);
        };
        match wire_id(id) {
            Some(id) => {
                let body = part_of(record, wire.params);
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

    /// Classifies a notification that is meant for the session: a cancellation, or progress.
    fn notification(&self, method: &str, wire: &ReceivedRecord<'_>) -> Option<Incoming> {
        #[derive(Deserialize)]
        struct NotifiedParams<'a> {
            // LSP calls the key of a cancellation `id`, and MCP and ACP `requestId`.
            #[serde(borrow, alias = "requestId")]
            id: Option<&'a RawValue>,
            // LSP calls the key of progress `token`, and MCP `progressToken`.
            #[serde(borrow, alias = "progressToken")]
            token: Option<&'a RawValue>,
        }
        let params = || object::<NotifiedParams<'_>>(wire.params?);
        if Some(method) == self.cancellation.method() {
            return Some(Incoming::Cancel { id: wire_id(params()?.id?)? });
        }
        if Some(method) == self.cancellation.progress_method() {
            return Some(Incoming::Progress { token: wire_id(params()?.token?)? });
        }
        None
    }
}

/// Classifies an array: a batch, if all of its values are objects and one of them is a message.
fn batch(record: &Record) -> Incoming {
    let values: Vec<&RawValue> = serde_json::from_slice(record.as_bytes()).unwrap_or_default();
    let is_message = |value: &&RawValue| {
        object::<ReceivedRecord<'_>>(value).is_some_and(|it| it.method.is_some() || it.id.is_some())
    };
    // An array in an array is data, so batches do not nest.
    if !values.iter().all(|value| value.get().starts_with('{')) || !values.iter().any(is_message) {
        return Incoming::Data;
    }
    if values.len() > BATCH_MAX {
        let why = "a batch holds at most 4096 records";
        let error = RpcError::new(why).with_code(INVALID_REQUEST);
        return Incoming::Refused { response: error_response("null", &error), why };
    }
    // Copies: one unread record of a batch would otherwise keep the bytes of all.
    let copy = |value: &&RawValue| Record::from(value.get().as_bytes().to_vec());
    Incoming::Batch(values.iter().map(copy).collect())
}

/// Returns whether a record has no keys but those of a response.
fn is_bare(record: &Record) -> bool {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct BareResponse {
        #[serde(rename = "method")]
        _method: Option<IgnoredAny>,
        #[serde(rename = "id")]
        _id: IgnoredAny,
        #[serde(rename = "error")]
        _error: Option<IgnoredAny>,
    }
    object_of::<BareResponse>(record.as_bytes()).is_some()
}

/// Reads the error of a response, whatever it is. Its words are kept.
fn rpc_error(record: &Record, error: &RawValue) -> RpcError {
    #[derive(Deserialize)]
    struct ReceivedError<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        code: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "present")]
        message: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "present")]
        data: Option<&'a RawValue>,
    }
    let words = |value: &RawValue| {
        serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().into())
    };
    let received = object::<ReceivedError<'_>>(error);
    let message = received.as_ref().and_then(|object| object.message).unwrap_or(error);
    let mut message = words(message);
    let mut found = RpcError::new("");
    if let Some(received) = received {
        match received.code.map(|code| (code, code.get().parse().ok())) {
            Some((_, Some(code))) => found = found.with_code(code),
            // A code that is no whole number is part of the words.
            Some((code, None)) if received.message.is_some() => {
                message = format!("{message} (code {})", words(code));
            }
            _ => {}
        }
        if let Some(data) = received.data {
            found = found.with_data(record.part(data.get().as_bytes()));
        }
    }
    found.with_words(message, record.part(error.get().as_bytes()))
}

/// Puts a member in front of the others of an object. `null` counts as an empty object.
fn with_member(object: &str, member: &str) -> Option<String> {
    let rest = match object.trim() {
        "null" => "}",
        object => object.strip_prefix('{')?.trim_start(),
    };
    let comma = if rest == "}" { "" } else { "," };
    Some(format!("{{{member}{comma}{rest}"))
}

/// Adds a progress token to the params of a request, unless they have one. Returns both.
fn with_token(how: Cancellation, id: u64, params: &str) -> Option<(String, WireId)> {
    if how == Cancellation::Lsp {
        return with_token_at("workDoneToken", id, params);
    }
    let meta = members(params)?.remove("_meta");
    let (meta_with, token) = with_token_at("progressToken", id, meta.map_or("{}", RawValue::get))?;
    let params = match meta {
        Some(meta) => replaced(params, meta, &meta_with),
        None => with_member(params, &format!("\"_meta\":{meta_with}"))?,
    };
    Some((params, token))
}

/// Adds a token to an object under a key, unless it has one. Returns both.
fn with_token_at(key: &str, id: u64, object: &str) -> Option<(String, WireId)> {
    let own = WireId(id.to_string().into());
    match members(object)?.get(key) {
        // A second key of this name would leave it to the agent which of them holds.
        Some(none) if none.get() == "null" => Some((replaced(object, none, &own.0), own)),
        Some(token) => Some((object.into(), wire_id(token)?)),
        None => Some((with_member(object, &format!("\"{key}\":{id}"))?, own)),
    }
}

/// Reads the members of an object. `null` counts as an empty object.
fn members(object: &str) -> Option<BTreeMap<String, &RawValue>> {
    if object.trim() == "null" { Some(BTreeMap::new()) } else { object_of(object.as_bytes()) }
}

/// Puts a text in the place of a value that was read from `object`.
fn replaced(object: &str, value: &RawValue, with: &str) -> String {
    let before = value.get().as_ptr().addr() - object.as_ptr().addr();
    format!("{}{with}{}", &object[..before], &object[before + value.get().len()..])
}

impl Protocol for JsonRpcProtocol {
    fn classify(&self, record: &Record) -> Incoming {
        match self.read(record) {
            Incoming::Request { .. } | Incoming::Cancel { .. } | Incoming::Refused { .. }
                if self.is_one_way.as_ref().is_some_and(|it| it.load(Ordering::Acquire)) =>
            {
                Incoming::Data
            }
            incoming => incoming,
        }
    }

    fn request(&self, id: u64, method: &str, body: &[u8]) -> Vec<u8> {
        call(Some(id), method, body)
    }

    fn with_progress(&self, id: u64, body: &[u8]) -> Result<(Vec<u8>, WireId), &'static str> {
        if self.cancellation.progress_method().is_none() {
            return Err("only Cancellation::Mcp and Cancellation::Lsp know progress");
        }
        let with = str::from_utf8(body).ok().and_then(|it| with_token(self.cancellation, id, it));
        let (body, token) = with.ok_or("params with a progress token have to be an object")?;
        Ok((body.into_bytes(), token))
    }

    fn own_result(&self, method: &str) -> Option<&'static [u8]> {
        (self.cancellation == Cancellation::Mcp && method == "ping").then_some(b"{}")
    }

    fn cancellation(&self, id: u64, method: &str) -> Option<Vec<u8>> {
        let params = match self.cancellation {
            Cancellation::None => return None,
            Cancellation::Mcp if method == "initialize" => return None,
            Cancellation::Mcp | Cancellation::Acp => format!("{{\"requestId\":{id}}}"),
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
        let answers = matches!(self.cancellation, Cancellation::Lsp | Cancellation::Acp);
        answers.then(|| error_response(&to.0, &error))
    }

    fn unknown_method(&self, method: &str) -> RpcError {
        RpcError::new(format!("no such method: {method}")).with_code(METHOD_NOT_FOUND)
    }

    fn identify(&self, head: &RecordHead) -> DroppedRecord {
        let Some(id) = head.id.as_deref() else { return DroppedRecord::Other(None) };
        // Requests of the agent and responses have the same key for the id. The other keys tell
        // them apart.
        if head.calls && !head.replies {
            let id = raw(id.as_bytes()).and_then(wire_id);
            return id.map_or(DroppedRecord::Other(None), DroppedRecord::Request);
        }
        match number(id) {
            Some(id) if head.replies => DroppedRecord::Response(id),
            _ => DroppedRecord::Other(None),
        }
    }
}
