//! Close, floor 3, on the caller's thread: asks the driver and waits for the report.

use std::time::Duration;

use crate::close::{CloseMode, ClosePolicy};
use crate::close::{CloseReport, ShutdownReport};
use crate::transport::{self, CloseLimits};

use super::agent::LocalAgent;
use super::engine::LocalEngine;
use super::hub::NOTHING;
use super::reader::LocalAgentReader;
use super::writer::LocalAgentWriter;

macro_rules! closing {
    ($handle:ty, $($control:tt)+) => {
        impl $handle {
            /// Closes the agent gracefully: [`Agent::close`](crate::Agent::close) says how.
            ///
            /// Cancel-safe: the driver carries it out; dropping the future or the handle does not
            /// stop it. Everybody who closes an agent gets the same report, also later.
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

            /// Waits until the agent is closed or has ended by itself, without asking for it.
            /// Cancel-safe.
            pub async fn closed(&self) -> CloseReport {
                self.$($control)+.channel.closed().await
            }

            /// The report, once the agent is closed or has ended by itself.
            #[must_use]
            pub fn close_report(&self) -> Option<CloseReport> {
                self.$($control)+.channel.close_report()
            }
        }
    };
}

closing!(LocalAgent, writer.control);
closing!(LocalAgentReader, control);
closing!(LocalAgentWriter, control);

impl LocalEngine {
    /// Closes every agent by its own policy, all at once, and aborts what is left after `limit`;
    /// `Duration::MAX` is as long as it takes, zero aborts at once. Spawns are refused from now on.
    /// Returns when no agent is left: at most after `limit` and an abort's worst case.
    ///
    /// Cancel-safe: the driver carries it out. A second one may only shorten the limit.
    pub async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        let done = self.hub().shutdown(limit);
        done.wait().await.unwrap_or(NOTHING)
    }
}
