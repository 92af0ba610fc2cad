//! The client of one server, whichever run of it is current.

use std::sync::Arc;

use serde::Serialize;

use crate::close::CloseReport;
use crate::error::Result;
use crate::record::Record;
use crate::session::jsonrpc::call;

use super::builder::Builder;
use super::connection::{Connection, Launch};
use super::era::{Era, Server};

/// An MCP client with one server, which speaks MCP 2026-07-28, 2025-11-25 or an older version. Cheap
/// to clone.
#[derive(Clone, Debug)]
pub struct Client(Arc<ClientShared>);

#[derive(Debug)]
struct ClientShared {
    launch: Launch,
    connection: Connection,
}

impl Client {
    /// Returns a builder without handlers and with default settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(super) async fn connect(launch: Launch, era: Option<Era>) -> Result<Self> {
        let connection = launch.connect(era).await?;
        Ok(Self(Arc::new(ClientShared { launch, connection })))
    }

    /// Returns what the server says about itself.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.0.connection.server
    }

    pub(super) fn launch(&self) -> &Launch {
        &self.0.launch
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Sends a notification, and resolves once it is queued. Cancel-safe.
    ///
    /// # Errors
    /// See [`jsonrpc::Session::notify`](crate::session::jsonrpc::Session::notify).
    pub async fn notify(&self, method: &str, body: impl Serialize) -> Result<()> {
        let body = Record::from_json(&body)?;
        self.connection().session.send(call(None, method, body.as_bytes())).await
    }

    /// Closes the server gracefully. See [`Session::close`](crate::session::Session::close).
    pub async fn close(&self) -> CloseReport {
        self.0.connection.session.close().await
    }
}
