//! Floor 4. What a session holds for others, and what it does when that is too much: data for its
//! readers, and records for an agent that does not read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, ErrorKind};
use crate::record::Event;
use crate::sync::{self, WaitKey, WaitList, wake};

use super::core::{Core, Slot, State};
use super::router::Pending;
use super::serve::Owed;

/// Records of ours that wait for room in the outbox, at most, before the session stops reading.
const POSTED_MAX: usize = 1024;

/// What a reader finds.
#[derive(Debug)]
pub(super) enum Item {
    Event(Event),
    /// A turn ended without a result: for who reads a turn.
    NoResult,
}

impl Item {
    fn weight(&self) -> usize {
        match self {
            Self::Event(event) => event.weight(),
            // An entry is not free: what costs nothing has no limit.
            Self::NoResult => 64,
        }
    }
}

/// Who waits for an event: futures that leave no trace, and polls by hand that cannot say that they
/// gave up.
#[derive(Debug, Default)]
pub(super) struct Readers {
    futures: WaitList,
    polls: Vec<Waker>,
}

/// To be woken once no lock is held.
pub(super) struct Waiting(sync::Waiting, Vec<Waker>);

impl Readers {
    /// As [`WaitList::register`].
    fn register(
        &mut self,
        place: Option<&mut WaitKey>,
        waker: &Waker,
        own: &mut Option<Waker>,
    ) -> bool {
        if let Some(place) = place {
            return self.futures.register(place, waker, own);
        }
        if self.polls.iter().any(|known| known.will_wake(waker)) {
            return true;
        }
        own.take().map(|new| self.polls.push(new)).is_some()
    }

    pub(super) fn take(&mut self) -> Waiting {
        Waiting(self.futures.take(), std::mem::take(&mut self.polls))
    }
}

impl Waiting {
    pub(super) fn wake(self) {
        self.0.wake();
        self.1.into_iter().for_each(|waker| wake(Some(waker)));
    }
}

/// One wait for an event.
pub(super) struct Next<'a> {
    core: &'a Core,
    place: WaitKey,
}

impl Core {
    pub(super) fn next(&self) -> Next<'_> {
        Next { core: self, place: WaitKey::default() }
    }
}

impl Future for Next<'_> {
    type Output = Option<Item>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { core, place } = &mut *self;
        core.poll_next(Some(place), context)
    }
}

/// A task that timed out and went away is not held until the agent says something.
impl Drop for Next<'_> {
    fn drop(&mut self) {
        if !self.core.writer.is_here() {
            return;
        }
        let waker = self.core.lock().readers.futures.forget(&mut self.place);
        drop(waker);
    }
}

impl Core {
    pub(super) fn on_data(self: &Arc<Self>, item: Item) {
        let (readers, stalled) = {
            let mut state = self.lock();
            if let Item::Event(Event::Record(record)) = &item {
                state.stats.data_records += 1;
                state.stats.data_bytes += record.len() as u64;
            }
            if self.settings.discard_data && !matches!(item, Item::Event(Event::Exit(_))) {
                return;
            }
            state.unread += item.weight();
            state.inbox.push_back(item);
            (state.readers.take(), self.stall(&mut state))
        };
        readers.wake();
        self.fail(stalled, true);
    }

    /// What comes next. Without a place the waker is kept until there is something.
    pub(super) fn poll_next(
        &self,
        mut place: Option<&mut WaitKey>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Item>> {
        if !self.writer.is_here() {
            return Poll::Ready(None);
        }
        let mut own = None;
        loop {
            {
                let mut state = self.lock();
                if let Some(item) = state.inbox.pop_front() {
                    state.unread = state.unread.saturating_sub(item.weight());
                    let pump = self.unstall(&mut state);
                    drop(state);
                    wake(pump);
                    return Poll::Ready(Some(item));
                }
                if state.ended {
                    return Poll::Ready(None);
                }
                if state.readers.register(place.as_deref_mut(), context.waker(), &mut own) {
                    return Poll::Pending;
                }
            }
            own = Some(context.waker().clone());
        }
    }

    /// Sends a record that nothing waits for, behind the caller's back if there is no room now. `owed`
    /// is kept until it is queued.
    pub(super) fn post(self: &Arc<Self>, record: Vec<u8>, owed: Option<Owed>) {
        let writer = self.writer.clone();
        let mut sending = Box::pin(async move { writer.send(record).await });
        if sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return;
        }
        let stalled = {
            let mut state = self.lock();
            state.posted += 1;
            self.stall(&mut state)
        };
        self.fail(stalled, true);
        let posted = Posted(Arc::clone(self));
        self.spawn(Box::pin(async move {
            let _refused = sending.await;
            drop((posted, owed));
        }));
    }

    /// Stops reading if too much is unread; then gives the requests to be failed.
    pub(super) fn stall(&self, state: &mut State) -> Vec<(u64, Pending<Slot>)> {
        if state.stalled || (state.unread <= self.unread_max(state) && state.posted < POSTED_MAX) {
            return Vec::new();
        }
        state.stalled = true;
        state.stats.stalls += 1;
        let pending = state.router.take_pending();
        state.stats.failed += pending.len() as u64;
        pending
    }

    /// Reads on if the readers caught up: the waker of the pump, then.
    pub(super) fn unstall(&self, state: &mut State) -> Option<Waker> {
        let caught_up =
            state.unread <= self.unread_max(state) / 2 && state.posted <= POSTED_MAX / 2;
        if !state.stalled || !caught_up {
            return None;
        }
        state.stalled = false;
        state.pump.take()
    }

    fn unread_max(&self, state: &State) -> usize {
        let budget = self.settings.unread_max;
        if state.closing { budget.max(self.writer.drain_max()) } else { budget }
    }

    pub(super) fn overloaded(&self, state: &State) -> Error {
        if state.posted >= POSTED_MAX / 2 {
            let what = format!("the agent leaves {} answers unread", state.posted);
            return self.error(ErrorKind::Overloaded, what);
        }
        let what = format!(
            "nobody reads {} bytes of data, above the budget of {}, so no answer can come through",
            state.unread, self.settings.unread_max
        );
        self.error(ErrorKind::Overloaded, what)
            .remedy("read the session on, raise Settings::unread_max or set Settings::discard_data")
    }

    /// Fails requests that a stall took out of the table.
    fn fail(self: &Arc<Self>, stalled: Vec<(u64, Pending<Slot>)>, tell: bool) {
        if stalled.is_empty() {
            return;
        }
        let error = self.overloaded(&self.lock());
        for (id, pending) in stalled {
            pending.slot.set(Err(error.clone()));
            if tell {
                self.tell_withdrawn(id, &pending);
            }
        }
    }
}

/// A record on its way past a full outbox.
struct Posted(Arc<Core>);

impl Drop for Posted {
    fn drop(&mut self) {
        let pump = {
            let mut state = self.0.lock();
            state.posted -= 1;
            self.0.unstall(&mut state)
        };
        wake(pump);
    }
}
