//! Floor 4. The thread that all sessions of the process share: it keeps their deadlines, and runs
//! their tasks where no other place was asked for.
//!
//! It starts with the first session and ends with the last. It sleeps until a task is ready or a
//! deadline is due; nothing here polls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::thread::Thread;
use std::time::Instant;

use async_task::Runnable;

use crate::contain::contain;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::wakers::wake;

use super::settings::Task;

static CURRENT: Mutex<Weak<Host>> = Mutex::new(Weak::new());

/// A share in the thread. With the last one the thread ends.
#[derive(Debug)]
pub(super) struct Host(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    thread: OnceLock<Thread>,
    origin: Origin,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Runnable>,
    timers: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    stop: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds these locks panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host {
    /// The thread, started if there is none.
    pub(super) fn get() -> Result<Arc<Self>> {
        let mut current = lock(&CURRENT);
        // The thread of the process that this one was forked from does not run here.
        if let Some(host) = current.upgrade().filter(|host| host.0.origin.is_here()) {
            return Ok(host);
        }
        let shared =
            Shared { state: Mutex::default(), thread: OnceLock::new(), origin: Origin::here() };
        let shared = Arc::new(shared);
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("agentpipe-session".into())
            .spawn(move || own.run())
            .map_err(|error| {
                Error::new(ErrorKind::ResourceLimit, "session", "the session thread did not start")
                    .cause(error)
            })?;
        let _first = shared.thread.set(thread.thread().clone());
        let host = Arc::new(Self(shared));
        *current = Arc::downgrade(&host);
        Ok(host)
    }

    /// Runs a task on this thread.
    pub(super) fn spawn(&self, task: Task) {
        let shared = Arc::clone(&self.0);
        let schedule = move |runnable| {
            lock(&shared.state).ready.push_back(runnable);
            shared.ring();
        };
        let (runnable, task) = async_task::spawn(task, schedule);
        task.detach();
        runnable.schedule();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.0.origin.is_here() {
            lock(&self.0.state).stop = true;
            self.0.ring();
        }
    }
}

impl Shared {
    fn ring(&self) {
        // Not set yet: the thread has not looked, and will before it sleeps.
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn run(&self) {
        let _first = self.thread.set(std::thread::current());
        let mut batch = VecDeque::new();
        loop {
            let (due, next, stop) = self.look(&mut batch);
            if batch.is_empty() && due.is_empty() {
                if stop {
                    return;
                }
                match next {
                    Some(at) => {
                        std::thread::park_timeout(at.saturating_duration_since(Instant::now()))
                    }
                    None => std::thread::park(),
                }
                continue;
            }
            for waker in due {
                wake(Some(waker));
            }
            // One that panics is dropped, and its own guards tell who must know.
            for runnable in batch.drain(..) {
                contain("a task of a session", || {
                    let _scheduled_again = runnable.run();
                });
            }
        }
    }

    /// What is ready and due now, and when the next timer is.
    fn look(&self, batch: &mut VecDeque<Runnable>) -> (Vec<Waker>, Option<Instant>, bool) {
        let mut state = lock(&self.state);
        std::mem::swap(&mut state.ready, batch);
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some(first) = state.timers.first_entry()
            && first.key().0 <= now
        {
            due.push(first.remove());
        }
        let next = state.timers.first_key_value().map(|((at, _), _)| *at);
        (due, next, state.stop)
    }
}

/// Wakes one session at one moment at a time, on the session thread.
#[derive(Debug)]
pub(super) struct Alarm {
    host: Arc<Host>,
    set: Option<(Instant, u64)>,
    waker: Waker,
}

impl Alarm {
    pub(super) fn new(host: Arc<Host>, waker: Waker) -> Self {
        Self { host, set: None, waker }
    }

    /// It wakes the same task as this.
    pub(super) fn wakes(&self, waker: &Waker) -> bool {
        self.waker.will_wake(waker)
    }

    /// Goes off at this moment and no other.
    pub(super) fn set(&mut self, at: Option<Instant>) {
        if !self.host.0.origin.is_here() {
            return;
        }
        // To clone or to drop a waker is the user's code: it does not run under the lock.
        let new = at.map(|at| (at, self.waker.clone()));
        let (old, first) = {
            let mut state = lock(&self.host.0.state);
            let old = self.set.take().and_then(|old| state.timers.remove(&old));
            let first = new.is_some_and(|(at, waker)| {
                state.next += 1;
                let key = (at, state.next);
                state.timers.insert(key, waker);
                self.set = Some(key);
                state.timers.first_key_value().is_some_and(|(first, _)| *first == key)
            });
            (old, first)
        };
        drop(old);
        if first {
            self.host.0.ring();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.set(None);
    }
}
