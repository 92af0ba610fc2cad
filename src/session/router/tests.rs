//! The router against a model that only counts outcomes: every order of a few events, and long random
//! sequences.

use std::time::Instant;

use proptest::prelude::*;

use super::fuzz::{LIMITS, Model, RouterEvent, body};
use super::*;

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
