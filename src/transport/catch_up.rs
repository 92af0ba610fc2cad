//! Floor 2. Whether all that an agent had written is with its reader: asked before a deadline of a request
//! is acted upon, so that an answer which lay in the pipe in time is never taken for a late one.

use std::sync::Arc;

use crate::latch::Latch;
use crate::pipe_io::PipeIo;

use super::core::Core;
use super::shared::Shared;
use super::state::Transport;

/// A pipe holds this much at the most, unless its writer is privileged: whoever has read as much since
/// the question has read what was there.
const PIPE_MAX: u64 = 1 << 20;
/// Turns that one question takes at the most.
const TURNS_MAX: u32 = 4096;

/// The question. Answered `true` once what was in the pipe is delivered, also where the agent or its
/// engine is gone; `false` where its reader has to catch up first.
#[derive(Debug)]
pub(crate) struct CatchUp(Arc<Latch<bool>>);

impl CatchUp {
    pub(crate) fn new() -> (Self, Arc<Latch<bool>>) {
        let answer = Arc::new(Latch::new());
        (Self(Arc::clone(&answer)), answer)
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// A question that waits for the pipe to be read.
#[derive(Debug)]
pub(super) struct Waiting {
    slot: usize,
    shared: Arc<Shared>,
    /// What was read before.
    bytes_in: u64,
    turns: u32,
    question: CatchUp,
}

impl Core {
    /// Answers at the end of a turn whose events are delivered: this one, or a later one.
    pub(super) fn catch_up(&mut self, slot: usize, question: CatchUp) {
        let Some(agent) = self.agents.get(slot) else { return };
        let (shared, bytes_in) = (Arc::clone(&agent.shared), agent.intake.stats.bytes_in);
        self.catching_up.push(Waiting { slot, shared, bytes_in, turns: 0, question });
    }

    /// The events of this turn are delivered.
    pub(super) fn answer_catch_ups(&mut self) {
        let Self { agents, io, catching_up, .. } = self;
        catching_up.retain_mut(|waiting| {
            let agent = agents.get(waiting.slot);
            let agent = agent.filter(|agent| Arc::ptr_eq(&agent.shared, &waiting.shared));
            let whole = match agent {
                None => Some(true),
                Some(agent) => agent.is_caught_up(&mut **io, waiting),
            };
            waiting.turns += 1;
            if let Some(whole) = whole {
                waiting.question.0.set(whole);
            }
            whole.is_none()
        });
    }
}

impl Transport {
    /// `None`: not yet.
    fn is_caught_up(&self, io: &mut dyn PipeIo, waiting: &Waiting) -> Option<bool> {
        let Some(stdout) = self.ends.stdout.open() else { return Some(true) };
        if self.stdout_ended || !io.has_unread(stdout) {
            return Some(true);
        }
        if self.paused || waiting.turns >= TURNS_MAX {
            return Some(false);
        }
        (self.intake.stats.bytes_in - waiting.bytes_in >= PIPE_MAX).then_some(true)
    }
}
