//! The pump: the task that reads the agent for a session. It waits only for the agent and for the
//! readers' budget, and runs no code of a user but wakers.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use crate::agent::AgentReader;
use crate::close::ExitStatus;
use crate::close::{CloseReason, CloseReport};
use crate::error::{Error, ErrorKind};
use crate::record::Event;
use crate::sync::WaitKey;

use super::core::Core;
use super::unread::Item;

/// Events routed in one turn, before other tasks of the thread get theirs.
const TURN: usize = 256;

/// The reading half of the agent. The holder of the lock routes what is there, in its order.
#[derive(Debug)]
pub(super) struct Reading {
    /// `None` once the pump is gone.
    reader: Option<AgentReader>,
    /// The last event, held back until the report is there.
    exit: Option<Event>,
    ended: bool,
    /// That of the pump, whichever task reads.
    waker: Waker,
}

impl Reading {
    pub(super) fn new(reader: AgentReader) -> Self {
        let waker = Waker::noop().clone();
        Self { reader: Some(reader), exit: None, ended: false, waker }
    }
}

/// What there was to route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// Nothing more is there now. `some`: something was.
    All { some: bool },
    /// A turn is over, and there may be more.
    More,
    /// Too much is unread: nothing may be taken.
    Held,
    /// The agent's output is at its end.
    AtEnd,
    /// Every handle is gone.
    Released,
}

impl Core {
    /// One turn of events, each to where it belongs.
    pub(super) fn route(self: &Arc<Self>, reading: &mut Reading) -> Routed {
        let waker = reading.waker.clone();
        let Some(reader) = reading.reader.as_mut().filter(|_| !reading.ended) else {
            return Routed::AtEnd;
        };
        for count in 0..TURN {
            match self.pump_may_read(&waker) {
                None => return Routed::Released,
                Some(false) => return Routed::Held,
                Some(true) => {}
            }
            match reader.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Pending => return Routed::All { some: count > 0 },
                Poll::Ready(Some(Event::Record(record))) => self.on_record(record),
                Poll::Ready(Some(exit @ Event::Exit(_))) => {
                    reading.exit = Some(exit);
                    reading.ended = true;
                    return Routed::AtEnd;
                }
                Poll::Ready(Some(other)) => {
                    self.on_lost(&other);
                    self.on_data(Item::Event(other));
                }
                Poll::Ready(None) => {
                    reading.ended = true;
                    return Routed::AtEnd;
                }
            }
        }
        Routed::More
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        // A waker of a user's may have panicked under it; what was read is routed all the same.
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads until the end, and then waits for the report.
#[derive(Debug)]
pub(super) struct Pump {
    core: Arc<Core>,
    /// Where it waits for the beginning of a close, and for its report.
    closing: WaitKey,
    closed: WaitKey,
    /// A close has begun, and that was told: it does not begin twice.
    told_closing: bool,
    over: bool,
}

impl Pump {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let (closing, closed) = (WaitKey::default(), WaitKey::default());
        Self { core, closing, closed, told_closing: false, over: false }
    }

    /// The agent is on its way out. Where it began that, an answer that came before the end has its
    /// place: everything that was there is read first.
    fn poll_closing(&mut self, context: &mut Context<'_>, all_read: bool) {
        if self.told_closing {
            return;
        }
        if let Poll::Ready(reason) = self.core.writer.poll_closing(&mut self.closing, context) {
            if !all_read && matches!(reason, CloseReason::Exited | CloseReason::OutputEnded) {
                return;
            }
            self.told_closing = true;
            match ending(&self.core, reason) {
                Some(why) => self.core.end(why),
                None => self.core.drain(),
            }
        }
    }
}

impl Future for Pump {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let pump = &mut *self;
        let routed = {
            let mut reading = pump.core.reading();
            reading.waker.clone_from(context.waker());
            pump.core.route(&mut reading)
        };
        match routed {
            // The guard below does what is left.
            Routed::Released => Poll::Ready(()),
            Routed::More => {
                pump.poll_closing(context, false);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Routed::All { .. } | Routed::Held => {
                pump.poll_closing(context, true);
                Poll::Pending
            }
            Routed::AtEnd => {
                if pump.core.pump_may_read(context.waker()).is_none() {
                    return Poll::Ready(());
                }
                let report = ready!(pump.core.writer.poll_closed(&mut pump.closed, context));
                let exit = pump.core.reading().exit.take();
                let exit = exit.or(Some(Event::Exit(report.exit())));
                pump.over = true;
                pump.core.finished(ended(&pump.core, &report), exit);
                Poll::Ready(())
            }
        }
    }
}

/// However the pump goes: with its runtime, in a panic, or because nobody is left.
impl Drop for Pump {
    fn drop(&mut self) {
        let (reader, exit) = {
            let mut reading = self.core.reading();
            (reading.reader.take(), reading.exit.take())
        };
        drop(reader);
        if !self.over {
            let what = "the runtime that ran the session dropped its tasks";
            let error = self.core.error(ErrorKind::Closed, what);
            let error = error.remedy("close its sessions before a runtime ends");
            self.core.finished(error, exit);
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
