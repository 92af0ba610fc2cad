//! Floor 3. What all handles of one agent share; the last one dropped aborts the agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::close_policy::ClosePolicy;
use crate::close_report::CloseReason;
use crate::transport::{Request, Shared};

use super::handle::Inner;
use super::mailbox::{Command, Mailbox};

#[derive(Debug)]
pub(super) struct Control {
    pub(super) shared: Arc<Shared>,
    mailbox: Mailbox,
    load: Arc<AtomicUsize>,
    /// Keeps the engine threads while a handle is there.
    engine: Arc<Inner>,
}

impl Control {
    pub(super) fn new(
        shared: Arc<Shared>,
        mailbox: Mailbox,
        load: Arc<AtomicUsize>,
        engine: Arc<Inner>,
    ) -> Arc<Self> {
        Arc::new(Self { shared, mailbox, load, engine })
    }

    /// Asks the engine. Where it has ended, the agent was closed with it.
    pub(super) fn request(&self, request: Request) {
        self.mailbox.send(Command::Agent(Arc::clone(&self.shared), request));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        if self.shared.outcome.get().is_none() {
            self.engine.abandoned.fetch_add(1, Ordering::Relaxed);
            let agent = self.shared.label.as_str();
            tracing::warn!(agent, "dropped without a close; it is aborted");
            self.request(Request::Close(ClosePolicy::abort(), CloseReason::Dropped));
        }
    }
}
