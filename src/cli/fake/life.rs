//! The exit of a real CLI, as a pure function of events and times.
//!
//! The figures were measured on 2.1.330 (native) and 2.1.112 (Node); docs/guide/fake.md has the table.

use std::time::Duration;

use super::args::Build;

/// The time from an event until the CLI acts on it. A pipe that breaks in between counts as broken before.
const NOTICING: Duration = Duration::from_millis(8);
/// The native flush timer: after SIGTERM, after a pipe that broke early, and for small queues.
const SHORT_FLUSH: Duration = Duration::from_secs(2);
/// How long the native build continues to write after the end of input.
const LONG_FLUSH: Duration = Duration::from_secs(30);
/// A queue of 183 kB was given 2 s, one of 8.5 MB 30 s; the boundary between them is a guess.
const SMALL_QUEUE: usize = 1 << 20;
/// The time from the action of the Node build until it has exited.
const NODE_EXIT: Duration = Duration::from_millis(70);

/// The state of the rest of the agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Bytes not yet written.
    pub(super) queued: usize,
    /// A turn is in progress, which delays the end of input.
    pub(super) turn_open: bool,
    /// The last turn was interrupted.
    pub(super) interrupted: bool,
}

/// What the agent does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Decision {
    Continue,
    /// Stop writing, even in the middle of a record, and drop the rest.
    Cut,
    /// Exit; `clean` if everything was written.
    Exit {
        code: u8,
        clean: bool,
    },
}

/// The exit of one process. Times are relative to any fixed start.
#[derive(Debug)]
pub(super) struct Life {
    build: Build,
    flush_limit: Option<Duration>,
    /// When an end of input or a SIGTERM takes effect.
    eof_due: Option<Duration>,
    term_due: Option<Duration>,
    /// The pipe broke before the exit began.
    broken: bool,
    leaving: Option<Leaving>,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    code: u8,
    limit: Duration,
    /// The pipe broke during the flush.
    lost: bool,
}

impl Life {
    pub(super) fn new(build: Build, flush_limit: Option<Duration>) -> Self {
        Self { build, flush_limit, eof_due: None, term_due: None, broken: false, leaving: None }
    }

    pub(super) fn see_eof(&mut self, now: Duration) {
        self.eof_due.get_or_insert(now + NOTICING);
    }

    pub(super) fn see_term(&mut self, now: Duration) {
        self.term_due.get_or_insert(now + NOTICING);
    }

    /// Notes that a write failed with EPIPE. The caller drops its queue.
    pub(super) fn see_broken_pipe(&mut self, now: Duration) {
        match (&mut self.leaving, self.build) {
            (Some(leaving), Build::ClaudeNative) => {
                // During the flush it ends the flush.
                leaving.limit = now;
                leaving.lost = true;
            }
            (Some(leaving), Build::ClaudeNode) => leaving.lost = true,
            // Before the flush the CLI continues as if nothing had happened.
            (None, _) => self.broken = true,
        }
    }

    /// Decides what to do. Must be called after every event and at every deadline.
    pub(super) fn step(&mut self, now: Duration, view: View) -> Decision {
        let due = |time: Option<Duration>| time.is_some_and(|time| time <= now);
        if self.leaving.is_none() {
            let (code, by_term) = if due(self.term_due) {
                self.term_due = None;
                (143, true)
            } else if due(self.eof_due) && !view.turn_open {
                self.eof_due = None;
                (u8::from(view.interrupted), false)
            } else {
                return Decision::Continue;
            };
            let limit = now + self.flush_time(view.queued, by_term);
            self.leaving = Some(Leaving { code, limit, lost: false });
            if self.build == Build::ClaudeNode {
                return Decision::Cut;
            }
        }
        let Some(leaving) = &mut self.leaving else { return Decision::Continue };
        if self.build == Build::ClaudeNative && due(self.term_due) {
            // A SIGTERM shortens a flush after the end of input; the exit status stays.
            self.term_due = None;
            leaving.limit = leaving.limit.min(now + SHORT_FLUSH);
        }
        let lost = self.broken || leaving.lost;
        let flushed = view.queued == 0 && !lost;
        if now >= leaving.limit || (flushed && self.build == Build::ClaudeNative) {
            return Decision::Exit { code: leaving.code, clean: flushed };
        }
        Decision::Continue
    }

    /// Returns when `step` must be called again if no event occurs.
    pub(super) fn deadline(&self, turn_open: bool) -> Option<Duration> {
        let eof = self.eof_due.filter(|_| !turn_open && self.leaving.is_none());
        let term =
            self.term_due.filter(|_| self.leaving.is_none() || self.build == Build::ClaudeNative);
        let limit = self.leaving.map(|leaving| leaving.limit);
        [eof, term, limit].into_iter().flatten().min()
    }

    /// Whether the exit has begun, after which no new output is produced.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    fn flush_time(&self, queued: usize, by_term: bool) -> Duration {
        match self.build {
            Build::ClaudeNode => NODE_EXIT,
            Build::ClaudeNative if self.broken || by_term => SHORT_FLUSH,
            Build::ClaudeNative => self.flush_limit.unwrap_or(if queued < SMALL_QUEUE {
                SHORT_FLUSH
            } else {
                LONG_FLUSH
            }),
        }
    }
}
