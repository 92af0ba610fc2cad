//! F5, fake: how a real CLI leaves, as a pure function of what it sees and when. No clock, no I/O.
//!
//! The figures were measured on 2.1.330 (native) and 2.1.112 (Node); docs/guide/fake.md has the table.

use std::time::Duration;

use super::args::Build;

/// From the event to the moment the CLI acts on it. A pipe that breaks in between broke "before".
const NOTICING: Duration = Duration::from_millis(8);
/// The native flush timer: after SIGTERM, after a pipe that broke early, and for small queues.
const SHORT_FLUSH: Duration = Duration::from_secs(2);
/// How long the native build writes on after the end of input.
const LONG_FLUSH: Duration = Duration::from_secs(30);
/// 183 kB left after 2 s, 8.5 MB after 30 s; the line between them is a guess.
const SMALL_QUEUE: usize = 1 << 20;
/// The Node build is gone this long after it acted.
const NODE_EXIT: Duration = Duration::from_millis(70);

/// What the rest of the agent looks like at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// Bytes not yet written.
    pub(super) queued: usize,
    /// A turn is being answered: the end of input waits for it.
    pub(super) turn_open: bool,
    /// The last turn was interrupted.
    pub(super) interrupted: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    Continue,
    /// Stop writing in the middle of whatever is being written, and drop the rest.
    Cut,
    /// Leave; `clean` if everything was written.
    Exit {
        code: u8,
        clean: bool,
    },
}

/// The exit of one process. Times count from any fixed moment.
#[derive(Debug)]
pub(super) struct Life {
    build: Build,
    flush_limit: Option<Duration>,
    /// When an end of input or a SIGTERM that was seen will be acted on.
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

    /// A write got EPIPE. The caller drops its queue.
    pub(super) fn see_broken_pipe(&mut self, now: Duration) {
        match (&mut self.leaving, self.build) {
            (Some(leaving), Build::ClaudeNative) => {
                // During the flush it is the end of the flush.
                leaving.limit = now;
                leaving.lost = true;
            }
            (Some(leaving), Build::ClaudeNode) => leaving.lost = true,
            // Before it, the CLI goes on as if nothing had happened.
            (None, _) => self.broken = true,
        }
    }

    /// Decides. To be called after every event and at every deadline.
    pub(super) fn step(&mut self, now: Duration, view: View) -> Step {
        let due = |time: Option<Duration>| time.is_some_and(|time| time <= now);
        if self.leaving.is_none() {
            let (code, by_term) = if due(self.term_due) {
                self.term_due = None;
                (143, true)
            } else if due(self.eof_due) && !view.turn_open {
                self.eof_due = None;
                (u8::from(view.interrupted), false)
            } else {
                return Step::Continue;
            };
            let limit = now + self.flush_time(view.queued, by_term);
            self.leaving = Some(Leaving { code, limit, lost: false });
            if self.build == Build::ClaudeNode {
                return Step::Cut;
            }
        }
        let Some(leaving) = &mut self.leaving else { return Step::Continue };
        if self.build == Build::ClaudeNative && due(self.term_due) {
            // A SIGTERM shortens a flush that the end of input began; the status stays.
            self.term_due = None;
            leaving.limit = leaving.limit.min(now + SHORT_FLUSH);
        }
        let lost = self.broken || leaving.lost;
        let flushed = view.queued == 0 && !lost;
        if now >= leaving.limit || (flushed && self.build == Build::ClaudeNative) {
            return Step::Exit { code: leaving.code, clean: flushed };
        }
        Step::Continue
    }

    /// When `step` must be called again if nothing happens.
    pub(super) fn deadline(&self, turn_open: bool) -> Option<Duration> {
        let eof = self.eof_due.filter(|_| !turn_open && self.leaving.is_none());
        let term =
            self.term_due.filter(|_| self.leaving.is_none() || self.build == Build::ClaudeNative);
        let limit = self.leaving.map(|leaving| leaving.limit);
        [eof, term, limit].into_iter().flatten().min()
    }

    /// Whether new output is still produced.
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
