//! The client of one server, whichever run of it is current.

use std::sync::Arc;

use serde::Serialize;

use crate::close::{ClosePolicy, CloseReport};
use crate::error::Result;
use crate::record::Record;
use crate::session::SessionStats;
use crate::session::jsonrpc::call;

use super::builder::Builder;
use super::connection::{Connection, has_ended_by_itself};
use super::era::Server;
use super::restart::Link;

/// An MCP client with one server, which speaks MCP 2026-07-28, 2025-11-25 or an older version. Cheap
/// to clone.
///
/// A server that ends is started again by the next call that needs it, within
/// [`Builder::restarts`]. Dropping the last clone without a [`close`](Self::close) aborts the server.
#[derive(Clone, Debug)]
pub struct Client(pub(super) Arc<Link>);

impl Client {
    /// Returns a builder without handlers and with default settings.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns what the server says about itself, as of its last start.
    #[must_use]
    pub fn server(&self) -> Server {
        self.0.current().0.server.clone()
    }

    /// Sends a notification, and resolves once it is queued. Cancel-safe.
    ///
    /// # Errors
    /// See [`jsonrpc::Session::notify`](crate::session::jsonrpc::Session::notify).
    pub async fn notify(&self, method: &str, body: impl Serialize) -> Result<()> {
        let body = Record::from_json(&body)?;
        loop {
            let Connection { session, .. } = &*self.0.live().await?;
            match session.send(call(None, method, body.as_bytes())).await {
                // It was not sent.
                Err(error) if has_ended_by_itself(session, &error).await => {}
                sent => return sent,
            }
        }
    }

    /// Closes the server gracefully: its input ends, then it is waited for. Every open call fails at
    /// once with [`Closed`](crate::ErrorKind::Closed), and the server is not started again.
    ///
    /// The close begins at the first poll, and dropping the future does not stop it. If the server
    /// has ended, the report is there at once. See [`Session::close`](crate::session::Session::close).
    pub async fn close(&self) -> CloseReport {
        self.0.close().session.close().await
    }

    /// Closes the server with another policy. Otherwise like [`close`](Self::close).
    pub async fn close_with(&self, policy: ClosePolicy) -> CloseReport {
        self.0.close().session.close_with(policy).await
    }

    /// Returns the report of the close, once the server is closed or has ended by itself. `None` again
    /// after a restart.
    #[must_use]
    pub fn close_report(&self) -> Option<CloseReport> {
        self.0.current().0.session.close_report()
    }

    /// Returns the tables and counters of the session with the last run of the server.
    #[must_use]
    pub fn metrics(&self) -> SessionStats {
        self.0.current().0.session.metrics()
    }

    /// Returns the process id of the last run of the server.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.current().0.session.pid()
    }

    /// Returns how often the server was started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.0.current().1
    }
}
