//! The router against a model that only counts: every order of a few events, and long random runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// What may happen to a session. Ids and moments are small numbers, so that they meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// A request of ours, due after so many ticks; 0: never.
    Open(u8),
    Sent(u64),
    /// The agent answers an id, one of ours or not.
    Reply(u64),
    /// The agent answers something that is no id at all.
    Nonsense,
    Withdraw(u64),
    Tick(u8),
    /// The agent asks, with an id of its own and a body of so many bytes.
    Ask(u8, u8),
    /// The agent withdraws.
    Cancel(u8),
    /// The handler of the nth request is done.
    Finish(u64),
    EndOurs,
    EndTheirs,
}

const LIMITS: RouterLimits = RouterLimits { pending: 3, serving: 3, serving_bytes: 8 };

/// The router, and what it must have done.
struct Bench {
    router: Router<usize, u8>,
    start: Instant,
    ticks: u64,
    /// By slot: how many outcomes it has had.
    outcomes: Vec<u32>,
    /// Our id of each slot.
    ids: BTreeMap<u64, usize>,
    due: BTreeMap<u64, u64>,
    /// By key: started, and how often it was over.
    jobs: BTreeMap<u64, (WireId, u32)>,
    open_jobs: BTreeMap<String, u64>,
}

fn wire(id: u8) -> WireId {
    WireId(format!("\"{id}\"").into())
}

fn body(len: u8) -> Record {
    Record::from(vec![b'1'; usize::from(len)])
}

impl Bench {
    fn new() -> Self {
        Self {
            router: Router::new(LIMITS),
            start: Instant::now(),
            ticks: 0,
            outcomes: Vec::new(),
            ids: BTreeMap::new(),
            due: BTreeMap::new(),
            jobs: BTreeMap::new(),
            open_jobs: BTreeMap::new(),
        }
    }

    fn at(&self, ticks: u64) -> Instant {
        self.start + Duration::from_millis(ticks)
    }

    fn over(&mut self, slot: usize) {
        self.outcomes[slot] += 1;
        let id = *self.ids.iter().find(|(_, known)| **known == slot).expect("an id of ours").0;
        self.ids.remove(&id);
        self.due.remove(&id);
    }

    fn job_over(&mut self, key: u64) {
        let job = self.jobs.get_mut(&key).expect("a job that was given");
        job.1 += 1;
        let id = job.0.0.to_string();
        assert_eq!(self.open_jobs.remove(&id), Some(key));
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Open(ticks) => self.open(ticks),
            Op::Sent(id) => self.router.sent(id),
            Op::Reply(id) => self.reply(Some(id)),
            Op::Nonsense => self.reply(None),
            Op::Withdraw(id) => {
                let was_open = self.ids.contains_key(&id);
                let given = self.router.withdraw(id);
                assert_eq!(given.is_some(), was_open);
                if let Some(pending) = given {
                    self.over(pending.slot);
                }
            }
            Op::Tick(ticks) => self.tick(ticks),
            Op::Ask(id, len) => self.ask(id, len),
            Op::Cancel(id) => self.cancel(id),
            Op::Finish(key) => {
                let was_open = self.open_jobs.values().any(|open| *open == key);
                assert_eq!(self.router.finish(key), was_open, "finish {key}");
                if was_open {
                    self.job_over(key);
                }
            }
            Op::EndOurs => {
                for (_, pending) in self.router.take_pending() {
                    self.over(pending.slot);
                }
                assert!(self.ids.is_empty());
            }
            Op::EndTheirs => {
                let tokens = self.router.take_serving();
                assert_eq!(tokens.len(), self.open_jobs.len());
                let keys: Vec<u64> = self.open_jobs.values().copied().collect();
                keys.into_iter().for_each(|key| self.job_over(key));
            }
        }
        self.check();
    }

    fn open(&mut self, ticks: u8) {
        let slot = self.outcomes.len();
        let due = (ticks > 0).then(|| self.ticks + u64::from(ticks));
        let has_room = self.ids.len() < LIMITS.pending;
        let given = self.router.open("m", slot, due.map(|due| self.at(due)));
        assert_eq!(given.is_some(), has_room);
        if let Some(id) = given {
            self.outcomes.push(0);
            assert!(self.ids.insert(id, slot).is_none(), "an id is used once");
            self.due.extend(due.map(|due| (id, due)));
        }
    }

    fn reply(&mut self, id: Option<u64>) {
        let before = self.router.strays();
        let outcome = Ok(body(1));
        match self.router.route(Incoming::Reply { id, outcome }) {
            Action::Settle(pending, Ok(_)) => {
                assert_eq!(self.ids.get(&id.expect("an id")), Some(&pending.slot));
                self.over(pending.slot);
            }
            Action::Nothing => {
                assert!(id.is_none_or(|id| !self.ids.contains_key(&id)));
                let after = self.router.strays();
                let strays = |strays: Strays| strays.late + strays.unknown;
                assert_eq!(strays(after), strays(before) + 1, "it is counted");
            }
            other => panic!("{other:?}"),
        }
    }

    fn tick(&mut self, ticks: u8) {
        self.ticks += u64::from(ticks);
        let now = self.at(self.ticks);
        while let Some((id, pending)) = self.router.expire(now) {
            assert!(self.due[&id] <= self.ticks, "not before its time");
            self.over(pending.slot);
        }
        assert!(self.due.values().all(|due| *due > self.ticks), "nothing is overdue");
    }

    fn ask(&mut self, id: u8, len: u8) {
        let is_open = self.open_jobs.contains_key(&*wire(id).0);
        match self.router.route(Incoming::Request {
            id: wire(id),
            method: "m".into(),
            body: body(len),
        }) {
            Action::Serve(job) => {
                assert!(!is_open, "an id that is open is not served twice");
                assert_eq!(job.id, wire(id));
                assert!(self.jobs.insert(job.key, (job.id, 0)).is_none(), "a key is used once");
                self.open_jobs.insert(wire(id).0.into(), job.key);
            }
            Action::Busy(refused) => assert_eq!((refused, is_open), (wire(id), false)),
            Action::Nothing => assert!(is_open),
            other => panic!("{other:?}"),
        }
    }

    fn cancel(&mut self, id: u8) {
        let open = self.open_jobs.get(&*wire(id).0).copied();
        match self.router.route(Incoming::Cancel { id: wire(id) }) {
            Action::Stop { key, .. } => {
                assert_eq!(Some(key), open);
                self.job_over(key);
            }
            Action::Nothing => assert_eq!(open, None),
            other => panic!("{other:?}"),
        }
    }

    fn check(&self) {
        assert_eq!(self.router.pending(), self.ids.len());
        assert_eq!(self.router.serving(), self.open_jobs.len());
        assert!(self.router.pending() <= LIMITS.pending);
        assert!(self.router.serving() <= LIMITS.serving);
        let next = self.due.values().min().map(|due| self.at(*due));
        assert_eq!(self.router.next_deadline(), next);
        assert!(self.outcomes.iter().all(|count| *count <= 1));
        assert!(self.jobs.values().all(|(_, count)| *count <= 1));
    }

    /// Whatever is still open ends now, and everything has had exactly one outcome.
    /// How many requests of ours there were; each has had its one outcome.
    fn finish(mut self) -> usize {
        self.apply(Op::EndOurs);
        self.apply(Op::EndTheirs);
        assert!(self.outcomes.iter().all(|count| *count == 1), "{:?}", self.outcomes);
        assert!(self.jobs.values().all(|(_, count)| *count == 1), "{:?}", self.jobs);
        let left = (self.router.pending(), self.router.serving(), self.router.serving_bytes);
        assert_eq!(left, (0, 0, 0));
        assert!(self.router.deadlines.is_empty() && self.router.ids.is_empty());
        self.outcomes.len()
    }
}

#[test]
fn every_order_of_events_gives_each_request_one_outcome() {
    // The story: an answer races a deadline, a cancel races the handler, an id comes back while
    // its first use is open. All orders of five events out of these.
    const OPS: &[Op] = &[
        Op::Open(2),
        Op::Open(0),
        Op::Reply(1),
        Op::Reply(2),
        Op::Withdraw(1),
        Op::Tick(2),
        Op::Ask(1, 4),
        Op::Cancel(1),
        Op::Finish(0),
        Op::EndOurs,
        Op::EndTheirs,
    ];
    const LENGTH: u32 = 5;
    let mut runs = 0_u32;
    for mut number in 0..OPS.len().pow(LENGTH) {
        let mut bench = Bench::new();
        for _ in 0..LENGTH {
            bench.apply(OPS[number % OPS.len()]);
            number /= OPS.len();
        }
        bench.finish();
        runs += 1;
    }
    assert_eq!(runs, 161_051);
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u8..5).prop_map(Op::Open),
        2 => (0_u64..20).prop_map(Op::Sent),
        4 => (0_u64..20).prop_map(Op::Reply),
        1 => Just(Op::Nonsense),
        2 => (0_u64..20).prop_map(Op::Withdraw),
        2 => (0_u8..4).prop_map(Op::Tick),
        4 => (0_u8..6, 0_u8..10).prop_map(|(id, len)| Op::Ask(id, len)),
        2 => (0_u8..6).prop_map(Op::Cancel),
        4 => (0_u64..20).prop_map(Op::Finish),
        1 => Just(Op::EndOurs),
        1 => Just(Op::EndTheirs),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(2000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Long random lives; a failure prints the shortest one that fails.
    #[test]
    fn random_events_give_each_request_one_outcome(
        ops in prop::collection::vec(any_op(), 0..200)
    ) {
        let (count, mut bench) = (ops.len(), Bench::new());
        for op in ops {
            bench.apply(op);
        }
        let requests = bench.finish();
        prop_assert!(requests <= count, "{requests} outcomes of {count} events");
    }
}

#[test]
fn a_late_a_repeated_and_an_invented_answer_are_told_apart_from_the_first() {
    // The story: the agent answers twice, answers after the deadline, and answers what nobody
    // asked. Only the first answer counts; the others are counted.
    let mut bench = Bench::new();
    bench.apply(Op::Open(1));
    bench.apply(Op::Open(1));
    bench.apply(Op::Reply(1));
    bench.apply(Op::Reply(1));
    bench.apply(Op::Tick(1));
    bench.apply(Op::Reply(2));
    bench.apply(Op::Reply(3));
    bench.apply(Op::Nonsense);
    assert_eq!(bench.router.strays(), Strays { late: 2, unknown: 2, duplicate: 0, refused: 0 });
    bench.finish();
}

#[test]
fn an_id_of_the_agent_is_free_again_once_it_is_answered() {
    // The story: an agent counts its ids from 1 in each turn. The handler of the first use, done
    // late, must not answer the second.
    let mut bench = Bench::new();
    bench.apply(Op::Ask(1, 1));
    bench.apply(Op::Ask(1, 1));
    assert_eq!(bench.router.strays().duplicate, 1);
    bench.apply(Op::Cancel(1));
    bench.apply(Op::Ask(1, 1));
    assert!(!bench.router.finish(0), "the first was withdrawn");
    assert!(bench.router.finish(1), "the second is open");
    assert_eq!(bench.router.serving(), 0);
}

#[test]
fn one_large_request_is_taken_and_a_second_is_not() {
    // The story: a limit in bytes must not refuse a single request that is larger than all of it,
    // and must hold against many.
    let mut bench = Bench::new();
    bench.apply(Op::Ask(1, 9));
    assert_eq!(bench.router.serving(), 1);
    bench.apply(Op::Ask(2, 1));
    assert_eq!((bench.router.serving(), bench.router.strays().refused), (1, 1));
    bench.apply(Op::Finish(0));
    bench.apply(Op::Ask(2, 8));
    bench.apply(Op::Ask(3, 1));
    assert_eq!((bench.router.serving(), bench.router.strays().refused), (1, 2));
    bench.finish();
}
