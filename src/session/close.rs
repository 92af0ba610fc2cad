//! Close, floor 4: fails what is open, cancels what is handled, then asks the engine.

use crate::close::ClosePolicy;
use crate::close::CloseReport;
use crate::error::ErrorKind;

use super::handle::Session;

impl Session {
    /// Closes the agent gracefully. Every open request fails at once with
    /// [`Closed`](ErrorKind::Closed), every running handler is dropped without an answer and not
    /// waited for; what the agent still says can be read afterwards, up to
    /// [`Limits::drain_max`](crate::Limits::drain_max), whether anybody read before or not.
    ///
    /// While a turn is open, a Claude session sends its `interrupt` first; the report's stages say
    /// so. Bounded by [`max_duration`](ClosePolicy::max_duration) and cancel-safe as
    /// [`Agent::close`](crate::Agent::close): begun at the first poll, and then not stopped by
    /// dropping it. Of an agent that is gone, the report is there at once.
    pub async fn close(&self) -> CloseReport {
        self.end();
        self.core().writer.close().await
    }

    /// Cuts the pipes at once, kills after a short grace; hurries a close that is under way.
    /// Otherwise as [`close`](Self::close).
    pub async fn abort(&self) -> CloseReport {
        self.end();
        self.core().writer.abort().await
    }

    /// Closes with limits of one's own; a close that is under way keeps its own. Otherwise as
    /// [`close`](Self::close).
    pub async fn close_with(&self, policy: ClosePolicy) -> CloseReport {
        self.end();
        self.core().writer.close_with(policy).await
    }

    /// Nothing is asked or answered from now on.
    fn end(&self) {
        let core = self.core();
        if !core.writer.is_here() {
            return;
        }
        core.end(core.error(ErrorKind::Closed, "the session was closed"));
    }

    /// [`close`](Self::close) for callers without a runtime. Blocks the thread, as long at the most
    /// as that takes.
    pub fn close_blocking(&self) -> CloseReport {
        pollster::block_on(self.close())
    }

    /// Waits until the agent is closed or has ended by itself, without asking for it and without a
    /// deadline. Cancel-safe.
    pub async fn closed(&self) -> CloseReport {
        self.core().writer.closed().await
    }

    /// The report, once the agent is closed or has ended by itself; `None` before. Does not wait.
    #[must_use]
    pub fn close_report(&self) -> Option<CloseReport> {
        self.core().writer.close_report()
    }
}
