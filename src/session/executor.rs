//! The session thread: one thread of the process that keeps the deadlines of all sessions, and runs
//! their readers unless [`Settings::executor`](super::Settings::executor) names another place. No code
//! of the user runs on it but wakers: handlers have threads of their own.
//!
//! The thread starts with the first session and ends with the last. It sleeps until a task is ready
//! or a deadline is due. Its clock leaves out the time in which the process did not run.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use async_task::Runnable;

use crate::contain::contain;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::sync::wake;

use super::config::Task;
use super::handler_threads::{HandlerLabel, HandlerThreads};

/// The shortest nap of the thread while a deadline is set.
const NAP_MIN: Duration = Duration::from_millis(20);
/// A wake-up that is late by up to this much counts as punctual.
const LATE: Duration = Duration::from_millis(5);

// Weak, so that the thread ends with the last session. A forked child has another number than its
// parent and takes another lock: a thread that it does not have may hold the lock of the parent.
static CURRENT: [Mutex<Weak<Executor>>; 8] = [const { Mutex::new(Weak::new()) }; 8];

/// A share in the session thread. The thread ends when the last share is dropped.
#[derive(Debug)]
pub(super) struct Executor(Arc<ExecutorShared>);

#[derive(Debug)]
struct ExecutorShared {
    queue: Mutex<RunQueue>,
    thread: OnceLock<Thread>,
    origin: Origin,
    clock: StallClock,
    handlers: Arc<HandlerThreads>,
}

#[derive(Debug, Default)]
struct RunQueue {
    ready: VecDeque<Runnable>,
    timers: BTreeMap<(Instant, u64), Waker>,
    next_timer: u64,
    stop: bool,
    /// The thread sleeps, or is about to.
    asleep: bool,
    /// When the thread was first unparked since it fell asleep.
    unparked_at: Option<Instant>,
}

impl Executor {
    /// Returns a share in the thread, which is started if there is none.
    pub(super) fn get() -> Result<Arc<Self>> {
        // The lock is held until the new thread is stored, so sessions that begin at the same time
        // share one. If the last share is being dropped, it cannot be upgraded: a new thread starts
        // while the old one ends.
        let mut current = lock(&CURRENT[Origin::here().number() as usize % CURRENT.len()]);
        // In a forked child the thread of the parent does not run: it needs its own.
        if let Some(executor) = current.upgrade().filter(|executor| executor.0.origin.is_here()) {
            return Ok(executor);
        }
        let shared = Arc::new(ExecutorShared {
            queue: Mutex::default(),
            thread: OnceLock::new(),
            origin: Origin::here(),
            clock: StallClock::default(),
            handlers: Arc::default(),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("agentpipe-session".into())
            .spawn(move || own.run())
            .map_err(|error| {
                Error::new(ErrorKind::ResourceLimit, "session", "the session thread did not start")
                    .cause(error)
            })?;
        // The thread sets the same handle. The first of the two counts.
        let _first = shared.thread.set(thread.thread().clone());
        let executor = Arc::new(Self(shared));
        *current = Arc::downgrade(&executor);
        Ok(executor)
    }

    /// Returns the time by which all deadlines of sessions count.
    pub(super) fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// Runs a task on the thread.
    pub(super) fn spawn(&self, task: Task) {
        let shared = Arc::clone(&self.0);
        let schedule = move |runnable| {
            let mut queue = lock(&shared.queue);
            queue.ready.push_back(runnable);
            shared.unpark(queue);
        };
        let (runnable, task) = async_task::spawn(task, schedule);
        // A dropped handle would cancel the task.
        task.detach();
        runnable.schedule();
    }
}

impl Executor {
    /// Runs the task of a handler on a handler thread.
    pub(super) fn spawn_handler(&self, task: Task) {
        self.0.handlers.spawn(task);
    }

    /// Notes that a handler is polled until the returned guard is dropped. If that takes long, a
    /// warning names the handler.
    pub(super) fn watch(&self, label: Arc<HandlerLabel>) -> WatchedPoll<'_> {
        let (key, check_at) = self.0.handlers.begin(label, self.now());
        if let Some(at) = check_at {
            let check = Waker::from(Arc::new(HandlerCheck(Arc::downgrade(&self.0))));
            self.0.set_timer(None, Some((at, check)));
        }
        WatchedPoll { handlers: &self.0.handlers, key }
    }
}

/// The poll of a handler that is under way.
pub(super) struct WatchedPoll<'a> {
    handlers: &'a HandlerThreads,
    key: u64,
}

impl Drop for WatchedPoll<'_> {
    fn drop(&mut self) {
        self.handlers.end(self.key);
    }
}

/// Woken when the handlers that are polled have to be looked at.
struct HandlerCheck(Weak<ExecutorShared>);

impl Wake for HandlerCheck {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.0.upgrade()
            && let Some(at) = shared.handlers.check(shared.clock.now())
        {
            shared.set_timer(None, Some((at, Waker::from(self))));
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // In a forked child there is no thread to stop, and the lock may be held for good.
        if self.0.origin.is_here() {
            self.0.handlers.stop();
            let mut queue = lock(&self.0.queue);
            queue.stop = true;
            self.0.unpark(queue);
        }
    }
}

impl ExecutorShared {
    fn unpark(&self, mut queue: MutexGuard<'_, RunQueue>) {
        if queue.asleep {
            queue.unparked_at.get_or_insert_with(Instant::now);
        }
        drop(queue);
        // If the handle is not set yet, the thread has not looked at its queue yet, and it does so
        // before it sleeps.
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Replaces a timer by another. Returns the key of the new one and the waker of the old one.
    fn set_timer(
        &self,
        old: Option<(Instant, u64)>,
        new: Option<(Instant, Waker)>,
    ) -> (Option<(Instant, u64)>, Option<Waker>) {
        let mut queue = lock(&self.queue);
        let old = old.and_then(|old| queue.timers.remove(&old));
        let key = new.map(|(at, waker)| {
            queue.next_timer += 1;
            let key = (at, queue.next_timer);
            queue.timers.insert(key, waker);
            key
        });
        // Behind an earlier timer, the thread wakes up in time without an unpark.
        if key.is_some() && queue.timers.first_key_value().map(|(first, _)| *first) == key {
            self.unpark(queue);
        }
        (key, old)
    }

    fn run(&self) {
        let _first = self.thread.set(std::thread::current());
        let mut batch = VecDeque::new();
        loop {
            // Taken before the look at the queue: the nap ends this much later, so a stop of the
            // process between the look and the sleep counts as a delay, too.
            let began = Instant::now();
            let (due, left, stop) = self.take_work(&mut batch);
            if batch.is_empty() && due.is_empty() {
                // Tasks that are ready run first, even if the last session is gone.
                if stop {
                    return;
                }
                self.sleep_until_work(began, left);
                continue;
            }
            for waker in due {
                wake(Some(waker));
            }
            // A task that panics is dropped, and its guards report that.
            for runnable in batch.drain(..) {
                // A task that is scheduled meanwhile runs in the next round, after the timers. So a
                // task that wakes itself delays no deadline.
                contain("a task of a session", || {
                    let _scheduled_again = runnable.run();
                });
            }
        }
    }

    /// Returns the wakers of the timers that are due, the time to the next timer, and whether to
    /// stop. Moves the ready tasks to `batch`. If there is no work, the thread counts as asleep.
    fn take_work(&self, batch: &mut VecDeque<Runnable>) -> (Vec<Waker>, Option<Duration>, bool) {
        let mut queue = lock(&self.queue);
        // `batch` is empty, so its allocation becomes the next queue.
        std::mem::swap(&mut queue.ready, batch);
        let now = self.clock.now();
        let mut due = Vec::new();
        while let Some(first) = queue.timers.first_entry()
            && first.key().0 <= now
        {
            due.push(first.remove());
        }
        let next = queue.timers.first_key_value();
        let left = next.map(|((at, _), _)| at.saturating_duration_since(now));
        // Decided under the lock: an unpark that comes after this look is a wake-up whose delay counts.
        queue.asleep = batch.is_empty() && due.is_empty() && !queue.stop;
        (due, left, queue.stop)
    }

    /// Sleeps until the thread is unparked or the nap ends, and tells the clock how late it woke up.
    /// `looked` is when the queue was found empty.
    fn sleep_until_work(&self, looked: Instant, left: Option<Duration>) {
        let nap = left.map(StallClock::nap);
        // An unpark that came since the look at the queue makes the park return at once.
        match nap {
            Some(nap) => std::thread::park_timeout(nap),
            None => std::thread::park(),
        }
        let woken = Instant::now();
        let unparked_at = {
            let mut queue = lock(&self.queue);
            queue.asleep = false;
            queue.unparked_at.take()
        };
        let nap_ends = nap.and_then(|nap| looked.checked_add(nap));
        // The thread was due at the earlier of the two. An early return, which a park may have, is
        // not late and counts nothing.
        if let Some(wanted) = [unparked_at, nap_ends].into_iter().flatten().min() {
            self.clock.note_wakeup(wanted, woken);
        }
    }
}

/// Returns the outcome of a future, or `None` if the deadline comes first. The future is then
/// dropped.
pub(super) async fn with_deadline<T>(
    executor: &Arc<Executor>,
    deadline: Instant,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut alarm: Option<SessionAlarm> = None;
    let mut future = pin!(future);
    poll_fn(|context| {
        // The future comes first: an outcome that is there counts even if the deadline has passed.
        if let Poll::Ready(outcome) = future.as_mut().poll(context) {
            return Poll::Ready(Some(outcome));
        }
        if executor.now() >= deadline {
            return Poll::Ready(None);
        }
        // The task may come with another waker at each poll, and the alarm has to wake the last
        // one.
        if !alarm.as_ref().is_some_and(|alarm| alarm.waker.will_wake(context.waker())) {
            let new = SessionAlarm::new(Arc::clone(executor), context.waker().clone());
            alarm.insert(new).set(Some(deadline));
        }
        Poll::Pending
    })
    .await
}

/// A timer of the session thread. It has one time at most, and one waker.
#[derive(Debug)]
pub(super) struct SessionAlarm {
    executor: Arc<Executor>,
    set: Option<(Instant, u64)>,
    waker: Waker,
}

impl SessionAlarm {
    pub(super) fn new(executor: Arc<Executor>, waker: Waker) -> Self {
        Self { executor, set: None, waker }
    }

    /// Sets the time, in place of the one before.
    pub(super) fn set(&mut self, at: Option<Instant>) {
        if !self.executor.0.origin.is_here() {
            return;
        }
        // Cloning and dropping a waker runs code of the user, so neither happens under the lock.
        let new = at.map(|at| (at, self.waker.clone()));
        let (key, old) = self.executor.0.set_timer(self.set.take(), new);
        self.set = key;
        drop(old);
    }
}

impl Drop for SessionAlarm {
    fn drop(&mut self) {
        self.set(None);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds these locks panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock of the deadlines. It leaves out the time in which this process did not run.
///
/// A stopped, suspended or starved process cannot read a response that is there, and that time must
/// not count against the agent. The session thread naps in short pieces and sees after each how
/// late it was woken up. All deadlines move by that much.
#[derive(Debug, Default)]
struct StallClock {
    /// Nanoseconds in which the process did not run although the thread was due.
    missed: AtomicU64,
}

impl StallClock {
    /// Returns the current time, less the time that was missed.
    fn now(&self) -> Instant {
        let now = Instant::now();
        // Relaxed: the number stands alone, and no other memory is read on the strength of it.
        let missed = Duration::from_nanos(self.missed.load(Ordering::Relaxed));
        now.checked_sub(missed).unwrap_or(now)
    }

    /// Returns how long to sleep towards a deadline: at most a quarter of the way.
    ///
    /// A stop within a nap shows only in the part beyond its end. With a quarter, three quarters of
    /// each deadline are left even if the stop began together with the nap.
    fn nap(left: Duration) -> Duration {
        left.min(NAP_MIN.max(left / 4))
    }

    /// Counts the delay of a wake-up: the thread was due at `wanted` and ran at `woken`.
    fn note_wakeup(&self, wanted: Instant, woken: Instant) {
        let late = woken.saturating_duration_since(wanted);
        if late > LATE {
            let nanos = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
            self.missed.fetch_add(nanos, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn late_wakeup_moves_the_clock() {
        // Otherwise every request of a host that was suspended would time out as it resumes.
        let clock = StallClock::default();
        let before = clock.now();
        clock.note_wakeup(before, before + LATE);
        clock.note_wakeup(before + 20 * MS, before + 3 * MS);
        assert!(clock.now() >= before, "an early or punctual wake-up counts nothing");
        clock.note_wakeup(before, before + 3_600_000 * MS);
        assert!(clock.now() + 3_600_000 * MS >= before, "the delay counts once");
        assert!(clock.now() < before, "an hour was missed");
    }

    #[test]
    fn nap_is_at_most_a_quarter_of_the_deadline() {
        assert_eq!(StallClock::nap(60_000 * MS), 15_000 * MS);
        assert_eq!(StallClock::nap(60 * MS), 20 * MS);
        assert_eq!(StallClock::nap(7 * MS), 7 * MS);
        assert_eq!(StallClock::nap(Duration::ZERO), Duration::ZERO);
        let (mut left, mut naps) = (Duration::from_secs(3600), 0);
        while !left.is_zero() {
            left -= StallClock::nap(left);
            naps += 1;
        }
        assert!(naps < 60, "an hour costs {naps} wake-ups");
    }
}
