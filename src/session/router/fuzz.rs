//! The router and a model of it that only counts outcomes. The body of a fuzz target; the unit tests feed
//! the model every order of a few events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::*;

/// Applies any events. Each has two bytes: what happens, and a small number. Ids and keys count back from the
/// newest, because an event that meets no request shows little.
pub(crate) fn target(data: &[u8]) {
    let mut model = Model::new();
    for pair in data.as_chunks::<2>().0.iter().take(2000) {
        let [kind, number] = *pair;
        let (low, high) = (number & 15, number >> 4);
        let id = (model.router.next_id() + 1).saturating_sub(low.into());
        let key = (model.router.next_key + 1).saturating_sub(low.into());
        model.apply(match kind % 13 {
            0 => RouterEvent::Open(low),
            1 => RouterEvent::OpenRenewed(low, high),
            2 => RouterEvent::Progress(id),
            3 => RouterEvent::Sent(id),
            4 => RouterEvent::Respond(id),
            5 => RouterEvent::Nonsense,
            6 => RouterEvent::Withdraw(id),
            7 => RouterEvent::Tick(low),
            8 => RouterEvent::Ask(low, high),
            9 => RouterEvent::Cancel(low),
            10 => RouterEvent::Finish(key),
            11 => RouterEvent::EndOurs,
            _ => RouterEvent::EndTheirs,
        });
    }
    model.finish();
}

/// What may happen to a session. Ids and times are small numbers, so that they collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouterEvent {
    /// A request of this session with a timeout in ticks; 0 is none.
    Open(u8),
    /// A request whose timeout progress renews, up to a number of ticks.
    OpenRenewed(u8, u8),
    /// A report of progress on the request with this id.
    Progress(u64),
    Sent(u64),
    /// A response of the agent, to any id.
    Respond(u64),
    /// A response of the agent whose id is not a number.
    Nonsense,
    Withdraw(u64),
    Tick(u8),
    /// A request of the agent, with its id and the length of its body.
    Ask(u8, u8),
    /// The agent cancels a request.
    Cancel(u8),
    /// The handler of the request with this key is done.
    Finish(u64),
    EndOurs,
    EndTheirs,
}

pub(super) const LIMITS: RouterLimits = RouterLimits { pending: 3, serving: 3, serving_bytes: 8 };

/// The router, and the model of what it must have done.
pub(super) struct Model {
    pub(super) router: Router<usize, u8>,
    start: Instant,
    ticks: u64,
    /// The number of outcomes, by slot.
    outcomes: Vec<u32>,
    /// The slot of each open request, by id.
    ids: BTreeMap<u64, usize>,
    due: BTreeMap<u64, u64>,
    /// The timeout, the maximum and the reports of each request that progress renews.
    renewed: BTreeMap<u64, (u64, u64, u64)>,
    /// The requests that were sent.
    sent: BTreeSet<u64>,
    /// The id of each request of the agent and how often it was completed, by key.
    served: BTreeMap<u64, (WireId, u32)>,
    /// The key and the length of each open request of the agent, by id.
    open_ids: BTreeMap<String, (u64, usize)>,
    strays: StrayCounts,
}

fn wire(id: impl Into<u64>) -> WireId {
    WireId(format!("\"{}\"", id.into()).into())
}

pub(super) fn body(len: u8) -> Record {
    Record::from(vec![b'1'; usize::from(len)])
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(LIMITS),
            start: Instant::now(),
            ticks: 0,
            outcomes: Vec::new(),
            ids: BTreeMap::new(),
            due: BTreeMap::new(),
            renewed: BTreeMap::new(),
            sent: BTreeSet::new(),
            served: BTreeMap::new(),
            open_ids: BTreeMap::new(),
            strays: StrayCounts::default(),
        }
    }

    fn at(&self, ticks: u64) -> Instant {
        self.start + Duration::from_millis(ticks)
    }

    fn over(&mut self, pending: &PendingRequest<usize>) {
        let slot = pending.slot;
        self.outcomes[slot] += 1;
        let id = *self
            .ids
            .iter()
            .find(|(_, known)| **known == slot)
            .expect("the id of an open request")
            .0;
        self.ids.remove(&id);
        self.due.remove(&id);
        let reports = self.renewed.remove(&id).map(|(_, _, reports)| reports);
        assert_eq!(pending.renewal.as_ref().map(|it| it.reports), reports);
        assert_eq!(pending.sent, self.sent.remove(&id));
    }

    fn served_over(&mut self, key: u64) {
        let job = self.served.get_mut(&key).expect("a request that was served");
        job.1 += 1;
        let id = job.0.0.to_string();
        assert_eq!(self.open_ids.remove(&id).map(|(open, _)| open), Some(key));
    }

    pub(super) fn apply(&mut self, op: RouterEvent) {
        match op {
            RouterEvent::Open(ticks) => self.open(ticks, None),
            RouterEvent::OpenRenewed(ticks, max) => self.open(ticks, Some(max)),
            RouterEvent::Progress(id) => self.progress(id),
            RouterEvent::Sent(id) => {
                self.router.mark_sent(id);
                self.sent.extend(self.ids.contains_key(&id).then_some(id));
            }
            RouterEvent::Respond(id) => self.respond(Some(id)),
            RouterEvent::Nonsense => self.respond(None),
            RouterEvent::Withdraw(id) => {
                let was_open = self.ids.contains_key(&id);
                let given = self.router.withdraw(id);
                assert_eq!(given.is_some(), was_open);
                if let Some(pending) = given {
                    self.over(&pending);
                }
            }
            RouterEvent::Tick(ticks) => self.tick(ticks),
            RouterEvent::Ask(id, len) => self.ask(id, len),
            RouterEvent::Cancel(id) => self.cancel(id),
            RouterEvent::Finish(key) => {
                let was_open = self.open_ids.values().any(|(open, _)| *open == key);
                assert_eq!(self.router.finish(key), was_open, "finish {key}");
                if was_open {
                    self.served_over(key);
                }
            }
            RouterEvent::EndOurs => {
                for (_, pending) in self.router.take_pending() {
                    self.over(&pending);
                }
                assert!(self.ids.is_empty());
            }
            RouterEvent::EndTheirs => {
                let tokens = self.router.take_serving();
                assert_eq!(tokens.len(), self.open_ids.len());
                let keys: Vec<u64> = self.open_ids.values().map(|(key, _)| *key).collect();
                keys.into_iter().for_each(|key| self.served_over(key));
            }
        }
        self.check();
    }

    fn open(&mut self, ticks: u8, max: Option<u8>) {
        let slot = self.outcomes.len();
        let due = (ticks > 0).then(|| self.ticks + u64::from(ticks));
        let latest = max.map(|max| self.ticks + u64::from(max));
        let due = [due, latest].into_iter().flatten().min();
        let renewal = latest.map(|latest| Renewal {
            token: None,
            timeout: Duration::from_millis(ticks.into()),
            latest: self.at(latest),
            reports: 0,
        });
        let has_room = self.ids.len() < LIMITS.pending;
        let given = self.router.open("m", slot, due.map(|due| self.at(due)), renewal);
        assert_eq!(given.is_some(), has_room);
        if let Some(id) = given {
            self.outcomes.push(0);
            assert!(self.ids.insert(id, slot).is_none(), "an id is used once");
            self.due.extend(due.map(|due| (id, due)));
            if let Some(latest) = latest {
                self.renewed.insert(id, (ticks.into(), latest, 0));
                self.router.set_token(id, wire(id));
            }
        }
    }

    fn progress(&mut self, id: u64) {
        let action = self.router.route(Incoming::Progress { token: wire(id) }, self.at(self.ticks));
        assert!(matches!(action, RouterAction::Deliver), "progress is data");
        if let Some((ticks, latest, reports)) = self.renewed.get_mut(&id) {
            *reports += 1;
            let due = self.due.get_mut(&id).expect("it has a deadline");
            *due = (self.ticks + *ticks).min(*latest).max(*due);
        }
    }

    fn respond(&mut self, id: Option<u64>) {
        let outcome = Ok(body(1));
        match self.router.route(Incoming::Response { id, outcome }, self.start) {
            RouterAction::Complete(pending, Ok(_)) => {
                assert_eq!(self.ids.get(&id.expect("an id")), Some(&pending.slot));
                self.over(&pending);
            }
            RouterAction::Ignore => {
                assert!(id.is_some_and(|id| !self.ids.contains_key(&id)));
                self.strays.late += 1;
            }
            RouterAction::Stray(_) => {
                let was_given = id.is_some_and(|id| (1..self.router.next_id()).contains(&id));
                assert!(!was_given, "{id:?} was the id of a request");
                self.strays.unknown += 1;
            }
            other => panic!("{other:?}"),
        }
    }

    fn tick(&mut self, ticks: u8) {
        self.ticks += u64::from(ticks);
        let now = self.at(self.ticks);
        while let Some((id, pending)) = self.router.take_expired(now) {
            assert!(self.due[&id] <= self.ticks, "no request expires early");
            self.over(&pending);
        }
        assert!(self.due.values().all(|due| *due > self.ticks), "no request is overdue");
    }

    fn ask(&mut self, id: u8, len: u8) {
        let is_open = self.open_ids.contains_key(&*wire(id).0);
        let bytes = self.open_ids.values().map(|(_, len)| len).sum::<usize>() + usize::from(len);
        let fits = bytes <= LIMITS.serving_bytes || self.open_ids.is_empty();
        let has_room = self.open_ids.len() < LIMITS.serving && fits;
        let asked = Incoming::Request { id: wire(id), method: "m".into(), body: body(len) };
        match self.router.route(asked, self.start) {
            RouterAction::Serve(job) => {
                assert!(!is_open, "an id that is open is not served twice");
                assert!(has_room, "{bytes} bytes");
                assert_eq!((&job.id, job.body.len()), (&wire(id), len.into()));
                assert!(self.served.insert(job.key, (job.id, 0)).is_none(), "a key is used once");
                self.open_ids.insert(wire(id).0.into(), (job.key, len.into()));
            }
            RouterAction::RefuseBusy(refused) => {
                assert_eq!((refused, is_open, has_room), (wire(id), false, false));
                self.strays.refused += 1;
            }
            RouterAction::Ignore => {
                assert!(is_open);
                self.strays.duplicate += 1;
            }
            other => panic!("{other:?}"),
        }
    }

    fn cancel(&mut self, id: u8) {
        let open = self.open_ids.get(&*wire(id).0).map(|(key, _)| *key);
        // The number cancels the request that has the same digits as a text.
        let number = WireId(id.to_string().into());
        match self.router.route(Incoming::Cancel { id: number }, self.start) {
            RouterAction::Cancel { key, .. } => {
                assert_eq!(Some(key), open);
                self.served_over(key);
            }
            RouterAction::Ignore => assert_eq!(open, None),
            other => panic!("{other:?}"),
        }
    }

    fn check(&self) {
        assert_eq!(self.router.pending(), self.ids.len());
        assert_eq!(self.router.serving(), self.open_ids.len());
        assert_eq!(self.router.strays(), self.strays);
        assert!(self.router.pending() <= LIMITS.pending);
        assert!(self.router.serving() <= LIMITS.serving);
        let next = self.due.values().min().map(|due| self.at(*due));
        assert_eq!(self.router.next_deadline(), next);
        assert!(self.outcomes.iter().all(|count| *count <= 1));
        assert!(self.served.values().all(|(_, count)| *count <= 1));
    }

    /// Ends all that is open and checks that each request has had exactly one outcome. Returns the
    /// number of requests of this session.
    pub(super) fn finish(mut self) -> usize {
        self.apply(RouterEvent::EndOurs);
        self.apply(RouterEvent::EndTheirs);
        assert!(self.outcomes.iter().all(|count| *count == 1), "{:?}", self.outcomes);
        assert!(self.served.values().all(|(_, count)| *count == 1), "{:?}", self.served);
        let left = (self.router.pending(), self.router.serving(), self.router.serving_bytes);
        assert_eq!(left, (0, 0, 0));
        assert!(self.router.deadlines.is_empty() && self.router.ids.is_empty());
        self.outcomes.len()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_events_give_one_outcome() {
        crate::fuzz_driver::run("router", super::target);
    }
}
