//! Floor 3. One engine thread: one ring, parked in `io_uring_enter` while nothing happens.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;

use crate::board::Board;
use crate::close_policy::CloseMode;
use crate::close_report::CloseReason;
use crate::error::{Error, ErrorKind, Result};
use crate::features::Features;
use crate::latch::Latch;

use crate::ring::{Ring, RingConfig, block_sigpipe};
use crate::transport::{CloseLimits, Core, Request};

use super::mailbox::{Command, Inbox, Mailbox, Reply, ThreadEnd, mailbox};
use super::spin::{Lookout, Spin};

/// Cancelled pipe operations end within microseconds; a second says that something is broken.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// So many are taken before the pipes have their turn: handles that ask without a pause must not
/// keep everybody else's agents and deadlines waiting.
const COMMANDS_PER_TURN: usize = 256;

/// A running engine thread.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) mailbox: Mailbox,
    pub(super) features: Features,
    /// Its counts, once a turn.
    pub(super) board: Arc<Board>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts one and waits until its ring stands, so a refusal is the caller's error.
    pub(super) fn start(index: usize, config: RingConfig, spin: Spin) -> Result<Self> {
        let failed = |what: &str, error: std::io::Error| {
            Error::new(ErrorKind::ResourceLimit, "start", what.to_owned())
                .cause(error)
                .remedy("raise RLIMIT_NOFILE or the thread limit of this process")
        };
        let (mailbox, inbox) =
            mailbox().map_err(|error| failed("cannot create an eventfd", error))?;
        let started = Arc::new(Latch::new());
        let tell = Arc::clone(&started);
        let handle = std::thread::Builder::new()
            .name(format!("agentpipe-{index}"))
            .spawn(move || run(&inbox, &config, spin, &tell))
            .map_err(|error| failed("cannot start an engine thread", error))?;
        let mut thread = Self {
            mailbox,
            features: Features::default(),
            board: Arc::default(),
            handle: Some(handle),
        };
        (thread.features, thread.board) = pollster::block_on(started.wait())?;
        Ok(thread)
    }

    /// Closes its agents within `limit`, aborts the rest, and ends it. The latch is set when no
    /// agent is left.
    pub(super) fn shutdown(&self, limit: Duration) -> Arc<Latch<ThreadEnd>> {
        let done = Arc::new(Latch::new());
        self.mailbox.send(Command::Shutdown { limit, done: Reply(Arc::clone(&done)) });
        done
    }

    /// Waits for the thread to end, unless it is the one that asks: the last handle may be
    /// dropped by a waker that the engine itself calls.
    pub(super) fn join(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        if handle.thread().id() != std::thread::current().id() && handle.join().is_err() {
            crate::trace::error!("an engine thread panicked");
        }
    }
}

/// Aborts what is left and waits for the thread: no child, descriptor or thread outlives it.
impl Drop for Thread {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
        self.join();
    }
}

/// The kernel lets the end of every wait be 50 us late otherwise, and a close waits for 100 us.
/// What this thread starts would inherit it, so it starts nothing: agents have threads for that.
fn wake_on_time() {
    if let Err(error) = set_current_timer_slack(NonZeroU64::new(1)) {
        crate::trace::debug!(%error, "the timer slack of an engine thread could not be set");
    }
}

fn run(
    inbox: &Inbox,
    config: &RingConfig,
    spin: Spin,
    started: &Latch<Result<(Features, Arc<Board>)>>,
) {
    if let Err(error) = block_sigpipe() {
        crate::trace::warn!(%error, "SIGPIPE could not be blocked on an engine thread");
    }
    wake_on_time();
    let opened = Ring::new(config).and_then(|ring| {
        let bell = inbox.bell().map_err(|error| {
            Error::new(ErrorKind::ResourceLimit, "start", "cannot copy the eventfd").cause(error)
        })?;
        let features = ring.features();
        let mut core = Core::new(Box::new(ring));
        core.listen(bell);
        Ok((core, features))
    });
    match opened {
        Ok((core, features)) => {
            started.set(Ok((features, core.board())));
            Loop { core, inbox, spin, ending: None }.run();
        }
        Err(error) => {
            started.set(Err(error));
        }
    }
}

struct Loop<'a> {
    core: Core,
    inbox: &'a Inbox,
    spin: Spin,
    ending: Option<Ending>,
}

/// A shutdown under way.
struct Ending {
    /// When what is left is aborted; `None` once it was.
    abort_at: Option<Instant>,
    end: ThreadEnd,
    done: Vec<Reply<ThreadEnd>>,
}

impl Loop<'_> {
    fn run(mut self) {
        let mut now = Instant::now();
        let mut lookout = Lookout::new(self.spin, now);
        let mut happened = 0;
        loop {
            for _ in 0..COMMANDS_PER_TURN {
                let Some(command) = self.inbox.next() else { break };
                self.command(command, now);
                happened += 1;
            }
            self.abort_if_due(now);
            self.core.settle(now);
            if self.ending.is_some() && self.core.open() == 0 {
                break;
            }
            if std::mem::take(&mut happened) > 0 {
                lookout.note(now);
            }
            let timeout = if lookout.looks(now) {
                // Who asks for something does not ring, and a look costs no call.
                std::hint::spin_loop();
                Some(Duration::ZERO)
            } else {
                match self.inbox.fall_asleep() {
                    // There may be more of them: this turn only looks, and does not sleep.
                    Some(command) => {
                        self.command(command, now);
                        happened += 1;
                        Some(Duration::ZERO)
                    }
                    None => self.timeout(now),
                }
            };
            if let Err(error) = self.core.wait(timeout) {
                // Nothing can be carried any more. Dropping the core kills and reports.
                crate::trace::error!(%error, "io_uring_enter failed; the engine thread ends");
                return;
            }
            self.inbox.wake_up();
            now = Instant::now();
            happened += self.core.dispatch(now);
            if self.core.take_woken() {
                self.inbox.silence();
                self.core.rewatch();
            }
        }
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.core.board().read().trace(&name);
        if !self.core.drain(DRAIN_MAX) {
            crate::trace::error!("the kernel still holds operations of a finished engine");
        }
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let abort = self.ending.as_ref().and_then(|ending| ending.abort_at);
        let abort = abort.map(|at| at.saturating_duration_since(now));
        match (self.core.until_deadline(now), abort) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn abort_if_due(&mut self, now: Instant) {
        if let Some(ending) = &mut self.ending
            && ending.abort_at.is_some_and(|at| now >= at)
        {
            ending.abort_at = None;
            ending.end.aborted = self.core.open();
            self.core.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, now);
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Adopt(mut adoption) => {
                let Some(child) = adoption.take() else { return };
                let (spawned, command) = *child;
                let shared = &adoption.shared;
                self.core.adopt(spawned, &command, shared, now);
                if self.ending.is_some() {
                    // It was on its way when the engine was stopped.
                    let limits = CloseLimits::Own(CloseMode::Abort);
                    let request = Request::Close(limits, CloseReason::Shutdown);
                    self.core.request(shared, request, now);
                }
            }
            Command::Agent(shared, request) => self.core.request(&shared, request, now),
            Command::Shutdown { limit, done } => self.shutdown(limit, done, now),
            Command::Counters(reply) => {
                reply.0.set(self.core.counters());
            }
        }
    }

    /// The first shutdown closes; a later one may only hurry it.
    fn shutdown(&mut self, limit: Duration, done: Reply<ThreadEnd>, now: Instant) {
        let at = now + limit;
        match &mut self.ending {
            Some(ending) => {
                ending.abort_at = ending.abort_at.map(|before| before.min(at));
                ending.done.push(done);
            }
            None => {
                let end = ThreadEnd { agents: self.core.open(), aborted: 0 };
                self.ending = Some(Ending { abort_at: Some(at), end, done: vec![done] });
                if !limit.is_zero() {
                    self.core.close_all(None, CloseReason::Shutdown, now);
                }
            }
        }
    }
}

/// However the thread ends, nobody waits for it in vain: here for a shutdown, in the drop of each
/// command left in the mailbox for the rest.
impl Drop for Loop<'_> {
    fn drop(&mut self) {
        if let Some(ending) = &self.ending {
            for done in &ending.done {
                done.0.set(ending.end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::current_timer_slack;

    #[test]
    fn a_wait_ends_when_it_is_over() {
        let slack = std::thread::spawn(|| {
            super::wake_on_time();
            current_timer_slack()
        });
        assert_eq!(slack.join().expect("no panic"), Ok(1));
        assert_ne!(current_timer_slack(), Ok(1), "of that thread alone");
    }
}
