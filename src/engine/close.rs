//! Close, floor 3: asks the engine thread and waits for the report; `transport/close.rs` does it.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::close::{CloseMode, ClosePolicy};
use crate::close::{CloseReason, CloseReport, ShutdownReport};
use crate::sync::WaitKey;
use crate::transport::{self, CloseLimits};

use super::agent::Agent;
use super::handle::Engine;
use super::reader::AgentReader;
use super::writer::AgentWriter;

macro_rules! closing {
    ($handle:ty, $($control:tt)+) => {
        impl $handle {
            /// Closes the agent gracefully: flush, end the input, keep reading, and only then use
            /// force. With the limits of [`AgentCommand::close_policy`](crate::AgentCommand::close_policy)
            /// and bounded by their [`max_duration`](ClosePolicy::max_duration), whatever the agent does.
            ///
            /// What the agent still said can be read afterwards, up to
            /// [`Limits::drain_max`](crate::Limits::drain_max). Not promised: that the agent
            /// acted on what was written to it.
            ///
            /// Cancel-safe: the close runs in the engine; dropping the future or the handle does
            /// not stop it. Everybody who closes an agent gets the same report, also later.
            pub async fn close(&self) -> CloseReport {
                transport::close(&*self.$($control)+, CloseLimits::Own(CloseMode::Graceful)).await
            }

            /// Cuts the pipes at once, kills after a short grace. Hurries a graceful close that
            /// is under way. Cancel-safe as [`close`](Self::close).
            pub async fn abort(&self) -> CloseReport {
                transport::close(&*self.$($control)+, CloseLimits::Own(CloseMode::Abort)).await
            }

            /// Closes with limits of one's own, or, where a close is under way, waits for that one:
            /// only an abort hurries it, by the shorter of both limits for the grace and for the kill.
            /// Cancel-safe as [`close`](Self::close).
            pub async fn close_with(&self, policy: ClosePolicy) -> CloseReport {
                transport::close(&*self.$($control)+, CloseLimits::Given(policy)).await
            }

            /// [`close`](Self::close) for callers without a runtime. Blocks the thread.
            pub fn close_blocking(&self) -> CloseReport {
                pollster::block_on(self.close())
            }

            /// [`abort`](Self::abort) for callers without a runtime. Blocks the thread.
            pub fn abort_blocking(&self) -> CloseReport {
                pollster::block_on(self.abort())
            }

            /// [`close_with`](Self::close_with) for callers without a runtime. Blocks the thread.
            pub fn close_with_blocking(&self, policy: ClosePolicy) -> CloseReport {
                pollster::block_on(self.close_with(policy))
            }

            /// Waits until the agent is closed or has ended by itself, without asking for it.
            /// Cancel-safe.
            pub async fn closed(&self) -> CloseReport {
                self.$($control)+.channel.closed().await
            }

            /// [`closed`](Self::closed) for callers without a runtime. Blocks the thread.
            pub fn closed_blocking(&self) -> CloseReport {
                pollster::block_on(self.closed())
            }

            /// The report, once the agent is closed or has ended by itself.
            #[must_use]
            pub fn close_report(&self) -> Option<CloseReport> {
                self.$($control)+.channel.close_report()
            }
        }
    };
}

impl AgentWriter {
    /// Ready once a close begins, whoever began it and whyever.
    pub(crate) fn poll_closing(
        &self,
        place: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        self.control.channel.poll_close_begun(place, context)
    }

    /// Waits until a close begins.
    pub(super) async fn closing(&self) -> CloseReason {
        self.control.channel.close_begun().await
    }

    /// [`closed`](Self::closed) as a poll function.
    pub(crate) fn poll_closed(
        &self,
        place: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<CloseReport> {
        self.control.channel.poll_closed(place, context)
    }

    /// Aborts the agent as if every handle had been dropped, though some are still there.
    pub(crate) fn abandon(&self) {
        self.control.abandon();
    }
}

closing!(Agent, writer.control);
closing!(AgentReader, control);
closing!(AgentWriter, control);

impl Engine {
    /// Closes every agent by its own policy, all at once, and aborts what is left after `limit`;
    /// `Duration::MAX` is as long as it takes, zero aborts at once. Spawns are refused from now on.
    ///
    /// Returns when no agent, no ring and no descriptor of the engine is left, at most after `limit`
    /// and an abort's worst case. Its threads have nothing left to do then but to end. An agent
    /// that was spawned while the shutdown began is either closed with the others or refused with
    /// [`EngineStopped`](crate::ErrorKind::EngineStopped). In a forked child it does nothing.
    ///
    /// Cancel-safe: the shutdown runs in the engine. A second one may only shorten the limit.
    pub async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        let begun = Instant::now();
        let mut report = ShutdownReport { agents: 0, aborted: 0, total: Duration::ZERO };
        if !self.inner.origin.is_here() {
            return report;
        }
        self.inner.stopped.store(true, Ordering::SeqCst);
        let ends: Vec<_> =
            self.inner.threads.iter().map(|(thread, _)| thread.shutdown(limit)).collect();
        for end in ends {
            let end = end.wait().await.unwrap_or_default();
            report.agents += end.agents;
            report.aborted += end.aborted;
        }
        report.total = begun.elapsed();
        report
    }

    /// [`shutdown`](Self::shutdown) for callers without a runtime. Blocks the thread, and waits for
    /// the threads of the engine as well; one that spawns is left alone where its exec hangs.
    pub fn shutdown_blocking(&self, limit: Duration) -> ShutdownReport {
        let report = pollster::block_on(self.shutdown(limit));
        if self.inner.origin.is_here() {
            self.inner.join();
        }
        report
    }
}
