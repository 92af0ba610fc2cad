//! Close, floor 2: the stage EndInput. Has the agent written all it had?

use std::time::Instant;

use crate::process::rest;

use super::close_plan::CloseEvent;
use super::state::Transport;

impl Transport {
    /// Left to the end of the turn, which has only so much time for looks.
    pub(super) fn close_look(&mut self) {
        if let Some(closing) = &mut self.close {
            closing.wants_look = true;
        }
    }

    /// Whether the plan wants a look; asked once.
    pub(super) fn takes_look(&mut self) -> bool {
        self.close.as_mut().is_some_and(|closing| std::mem::take(&mut closing.wants_look))
    }

    pub(super) fn look(&mut self, budget: &mut usize, now: Instant) {
        self.plan_event(CloseEvent::Seen(rest(self.shared.pid, budget)), now);
    }
}
