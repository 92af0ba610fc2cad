//! Floor 1. The threads that spawn: path searches and slow execs stall neither the caller's runtime
//! nor the engine, and the threads live as long as the engine does.
//!
//! One takes the jobs, another stands by. An exec can hang for as long as a file system does; where
//! jobs wait and none was begun or done for a while, the one that stands by takes over, and the
//! next begins to stand by.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::admission::Permit;
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind, Result};
use crate::latch::Latch;

use super::spawn::{Spawned, spawn};

/// So long nothing moves before another thread takes over. An exec takes a thousandth of it.
const STUCK: Duration = Duration::from_millis(250);

/// So many execs can hang before spawns wait for one of them.
const THREADS_MAX: usize = 8;

/// What comes back: whoever takes it first has it; if nobody does, it is dropped and undone.
pub(crate) type Parcel<T> = Arc<Mutex<Option<T>>>;

pub(crate) fn open_parcel<T>(parcel: &Parcel<T>) -> Option<T> {
    parcel.lock().unwrap_or_else(PoisonError::into_inner).take()
}

type Hand<T> = Box<dyn FnOnce(Spawned, &AgentCommand) -> T + Send>;

struct Job<T> {
    command: AgentCommand,
    permit: Option<Permit>,
    /// Hands the child to its engine thread and makes the handle.
    hand_over: Option<Hand<T>>,
    reply: Arc<Latch<Parcel<Result<T>>>>,
}

impl<T> Job<T> {
    fn run(mut self) {
        let Some(hand_over) = self.hand_over.take() else { return };
        let result = spawn(&self.command).map(|mut child| {
            child.hold(self.permit.take());
            hand_over(child, &self.command)
        });
        if result.is_err() {
            // Before the caller knows: the next spawn may be its own.
            self.permit = None;
        }
        self.reply.set(Arc::new(Mutex::new(Some(result))));
    }
}

/// However a job ends, its caller gets an answer.
impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        let error = Error::new(ErrorKind::EngineStopped, "spawn", "the engine was shut down");
        self.reply.set(Arc::new(Mutex::new(Some(Err(error)))));
    }
}

/// What the threads share.
struct Board<T> {
    state: Mutex<State<T>>,
    /// There is a job, or the end.
    work: Condvar,
    /// A job has to wait, or the end.
    stand_by: Condvar,
}

struct State<T> {
    jobs: VecDeque<Job<T>>,
    ended: bool,
    /// Threads with a lower number take jobs at once; the one with this number stands by.
    active: usize,
    working: usize,
    /// When a job was last begun or done.
    progress: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl<T> State<T> {
    /// A job, if this thread is the one to do it.
    fn take(&mut self, thread: usize) -> Option<Job<T>> {
        if thread >= self.active && (self.jobs.is_empty() || self.progress.elapsed() < STUCK) {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.active = self.active.max(thread + 1);
        self.working += 1;
        self.progress = Instant::now();
        Some(job)
    }
}

/// The spawning threads of an engine.
pub(crate) struct Spawner<T> {
    board: Arc<Board<T>>,
}

impl<T> std::fmt::Debug for Spawner<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Spawner<T> {
    pub(crate) fn start() -> Result<Self> {
        let state = State {
            jobs: VecDeque::new(),
            ended: false,
            active: 1,
            working: 0,
            progress: Instant::now(),
            threads: Vec::new(),
        };
        let board =
            Board { state: Mutex::new(state), work: Condvar::new(), stand_by: Condvar::new() };
        // From here a failure ends those that run already.
        let spawner = Self { board: Arc::new(board) };
        for _ in 0..2 {
            start_thread(&spawner.board, &mut spawner.board.lock()).map_err(|error| {
                Error::new(ErrorKind::ResourceLimit, "start", "cannot start a spawning thread")
                    .cause(error)
                    .remedy("raise the thread limit of this process")
            })?;
        }
        Ok(spawner)
    }

    /// Spawns in the background. Dropping the reply kills the child as soon as it is there.
    pub(crate) fn spawn(
        &self,
        command: AgentCommand,
        permit: Permit,
        hand_over: impl FnOnce(Spawned, &AgentCommand) -> T + Send + 'static,
    ) -> Arc<Latch<Parcel<Result<T>>>> {
        let reply = Arc::new(Latch::new());
        let job = Job {
            command,
            permit: Some(permit),
            hand_over: Some(Box::new(hand_over)),
            reply: Arc::clone(&reply),
        };
        let mut state = self.board.lock();
        state.jobs.push_back(job);
        self.board.work.notify_one();
        if state.working >= state.active {
            self.board.stand_by.notify_one();
        }
        reply
    }
}

fn start_thread<T: Send + 'static>(
    board: &Arc<Board<T>>,
    state: &mut State<T>,
) -> std::io::Result<()> {
    let thread = state.threads.len();
    let shared = Arc::clone(board);
    let handle = std::thread::Builder::new()
        .name("agentpipe-spawn".to_owned())
        .spawn(move || shared.work(thread))?;
    state.threads.push(handle);
    Ok(())
}

impl<T> Board<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Board<T> {
    fn work(self: &Arc<Self>, thread: usize) {
        while let Some(job) = self.next(thread) {
            job.run();
            let mut state = self.lock();
            state.working -= 1;
            state.progress = Instant::now();
        }
    }

    /// The next job of this thread; `None` at the end.
    fn next(self: &Arc<Self>, thread: usize) -> Option<Job<T>> {
        let mut state = self.lock();
        loop {
            let active = state.active;
            if let Some(job) = state.take(thread) {
                if state.active > active {
                    self.someone_took_over(&mut state);
                }
                return Some(job);
            }
            if state.ended {
                return None;
            }
            state = if thread < state.active {
                self.work.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if state.jobs.is_empty() {
                self.stand_by.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                let left = STUCK.saturating_sub(state.progress.elapsed());
                let waited = self.stand_by.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    fn someone_took_over(self: &Arc<Self>, state: &mut State<T>) {
        let active = state.active;
        tracing::warn!(active, "a spawn hangs in its exec; another thread goes on");
        if state.threads.len() == active
            && active < THREADS_MAX
            && let Err(error) = start_thread(self, state)
        {
            tracing::warn!(%error, "no further spawning thread: the next exec that hangs holds up all");
        }
    }
}

/// No job is left then: each holds the engine. An agent that dies with its parent dies with the
/// thread that spawned it, so this comes after the engine threads have closed their agents.
impl<T> Drop for Spawner<T> {
    fn drop(&mut self) {
        let threads = {
            let mut state = self.board.lock();
            state.ended = true;
            std::mem::take(&mut state.threads)
        };
        self.board.work.notify_all();
        self.board.stand_by.notify_all();
        for thread in threads {
            // The last handle may be dropped by one of them.
            if thread.thread().id() != std::thread::current().id() {
                // A panic there has nothing to tell that the replies did not.
                let _ended = thread.join();
            }
        }
    }
}
