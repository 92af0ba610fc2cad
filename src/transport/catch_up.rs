//! Tells whether all that an agent had written is with its reader. A session asks before it acts on the
//! deadline of a request, so an answer that lay in the pipe in time is never taken for a late one.

use std::sync::Arc;

use crate::io::PipeIo;
use crate::sync::SetOnce;

use super::channel::Channel;
use super::driver::Driver;
use super::state::Transport;

/// Turns that one question takes at the most.
const TURNS_MAX: u32 = 4096;

/// The question. Answered `true` once what was in the pipe is delivered, also where the agent or its
/// engine is gone; `false` where its reader has to catch up first.
#[derive(Debug)]
pub(crate) struct CatchUp(Arc<SetOnce<bool>>);

impl CatchUp {
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
pub(super) struct Waiting {
    slot: usize,
    channel: Arc<Channel>,
    /// What was read before.
    bytes_in: u64,
    turns: u32,
    question: CatchUp,
}

impl Driver {
    /// Answers at the end of a turn whose events are delivered: this one, or a later one.
    pub(super) fn catch_up(&mut self, slot: usize, question: CatchUp) {
        let Some(agent) = self.agents.get(slot) else { return };
        let (channel, bytes_in) = (Arc::clone(&agent.channel), agent.intake.stats.bytes_in);
        self.catching_up.push(Waiting { slot, channel, bytes_in, turns: 0, question });
    }

    /// The events of this turn are delivered.
    pub(super) fn answer_catch_ups(&mut self) {
        let Self { agents, io, catching_up, .. } = self;
        catching_up.retain_mut(|waiting| {
            let agent = agents.get(waiting.slot);
            let agent = agent.filter(|agent| Arc::ptr_eq(&agent.channel, &waiting.channel));
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
        // What fills the pipe once has come since: what was there before is read.
        let read = self.intake.stats.bytes_in - waiting.bytes_in;
        (read >= self.intake.stats.stdout_pipe_size).then_some(true)
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
    fn turn(core: &mut Driver, at_most: Duration) {
        let now = Instant::now();
        core.settle(now);
        let wait = core.until_deadline(now).map_or(at_most, |wait| wait.min(at_most));
        core.wait(Some(wait)).expect("it waits");
        core.dispatch(Instant::now());
    }

    #[test]
    fn the_question_is_answered_when_what_was_in_the_pipe_is_delivered() {
        let command = AgentCommand::new("sh").args(["-c", "echo '{\"a\":1}'; read end"]);
        let permit = Permits::new(None).acquire().expect("a place");
        let spawned = spawn_admitted(&command, permit).expect("spawns");
        let adoption = Adoption::new(spawned, command);
        let channel = Arc::clone(&adoption.channel);
        let ring = Ring::new(&RingConfig::default()).expect("io_uring");
        let mut core = Driver::new(Box::new(ring));
        core.adopt(adoption, Instant::now());
        let stdout = core.agents[0].ends.stdout.open().expect("open");
        // The record lies in the pipe. This thread has not come to read it.
        let begun = Instant::now();
        while !core.io.has_unread(stdout) {
            assert!(begun.elapsed() < Duration::from_secs(10), "it writes at once");
            std::thread::yield_now();
        }
        let (question, answer) = CatchUp::new();
        core.request(&channel, Request::CatchUp(question), Instant::now());
        core.settle(Instant::now());
        assert_eq!(answer.get(), None, "nothing was read yet");
        assert_eq!(core.until_deadline(Instant::now()), Some(Duration::ZERO), "it does not sleep");
        while answer.get().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is read");
            turn(&mut core, Duration::ZERO);
        }
        assert_eq!(answer.get(), Some(true));
        let mut events = VecDeque::new();
        assert!(channel.take_events(&mut events, Waker::noop()));
        assert!(matches!(events.front(), Some(Event::Record(_))), "{events:?}");
        // Of an agent with an empty pipe, and of one that is gone, it is answered at once.
        let (question, answer) = CatchUp::new();
        core.request(&channel, Request::CatchUp(question), Instant::now());
        core.settle(Instant::now());
        assert_eq!(answer.get(), Some(true));
        core.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, Instant::now());
        while core.open() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is closed");
            turn(&mut core, Duration::from_millis(5));
        }
        let (question, answer) = CatchUp::new();
        core.request(&channel, Request::CatchUp(question), Instant::now());
        assert_eq!(answer.get(), Some(true));
    }
}
