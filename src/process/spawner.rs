//! Floor 1. The threads that spawn: path searches and slow execs stall neither the caller's runtime
//! nor the engine, and the threads live as long as the engine does.
//!
//! One takes the jobs, another stands by. An exec can hang for as long as a file system does; where
//! jobs wait and none was begun or done for a while, the one that stands by takes over, and the
//! next begins to stand by. What is due later waits with them: they sleep until the first of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::command::AgentCommand;
use crate::contain::contain;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::sync::Permit;
use crate::sync::SetOnce;

use super::spawn::{Spawned, spawn_admitted};

/// So long nothing moves before another thread takes over. An exec takes a thousandth of it.
const STUCK: Duration = Duration::from_millis(250);

/// So many execs can hang before spawns wait for one of them.
const THREADS_MAX: usize = 8;

/// What comes back: whoever takes it first has it; if nobody does, it is dropped and undone.
pub(crate) type Parcel<T> = Arc<Mutex<Option<T>>>;

/// Where whoever asked waits for what comes of it.
pub(crate) type Answer<T> = Arc<SetOnce<Parcel<Result<T>>>>;

pub(crate) fn open_parcel<T>(parcel: &Parcel<T>) -> Option<T> {
    parcel.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Where a result goes. However a job ends, whoever waits for it gets an answer.
struct Promise<T>(Answer<T>);

impl<T> Promise<T> {
    fn new() -> (Self, Answer<T>) {
        let answer = Answer::default();
        (Self(Arc::clone(&answer)), answer)
    }

    fn keep(self, result: Result<T>) {
        self.0.set(Arc::new(Mutex::new(Some(result))));
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let error = Error::new(ErrorKind::EngineStopped, "spawn", "the engine was shut down");
        self.0.set(Arc::new(Mutex::new(Some(Err(error)))));
    }
}

/// A spawn, or what else takes a while.
type Job = Box<dyn FnOnce() + Send>;

/// What the threads share.
struct Board {
    state: Mutex<State>,
    /// There is a job, or the end.
    work: Condvar,
    /// A job has to wait, or the end.
    stand_by: Condvar,
    /// A thread has ended.
    gone: Condvar,
    origin: Origin,
}

struct State {
    /// Those that go before the others.
    urgent: VecDeque<Job>,
    jobs: VecDeque<Job>,
    /// What is to be done then; the number tells those of one moment apart.
    later: BTreeMap<(Instant, u64), Job>,
    numbered: u64,
    ended: bool,
    /// Threads with a lower number take jobs at once; the one with this number stands by.
    active: usize,
    working: usize,
    /// The one that stands by will look by itself at what waits.
    watched: bool,
    /// When a job was last begun or done.
    progress: Instant,
    /// Threads started, and those that have not ended.
    started: usize,
    alive: usize,
}

impl State {
    fn new() -> Self {
        Self {
            urgent: VecDeque::new(),
            jobs: VecDeque::new(),
            later: BTreeMap::new(),
            numbered: 0,
            ended: false,
            active: 1,
            working: 0,
            watched: true,
            progress: Instant::now(),
            started: 0,
            alive: 0,
        }
    }

    /// What is due becomes a job like the others.
    fn call_what_is_due(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.later.first_entry().filter(|first| first.key().0 <= now) {
            let job = first.remove();
            self.put(|state| state.jobs.push_back(job));
        }
    }

    /// One job more.
    fn put(&mut self, add: impl FnOnce(&mut Self)) {
        if self.working < self.active {
            // Nobody hangs: there was nothing to do, and who is free may not be awake yet.
            self.progress = Instant::now();
        }
        add(self);
    }

    fn somebody_waits(&self) -> bool {
        !self.urgent.is_empty() || !self.jobs.is_empty()
    }

    /// How long until something is due.
    fn until_due(&self) -> Option<Duration> {
        let (first, _) = self.later.first_key_value()?;
        Some(first.0.saturating_duration_since(Instant::now()))
    }

    /// A job, if this thread is the one to do it.
    fn take(&mut self, thread: usize) -> Option<Job> {
        if thread >= self.active && self.progress.elapsed() < STUCK {
            return None;
        }
        let job = self.urgent.pop_front().or_else(|| self.jobs.pop_front())?;
        self.active = self.active.max(thread + 1);
        self.working += 1;
        self.progress = Instant::now();
        Some(job)
    }
}

/// The spawning threads of an engine. They end with their [`SpawnerGuard`].
#[derive(Clone)]
pub(crate) struct Spawner {
    board: Arc<Board>,
}

/// Ends the threads when it is dropped, after the jobs that are there. Does not wait: an exec may
/// hang. An agent that dies with its parent dies with the thread that spawned it, so this goes
/// after the agents.
#[derive(Debug)]
pub(crate) struct SpawnerGuard(Spawner);

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl Spawner {
    pub(crate) fn start() -> Result<(Self, SpawnerGuard)> {
        let board = Board {
            state: Mutex::new(State::new()),
            work: Condvar::new(),
            stand_by: Condvar::new(),
            gone: Condvar::new(),
            origin: Origin::here(),
        };
        let spawner = Self { board: Arc::new(board) };
        // From here a failure ends those that run already.
        let guard = SpawnerGuard(spawner.clone());
        for _ in 0..2 {
            start_thread(&spawner.board, &mut spawner.board.lock()).map_err(|error| {
                Error::new(ErrorKind::ResourceLimit, "start", "cannot start a spawning thread")
                    .cause(error)
                    .remedy("raise the thread limit of this process")
            })?;
        }
        Ok((spawner, guard))
    }

    /// Waits until the threads have ended, at most `limit`: one may be in an exec that hangs. To be
    /// called after the guard was dropped.
    pub(crate) fn wait_for_end(&self, limit: Duration) {
        let state = self.board.lock();
        let alive = |state: &mut State| state.alive > 0;
        drop(self.board.gone.wait_timeout_while(state, limit, alive));
    }

    /// Spawns in the background, and hands the child to its engine. What that returns besides is
    /// dropped once whoever waits was told. Dropping the reply kills the child as soon as it is there.
    pub(crate) fn spawn<T: Send + 'static, L>(
        &self,
        command: AgentCommand,
        permit: Permit,
        hand_over: impl FnOnce(Spawned, AgentCommand) -> Result<(T, L)> + Send + 'static,
    ) -> Answer<T> {
        let (promise, reply) = Promise::new();
        let job = Box::new(move || {
            let spawned = spawn_admitted(&command, permit);
            match spawned.and_then(|child| hand_over(child, command)) {
                Ok((taken, later)) => {
                    promise.keep(Ok(taken));
                    drop(later);
                }
                Err(error) => promise.keep(Err(error)),
            }
        });
        self.add(|state| state.jobs.push_back(job));
        reply
    }

    /// Does something else that takes a while, before the spawns that wait: somebody waits for it.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Answer<T> {
        let (promise, reply) = Promise::new();
        let job = Box::new(move || promise.keep(work()));
        self.add(|state| state.urgent.push_back(job));
        reply
    }

    /// Does something that nobody waits for, after the spawns that wait.
    pub(crate) fn order(&self, work: impl FnOnce() + Send + 'static) {
        self.add(|state| state.jobs.push_back(Box::new(work)));
    }

    /// The same at this time or soon after; forgotten where the engine is gone by then.
    pub(crate) fn order_at(&self, at: Instant, work: impl FnOnce() + Send + 'static) {
        let mut state = self.board.lock();
        if state.ended {
            // Dropped once the lock is free: a job may hold all that is left of an engine.
            return;
        }
        state.numbered += 1;
        let number = state.numbered;
        state.later.insert((at, number), Box::new(work));
        // Each looks anew how long it may sleep.
        self.board.work.notify_all();
        self.board.stand_by.notify_all();
    }

    /// Where the threads have ended the job is dropped, and its promise says so.
    fn add(&self, add: impl FnOnce(&mut State)) {
        let mut state = self.board.lock();
        if state.ended {
            return;
        }
        state.put(add);
        self.board.work.notify_one();
        self.board.have_it_watched(&mut state);
    }
}

fn start_thread(board: &Arc<Board>, state: &mut State) -> std::io::Result<()> {
    let thread = state.started;
    let shared = Arc::clone(board);
    // Nothing joins it: it may be in an exec that hangs.
    let _detached = std::thread::Builder::new()
        .name("agentpipe-spawn".to_owned())
        .spawn(move || shared.work(thread))?;
    state.started += 1;
    state.alive += 1;
    Ok(())
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is free for a job that waits: the one that stands by has to know.
    fn have_it_watched(&self, state: &mut State) {
        if state.working >= state.active && state.somebody_waits() && !state.watched {
            state.watched = true;
            self.stand_by.notify_one();
        }
    }

    fn work(self: &Arc<Self>, thread: usize) {
        while let Some(job) = self.next(thread) {
            // The promise in it answers its caller.
            contain("a job of a spawning thread", job);
            let mut state = self.lock();
            state.working -= 1;
            state.progress = Instant::now();
        }
        self.lock().alive -= 1;
        self.gone.notify_all();
    }

    /// The next job of this thread; `None` at the end.
    fn next(self: &Arc<Self>, thread: usize) -> Option<Job> {
        let mut state = self.lock();
        loop {
            let active = state.active;
            state.call_what_is_due();
            if let Some(job) = state.take(thread) {
                if state.active > active {
                    self.someone_took_over(&mut state);
                }
                self.have_it_watched(&mut state);
                return Some(job);
            }
            if state.ended {
                return None;
            }
            let takes_jobs = thread < state.active;
            let mut left = state.until_due();
            if !takes_jobs {
                state.watched = state.somebody_waits();
                if state.watched {
                    let stuck = STUCK.saturating_sub(state.progress.elapsed());
                    left = Some(left.map_or(stuck, |left| left.min(stuck)));
                }
            }
            let sleeps_on = if takes_jobs { &self.work } else { &self.stand_by };
            state = match left {
                None => sleeps_on.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = sleeps_on.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn someone_took_over(self: &Arc<Self>, state: &mut State) {
        let active = state.active;
        crate::trace::warn!(active, "a spawn hangs in its exec; another thread goes on");
        // The next looks before it sleeps.
        state.watched = true;
        if state.started == active
            && active < THREADS_MAX
            && let Err(error) = start_thread(self, state)
        {
            crate::trace::warn!(%error, "no further spawning thread: the next exec that hangs holds up all");
        }
    }
}

impl Drop for SpawnerGuard {
    fn drop(&mut self) {
        let board = &self.0.board;
        if !board.origin.is_here() {
            return;
        }
        let later = {
            let mut state = board.lock();
            state.ended = true;
            std::mem::take(&mut state.later)
        };
        board.work.notify_all();
        board.stand_by.notify_all();
        drop(later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const CEILING: Duration = Duration::from_secs(30);

    #[test]
    fn a_job_that_came_before_the_one_that_hangs_was_begun_is_done() {
        // The story: two spawns came while the spawning thread had not woken up yet, so nobody hung.
        // It began the first, which hung, and nobody was told that the second waits.
        let (spawner, _guard) = Spawner::start().expect("threads");
        let until = Instant::now() + CEILING;
        while spawner.board.lock().watched {
            assert!(Instant::now() < until, "nobody stands by");
            std::thread::yield_now();
        }
        let (release, hangs) = mpsc::channel::<()>();
        let (done, second) = mpsc::channel();
        spawner.add(|state| {
            state.jobs.push_back(Box::new(move || hangs.recv().expect("released")));
            state.jobs.push_back(Box::new(move || done.send(()).expect("awaited")));
        });
        let gone_on = second.recv_timeout(CEILING);
        release.send(()).expect("it hangs");
        assert_eq!(gone_on, Ok(()), "the second waits for the first");
    }

    #[test]
    fn a_job_that_came_just_now_waits_for_nobody_who_hangs() {
        // The story: the first spawn after an hour, and whoever stands by is awake before who is to do
        // it. Nothing moved for an hour, so it warned of an exec that hangs.
        let mut state = State::new();
        state.progress -= 10 * STUCK;
        state.put(|state| state.jobs.push_back(Box::new(|| ())));
        assert!(state.take(1).is_none(), "nobody hangs");
        assert!(state.take(0).is_some());
        // Now somebody works, and may hang.
        state.progress -= STUCK;
        state.put(|state| state.jobs.push_back(Box::new(|| ())));
        assert!(state.take(1).is_some(), "it waits behind one that hangs");
    }
}
