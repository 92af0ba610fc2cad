//! The handler threads: they run handlers, which are code of the user, so that a handler that blocks
//! its thread delays no reader and no deadline.
//!
//! One thread is enough as long as handlers await what they wait for. A handler that blocks for a
//! second is named in a warning, and another thread then takes its place.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_task::Runnable;

use crate::contain::contain;

use super::config::Task;

/// How long a handler may hold its thread.
const BLOCKED_AFTER: Duration = Duration::from_secs(1);
/// Threads at once. If handlers block all of them, further ones wait for the first that ends.
const THREADS_MAX: usize = 16;

/// A handler, for a warning.
#[derive(Debug)]
pub(super) struct HandlerLabel {
    pub(super) agent: String,
    pub(super) method: Box<str>,
}

/// The threads, and the handlers that are being polled, also on runtimes of the user.
#[derive(Debug, Default)]
pub(super) struct HandlerThreads {
    state: Mutex<ThreadsState>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct ThreadsState {
    ready: VecDeque<Runnable>,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    /// Threads that a handler has blocked for longer than it may.
    blocked: usize,
    stop: bool,
    polls: BTreeMap<u64, HandlerPoll>,
    next_poll: u64,
    /// A [`check`](HandlerThreads::check) is due.
    watched: bool,
}

/// A handler that is being polled.
#[derive(Debug)]
struct HandlerPoll {
    label: Arc<HandlerLabel>,
    began: Instant,
    /// It was named in a warning.
    named: bool,
    on_own_thread: bool,
}

std::thread_local! {
    static IS_HANDLER_THREAD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

impl HandlerThreads {
    /// Runs a task on a handler thread.
    pub(super) fn spawn(self: &Arc<Self>, task: Task) {
        let threads = Arc::clone(self);
        let (runnable, task) = async_task::spawn(task, move |runnable| threads.add(runnable));
        // A dropped handle would cancel the task.
        task.detach();
        runnable.schedule();
    }

    fn add(self: &Arc<Self>, runnable: Runnable) {
        let (error, refused) = {
            let mut state = self.lock();
            state.ready.push_back(runnable);
            let error = self.provide(&mut state).err();
            // Without any thread the tasks would never run.
            let none = error.is_some() && state.threads == 0;
            (error, if none { std::mem::take(&mut state.ready) } else { VecDeque::new() })
        };
        // Dropped without the lock: the guard of each task refuses its request.
        drop(refused);
        if let Some(error) = error {
            crate::trace::error!(%error, "no thread for the handlers of sessions");
        }
    }

    /// Wakes or starts a thread for what is queued, unless one will look at the queue.
    fn provide(self: &Arc<Self>, state: &mut ThreadsState) -> std::io::Result<()> {
        if state.idle > 0 {
            self.work.notify_one();
        } else if state.threads == state.blocked && state.threads < THREADS_MAX {
            let threads = Arc::clone(self);
            let name = "agentpipe-handlers".to_owned();
            std::thread::Builder::new().name(name).spawn(move || threads.run())?;
            state.threads += 1;
        }
        Ok(())
    }

    /// Ends the threads once they have no work.
    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.work.notify_all();
    }

    fn run(&self) {
        IS_HANDLER_THREAD.set(true);
        let mut state = self.lock();
        loop {
            if let Some(runnable) = state.ready.pop_front() {
                drop(state);
                // A task that panics is dropped, and its guards report that.
                contain("a task of a session", || {
                    let _scheduled_again = runnable.run();
                });
                state = self.lock();
            } else if state.stop || state.idle > 0 {
                // One idle thread is enough. The others stood in for threads that were blocked.
                state.threads -= 1;
                return;
            } else {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }

    /// Notes that a handler is about to be polled. Returns the key for [`end`](Self::end), and when
    /// the next check is due, unless one is set already.
    pub(super) fn begin(&self, label: Arc<HandlerLabel>, now: Instant) -> (u64, Option<Instant>) {
        let on_own_thread = IS_HANDLER_THREAD.get();
        let mut state = self.lock();
        let key = state.next_poll;
        state.next_poll += 1;
        state.polls.insert(key, HandlerPoll { label, began: now, named: false, on_own_thread });
        let is_first = !std::mem::replace(&mut state.watched, true);
        (key, is_first.then(|| now + BLOCKED_AFTER))
    }

    /// Notes that the poll of a handler is over.
    pub(super) fn end(&self, key: u64) {
        let mut state = self.lock();
        let poll = state.polls.remove(&key);
        state.blocked -= usize::from(poll.is_some_and(|it| it.named && it.on_own_thread));
    }

    /// Names the handlers that block their threads, and replaces these threads. Returns when the next
    /// check is due.
    pub(super) fn check(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let mut named = Vec::new();
        let next = {
            let state = &mut *self.lock();
            for poll in state.polls.values_mut().filter(|poll| !poll.named) {
                if poll.began + BLOCKED_AFTER <= now {
                    poll.named = true;
                    state.blocked += usize::from(poll.on_own_thread);
                    named.push(Arc::clone(&poll.label));
                }
            }
            if !state.ready.is_empty() {
                // If no thread starts, the queue waits for one of those that are blocked.
                let _later = self.provide(state);
            }
            let unnamed = state.polls.values().filter(|poll| !poll.named);
            let next = unnamed.map(|poll| poll.began + BLOCKED_AFTER).min();
            state.watched = next.is_some();
            next
        };
        // Without the lock, because a subscriber is code of the user.
        for label in named {
            crate::trace::warn!(
                agent = label.agent,
                method = &*label.method,
                "a handler blocks its thread; await in it, or move the blocking call to a thread"
            );
        }
        next
    }

    fn lock(&self) -> MutexGuard<'_, ThreadsState> {
        // No code that holds this lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
