//! The notifications of one run of the server: which subscription gets which.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::contain::contain;
use crate::record::Record;
use crate::session::protocol::{Observation, Observer, object, object_of};
use crate::session::wire_id::number;
use crate::sync::{Sole, wake};

use super::listen::{Filter, Update};

/// The weight of unread notifications that a subscription holds: their bytes, and 64 for each.
const UNREAD_MAX: usize = 1 << 20;

/// The handler of notifications that belong to no subscription.
#[derive(Clone)]
pub(super) struct Notify(pub(super) Arc<dyn Fn(Record) + Send + Sync>);

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notify")
    }
}

/// Routes the notifications of one run of the server.
#[derive(Debug)]
pub(super) struct Bus {
    /// Shared with the protocol, and set once the era is known.
    pub(super) is_modern: Arc<AtomicBool>,
    others: Option<Notify>,
    feeds: Mutex<BTreeMap<u64, Arc<Feed>>>,
}

/// The parts of a notification that say where it belongs. Each may have any type: one that is wrong must
/// not hide the others.
#[derive(Deserialize)]
struct Notification<'a> {
    method: String,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NotifiedParams<'a> {
    #[serde(borrow, rename = "_meta", default)]
    meta: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    notifications: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct NotifiedMeta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
    id: Option<&'a RawValue>,
}

impl Bus {
    pub(super) fn new(is_modern: Arc<AtomicBool>, others: Option<Notify>) -> Self {
        Self { is_modern, others, feeds: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Feed>>> {
        // No code that holds this lock panics half-way.
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a subscription under the id of its request.
    pub(super) fn add(&self, id: u64, feed: &Arc<Feed>) {
        self.lock().insert(id, Arc::clone(feed));
    }

    /// Removes a subscription.
    pub(super) fn remove(&self, id: u64) {
        let feed = self.lock().remove(&id);
        drop(feed);
    }

    /// Returns whether a subscription wants the updates of this resource.
    pub(super) fn watches(&self, uri: &str) -> bool {
        self.lock().values().any(|feed| feed.filter.has_resource(uri))
    }

    /// Gives a notification to its subscriptions. Returns false if it has none.
    fn route(&self, record: &Record) -> bool {
        let Some(Notification { method, params }) = object_of(record.as_bytes()) else {
            return false;
        };
        let params: NotifiedParams<'_> = params.and_then(object).unwrap_or_default();
        if !self.is_modern.load(Ordering::Acquire) {
            let uri: Option<String> =
                params.uri.and_then(|uri| serde_json::from_str(uri.get()).ok());
            let feeds: Vec<_> = {
                let all = self.lock();
                let wanted = |feed: &&Arc<Feed>| feed.filter.wants(&method, uri.as_deref());
                all.values().filter(wanted).cloned().collect()
            };
            for feed in &feeds {
                feed.push(record);
            }
            return !feeds.is_empty();
        }
        let feed = |id: &RawValue| self.lock().get(&number(id.get())?).cloned();
        if method == "notifications/cancelled" {
            let feed = params.request_id.and_then(feed);
            return feed.is_some_and(|feed| feed.change(|state| state.is_ended = true));
        }
        let meta: Option<NotifiedMeta<'_>> = params.meta.and_then(object);
        let Some(feed) = meta.and_then(|meta| meta.id).and_then(feed) else { return false };
        match method.as_str() {
            "notifications/subscriptions/acknowledged" => {
                let accepted = params.notifications.map_or("{}", RawValue::get);
                let accepted = Record::from(accepted.as_bytes().to_vec());
                feed.change(|state| state.accepted = Some(accepted))
            }
            _ => feed.push(record),
        }
    }
}

impl Observer for Bus {
    fn on_data(&self, record: &Record) -> Observation {
        if !self.route(record)
            && let Some(Notify(others)) = &self.others
        {
            contain("the handler of notifications", || others(record.clone()));
        }
        Observation { no_result: false, keep: false }
    }

    fn on_dropped(&self, _kind: Option<&str>) {
        // It may have been a notification of any of them.
        let feeds: Vec<_> = self.lock().values().cloned().collect();
        for feed in feeds {
            feed.change(|state| state.lost += 1);
        }
    }
}

/// The notifications of one subscription that are not read yet.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) filter: Filter,
    state: Mutex<FeedState>,
}

#[derive(Debug, Default)]
struct FeedState {
    unread: VecDeque<Record>,
    weight: usize,
    lost: u64,
    /// The part of the filter that the server honours, once it has said so.
    accepted: Option<Record>,
    is_ended: bool,
    reader: Sole,
}

fn weight(record: &Record) -> usize {
    record.len() + 64
}

impl Feed {
    pub(super) fn new(filter: Filter, accepted: Option<Record>) -> Self {
        Self { filter, state: Mutex::new(FeedState { accepted, ..FeedState::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, FeedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the reader. Returns true.
    fn change(&self, change: impl FnOnce(&mut FeedState)) -> bool {
        let reader = {
            let mut state = self.lock();
            change(&mut state);
            state.reader.take()
        };
        wake(reader);
        true
    }

    /// Adds a notification. One that says the same as an unread one adds nothing.
    fn push(&self, record: &Record) -> bool {
        self.change(|state| {
            if state.unread.contains(record) {
                return;
            }
            if state.unread.is_empty() || state.weight + weight(record) <= UNREAD_MAX {
                state.weight += weight(record);
                // A copy: the record may be a small part of a large read.
                state.unread.push_back(record.as_bytes().to_vec().into());
            } else {
                state.lost += 1;
            }
        })
    }

    pub(super) fn accepted(&self) -> Option<Record> {
        self.lock().accepted.clone()
    }

    /// Returns whether the server has cancelled the subscription.
    pub(super) fn is_ended(&self) -> bool {
        self.lock().is_ended
    }

    /// Polls for the next update, or for `None`: the server has ended the subscription.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        self.poll_with(context, |state| {
            if let Some(record) = state.unread.pop_front() {
                state.weight -= weight(&record);
                return Some(Some(Update::Notification(record)));
            }
            match std::mem::take(&mut state.lost) {
                0 => state.is_ended.then_some(None),
                lost => Some(Some(Update::Lost(lost))),
            }
        })
    }

    /// Polls for the acknowledgement of the server, or for the end.
    pub(super) fn poll_accepted(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_with(context, |state| (state.accepted.is_some() || state.is_ended).then_some(()))
    }

    fn poll_with<T>(
        &self,
        context: &mut Context<'_>,
        mut find: impl FnMut(&mut FeedState) -> Option<T>,
    ) -> Poll<T> {
        let mut own = None;
        loop {
            {
                let mut state = self.lock();
                if let Some(found) = find(&mut state) {
                    return Poll::Ready(found);
                }
                if state.reader.register(context.waker(), &mut own) {
                    return Poll::Pending;
                }
            }
            // Cloned without the lock, because a clone runs code of the user.
            own = Some(context.waker().clone());
        }
    }
}
