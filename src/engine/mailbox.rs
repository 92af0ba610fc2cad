//! Floor 3. Requests from other threads to an engine thread.
//!
//! The queue takes no lock that a sender can hold while it waits for anything. The eventfd is
//! written only when the engine sleeps, once for however many requests.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use crate::command::AgentCommand;
use crate::latch::Latch;
use crate::metrics::IoCounters;
use crate::process::Spawned;
use crate::transport::{Request, Shared};

/// What an engine thread is asked for.
#[derive(Debug)]
pub(super) enum Command {
    /// A spawned child to take over.
    Adopt(Adoption),
    /// Something about one agent.
    Agent(Arc<Shared>, Request),
    /// Close every agent by its own policy, abort what is left after `limit`, then end.
    Shutdown { limit: Duration, done: Reply<ThreadEnd> },
    /// Report the counters.
    Counters(Reply<IoCounters>),
}

/// A child on its way to an engine thread. Dropped on the way, it is killed and nobody waits for
/// it.
#[derive(Debug)]
pub(super) struct Adoption {
    child: Option<Box<(Spawned, AgentCommand)>>,
    pub(super) shared: Arc<Shared>,
}

impl Adoption {
    pub(super) fn new(child: Spawned, command: AgentCommand, shared: Arc<Shared>) -> Self {
        Self { child: Some(Box::new((child, command))), shared }
    }

    pub(super) fn take(&mut self) -> Option<Box<(Spawned, AgentCommand)>> {
        self.child.take()
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        if self.child.take().is_some() {
            self.shared.never_adopted();
        }
    }
}

/// Where an answer goes. Dropped unanswered, because the thread ended, it gives the default.
#[derive(Debug)]
pub(super) struct Reply<T: Clone + Default>(pub(super) Arc<Latch<T>>);

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
    let bell = Arc::new(Bell { eventfd, asleep: AtomicBool::new(false) });
    let (sender, receiver) = channel();
    Ok((Mailbox { sender, bell: Arc::clone(&bell) }, Inbox { receiver, bell }))
}

impl Mailbox {
    /// Sends. False once the engine has ended.
    pub(super) fn send(&self, command: Command) -> bool {
        self.leave(command).is_some()
    }

    /// The same, but the engine is woken when what is returned is dropped: whoever has something
    /// else to do first, does it before the engine takes its processor.
    pub(super) fn leave(&self, command: Command) -> Option<Ringing> {
        self.sender.send(command).ok()?;
        Some(Ringing(Arc::clone(&self.bell)))
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

    /// Empties the eventfd after it fired.
    pub(super) fn silence(&self) {
        let mut count = [0; 8];
        let _empty = rustix::io::read(&self.bell.eventfd, &mut count);
    }
}
