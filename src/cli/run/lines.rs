//! Lines on their way to stderr: those of the agent, of this command, and traces.
//!
//! A line without room is dropped and counted. Neither records nor the close may wait for a parent that
//! does not read stderr.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::stdio::stderr;

use super::descriptor::{BACK_OFF, Descriptor, Direction, LoopWaker, poll_for};
use super::output::Backlog;
use super::signals::Signals;

/// Above this many bytes lines are dropped.
const ROOM: usize = 256 << 10;
/// Above this many bytes no event is taken from the agent while stderr accepts something.
const FULL: usize = 64 << 10;
/// How long to wait at the end for an stderr that accepts nothing.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// The largest write that a pipe does not split (PIPE_BUF), so that lines of other writers do not fall
/// into ours.
const WHOLE: usize = 4096;

/// Accepts lines, from any thread: traces come from the threads of the engine.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<LineQueue>,
    waker: Arc<LoopWaker>,
}

#[derive(Debug, Default)]
struct LineQueue {
    backlog: Backlog,
    /// stderr has failed.
    broken: bool,
    dropped: u64,
}

impl Lines {
    pub(super) fn new(waker: Arc<LoopWaker>) -> Self {
        Self(Arc::new(Shared { queue: Mutex::default(), waker }))
    }

    /// Adds a line of this command.
    pub(super) fn say(&self, what: fmt::Arguments<'_>) {
        self.push(ROOM, format_args!("agentpipe: {what}\n"));
    }

    /// Adds a line of the agent or a trace, unchanged.
    pub(super) fn pass(&self, line: &str) {
        self.push(ROOM, format_args!("{line}\n"));
    }

    /// Adds one of the last lines, for which there is always room.
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
            // A write to a `Vec` does not fail.
            let _to_memory = bytes.write_fmt(line);
        });
    }

    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        // No code that holds the lock panics.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For traces: each write is a whole line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.pass(text.strip_suffix('\n').unwrap_or(&text));
        // Traces come from threads of the engine, and the loop may be asleep. Lines of the loop
        // itself need no wake-up.
        self.0.waker.notify();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the lines to stderr.
#[derive(Debug)]
pub(super) struct Stderr {
    pub(super) descriptor: Descriptor,
    pub(super) lines: Lines,
    /// Since when stderr has accepted nothing.
    stuck: Option<Instant>,
}

impl Stderr {
    pub(super) fn new(lines: Lines) -> Self {
        Self { descriptor: Descriptor::new(stderr(), Direction::Write), lines, stuck: None }
    }

    /// Whether an event of the agent may be taken. A burst waits while stderr keeps up; if stderr is
    /// blocked, lines are dropped instead.
    pub(super) fn has_room(&self) -> bool {
        self.lines.lock().backlog.len() < FULL || !self.descriptor.is_ready()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.lock().backlog.is_empty()
    }

    /// Whether a line is partly written. Another write to the same file would split it.
    pub(super) fn is_inside_a_line(&self) -> bool {
        self.lines.lock().backlog.is_inside_an_item()
    }

    /// Writes what fits. Returns true if something was written.
    pub(super) fn flush(&mut self, now: Instant) -> bool {
        let mut moved = false;
        // The lock is held across the writes, because none of them waits for a reader.
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
                    // The error has nowhere else to go; the report has the count.
                    queue.broken = true;
                    queue.dropped += queue.backlog.give_up().0;
                }
            }
        }
        let stuck = !moved && !queue.backlog.is_empty();
        self.stuck = stuck.then(|| self.stuck.unwrap_or(now));
        moved
    }

    /// Waits until everything is written, but no longer than `patience` for a parent that does not read. A
    /// signal ends the wait.
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

    /// Drops what is left. A line that is partly written gets a newline.
    pub(super) fn give_up(&mut self) {
        let mut queue = self.lines.lock();
        let torn = queue.backlog.is_inside_an_item();
        queue.dropped += queue.backlog.give_up().0;
        if torn {
            queue.backlog.push(|bytes| bytes.push(b'\n'));
        }
    }

    /// Returns the number of lines that were dropped or are not written yet.
    pub(super) fn undelivered(&self) -> u64 {
        let queue = self.lines.lock();
        queue.dropped + queue.backlog.items() as u64
    }

    /// Whether everything was written since the last [`give_up`](Self::give_up).
    pub(super) fn is_written(&self) -> bool {
        let queue = self.lines.lock();
        queue.backlog.is_empty() && !queue.broken
    }
}
