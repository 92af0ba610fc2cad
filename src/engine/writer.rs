//! Floor 3. The writing half of an agent.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::error::{Error, ErrorKind, Result};
use crate::frame::encode;
use crate::metrics::Stats;
use crate::transport::{Offer, Request};

use super::control::Control;

/// Sends records to an agent. Cheap to clone; made by [`Agent::split`](super::Agent::split).
///
/// Dropping the last one ends the agent's input once everything accepted is written, as the end
/// of any pipe does.
#[derive(Clone, Debug)]
pub struct AgentWriter {
    pub(super) control: Arc<Control>,
    _input: Arc<Input>,
}

/// What all writers of an agent share: with the last of them the input ends.
#[derive(Debug)]
struct Input(Arc<Control>);

impl Drop for Input {
    fn drop(&mut self) {
        end_input(&self.0);
    }
}

fn end_input(control: &Control) {
    let shared = &control.shared;
    let error = Error::new(ErrorKind::InputEnded, "write", "the input was ended")
        .on_agent(shared.label.as_str())
        .remedy("send before end_input, or spawn another agent");
    shared.refuse_writes(error);
    control.request(Request::EndInput);
}

impl AgentWriter {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self { _input: Arc::new(Input(Arc::clone(&control))), control }
    }

    /// Queues one record; the framing is added here. Resolves once it is accepted, which waits
    /// only while [`Limits::outbox_high`](crate::Limits::outbox_high) bytes are unsent.
    ///
    /// Cancel-safe: a record is accepted whole or not at all. An accepted record is written
    /// whole, unless the agent goes away or is closed; the report then counts it as unsent.
    ///
    /// # Errors
    /// [`InvalidRecord`](ErrorKind::InvalidRecord) and
    /// [`RecordTooLarge`](ErrorKind::RecordTooLarge) before a byte is sent,
    /// [`InputEnded`](ErrorKind::InputEnded) after [`end_input`](Self::end_input) or where the
    /// agent closed its stdin, [`Closed`](ErrorKind::Closed) where the agent is gone or closed.
    pub async fn send(&self, record: impl AsRef<[u8]>) -> Result<()> {
        let shared = &self.control.shared;
        let mut frame = Vec::new();
        encode(shared.framing, record.as_ref(), &shared.limits, &mut frame)
            .map_err(|error| error.on_agent(shared.label.as_str()))?;
        let mut frame = Some(frame);
        std::future::poll_fn(|context| self.poll_send(&mut frame, context)).await
    }

    fn poll_send(
        &self,
        frame: &mut Option<Vec<u8>>,
        context: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        let Some(offered) = frame.take() else { return Poll::Ready(Ok(())) };
        match self.control.shared.offer(offered, context.waker()) {
            Offer::Taken { tell_engine } => {
                if tell_engine {
                    self.control.request(Request::Write);
                }
                Poll::Ready(Ok(()))
            }
            Offer::Full(back) => {
                *frame = Some(back);
                Poll::Pending
            }
            Offer::Refused(error) => Poll::Ready(Err(self.explain(error))),
        }
    }

    /// Resolves once every accepted byte is on the agent's stdin pipe. Cancel-safe.
    ///
    /// # Errors
    /// As [`send`](Self::send), where accepted bytes will never be written.
    pub async fn flush(&self) -> Result<()> {
        std::future::poll_fn(|context| match self.control.shared.poll_flushed(context.waker()) {
            Some(result) => Poll::Ready(result.map_err(|error| self.explain(error))),
            None => Poll::Pending,
        })
        .await
    }

    /// Ends the agent's input: later writes are refused, and stdin is closed once everything
    /// accepted is written. Reading goes on. Does not wait; calling it again changes nothing.
    pub fn end_input(&self) {
        end_input(&self.control);
    }

    /// Says that a turn is open, with the record that interrupts it, or (`None`) that it is over.
    ///
    /// While one is open, a graceful close sends that record first and waits, at most
    /// [`ClosePolicy::interrupt`](crate::ClosePolicy::interrupt), until the turn is over: an agent
    /// in the middle of an answer finishes the answer before it looks at the end of its input.
    ///
    /// # Errors
    /// As [`send`](Self::send), for a record that may not be sent.
    pub fn set_interrupt(&self, request: Option<&[u8]>) -> Result<()> {
        let shared = &self.control.shared;
        let frame = match request {
            Some(record) => {
                let mut frame = Vec::new();
                encode(shared.framing, record, &shared.limits, &mut frame)
                    .map_err(|error| error.on_agent(shared.label.as_str()))?;
                Some(frame)
            }
            None => None,
        };
        let over = frame.is_none();
        shared.set_interrupt(frame);
        if over {
            self.control.request(Request::TurnEnded);
        }
        Ok(())
    }

    /// [`send`](Self::send) for callers without a runtime. Blocks the thread.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_blocking(&self, record: impl AsRef<[u8]>) -> Result<()> {
        pollster::block_on(self.send(record))
    }

    /// [`flush`](Self::flush) for callers without a runtime. Blocks the thread.
    ///
    /// # Errors
    /// As `flush`.
    pub fn flush_blocking(&self) -> Result<()> {
        pollster::block_on(self.flush())
    }

    /// The agent's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.control.shared.pid
    }

    /// What was counted so far, at most one engine turn old.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.control.shared.stats()
    }

    /// How the agent ended is worth more than that it is closed.
    fn explain(&self, error: Error) -> Error {
        match self.control.shared.outcome.get() {
            Some(report) if error.kind() != ErrorKind::InputEnded => {
                let what = format!("the agent is gone: {}", report.exit());
                Error::new(ErrorKind::Closed, "write", what)
                    .on_agent(self.control.shared.label.as_str())
                    .stderr(report.stderr_tail())
            }
            _ => error,
        }
    }
}
