//! Floor 4. The seam between the router and a protocol: what a record is, and how ours look.

use std::fmt;
use std::time::Instant;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::record::Record;

use super::failure::RpcError;
use super::lost::{Head, Lost};

/// An id that the agent chose, as the JSON it stands in: `"req-7"` with its quotes, `7`.
///
/// Kept as it came, so that the answer carries it back byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WireId(pub(crate) Box<str>);

/// What a record from the agent is.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// An answer to request `id` of ours (`None`: to an id that is none of ours).
    Reply { id: Option<u64>, outcome: Result<Record, RpcError> },
    /// A request of the agent. It is answered exactly once, unless the agent withdraws it.
    Request { id: WireId, method: Box<str>, body: Record },
    /// The agent withdraws a request of its own.
    Cancel { id: WireId },
    /// For whoever reads the session: messages, notifications, what nobody knows.
    Data,
    /// Not to be handled, and said so with this record.
    Refused { answer: Vec<u8>, why: &'static str },
}

/// An object as `T`. A derived struct reads an array, too, field by field: that would make a
/// message of what is none.
pub(crate) fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    object_of(raw.get().as_bytes())
}

/// The same of a whole record.
pub(crate) fn object_of<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let opens = bytes.trim_ascii_start().first() == Some(&b'{');
    if opens { serde_json::from_slice(bytes).ok() } else { None }
}

/// A protocol of requests and responses. Pure: records in and out, no state but constants.
///
/// All returned bytes are whole records, without framing. A body is JSON; `null` stands for none.
pub(crate) trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// What this record is. Never fails: what it does not know is [`Incoming::Data`].
    fn read(&self, record: &Record) -> Incoming;

    /// A request of ours.
    fn request(&self, id: u64, method: &str, body: &[u8]) -> Vec<u8>;

    /// Tells the agent that a request is no longer wanted, where the protocol can.
    fn withdraw(&self, id: u64, method: &str) -> Option<Vec<u8>>;

    /// The answer to a request of the agent.
    fn answer(&self, to: &WireId, outcome: Result<&[u8], &RpcError>) -> Vec<u8>;

    /// What is answered to a request that the agent withdrew: nothing, in most protocols.
    fn answer_withdrawn(&self, _to: &WireId) -> Option<Vec<u8>> {
        None
    }

    /// The refusal of a request that has no handler.
    fn unknown(&self, method: &str) -> RpcError;

    /// What a record was, of which only the first bytes are left.
    fn lost(&self, head: &Head) -> Lost;
}

/// What becomes of a data record, and what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// A turn ended without a result.
    pub(crate) no_result: bool,
    /// The record is for the reader.
    pub(crate) keep: bool,
}

/// Sees what passes through a session, before its reader does. Never blocks.
pub(crate) trait Observer: fmt::Debug + Send + Sync + 'static {
    /// A data record came.
    fn saw(&self, record: &Record) -> Seen;

    /// A record was dropped, of this type where that is known.
    fn lost(&self, kind: Option<&str>);

    /// An answer came. True if it is the observer's alone.
    fn replied(&self, id: u64) -> bool;

    /// The agent asked something; [`answered`](Self::answered) follows, once.
    fn asked(&self);

    /// The answer is queued, or will not come.
    fn answered(&self);

    /// When it wants to be woken.
    fn deadline(&self) -> Option<Instant>;

    /// That moment came. Whether a turn ended without a result.
    fn tick(&self, now: Instant) -> bool;

    /// What the agent said of its end, if it said something: a message, and the record.
    fn last_words(&self) -> Option<(String, Record)>;
}
