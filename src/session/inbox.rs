//! The inbox of a session: data that came and is not read yet, and the tasks that wait for it.

use std::collections::VecDeque;
use std::task::Waker;

use crate::record::Event;
use crate::sync::{self, WaitKey, WaitList, wake};

/// An entry of the inbox.
#[derive(Debug)]
pub(super) enum InboxItem {
    Event(Event),
    /// A turn ended without a result. Only a task that reads a turn is interested.
    NoResult,
}

impl InboxItem {
    fn weight(&self) -> usize {
        match self {
            Self::Event(event) => event.weight(),
            // An entry without weight would have no limit.
            Self::NoResult => 64,
        }
    }
}

/// The queue and its waiting tasks. The lock around it belongs to the session.
#[derive(Debug, Default)]
pub(super) struct SessionInbox {
    items: VecDeque<InboxItem>,
    weight: usize,
    /// Futures, which deregister themselves when they are dropped.
    futures: WaitList,
    /// Callers of `poll_next`, which cannot deregister. Their wakers are kept until the next event.
    polls: Vec<Waker>,
}

impl SessionInbox {
    pub(super) fn push(&mut self, item: InboxItem) {
        self.weight += item.weight();
        self.items.push_back(item);
    }

    /// Adds the last event. It has no weight: the end of the agent cannot be back-pressured.
    pub(super) fn push_last(&mut self, event: Event) {
        self.items.push_back(InboxItem::Event(event));
    }

    pub(super) fn pop(&mut self) -> Option<InboxItem> {
        let item = self.items.pop_front()?;
        // The last event was added without its weight, so it must not take the sum below zero.
        self.weight = self.weight.saturating_sub(item.weight());
        Some(item)
    }

    /// Empties the queue. The caller drops the entries once it holds no lock.
    pub(super) fn take_items(&mut self) -> VecDeque<InboxItem> {
        std::mem::take(&mut self.items)
    }

    /// Returns the bytes of unread data, plus a fixed weight per entry.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Registers a task as [`WaitList::register`] does, or without a key a caller of `poll_next`.
    pub(super) fn register(
        &mut self,
        key: Option<&mut WaitKey>,
        waker: &Waker,
        own: &mut Option<Waker>,
    ) -> bool {
        if let Some(key) = key {
            return self.futures.register(key, waker, own);
        }
        // A task that polls in a loop would otherwise add a waker with each poll.
        if self.polls.iter().any(|known| known.will_wake(waker)) {
            return true;
        }
        own.take().map(|new| self.polls.push(new)).is_some()
    }

    /// Deregisters a future. The caller drops the waker once it holds no lock.
    #[must_use]
    pub(super) fn forget(&mut self, key: &mut WaitKey) -> Option<Waker> {
        self.futures.forget(key)
    }

    /// Takes all waiting tasks. The caller wakes them once it holds no lock.
    #[must_use]
    pub(super) fn take_readers(&mut self) -> WaitingReaders {
        WaitingReaders(self.futures.take(), std::mem::take(&mut self.polls))
    }
}

/// Tasks that waited for an event.
pub(super) struct WaitingReaders(sync::TasksToWake, Vec<Waker>);

impl WaitingReaders {
    pub(super) fn wake(self) {
        self.0.wake();
        self.1.into_iter().for_each(|waker| wake(Some(waker)));
    }
}
