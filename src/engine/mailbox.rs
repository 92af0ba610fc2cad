//! Floor 3. Requests from other threads to an engine thread.
//!
//! The queue takes no lock that a sender can hold while it waits for anything. The eventfd is
//! written only when the engine sleeps, once for however many requests.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::counters::IoCounters;
use crate::exit::Departure;
use crate::sync::SetOnce;
use crate::transport::{Adoption, Channel, Request};

/// What an engine thread is asked for.
#[derive(Debug)]
pub(super) enum Command {
    /// A spawned child to take over.
    Adopt(Adoption),
    /// Something about one agent.
    Agent(Arc<Channel>, Request),
    /// Close every agent by its own policy, abort what is left after `limit`, then end.
    Shutdown { limit: Duration, done: Reply<ThreadEnd>, departure: Option<Departure> },
    /// Report the counters.
    Counters(Reply<IoCounters>),
}

/// Where an answer goes. Dropped unanswered, because the thread ended, it gives the default.
#[derive(Debug)]
pub(super) struct Reply<T: Clone + Default>(pub(super) Arc<SetOnce<T>>);

impl<T: Clone + Default> Drop for Reply<T> {
    fn drop(&mut self) {
        self.0.set(T::default());
    }
}

/// What a shutdown did on one thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ThreadEnd {
    /// Agents alive when it began.
    pub(super) agents: usize,
    /// Those not closed when the limit passed.
    pub(super) aborted: usize,
}

#[derive(Debug)]
struct Bell {
    eventfd: OwnedFd,
    /// The engine is in, or about to enter, a wait.
    asleep: AtomicBool,
    /// Whether children are taken over. Held while one is sent: no child follows a shutdown into
    /// the queue, where nothing would serve it.
    adopts: Mutex<bool>,
}

impl Bell {
    fn adopts(&self) -> MutexGuard<'_, bool> {
        self.adopts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending side; any thread.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    sender: Sender<Command>,
    bell: Arc<Bell>,
}

/// The engine's side.
#[derive(Debug)]
pub(super) struct Inbox {
    receiver: Receiver<Command>,
    bell: Arc<Bell>,
}

/// Both sides.
pub(super) fn mailbox() -> io::Result<(Mailbox, Inbox)> {
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let bell = Bell { eventfd, asleep: AtomicBool::new(false), adopts: Mutex::new(true) };
    let bell = Arc::new(bell);
    let (sender, receiver) = channel();
    Ok((Mailbox { sender, bell: Arc::clone(&bell) }, Inbox { receiver, bell }))
}

impl Mailbox {
    /// Sends. A command for an engine thread that has ended is dropped.
    pub(super) fn send(&self, command: Command) {
        if self.sender.send(command).is_ok() {
            drop(self.ringing());
        }
    }

    /// Hands a child over, and wakes the engine when what is returned is dropped: the caller can do
    /// first what it has to do, before the engine takes its processor. A thread that is shut down
    /// or has ended takes no child: it comes back.
    pub(super) fn adopt(&self, adoption: Adoption) -> Result<Ringing, Adoption> {
        let adopts = self.bell.adopts();
        if !*adopts {
            return Err(adoption);
        }
        match self.sender.send(Command::Adopt(adoption)) {
            Ok(()) => Ok(self.ringing()),
            Err(SendError(Command::Adopt(adoption))) => Err(adoption),
            Err(_) => unreachable!("what was not sent comes back"),
        }
    }

    /// Whether a child would be taken now.
    pub(super) fn adopts(&self) -> bool {
        *self.bell.adopts()
    }

    /// No child is taken from now on.
    pub(super) fn refuse_children(&self) {
        *self.bell.adopts() = false;
    }

    fn ringing(&self) -> Ringing {
        Ringing(Arc::clone(&self.bell))
    }
}

/// A command lies in the mailbox. Dropped, it wakes the engine if that sleeps.
#[derive(Debug)]
pub(super) struct Ringing(Arc<Bell>);

impl Drop for Ringing {
    fn drop(&mut self) {
        if self.0.asleep.swap(false, Ordering::SeqCst) {
            // Only fails when the counter is at its maximum, and then the bell has rung.
            let _rung = rustix::io::write(&self.0.eventfd, &1_u64.to_ne_bytes());
        }
    }
}

impl Inbox {
    /// A second descriptor of the eventfd, for the ring to watch.
    pub(super) fn bell(&self) -> io::Result<OwnedFd> {
        self.bell.eventfd.try_clone()
    }

    /// The next command, if one is there.
    pub(super) fn next(&self) -> Option<Command> {
        self.receiver.try_recv().ok()
    }

    /// Announces a wait. A command that came before the announcement is returned instead: whoever
    /// sent it saw the engine awake and did not ring.
    pub(super) fn fall_asleep(&self) -> Option<Command> {
        self.bell.asleep.store(true, Ordering::SeqCst);
        let command = self.next();
        if command.is_some() {
            self.wake_up();
        }
        command
    }

    pub(super) fn wake_up(&self) {
        self.bell.asleep.store(false, Ordering::SeqCst);
    }

    /// The thread is over. A child that comes now is refused; one in the queue goes with the queue.
    pub(super) fn refuse_children(&self) {
        *self.bell.adopts() = false;
    }

    /// Empties the eventfd after it fired.
    pub(super) fn silence(&self) {
        let mut count = [0; 8];
        let _empty = rustix::io::read(&self.bell.eventfd, &mut count);
    }
}
