//! The records of MCP: JSON-RPC, except that a modern server has no requests to be answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::record::Record;
use crate::session::dropped::RecordHead;
use crate::session::jsonrpc::{Cancellation, JsonRpcProtocol};
use crate::session::protocol::{DroppedRecord, Incoming, Protocol, RpcError, WireId};

/// MCP over JSON-RPC. The era is unknown until the server has answered.
#[derive(Debug)]
pub(super) struct McpProtocol {
    rpc: JsonRpcProtocol,
    /// Shared with the connection, which sets it once the era is known.
    is_modern: Arc<AtomicBool>,
}

impl McpProtocol {
    pub(super) fn new(is_modern: Arc<AtomicBool>) -> Self {
        Self { rpc: JsonRpcProtocol { cancellation: Cancellation::Mcp }, is_modern }
    }
}

impl Protocol for McpProtocol {
    fn classify(&self, record: &Record) -> Incoming {
        match self.rpc.classify(record) {
            // A client of the modern era must not write a response, so these are data. A server of
            // this era cancels no request of its own either: it ends a subscription that way.
            Incoming::Request { .. } | Incoming::Cancel { .. } | Incoming::Refused { .. }
                if self.is_modern.load(Ordering::Acquire) =>
            {
                Incoming::Data
            }
            incoming => incoming,
        }
    }

    fn request(&self, id: u64, method: &str, body: &[u8]) -> Vec<u8> {
        self.rpc.request(id, method, body)
    }

    fn with_progress(&self, id: u64, body: &[u8]) -> Result<(Vec<u8>, WireId), &'static str> {
        self.rpc.with_progress(id, body)
    }

    fn own_result(&self, method: &str) -> Option<&'static [u8]> {
        self.rpc.own_result(method)
    }

    fn cancellation(&self, id: u64, method: &str) -> Option<Vec<u8>> {
        self.rpc.cancellation(id, method)
    }

    fn response(&self, to: &WireId, outcome: Result<&[u8], &RpcError>) -> Vec<u8> {
        self.rpc.response(to, outcome)
    }

    fn unknown_method(&self, method: &str) -> RpcError {
        self.rpc.unknown_method(method)
    }

    fn identify(&self, head: &RecordHead) -> DroppedRecord {
        self.rpc.identify(head)
    }
}
