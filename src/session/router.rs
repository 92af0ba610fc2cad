//! Floor 4. Who waits for which answer. Pure: records and moments in, actions out.
//!
//! Two tables with a limit each: requests of ours that wait for an answer, and requests of the
//! agent that wait for ours. An entry leaves its table once, with its slot or its token, so
//! whatever the agent repeats, delays or invents, each request has exactly one outcome.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::record::Record;

use super::dialect::{Incoming, WireId};
use super::failure::RpcError;

#[cfg(test)]
mod tests;

/// How many requests may be open at once, and how large those of the agent may be together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouterLimits {
    pub(crate) pending: usize,
    pub(crate) serving: usize,
    pub(crate) serving_bytes: usize,
}

/// What came and had no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strays {
    /// Answers to requests that were answered, withdrawn or given up before.
    pub(crate) late: u64,
    /// Answers to requests that were never made.
    pub(crate) unknown: u64,
    /// Requests of the agent that reused the id of one still open, and were passed over.
    pub(crate) duplicate: u64,
    /// Requests of the agent that were refused: malformed, or too many at once.
    pub(crate) refused: u64,
}

/// A request of ours, while it is open.
#[derive(Debug)]
pub(crate) struct Pending<P> {
    pub(crate) slot: P,
    pub(crate) method: Box<str>,
    /// The agent may have seen it.
    pub(crate) sent: bool,
    deadline: Option<Instant>,
}

/// A request of the agent, to be handled.
#[derive(Debug)]
pub(crate) struct Job<S> {
    /// Ours for it: the agent may reuse its own.
    pub(crate) key: u64,
    pub(crate) id: WireId,
    pub(crate) method: Box<str>,
    pub(crate) body: Record,
    pub(crate) token: S,
}

#[derive(Debug)]
struct Serving<S> {
    key: u64,
    bytes: usize,
    token: S,
}

/// What is to be done about a record.
#[derive(Debug)]
pub(crate) enum Action<P, S> {
    /// It is for the reader.
    Data,
    /// A request of ours is answered.
    Settle(Pending<P>, Result<Record, RpcError>),
    /// A request of the agent is to be handled.
    Serve(Job<S>),
    /// A request of the agent is withdrawn by it.
    Stop { key: u64, id: WireId, token: S },
    /// There are too many requests of the agent: this one is refused.
    Busy(WireId),
    /// To be sent as it is.
    Answer(Vec<u8>, &'static str),
    /// Counted, and that is all.
    Nothing,
}

/// Both tables.
#[derive(Debug)]
pub(crate) struct Router<P, S> {
    limits: RouterLimits,
    pending: HashMap<u64, Pending<P>>,
    deadlines: BTreeSet<(Instant, u64)>,
    next_id: u64,
    serving: HashMap<WireId, Serving<S>>,
    ids: HashMap<u64, WireId>,
    serving_bytes: usize,
    next_key: u64,
    strays: Strays,
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
            strays: Strays::default(),
        }
    }

    /// An id of ours that no answer is waited for.
    pub(crate) fn reserve(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Opens a request; `None` where too many are open.
    pub(crate) fn open(&mut self, method: &str, slot: P, deadline: Option<Instant>) -> Option<u64> {
        if self.pending.len() >= self.limits.pending {
            return None;
        }
        let id = self.reserve();
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        self.pending.insert(id, Pending { slot, method: method.into(), sent: false, deadline });
        Some(id)
    }

    /// The request is on its way: whoever gives it up must tell the agent.
    pub(crate) fn sent(&mut self, id: u64) {
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.sent = true;
        }
    }

    /// Gives a request up. `None` if it had its outcome already.
    pub(crate) fn withdraw(&mut self, id: u64) -> Option<Pending<P>> {
        let pending = self.pending.remove(&id)?;
        if let Some(deadline) = pending.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(pending)
    }

    /// Gives up one request whose deadline has passed. To be called until it gives none.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<(u64, Pending<P>)> {
        let (deadline, id) = self.deadlines.first().copied()?;
        if deadline > now {
            return None;
        }
        Some((id, self.withdraw(id)?))
    }

    /// Every request that is open now has an id below this.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// The next moment at which [`expire`](Self::expire) has something.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// What to do about a record.
    pub(crate) fn route(&mut self, incoming: Incoming) -> Action<P, S> {
        match incoming {
            Incoming::Data => Action::Data,
            Incoming::Reply { id, outcome } => self.reply(id, outcome),
            Incoming::Request { id, method, body } => self.request(id, method, body),
            Incoming::Cancel { id } => self.cancel(id),
            Incoming::Refused { answer, why } => {
                self.strays.refused += 1;
                Action::Answer(answer, why)
            }
        }
    }

    fn reply(&mut self, id: Option<u64>, outcome: Result<Record, RpcError>) -> Action<P, S> {
        let known = id.filter(|id| (1..self.next_id).contains(id));
        let Some(id) = known else {
            self.strays.unknown += 1;
            return Action::Nothing;
        };
        match self.withdraw(id) {
            // An answer that comes before the request was sent is a guess of the agent's: it is
            // an answer all the same, and the request is over.
            Some(pending) => Action::Settle(pending, outcome),
            None => {
                self.strays.late += 1;
                Action::Nothing
            }
        }
    }

    fn request(&mut self, id: WireId, method: Box<str>, body: Record) -> Action<P, S> {
        if self.serving.contains_key(&id) {
            // An answer would be taken for the answer to the first.
            self.strays.duplicate += 1;
            return Action::Nothing;
        }
        let bytes = body.len();
        let too_large = self.serving_bytes + bytes > self.limits.serving_bytes;
        if self.serving.len() >= self.limits.serving || (too_large && !self.serving.is_empty()) {
            self.strays.refused += 1;
            return Action::Busy(id);
        }
        let key = self.next_key;
        self.next_key += 1;
        let token = S::default();
        self.serving_bytes += bytes;
        self.serving.insert(id.clone(), Serving { key, bytes, token: token.clone() });
        self.ids.insert(key, id.clone());
        Action::Serve(Job { key, id, method, body, token })
    }

    fn cancel(&mut self, id: WireId) -> Action<P, S> {
        match self.serving.remove(&id) {
            Some(serving) => {
                self.ids.remove(&serving.key);
                self.serving_bytes -= serving.bytes;
                Action::Stop { key: serving.key, id, token: serving.token }
            }
            None => Action::Nothing,
        }
    }

    /// A request of the agent is refused unseen. False if its id is that of an open one: the answer would
    /// be taken for the answer to that.
    pub(crate) fn refuse(&mut self, id: &WireId) -> bool {
        if self.serving.contains_key(id) {
            self.strays.duplicate += 1;
            return false;
        }
        self.strays.refused += 1;
        true
    }

    /// A request of the agent is about to be answered. False if it is not to be: it was withdrawn.
    pub(crate) fn finish(&mut self, key: u64) -> bool {
        let Some(id) = self.ids.remove(&key) else { return false };
        if let Some(serving) = self.serving.remove(&id) {
            self.serving_bytes -= serving.bytes;
        }
        true
    }

    /// Empties the table of our requests.
    pub(crate) fn take_pending(&mut self) -> Vec<(u64, Pending<P>)> {
        self.deadlines.clear();
        self.pending.drain().collect()
    }

    /// Empties the table of the agent's requests: none of them will be answered.
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

    pub(crate) fn strays(&self) -> Strays {
        self.strays
    }
}
