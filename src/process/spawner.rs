//! Floor 1. The thread that spawns: path searches and slow execs stall neither the caller's
//! runtime nor the engine, and the thread lives as long as the engine does.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind, Result};
use crate::latch::Latch;

use super::spawn::{Spawned, spawn};

/// What comes back: whoever takes it first has it; if nobody does, it is dropped and undone.
pub(crate) type Parcel<T> = Arc<Mutex<Option<T>>>;

pub(crate) fn open_parcel<T>(parcel: &Parcel<T>) -> Option<T> {
    parcel.lock().unwrap_or_else(PoisonError::into_inner).take()
}

type Hand<T> = Box<dyn FnOnce(Spawned, &AgentCommand) -> T + Send>;

struct Job<T> {
    command: AgentCommand,
    /// Hands the child to its engine thread and makes the handle.
    hand_over: Option<Hand<T>>,
    reply: Arc<Latch<Parcel<Result<T>>>>,
}

/// However a job ends, its caller gets an answer.
impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        let error = Error::new(ErrorKind::EngineStopped, "spawn", "the engine was shut down");
        self.reply.set(Arc::new(Mutex::new(Some(Err(error)))));
    }
}

/// The spawning thread of an engine. What a job makes of the child is the engine's matter.
pub(crate) struct Spawner<T> {
    jobs: Option<Sender<Job<T>>>,
    handle: Option<JoinHandle<()>>,
}

impl<T> std::fmt::Debug for Spawner<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Spawner<T> {
    pub(crate) fn start() -> Result<Self> {
        let (sender, jobs) = channel::<Job<T>>();
        let handle = std::thread::Builder::new()
            .name("agentpipe-spawn".to_owned())
            .spawn(move || {
                for mut job in jobs {
                    let Some(hand_over) = job.hand_over.take() else { continue };
                    let result = spawn(&job.command).map(|child| hand_over(child, &job.command));
                    job.reply.set(Arc::new(Mutex::new(Some(result))));
                }
            })
            .map_err(|error| {
                Error::new(ErrorKind::ResourceLimit, "start", "cannot start the spawning thread")
                    .cause(error)
                    .remedy("raise the thread limit of this process")
            })?;
        Ok(Self { jobs: Some(sender), handle: Some(handle) })
    }

    /// Spawns in the background. Dropping the reply kills the child as soon as it is there.
    pub(crate) fn spawn(
        &self,
        command: AgentCommand,
        hand_over: impl FnOnce(Spawned, &AgentCommand) -> T + Send + 'static,
    ) -> Arc<Latch<Parcel<Result<T>>>> {
        let reply = Arc::new(Latch::new());
        let job = Job { command, hand_over: Some(Box::new(hand_over)), reply: Arc::clone(&reply) };
        if let Some(jobs) = &self.jobs {
            // Not sent, it is dropped, and that answers.
            let _sent = jobs.send(job);
        }
        reply
    }
}

impl<T> Drop for Spawner<T> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take()
            && handle.thread().id() != std::thread::current().id()
        {
            // A panic there has nothing to tell that the replies did not.
            let _ended = handle.join();
        }
    }
}
