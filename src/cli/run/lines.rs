//! Lines on their way to own stderr: those of the agent, of this command, and traces.
//!
//! A line for which there is no room is dropped and counted: neither records nor the end of the
//! agent may wait until the parent reads its messages.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::stdio::stderr;

use super::backlog::Backlog;
use super::bell::Bell;
use super::descriptor::{BACK_OFF, Descriptor, Use, poll_for};
use super::signals::Signals;

/// Lines above this are dropped.
const ROOM: usize = 256 << 10;
/// Above this no line is taken from an agent while stderr still takes something.
const FULL: usize = 64 << 10;
/// How long stderr is waited for once there is nothing else to wait for, unless it takes something.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// What a pipe takes whole or not at all, so that lines of other writers fall between ours.
const WHOLE: usize = 4096;

/// Where lines go in. Traces come from the threads of the engine.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Queue {
    backlog: Backlog,
    /// stderr takes no more, ever.
    broken: bool,
    dropped: u64,
}

impl Lines {
    pub(super) fn new(bell: Arc<Bell>) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), bell }))
    }

    /// A line of this command.
    pub(super) fn say(&self, what: fmt::Arguments<'_>) {
        self.push(ROOM, format_args!("agentpipe: {what}\n"));
    }

    /// A line of the agent or a trace, as it is.
    pub(super) fn pass(&self, line: &str) {
        self.push(ROOM, format_args!("{line}\n"));
    }

    /// One of the last lines, for which there is always room.
    pub(super) fn say_last(&self, line: &str) {
        self.push(usize::MAX, format_args!("{line}\n"));
    }

    fn push(&self, room: usize, line: fmt::Arguments<'_>) {
        let mut queue = self.lock();
        if queue.broken || queue.backlog.len() >= room {
            queue.dropped += 1;
            return;
        }
        queue.backlog.push(|bytes| {
            let _to_memory = bytes.write_fmt(line);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds it panics.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A trace is one write of a whole line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.pass(text.strip_suffix('\n').unwrap_or(&text));
        self.0.bell.ring();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where lines come out.
#[derive(Debug)]
pub(super) struct Stderr {
    pub(super) descriptor: Descriptor,
    pub(super) lines: Lines,
    /// Since when it takes nothing of what there is for it.
    stuck: Option<Instant>,
}

impl Stderr {
    pub(super) fn new(lines: Lines) -> Self {
        Self { descriptor: Descriptor::new(stderr(), Use::Write), lines, stuck: None }
    }

    /// A burst of the agent waits while stderr keeps up; where it does not, lines are dropped.
    pub(super) fn has_room(&self) -> bool {
        self.lines.lock().backlog.len() < FULL || !self.descriptor.is_ready()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.lock().backlog.is_empty()
    }

    /// A line stands there in part: whatever else is written to the same place would tear it.
    pub(super) fn is_inside_a_line(&self) -> bool {
        self.lines.lock().backlog.is_inside_an_item()
    }

    /// Writes what fits. True if something moved.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        let mut moved = false;
        let mut queue = self.lines.lock();
        while !queue.backlog.is_empty() && self.descriptor.is_ready() {
            match self.descriptor.write(queue.backlog.whole_items(WHOLE)) {
                Ok(len) => {
                    queue.backlog.wrote(len);
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => moved = true,
                Err(_) => {
                    // There is no other place to say it; the report has the count.
                    queue.broken = true;
                    queue.dropped += queue.backlog.give_up().0;
                }
            }
        }
        let stuck = !moved && !queue.backlog.is_empty();
        self.stuck = stuck.then(|| self.stuck.unwrap_or(now));
        moved
    }

    /// Waits until all is written, but no longer than this for a parent that reads nothing. A signal
    /// ends the wait.
    pub(super) fn finish(&mut self, patience: Duration, signals: &Signals) {
        loop {
            let now = Instant::now();
            let moved = self.flush(now);
            let stuck = self.stuck.map_or(Duration::ZERO, |since| now - since);
            let left = patience.saturating_sub(stuck);
            if self.is_empty() || left.is_zero() || signals.next().is_some() {
                return;
            }
            if !moved {
                let stderr = self.descriptor.poll_fd(PollFlags::OUT, now);
                let rests = stderr.is_none();
                let mut fds: Vec<_> = [signals.poll_fd()].into_iter().chain(stderr).collect();
                poll_for(&mut fds, Some(if rests { left.min(BACK_OFF) } else { left }));
                let seen = fds.get(1).map_or(PollFlags::empty(), PollFd::revents);
                drop(fds);
                self.descriptor.polled(seen);
            }
        }
    }

    /// What is left will not be written. A line that stands there in part gets its end.
    pub(super) fn give_up(&mut self) {
        let mut queue = self.lines.lock();
        let torn = queue.backlog.is_inside_an_item();
        queue.dropped += queue.backlog.give_up().0;
        if torn {
            queue.backlog.push(|bytes| bytes.push(b'\n'));
        }
    }

    /// Lines that were dropped, and those that still wait.
    pub(super) fn undelivered(&self) -> u64 {
        let queue = self.lines.lock();
        queue.dropped + queue.backlog.items() as u64
    }

    /// Whether everything is written since the last [`give_up`](Self::give_up).
    pub(super) fn is_written(&self) -> bool {
        let queue = self.lines.lock();
        queue.backlog.is_empty() && !queue.broken
    }
}
