//! The requests of handles to the driver of their agent, and the questions of sessions about output that
//! is still in the pipe.

use std::sync::Arc;

use crate::close::{CloseMode, ClosePolicy, CloseReason};
use crate::io::PipeIo;
use crate::sync::SetOnce;

use super::Transport;
use super::channel::Channel;

/// A request of a handle.
#[derive(Debug)]
pub(crate) enum Request {
    /// Write: frames were queued.
    Write,
    /// Read on: the reader caught up, or is gone.
    Resume,
    /// Stop or resume reading stderr, as the inbox says.
    HoldStderr,
    /// Close stdin once everything accepted is written.
    EndInput,
    /// The turn that was open is over.
    TurnEnded,
    /// Answer once everything that the agent had written is delivered.
    CatchUp(CatchUp),
    /// Close the agent.
    Close(CloseLimits, CloseReason),
}

/// The limits of a close.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CloseLimits {
    /// Those of the agent's command, in this mode.
    Own(CloseMode),
    Given(ClosePolicy),
}

impl CloseLimits {
    pub(super) fn policy(self, own: ClosePolicy) -> ClosePolicy {
        match self {
            Self::Own(mode) => ClosePolicy { mode, ..own },
            Self::Given(policy) => policy,
        }
    }
}

impl Request {
    /// Returns its bit among the requests of an agent that are on their way: one of these says as much
    /// as many. `None` for a close, which has its own policy, and for a question, which has its own
    /// answer.
    pub(crate) fn bit(&self) -> Option<u8> {
        match self {
            Self::Write => Some(1),
            Self::Resume => Some(2),
            Self::EndInput => Some(4),
            Self::TurnEnded => Some(8),
            Self::HoldStderr => Some(16),
            Self::CatchUp(_) | Self::Close(..) => None,
        }
    }
}

/// The most turns that one question takes.
const CATCH_UP_TURNS_MAX: u32 = 4096;

/// Asks whether everything that the agent had written is with its reader. A session asks before it
/// acts on the timeout of a request, so that an answer that was in the pipe in time is not taken for
/// a late one.
///
/// Answered once what was in the pipe is delivered, if the reader has to catch up first, or if the
/// agent or its engine is gone.
#[derive(Debug)]
pub(crate) struct CatchUp(Arc<SetOnce<CaughtUp>>);

/// The answer to a [`CatchUp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CaughtUp {
    /// False if the reader has to catch up first.
    pub(crate) all: bool,
    /// The end of the agent's stderr; empty if the agent is gone.
    pub(crate) stderr_tail: String,
}

impl CatchUp {
    /// Returns the question and where its answer is set.
    pub(crate) fn new() -> (Self, Arc<SetOnce<CaughtUp>>) {
        let answer = Arc::new(SetOnce::new());
        (Self(Arc::clone(&answer)), answer)
    }
}

impl Drop for CatchUp {
    fn drop(&mut self) {
        // Only the first value is kept, so this answers a question that was dropped unanswered, and
        // a session does not wait for an agent or an engine that is gone.
        self.0.set(CaughtUp { all: true, stderr_tail: String::new() });
    }
}

/// A question that waits for the pipe to be read.
#[derive(Debug)]
pub(super) struct PendingCatchUp {
    pub(super) slot: usize,
    pub(super) channel: Arc<Channel>,
    /// The bytes that were read before the question.
    bytes_in: u64,
    turns: u32,
    question: CatchUp,
}

impl PendingCatchUp {
    pub(super) fn new(
        slot: usize,
        channel: Arc<Channel>,
        bytes_in: u64,
        question: CatchUp,
    ) -> Self {
        Self { slot, channel, bytes_in, turns: 0, question }
    }

    /// Answers the question if the agent's pipe is read, or the agent is gone. Returns whether it did.
    pub(super) fn try_answer(&mut self, agent: Option<&Transport>, io: &mut dyn PipeIo) -> bool {
        let answer = agent.map_or(Some(true), |agent| self.answer(agent, io));
        self.turns += 1;
        if let Some(all) = answer {
            let stderr_tail = agent.map(|agent| agent.stderr.tail()).unwrap_or_default();
            self.question.0.set(CaughtUp { all, stderr_tail });
        }
        answer.is_some()
    }

    /// `None` if the answer is not known yet.
    fn answer(&self, agent: &Transport, io: &mut dyn PipeIo) -> Option<bool> {
        let Some(stdout) = agent.ends.stdout.open() else { return Some(true) };
        if agent.stdout_ended || !io.has_unread(stdout) {
            return Some(true);
        }
        // A paused pipe is not read before the reader catches up, so waiting would not help.
        if agent.paused || self.turns >= CATCH_UP_TURNS_MAX {
            return Some(false);
        }
        // As much was read since as fits into the pipe: what was in it before the question is read.
        let read = agent.intake.stats.bytes_in - self.bytes_in;
        (read >= agent.intake.stats.stdout_pipe_size).then_some(true)
    }
}
