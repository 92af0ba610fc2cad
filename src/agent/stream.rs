//! `Stream` for readers and `Sink` for writers, for code that is written against those traits.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_sink::Sink;

use crate::error::{Error, Result};
use crate::record::Event;

use super::{AgentReader, AgentWriter, EngineKind};

/// The stream ends after [`Event::Exit`]; it may be polled again then.
impl<E: EngineKind> Stream for AgentReader<E> {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        // The inherent method, which takes precedence.
        Self::poll_next(self.get_mut(), context)
    }
}

/// Sends records, as [`send`](AgentWriter::send) does. `poll_ready` waits for room, `poll_flush` until
/// every accepted record is in the agent's stdin pipe, `poll_close` flushes and ends the input.
///
/// A record may be queued only by the call after its `start_send`. A writer that is dropped without a
/// flush may lose it, as any sink may.
impl<E: EngineKind, T: AsRef<[u8]>> Sink<T> for AgentWriter<E> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        poll_pending(self.get_mut(), context)
    }

    fn start_send(self: Pin<&mut Self>, record: T) -> Result<()> {
        let writer = self.get_mut();
        let frame = writer.framed(record.as_ref())?;
        // Nothing is overwritten: `poll_ready` came first, as a sink demands, and left `pending`
        // empty.
        writer.sink.pending = writer.try_offer(frame)?;
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let writer = self.get_mut();
        ready!(poll_pending(writer, context))?;
        // The key is moved out and back, because `poll_flushed` borrows the whole writer.
        let mut key = std::mem::take(&mut writer.sink.key);
        let flushed = writer.poll_flushed(&mut key, context);
        writer.sink.key = key;
        flushed
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(poll_pending(&mut self, context))?;
        // The pending frame goes first: none is accepted once the input has ended.
        self.end_input();
        <Self as Sink<T>>::poll_flush(self, context)
    }
}

/// Queues the frame for which there was no room, if there is one.
fn poll_pending<E: EngineKind>(
    writer: &mut AgentWriter<E>,
    context: &mut Context<'_>,
) -> Poll<Result<()>> {
    // The state is moved out and back, because `poll_send` borrows the whole writer.
    let mut state = std::mem::take(&mut writer.sink);
    let polled = match &state.pending {
        Some(_) => writer.poll_send(&mut state.pending, &mut state.key, context),
        None => Poll::Ready(Ok(())),
    };
    writer.sink = state;
    polled
}
