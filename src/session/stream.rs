//! The events of a session as a [`Stream`]. This is a separate type, because a stream has to deregister
//! its waker on drop, which a shared [`Session`] cannot do.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::record::Event;
use crate::sync::WaitKey;

use super::Session;
use super::inbox::InboxItem;

/// The events of a session, as [`Session::next`] returns them. See [`Session::events`].
#[derive(Debug)]
pub struct Events {
    session: Session,
    key: WaitKey,
}

impl Session {
    /// Returns the events of the session as a [`Stream`], which holds a clone of the session.
    ///
    /// Each event goes to one caller of this session: a stream and [`next`](Self::next) share them.
    #[must_use]
    pub fn events(&self) -> Events {
        Events { session: self.clone(), key: WaitKey::default() }
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let Self { session, key } = &mut *self;
        loop {
            match ready!(session.state().poll_next(Some(key), context)) {
                Some(InboxItem::Event(event)) => return Poll::Ready(Some(event)),
                Some(InboxItem::NoResult) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.session.state().forget_reader(&mut self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::command::AgentCommand;
    use crate::engine::Engine;
    use crate::session::jsonrpc;

    #[test]
    fn stream_yields_every_event_up_to_the_exit() {
        // A stream that ended early, or never, would lose the status of the agent or hang its task.
        let engine = Engine::new().expect("an engine");
        let command = AgentCommand::new("sh").args(["-c", r#"echo '{"method":"a"}'; echo noise"#]);
        let kinds = pollster::block_on(async {
            let session = jsonrpc::Session::builder().start(&engine, command).await?;
            let mut events = session.events();
            let mut kinds = Vec::new();
            while let Some(event) =
                poll_fn(|context| Pin::new(&mut events).poll_next(context)).await
            {
                kinds.push(match event {
                    Event::Record(_) => "record",
                    Event::Noise(_) => "noise",
                    Event::Exit(_) => "exit",
                    _ => "other",
                });
            }
            crate::error::Result::Ok(kinds)
        });
        assert_eq!(kinds.expect("a session"), ["record", "noise", "exit"]);
    }
}
