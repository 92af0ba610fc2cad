//! Close, floor 2: the stage EndInput. Has the agent written all it had?

use std::time::Instant;

use crate::pipe_io::PipeIo;
use crate::process::rest;

use super::close_plan::CloseEvent;
use super::state::{End, Transport};

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

    /// Pipes after processes: who sleeps on a full pipe is not at rest, and a pipe that is empty now
    /// was so when the agent slept, since nothing is read in between.
    pub(super) fn look(&mut self, io: &mut dyn PipeIo, budget: &mut usize, now: Instant) {
        let rest = rest(self.shared.pid, budget);
        let outputs = [self.ends.stdout, self.ends.stderr];
        let unread = outputs.into_iter().filter_map(End::open).any(|end| io.has_unread(end));
        let seen = if unread { CloseEvent::Unread } else { CloseEvent::Seen(rest) };
        self.plan_event(seen, now);
    }
}
