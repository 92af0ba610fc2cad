//! Floor 4. `mcp_message`: JSON-RPC to MCP servers that live in this process.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::record::Record;
use crate::session::failure::RpcError;
use crate::session::serve::AgentRequest;

type Answer = Result<Record, RpcError>;
type Server = Arc<dyn Fn(McpRequest) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

const METHOD_NOT_FOUND: i64 = -32601;

/// A request or a notification to an MCP server of this process.
#[derive(Clone, Debug)]
pub struct McpRequest {
    message: Record,
    method: String,
    params: Record,
    is_notification: bool,
}

impl McpRequest {
    /// The whole JSON-RPC message, byte for byte.
    #[must_use]
    pub fn message(&self) -> &Record {
        &self.message
    }

    /// `initialize`, `tools/list`, `tools/call`, ...
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The params; `null` if there are none.
    #[must_use]
    pub fn params(&self) -> &Record {
        &self.params
    }

    /// Whether nobody waits for a result. What the server returns is then dropped.
    #[must_use]
    pub fn is_notification(&self) -> bool {
        self.is_notification
    }
}

/// The servers, by name.
#[derive(Clone, Default)]
pub(super) struct Servers(HashMap<String, Server>);

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    server_name: Cow<'a, str>,
    #[serde(borrow)]
    message: &'a RawValue,
}

#[derive(Deserialize)]
struct Rpc<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    method: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Response<'a> {
    mcp_response: Reply<'a>,
}

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Box<RawValue>>,
}

impl Servers {
    pub(super) fn add<F, R, T>(&mut self, name: &str, server: F)
    where
        F: Fn(McpRequest) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, RpcError>> + Send + 'static,
        T: Serialize,
    {
        let server = Arc::new(server);
        let server: Server = Arc::new(move |request| {
            let server = Arc::clone(&server);
            Box::pin(async move { Ok(Record::from_json(&(*server)(request).await?)?) })
        });
        self.0.insert(name.into(), server);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order, so that a command line is the same each time.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Whatever is wrong below the control request is an error of JSON-RPC, not of the request.
    pub(super) async fn call(self: Arc<Self>, request: AgentRequest) -> Answer {
        let body = request.body();
        let Message { server_name, message } = serde_json::from_slice(body.as_bytes())
            .map_err(|error| RpcError::new(format!("mcp_message without a message: {error}")))?;
        let outcome = match serde_json::from_str::<Rpc<'_>>(message.get()) {
            Ok(rpc) => {
                let is_notification = rpc.id.is_none();
                let outcome = self.serve(&server_name, body, message, rpc).await;
                if is_notification { Ok(b"{}".to_vec().into()) } else { outcome }
            }
            Err(error) => {
                const INVALID_REQUEST: i64 = -32600;
                Err(RpcError::new(format!("not a JSON-RPC message: {error}"))
                    .with_code(INVALID_REQUEST))
            }
        };
        // The id alone, of a message that may be no request.
        #[derive(Deserialize)]
        struct Id<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
        }
        let id = serde_json::from_str::<Id<'_>>(message.get()).ok().and_then(|found| found.id);
        let (result, error) = match outcome {
            Ok(result) => (Some(result), None),
            Err(failure) => (None, failure.as_json().and_then(|e| RawValue::from_string(e).ok())),
        };
        let mcp_response = Reply { jsonrpc: "2.0", id, result, error };
        Ok(Record::from_json(&Response { mcp_response })?)
    }

    async fn serve(&self, name: &str, body: &Record, message: &RawValue, rpc: Rpc<'_>) -> Answer {
        let Some(server) = self.0.get(name) else {
            return Err(
                RpcError::new(format!("no MCP server is named {name}")).with_code(METHOD_NOT_FOUND)
            );
        };
        let params = match rpc.params {
            Some(params) => body.part(params.get().as_bytes()),
            None => b"null".to_vec().into(),
        };
        let message = body.part(message.get().as_bytes());
        let is_notification = rpc.id.is_none();
        server(McpRequest { message, method: rpc.method, params, is_notification }).await
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
