//! Floor 4. The thread that all sessions of the process share: it keeps their deadlines, and runs
//! their tasks where no other place was asked for.
//!
//! It starts with the first session and ends with the last. It sleeps until a task is ready or a
//! deadline is due, and on the way to a deadline it looks how late it was woken (`clock.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use async_task::Runnable;

use crate::contain::contain;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::sync::wake;

use super::clock::Clock;
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
    clock: Clock,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Runnable>,
    timers: BTreeMap<(Instant, u64), Waker>,
    next: u64,
    stop: bool,
    /// The thread sleeps, or is about to.
    asleep: bool,
    /// When it was first rung for since then.
    rung: Option<Instant>,
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
        let shared = Shared {
            state: Mutex::default(),
            thread: OnceLock::new(),
            origin: Origin::here(),
            clock: Clock::default(),
        };
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

    /// The time of all deadlines here.
    pub(super) fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// Runs a task on this thread.
    pub(super) fn spawn(&self, task: Task) {
        let shared = Arc::clone(&self.0);
        let schedule = move |runnable| {
            let mut state = lock(&shared.state);
            state.ready.push_back(runnable);
            shared.ring(state);
        };
        let (runnable, task) = async_task::spawn(task, schedule);
        task.detach();
        runnable.schedule();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.0.origin.is_here() {
            let mut state = lock(&self.0.state);
            state.stop = true;
            self.0.ring(state);
        }
    }
}

impl Shared {
    fn ring(&self, mut state: MutexGuard<'_, State>) {
        if state.asleep {
            state.rung.get_or_insert_with(Instant::now);
        }
        drop(state);
        // Not set yet: the thread has not looked, and will before it sleeps.
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn run(&self) {
        let _first = self.thread.set(std::thread::current());
        let mut batch = VecDeque::new();
        loop {
            let began = Instant::now();
            let (due, left, stop) = self.look(&mut batch);
            if batch.is_empty() && due.is_empty() {
                if stop {
                    return;
                }
                self.rest_until(began, left);
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

    /// Until there is something to do, or it is time to look how late it is. `looked`: when it was seen
    /// that there is nothing.
    fn rest_until(&self, looked: Instant, left: Option<Duration>) {
        lock(&self.state).asleep = true;
        let nap = left.map(Clock::nap);
        match nap {
            Some(nap) => std::thread::park_timeout(nap),
            None => std::thread::park(),
        }
        let woken = Instant::now();
        let rung = {
            let mut state = lock(&self.state);
            state.asleep = false;
            state.rung.take()
        };
        let ends = nap.and_then(|nap| looked.checked_add(nap));
        if let Some(wanted) = [rung, ends].into_iter().flatten().min() {
            self.clock.woken(wanted, woken);
        }
    }

    /// What is ready and due now, and how long it is to the next timer.
    fn look(&self, batch: &mut VecDeque<Runnable>) -> (Vec<Waker>, Option<Duration>, bool) {
        let mut state = lock(&self.state);
        std::mem::swap(&mut state.ready, batch);
        let now = self.clock.now();
        let mut due = Vec::new();
        while let Some(first) = state.timers.first_entry()
            && first.key().0 <= now
        {
            due.push(first.remove());
        }
        let next = state.timers.first_key_value();
        let left = next.map(|((at, _), _)| at.saturating_duration_since(now));
        (due, left, state.stop)
    }
}

/// The outcome of a future, unless the deadline comes first; then the future is dropped.
pub(super) async fn within<T>(
    host: &Arc<Host>,
    deadline: Instant,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut alarm: Option<Alarm> = None;
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(outcome) = future.as_mut().poll(context) {
            return Poll::Ready(Some(outcome));
        }
        if host.now() >= deadline {
            return Poll::Ready(None);
        }
        if !alarm.as_ref().is_some_and(|alarm| alarm.wakes(context.waker())) {
            let alarm = alarm.insert(Alarm::new(Arc::clone(host), context.waker().clone()));
            alarm.set(Some(deadline));
        }
        Poll::Pending
    })
    .await
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
    fn wakes(&self, waker: &Waker) -> bool {
        self.waker.will_wake(waker)
    }

    /// Goes off at this moment and no other.
    pub(super) fn set(&mut self, at: Option<Instant>) {
        if !self.host.0.origin.is_here() {
            return;
        }
        // To clone or to drop a waker is the user's code: it does not run under the lock.
        let new = at.map(|at| (at, self.waker.clone()));
        let mut state = lock(&self.host.0.state);
        let old = self.set.take().and_then(|old| state.timers.remove(&old));
        let first = new.is_some_and(|(at, waker)| {
            state.next += 1;
            let key = (at, state.next);
            state.timers.insert(key, waker);
            self.set = Some(key);
            state.timers.first_key_value().is_some_and(|(first, _)| *first == key)
        });
        if first {
            self.host.0.ring(state);
        } else {
            drop(state);
        }
        drop(old);
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.set(None);
    }
}
