//! Deadlines of requests. A response that was in the agent's pipe in time is read before its deadline
//! counts as missed.
//!
//! This runs on the session thread, so that a deadline holds even if the runtime of the session does
//! not run its tasks: what the reader has left is then read here.

use std::future::{pending, poll_fn};
use std::sync::{Arc, TryLockError, Weak};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::error::ErrorKind;
use crate::transport::CaughtUp;

use super::executor::with_deadline;
use super::inbox::InboxItem;
use super::reader::RoutedTurn;
use super::state::SessionState;

/// How long the engine and the reader may take to deliver what is already there.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// How long to wait before a retry, while another thread holds the reading half.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// Returns the waker for the alarms of a session. It does not keep the session alive.
pub(super) fn deadline_waker(state: &Weak<SessionState>) -> Waker {
    Waker::from(Arc::new(DeadlineWaker(Weak::clone(state))))
}

struct DeadlineWaker(Weak<SessionState>);

impl Wake for DeadlineWaker {
    fn wake(self: Arc<Self>) {
        if let Some(state) = self.0.upgrade() {
            on_alarm(&state);
        }
    }
}

/// Spawns the task that looks after the deadlines, unless it runs already.
fn on_alarm(state: &Arc<SessionState>) {
    // One task at a time. The one that runs looks again as it ends.
    if std::mem::replace(&mut state.lock().expiring, true) {
        return;
    }
    // On the session thread, whatever `Settings::executor` says: that runtime may be blocked.
    let task = DeadlineTask(Arc::clone(state));
    state.executor.spawn(Box::pin(async move { task.run().await }));
}

fn is_due(state: &SessionState, now: Instant) -> bool {
    let observed = state.observer.as_ref().and_then(|observer| observer.deadline());
    let first = state.lock().router.next_deadline();
    [first, observed].into_iter().flatten().any(|at| at <= now)
}

/// Looks after the deadlines that are due. However the task ends, the alarm is set for the next one.
struct DeadlineTask(Arc<SessionState>);

impl DeadlineTask {
    async fn run(&self) {
        let Self(state) = self;
        // Requests that fall due while the pipe is read are left to the next task: their responses
        // may be in the pipe behind the part that this task has read.
        let due_at = state.executor.now();
        if is_due(state, due_at) {
            // The limit keeps an agent that writes without end from delaying its deadlines.
            let stderr_tail = self.catch_up(due_at + CATCH_UP_MAX).await;
            self.expire_requests(due_at, &stderr_tail);
        }
        let limit = state.executor.now() + CATCH_UP_MAX;
        while !self.tell_observer(due_at, state.executor.now() >= limit) {
            self.pause(limit).await;
        }
    }

    /// Tells the observer of its deadline. Returns false while the reader task is routing: what it routes
    /// must not come between the end of a turn and the entry that tells of it. `at_once` does not wait.
    fn tell_observer(&self, due_at: Instant, at_once: bool) -> bool {
        let Self(state) = self;
        let Some(observer) = &state.observer else { return true };
        let reading = state.reading.try_lock();
        if matches!(reading, Err(TryLockError::WouldBlock)) && !at_once {
            return false;
        }
        if observer.on_deadline(due_at) {
            state.on_data(InboxItem::NoResult);
        }
        true
    }

    async fn pause(&self, limit: Instant) {
        let Self(state) = self;
        let retry_at = state.executor.now() + RETRY_AFTER;
        let _late = with_deadline(&state.executor, retry_at.min(limit), pending::<()>()).await;
    }

    /// Routes everything that the agent has sent before the deadline was handled. Returns the end of its
    /// stderr.
    async fn catch_up(&self, limit: Instant) -> String {
        let Self(state) = self;
        loop {
            let answer = state.writer.catch_up();
            let caught_up = with_deadline(&state.executor, limit, answer.wait()).await.flatten();
            let progress = self.route_all(limit).await;
            // The engine may hold records back until its reader has caught up. They come with the
            // next round.
            match caught_up {
                Some(CaughtUp { all: false, .. }) if progress => {}
                caught_up => return caught_up.map(|it| it.stderr_tail).unwrap_or_default(),
            }
        }
    }

    /// Routes all events that are there. Returns whether there was any.
    async fn route_all(&self, limit: Instant) -> bool {
        let Self(state) = self;
        let mut progress = false;
        while state.executor.now() < limit {
            // The lock is not waited for, because this thread serves all sessions.
            let routed = match state.reading.try_lock() {
                Ok(mut reading) => Some(state.route(&mut reading)),
                // A waker of the user panicked under the lock. The reading half is whole.
                Err(TryLockError::Poisoned(lock)) => Some(state.route(&mut lock.into_inner())),
                Err(TryLockError::WouldBlock) => None,
            };
            match routed {
                // The reader task is routing. It releases the lock after one turn.
                None => self.pause(limit).await,
                Some(RoutedTurn::More) => {
                    progress = true;
                    yield_now().await;
                }
                Some(RoutedTurn::All { some }) => return progress | some,
                Some(RoutedTurn::Stalled | RoutedTurn::AtEnd | RoutedTurn::Released) => {
                    // A further round could not read more: the session does not read, or the output
                    // has ended.
                    return false;
                }
            }
        }
        progress
    }

    /// Fails the requests that were due at `due_at`.
    fn expire_requests(&self, due_at: Instant, stderr_tail: &str) {
        let Self(state) = self;
        let due: Vec<_> = {
            // The slots are set below, without the lock: that wakes the tasks of the callers.
            let tables = &mut *state.lock();
            let due = std::iter::from_fn(|| tables.router.take_expired(due_at));
            let due: Vec<_> = due.map(|(id, it)| (id, it, tables.remarks.about(id))).collect();
            tables.stats.timeouts += due.len() as u64;
            due
        };
        let stats = state.writer.stats();
        for (id, pending, (meanwhile, mut remedy)) in due {
            let mut what = format!("`{}` was not answered in time", pending.method);
            if !pending.sent {
                what += "; the agent has not taken it from its input";
            }
            match &pending.renewal {
                Some(renewal) if renewal.latest <= due_at => {
                    what += &format!(
                        "; after {} reports of progress its maximum was reached",
                        renewal.reports
                    );
                }
                Some(renewal) => what += &format!("; {} reports of progress came", renewal.reports),
                None => {}
            }
            what += &meanwhile;
            if let Some(seen) = stats.framing_mismatch {
                what += &format!("; the output of the agent looks like {seen} framing");
                remedy.get_or_insert("set AgentCommand::framing to that framing");
            } else if stats.unfinished_bytes > 0 {
                what +=
                    &format!("; {} bytes of a record came without its end", stats.unfinished_bytes);
            }
            let error = state.error(ErrorKind::Timeout, what);
            let error = error.remedy(remedy.unwrap_or("raise the timeout")).stderr(stderr_tail);
            // The cancellation is queued before the caller hears of the timeout, so it comes before
            // anything that the caller sends next.
            state.send_cancellation(id, &pending);
            pending.slot.set(Err(error));
        }
    }
}

impl Drop for DeadlineTask {
    fn drop(&mut self) {
        let Self(state) = self;
        // Cleared before the deadlines are looked at, so an alarm that goes off after that look
        // spawns a task.
        state.lock().expiring = false;
        state.arm();
        // An alarm that went off while this task ran was ignored.
        if is_due(state, state.executor.now()) {
            on_alarm(state);
        }
    }
}

/// Lets the other tasks of the thread run.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
