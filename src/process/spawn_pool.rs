//! The spawn pool: the threads on which an engine searches for programs and execs them, so that a
//! slow search or exec stalls neither the runtime of the caller nor an engine thread.
//!
//! Each job has a thread to itself, so an exec that hangs, as on a file server that does not answer,
//! holds up no other spawn until as many hang as the pool may have threads. A worker that takes a job
//! and leaves no other idle starts the next one first: the next job finds a thread that waits for it.
//! Only workers start workers, because a thread inherits the priority, the processors and the timer
//! slack of the one that starts it, and an agent inherits them from its worker.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io, thread};

use crate::command::AgentCommand;
use crate::contain::contain;
use crate::error::{Error, ErrorKind, Result};
use crate::origin::Origin;
use crate::sync::{Permit, oneshot};

use super::guard::Guard;
use super::spawn::{Spawned, spawn_admitted};

/// Threads that stay while there is nothing to do: one for the next job, one for the job after it.
const THREADS_AT_REST: usize = 2;

/// How many jobs run at a time: beyond it a job waits until another has ended.
const THREADS_MAX: usize = 8;

/// How long a thread beyond [`THREADS_AT_REST`] waits for a job before it ends.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// The spawn pool of an engine. Its threads end with its [`SpawnPoolGuard`].
#[derive(Clone)]
pub(crate) struct SpawnPool(Arc<Workers>);

/// Ends the threads of a [`SpawnPool`] when it is dropped, once the queue is empty. Does not wait: an
/// exec may hang. An agent that dies with its parent dies with the thread that spawned it, so the
/// guard is dropped after the last agent was closed.
#[derive(Debug)]
pub(crate) struct SpawnPoolGuard(SpawnPool);

struct Workers {
    queue: Mutex<JobQueue>,
    /// A job was queued, or the pool ends.
    work: Condvar,
    /// A thread has ended.
    ended: Condvar,
    origin: Origin,
}

#[derive(Default)]
struct JobQueue {
    jobs: VecDeque<SpawnJob>,
    threads: usize,
    idle: usize,
    stopped: bool,
    /// Kept until the pool ends, which is after the last agent.
    guard: Option<Arc<Guard>>,
}

struct SpawnJob {
    run: Box<dyn FnOnce() + Send>,
    /// The kernel kills the spawned agent when the thread that runs this job ends.
    binds_thread: bool,
}

impl SpawnPool {
    /// Starts the threads. With `guard` no agent outlives this process.
    pub(crate) fn start(guard: Option<Arc<Guard>>) -> Result<(Self, SpawnPoolGuard)> {
        let workers = Workers {
            queue: Mutex::new(JobQueue { guard, ..JobQueue::default() }),
            work: Condvar::new(),
            ended: Condvar::new(),
            origin: Origin::here(),
        };
        let pool = Self(Arc::new(workers));
        // Made first: after a failure it ends the threads that run already.
        let guard = SpawnPoolGuard(pool.clone());
        for _ in 0..THREADS_AT_REST {
            // The thread is counted before it starts, so its end never takes the count below zero.
            pool.0.lock().threads += 1;
            start_thread(&pool.0).map_err(|error| {
                Error::new(ErrorKind::ResourceLimit, "start", "cannot start a spawn thread")
                    .cause(error)
                    .remedy("raise the thread limit of this process")
            })?;
        }
        Ok((pool, guard))
    }

    /// Spawns `command` and hands the outcome to `done`, both on a thread of the pool. Drops `done`
    /// without a call if the pool has ended.
    pub(crate) fn spawn(
        &self,
        command: AgentCommand,
        permit: Permit,
        done: impl FnOnce(Result<(Spawned, AgentCommand)>) + Send + 'static,
    ) {
        let binds_thread = command.die_with_parent;
        let guard = self.guard();
        let run = move || {
            let spawned = spawn_admitted(&command, guard.as_ref(), permit);
            // The outcome may be the end of the engine for a caller that waits for it.
            drop(guard);
            done(spawned.map(|child| (child, command)));
        };
        self.push(SpawnJob { run: Box::new(run), binds_thread });
    }

    /// Returns the guard for an agent that is spawned by the caller.
    pub(crate) fn guard(&self) -> Option<Arc<Guard>> {
        self.0.lock().guard.clone()
    }

    /// Runs `work`, which may block, on a thread of the pool. The receiver gets `None` if the pool
    /// has ended.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let run = Box::new(move || sender.send(work()));
        self.push(SpawnJob { run, binds_thread: false });
        receiver
    }

    fn push(&self, job: SpawnJob) {
        let mut queue = self.0.lock();
        if queue.stopped {
            // The lock is released before the job is dropped, with all that it holds of an engine.
            return;
        }
        // One thread is enough for one job: every idle thread takes any job.
        queue.jobs.push_back(job);
        self.0.work.notify_one();
    }

    /// Waits until the threads have ended, at most `limit`: one may be in an exec that hangs. To be
    /// called after the guard was dropped.
    pub(crate) fn wait_for_end(&self, limit: Duration) {
        let running = |queue: &mut JobQueue| queue.threads > 0;
        drop(self.0.ended.wait_timeout_while(self.0.lock(), limit, running));
    }
}

impl fmt::Debug for SpawnPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnPool").finish_non_exhaustive()
    }
}

impl Drop for SpawnPoolGuard {
    fn drop(&mut self) {
        let workers = &self.0.0;
        // A forked child has none of the threads, and may find the lock taken for good.
        if workers.origin.is_here() {
            let mut queue = workers.lock();
            queue.stopped = true;
            let guard = queue.guard.take();
            drop(queue);
            workers.work.notify_all();
            // Without the lock: the last holder waits for the end of the watcher.
            drop(guard);
        }
    }
}

/// Starts a thread that the caller has counted. Nothing joins it: it may be in an exec that hangs.
fn start_thread(workers: &Arc<Workers>) -> io::Result<()> {
    let shared = Arc::clone(workers);
    let thread = thread::Builder::new().name("agentpipe-spawn".to_owned());
    thread.spawn(move || shared.work()).map(drop).inspect_err(|_| workers.lock().threads -= 1)
}

impl Workers {
    fn lock(&self) -> MutexGuard<'_, JobQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread.
    fn work(self: Arc<Self>) {
        let mut bound = false;
        while let Some(job) = self.next_job(bound) {
            // This is never reset: the pool does not learn when the agent of this thread ends.
            bound |= job.binds_thread;
            // A panic must not end the thread: agents that are bound to it would die with it.
            contain("a job of a spawn thread", job.run);
        }
        // The count fell under the lock, so a waiter either sees the new count or already waits.
        self.ended.notify_all();
    }

    /// Waits for the next job of this thread. `None` ends the thread, which is no longer counted. A
    /// thread that is `bound` to an agent ends only with the pool.
    fn next_job(self: &Arc<Self>, bound: bool) -> Option<SpawnJob> {
        let mut queue = self.lock();
        queue.idle += 1;
        let mut timed_out = false;
        let job = loop {
            // The queue comes before the reasons to end: a job that was queued while the wait timed
            // out is not missed, and a stop lets the queued jobs run.
            if let Some(job) = queue.jobs.pop_front() {
                break Some(job);
            }
            let surplus = queue.threads > THREADS_AT_REST && !bound;
            if queue.stopped || (surplus && timed_out) {
                break None;
            }
            if surplus {
                let woken = self.work.wait_timeout(queue, IDLE_MAX);
                let (relocked, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
                (queue, timed_out) = (relocked, timeout.timed_out());
            } else {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        queue.idle -= 1;
        if job.is_none() {
            queue.threads -= 1;
            return None;
        }
        if queue.idle == 0 && queue.threads < THREADS_MAX {
            queue.threads += 1;
            // The lock is released first: a failed start takes it to correct the count.
            drop(queue);
            if let Err(error) = start_thread(self) {
                crate::trace::warn!(%error, "no further spawn thread: an exec that hangs may hold up others");
            }
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const CEILING: Duration = Duration::from_secs(30);

    fn wait_until(what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < CEILING, "never happened: {what}");
            thread::yield_now();
        }
    }

    /// A job that hangs until the sender is dropped.
    fn hang(released: &Arc<Mutex<mpsc::Receiver<()>>>) -> impl FnOnce() + Send + use<> {
        let released = Arc::clone(released);
        move || assert!(released.lock().expect("no panic").recv().is_err(), "nothing is sent")
    }

    #[test]
    fn hanging_jobs_hold_up_no_other() {
        // Programs on file servers that do not answer: the first, and one that was queued behind it
        // before any thread had woken up.
        let (pool, _guard) = SpawnPool::start(None).expect("threads");
        let (release, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(Mutex::new(hangs));
        let hung: Vec<_> = (1..THREADS_MAX).map(|_| pool.run(hang(&hangs))).collect();
        let (done, other) = mpsc::channel();
        let _receiver = pool.run(move || done.send(()));
        let went_on = other.recv_timeout(CEILING);
        drop(release);
        assert_eq!(went_on, Ok(()), "it waits for one that hangs");
        for job in hung {
            assert_eq!(pollster::block_on(job), Some(()));
        }
    }

    #[test]
    fn idle_threads_end_and_bound_ones_stay() {
        // A burst must not leave its threads behind. But an agent that dies with its parent dies
        // with the thread that spawned it.
        let (pool, guard) = SpawnPool::start(None).expect("threads");
        let (release, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(Mutex::new(hangs));
        for number in 0..THREADS_MAX {
            pool.push(SpawnJob { run: Box::new(hang(&hangs)), binds_thread: number < 3 });
        }
        wait_until("all threads work", || {
            let queue = pool.0.lock();
            (queue.threads, queue.idle, queue.jobs.len()) == (THREADS_MAX, 0, 0)
        });
        drop(release);
        wait_until("only bound threads are left", || pool.0.lock().threads == 3);
        thread::sleep(2 * IDLE_MAX);
        assert_eq!(pool.0.lock().threads, 3, "of those none ends while its agent may live");
        drop(guard);
        pool.wait_for_end(CEILING);
        assert_eq!(pool.0.lock().threads, 0);
        assert_eq!(pollster::block_on(pool.run(|| ())), None, "the pool has ended");
    }
}
