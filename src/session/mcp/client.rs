//! The client: calls, on whichever run of the server is current.

use std::sync::Arc;

use serde::Serialize;

use crate::close::CloseReport;
use crate::error::Result;
use crate::record::Record;

use super::builder::Builder;
use super::connection::{Connection, Launch};
use super::era::{Era, Server, params};

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

    /// Sends a request and waits for its result. `body` is an object, or `()` for no params.
    ///
    /// In the modern era `_meta` gets the version, the capabilities and the name of this client. What
    /// the caller has put there stays, such as `traceparent`.
    ///
    /// # Errors
    /// See [`Session::request`](crate::session::Session::request).
    pub async fn call(&self, method: &str, body: impl Serialize) -> Result<Record> {
        let mut params = params(&Record::from_json(&body)?)?;
        let Connection { session, server } = &self.0.connection;
        if server.era() == Era::Modern {
            self.0.launch.identity.stamp(server.version(), &mut params)?;
        }
        session.request(method, params).await
    }

    /// Closes the server gracefully. See [`Session::close`](crate::session::Session::close).
    pub async fn close(&self) -> CloseReport {
        self.0.connection.session.close().await
    }
}
