//! The mailbox of an engine thread: commands from other threads.
//!
//! The queue takes no lock that a sender can hold while it waits for anything. The eventfd is
//! written only while the engine thread sleeps, once for any number of commands.

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
use crate::transport::{Adoption, Channel, Request, ShutdownCounts};

/// A command for an engine thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Take over a spawned child.
    Adopt(Adoption),
    /// Do what a handle of one agent requests.
    Agent(Arc<Channel>, Request),
    /// Close every agent by its own policy, abort those that are left after `limit`, then end.
    Shutdown { limit: Duration, done: Reply<ShutdownCounts>, departure: Option<Departure> },
    /// Report the counters of the ring.
    Counters(Reply<IoCounters>),
}

/// The place where an answer is set. If the thread ends without an answer, the drop sets the default.
#[derive(Debug)]
pub(super) struct Reply<T: Clone + Default>(pub(super) Arc<SetOnce<T>>);

impl<T: Clone + Default> Drop for Reply<T> {
    fn drop(&mut self) {
        self.0.set(T::default());
    }
}

/// The state that both ends of a mailbox share.
#[derive(Debug)]
struct MailboxState {
    eventfd: OwnedFd,
    /// The engine thread is in, or about to enter, a wait.
    asleep: AtomicBool,
    /// Whether children are taken over. The lock is held while one is sent, so that no child follows a
    /// shutdown into the queue, where nothing would serve it.
    accepts_agents: Mutex<bool>,
}

impl MailboxState {
    fn accepts_agents(&self) -> MutexGuard<'_, bool> {
        self.accepts_agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end; for any thread.
#[derive(Clone, Debug)]
pub(super) struct Mailbox {
    sender: Sender<Command>,
    state: Arc<MailboxState>,
}

/// The receiving end, of the engine thread.
#[derive(Debug)]
pub(super) struct CommandQueue {
    receiver: Receiver<Command>,
    state: Arc<MailboxState>,
}

/// Creates a mailbox and returns both ends.
pub(super) fn mailbox() -> io::Result<(Mailbox, CommandQueue)> {
    // It is non-blocking, so that neither the senders, which write it, nor the engine thread, which
    // reads it, can ever wait in a call on it.
    let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let state = Arc::new(MailboxState {
        eventfd,
        asleep: AtomicBool::new(false),
        accepts_agents: Mutex::new(true),
    });
    let (sender, receiver) = channel();
    Ok((Mailbox { sender, state: Arc::clone(&state) }, CommandQueue { receiver, state }))
}

impl Mailbox {
    /// Sends a command and wakes the engine thread. A command for a thread that has ended is dropped.
    pub(super) fn send(&self, command: Command) {
        // A command that is refused is dropped here, and its `Reply` answers with the default: the
        // caller does not wait for a thread that has ended.
        if self.sender.send(command).is_ok() {
            self.wake_guard().wake();
        }
    }

    /// Sends a child but defers waking the engine thread until the returned guard is dropped: the
    /// caller can finish its own work before the engine thread competes for the processor. A thread
    /// that is shut down or has ended takes no child and returns it.
    pub(super) fn adopt(&self, adoption: Adoption) -> Result<WakeGuard, Adoption> {
        // The lock is held until the child is queued: `refuse_agents` waits for the lock, so the
        // shutdown that follows it is queued behind every child that was accepted.
        let accepts = self.state.accepts_agents();
        if !*accepts {
            return Err(adoption);
        }
        match self.sender.send(Command::Adopt(adoption)) {
            Ok(()) => Ok(self.wake_guard()),
            Err(SendError(Command::Adopt(adoption))) => Err(adoption),
            Err(_) => unreachable!("a failed send returns what was sent"),
        }
    }

    /// Returns whether a child would be taken now.
    pub(super) fn accepts_agents(&self) -> bool {
        *self.state.accepts_agents()
    }

    /// Takes no child from now on.
    pub(super) fn refuse_agents(&self) {
        *self.state.accepts_agents() = false;
    }

    fn wake_guard(&self) -> WakeGuard {
        WakeGuard(Arc::clone(&self.state))
    }
}

/// Wakes an engine thread that sleeps: by [`wake`](Self::wake), or when it is dropped.
#[derive(Debug)]
pub(super) struct WakeGuard(Arc<MailboxState>);

impl WakeGuard {
    pub(super) fn wake(self) {
        drop(self);
    }
}

impl Drop for WakeGuard {
    fn drop(&mut self) {
        // The command is in the queue before the flag is read. The swap lets only the first of
        // several senders write.
        if self.0.asleep.swap(false, Ordering::SeqCst) {
            // Only fails when the counter is at its maximum, and then the thread is woken already.
            let _written = rustix::io::write(&self.0.eventfd, &1_u64.to_ne_bytes());
        }
    }
}

impl CommandQueue {
    /// Returns a second descriptor of the eventfd, for the ring to watch.
    pub(super) fn eventfd(&self) -> io::Result<OwnedFd> {
        self.state.eventfd.try_clone()
    }

    /// Returns the next command, if there is one.
    pub(super) fn next(&self) -> Option<Command> {
        self.receiver.try_recv().ok()
    }

    /// Announces a wait. A command that was sent before the announcement is returned instead: its
    /// sender saw the thread awake and did not write the eventfd.
    pub(super) fn fall_asleep(&self) -> Option<Command> {
        // A sender queues and then reads the flag; this side sets the flag and then reads the
        // queue. In this order at least one side sees the other, and no command is left behind by a
        // thread that sleeps.
        self.state.asleep.store(true, Ordering::SeqCst);
        let command = self.next();
        // The thread stays awake, so senders need not write the eventfd.
        if command.is_some() {
            self.wake_up();
        }
        command
    }

    /// Announces that the wait is over.
    pub(super) fn wake_up(&self) {
        self.state.asleep.store(false, Ordering::SeqCst);
    }

    /// Refuses children, as the thread ends. Those in the queue are dropped with it.
    pub(super) fn refuse_agents(&self) {
        *self.state.accepts_agents() = false;
    }

    /// Empties the eventfd after it fired.
    pub(super) fn clear_eventfd(&self) {
        let mut count = [0; 8];
        // The read fails only if it is empty already. The number of wake-ups does not matter.
        let _empty = rustix::io::read(&self.state.eventfd, &mut count);
    }
}
