//! Lines on their way to stderr: those of the agent, of this command, and traces.
//!
//! A parent that reads stderr slowly holds the agent's stderr back. If it does not read at all, lines without
//! room are dropped and counted: neither records nor the close may wait for it.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::stdio::stderr;

use super::agent_lines::{AgentLines, OURS};
use super::descriptor::{BACK_OFF, Descriptor, Direction, LoopWaker, poll_for};
use super::output::Backlog;
use super::signals::Signals;

/// Above this many bytes lines are dropped once stderr is stuck.
const ROOM: usize = 256 << 10;
/// Above this many bytes lines are dropped even if stderr accepts something. Only a close comes to this,
/// because it reads the agent's stderr whatever becomes of it.
const ROOM_MAX: usize = 64 << 20;
/// Above this many bytes the agent's stderr is held back.
const FULL: usize = 64 << 10;
/// How long stderr may accept nothing before it counts as stuck. Also the wait at the end.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// The largest write that a pipe does not split (PIPE_BUF), so that lines of other writers do not fall
/// into ours.
const WHOLE: usize = 4096;
/// The largest write to a regular file, which splits none.
const WHOLE_IN_FILE: usize = 64 << 10;

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
    agent: AgentLines,
    /// The last byte written was not a line end.
    mid_line: bool,
    /// stderr has accepted nothing for [`PATIENCE`].
    stuck: bool,
    /// stderr has failed.
    broken: bool,
    dropped: u64,
    /// The agent is inside a line that was dropped, and its other pieces are dropped with it.
    drops_line: bool,
}

impl LineQueue {
    fn room(&self) -> usize {
        if self.stuck { ROOM } else { ROOM_MAX }
    }
}

impl Lines {
    pub(super) fn new(waker: Arc<LoopWaker>) -> Self {
        let agent = AgentLines { escapes: stderr().is_terminal(), ..AgentLines::default() };
        let queue = Mutex::new(LineQueue { agent, ..LineQueue::default() });
        Self(Arc::new(Shared { queue, waker }))
    }

    /// Notes that the report will be among the lines.
    pub(super) fn expect_report(&self) {
        self.lock().agent.with_report = true;
    }

    /// Notes that stdout is the same file, so that no line may stay unfinished.
    pub(super) fn join_records(&self) {
        self.lock().agent.with_records = true;
    }

    /// Adds a line of this command.
    pub(super) fn say(&self, what: fmt::Arguments<'_>) {
        self.push(false, |agent, bytes| {
            agent.end_line(bytes);
            // A write to a `Vec` does not fail.
            let _to_memory = writeln!(bytes, "{OURS}{what}");
        });
    }

    /// Adds a line of the agent, or a piece of one.
    ///
    /// A line in pieces is one item and is dropped once, because the parent counts lines.
    pub(super) fn pass(&self, piece: &[u8]) {
        let is_finished = piece.ends_with(b"\n");
        let queue = &mut *self.lock();
        let inside = !queue.agent.open.is_empty();
        if queue.drops_line {
            queue.drops_line = !is_finished;
        } else if queue.broken || queue.backlog.len() >= queue.room() {
            queue.dropped += 1;
            queue.drops_line = !is_finished;
            if inside && !queue.broken {
                // The next line must not continue the one that is cut here.
                queue.backlog.extend(|bytes| queue.agent.end_line(bytes));
            }
        } else {
            let print = |bytes: &mut Vec<u8>| queue.agent.print(piece, bytes);
            if inside { queue.backlog.extend(print) } else { queue.backlog.push(print) }
        }
    }

    /// Adds one of the last lines, for which there is always room, as it is.
    pub(super) fn say_last(&self, line: &str) {
        self.push(true, |agent, bytes| {
            agent.end_line(bytes);
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
        });
    }

    fn push(&self, always: bool, fill: impl FnOnce(&mut AgentLines, &mut Vec<u8>)) {
        let queue = &mut *self.lock();
        if queue.broken || (!always && queue.backlog.len() >= queue.room()) {
            queue.dropped += 1;
            return;
        }
        queue.backlog.push(|bytes| fill(&mut queue.agent, bytes));
    }

    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        // No code that holds the lock panics.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For traces: each write is a whole line.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(false, |agent, bytes| {
            agent.end_line(bytes);
            bytes.extend_from_slice(line);
        });
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

    /// Whether the agent's stderr is to be held back, which it is if `held`. If stderr is stuck, lines are
    /// dropped instead.
    pub(super) fn is_behind(&self, held: bool) -> bool {
        let queue = self.lines.lock();
        // Less than the mark, so that reading does not stop and start again at each line.
        !queue.stuck && queue.backlog.len() > if held { FULL / 2 } else { FULL }
    }

    /// Returns when stderr counts as stuck, unless it does already.
    pub(super) fn stuck_at(&self) -> Option<Instant> {
        self.stuck.filter(|_| !self.lines.lock().stuck).map(|since| since + PATIENCE)
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
        let queue = &mut *self.lines.lock();
        let whole = if self.descriptor.is_plain() { WHOLE_IN_FILE } else { WHOLE };
        while !queue.backlog.is_empty() && self.descriptor.is_ready() {
            let bytes = queue.backlog.whole_items(whole);
            match self.descriptor.write(bytes) {
                Ok(len) => {
                    queue.mid_line = len.checked_sub(1).is_some_and(|last| bytes[last] != b'\n');
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
        queue.stuck = self.stuck.is_some_and(|since| now >= since + PATIENCE);
        moved
    }

    /// Waits until everything is written, but no longer than `patience` for a parent that does not read, and
    /// `limit` for one that reads slowly. A signal ends the wait.
    pub(super) fn finish(&mut self, patience: Duration, limit: Duration, signals: &Signals) {
        let begun = Instant::now();
        loop {
            let now = Instant::now();
            let moved = self.flush(now);
            let stuck = self.stuck.map_or(Duration::ZERO, |since| now - since);
            let left = patience.saturating_sub(stuck).min(limit.saturating_sub(now - begun));
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
        let (lines, _) = queue.backlog.give_up();
        queue.dropped += lines;
        if lines > 0 {
            queue.agent.forget();
        }
        if lines > 0 && queue.mid_line {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Passes pieces of 1 KiB, the last of which ends the line.
    fn pass_line(lines: &Lines, pieces: usize) {
        for left in (0..pieces).rev() {
            let mut piece = vec![b'x'; 1 << 10];
            if left == 0 {
                piece.push(b'\n');
            }
            lines.pass(&piece);
        }
    }

    // An agent at a prompt, or one whose stderr is held back in the middle of a line.
    #[test]
    fn line_in_pieces_is_lost_once() {
        let lines = Lines::new(LoopWaker::new().expect("an eventfd"));
        pass_line(&lines, 3);
        pass_line(&lines, 1);
        assert_eq!(lines.lock().backlog.items(), 2);
        lines.lock().stuck = true;
        // The room ends within this line, and then at the beginning of the next one.
        pass_line(&lines, 300);
        pass_line(&lines, 3);
        pass_line(&lines, 1);
        let mut queue = lines.lock();
        assert_eq!((queue.backlog.items(), queue.dropped), (3, 3));
        assert!(queue.backlog.left().ends_with(b"x\n"), "the next line begins a line");
        // There is room again, in the middle of a line that was dropped.
        queue.backlog.give_up();
        queue.drops_line = true;
        drop(queue);
        pass_line(&lines, 2);
        pass_line(&lines, 2);
        let queue = lines.lock();
        assert_eq!((queue.backlog.items(), queue.dropped), (1, 3));
    }
}
