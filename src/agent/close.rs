//! Closing an agent by any of its handles: asks the driver and waits for the report. The driver
//! carries the close out (`transport/close.rs`), whatever becomes of the caller.

use crate::close::{CloseMode, ClosePolicy, CloseReason, CloseReport};
use crate::transport::{CloseLimits, Request};

use super::{Agent, AgentReader, AgentWriter, Connection, EngineKind, Link};

impl<L: Link + ?Sized> Connection<L> {
    async fn close(&self, limits: CloseLimits) -> CloseReport {
        // The first poll sends the request, also if a close is under way: an abort hurries it. From
        // then on the driver needs neither the future nor the handle.
        self.request(Request::Close(limits, CloseReason::Requested));
        self.channel.closed().await
    }
}

impl<E: EngineKind> Agent<E> {
    /// Closes the agent gracefully: writes what was accepted, ends the input, reads on until the
    /// agent exits, and only then uses force. The limits are those of
    /// [`AgentCommand::close_policy`](crate::AgentCommand::close_policy); whatever the agent does, the
    /// close takes at most their [`max_duration`](ClosePolicy::max_duration).
    ///
    /// The agent's last output can be read afterwards, up to
    /// [`Limits::drain_max`](crate::Limits::drain_max). Not promised: that the agent acted on what was
    /// written to it.
    ///
    /// Cancel-safe: the engine carries the close out; dropping the future or the handle does not stop
    /// it. Every caller gets the same report, also after the close.
    pub async fn close(&self) -> CloseReport {
        self.writer.close().await
    }

    /// Closes the pipes at once and kills the agent after a short grace period. Hurries a graceful
    /// close that is under way. Cancel-safe like [`close`](Self::close).
    pub async fn abort(&self) -> CloseReport {
        self.writer.abort().await
    }

    /// Closes the agent with the limits of `policy`. If a close is under way, waits for that one:
    /// only an abort hurries it, by the shorter of both limits for the grace and for the kill.
    /// Cancel-safe like [`close`](Self::close).
    pub async fn close_with(&self, policy: ClosePolicy) -> CloseReport {
        self.writer.close_with(policy).await
    }

    /// Waits until the agent is closed or has ended by itself, without closing it. Cancel-safe.
    pub async fn closed(&self) -> CloseReport {
        self.writer.closed().await
    }

    /// Returns the report, once the agent is closed or has ended by itself.
    #[must_use]
    pub fn close_report(&self) -> Option<CloseReport> {
        self.writer.close_report()
    }
}

impl Agent {
    /// Blocking form of [`close`](Self::close), for callers without a runtime.
    pub fn close_blocking(&self) -> CloseReport {
        self.writer.close_blocking()
    }

    /// Blocking form of [`abort`](Self::abort), for callers without a runtime.
    pub fn abort_blocking(&self) -> CloseReport {
        self.writer.abort_blocking()
    }

    /// Blocking form of [`close_with`](Self::close_with), for callers without a runtime.
    pub fn close_with_blocking(&self, policy: ClosePolicy) -> CloseReport {
        self.writer.close_with_blocking(policy)
    }

    /// Blocking form of [`closed`](Self::closed), for callers without a runtime.
    pub fn closed_blocking(&self) -> CloseReport {
        self.writer.closed_blocking()
    }
}

impl<E: EngineKind> AgentReader<E> {
    /// Closes the agent gracefully. See [`Agent::close`].
    pub async fn close(&self) -> CloseReport {
        self.connection.close(CloseLimits::Own(CloseMode::Graceful)).await
    }

    /// Aborts the agent. See [`Agent::abort`].
    pub async fn abort(&self) -> CloseReport {
        self.connection.close(CloseLimits::Own(CloseMode::Abort)).await
    }

    /// Closes the agent with other limits. See [`Agent::close_with`].
    pub async fn close_with(&self, policy: ClosePolicy) -> CloseReport {
        self.connection.close(CloseLimits::Given(policy)).await
    }

    /// Waits until the agent is closed. See [`Agent::closed`].
    pub async fn closed(&self) -> CloseReport {
        self.connection.channel.closed().await
    }

    /// Returns the report, once the agent is closed or has ended by itself.
    #[must_use]
    pub fn close_report(&self) -> Option<CloseReport> {
        self.connection.channel.close_report()
    }
}

impl AgentReader {
    /// Blocking form of [`close`](Self::close), for callers without a runtime.
    pub fn close_blocking(&self) -> CloseReport {
        pollster::block_on(self.close())
    }

    /// Blocking form of [`abort`](Self::abort), for callers without a runtime.
    pub fn abort_blocking(&self) -> CloseReport {
        pollster::block_on(self.abort())
    }

    /// Blocking form of [`close_with`](Self::close_with), for callers without a runtime.
    pub fn close_with_blocking(&self, policy: ClosePolicy) -> CloseReport {
        pollster::block_on(self.close_with(policy))
    }

    /// Blocking form of [`closed`](Self::closed), for callers without a runtime.
    pub fn closed_blocking(&self) -> CloseReport {
        pollster::block_on(self.closed())
    }
}

impl<E: EngineKind> AgentWriter<E> {
    /// Closes the agent gracefully. See [`Agent::close`].
    pub async fn close(&self) -> CloseReport {
        self.connection.close(CloseLimits::Own(CloseMode::Graceful)).await
    }

    /// Aborts the agent. See [`Agent::abort`].
    pub async fn abort(&self) -> CloseReport {
        self.connection.close(CloseLimits::Own(CloseMode::Abort)).await
    }

    /// Closes the agent with other limits. See [`Agent::close_with`].
    pub async fn close_with(&self, policy: ClosePolicy) -> CloseReport {
        self.connection.close(CloseLimits::Given(policy)).await
    }

    /// Waits until the agent is closed. See [`Agent::closed`].
    pub async fn closed(&self) -> CloseReport {
        self.connection.channel.closed().await
    }

    /// Returns the report, once the agent is closed or has ended by itself.
    #[must_use]
    pub fn close_report(&self) -> Option<CloseReport> {
        self.connection.channel.close_report()
    }
}

impl AgentWriter {
    /// Blocking form of [`close`](Self::close), for callers without a runtime.
    pub fn close_blocking(&self) -> CloseReport {
        pollster::block_on(self.close())
    }

    /// Blocking form of [`abort`](Self::abort), for callers without a runtime.
    pub fn abort_blocking(&self) -> CloseReport {
        pollster::block_on(self.abort())
    }

    /// Blocking form of [`close_with`](Self::close_with), for callers without a runtime.
    pub fn close_with_blocking(&self, policy: ClosePolicy) -> CloseReport {
        pollster::block_on(self.close_with(policy))
    }

    /// Blocking form of [`closed`](Self::closed), for callers without a runtime.
    pub fn closed_blocking(&self) -> CloseReport {
        pollster::block_on(self.closed())
    }
}
