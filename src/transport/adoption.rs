//! A spawned child on its way to the thread that will serve it.

use std::sync::Arc;

use crate::command::AgentCommand;
use crate::origin::Origin;
use crate::process::Spawned;

use super::connect::label;
use super::shared::Shared;

/// A child that no core has taken over yet. Dropped, it is killed and reaped, its place is free
/// again, and its handles are told how it ended.
#[derive(Debug)]
pub(crate) struct Adoption {
    child: Option<Box<(Spawned, AgentCommand)>>,
    pub(crate) shared: Arc<Shared>,
    origin: Origin,
}

impl Adoption {
    pub(crate) fn new(child: Spawned, command: AgentCommand) -> Self {
        let (framing, limits) = (command.framing, command.limits);
        let shared = Arc::new(Shared::new(child.pid(), label(&child), framing, limits));
        Self { child: Some(Box::new((child, command))), shared, origin: Origin::here() }
    }

    /// Hands the child on, once.
    pub(super) fn take(&mut self) -> Option<Box<(Spawned, AgentCommand)>> {
        self.child.take()
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        if !self.origin.is_here() {
            #[expect(clippy::mem_forget, reason = "in a forked child: it is the parent's to kill")]
            std::mem::forget(child);
            return;
        }
        let (exit, alive) = child.0.destroy();
        self.shared.never_adopted(exit, alive);
    }
}
