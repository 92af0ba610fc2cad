//! What a handle requests of the driver of its agent, and the questions of sessions about what is on
//! its way.

use std::sync::Arc;
use std::time::Instant;

use crate::close::{CloseEvent, CloseMode, ClosePolicy, CloseReason};
use crate::io::PipeIo;
use crate::sync::SetOnce;

use super::Transport;
use super::channel::Channel;
use super::driver::Driver;

/// A request of a handle.
#[derive(Debug)]
pub(crate) enum Request {
    /// Write: frames were queued.
    Write,
    /// Read on: the reader caught up, or is gone.
    Resume,
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
    fn policy(self, own: ClosePolicy) -> ClosePolicy {
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
/// Answered `true` once what was in the pipe is delivered, also if the agent or its engine is gone;
/// `false` if the reader has to catch up first.
#[derive(Debug)]
pub(crate) struct CatchUp(Arc<SetOnce<bool>>);

impl CatchUp {
    /// Returns the question and where its answer is set.
    pub(crate) fn new() -> (Self, Arc<SetOnce<bool>>) {
        let answer = Arc::new(SetOnce::new());
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
pub(super) struct PendingCatchUp {
    slot: usize,
    channel: Arc<Channel>,
    /// What was read before the question.
    bytes_in: u64,
    turns: u32,
    question: CatchUp,
}

impl Driver {
    /// Does what a handle requests. A request for an agent that is gone is ignored.
    pub(crate) fn request(&mut self, channel: &Arc<Channel>, request: Request, now: Instant) {
        // Before the request is acted on: a later one may come too late for this turn.
        channel.begin_request(request.bit());
        let slot = channel.slot();
        let Some(agent) = self.agents.get_mut(slot) else { return };
        // The slot may have been given to another agent.
        if !Arc::ptr_eq(&agent.channel, channel) {
            return;
        }
        self.touched.push(slot);
        match request {
            Request::Write => agent.pump_writes(&mut *self.io, now),
            Request::Resume => agent.resume(&mut *self.io),
            Request::EndInput => {
                agent.stdin.close_stdin_after_flush();
                agent.pump_writes(&mut *self.io, now);
            }
            Request::TurnEnded => agent.plan_event(CloseEvent::TurnEnded, now),
            Request::CatchUp(question) => {
                let (channel, bytes_in) = (Arc::clone(channel), agent.intake.stats.bytes_in);
                let pending = PendingCatchUp { slot, channel, bytes_in, turns: 0, question };
                self.catching_up.push(pending);
            }
            Request::Close(limits, reason) => {
                agent.begin_close(limits.policy(agent.policy), reason, now);
            }
        }
    }

    /// Answers questions at the end of a turn whose events are delivered.
    pub(super) fn answer_catch_ups(&mut self) {
        let Self { agents, io, catching_up, .. } = self;
        catching_up.retain_mut(|pending| {
            let agent = agents.get(pending.slot);
            let agent = agent.filter(|agent| Arc::ptr_eq(&agent.channel, &pending.channel));
            let answer = agent.map_or(Some(true), |agent| pending.answer(agent, &mut **io));
            pending.turns += 1;
            if let Some(answer) = answer {
                pending.question.0.set(answer);
            }
            answer.is_none()
        });
    }
}

impl PendingCatchUp {
    /// `None` if the answer is not known yet.
    fn answer(&self, agent: &Transport, io: &mut dyn PipeIo) -> Option<bool> {
        let Some(stdout) = agent.ends.stdout.open() else { return Some(true) };
        if agent.stdout_ended || !io.has_unread(stdout) {
            return Some(true);
        }
        if agent.paused || self.turns >= CATCH_UP_TURNS_MAX {
            return Some(false);
        }
        // As much was read since as fits into the pipe: what was in it before the question is read.
        let read = agent.intake.stats.bytes_in - self.bytes_in;
        (read >= agent.intake.stats.stdout_pipe_size).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::close::CloseMode;
    use crate::close::CloseReason;
    use crate::command::AgentCommand;
    use crate::process::spawn_admitted;
    use crate::record::Event;
    use crate::ring::{Ring, RingConfig};
    use crate::sync::Permits;
    use crate::transport::{Adoption, Request};

    /// A turn of an engine thread, which sleeps for no longer than this.
    fn turn(driver: &mut Driver, at_most: Duration) {
        let now = Instant::now();
        driver.end_turn(now);
        let wait = driver.until_deadline(now).map_or(at_most, |wait| wait.min(at_most));
        driver.wait(Some(wait)).expect("it waits");
        driver.dispatch(Instant::now());
    }

    #[test]
    fn catch_up_waits_for_what_is_in_the_pipe() {
        let command = AgentCommand::new("sh").args(["-c", "echo '{\"a\":1}'; read end"]);
        let permit = Permits::new(None).acquire().expect("a place");
        let spawned = spawn_admitted(&command, permit).expect("spawns");
        let adoption = Adoption::new(spawned, command);
        let channel = Arc::clone(&adoption.channel);
        let ring = Ring::new(&RingConfig::default()).expect("io_uring");
        let mut driver = Driver::new(Box::new(ring));
        driver.adopt(adoption, Instant::now());
        let stdout = driver.agents[0].ends.stdout.open().expect("open");
        // The record is in the pipe, and this thread has not read it yet.
        let begun = Instant::now();
        while !driver.io.has_unread(stdout) {
            assert!(begun.elapsed() < Duration::from_secs(10), "the agent has not written");
            std::thread::yield_now();
        }
        let (question, answer) = CatchUp::new();
        driver.request(&channel, Request::CatchUp(question), Instant::now());
        driver.end_turn(Instant::now());
        assert_eq!(answer.get(), None, "nothing was read yet");
        assert_eq!(
            driver.until_deadline(Instant::now()),
            Some(Duration::ZERO),
            "the driver would sleep"
        );
        while answer.get().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the record is not read");
            turn(&mut driver, Duration::ZERO);
        }
        assert_eq!(answer.get(), Some(true));
        let mut events = VecDeque::new();
        assert!(channel.inbox.take_events(&mut events, Waker::noop()));
        assert!(matches!(events.front(), Some(Event::Record(_))), "{events:?}");
        // With an empty pipe, or an agent that is gone, the answer comes at once.
        let (question, answer) = CatchUp::new();
        driver.request(&channel, Request::CatchUp(question), Instant::now());
        driver.end_turn(Instant::now());
        assert_eq!(answer.get(), Some(true));
        driver.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, Instant::now());
        while driver.open() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "the agent is not closed");
            turn(&mut driver, Duration::from_millis(5));
        }
        let (question, answer) = CatchUp::new();
        driver.request(&channel, Request::CatchUp(question), Instant::now());
        assert_eq!(answer.get(), Some(true));
    }
}
