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

use super::channel::{Channel, Offer};
use super::request::{CloseLimits, Request};

/// The way from an agent's handles to whoever drives it.
pub(crate) trait Line {
    fn channel(&self) -> &Arc<Channel>;

    /// Asks the driver. Where it has ended, the agent was closed with it. Not to be called in a
    /// forked child.
    fn request(&self, request: Request);
}

/// Queues one record, framed. Resolves once it is accepted.
pub(crate) async fn send<L: Line>(line: &L, record: impl AsRef<[u8]>) -> Result<()> {
    let channel = line.channel();
    let mut frame = Some(framed(channel, record.as_ref())?);
    let mut waiter = Waiter { channel, place: WaitKey::default() };
    std::future::poll_fn(|context| poll_send(line, &mut frame, &mut waiter.place, context)).await
}

/// One that waits for room or for the flush; dropped, it leaves nothing behind.
struct Waiter<'a> {
    channel: &'a Channel,
    place: WaitKey,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.channel.leave(&mut self.place);
    }
}

/// Whether the handles are used in the process of their engine. In a fork of it they touch no lock
/// and ask for nothing.
fn is_here(channel: &Channel) -> bool {
    channel.origin.is_here()
}

fn check_here(channel: &Channel) -> Result<()> {
    if is_here(channel) { Ok(()) } else { Err(foreign("write").on_agent(channel.label.as_str())) }
}

fn framed(channel: &Channel, record: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    encode(channel.framing, record, &channel.limits, &mut frame)
        .map_err(|error| error.on_agent(channel.label.as_str()))?;
    Ok(frame)
}

fn poll_send<L: Line>(
    line: &L,
    frame: &mut Option<Vec<u8>>,
    place: &mut WaitKey,
    context: &mut Context<'_>,
) -> Poll<Result<()>> {
    check_here(line.channel())?;
    let Some(offered) = frame.take() else { return Poll::Ready(Ok(())) };
    match line.channel().offer(offered, place, context.waker()) {
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
        Offer::Refused(error) => Poll::Ready(Err(explain(line.channel(), error))),
    }
}

/// Resolves once every accepted byte is on the pipe.
pub(crate) async fn flush(channel: &Channel) -> Result<()> {
    let mut waiter = Waiter { channel, place: WaitKey::default() };
    std::future::poll_fn(|context| {
        check_here(channel)?;
        match channel.poll_flushed(&mut waiter.place, context.waker()) {
            Some(result) => Poll::Ready(result.map_err(|error| explain(channel, error))),
            None => Poll::Pending,
        }
    })
    .await
}

/// How the agent ended is worth more than that it is closed.
fn explain(channel: &Channel, error: Error) -> Error {
    match channel.close_report() {
        Some(report) if error.kind() != ErrorKind::InputEnded => {
            let what = format!("the agent is gone: {}", report.exit());
            Error::new(ErrorKind::Closed, "write", what)
                .on_agent(channel.label.as_str())
                .stderr(report.stderr_tail())
        }
        _ => error,
    }
}

/// Refuses further writes, and closes stdin once everything accepted is written.
pub(crate) fn end_input<L: Line>(line: &L) {
    let channel = line.channel();
    if !is_here(channel) {
        return;
    }
    let error = Error::new(ErrorKind::InputEnded, "write", "the input was ended")
        .on_agent(channel.label.as_str())
        .remedy("send before end_input, or spawn another agent");
    if channel.refuse_writes(error) {
        line.request(Request::EndInput);
    }
}

/// Notes the record that interrupts the open turn, or that no turn is open.
pub(crate) fn set_interrupt<L: Line>(line: &L, request: Option<&[u8]>) -> Result<()> {
    check_here(line.channel())?;
    let frame = request.map(|record| framed(line.channel(), record)).transpose()?;
    let over = frame.is_none();
    let was_open = line.channel().set_interrupt(frame);
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
    let channel = line.channel();
    if !is_here(channel) {
        return Poll::Ready(None);
    }
    if local.is_empty() && !channel.take_events(local, context.waker()) {
        return Poll::Ready(None);
    }
    let Some(event) = local.pop_front() else { return Poll::Pending };
    if local.is_empty() {
        channel.read_out(local);
    }
    if channel.consumed(event.weight()) {
        line.request(Request::Resume);
    }
    Poll::Ready(Some(event))
}

/// Nobody listens any more.
pub(crate) fn drop_reader<L: Line>(line: &L) {
    if !is_here(line.channel()) {
        return;
    }
    line.channel().drop_reader();
    // A paused read would block the agent for nobody.
    line.request(Request::Resume);
}

/// The driver carries the close out from here on, whatever becomes of the caller.
pub(crate) async fn close<L: Line>(line: &L, limits: CloseLimits) -> CloseReport {
    if is_here(line.channel()) {
        line.request(Request::Close(limits, CloseReason::Requested));
    }
    line.channel().closed().await
}

/// The last handle is gone: true if the agent was not closed and is aborted now.
pub(crate) fn abandon<L: Line>(line: &L) -> bool {
    let channel = line.channel();
    // In a forked child there is a report as well: the agent is the parent's.
    if channel.close_report().is_some() {
        return false;
    }
    let agent = channel.label.as_str();
    crate::trace::warn!(agent, "dropped without a close; it is aborted");
    line.request(Request::Close(CloseLimits::Own(CloseMode::Abort), CloseReason::Dropped));
    true
}
