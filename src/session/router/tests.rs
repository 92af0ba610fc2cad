//! The router against a model that only counts outcomes: every order of a few events, and long random
//! sequences.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// What may happen to a session. Ids and times are small numbers, so that they collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RouterEvent {
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

const LIMITS: RouterLimits = RouterLimits { pending: 3, serving: 3, serving_bytes: 8 };

/// The router, and the model of what it must have done.
struct Model {
    router: Router<usize, u8>,
    start: Instant,
    ticks: u64,
    /// The number of outcomes, by slot.
    outcomes: Vec<u32>,
    /// The slot of each open request, by id.
    ids: BTreeMap<u64, usize>,
    due: BTreeMap<u64, u64>,
    /// The timeout and the maximum of each request that progress renews.
    renewed: BTreeMap<u64, (u64, u64)>,
    /// The id of each request of the agent and how often it was completed, by key.
    served: BTreeMap<u64, (WireId, u32)>,
    open_ids: BTreeMap<String, u64>,
}

fn wire(id: impl Into<u64>) -> WireId {
    WireId(format!("\"{}\"", id.into()).into())
}

fn body(len: u8) -> Record {
    Record::from(vec![b'1'; usize::from(len)])
}

impl Model {
    fn new() -> Self {
        Self {
            router: Router::new(LIMITS),
            start: Instant::now(),
            ticks: 0,
            outcomes: Vec::new(),
            ids: BTreeMap::new(),
            due: BTreeMap::new(),
            renewed: BTreeMap::new(),
            served: BTreeMap::new(),
            open_ids: BTreeMap::new(),
        }
    }

    fn at(&self, ticks: u64) -> Instant {
        self.start + Duration::from_millis(ticks)
    }

    fn over(&mut self, slot: usize) {
        self.outcomes[slot] += 1;
        let id = *self
            .ids
            .iter()
            .find(|(_, known)| **known == slot)
            .expect("the id of an open request")
            .0;
        self.ids.remove(&id);
        self.due.remove(&id);
        self.renewed.remove(&id);
    }

    fn served_over(&mut self, key: u64) {
        let job = self.served.get_mut(&key).expect("a request that was served");
        job.1 += 1;
        let id = job.0.0.to_string();
        assert_eq!(self.open_ids.remove(&id), Some(key));
    }

    fn apply(&mut self, op: RouterEvent) {
        match op {
            RouterEvent::Open(ticks) => self.open(ticks, None),
            RouterEvent::OpenRenewed(ticks, max) => self.open(ticks, Some(max)),
            RouterEvent::Progress(id) => self.progress(id),
            RouterEvent::Sent(id) => self.router.mark_sent(id),
            RouterEvent::Respond(id) => self.respond(Some(id)),
            RouterEvent::Nonsense => self.respond(None),
            RouterEvent::Withdraw(id) => {
                let was_open = self.ids.contains_key(&id);
                let given = self.router.withdraw(id);
                assert_eq!(given.is_some(), was_open);
                if let Some(pending) = given {
                    self.over(pending.slot);
                }
            }
            RouterEvent::Tick(ticks) => self.tick(ticks),
            RouterEvent::Ask(id, len) => self.ask(id, len),
            RouterEvent::Cancel(id) => self.cancel(id),
            RouterEvent::Finish(key) => {
                let was_open = self.open_ids.values().any(|open| *open == key);
                assert_eq!(self.router.finish(key), was_open, "finish {key}");
                if was_open {
                    self.served_over(key);
                }
            }
            RouterEvent::EndOurs => {
                for (_, pending) in self.router.take_pending() {
                    self.over(pending.slot);
                }
                assert!(self.ids.is_empty());
            }
            RouterEvent::EndTheirs => {
                let tokens = self.router.take_serving();
                assert_eq!(tokens.len(), self.open_ids.len());
                let keys: Vec<u64> = self.open_ids.values().copied().collect();
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
                self.renewed.insert(id, (ticks.into(), latest));
                self.router.set_token(id, wire(id));
            }
        }
    }

    fn progress(&mut self, id: u64) {
        let action = self.router.route(Incoming::Progress { token: wire(id) }, self.at(self.ticks));
        assert!(matches!(action, RouterAction::Deliver), "progress is data");
        if let Some((ticks, latest)) = self.renewed.get(&id) {
            let due = self.due.get_mut(&id).expect("it has a deadline");
            *due = (self.ticks + ticks).min(*latest).max(*due);
        }
    }

    fn respond(&mut self, id: Option<u64>) {
        let before = self.router.strays();
        let outcome = Ok(body(1));
        match self.router.route(Incoming::Response { id, outcome }, self.start) {
            RouterAction::Complete(pending, Ok(_)) => {
                assert_eq!(self.ids.get(&id.expect("an id")), Some(&pending.slot));
                self.over(pending.slot);
            }
            RouterAction::Ignore | RouterAction::Stray(_) => {
                assert!(id.is_none_or(|id| !self.ids.contains_key(&id)));
                let after = self.router.strays();
                let strays = |strays: StrayCounts| strays.late + strays.unknown;
                assert_eq!(strays(after), strays(before) + 1, "the response is counted");
            }
            other => panic!("{other:?}"),
        }
    }

    fn tick(&mut self, ticks: u8) {
        self.ticks += u64::from(ticks);
        let now = self.at(self.ticks);
        while let Some((id, pending)) = self.router.take_expired(now) {
            assert!(self.due[&id] <= self.ticks, "no request expires early");
            self.over(pending.slot);
        }
        assert!(self.due.values().all(|due| *due > self.ticks), "no request is overdue");
    }

    fn ask(&mut self, id: u8, len: u8) {
        let is_open = self.open_ids.contains_key(&*wire(id).0);
        let asked = Incoming::Request { id: wire(id), method: "m".into(), body: body(len) };
        match self.router.route(asked, self.start) {
            RouterAction::Serve(job) => {
                assert!(!is_open, "an id that is open is not served twice");
                assert_eq!(job.id, wire(id));
                assert!(self.served.insert(job.key, (job.id, 0)).is_none(), "a key is used once");
                self.open_ids.insert(wire(id).0.into(), job.key);
            }
            RouterAction::RefuseBusy(refused) => assert_eq!((refused, is_open), (wire(id), false)),
            RouterAction::Ignore => assert!(is_open),
            other => panic!("{other:?}"),
        }
    }

    fn cancel(&mut self, id: u8) {
        let open = self.open_ids.get(&*wire(id).0).copied();
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
        assert!(self.router.pending() <= LIMITS.pending);
        assert!(self.router.serving() <= LIMITS.serving);
        let next = self.due.values().min().map(|due| self.at(*due));
        assert_eq!(self.router.next_deadline(), next);
        assert!(self.outcomes.iter().all(|count| *count <= 1));
        assert!(self.served.values().all(|(_, count)| *count <= 1));
    }

    /// Ends all that is open and checks that each request has had exactly one outcome. Returns the
    /// number of requests of this session.
    fn finish(mut self) -> usize {
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

#[test]
fn every_event_order_gives_one_outcome() {
    // A response may race a deadline, a cancellation its handler, and an id may come back while its
    // first use is open. These are all orders of five events.
    const OPS: &[RouterEvent] = &[
        RouterEvent::Open(2),
        RouterEvent::Open(0),
        RouterEvent::Respond(1),
        RouterEvent::Respond(2),
        RouterEvent::Withdraw(1),
        RouterEvent::Tick(2),
        RouterEvent::OpenRenewed(2, 3),
        RouterEvent::Progress(1),
        RouterEvent::Ask(1, 4),
        RouterEvent::Cancel(1),
        RouterEvent::Finish(0),
        RouterEvent::EndOurs,
        RouterEvent::EndTheirs,
    ];
    const LENGTH: u32 = 5;
    let mut runs = 0_u32;
    for mut number in 0..OPS.len().pow(LENGTH) {
        let mut model = Model::new();
        for _ in 0..LENGTH {
            model.apply(OPS[number % OPS.len()]);
            number /= OPS.len();
        }
        model.finish();
        runs += 1;
    }
    assert_eq!(runs, 371_293);
}

fn any_op() -> impl Strategy<Value = RouterEvent> {
    prop_oneof![
        4 => (0_u8..5).prop_map(RouterEvent::Open),
        2 => (0_u8..5, 0_u8..9).prop_map(|(own, max)| RouterEvent::OpenRenewed(own, max)),
        3 => (0_u64..20).prop_map(RouterEvent::Progress),
        2 => (0_u64..20).prop_map(RouterEvent::Sent),
        4 => (0_u64..20).prop_map(RouterEvent::Respond),
        1 => Just(RouterEvent::Nonsense),
        2 => (0_u64..20).prop_map(RouterEvent::Withdraw),
        2 => (0_u8..4).prop_map(RouterEvent::Tick),
        4 => (0_u8..6, 0_u8..10).prop_map(|(id, len)| RouterEvent::Ask(id, len)),
        2 => (0_u8..6).prop_map(RouterEvent::Cancel),
        4 => (0_u64..20).prop_map(RouterEvent::Finish),
        1 => Just(RouterEvent::EndOurs),
        1 => Just(RouterEvent::EndTheirs),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(2000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Long sequences of events, for interactions that five events cannot reach.
    #[test]
    fn random_events_give_one_outcome(
        ops in prop::collection::vec(any_op(), 0..200)
    ) {
        let (count, mut model) = (ops.len(), Model::new());
        for op in ops {
            model.apply(op);
        }
        let requests = model.finish();
        prop_assert!(requests <= count, "{requests} outcomes of {count} events");
    }
}

#[test]
fn stray_responses_are_counted() {
    // The agent answers twice, after the deadline, and to a request that was never sent. Only the first
    // response completes a request.
    let mut model = Model::new();
    model.apply(RouterEvent::Open(1));
    model.apply(RouterEvent::Open(1));
    model.apply(RouterEvent::Respond(1));
    model.apply(RouterEvent::Respond(1));
    model.apply(RouterEvent::Tick(1));
    model.apply(RouterEvent::Respond(2));
    model.apply(RouterEvent::Respond(3));
    model.apply(RouterEvent::Nonsense);
    assert_eq!(
        model.router.strays(),
        StrayCounts { late: 2, unknown: 2, duplicate: 0, refused: 0 }
    );
    model.finish();
}

#[test]
fn progress_never_outlives_its_maximum() {
    // A server that reports progress without end would otherwise hold its request without end.
    let mut model = Model::new();
    model.apply(RouterEvent::OpenRenewed(2, 5));
    for reports in 0..4 {
        assert_eq!((model.router.pending(), reports), (1, reports));
        model.apply(RouterEvent::Tick(1));
        model.apply(RouterEvent::Progress(1));
    }
    model.apply(RouterEvent::Tick(1));
    assert_eq!(model.router.pending(), 0, "five ticks are the maximum");
    model.finish();
}

#[test]
fn cancel_by_value_means_one_request() {
    // An agent with the ids 1 and "1" means two requests. A third form of them means neither.
    let mut router = Router::<(), u8>::new(LIMITS);
    let now = Instant::now();
    for id in ["1", "\"1\""] {
        let asked = Incoming::Request { id: WireId(id.into()), method: "m".into(), body: body(1) };
        assert!(matches!(router.route(asked, now), RouterAction::Serve(_)));
    }
    let mut cancel = |id: &str| match router.route(Incoming::Cancel { id: WireId(id.into()) }, now)
    {
        RouterAction::Cancel { id, .. } => Some(id.0.to_string()),
        _ => None,
    };
    assert_eq!(cancel("1.0"), None);
    assert_eq!(cancel("\"1\"").as_deref(), Some("\"1\""));
    assert_eq!(cancel("1.0").as_deref(), Some("1"));
}

#[test]
fn agent_may_reuse_an_answered_id() {
    // An agent may count its ids from 1 in each turn. A late handler of the first use must not answer
    // the second.
    let mut model = Model::new();
    model.apply(RouterEvent::Ask(1, 1));
    model.apply(RouterEvent::Ask(1, 1));
    assert_eq!(model.router.strays().duplicate, 1);
    model.apply(RouterEvent::Cancel(1));
    model.apply(RouterEvent::Ask(1, 1));
    assert!(!model.router.finish(0), "the first was cancelled");
    assert!(model.router.finish(1), "the second is open");
    assert_eq!(model.router.serving(), 0);
}

#[test]
fn one_request_may_exceed_the_byte_limit() {
    // The limit must hold against many requests, and must not refuse a single large one.
    let mut model = Model::new();
    model.apply(RouterEvent::Ask(1, 9));
    assert_eq!(model.router.serving(), 1);
    model.apply(RouterEvent::Ask(2, 1));
    assert_eq!((model.router.serving(), model.router.strays().refused), (1, 1));
    model.apply(RouterEvent::Finish(0));
    model.apply(RouterEvent::Ask(2, 8));
    model.apply(RouterEvent::Ask(3, 1));
    assert_eq!((model.router.serving(), model.router.strays().refused), (1, 2));
    model.finish();
}
