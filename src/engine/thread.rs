//! Floor 3. One engine thread: one ring, parked in `io_uring_enter` while nothing happens.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;

use crate::close::CloseMode;
use crate::close::CloseReason;
use crate::contain::contain;
use crate::counters::KernelFeatures;
use crate::deadline;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Departure;
use crate::origin::Origin;
use crate::process::SpawnPoolGuard;
use crate::stats::Board;
use crate::sync::SetOnce;

use crate::ring::{Ring, RingConfig, block_sigpipe};
use crate::transport::Driver;

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
    pub(super) features: KernelFeatures,
    /// Its counts, once a turn.
    pub(super) board: Arc<Board>,
    handle: Mutex<Option<JoinHandle<()>>>,
    origin: Origin,
}

/// What a new thread says of itself: what its ring can do and where its counts are.
type Start = Result<(KernelFeatures, Arc<Board>)>;

/// A thread that has not answered yet. Dropped without an answer, as by a panic, it says so: the
/// caller of `build` waits for it.
struct Started(Arc<SetOnce<Start>>);

impl Started {
    fn answer(self, start: Start) {
        self.0.set(start);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.0.set(Err(never_started()));
    }
}

fn never_started() -> Error {
    Error::new(ErrorKind::EngineStopped, "start", "an engine thread ended before it had started")
        .remedy("its panic is on stderr, unless a panic hook took it")
}

impl Thread {
    /// Starts one and waits until its ring stands, so a refusal is the caller's error. The spawning
    /// threads go after the last engine thread.
    pub(super) fn start(
        index: usize,
        config: RingConfig,
        spin: Spin,
        spawning: Arc<SpawnPoolGuard>,
    ) -> Result<Self> {
        let (mailbox, inbox) =
            mailbox().map_err(|error| failed("cannot create an eventfd", error))?;
        let run = move |started| run(inbox, &config, spin, started, spawning);
        let (handle, start) = launch(format!("agentpipe-{index}"), run)?;
        let handle = Mutex::new(Some(handle));
        let origin = Origin::here();
        let (features, board) = start.clone().unwrap_or_default();
        let thread = Self { mailbox, features, board, handle, origin };
        // Dropped with an error, it would be joined by nothing, and its ring still be there.
        start.inspect_err(|_| thread.join())?;
        Ok(thread)
    }

    /// Closes its agents within `limit`, aborts the rest, and ends it. The latch is set when its
    /// ring is closed.
    pub(super) fn shutdown(&self, limit: Duration) -> Arc<SetOnce<ThreadEnd>> {
        self.end(limit, None)
    }

    fn end(&self, limit: Duration, departure: Option<Departure>) -> Arc<SetOnce<ThreadEnd>> {
        let done = Arc::new(SetOnce::new());
        self.mailbox.refuse_children();
        let reply = Reply(Arc::clone(&done));
        self.mailbox.send(Command::Shutdown { limit, done: reply, departure });
        done
    }

    /// Waits for the thread to end, unless it is the one that asks: a waker that the engine calls
    /// may shut it down. To be called after [`shutdown`](Self::shutdown).
    pub(super) fn join(&self) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(handle) = handle else { return };
        if handle.thread().id() != std::thread::current().id() {
            // Its panic was logged by itself.
            let _ended = handle.join();
        }
    }
}

/// Aborts what is left, without waiting for it: the drop may be that of an agent in an async task.
impl Drop for Thread {
    fn drop(&mut self) {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if self.origin.is_here() {
            self.end(Duration::ZERO, handle.is_some().then(Departure::begin));
        } else {
            #[expect(clippy::mem_forget, reason = "in a forked child that thread does not exist")]
            std::mem::forget(handle);
        }
    }
}

fn failed(what: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::ResourceLimit, "start", what.to_owned())
        .cause(error)
        .remedy("raise RLIMIT_NOFILE or the thread limit of this process")
}

/// Starts a thread and waits for its answer, or its end.
fn launch(
    name: String,
    run: impl FnOnce(Started) + Send + 'static,
) -> Result<(JoinHandle<()>, Start)> {
    let answer = Arc::new(SetOnce::new());
    let started = Started(Arc::clone(&answer));
    let handle = std::thread::Builder::new()
        .name(name)
        .spawn(move || run(started))
        .map_err(|error| failed("cannot start an engine thread", error))?;
    let start = pollster::block_on(answer.wait()).unwrap_or_else(|| Err(never_started()));
    Ok((handle, start))
}

/// The kernel lets the end of every wait be 50 us late otherwise, and a close waits for 100 us.
/// What this thread starts would inherit it, so it starts nothing: agents have threads for that.
fn wake_on_time() {
    if let Err(error) = set_current_timer_slack(NonZeroU64::new(1)) {
        crate::trace::debug!(%error, "the timer slack of an engine thread could not be set");
    }
}

fn run(
    inbox: Inbox,
    config: &RingConfig,
    spin: Spin,
    started: Started,
    spawning: Arc<SpawnPoolGuard>,
) {
    if let Err(error) = block_sigpipe() {
        crate::trace::warn!(%error, "SIGPIPE could not be blocked on an engine thread");
    }
    wake_on_time();
    let opened = Ring::new(config).and_then(|ring| {
        let bell = inbox.bell().map_err(|error| {
            Error::new(ErrorKind::ResourceLimit, "start", "cannot copy the eventfd").cause(error)
        })?;
        let features = ring.kernel_features();
        let mut core = Driver::new(Box::new(ring));
        core.listen(bell);
        Ok((core, features))
    });
    let (core, features) = match opened {
        Ok(opened) => opened,
        Err(error) => return started.answer(Err(error)),
    };
    started.answer(Ok((features, core.board())));
    let mut ending = None;
    let mut turns = Loop { core, inbox, spin, ending: &mut ending };
    contain("an engine thread", || turns.run());
    turns.inbox.refuse_children();
    // However it ended, in this order: the agents that are left are killed and reported, the ring is
    // closed, the spawning threads may end, and the calls that wait for a shutdown are answered.
    contain("the end of an engine thread", || drop(turns));
    drop(spawning);
    drop(ending);
}

struct Loop<'a> {
    core: Driver,
    inbox: Inbox,
    spin: Spin,
    ending: &'a mut Option<Ending>,
}

/// A shutdown under way. Dropped, it answers the calls that wait for it.
struct Ending {
    /// When what is left is aborted, had this thread run all the time; `None` once it was.
    abort_at: Option<Instant>,
    end: ThreadEnd,
    done: Vec<(Reply<ThreadEnd>, Option<Departure>)>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        for (done, _) in &self.done {
            done.0.set(self.end);
        }
    }
}

impl Loop<'_> {
    fn run(&mut self) {
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

    fn timeout(&mut self, now: Instant) -> Option<Duration> {
        let abort = self.ending.as_ref().and_then(|ending| ending.abort_at);
        let abort = abort.map(|at| (at + self.core.stalled()).saturating_duration_since(now));
        match (self.core.until_deadline(now), abort) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    fn abort_if_due(&mut self, now: Instant) {
        let stalled = self.core.stalled();
        if let Some(ending) = &mut self.ending
            && ending.abort_at.is_some_and(|at| now >= at + stalled)
        {
            ending.abort_at = None;
            ending.end.aborted = self.core.open();
            self.core.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, now);
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            // None follows a shutdown: see `Mailbox::adopt`.
            Command::Adopt(adoption) => self.core.adopt(adoption, now),
            Command::Agent(channel, request) => self.core.request(&channel, request, now),
            Command::Shutdown { limit, done, departure } => {
                self.shutdown(limit, (done, departure), now);
            }
            Command::Counters(reply) => {
                reply.0.set(self.core.counters());
            }
        }
    }

    /// The first shutdown closes; a later one may only hurry it.
    fn shutdown(
        &mut self,
        limit: Duration,
        done: (Reply<ThreadEnd>, Option<Departure>),
        now: Instant,
    ) {
        let at = deadline::after(now, limit) - self.core.stalled();
        match &mut self.ending {
            Some(ending) => {
                ending.abort_at = ending.abort_at.map(|before| before.min(at));
                ending.done.push(done);
            }
            None => {
                let end = ThreadEnd { agents: self.core.open(), aborted: 0 };
                *self.ending = Some(Ending { abort_at: Some(at), end, done: vec![done] });
                if !limit.is_zero() {
                    self.core.close_all(None, CloseReason::Shutdown, now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::current_timer_slack;

    use super::*;

    #[test]
    fn a_wait_ends_when_it_is_over() {
        let slack = std::thread::spawn(|| {
            wake_on_time();
            current_timer_slack()
        });
        assert_eq!(slack.join().expect("no panic"), Ok(1));
        assert_ne!(current_timer_slack(), Ok(1), "of that thread alone");
    }

    #[test]
    fn a_thread_that_panics_before_its_answer_is_an_error_of_build() {
        // The story: `Engine::new` waited for ever for a thread that was gone.
        let (answer, answered) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let launched = launch("agentpipe-x".into(), |_started| panic!("on purpose"));
            answer.send(launched.expect("a thread").1)
        });
        let start = answered.recv_timeout(Duration::from_secs(60)).expect("it returns");
        let error = start.expect_err("it never answered");
        assert_eq!((error.kind(), error.operation()), (ErrorKind::EngineStopped, "start"));
    }
}
