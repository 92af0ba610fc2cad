//! Floor 2. What a handle wants of its agent, and who acts on it.

use std::sync::Arc;
use std::time::Instant;

use crate::close::CloseReason;
use crate::close::{CloseMode, ClosePolicy};

use super::catch_up::CatchUp;
use super::channel::Channel;
use super::driver::Driver;
use crate::close::CloseEvent;

/// What a handle wants of its agent.
#[derive(Debug)]
pub(crate) enum Request {
    /// Frames were queued.
    Write,
    /// The reader caught up, or is gone.
    Resume,
    /// End the input once everything accepted is written.
    EndInput,
    /// The turn that was open is over.
    TurnEnded,
    /// Tell when all that it had written is delivered.
    CatchUp(CatchUp),
    /// Close it.
    Close(CloseLimits, CloseReason),
}

/// How long the stages of a close may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CloseLimits {
    /// As the agent's command says, in this mode.
    Own(CloseMode),
    Given(ClosePolicy),
}

impl CloseLimits {
    fn policy(self, own: ClosePolicy) -> ClosePolicy {
        match self {
            Self::Own(mode) => ClosePolicy { mode, ..own },
            Self::Given(policy) => policy,
        }
    }
}

impl Request {
    /// Its bit among the requests of an agent that wait in the mailbox. One says as much as many;
    /// a close has its own policy and a question its own answer, so each of those goes by itself.
    pub(crate) fn bit(&self) -> Option<u8> {
        match self {
            Self::Write => Some(1),
            Self::Resume => Some(2),
            Self::EndInput => Some(4),
            Self::TurnEnded => Some(8),
            Self::CatchUp(_) | Self::Close(..) => None,
        }
    }
}

impl Driver {
    /// A request of a handle. One for an agent that is over is passed over.
    pub(crate) fn request(&mut self, channel: &Arc<Channel>, request: Request, now: Instant) {
        // Before it is acted on: what is asked for from now on may come too late for this one.
        channel.begin_request(request.bit());
        let slot = channel.slot();
        let Some(agent) = self.agents.get_mut(slot) else { return };
        if !Arc::ptr_eq(&agent.channel, channel) {
            return;
        }
        self.touched.push(slot);
        match request {
            Request::Write => agent.pump_writes(&mut *self.io, now),
            Request::Resume => agent.resume(&mut *self.io),
            Request::EndInput => agent.end_input_when_flushed(&mut *self.io, now),
            Request::TurnEnded => agent.plan_event(CloseEvent::TurnEnded, now),
            Request::CatchUp(question) => self.catch_up(slot, question),
            Request::Close(limits, reason) => {
                agent.begin_close(limits.policy(agent.policy), reason, now);
            }
        }
    }
}
