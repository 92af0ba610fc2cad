//! Floor 2. What the handles of an agent do, whoever drives it: the two engines only differ in
//! how a request reaches the core.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::close::CloseMode;
use crate::close::{CloseReason, CloseReport};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::encode;
use crate::origin::foreign;
use crate::record::Event;
use crate::sync::WaitKey;

use super::request::{CloseLimits, Request};
use super::shared::{Offer, Shared};

/// The way from an agent's handles to whoever drives it.
pub(crate) trait Line {
    fn shared(&self) -> &Arc<Shared>;

    /// Asks the driver. Where it has ended, the agent was closed with it. Not to be called in a
    /// forked child.
    fn request(&self, request: Request);
}

/// Queues one record, framed. Resolves once it is accepted.
pub(crate) async fn send<L: Line>(line: &L, record: impl AsRef<[u8]>) -> Result<()> {
    let shared = line.shared();
    let mut frame = Some(framed(shared, record.as_ref())?);
    let mut waiter = Waiter { shared, place: WaitKey::default() };
    std::future::poll_fn(|context| poll_send(line, &mut frame, &mut waiter.place, context)).await
}

/// One that waits for room or for the flush; dropped, it leaves nothing behind.
struct Waiter<'a> {
    shared: &'a Shared,
    place: WaitKey,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.shared.leave(&mut self.place);
    }
}

/// Whether the handles are used in the process of their engine. In a fork of it they touch no lock
/// and ask for nothing.
fn is_here(shared: &Shared) -> bool {
    shared.origin.is_here()
}

fn check_here(shared: &Shared) -> Result<()> {
    if is_here(shared) { Ok(()) } else { Err(foreign("write").on_agent(shared.label.as_str())) }
}

fn framed(shared: &Shared, record: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    encode(shared.framing, record, &shared.limits, &mut frame)
        .map_err(|error| error.on_agent(shared.label.as_str()))?;
    Ok(frame)
}

fn poll_send<L: Line>(
    line: &L,
    frame: &mut Option<Vec<u8>>,
    place: &mut WaitKey,
    context: &mut Context<'_>,
) -> Poll<Result<()>> {
    check_here(line.shared())?;
    let Some(offered) = frame.take() else { return Poll::Ready(Ok(())) };
    match line.shared().offer(offered, place, context.waker()) {
        Offer::Acquired { tell_engine } => {
            if tell_engine {
                line.request(Request::Write);
            }
            Poll::Ready(Ok(()))
        }
        Offer::Full(back) => {
            *frame = Some(back);
            Poll::Pending
        }
        Offer::Refused(error) => Poll::Ready(Err(explain(line.shared(), error))),
    }
}

/// Resolves once every accepted byte is on the pipe.
pub(crate) async fn flush(shared: &Shared) -> Result<()> {
    let mut waiter = Waiter { shared, place: WaitKey::default() };
    std::future::poll_fn(|context| {
        check_here(shared)?;
        match shared.poll_flushed(&mut waiter.place, context.waker()) {
            Some(result) => Poll::Ready(result.map_err(|error| explain(shared, error))),
            None => Poll::Pending,
        }
    })
    .await
}

/// How the agent ended is worth more than that it is closed.
fn explain(shared: &Shared, error: Error) -> Error {
    match shared.close_report() {
        Some(report) if error.kind() != ErrorKind::InputEnded => {
            let what = format!("the agent is gone: {}", report.exit());
            Error::new(ErrorKind::Closed, "write", what)
                .on_agent(shared.label.as_str())
                .stderr(report.stderr_tail())
        }
        _ => error,
    }
}

/// Refuses further writes, and closes stdin once everything accepted is written.
pub(crate) fn end_input<L: Line>(line: &L) {
    let shared = line.shared();
    if !is_here(shared) {
        return;
    }
    let error = Error::new(ErrorKind::InputEnded, "write", "the input was ended")
        .on_agent(shared.label.as_str())
        .remedy("send before end_input, or spawn another agent");
    if shared.refuse_writes(error) {
        line.request(Request::EndInput);
    }
}

/// Notes the record that interrupts the open turn, or that no turn is open.
pub(crate) fn set_interrupt<L: Line>(line: &L, request: Option<&[u8]>) -> Result<()> {
    check_here(line.shared())?;
    let frame = request.map(|record| framed(line.shared(), record)).transpose()?;
    let over = frame.is_none();
    let was_open = line.shared().set_interrupt(frame);
    if over && was_open {
        line.request(Request::TurnEnded);
    }
    Ok(())
}

/// The next event; those taken over in one go and not yet given out are in `local`.
pub(crate) fn poll_next<L: Line>(
    line: &L,
    local: &mut VecDeque<Event>,
    context: &mut Context<'_>,
) -> Poll<Option<Event>> {
    let shared = line.shared();
    if !is_here(shared) {
        return Poll::Ready(None);
    }
    if local.is_empty() && !shared.take_events(local, context.waker()) {
        return Poll::Ready(None);
    }
    let Some(event) = local.pop_front() else { return Poll::Pending };
    if local.is_empty() {
        shared.read_out(local);
    }
    if shared.consumed(event.weight()) {
        line.request(Request::Resume);
    }
    Poll::Ready(Some(event))
}

/// Nobody listens any more.
pub(crate) fn drop_reader<L: Line>(line: &L) {
    if !is_here(line.shared()) {
        return;
    }
    line.shared().drop_reader();
    // A paused read would block the agent for nobody.
    line.request(Request::Resume);
}

/// The driver carries the close out from here on, whatever becomes of the caller.
pub(crate) async fn close<L: Line>(line: &L, limits: CloseLimits) -> CloseReport {
    if is_here(line.shared()) {
        line.request(Request::Close(limits, CloseReason::Requested));
    }
    line.shared().closed().await
}

/// The last handle is gone: true if the agent was not closed and is aborted now.
pub(crate) fn abandon<L: Line>(line: &L) -> bool {
    let shared = line.shared();
    // In a forked child there is a report as well: the agent is the parent's.
    if shared.close_report().is_some() {
        return false;
    }
    let agent = shared.label.as_str();
    crate::trace::warn!(agent, "dropped without a close; it is aborted");
    line.request(Request::Close(CloseLimits::Own(CloseMode::Abort), CloseReason::Dropped));
    true
}
