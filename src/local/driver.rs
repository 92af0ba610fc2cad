//! Floor 3. The one task that drives a local engine.
//!
//! It is woken by the ring's eventfd, by its alarm, and by handles, once a turn however many ask.
//! A task that is woken goes behind those that are ready, so it runs after all tasks that were
//! woken with the first of those that ask: one submission serves all of them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::hub::{Hub, Next};
use super::ready::{Alarm, Bell};

pub(super) struct DriverTask {
    hub: Rc<Hub>,
    /// What the runtime watches for it; taken by the drop alone.
    watched: Option<(Bell, Alarm)>,
    /// The coalescing window: until then the bell is left silent.
    quiet_until: Option<Instant>,
}

impl DriverTask {
    pub(super) fn new(hub: Rc<Hub>, bell: Bell, alarm: Alarm) -> Self {
        Self { hub, watched: Some((bell, alarm)), quiet_until: None }
    }

    fn turn(&mut self, context: &mut Context<'_>) -> io::Result<Poll<()>> {
        // In a forked child the ring is not mapped.
        let Some((bell, alarm)) = self.watched.as_mut().filter(|_| self.hub.origin.is_here())
        else {
            return Ok(Poll::Ready(()));
        };
        self.hub.driven_by(context.waker());
        // Before the turn: what rings during it is heard.
        bell.listen(context)?;
        let now = Instant::now();
        match self.hub.turn(&mut self.quiet_until, now)? {
            Next::End => return Ok(Poll::Ready(())),
            Next::Again => context.waker().wake_by_ref(),
            Next::Wait { until } => alarm.wake_at(until, now, context)?,
        }
        Ok(Poll::Pending)
    }
}

impl Future for DriverTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.turn(context).unwrap_or_else(|error| {
            // Nothing can be carried any more. What is left is aborted as this is dropped.
            crate::trace::error!(%error, "the driver of a local engine ends");
            Poll::Ready(())
        })
    }
}

/// Whatever ends it, its own end or that of the runtime: nobody waits in vain, nothing is left.
impl Drop for DriverTask {
    fn drop(&mut self) {
        self.hub.finish();
        if !self.hub.origin.is_here() {
            // The runtime's poller is one with the parent's: a descriptor that is taken out of it
            // here is watched there no more.
            #[expect(clippy::mem_forget, reason = "in a forked child they are the parent's")]
            std::mem::forget(self.watched.take());
        }
    }
}
