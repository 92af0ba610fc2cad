//! Deadlines of a session. An answer that lay in the agent's pipe in time is read before one passes.
//!
//! On the session thread, so that a deadline holds whatever becomes of the runtime that the session was
//! given: where the pump does not run, what there is to read is read here.

use std::future::{pending, poll_fn};
use std::sync::{Arc, PoisonError, TryLockError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::error::ErrorKind;

use super::core::Core;
use super::host::within;
use super::pump::Routed;
use super::unread::Item;

/// How long an engine thread and a pump may take for what is there already.
const CATCH_UP_MAX: Duration = Duration::from_secs(1);
/// How soon to ask again for what another thread reads just now.
const ASK_AGAIN: Duration = Duration::from_millis(1);

impl Core {
    /// Sets the alarm to the first deadline there is.
    pub(super) fn arm(&self) {
        // Held while the table is looked at: of two that do this, the later one has the last word.
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let next = {
            let mut state = self.lock();
            state.armed = state.router.next_deadline();
            state.armed
        };
        alarm.set(next);
    }

    /// An alarm went off.
    pub(super) fn deadline_due(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().expiring, true) {
            return;
        }
        let expiring = Expiring(Arc::clone(self));
        self.host.spawn(Box::pin(async move { expiring.0.expire().await }));
    }

    fn is_due(&self, now: Instant) -> bool {
        let observed = self.observer.as_ref().and_then(|observer| observer.deadline());
        let first = self.lock().router.next_deadline();
        [first, observed].into_iter().flatten().any(|at| at <= now)
    }

    /// Acts upon what is due, once all that the agent had said by then is routed.
    async fn expire(self: &Arc<Self>) {
        let due_at = self.host.now();
        if self.is_due(due_at) {
            self.catch_up(due_at + CATCH_UP_MAX).await;
            self.expire_requests(due_at);
        }
        let observer = self.observer.as_ref();
        if observer.is_some_and(|observer| observer.tick(due_at)) {
            self.on_data(Item::NoResult);
        }
    }

    async fn catch_up(self: &Arc<Self>, limit: Instant) {
        loop {
            let caught_up =
                within(&self.host, limit, self.writer.catch_up().wait()).await.flatten();
            let progress = self.route_all(limit).await;
            // What the engine holds back until its reader has caught up comes with the next round.
            if caught_up != Some(false) || !progress {
                return;
            }
        }
    }

    /// Routes all that is there. Whether that was something.
    async fn route_all(self: &Arc<Self>, limit: Instant) -> bool {
        let mut progress = false;
        while self.host.now() < limit {
            let routed = match self.reading.try_lock() {
                Ok(mut reading) => Some(self.route(&mut reading)),
                Err(TryLockError::Poisoned(reading)) => Some(self.route(&mut reading.into_inner())),
                Err(TryLockError::WouldBlock) => None,
            };
            match routed {
                // The pump is at it. It gives the lock back after a few events.
                None => {
                    let soon = self.host.now() + ASK_AGAIN;
                    let _soon = within(&self.host, soon.min(limit), pending::<()>()).await;
                }
                Some(Routed::More) => {
                    progress = true;
                    give_way().await;
                }
                Some(Routed::All { some }) => return progress | some,
                Some(Routed::Held | Routed::AtEnd | Routed::Released) => return false,
            }
        }
        progress
    }

    /// Fails the requests that were due at this moment.
    fn expire_requests(self: &Arc<Self>, due_at: Instant) {
        let (due, lost) = {
            let mut state = self.lock();
            let due: Vec<_> = std::iter::from_fn(|| state.router.expire(due_at)).collect();
            state.stats.timeouts += due.len() as u64;
            (due, state.lost.clone())
        };
        for (id, pending) in due {
            let mut what = format!("`{}` was not answered in time", pending.method);
            if !pending.sent {
                what += "; the agent has not taken it from its input";
            }
            let lost = lost.as_ref().filter(|(_, below)| id < *below).map(|(lost, _)| lost);
            let remedy = match lost {
                Some(lost) => {
                    what += &format!("; meanwhile {lost}, and may have been the answer");
                    "raise Limits::record_max if that was its answer, or give it a longer deadline"
                }
                None => "give it a longer deadline",
            };
            pending.slot.set(Err(self.error(ErrorKind::Timeout, what).remedy(remedy)));
            self.tell_withdrawn(id, &pending);
        }
    }
}

/// What is due is being looked after. However that ends, the next deadline is kept.
struct Expiring(Arc<Core>);

impl Drop for Expiring {
    fn drop(&mut self) {
        let Self(core) = self;
        core.lock().expiring = false;
        core.arm();
        if core.is_due(core.host.now()) {
            // Its alarm may have gone off meanwhile.
            core.deadline_due();
        }
    }
}

/// Lets the other tasks of the thread have a turn.
async fn give_way() {
    let mut gave = false;
    poll_fn(|context| {
        if std::mem::replace(&mut gave, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
