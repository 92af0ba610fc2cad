//! Floor 4. Why a request was refused, as it stands on the wire.

use std::fmt;

use crate::error::Error;
use crate::record::Record;

/// A refusal: what a handler of ours, or the agent, answers instead of a result.
///
/// In the Claude dialect only the text travels; in JSON-RPC the code and the data, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    pub(crate) message: String,
    pub(crate) code: Option<i64>,
    pub(crate) data: Option<Record>,
}

impl RpcError {
    /// A refusal in words.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None, data: None }
    }

    /// With a number. JSON-RPC has -32601 for "no such method"; the default there is -32603.
    #[must_use]
    pub fn with_code(mut self, code: i64) -> Self {
        self.code = Some(code);
        self
    }

    /// With JSON that says more.
    #[must_use]
    pub fn with_data(mut self, data: Record) -> Self {
        self.data = Some(data);
        self
    }

    /// The words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The code, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        self.code
    }

    /// As the error object of JSON-RPC.
    pub(crate) fn as_json(&self) -> Option<String> {
        #[derive(serde::Serialize)]
        struct Object<'a> {
            code: i64,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: &'a Option<Record>,
        }
        const INTERNAL: i64 = -32603;
        let code = self.code.unwrap_or(INTERNAL);
        let object = Object { code, message: &self.message, data: &self.data };
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
