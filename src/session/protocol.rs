//! The seam between the router and a protocol: what a record from the agent is, and what the
//! session's own records look like. `claude` and `jsonrpc` implement it.

use std::fmt;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::Error;
use crate::record::Record;

use super::dropped::RecordHead;

pub(crate) use super::wire_id::WireId;

/// The kind of a record from the agent.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// The response to request `id` of this session; `None` for an id that this session cannot
    /// have sent.
    Response { id: Option<u64>, outcome: Result<Record, RpcError> },
    /// A request of the agent. It gets exactly one response, unless the agent cancels it.
    Request { id: WireId, method: Box<str>, body: Record },
    /// The agent cancels one of its own requests.
    Cancel { id: WireId },
    /// The agent reports progress with this token. The record is data as well.
    Progress { token: WireId },
    /// The agent could not read a record, and does not say which. The record is data as well.
    Complaint(RpcError),
    /// Several records in one. Each is classified by itself.
    Batch(Vec<Record>),
    /// A record for the reader of the session: a message, a notification, an unknown type.
    Data,
    /// A request that is not for this session, and gets no response.
    #[cfg(feature = "claude")]
    Ignored,
    /// A request that is malformed. `response` tells the agent so.
    Refused { response: Vec<u8>, why: &'static str },
}

/// The kind of a dropped record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DroppedRecord {
    /// The response to a request of this session.
    Response(u64),
    /// A request of the agent.
    Request(WireId),
    /// Another record, with its type if that is known.
    Other(Option<Box<str>>),
}

/// A protocol of requests and responses. Pure: an implementation has no state but constants.
///
/// Returned bytes are whole records without framing. A body is JSON; `null` stands for no body.
pub(crate) trait Protocol: fmt::Debug + Send + Sync + 'static {
    /// Returns what a record is. Never fails: an unknown record is [`Incoming::Data`].
    fn classify(&self, record: &Record) -> Incoming;

    /// Returns the record of a request of this session.
    fn request(&self, id: u64, method: &str, body: &[u8]) -> Vec<u8>;

    /// Returns the body of a request whose progress is reported, and its progress token. `id` is the
    /// token for a body without one. Most protocols report no progress.
    ///
    /// # Errors
    /// Why no progress can be reported, as a fragment of a sentence.
    fn with_progress(&self, _id: u64, _body: &[u8]) -> Result<(Vec<u8>, WireId), &'static str> {
        Err("the protocol of the session reports no progress")
    }

    /// Returns the record that cancels a request of this session, if the protocol has one.
    fn cancellation(&self, id: u64, method: &str) -> Option<Vec<u8>>;

    /// Returns the response to a request of the agent.
    fn response(&self, to: &WireId, outcome: Result<&[u8], &RpcError>) -> Vec<u8>;

    /// Returns the response to a request that the agent cancelled. Most protocols have none.
    fn cancelled_response(&self, _to: &WireId) -> Option<Vec<u8>> {
        None
    }

    /// Returns the result of a request that the protocol itself answers, unless it has a handler.
    fn own_result(&self, _method: &str) -> Option<&'static [u8]> {
        None
    }

    /// Returns the error for a request that has no handler.
    fn unknown_method(&self, method: &str) -> RpcError;

    /// Returns what a dropped record was, judged by its first bytes.
    fn identify(&self, head: &RecordHead) -> DroppedRecord;
}

/// The verdict of an [`Observer`] about a data record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    /// A turn ended without a result. The reader learns of it before it sees the record.
    pub(crate) no_result: bool,
    /// Whether the reader of the session gets the record.
    pub(crate) keep: bool,
}

/// Sees the records that pass through a session before its reader does. No method blocks.
pub(crate) trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A data record came.
    fn on_data(&self, record: &Record) -> Observation;

    /// A record was dropped. `kind` is its type, if the remaining bytes tell.
    fn on_dropped(&self, kind: Option<&str>);

    /// A response came. Returns true if it answers a request of the observer itself.
    fn on_response(&self, _id: u64) -> bool {
        false
    }

    /// The agent sent a request. One [`on_answered`](Self::on_answered) follows.
    fn on_request(&self) {}

    /// The response to a request of the agent is queued, or will never be.
    fn on_answered(&self) {}

    /// Returns when the next [`on_deadline`](Self::on_deadline) is due.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The deadline has passed. Returns true if a turn ended without a result.
    fn on_deadline(&self, _now: Instant) -> bool {
        false
    }

    /// Returns the agent's last error, if that explains its end: a message, and the record.
    fn last_error(&self) -> Option<(String, Record)> {
        None
    }
}

/// Reads an object as `T`. A derived struct would also read an array, field by field, and so take
/// for a message what is none.
pub(crate) fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    object_of(raw.get().as_bytes())
}

/// [`object`] for a whole record.
pub(crate) fn object_of<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let opens = bytes.trim_ascii_start().first() == Some(&b'{');
    if opens { serde_json::from_slice(bytes).ok() } else { None }
}

/// Returns a value in a record, and `null` for one that is absent.
pub(crate) fn part_of(record: &Record, value: Option<&RawValue>) -> Record {
    value.map_or_else(|| b"null".to_vec().into(), |value| record.part(value.get().as_bytes()))
}

/// An error response: what a handler, or the agent, answers in place of a result.
///
/// JSON-RPC carries the message, the code and the data. The control protocol of Claude Code
/// carries the message alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    message: String,
    code: Option<i64>,
    // In boxes: every handler returns this type, and few errors have either.
    data: Option<Box<Record>>,
    /// The error as the agent sent it.
    received: Option<Box<Record>>,
}

impl RpcError {
    /// The code of an error without one: "internal error" of JSON-RPC.
    const INTERNAL: i64 = -32603;

    /// Creates an error with a message and without a code.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None, data: None, received: None }
    }

    /// Sets the code. JSON-RPC uses -32601 for "method not found"; an error without a code is sent
    /// as -32603, "internal error".
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = Some(code);
        self
    }

    /// Sets the data: any JSON that describes the error further.
    #[must_use]
    pub fn with_data(mut self, data: Record) -> Self {
        self.data = Some(Box::new(data));
        self
    }

    /// Sets the message, and the error as the agent sent it.
    pub(crate) fn with_words(mut self, message: String, received: Record) -> Self {
        self.message = message;
        self.received = Some(Box::new(received));
        self
    }

    /// Returns the message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the code, if the error has one.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        self.code
    }

    /// Returns the data, if the error has any.
    #[must_use]
    pub fn data(&self) -> Option<&Record> {
        self.data.as_deref()
    }

    /// Returns the error object of JSON-RPC, or the error as the agent sent it.
    pub(crate) fn to_json(&self) -> Option<String> {
        if let Some(received) = &self.received {
            return received.as_str().ok().map(String::from);
        }
        #[derive(Serialize)]
        struct ErrorObject<'a> {
            code: i64,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a Record>,
        }
        let code = self.code.unwrap_or(Self::INTERNAL);
        let object = ErrorObject { code, message: &self.message, data: self.data() };
        serde_json::to_string(&object).ok()
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.code {
            Some(code) => write!(f, " (code {code})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RpcError {}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<&str> for RpcError {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl From<String> for RpcError {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}
