//! The router: which task waits for which response. Pure: it takes records and times and returns
//! actions.
//!
//! It has two tables, each with a limit: the requests of this session that wait for a response, and
//! the requests of the agent that wait for ours. An entry leaves its table once, together with its
//! slot or its token. So each request has exactly one outcome, whatever the agent repeats, delays or
//! invents.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::record::Record;

use super::protocol::{Incoming, RpcError, WireId};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;

/// The limits of the two tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouterLimits {
    /// Requests of this session.
    pub(crate) pending: usize,
    /// Requests of the agent.
    pub(crate) serving: usize,
    /// Bytes of the requests of the agent together. A single request may exceed it.
    pub(crate) serving_bytes: usize,
}

/// Counts of the records that fit no entry of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StrayCounts {
    /// Responses to requests that already had their outcome.
    pub(crate) late: u64,
    /// Responses to requests that were never sent.
    pub(crate) unknown: u64,
    /// Requests of the agent that reused the id of an open one, and were ignored.
    pub(crate) duplicate: u64,
    /// Requests of the agent that were refused: malformed, or above a limit.
    pub(crate) refused: u64,
}

/// A request of this session that waits for its response.
#[derive(Debug)]
pub(crate) struct PendingRequest<P> {
    pub(crate) slot: P,
    pub(crate) method: Box<str>,
    /// Whether the agent may have read it.
    pub(crate) sent: bool,
    pub(crate) renewal: Option<Renewal>,
    deadline: Option<Instant>,
}

/// How progress of the agent moves the deadline of a request.
#[derive(Debug)]
pub(crate) struct Renewal {
    /// The token of the progress. The session knows it once the request has its id.
    pub(crate) token: Option<WireId>,
    /// The time from a report to the new deadline.
    pub(crate) timeout: Duration,
    /// No report moves the deadline beyond this.
    pub(crate) latest: Instant,
    /// Reports that came.
    pub(crate) reports: u64,
}

/// A request of the agent, to be handled.
#[derive(Debug)]
pub(crate) struct IncomingRequest<S> {
    /// The key of its entry. The id cannot serve as one, because the agent may reuse it.
    pub(crate) key: u64,
    pub(crate) id: WireId,
    pub(crate) method: Box<str>,
    pub(crate) body: Record,
    pub(crate) token: S,
}

/// The entry of a request of the agent.
#[derive(Debug)]
struct ServingEntry<S> {
    key: u64,
    bytes: usize,
    token: S,
}

/// The action of the session for a record.
#[derive(Debug)]
pub(crate) enum RouterAction<P, S> {
    /// Give it to the reader.
    Deliver,
    /// Route each of these records in its place.
    RouteEach(Vec<Record>),
    /// Complete this request with the response.
    Complete(PendingRequest<P>, Result<Record, RpcError>),
    /// Handle this request of the agent.
    Serve(IncomingRequest<S>),
    /// Cancel this request of the agent.
    Cancel { key: u64, id: WireId, token: S },
    /// Refuse this request: too many requests of the agent are open.
    RefuseBusy(WireId),
    /// Send this response to a malformed request.
    Refuse(Vec<u8>, &'static str),
    /// Nothing; this response to no request of this session is counted.
    Stray(Result<Record, RpcError>),
    /// Nothing; the record is counted.
    Ignore,
}

/// The two tables.
#[derive(Debug)]
pub(crate) struct Router<P, S> {
    limits: RouterLimits,
    pending: HashMap<u64, PendingRequest<P>>,
    // The id makes the entries of requests with one and the same deadline distinct.
    deadlines: BTreeSet<(Instant, u64)>,
    next_id: u64,
    serving: HashMap<WireId, ServingEntry<S>>,
    ids: HashMap<u64, WireId>,
    serving_bytes: usize,
    next_key: u64,
    strays: StrayCounts,
}

impl<P, S: Default + Clone> Router<P, S> {
    pub(crate) fn new(limits: RouterLimits) -> Self {
        Self {
            limits,
            pending: HashMap::new(),
            deadlines: BTreeSet::new(),
            next_id: 1,
            serving: HashMap::new(),
            ids: HashMap::new(),
            serving_bytes: 0,
            next_key: 0,
            strays: StrayCounts::default(),
        }
    }

    /// Takes an id that no entry has: for a record whose response the caller recognizes itself.
    pub(crate) fn reserve(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Adds a request of this session and returns its id; `None` if too many are open.
    pub(crate) fn open(
        &mut self,
        method: &str,
        slot: P,
        deadline: Option<Instant>,
        renewal: Option<Renewal>,
    ) -> Option<u64> {
        if self.pending.len() >= self.limits.pending {
            return None;
        }
        let id = self.reserve();
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        let method = method.into();
        self.pending.insert(id, PendingRequest { slot, method, sent: false, renewal, deadline });
        Some(id)
    }

    /// Sets the progress token of a request that was opened with a [`Renewal`].
    pub(crate) fn set_token(&mut self, id: u64, token: WireId) {
        if let Some(renewal) = self.pending.get_mut(&id).and_then(|it| it.renewal.as_mut()) {
            renewal.token = Some(token);
        }
    }

    /// Moves the deadline of the requests with this progress token.
    ///
    /// Deadlines only move into the future, so the alarm that is set comes in time for the new one.
    pub(crate) fn renew(&mut self, token: &WireId, now: Instant) {
        // A second index would cost every request; a scan costs only progress reports.
        for (id, pending) in &mut self.pending {
            let Some(renewal) = &mut pending.renewal else { continue };
            if !renewal.token.as_ref().is_some_and(|own| own.is_like(token)) {
                continue;
            }
            renewal.reports += 1;
            let Some(old) = pending.deadline else { continue };
            // A time beyond the range of the clock is beyond `latest`, too.
            let next = now.checked_add(renewal.timeout).unwrap_or(renewal.latest);
            let next = next.min(renewal.latest).max(old);
            self.deadlines.remove(&(old, *id));
            self.deadlines.insert((next, *id));
            pending.deadline = Some(next);
        }
    }

    /// Marks a request as sent. If it is withdrawn later, the session sends a cancellation.
    pub(crate) fn mark_sent(&mut self, id: u64) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.sent = true;
        }
    }

    /// Removes a request. Returns `None` if it already had its outcome.
    pub(crate) fn withdraw(&mut self, id: u64) -> Option<PendingRequest<P>> {
        let pending = self.pending.remove(&id)?;
        if let Some(deadline) = pending.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(pending)
    }

    /// Removes one request whose deadline has passed. The caller repeats it until it returns `None`.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Option<(u64, PendingRequest<P>)> {
        // Both tables change together in `open`, `withdraw` and `take_pending`, so each deadline
        // has its request.
        let (deadline, id) = self.deadlines.first().copied()?;
        if deadline > now {
            return None;
        }
        Some((id, self.withdraw(id)?))
    }

    /// Returns the id of the next request. Every open request has a lower one.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Returns the earliest deadline of the open requests.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Routes a record and returns what to do about it.
    pub(crate) fn route(&mut self, incoming: Incoming, now: Instant) -> RouterAction<P, S> {
        match incoming {
            Incoming::Data | Incoming::Complaint(_) => RouterAction::Deliver,
            Incoming::Progress { token } => {
                self.renew(&token, now);
                RouterAction::Deliver
            }
            Incoming::Batch(records) => RouterAction::RouteEach(records),
            Incoming::Response { id, outcome } => self.response(id, outcome),
            Incoming::Request { id, method, body } => self.request(id, method, body),
            Incoming::Cancel { id } => self.cancel(id),
            #[cfg(feature = "claude")]
            Incoming::Ignored => RouterAction::Ignore,
            Incoming::Refused { response, why } => {
                self.strays.refused += 1;
                RouterAction::Refuse(response, why)
            }
        }
    }

    fn response(
        &mut self,
        id: Option<u64>,
        outcome: Result<Record, RpcError>,
    ) -> RouterAction<P, S> {
        // An id outside of this range was never given out. One inside of it without an entry had
        // its outcome already.
        let known = id.filter(|id| (1..self.next_id).contains(id));
        let Some(id) = known else {
            self.strays.unknown += 1;
            return RouterAction::Stray(outcome);
        };
        match self.withdraw(id) {
            // A response may even come before the request was sent, if the agent guesses the id. It
            // completes the request like any other.
            Some(pending) => RouterAction::Complete(pending, outcome),
            None => {
                self.strays.late += 1;
                RouterAction::Ignore
            }
        }
    }

    fn request(&mut self, id: WireId, method: Box<str>, body: Record) -> RouterAction<P, S> {
        if self.serving.contains_key(&id) {
            // The agent would take a response to this one for the response to the first.
            self.strays.duplicate += 1;
            return RouterAction::Ignore;
        }
        let bytes = body.len();
        // A single request above the limit is served if no other is open. It could otherwise never
        // be served.
        let too_large = self.serving_bytes + bytes > self.limits.serving_bytes;
        if self.serving.len() >= self.limits.serving || (too_large && !self.serving.is_empty()) {
            self.strays.refused += 1;
            return RouterAction::RefuseBusy(id);
        }
        let key = self.next_key;
        self.next_key += 1;
        let token = S::default();
        self.serving_bytes += bytes;
        self.serving.insert(id.clone(), ServingEntry { key, bytes, token: token.clone() });
        self.ids.insert(key, id.clone());
        RouterAction::Serve(IncomingRequest { key, id, method, body, token })
    }

    fn cancel(&mut self, mut id: WireId) -> RouterAction<P, S> {
        // The same text comes first. Another form of the id counts if it can mean only one request.
        if !self.serving.contains_key(&id) {
            let mut like = self.serving.keys().filter(|open| open.is_like(&id));
            if let (Some(only), None) = (like.next(), like.next()) {
                id = only.clone();
            }
        }
        match self.serving.remove(&id) {
            Some(serving) => {
                // The entry is freed now, and not when the handler ends. An agent that sends and
                // cancels requests would otherwise use up the limits, and later requests would be
                // refused.
                self.ids.remove(&serving.key);
                self.serving_bytes -= serving.bytes;
                RouterAction::Cancel { key: serving.key, id, token: serving.token }
            }
            None => RouterAction::Ignore,
        }
    }

    /// Counts a request of the agent that was dropped unread. Returns false if its id is that of an
    /// open request: the agent would take the refusal for the response to that one.
    pub(crate) fn refuse_dropped(&mut self, id: &WireId) -> bool {
        if self.serving.contains_key(id) {
            self.strays.duplicate += 1;
            return false;
        }
        self.strays.refused += 1;
        true
    }

    /// Removes a request of the agent that is about to be answered. Returns false if the agent has
    /// cancelled it, so that no response may be sent.
    pub(crate) fn finish(&mut self, key: u64) -> bool {
        // The key of a cancelled request is gone even if the agent has reused its id. So the
        // handler of the first request cannot answer the second one.
        let Some(id) = self.ids.remove(&key) else { return false };
        if let Some(serving) = self.serving.remove(&id) {
            self.serving_bytes -= serving.bytes;
        }
        true
    }

    /// Removes all requests of this session.
    pub(crate) fn take_pending(&mut self) -> Vec<(u64, PendingRequest<P>)> {
        self.deadlines.clear();
        self.pending.drain().collect()
    }

    /// Removes all requests of the agent and returns their tokens. None of them gets a response.
    pub(crate) fn take_serving(&mut self) -> Vec<S> {
        self.ids.clear();
        self.serving_bytes = 0;
        self.serving.drain().map(|(_, serving)| serving.token).collect()
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn serving(&self) -> usize {
        self.serving.len()
    }

    pub(crate) fn strays(&self) -> StrayCounts {
        self.strays
    }
}
