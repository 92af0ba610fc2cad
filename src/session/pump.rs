//! Floor 4. The task that reads the agent for a session. No code of a user runs on it, and it
//! waits for nothing but the agent and the readers' budget.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::close_report::{CloseReason, CloseReport};
use crate::engine::AgentReader;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::exit_status::ExitStatus;
use crate::wakers::Place;

use super::core::Core;

/// Events taken in one turn, before other tasks of the thread get theirs.
const TURN: usize = 256;

#[derive(Debug)]
pub(super) struct Pump {
    core: Arc<Core>,
    reader: AgentReader,
    /// The last event, held back until the report is there.
    exit: Option<Event>,
    /// Where it waits for the beginning of a close, and for its report.
    closing: Place,
    closed: Place,
    over: bool,
}

impl Pump {
    pub(super) fn new(core: Arc<Core>, reader: AgentReader) -> Self {
        Self {
            core,
            reader,
            exit: None,
            closing: Place::default(),
            closed: Place::default(),
            over: false,
        }
    }

    /// Ready when the agent's output is at its end. `Pending` may mean that nobody reads.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURN {
            match self.core.pump_may_read(context.waker()) {
                None => return Poll::Ready(()),
                Some(false) => return Poll::Pending,
                Some(true) => {}
            }
            match ready!(self.reader.poll_next(context)) {
                Some(Event::Record(record)) => self.core.on_record(record),
                Some(exit @ Event::Exit(_)) => {
                    self.exit = Some(exit);
                    return Poll::Ready(());
                }
                Some(other) => self.core.on_data(other),
                None => return Poll::Ready(()),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Future for Pump {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let pump = &mut *self;
        let read_all = pump.exit.is_some() || pump.poll_read(context).is_ready();
        if pump.core.pump_may_read(context.waker()).is_none() {
            // Every handle is gone. The guard below does what is left.
            return Poll::Ready(());
        }
        if read_all {
            let report = ready!(pump.core.writer.poll_closed(&mut pump.closed, context));
            let exit = pump.exit.take().or(Some(Event::Exit(report.exit())));
            pump.over = true;
            pump.core.finished(ended(&pump.core, &report), exit);
            return Poll::Ready(());
        }
        // Everything that was there is read: an answer that came before the end has its place.
        if let Poll::Ready(reason) = pump.core.writer.poll_closing(&mut pump.closing, context) {
            match ending(&pump.core, reason) {
                Some(why) => pump.core.end(why),
                None => pump.core.drain(),
            }
        }
        Poll::Pending
    }
}

/// However the pump goes: with its runtime, in a panic, or because nobody is left.
impl Drop for Pump {
    fn drop(&mut self) {
        if !self.over {
            let what = "the runtime that ran the session dropped its tasks";
            let error = self.core.error(ErrorKind::Closed, what);
            let error = error.remedy("close its sessions before a runtime ends");
            self.core.finished(error, self.exit.take());
            self.core.writer.abandon();
        }
    }
}

/// Why no answer can come any more, though the agent is not reaped. An exit is told when its
/// status is known, a moment later.
fn ending(core: &Core, reason: CloseReason) -> Option<Error> {
    let (kind, what) = match reason {
        CloseReason::Exited => return None,
        CloseReason::Shutdown => (ErrorKind::EngineStopped, "the engine was shut down"),
        CloseReason::Forked => (ErrorKind::EngineStopped, "the engine belongs to another process"),
        CloseReason::OutputEnded => return Some(by_itself(core, "the agent closed its stdout")),
        CloseReason::Requested | CloseReason::Dropped => {
            (ErrorKind::Closed, "the session was closed")
        }
    };
    Some(core.error(kind, what))
}

/// Why the session is over, with all that is known.
fn ended(core: &Core, report: &CloseReport) -> Error {
    let exit = report.exit();
    let error = match ending(core, report.reason()) {
        Some(why) => why,
        None if exit.success() => core.error(ErrorKind::Closed, format!("the agent ended: {exit}")),
        None => by_itself(core, &format!("the agent ended: {exit}")),
    };
    let error = if exit == ExitStatus::Unknown { error } else { error.exit(exit) };
    error.stderr(report.stderr_tail())
}

/// The agent went, and nobody here asked it to: its own last words say best why.
fn by_itself(core: &Core, what: &str) -> Error {
    match core.last_words() {
        Some((words, record)) => {
            let reply = String::from_utf8_lossy(record.as_bytes()).into_owned();
            core.error(ErrorKind::AgentError, format!("{words}; {what}")).answered(reply)
        }
        None => core.error(ErrorKind::Closed, what),
    }
}
