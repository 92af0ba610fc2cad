//! An engine thread: one ring, or one epoll, and its agents. It sleeps in one call while nothing happens.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::set_current_timer_slack;

use crate::backend::{self, Choice, Found};
use crate::contain::contain;
use crate::error::{Error, ErrorKind, Result};
use crate::exit::Departure;
use crate::origin::Origin;
use crate::process::SpawnPoolGuard;
use crate::stats::PublishedStats;
use crate::sync::SetOnce;

use crate::ring::{RingConfig, block_sigpipe};
use crate::transport::{DrainBudget, Driver, LiveAgents, ShutdownCounts};

use super::busy_poll::{BusyPoll, BusyPoller};
use super::mailbox::{Command, CommandQueue, Mailbox, Reply, mailbox};

/// How many commands are taken before the pipes have their turn: handles that send without a pause
/// must not delay the agents and deadlines of others.
const COMMANDS_PER_TURN: usize = 256;

/// How each thread of an engine works.
#[derive(Clone, Debug)]
pub(super) struct ThreadSettings {
    pub(super) backend: Choice,
    pub(super) ring: RingConfig,
    pub(super) busy_poll: BusyPoll,
    /// Shared by all threads of the engine.
    pub(super) drain: Arc<DrainBudget>,
}

/// A running engine thread, as its engine holds it.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) mailbox: Mailbox,
    /// Its counters, published once a turn.
    pub(super) published: Arc<PublishedStats>,
    /// Its agents, those on their way included.
    pub(super) live: LiveAgents,
    handle: Mutex<Option<JoinHandle<()>>>,
    origin: Origin,
}

/// The report of a new thread: its backend, and the statistics that it publishes.
type Start = Result<(Found, Arc<PublishedStats>)>;

/// The report of a thread that starts. Dropped without one, as by a panic, it reports an error:
/// `build` waits for it.
struct StartReport(Arc<SetOnce<Start>>);

impl StartReport {
    fn send(self, start: Start) {
        self.0.set(start);
    }
}

impl Drop for StartReport {
    fn drop(&mut self) {
        self.0.set(Err(never_started()));
    }
}

fn never_started() -> Error {
    Error::new(ErrorKind::EngineStopped, "start", "an engine thread ended before it had started")
        .remedy("its panic is on stderr, unless a panic hook took it")
}

impl Thread {
    /// Starts a thread and waits until its backend is open, so that a refusal is an error of `build`.
    /// Returns it with what it has found. The spawning threads end after the last engine thread.
    pub(super) fn start(
        index: usize,
        settings: ThreadSettings,
        spawning: Arc<SpawnPoolGuard>,
    ) -> Result<(Self, Found)> {
        let (mailbox, queue) =
            mailbox().map_err(|error| failed("cannot create an eventfd", error))?;
        let run = move |started| run(queue, settings, started, spawning);
        let (handle, start) = launch(format!("agentpipe-{index}"), run)?;
        let handle = Mutex::new(Some(handle));
        let origin = Origin::here();
        // After an error these are never read: the thread is only joined.
        let (found, published) = start.clone().unwrap_or_default();
        let live = LiveAgents::default();
        let thread = Self { mailbox, published, live, handle, origin };
        // Without the join its ring could still be there when the error is returned.
        start.inspect_err(|_| thread.join())?;
        Ok((thread, found))
    }

    /// Closes its agents within `limit`, aborts those that are left, and ends it. The value is set
    /// once its ring is closed.
    pub(super) fn shutdown(&self, limit: Duration) -> Arc<SetOnce<ShutdownCounts>> {
        self.end(limit, None)
    }

    fn end(&self, limit: Duration, departure: Option<Departure>) -> Arc<SetOnce<ShutdownCounts>> {
        let done = Arc::new(SetOnce::new());
        // This comes first, so that no child follows the shutdown into the queue.
        self.mailbox.refuse_agents();
        let reply = Reply(Arc::clone(&done));
        self.mailbox.send(Command::Shutdown { limit, done: reply, departure });
        done
    }

    /// Waits for the thread to end, after a [`shutdown`](Self::shutdown). Returns at once on the
    /// thread itself: a waker that it calls may shut the engine down.
    pub(super) fn join(&self) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(handle) = handle else { return };
        if handle.thread().id() != std::thread::current().id() {
            // A panic of the thread was logged where it happened.
            let _ended = handle.join();
        }
    }
}

/// Aborts what is left, without waiting: the last handle may be dropped in an async task.
impl Drop for Thread {
    fn drop(&mut self) {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if self.origin.is_here() {
            // A thread that was joined is gone. For one that runs on, `exit` waits: its handle is
            // dropped without a join.
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

/// Starts a thread and waits for its report, or its end.
fn launch(
    name: String,
    run: impl FnOnce(StartReport) + Send + 'static,
) -> Result<(JoinHandle<()>, Start)> {
    let answer = Arc::new(SetOnce::new());
    let report = StartReport(Arc::clone(&answer));
    let handle = std::thread::Builder::new()
        .name(name)
        .spawn(move || run(report))
        .map_err(|error| failed("cannot start an engine thread", error))?;
    // The wait ends in any case: a thread that panics drops its report, which sets an error.
    let start = pollster::block_on(answer.wait()).unwrap_or_else(|| Err(never_started()));
    Ok((handle, start))
}

/// Lets the waits of this thread end on time: by default the kernel may end each of them 50 us late,
/// and a close waits for 100 us.
///
/// A child process would inherit the setting, so this thread spawns none: agents are spawned by the
/// spawning threads.
fn reduce_timer_slack() {
    if let Err(error) = set_current_timer_slack(NonZeroU64::new(1)) {
        crate::trace::debug!(%error, "the timer slack of an engine thread could not be set");
    }
}

fn run(
    queue: CommandQueue,
    settings: ThreadSettings,
    report: StartReport,
    spawning: Arc<SpawnPoolGuard>,
) {
    // Before Linux 6.18 a write to a pipe without a reader raises SIGPIPE in the thread that
    // submits it.
    if let Err(error) = block_sigpipe() {
        crate::trace::warn!(%error, "SIGPIPE could not be blocked on an engine thread");
    }
    reduce_timer_slack();
    // The ring is made on this thread: a SINGLE_ISSUER ring refuses all others.
    let ThreadSettings { backend, ring, busy_poll, drain } = settings;
    let opened = backend::open(backend, &ring).and_then(|(io, found)| {
        // The ring gets a copy, because it closes its descriptor when it is drained, and senders
        // may still write to the original.
        let eventfd = queue.eventfd().map_err(|error| {
            Error::new(ErrorKind::ResourceLimit, "start", "cannot copy the eventfd").cause(error)
        })?;
        let mut driver = Driver::new(io, drain);
        driver.listen(eventfd);
        Ok((driver, found))
    });
    let (driver, found) = match opened {
        Ok(opened) => opened,
        Err(error) => return report.send(Err(error)),
    };
    report.send(Ok((found, driver.published_stats())));
    let mut replies = ShutdownReplies::default();
    let mut turns = EngineLoop { driver, queue, busy_poll, replies: &mut replies };
    // A panic that was not contained where it happened ends the loop. The agents are closed below
    // all the same.
    contain("an engine thread", || turns.run());
    // The counts are read now: the driver is dropped with `turns`, before the replies are sent.
    turns.replies.counts = turns.driver.shutdown_counts();
    // After an error or a panic no shutdown has done this. Spawns choose another thread from here
    // on.
    turns.queue.refuse_agents();
    // However the loop ended, in this order: the agents that are left are killed and reported, the
    // ring is closed, the spawning threads may end, and the calls that wait for a shutdown are
    // answered.
    contain("the end of an engine thread", || drop(turns));
    drop(spawning);
    drop(replies);
}

/// The calls that wait for a shutdown. Dropped, it answers them.
#[derive(Default)]
struct ShutdownReplies {
    counts: ShutdownCounts,
    waiting: Vec<(Reply<ShutdownCounts>, Option<Departure>)>,
}

impl Drop for ShutdownReplies {
    fn drop(&mut self) {
        for (reply, _) in &self.waiting {
            reply.0.set(self.counts);
        }
    }
}

struct EngineLoop<'a> {
    driver: Driver,
    queue: CommandQueue,
    busy_poll: BusyPoll,
    replies: &'a mut ShutdownReplies,
}

impl EngineLoop<'_> {
    /// Takes turns until the engine is shut down.
    fn run(&mut self) {
        let mut now = Instant::now();
        let mut poller = BusyPoller::new(self.busy_poll, now);
        let mut happened = 0;
        loop {
            for _ in 0..COMMANDS_PER_TURN {
                let Some(command) = self.queue.next() else { break };
                self.execute(command, now);
                happened += 1;
            }
            self.driver.end_turn(now);
            if self.driver.is_shut_down() {
                break;
            }
            if std::mem::take(&mut happened) > 0 {
                poller.note(now);
            }
            let timeout = if poller.polls(now) {
                // A sender that finds the thread awake writes no eventfd, and this turn costs no call.
                std::hint::spin_loop();
                Some(Duration::ZERO)
            } else {
                match self.queue.fall_asleep() {
                    // There may be more commands: this turn only collects, and does not sleep.
                    Some(command) => {
                        self.execute(command, now);
                        happened += 1;
                        Some(Duration::ZERO)
                    }
                    None => self.driver.until_deadline(now),
                }
            };
            if let Err(error) = self.driver.wait(timeout) {
                // The ring cannot be used any more. Dropping the driver kills and reports the agents.
                crate::trace::error!(%error, "the wait for the kernel failed; the engine thread ends");
                return;
            }
            // From here on senders need not write the eventfd: the queue is read before the next
            // sleep.
            self.queue.wake_up();
            // The clock is read once per turn. The ring, the agents and the plans get this value.
            now = Instant::now();
            let came = self.driver.dispatch(now);
            happened += match self.busy_poll {
                BusyPoll::Always(_) => came.all,
                BusyPoll::WhileBrisk => came.brisk,
            };
            if self.driver.take_woken() {
                // It is emptied before it is watched again, or the new poll completes at once. A
                // write in between is not lost: it leaves the eventfd readable, and the poll
                // reports that.
                self.queue.clear_eventfd();
                self.driver.rewatch();
            }
        }
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.driver.published_stats().read().trace(&name);
        // Operations outlive the descriptor of the ring by milliseconds, and may still write to its
        // buffers. So nothing may be left in the kernel when the ring is dropped.
        self.driver.drain();
    }

    fn execute(&mut self, command: Command, now: Instant) {
        match command {
            // None follows a shutdown: see `Mailbox::adopt`.
            Command::Adopt(adoption) => self.driver.adopt(adoption, now),
            Command::Agent(channel, request) => self.driver.request(&channel, request, now),
            Command::Shutdown { limit, done, departure } => {
                self.driver.shutdown(limit, now);
                // `run` answers it once the ring is closed: a caller that returns finds nothing
                // left.
                self.replies.waiting.push((done, departure));
            }
            Command::Counters(reply) => {
                reply.0.set(self.driver.counters());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::thread::current_timer_slack;

    use super::*;

    #[test]
    fn timer_slack_is_reduced_on_the_engine_thread_only() {
        let slack = std::thread::spawn(|| {
            reduce_timer_slack();
            current_timer_slack()
        });
        assert_eq!(slack.join().expect("no panic"), Ok(1));
        assert_ne!(current_timer_slack(), Ok(1), "the caller keeps its own");
    }

    #[test]
    fn panic_before_the_start_report_is_an_error_of_build() {
        // `Engine::new` would wait forever for a thread that is gone.
        let (answer, answered) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let launched = launch("agentpipe-x".into(), |_report| panic!("on purpose"));
            answer.send(launched.expect("a thread").1)
        });
        let start = answered.recv_timeout(Duration::from_secs(60)).expect("it returns");
        let error = start.expect_err("the thread never started");
        assert_eq!((error.kind(), error.operation()), (ErrorKind::EngineStopped, "start"));
    }
}
